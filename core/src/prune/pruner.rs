//! The pruner trait and the host that gives it data, scores and training.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Budget, ChannelGroups, CostModel, PruneMetric, PrunePlan, Rounding, Scores};
use crate::{Params, Result};

/// Where training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Optimizer steps done.
    pub step: usize,
    /// Optimizer steps in all.
    pub total: usize,
    /// Steps per epoch.
    pub per_epoch: usize,
}

/// Something that acts on gradients or weights while a model trains: the sparsity penalty of Network Slimming, the augmented
/// Lagrangian of ADMM, the growing masks of gradual pruning.
pub trait Regulariser: Debug + Send {
    /// Called once per optimizer step, after the gradients of all accumulated batches are there (unscaled) and before the
    /// optimizer acts on them.
    fn before_step(&mut self, _groups: &ChannelGroups, _params: &Params, _step: Step) -> Result<()> {
        Ok(())
    }
    /// Called once per optimizer step, after the optimizer.
    fn after_step(&mut self, _groups: &ChannelGroups, _params: &Params, _step: Step) -> Result<()> {
        Ok(())
    }
}

/// What a model is worth.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// mAP at IoU 0.5.
    pub map50: f64,
    /// mAP at IoU 0.5:0.95.
    pub map: f64,
}

/// What a pruner may ask of the host: the only way it reaches data or training.
pub trait PruneHost {
    /// Groups of the model.
    fn groups(&self) -> &ChannelGroups;
    /// Cost as a function of widths.
    fn cost(&self) -> &CostModel;
    /// What the user asked for.
    fn budget(&self) -> Budget;
    /// How widths are rounded.
    fn rounding(&self) -> Rounding;
    /// Seed for everything random.
    fn seed(&self) -> u64;
    /// Scores of all channels.
    fn scores(&mut self, metric: &dyn PruneMetric) -> Result<Scores>;
    /// A tensor of the model (shared storage).
    fn tensor(&self, key: &str) -> Result<Tensor>;
    /// Applies the plan to a copy, recalibrates its batch norms (adaptive BN) and measures it on a part of the *training* data, so that
    /// selection does not leak into the reported numbers.
    fn evaluate(&mut self, plan: &PrunePlan) -> Result<Evaluation>;
    /// As `evaluate`, after `steps` optimizer steps on the pruned copy.
    fn evaluate_tuned(&mut self, plan: &PrunePlan, steps: usize) -> Result<Evaluation>;
    /// Trains the unpruned model itself for some epochs under a regulariser.
    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> Result<()>;
    /// Reports progress; an error means that the user wants to stop.
    fn progress(&mut self, done: usize, total: usize, note: &str) -> Result<()>;
}

/// Decides which channels go.
#[typetag::serde(tag = "type")]
pub trait Pruner: Debug + Send + Sync {
    /// What acts during a sparsity training, if this pruner has one.
    fn regulariser(&self) -> Option<Box<dyn Regulariser>> {
        None
    }
    /// The plan for the host's model and budget.
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan>;
}
