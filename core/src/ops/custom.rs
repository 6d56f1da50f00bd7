//! Ops with a forward of their own, which plugins bring.

use tch::Tensor;

use super::{Checked, FREE, Flow, Left, OwnTensor, Place, Primitive, Value, Work};
use crate::graph::{GraphBuilder, Op, Shape, ValueId};
use crate::{ParamSpec, Result};

/// A primitive with a forward of its own: the way out for what the closed set can't express. It is left out of pruning
/// (its channels are frozen) and of export, unless it lowers itself to primitive ops.
#[typetag::serde(tag = "type")]
pub trait CustomOp: std::fmt::Debug + Send + Sync {
    /// Its name in tables and messages.
    fn name(&self) -> &str;
    /// Tensors it owns, keys relative to the node (`weight` becomes `NODE.weight`).
    fn params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }
    /// Shape of its value.
    fn shape(&self, inputs: &[&[i64]]) -> Result<Vec<i64>>;
    /// Multiply-adds.
    fn macs(&self, _inputs: &[&[i64]], _output: &[i64]) -> i64 {
        0
    }
    /// Runs it; `params` in the order of [`CustomOp::params`].
    fn forward(&self, inputs: &[&tch::Tensor], params: &[&tch::Tensor], train: bool) -> Result<tch::Tensor>;
    /// The same as primitive ops, where that is possible.
    fn lower(&self, _g: &mut GraphBuilder, _inputs: &[ValueId]) -> Option<Result<ValueId>> {
        None
    }
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn CustomOp>;
}

impl Clone for Box<dyn CustomOp> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

/// A plugin's own forward.
pub(super) struct Custom<'a>(pub &'a dyn CustomOp);

impl Primitive for Custom<'_> {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        self.0.shape(inputs).map_err(|error| error.to_string())
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let scoped = |mut spec: ParamSpec| {
            spec.key = format!("{name}.{}", spec.key);
            OwnTensor { spec, axes: FREE }
        };
        self.0.params().into_iter().map(scoped).collect()
    }

    fn flow(&self) -> Flow {
        Flow::Frozen
    }

    fn work(&self, inputs: &[&[i64]], output: &[i64]) -> Work {
        Work::Fixed(self.0.macs(inputs, output))
    }

    fn resize(&self, _op: &mut Op, _left: &Left<'_>) -> Checked {
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        self.0.forward(x, &params.iter().collect::<Vec<_>>(), place.train)
    }
}
