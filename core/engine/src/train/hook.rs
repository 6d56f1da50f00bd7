//! What else may act in a training: sparsity penalties, masks.

use tch::Tensor;
use yolo_core::Params;
use yolo_core::prune::{ChannelGroups, Regulariser, Step};

use crate::Result;

/// Acts at fixed points of the loop; all methods have empty defaults.
pub trait Hook {
    /// An addition to the loss of a batch.
    fn extra_loss(&mut self, _images: &Tensor, _maps: &[Tensor]) -> Result<Option<Tensor>> {
        Ok(None)
    }
    /// After all gradients of a step are there, before the optimizer.
    fn before_step(&mut self, _params: &Params, _step: Step) -> Result<()> {
        Ok(())
    }
    /// After the optimizer.
    fn after_step(&mut self, _params: &Params, _step: Step) -> Result<()> {
        Ok(())
    }
}

/// A pruner's regulariser as a hook.
pub struct Regularise<'a> {
    /// Groups that it acts on.
    pub groups: &'a ChannelGroups,
    /// The regulariser.
    pub regulariser: &'a mut dyn Regulariser,
}

impl Hook for Regularise<'_> {
    fn before_step(&mut self, params: &Params, step: Step) -> Result<()> {
        Ok(self.regulariser.before_step(self.groups, params, step)?)
    }

    fn after_step(&mut self, params: &Params, step: Step) -> Result<()> {
        Ok(self.regulariser.after_step(self.groups, params, step)?)
    }
}
