// Batch norm in training and the activation after it as one function of autograd. On CUDA its kernels (bn_act.cu.inc) read a map twice
// forward and keep the input alone for the way back; libtorch's operators keep two maps and write one more each way. Where the kernels
// can't be had, those operators are used.

#include "bn_act.h"

#include "bn_act_plan.h"
#include "native.h"
#include "nvrtc.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <mutex>
#include <stdexcept>

namespace yolo {

namespace {

const char SOURCE[] =
#include "bn_act.cu.inc"
    ;

constexpr int64_t MAX_CHANNELS = 1 << 20;

// Blocks for each multiprocessor: as many as run together in a reduction, more where none waits for another.
constexpr int REDUCING = 4;
constexpr int MAPPING = 8;

// KIND of the kernels, or -1.
int kind_of(at::ScalarType type) {
    switch (type) {
    case at::kFloat:
        return 0;
    case at::kHalf:
        return 1;
    case at::kBFloat16:
        return 2;
    default:
        return -1;
    }
}

std::vector<std::string> options(int kind, Act act, int vec) {
    return {"-DKIND=" + std::to_string(kind), "-DACT=" + std::to_string(static_cast<int64_t>(act)), "-DVEC=" + std::to_string(vec)};
}

// Values that 16 bytes hold.
int widest(int kind) { return kind == 0 ? 4 : 8; }

// The kernels of one kind on one device, or why there are none.
struct Kernels {
    std::unique_ptr<nvrtc::Module> module;
    int processors = 0;
    std::string obstacle;
};

Kernels make(int device, int kind, Act act, int vec) {
    Kernels made;
    try {
        const nvrtc::Card card = nvrtc::card(device);
        made.processors = card.processors;
        made.module = std::make_unique<nvrtc::Module>(device, nvrtc::compile(SOURCE, card.capability, options(kind, act, vec)).image);
    } catch (const std::exception &error) {
        made.obstacle = error.what();
    }
    return made;
}

// Compiled when first asked for. Never freed: threads of autograd may outlive what the process destroys at its end.
const Kernels &kernels(int device, int kind, Act act, int vec) {
    using Key = std::array<int64_t, 4>;
    static auto *known = new std::map<Key, Kernels>;
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    const Key key{device, kind, static_cast<int64_t>(act), vec};
    auto found = known->find(key);
    if (found == known->end()) {
        const c10::DeviceGuard guard(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
        found = known->emplace(key, make(device, kind, act, vec)).first;
    }
    return found->second;
}

// 16 bytes at once where every row starts at a multiple of them.
int vector_of(int kind, int64_t channels, std::initializer_list<const at::Tensor *> maps) {
    const int vec = widest(kind);
    bool fits = channels % vec == 0;
    for (const auto *map : maps) {
        fits = fits && reinterpret_cast<uintptr_t>(map->const_data_ptr()) % 16 == 0;
    }
    return fits ? vec : 1;
}

// A launch of kernels over a map of [rows, channels].
class Work {
  public:
    Work(const at::Tensor &x, Act act, std::initializer_list<const at::Tensor *> maps)
        : rows_(x.numel() / x.size(1)), channels_(static_cast<int>(x.size(1))) {
        const int kind = kind_of(x.scalar_type());
        const int vec = vector_of(kind, channels_, maps);
        kernels_ = &kernels(x.device().index(), kind, act, vec);
        TORCH_CHECK(kernels_->module, "batch norm with activation: ", kernels_->obstacle);
        reducing_ = bn_plan(rows_, channels_, vec, int64_t{REDUCING} * kernels_->processors);
        mapping_ = bn_plan(rows_, channels_, vec, int64_t{MAPPING} * kernels_->processors);
    }

    int blocks() const { return reducing_.blocks; }

    // Pointers, then what the plan says: rows, channels, tx, ty.
    template <size_t N> void map(const char *kernel, std::array<const void *, N> pointers) { run(kernel, mapping_, pointers); }
    template <size_t N> void reduce(const char *kernel, std::array<const void *, N> pointers) { run(kernel, reducing_, pointers); }

    void finish(const char *kernel, void **arguments) {
        kernels_->module->launch(kernel, reducing_.groups, 1, BN_LANES * BN_GROUP, arguments);
    }

    int *channels() { return &channels_; }

  private:
    template <size_t N> void run(const char *kernel, BnPlan &plan, std::array<const void *, N> &pointers) {
        std::array<void *, N + 4> arguments;
        for (size_t i = 0; i < N; ++i) {
            arguments[i] = &pointers[i];
        }
        arguments[N] = &rows_;
        arguments[N + 1] = &channels_;
        arguments[N + 2] = &plan.tx;
        arguments[N + 3] = &plan.ty;
        kernels_->module->launch(kernel, plan.columns, plan.blocks, BN_THREADS, arguments.data());
    }

    long long rows_;
    int channels_;
    const Kernels *kernels_;
    BnPlan reducing_{}, mapping_{};
};

at::Tensor floats(std::initializer_list<int64_t> shape, const at::Tensor &like) {
    return at::empty(shape, like.options().dtype(at::kFloat).requires_grad(false));
}

at::Tensor forward(const BnAct &in, const at::Tensor &stats) {
    auto y = at::empty_like(in.x, in.x.options().requires_grad(false), at::MemoryFormat::ChannelsLast);
    Work work(in.x, in.act, {&in.x, &y});
    const auto partial = floats({work.blocks(), 3, *work.channels()}, in.x);
    const void *x = in.x.const_data_ptr();
    const void *weight = in.weight.const_data_ptr();
    const void *bias = in.bias.const_data_ptr();
    void *partials = partial.data_ptr();
    float *mean = stats.data_ptr<float>();
    float *invstd = mean + *work.channels();
    void *running_mean = in.running_mean.data_ptr();
    void *running_var = in.running_var.data_ptr();
    auto momentum = static_cast<float>(in.momentum);
    auto eps = static_cast<float>(in.eps);
    int blocks = work.blocks();
    work.reduce<2>("bn_stats", {x, partials});
    void *finish[] = {&partials, &blocks, &mean, &invstd, &running_mean, &running_var, &momentum, &eps, work.channels()};
    work.finish("bn_stats_finish", finish);
    in.running_mean.unsafeGetTensorImpl()->bump_version();
    in.running_var.unsafeGetTensorImpl()->bump_version();
    work.map<6>("bn_apply", {x, weight, bias, mean, invstd, y.mutable_data_ptr()});
    return y;
}

struct Gradients {
    at::Tensor x, weight, bias;
};

// Gradients of all three, that of x only where it is needed.
Gradients backward(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, const at::Tensor &stats, Act act,
                   const at::Tensor &grad, bool needs_x) {
    const auto dy = grad.to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    Gradients out;
    out.x = needs_x ? at::empty_like(x, x.options().requires_grad(false), at::MemoryFormat::ChannelsLast) : at::Tensor();
    out.weight = floats({x.size(1)}, x);
    out.bias = floats({x.size(1)}, x);
    Work work(x, act, {&x, &dy});
    const auto partial = floats({work.blocks(), 2, *work.channels()}, x);
    const float *mean = stats.const_data_ptr<float>();
    const float *invstd = mean + *work.channels();
    const void *xs = x.const_data_ptr();
    const void *dys = dy.const_data_ptr();
    const void *w = weight.const_data_ptr();
    const void *b = bias.const_data_ptr();
    void *partials = partial.data_ptr();
    void *weight_grad = out.weight.data_ptr();
    void *bias_grad = out.bias.data_ptr();
    int blocks = work.blocks();
    work.reduce<7>("bn_grad_sums", {xs, dys, w, b, mean, invstd, partials});
    void *finish[] = {&partials, &blocks, &weight_grad, &bias_grad, work.channels()};
    work.finish("bn_grad_finish", finish);
    if (needs_x) {
        work.map<9>("bn_grad_input", {xs, dys, w, b, mean, invstd, weight_grad, bias_grad, out.x.mutable_data_ptr()});
    }
    return out;
}

class Function : public torch::autograd::Function<Function> {
  public:
    using Context = torch::autograd::AutogradContext;
    using Variables = torch::autograd::variable_list;

    static at::Tensor forward(Context *context, const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias,
                              const at::Tensor &running_mean, const at::Tensor &running_var, double momentum, double eps, int64_t act) {
        const c10::DeviceGuard guard(x.device());
        const auto stats = floats({2, x.size(1)}, x);
        const BnAct in{x, weight, bias, running_mean, running_var, momentum, eps, static_cast<Act>(act)};
        auto y = yolo::forward(in, stats);
        context->save_for_backward({x, weight, bias, stats});
        context->saved_data["act"] = act;
        return y;
    }

    static Variables backward(Context *context, Variables grads) {
        TORCH_CHECK(!at::GradMode::is_enabled(), "batch norm with activation has no second derivative");
        Variables out(8);
        if (!grads[0].defined()) {
            return out;
        }
        const auto saved = context->get_saved_variables();
        const c10::DeviceGuard guard(saved[0].device());
        const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
        auto act = static_cast<Act>(context->saved_data["act"].toInt());
        auto made = yolo::backward(saved[0], saved[1], saved[2], saved[3], act, grads[0], context->needs_input_grad(0));
        out[0] = std::move(made.x);
        out[1] = std::move(made.weight);
        out[2] = std::move(made.bias);
        return out;
    }
};

bool is_vector(const at::Tensor &tensor, const at::Tensor &x) {
    return tensor.defined() && tensor.device() == x.device() && tensor.scalar_type() == at::kFloat && tensor.dim() == 1 &&
           tensor.size(0) == x.size(1) && tensor.is_contiguous();
}

} // namespace

std::string bn_act_obstacle(const BnAct &in) {
    const auto &x = in.x;
    if (!x.defined() || !x.is_cuda()) {
        return "the map is not on a CUDA device";
    }
    if (x.dim() != 4 || x.numel() == 0 || x.size(1) > MAX_CHANNELS || !x.is_contiguous(at::MemoryFormat::ChannelsLast)) {
        return "the map is not [N, C, H, W] in channels-last, or is empty";
    }
    if (kind_of(x.scalar_type()) < 0) {
        return "the map is neither f32, f16 nor bf16";
    }
    for (const auto *one : {&in.weight, &in.bias, &in.running_mean, &in.running_var}) {
        if (!is_vector(*one, x)) {
            return "weight, bias and running statistics must be [C], f32, on the map's device";
        }
    }
    const int kind = kind_of(x.scalar_type());
    return kernels(x.device().index(), kind, in.act, vector_of(kind, x.size(1), {&x})).obstacle;
}

std::string bn_act_obstacle(int device) {
    if (device < 0) {
        return "the device is not a CUDA device";
    }
    if (!at::globalContext().hasCUDA()) {
        return "libtorch finds no CUDA device";
    }
    return kernels(device, kind_of(at::kBFloat16), Act::Silu, widest(kind_of(at::kBFloat16))).obstacle;
}

at::Tensor bn_act_fused(const BnAct &in) {
    return Function::apply(in.x, in.weight, in.bias, in.running_mean, in.running_var, in.momentum, in.eps, static_cast<int64_t>(in.act));
}

at::Tensor bn_act_composed(const BnAct &in) {
    const bool cudnn = at::globalContext().userEnabledCuDNN();
    const auto z = at::batch_norm(in.x, in.weight, in.bias, in.running_mean, in.running_var, true, in.momentum, in.eps, cudnn);
    switch (in.act) {
    case Act::Silu:
        return at::silu(z);
    case Act::Relu:
        return at::relu(z);
    case Act::Hardswish:
        return at::hardswish(z);
    default:
        return z;
    }
}

std::string bn_act_compile(int capability) {
    std::string log;
    for (int kind = 0; kind < 3; ++kind) {
        for (Act act : {Act::None, Act::Silu, Act::Relu, Act::Hardswish}) {
            for (int vec : {1, widest(kind)}) {
                const auto flags = options(kind, act, vec);
                log += flags[0] + " " + flags[1] + " " + flags[2] + "\n";
                log += nvrtc::compile(SOURCE, capability, flags).log.c_str();
            }
        }
    }
    return log;
}

} // namespace yolo

extern "C" {

// The differentiable result in `out`: act((x - mean) / sqrt(var + eps) * weight + bias), of x's kind.
char *yolo_bn_act_train(yolo::Handle x, yolo::Handle weight, yolo::Handle bias, yolo::Handle running_mean, yolo::Handle running_var,
                        double momentum, double eps, int64_t act, yolo::Handle out) {
    YOLO_GUARD({
        TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(yolo::Act::Hardswish), "no activation has the number ", act);
        const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
        yolo::BnAct in;
        in.x = *x;
        in.weight = *weight;
        in.bias = *bias;
        in.running_mean = *running_mean;
        in.running_var = *running_var;
        in.momentum = momentum;
        in.eps = eps;
        in.act = static_cast<yolo::Act>(act);
        *out = yolo::bn_act_obstacle(in).empty() ? yolo::bn_act_fused(in) : yolo::bn_act_composed(in);
    })
}

// Why the kernels are not used on a device, for `free`; null where they are.
char *yolo_bn_act_available(int device, char **obstacle) {
    YOLO_GUARD({
        const std::string text = yolo::bn_act_obstacle(device);
        *obstacle = text.empty() ? nullptr : strdup(text.c_str());
    })
}

// Compiles all kernels for a compute capability (90 for 9.0), without a GPU; the compiler's words, for `free`.
char *yolo_bn_act_compile(int capability, char **log) {
    YOLO_GUARD({ *log = strdup(yolo::bn_act_compile(capability).c_str()); })
}

} // extern "C"
