//! Normalisations.

use tch::Tensor;

use super::shapes::{channels, one};
use super::{BY_OUTPUT, Checked, FREE, Flow, Follows, Left, OwnTensor, Place, Primitive, Value, Work};
use crate::graph::limits::within;
use crate::graph::{Op, Shape};
use crate::params::Init;
use crate::{Error, ParamRole, ParamSpec, Result};

/// Batch normalisation over axis 1.
pub(super) struct BatchNorm {
    pub channels: i64,
    pub eps: f64,
    pub momentum: f64,
}

/// Fewer tensors than a batch norm has.
pub(crate) fn incomplete() -> Error {
    Error::Params("a batch-norm has fewer tensors than it needs".into())
}

fn tensor(name: &str, key: &str, shape: Vec<i64>, role: ParamRole, init: f64, axes: Axes) -> OwnTensor {
    OwnTensor {
        spec: ParamSpec {
            key: format!("{name}.{key}"),
            shape,
            role,
            init: Init::Const(init),
        },
        axes,
    }
}

type Axes = &'static [(usize, Follows)];

impl Primitive for BatchNorm {
    fn limits(&self) -> Checked {
        within("size", &[self.channels], 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let x = one(inputs)?;
        channels(*x.get(1).ok_or("it takes [N, C, ...]")?, self.channels)?;
        Ok(x.to_vec())
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let each = |key: &str, role, init| tensor(name, key, vec![self.channels], role, init, BY_OUTPUT);
        vec![
            each("weight", ParamRole::NormWeight, 1.0),
            each("bias", ParamRole::NormBias, 0.0),
            each("running_mean", ParamRole::Buffer, 0.0),
            each("running_var", ParamRole::Buffer, 1.0),
            tensor(name, "num_batches_tracked", vec![], ParamRole::Counter, 0.0, FREE),
        ]
    }

    fn flow(&self) -> Flow {
        Flow::Same
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Fixed(0)
    }

    fn resize(&self, op: &mut Op, left: &Left<'_>) -> Checked {
        if let Op::BatchNorm { channels, .. } = op {
            *channels = left.inputs;
        }
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        let [weight, bias, mean, var, _] = params else {
            return Err(incomplete());
        };
        let Self { eps, momentum, .. } = *self;
        if let Some(norm) = place.norm.filter(|_| place.train) {
            return norm.batch_norm(x[0], [weight, bias, mean, var], momentum, eps);
        }
        let (weight, bias, mean, var) = (Some(weight), Some(bias), Some(mean), Some(var));
        Ok(x[0].f_batch_norm(weight, bias, mean, var, place.train, momentum, eps, false)?)
    }
}

/// Layer normalisation over the last axis. A channel that goes would change the statistics of the others, so none goes.
pub(super) struct LayerNorm {
    pub channels: i64,
    pub eps: f64,
}

impl Primitive for LayerNorm {
    fn limits(&self) -> Checked {
        within("size", &[self.channels], 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let x = one(inputs)?;
        channels(*x.last().ok_or("its input is a scalar")?, self.channels)?;
        Ok(x.to_vec())
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let each = |key: &str, role, init| tensor(name, key, vec![self.channels], role, init, FREE);
        vec![
            each("weight", ParamRole::NormWeight, 1.0),
            each("bias", ParamRole::NormBias, 0.0),
        ]
    }

    fn flow(&self) -> Flow {
        Flow::Frozen
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

    fn run(&self, x: &[&Tensor], params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_layer_norm([self.channels], Some(&params[0]), Some(&params[1]), self.eps, false)?)
    }
}
