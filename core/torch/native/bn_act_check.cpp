// Compares the kernels of bn_act.cu.inc with libtorch's operators on the GPU that is there: numbers in f64, and time.

#include "bn_act.h"
#include "native.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>

namespace {

using Step = at::Tensor (*)(const yolo::BnAct &);

// What a step computes: y, gradients of x, weight and bias, running mean and variance.
constexpr size_t RESULTS = 6;
using Results = std::array<at::Tensor, RESULTS>;

struct Input {
    at::Tensor x, weight, bias, running_mean, running_var, dy;
};

// Channels far from zero, as sums of squares would not bear.
Input input(at::IntArrayRef shape, at::ScalarType kind, c10::Device device) {
    const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
    const int64_t channels = shape[1];
    Input in;
    const auto offset = at::randn({1, channels, 1, 1}, floats) * 5.0;
    in.x = (at::randn(shape, floats) * 1.5 + offset).to(kind).contiguous(at::MemoryFormat::ChannelsLast);
    in.weight = at::rand({channels}, floats) + 0.5;
    in.bias = at::randn({channels}, floats);
    in.running_mean = at::randn({channels}, floats);
    in.running_var = at::rand({channels}, floats) + 0.5;
    in.dy = at::randn(shape, floats).to(kind);
    return in;
}

Results results(const Input &in, Step step, at::ScalarType map_kind, at::ScalarType stats_kind) {
    const c10::AutoGradMode with_gradients(true);
    yolo::BnAct call;
    call.x = in.x.detach().to(map_kind).requires_grad_();
    // Copies, since the step changes the running statistics in place.
    call.weight = in.weight.to(stats_kind, false, true).requires_grad_();
    call.bias = in.bias.to(stats_kind, false, true).requires_grad_();
    call.running_mean = in.running_mean.to(stats_kind, false, true);
    call.running_var = in.running_var.to(stats_kind, false, true);
    call.momentum = 0.03;
    call.eps = 1e-3;
    call.act = yolo::Act::Silu;
    const auto y = step(call);
    const auto grads = torch::autograd::grad({y}, {call.x, call.weight, call.bias}, {in.dy.to(map_kind)});
    return {y.detach(), grads[0], grads[1], grads[2], call.running_mean, call.running_var};
}

// Largest difference over the largest value; not-a-number where any is.
double error(const at::Tensor &got, const at::Tensor &wanted) {
    const auto reference = wanted.to(at::kDouble);
    return ((got.to(at::kDouble) - reference).abs().max() / reference.abs().max()).item<double>();
}

// Milliseconds of one call, in the middle of many.
template <typename Body> double time(c10::Device device, Body body) {
    constexpr int WARM = 5;
    constexpr int CALLS = 20;
    const c10::impl::VirtualGuardImpl guard(device.type());
    for (int i = 0; i < WARM; ++i) {
        body();
    }
    c10::Event begin(device.type(), c10::EventFlag::BACKEND_DEFAULT);
    c10::Event end(device.type(), c10::EventFlag::BACKEND_DEFAULT);
    begin.record(guard.getStream(device));
    for (int i = 0; i < CALLS; ++i) {
        body();
    }
    end.record(guard.getStream(device));
    end.synchronize();
    return begin.elapsedTime(end) / CALLS;
}

std::array<double, 2> times(const Input &in, Step step, c10::Device device) {
    yolo::BnAct call;
    call.x = in.x.detach().requires_grad_();
    call.weight = in.weight.detach().clone().requires_grad_();
    call.bias = in.bias.detach().clone().requires_grad_();
    call.running_mean = in.running_mean.clone();
    call.running_var = in.running_var.clone();
    call.momentum = 0.03;
    call.eps = 1e-3;
    call.act = yolo::Act::Silu;
    const auto dy = in.dy.contiguous(at::MemoryFormat::ChannelsLast);
    const c10::AutoGradMode with_gradients(true);
    const double both = time(device, [&] { torch::autograd::grad({step(call)}, {call.x, call.weight, call.bias}, {dy}); });
    const double forward = time(device, [&] {
        const at::NoGradGuard no_gradients;
        step(call);
    });
    return {both, forward};
}

} // namespace

extern "C" {

// One case on a CUDA device, SiLU, `shape` [N, C, H, W], `kind` as ScalarType. `errors`: of y, dx, dw, db, running mean and variance,
// as the largest difference over the largest value. `milliseconds`: forward and backward fused, forward alone, and the same two of
// libtorch's operators. `repeatable`: 1 where a second run gives the same bits.
char *yolo_bn_act_check(int device, const int64_t *shape, int kind, double *errors, double *milliseconds, int *repeatable) {
    YOLO_GUARD({
        const c10::Device where = yolo::device(device);
        const c10::DeviceGuard guard(where);
        const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
        const auto type = static_cast<at::ScalarType>(kind);
        const Input in = input(at::IntArrayRef(shape, 4), type, where);
        yolo::BnAct call;
        call.x = in.x;
        call.weight = in.weight;
        call.bias = in.bias;
        call.running_mean = in.running_mean;
        call.running_var = in.running_var;
        call.act = yolo::Act::Silu;
        const std::string obstacle = yolo::bn_act_obstacle(call);
        TORCH_CHECK(obstacle.empty(), obstacle);
        const Results got = results(in, yolo::bn_act_fused, type, at::kFloat);
        const Results again = results(in, yolo::bn_act_fused, type, at::kFloat);
        const Results wanted = results(in, yolo::bn_act_composed, at::kDouble, at::kDouble);
        *repeatable = 1;
        for (size_t i = 0; i < RESULTS; ++i) {
            errors[i] = error(got[i], wanted[i]);
            *repeatable = *repeatable && got[i].equal(again[i]);
        }
        const auto fused = times(in, yolo::bn_act_fused, where);
        const auto composed = times(in, yolo::bn_act_composed, where);
        milliseconds[0] = fused[0];
        milliseconds[1] = fused[1];
        milliseconds[2] = composed[0];
        milliseconds[3] = composed[1];
    })
}

} // extern "C"
