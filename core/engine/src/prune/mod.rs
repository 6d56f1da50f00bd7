//! Pruning with data: gives a pruner its host, applies the plan, puts the batch norms right.
//!
//! What lives here: what a pruner may ask for (scores, evaluations, training) and the steps around it. What must not: any
//! method of choosing channels (plugins), the surgery itself (`yolo_core::prune`).

mod activations;
mod candidate;
mod gradients;
mod host;
mod recalibrate;
mod tune;

pub use candidate::{Candidate, Journal};
pub use recalibrate::recalibrate;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use yolo_core::Progress;
use yolo_core::prune::{
    Aggregate, Budget, ChannelGroups, CostModel, Limits, Members, PrunePlan, Pruner, Rounding, TimeModel, apply,
};
use yolo_data::Loader;

use crate::checkpoint::{Checkpoint, HistoryEntry};
use crate::train::TrainOptions;
use crate::{Error, Result};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// What the pruned model may cost.
    pub budget: Budget,
    /// What an image takes, for a budget of time.
    pub time: Option<TimeModel>,
    /// How widths are rounded.
    pub rounding: Rounding,
    /// What must stay, whatever a pruner thinks of it.
    pub limits: Limits,
    /// Which layers have a say in the score of a channel.
    pub members: Members,
    /// How their scores become one; none leaves that to the metric, which then sees all makers together.
    pub aggregate: Option<Aggregate>,
    /// Seed of everything random.
    pub seed: u64,
    /// Batches for the statistics of batch norms and for gradients.
    pub calib_batches: usize,
    /// Settings of pruners that train; the pruner says how many epochs.
    pub train: TrainOptions,
}

/// Images for pruning; all of them from the training split, so that nothing leaks into what is reported.
#[derive(Debug, Clone, Copy)]
pub struct PruneData<'a> {
    /// Augmented, for pruners that train.
    pub train: &'a Loader,
    /// As in validation, for statistics and gradients.
    pub calib: &'a Loader,
    /// As in validation, for comparing candidates.
    pub select: &'a Loader,
    /// Remembers the candidates of a search.
    pub journal: Option<&'a dyn Journal>,
}

/// A pruned model.
#[derive(Debug)]
pub struct Pruned {
    /// The smaller model, an ordinary checkpoint.
    pub model: Checkpoint,
    /// Which channels stayed.
    pub plan: PrunePlan,
    /// The last scores that the pruner asked for.
    pub scores: Option<GroupScores>,
    /// What the pruner has asked for, so which settings had a say.
    pub asked: Asked,
}

/// What a pruner has asked its host for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Scores of channels.
    pub scores: bool,
    /// What candidates are worth.
    pub candidates: bool,
    /// A training, or gradients: hyper-parameters have a say in both.
    pub loss: bool,
    /// Epochs that it has trained the model.
    pub epochs: usize,
}

/// Scores of all channels by a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupScores {
    /// The metric, as configured.
    pub metric: Value,
    /// By group, one score per channel.
    pub scores: BTreeMap<String, Vec<f32>>,
}

/// Lets `pruner` decide, then removes the channels.
///
/// # Errors
/// [`Error::Settings`] where the model is quantized. [`Error::Core`] names a share of the budget outside of 0 to 1, why the pruner gave up,
/// a pattern
/// of the limits that names no group, or a group that its plan does not fit. Those of [`recalibrate`], and of the trainings and validations that the pruner asks for.
pub fn prune(
    model: &Checkpoint,
    pruner: &dyn Pruner,
    data: PruneData<'_>,
    options: &PruneOptions,
    progress: &dyn Progress,
) -> Result<Pruned> {
    refuse_quantized(model)?;
    options.budget.check()?;
    if options.budget.latency.is_some() && options.time.is_none() {
        return Err(Error::Settings(
            "a budget of time needs times of the model's convolutions".to_owned(),
        ));
    }
    let mut host = host::Host::new(model.deep_clone(), data, options, progress)?;
    let plan = host.plan(pruner)?;
    // A pruner may have trained the model.
    let (trained, scores, asked) = host.finish();
    let settings = json!({
        "pruner": pruner, "budget": options.budget, "rounding": options.rounding, "limits": options.limits,
        "members": options.members, "aggregate": options.aggregate, "seed": options.seed,
    });
    let model = apply_plan(&trained, &plan, data.calib, options.calib_batches, settings)?;
    Ok(Pruned {
        model,
        plan,
        scores,
        asked,
    })
}

/// Removes what the plan does not keep and measures the statistics of the batch norms anew.
///
/// # Errors
/// [`Error::Settings`] where the model is quantized. [`Error::Core`] names the group of the plan that the model does not have, whose
/// channels are listed wrongly, or of which nothing would be left. Those of [`recalibrate`].
pub fn apply_plan(
    model: &Checkpoint,
    plan: &PrunePlan,
    calib: &Loader,
    calib_batches: usize,
    settings: serde_json::Value,
) -> Result<Checkpoint> {
    refuse_quantized(model)?;
    let groups = ChannelGroups::of(&model.graph)?;
    let (graph, params) = apply(&model.graph, &model.params, &groups, plan)?;
    let params = params.deep_clone();
    recalibrate(&graph, &params, calib, calib_batches)?;
    let stride = model.max_stride();
    let size = (model.meta.image_size.max(1) + stride - 1) / stride * stride;
    let cost = CostModel::of(&model.graph, &groups, size)?;
    let kept = cost.widths(plan, &groups);
    let share = |now: i64, before: i64| 100.0 * now as f64 / before.max(1) as f64;
    let mut meta = model.meta.clone();
    // The numbers of the unpruned model are not those of this one.
    meta.metrics.clear();
    meta.history.push(HistoryEntry {
        kind: "prune".into(),
        summary: format!(
            "{:.1} % of the FLOPs and {:.1} % of the parameters stay",
            share(cost.macs(&kept), cost.macs(cost.full())),
            share(cost.params(&kept), cost.params(cost.full()))
        ),
        settings,
    });
    Ok(Checkpoint::new(graph, params, meta))
}

fn refuse_quantized(model: &Checkpoint) -> Result<()> {
    if model.meta.quantizer.is_some() || crate::quant::is_quantized(&model.graph) {
        return Err(Error::Settings(
            "the model is quantized; prune the float model it was made from, then quantize".into(),
        ));
    }
    Ok(())
}
