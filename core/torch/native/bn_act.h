// Batch norm with the batch's statistics and the activation after it, in one differentiable step.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace yolo {

// As in bn_act.cu.inc.
enum class Act : int64_t { None = 0, Silu = 1, Relu = 2, Hardswish = 3 };

struct BnAct {
    // x: [N, C, H, W]; the others [C], f32. The running statistics are updated in place.
    at::Tensor x, weight, bias, running_mean, running_var;
    double momentum = 0.0, eps = 0.0;
    Act act = Act::None;
};

// Why the kernels can't be used for this: empty where they can.
std::string bn_act_obstacle(const BnAct &in);
// The same for any map in channels-last on a CUDA device.
std::string bn_act_obstacle(int device);

// By the kernels, which must not have an obstacle.
at::Tensor bn_act_fused(const BnAct &in);
// By libtorch's own operators, on any device.
at::Tensor bn_act_composed(const BnAct &in);

// Compiles the kernels in all their kinds for a compute capability; returns what the compiler says. Needs no GPU.
std::string bn_act_compile(int capability);

} // namespace yolo
