//! What acts at random in training and not at all outside of it.

use tch::Tensor;

use super::shapes::one;
use super::{Checked, Flow, Place, Value, Weightless};
use crate::Result;
use crate::graph::Shape;

/// Zeros elements (inverted dropout).
pub(super) struct Dropout {
    pub p: f64,
}

impl Weightless for Dropout {
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
        Value::Passed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_dropout(self.p, place.train)?)
    }
}

/// Zeros whole samples (stochastic depth, arXiv 1603.09382): each survives with probability 1 - p and is scaled by 1 / (1 - p).
pub(super) struct DropPath {
    pub p: f64,
}

impl Weightless for DropPath {
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
        Value::Passed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        let (x, p) = (x[0], self.p);
        if !place.train || p <= 0.0 {
            return Ok(x.shallow_clone());
        }
        let mut shape = vec![1; x.dim()];
        shape[0] = x.size()[0];
        let keep = Tensor::f_rand(shape.as_slice(), (x.kind(), x.device()))?
            .f_ge(p)?
            .f_to_kind(x.kind())?;
        Ok(x.f_mul(&keep.f_div_scalar(1.0 - p)?)?)
    }
}
