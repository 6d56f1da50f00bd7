//! What works element by element.

use tch::Tensor;

use super::shapes::{broadcast, one, two};
use super::{Checked, Flow, Place, Value, Weightless};
use crate::Result;
use crate::graph::{Activation, Shape};

/// Point-wise non-linearity.
pub(super) struct Act {
    pub act: Activation,
}

impl Weightless for Act {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        Ok(one(inputs)?.to_vec())
    }

    fn flow(&self) -> Flow {
        Flow::Same
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        Ok(activate(self.act, x[0], place.in_place && !place.train)?)
    }
}

/// `x * mul + add`.
pub(super) struct Affine {
    pub mul: f64,
    pub add: f64,
}

impl Weightless for Affine {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        Ok(one(inputs)?.to_vec())
    }

    fn flow(&self) -> Flow {
        // A summand makes a silent channel speak.
        if self.add == 0.0 { Flow::Same } else { Flow::Frozen }
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_mul_scalar(self.mul)?.f_add_scalar(self.add)?)
    }
}

/// What a [`Binary`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
}

/// Of two values, with broadcasting.
pub(super) struct Binary(pub Operator);

impl Weightless for Binary {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (a, b) = two(inputs)?;
        broadcast(a, b)
    }

    fn flow(&self) -> Flow {
        match self.0 {
            Operator::Add | Operator::Sub => Flow::Together { product: false },
            Operator::Mul => Flow::Together { product: true },
            // A silent channel must not divide.
            Operator::Div => Flow::Frozen,
        }
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(match self.0 {
            Operator::Add => x[0].f_add(x[1])?,
            Operator::Sub => x[0].f_sub(x[1])?,
            Operator::Mul => x[0].f_mul(x[1])?,
            Operator::Div => x[0].f_div(x[1])?,
        })
    }
}

pub(crate) fn activate(act: Activation, x: &Tensor, in_place: bool) -> Result<Tensor, tch::TchError> {
    let mut own = x.shallow_clone();
    match (act, in_place) {
        (Activation::Silu, true) => own.f_silu_(),
        (Activation::Silu, false) => x.f_silu(),
        (Activation::Relu, true) => own.f_relu_(),
        (Activation::Relu, false) => x.f_relu(),
        (Activation::Relu6, true) => own.f_clamp_(0, 6),
        (Activation::Relu6, false) => x.f_clamp(0, 6),
        (Activation::LeakyRelu(slope), _) => x.f_maximum(&x.f_mul_scalar(slope)?),
        (Activation::Hardswish, true) => own.f_hardswish_(),
        (Activation::Hardswish, false) => x.f_hardswish(),
        (Activation::Hardsigmoid, _) => x.f_hardsigmoid(),
        (Activation::Sigmoid, true) => own.f_sigmoid_(),
        (Activation::Sigmoid, false) => x.f_sigmoid(),
        (Activation::Gelu, _) => x.f_gelu("none"),
        (Activation::Tanh, _) => x.f_tanh(),
    }
}
