//! The fused optimizers against the formulas that they stand for.

use tch::{Kind, Tensor};
use yolo_torch::native::step::{self, Adam};

fn with_gradient(values: &[f64], gradient: &[f64]) -> Tensor {
    let param = Tensor::from_slice(values).set_requires_grad(true);
    (&param * Tensor::from_slice(gradient)).sum(Kind::Double).backward();
    param
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach()).expect("a vector")
}

fn close(got: &Tensor, wanted: &[f64]) {
    for (got, wanted) in numbers(got).iter().zip(wanted) {
        assert!((got - wanted).abs() < 1e-12, "{got} is not {wanted}");
    }
}

#[test]
fn sgd_is_nesterovs_and_needs_no_momentum() {
    let (lr, decay) = (0.1, 0.01);
    for momentum in [0.9, 0.0] {
        let param = with_gradient(&[1.0, -2.0], &[0.5, 3.0]);
        let velocity = [Tensor::from_slice(&[0.2, 0.0])];
        step::fused_sgd(&[&param], &velocity, lr, momentum, decay, None).expect("a step");
        let wanted = [(1.0, 0.5, 0.2), (-2.0, 3.0, 0.0)].map(|(p, g, v): (f64, f64, f64)| {
            let gradient = g + decay * p;
            p - lr * (gradient + momentum * (momentum * v + gradient))
        });
        close(&param, &wanted);
    }
}

#[test]
fn adamw_decays_weights_and_adam_gradients() {
    for decoupled in [true, false] {
        let param = with_gradient(&[1.0], &[0.5]);
        let zero = || [Tensor::from_slice(&[0.0f64])];
        let (first, second, steps) = (zero(), zero(), [Tensor::from(1f32)]);
        let adam = Adam {
            decoupled,
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            decay: 0.2,
            eps: 1e-8,
        };
        step::fused_adam(&[&param], &first, &second, &steps, adam, None).expect("a step");
        // In the first step both means are the gradient, so the step is lr times its sign.
        let start = if decoupled { 1.0 - 0.1 * 0.2 } else { 1.0 };
        let gradient = if decoupled { 0.5 } else { 0.5 + 0.2 };
        close(&param, &[start - 0.1 * gradient / (gradient + 1e-8)]);
    }
}

#[test]
fn empty_lists_are_nothing_to_do() {
    step::foreach_lerp(&[], &[], 0.5).expect("nothing");
    step::foreach_copy(&[], &[]).expect("nothing");
    step::zero_gradients(&[]).expect("nothing");
    assert!(step::clip_gradients(&[], 1.0).expect("nothing").is_none());
}
