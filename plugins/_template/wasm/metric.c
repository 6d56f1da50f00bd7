/* Template title: sum of the absolute weights of a channel, as a WebAssembly module for yolo. It imports nothing. Built by `make`. */
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))

/* One layer, as yolo lays it out. Pointers are null for what yolo_needs does not ask for. */
typedef struct {
  uint32_t size, channels, elements, index, count;
  uint32_t stride;     /* floats from one row to the next */
  const float *weight; /* `channels` rows of `elements` weights */
  const float *gamma, *beta, *mean, *variance, *grad, *activation;
  uint32_t params_count; /* options, in the order of their schema */
  const float *params;
} Layer;

/* An option `scale` would be layer->params[0]. It must be declared: in a file about.json, put into the module after each build by
   `yolo plugin describe template_crate.wasm about.json`:
   {"kind": "metric", "name": "template-name", "summary": "...",
    "schema": {"properties": {"scale": {"type": "number", "default": 1.0, "description": "Factor"}}}} */

/* Memory is handed out from the end of the program upwards. */
extern unsigned char __heap_base;
static uintptr_t top;

/* The version of this interface: 1.0. */
EXPORT("yolo_metric_abi") int32_t yolo_metric_abi(void) { return 1 << 16; }

/* What the metric looks at: 1 weights, 2 batch norm, 4 gradients; added up. */
EXPORT("yolo_needs") int32_t yolo_needs(void) { return 1; }

/* Memory for the layer; 0 where there is none. */
EXPORT("yolo_alloc") uint32_t yolo_alloc(uint32_t bytes, uint32_t align) {
  if (top == 0) top = (uintptr_t)&__heap_base;
  uintptr_t at = (top + align - 1) & ~(uintptr_t)(align - 1);
  uintptr_t end = at + bytes, have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
  if (end < at) return 0;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) >> 16) == (size_t)-1) return 0;
  top = end;
  return (uint32_t)at;
}

/* The metric itself. */
static float score_channel(const float *weights, uint32_t count) {
  float sum = 0;
  for (uint32_t i = 0; i < count; i++) sum += __builtin_fabsf(weights[i]);
  return sum;
}

/* Writes one finite score per channel; the lowest go first. 0 means that it worked. */
EXPORT("yolo_score") int32_t yolo_score(const Layer *layer, float *out) {
  for (uint32_t channel = 0; channel < layer->channels; channel++)
    out[channel] = score_channel(layer->weight + (size_t)channel * layer->stride, layer->elements);
  return 0;
}
