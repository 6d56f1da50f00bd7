//! What stands at the start: the image, trained tensors, constants.

use tch::Tensor;

use super::{Checked, FREE, Flow, Left, OwnTensor, Place, Primitive, Value, Weightless, Work, shapes};
use crate::graph::limits::{elements, within};
use crate::graph::{Op, Shape};
use crate::params::Init;
use crate::{ParamRole, ParamSpec, Result};

/// The image.
pub(super) struct Input {
    pub channels: i64,
}

impl Weightless for Input {
    fn limits(&self) -> Checked {
        within("size", &[self.channels], 1)
    }

    fn shape(&self, _inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape, String> {
        shapes::channels(image[1], self.channels)?;
        Ok(image.to_vec())
    }

    fn flow(&self) -> Flow {
        Flow::Image
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].shallow_clone())
    }
}

/// A trained tensor; its key is the node's name.
pub(super) struct Parameter<'a> {
    pub shape: &'a [i64],
    pub role: ParamRole,
    pub init: Init,
}

impl Primitive for Parameter<'_> {
    fn limits(&self) -> Checked {
        within("size", self.shape, 1)
    }

    fn shape(&self, _inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        Ok(self.shape.to_vec())
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let spec = ParamSpec {
            key: name.to_owned(),
            shape: self.shape.to_vec(),
            role: self.role,
            init: self.init,
        };
        vec![OwnTensor { spec, axes: FREE }]
    }

    fn flow(&self) -> Flow {
        Flow::Nothing
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Fixed(0)
    }

    fn resize(&self, _op: &mut Op, _left: &Left<'_>) -> Checked {
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Fixed
    }

    fn run(&self, _x: &[&Tensor], params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(params[0].shallow_clone())
    }
}

/// A fixed tensor.
pub(super) struct Constant<'a> {
    pub shape: &'a [i64],
    pub values: &'a [f32],
}

impl Weightless for Constant<'_> {
    fn limits(&self) -> Checked {
        let Self { shape, values } = self;
        within("size", shape, 1)?;
        if elements(shape) != Some(values.len() as i64) {
            return Err(format!("{} values do not fill the shape {shape:?}", values.len()));
        }
        Ok(())
    }

    fn shape(&self, _inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        Ok(self.shape.to_vec())
    }

    fn flow(&self) -> Flow {
        Flow::Nothing
    }

    fn value(&self) -> Value {
        Value::Fixed
    }

    fn run(&self, _x: &[&Tensor], params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(params[0].shallow_clone())
    }
}
