/* The C types that `yolo` and a plugin in a shared library share. MIT OR Apache-2.0.
 *
 * A library exports one symbol: `const YoloPluginV1 yolo_plugin_v1_CRATE`, CRATE being the name of the library without `lib` and
 * `.so`. Build it with: cc -shared -fPIC -I<folder of this file> my_metric.c -o libmy_metric.so
 *
 * Rules
 *  1. Only C data, UTF-8 text and tensor handles cross. Structures (options, graphs, plans) cross as JSON.
 *  2. No text changes its owner: what you return you write into a YoloText or YoloFloats of the caller during the call; what you
 *     get as YoloStr you copy if you want to keep it.
 *  3. A tensor is an at::Tensor*. Inputs are borrowed for the call. Outputs belong to the receiver.
 *  4. Every function returns a status. Where it is not YOLO_OK, write one sentence to `error`.
 *  5. A component may be used from several threads at once.
 *  6. Libraries are never unloaded.
 *  7. Structs grow at their end only and carry their size: fields after `struct_size` bytes do not exist.
 */
#ifndef YOLO_PLUGIN_H
#define YOLO_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YOLO_MAGIC 0x4F4C4F59u /* "YOLO" in memory */
#define YOLO_ABI_MAJOR 1
#define YOLO_ABI_MINOR 2
#define YOLO_MAX_RANK 8

/* Makes the table visible where everything else is hidden. */
#if defined(_WIN32)
#define YOLO_EXPORT __declspec(dllexport)
#else
#define YOLO_EXPORT __attribute__((visibility("default")))
#endif

/* What functions return. */
enum {
  YOLO_OK = 0,
  YOLO_OPTIONS = 1,     /* the options make no sense */
  YOLO_TORCH = 2,       /* libtorch reported an error */
  YOLO_PANIC = 3,       /* the code panicked */
  YOLO_CANCELLED = 4,   /* the user asked to stop */
  YOLO_UNSUPPORTED = 5, /* the component does not offer this */
  YOLO_FAILED = 6,      /* anything else */
  YOLO_HOST = 7,        /* a function of the host failed; pass it on */
  YOLO_IMPOSSIBLE = 8   /* the budget can't be met */
};

/* What a metric asks for. */
enum {
  YOLO_NEEDS_WEIGHT = 1,
  YOLO_NEEDS_BN = 2,
  YOLO_NEEDS_GRAD = 4,
  YOLO_NEEDS_GRAD_SQUARE = 8, /* since minor version 2 */
  YOLO_NEEDS_ACTIVATION = 16  /* since minor version 2 */
};

/* Borrowed UTF-8 text, without a zero at its end. */
typedef struct {
  const uint8_t *ptr;
  size_t len;
} YoloStr;

/* A literal as YoloStr: YOLO_STR("text"). */
#define YOLO_STR(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}

/* Where text goes: `write` appends to it, any number of times during the call. */
typedef struct {
  void *cx;
  void (*write)(void *cx, YoloStr piece);
} YoloText;

/* Where rows of numbers go: `put` hands over one row, which is copied. */
typedef struct {
  void *cx;
  void (*put)(void *cx, const float *values, size_t len);
} YoloFloats;

typedef void *YoloTensor; /* at::Tensor* */
typedef void *YoloSelf;   /* a component that `create` made */

typedef struct {
  void *data;          /* first element; null unless the tensor is on the CPU */
  int32_t dtype;       /* PyTorch's numbers: 0 u8, 1 i8, 2 i16, 3 i32, 4 i64, 5 f16, 6 f32, 7 f64, 11 bool, 15 bf16 */
  int32_t device;      /* -1 for the CPU, else the number of the GPU */
  uint32_t rank;       /* number of dimensions */
  uint32_t contiguous; /* whether elements lie one after the other, last axis fastest */
  int64_t sizes[YOLO_MAX_RANK];
  int64_t strides[YOLO_MAX_RANK];
} YoloTensorInfo;

/* What the host offers to every component. One per process; lives for ever. */
typedef struct {
  uint32_t struct_size;
  uint16_t abi_major, abi_minor;
  YoloStr yolo;     /* version of yolo */
  YoloStr libtorch; /* version of its libtorch */
  void (*log)(int32_t level, YoloStr text); /* 0 is a warning, 1 a remark, 2 a detail */
  int32_t (*tensor_info)(YoloTensor tensor, YoloTensorInfo *out, YoloText error);
  int32_t (*tensor_f32)(YoloTensor tensor, YoloTensor *out, YoloText error); /* contiguous, f32, on the CPU; owned by you */
  int32_t (*tensor_new)(const float *values, const int64_t *sizes, size_t rank, YoloTensor *out, YoloText error);
  int32_t (*tensor_grad)(YoloTensor tensor, YoloTensor *out, YoloText error); /* null where there is none */
  void (*tensor_free)(YoloTensor tensor);
} YoloHost;

