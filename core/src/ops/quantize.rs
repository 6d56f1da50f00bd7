//! Fake quantizers of activations. Those of weights are part of the ops that have the weights.

use tch::Tensor;

use super::shapes::one;
use super::{Checked, FREE, Flow, Left, OwnTensor, Place, Primitive, Value, Work};
use crate::Result;
use crate::graph::{Op, Shape};
use crate::quant::{self, FakeQuantSpec};

/// Rounds to a grid and back.
pub(super) struct FakeQuant<'a> {
    pub quant: &'a FakeQuantSpec,
}

impl Primitive for FakeQuant<'_> {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        Ok(one(inputs)?.to_vec())
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let specs = self.quant.params(name, 1).into_iter();
        specs.map(|spec| OwnTensor { spec, axes: FREE }).collect()
    }

    fn flow(&self) -> Flow {
        Flow::Same
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Fixed(0)
    }

    fn resize(&self, _op: &mut Op, _left: &Left<'_>) -> Checked {
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        quant::fake_quant(x[0], self.quant, &params[0], &params[1], place.train)
    }
}
