// The parts of a training step that torch-sys has no function for: mixed precision, fused optimizers, updates of many tensors at once.

#include "native.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <optional>

namespace {

std::optional<at::Tensor> optional(yolo::Handle handle) {
    return handle ? std::optional<at::Tensor>(*handle) : std::nullopt;
}

// Values, gradients and states of the parameters that have a gradient.
struct Trained {
    std::vector<at::Tensor> params, grads, first, second, steps;

    Trained(const yolo::Handle *p, const yolo::Handle *f, const yolo::Handle *s, const yolo::Handle *t, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            const at::Tensor &grad = p[i]->grad();
            if (!grad.defined()) {
                continue;
            }
            params.push_back(*p[i]);
            grads.push_back(grad);
            first.push_back(*f[i]);
            if (s) {
                second.push_back(*s[i]);
                steps.push_back(*t[i]);
            }
        }
    }
};

std::vector<at::Tensor> gradients(const yolo::Handle *params, size_t count) {
    std::vector<at::Tensor> grads;
    grads.reserve(count);
    for (size_t i = 0; i < count; ++i) {
        if (params[i]->grad().defined()) {
            grads.push_back(params[i]->grad());
        }
    }
    return grads;
}

} // namespace

extern "C" {

// Mixed precision on one kind of device, for this thread: `kind` as ScalarType. Calls are paired with yolo_autocast_leave.
char *yolo_autocast_enter(int device, int kind) {
    YOLO_GUARD({
        auto type = yolo::device(device).type();
        at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(kind));
        at::autocast::set_autocast_enabled(type, true);
        at::autocast::increment_nesting();
    })
}

char *yolo_autocast_leave(int device) {
    YOLO_GUARD({
        if (at::autocast::decrement_nesting() == 0) {
            at::autocast::clear_cache();
        }
        at::autocast::set_autocast_enabled(yolo::device(device).type(), false);
    })
}

// One update by SGD with Nesterov momentum. `scale` and `found_inf` (may be null) are those of a loss scaler: gradients are divided
// by the first, nothing happens where the second is not 0.
char *yolo_fused_sgd(const yolo::Handle *params, const yolo::Handle *velocity, size_t count, double lr, double momentum, double decay,
                     yolo::Handle scale, yolo::Handle found_inf) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        Trained t(params, velocity, nullptr, nullptr, count);
        if (!t.params.empty()) {
            // Without momentum there are no velocities, and nothing for Nesterov to look ahead with.
            bool moves = momentum != 0.0;
            if (!moves) {
                t.first.clear();
            }
            at::_fused_sgd_(t.params, t.grads, t.first, decay, momentum, lr, 0.0, moves, false, false, optional(scale),
                            optional(found_inf));
        }
    })
}

// One update by Adam (or AdamW, with decoupled decay). `steps` holds the number of updates of each parameter, this one counted.
char *yolo_fused_adam(const yolo::Handle *params, const yolo::Handle *first, const yolo::Handle *second, const yolo::Handle *steps,
                      size_t count, int decoupled, double lr, double beta1, double beta2, double decay, double eps, yolo::Handle scale,
                      yolo::Handle found_inf) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        Trained t(params, first, second, steps, count);
        if (!t.params.empty()) {
            if (decoupled) {
                at::_fused_adamw_(t.params, t.grads, t.first, t.second, {}, t.steps, lr, beta1, beta2, decay, eps, false, false,
                                  optional(scale), optional(found_inf));
            } else {
                at::_fused_adam_(t.params, t.grads, t.first, t.second, {}, t.steps, lr, beta1, beta2, decay, eps, false, false,
                                 optional(scale), optional(found_inf));
            }
        }
    })
}

// average += weight * (model - average), all tensors at once.
char *yolo_foreach_lerp(const yolo::Handle *averages, const yolo::Handle *models, size_t count, double weight) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        if (count == 0) {
            return nullptr;
        }
        auto own = yolo::list(averages, count);
        at::_foreach_lerp_(own, yolo::list(models, count), weight);
    })
}

// target = source, all tensors at once.
char *yolo_foreach_copy(const yolo::Handle *targets, const yolo::Handle *sources, size_t count) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        if (count == 0) {
            return nullptr;
        }
        auto own = yolo::list(targets, count);
        at::_foreach_copy_(own, yolo::list(sources, count));
    })
}

// Sets the gradients of the parameters to zero, and makes those that are missing, laid out as their parameters are: the fused
// optimizers want both alike.
char *yolo_zero_gradients(const yolo::Handle *params, size_t count) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        std::vector<at::Tensor> old;
        for (size_t i = 0; i < count; ++i) {
            auto &grad = params[i]->mutable_grad();
            if (!grad.defined() || grad.strides() != params[i]->strides()) {
                grad = at::zeros_like(*params[i]);
            } else {
                old.push_back(grad);
            }
        }
        if (!old.empty()) {
            at::_foreach_zero_(old);
        }
    })
}

// tensor += value, all tensors at once.
char *yolo_foreach_add(const yolo::Handle *tensors, size_t count, double value) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        if (count > 0) {
            auto own = yolo::list(tensors, count);
            bool integers = !own[0].is_floating_point();
            at::_foreach_add_(own, integers ? at::Scalar(static_cast<int64_t>(value)) : at::Scalar(value));
        }
    })
}

// Scales the gradients so that their common norm is at most `limit`. Nothing is read back: the norm before is left in `norm` (a new
// tensor on the gradients' device, or untouched where there are no gradients).
char *yolo_clip_gradients(const yolo::Handle *params, size_t count, double limit, yolo::Handle norm) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        auto grads = gradients(params, count);
        if (!grads.empty()) {
            auto total = at::linalg_vector_norm(at::stack(at::_foreach_norm(grads, 2)), 2);
            auto factor = (limit / (total + 1e-6)).clamp_max(1.0);
            at::_foreach_mul_(grads, factor);
            *norm = total;
        }
    })
}

// Divides the gradients by the scale of the loss; `found_inf` becomes 1 where one of them is not finite.
char *yolo_unscale_gradients(const yolo::Handle *params, size_t count, yolo::Handle found_inf, yolo::Handle inverse_scale) {
    YOLO_GUARD({
        at::NoGradGuard no_grad;
        auto grads = gradients(params, count);
        if (!grads.empty()) {
            at::_amp_foreach_non_finite_check_and_unscale_(grads, *found_inf, *inverse_scale);
        }
    })
}

// The scale of the next step: less after gradients that were not finite, more after `interval` steps without.
char *yolo_update_scale(yolo::Handle scale, yolo::Handle tracker, yolo::Handle found_inf, double growth, double backoff, int64_t interval) {
    YOLO_GUARD({ at::_amp_update_scale_(*scale, *tracker, *found_inf, growth, backoff, interval); })
}

} // extern "C"