typedef struct {
  YoloStr key;
  YoloTensor tensor;
} YoloNamedTensor;

/* A function that takes JSON and writes JSON. */
typedef int32_t (*YoloJsonFn)(YoloSelf self, YoloStr request, YoloText reply, YoloText error);

/* Backbones. Request: {"inputs": [{"channels": 3, "stride": 1}], "scale": {"depth": 1.0, "width": 1.0}}. Reply, a fragment:
 * {"nodes": [{"name": "stem", "op": {"op": "conv2d", ...}, "inputs": [0]}, ...], "outputs": [3, 6, 9]}. Values 0.. are the
 * inputs, the nodes' values follow in order. Outputs are maps, finest stride first. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloJsonFn build;
} YoloBackboneVt;

/* Neck blocks. `describe`: {"layer": "C3", "arity": [1, 1]}. `build`, request: {"inputs": [...], "channels": 64, "repeats": 1,
 * "shortcut": false}; reply: a fragment with one output. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloJsonFn describe;
  YoloJsonFn build;
} YoloNeckBlockVt;

/* Custom ops. `describe`: {"label": "gain", "params": [{"key": "weight", "shape": [64], "role": "weight", "init":
 * {"const": 1.0}}]}. `shape`, request: {"inputs": [[1, 64, 32, 32]]}; reply: {"shape": [1, 64, 32, 32], "macs": 65536}.
 * `lower` (may be null): a fragment of primitive ops that computes the same. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloJsonFn describe;
  YoloJsonFn shape;
  YoloJsonFn lower;
  int32_t (*forward)(YoloSelf self, const YoloTensor *inputs, size_t input_count, const YoloTensor *params, size_t param_count,
                     int32_t train, YoloTensor *out, YoloText error);
} YoloOpVt;

/* The tensors of one group of channels, one row per channel, on the CPU and in f32. Borrowed for the call. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloStr name;
  uint64_t index, count; /* position among the groups, and their number */
  uint64_t channels;
  const YoloTensor *weights; /* [channels, elements] each */
  size_t weight_count;
  const YoloTensor *weight_grads;
  size_t weight_grad_count;
  const YoloTensor *gammas; /* [channels] each */
  size_t gamma_count;
  const YoloTensor *betas;
  size_t beta_count;
  const YoloTensor *gamma_grads;
  size_t gamma_grad_count;
  /* Since minor version 2. */
  const YoloTensor *weight_squares; /* mean squared gradients of `weights` */
  size_t weight_square_count;
  const YoloTensor *gamma_squares;
  size_t gamma_square_count;
  const YoloTensor *activations; /* mean absolute values, [channels] each */
  size_t activation_count;
} YoloGroup;

/* Metrics: `score` puts one row, a finite number per channel; the lowest go first. */
typedef struct {
  uint32_t struct_size, reserved;
  int32_t (*needs)(YoloSelf self, uint32_t *out, YoloText error);
  int32_t (*score)(YoloSelf self, const YoloGroup *group, YoloFloats scores, YoloText error);
} YoloMetricVt;

/* A training model at one step. Borrowed for the call. */
typedef struct {
  uint32_t struct_size, reserved;
  uint64_t step, total, per_epoch;
  uint64_t generation; /* another number means other groups */
  const YoloNamedTensor *tensors;
  size_t tensor_count;
  void *cx;
  int32_t (*groups)(void *cx, YoloText reply);
} YoloTrainState;

/* Things that act on gradients and weights while a model trains. */
typedef struct {
  uint32_t struct_size, reserved;
  int32_t (*before_step)(YoloSelf regulariser, const YoloTrainState *state, YoloText error);
  int32_t (*after_step)(YoloSelf regulariser, const YoloTrainState *state, YoloText error);
  void (*destroy)(YoloSelf regulariser);
} YoloRegulariserVt;

typedef struct {
  double map50, map;
} YoloEvaluation;

/* What a pruner may ask of the host while it plans. Every function takes `cx` first. */
typedef struct {
  uint32_t struct_size, reserved;
  void *cx;
  /* {"groups": [{"name", "cuts": [...], "channels": [...]}], "cost": {...}, "budget": {"flops", "params"}, "rounding":
   * {"multiple", "max_ratio"}, "seed": N} */
  int32_t (*describe)(void *cx, YoloText reply, YoloText error);
  int32_t (*cost)(void *cx, const uint64_t *widths, size_t len, int64_t *macs, int64_t *params, YoloText error);
  /* One row per group: by a metric of yours, or, where `vt` is null, by the metric that the host finds for {"type": "l1"}. */
  int32_t (*scores)(void *cx, YoloStr named, const YoloMetricVt *vt, YoloSelf component, YoloFloats rows, YoloText error);
  int32_t (*tensor)(void *cx, YoloStr key, YoloTensor *out, YoloText error); /* owned by you */
  int32_t (*evaluate)(void *cx, YoloStr plan, uint64_t steps, YoloEvaluation *out, YoloText error);
  int32_t (*train)(void *cx, uint64_t epochs, const YoloRegulariserVt *vt, YoloSelf regulariser, YoloText error);
  int32_t (*progress)(void *cx, uint64_t done, uint64_t total, YoloStr note, YoloText error);
} YoloPruneHost;

/* Pruners. `plan` writes {"keep": {GROUP: [POSITION, ...]}}; groups that are not named keep all. */
typedef struct {
  uint32_t struct_size, reserved;
  int32_t (*plan)(YoloSelf self, const YoloPruneHost *host, YoloText reply, YoloText error);
  int32_t (*regulariser)(YoloSelf self, YoloSelf *out, YoloText error); /* leaves `out` alone where there is none */
  const YoloRegulariserVt *regulariser_vt;
} YoloPrunerVt;

/* Quantizers. `describe`: {"weight": {...}, "activation": {...}, "placement": {...}, "linear": false}. `quantizes` (may be null),
 * request: a node; reply: true or false. `artifacts` (may be null), request: {"model": NAME, "ranges": {...}}; reply: [{"name":
 * FILE, "text": CONTENT}]. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloJsonFn describe;
  YoloJsonFn quantizes;
  YoloJsonFn artifacts;
} YoloQuantizerVt;

/* A batch as a student and its teacher see it. Lists have one tensor per level, or are null where the distiller did not ask for them;
 * all are f32. Gradients are wanted for the student's maps and for the adapters. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloStr layouts; /* the request of `adapters` */
  size_t levels;
  const YoloTensor *student_raw, *student_neck; /* [N, A * (5 + classes), h, w]; [N, channels, h, w] */
  const YoloTensor *teacher_raw, *teacher_neck;
  const YoloTensor *head_weights, *head_biases; /* of the teacher: [A * (5 + classes), channels, 1, 1]; [A * (5 + classes)] */
  const YoloNamedTensor *adapters;
  size_t adapter_count;
} YoloDistilBatch;

/* Distillers. `describe`: {"needs": {"raw": true, "neck": false, "head": false}, "parts": ["box", ...]}. `adapters` (may be null),
 * request: {"student": LAYOUT, "teacher": LAYOUT} with {"classes", "levels": [{"stride", "channels", "anchors"}]}; reply: tensors to train
 * besides the student, as in `describe` of ops. `loss` gives the parts as one owned tensor [parts], recorded by autograd. */
typedef struct {
  uint32_t struct_size, reserved;
  YoloJsonFn describe;
  YoloJsonFn adapters;
  int32_t (*loss)(YoloSelf self, const YoloDistilBatch *batch, YoloTensor *out, YoloText error);
} YoloDistillerVt;

/* The table of a library. */
typedef struct {
  uint32_t magic; /* YOLO_MAGIC */
  uint16_t abi_major, abi_minor;
  uint32_t struct_size, reserved;
  YoloStr libtorch; /* the libtorch that you were built against; empty if you use none */
  YoloStr sdk;      /* for messages */
  YoloStr target;   /* for messages */
  /* A JSON list of {"kind", "name", "summary", "version", "license", "schema", "example", ...}. */
  int32_t (*describe)(YoloText reply, YoloText error);
  /* `kind` is backbone, neck-block, op, pruner, metric, quantizer or distiller; `options` a JSON object. `host` lives for ever. */
  int32_t (*create)(YoloStr kind, YoloStr name, YoloStr options, const YoloHost *host, YoloSelf *out, YoloText error);
  void (*destroy)(YoloStr kind, YoloSelf component);
  /* A pointer to the Vt of that kind, which lives for ever; null if you have none. */
  const void *(*vtable)(YoloStr kind);
} YoloPluginV1;

#ifdef __cplusplus
}
#endif

#endif
