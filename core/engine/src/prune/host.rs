//! What a pruner may ask of the program.

use std::cell::Cell;

use rayon::prelude::*;
use tch::Tensor;
use yolo_core::prune::{
    Aggregate, Budget, ChannelGroup, ChannelGroups, CostModel, Evaluation, GroupTensors, Measured, Members, PruneHost,
    PruneMetric, PrunePlan, Pruner, Regulariser, Rounding, Scores, apply, checked_score,
};
use yolo_core::{Graph, Op, Params, Progress};

use super::activations::mean_activations;
use super::gradients::gradients;
use super::tune::tune;
use super::{Asked, Candidate, GroupScores, PruneData, PruneOptions, recalibrate};
use crate::checkpoint::Checkpoint;
use crate::eval::NmsOptions;
use crate::train::{EpochRow, Hook, Listener, Regularise, TrainOptions, train};
use crate::{Error, Result, val};

/// The host of one pruning.
pub(super) struct Host<'a> {
    model: Checkpoint,
    groups: ChannelGroups,
    cost: CostModel,
    data: PruneData<'a>,
    options: &'a PruneOptions,
    progress: &'a dyn Progress,
    measured: Measured,
    /// Which parts of `measured` are there: gradients, activations.
    looked: [bool; 2],
    /// How often the model was trained.
    trained: usize,
    last: Option<GroupScores>,
    asked: Asked,
}

impl<'a> Host<'a> {
    /// A host that works on `model`, which must share no tensors with others: a pruner may train it.
    ///
    /// # Errors
    /// Those of [`ChannelGroups::of`], [`ChannelGroups::within`] and [`CostModel::of`]: a graph whose shapes do not fit, at the image size
    /// of `data.calib`; limits that name no group.
    pub fn new(
        model: Checkpoint,
        data: PruneData<'a>,
        options: &'a PruneOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let groups = ChannelGroups::of(&model.graph)?.within(&options.limits)?;
        let size = data.calib.options().size as i64;
        let mut cost = CostModel::of(&model.graph, &groups, size)?;
        if let Some(time) = &options.time {
            cost = cost.timed(time.clone());
        }
        Ok(Self {
            model,
            groups,
            cost,
            data,
            options,
            progress,
            measured: Measured::default(),
            looked: [false; 2],
            trained: 0,
            last: None,
            asked: Asked::default(),
        })
    }

    /// What the pruner decides.
    ///
    /// # Errors
    /// Those of the pruner, and a plan that the limits do not allow.
    pub fn plan(&mut self, pruner: &dyn Pruner) -> Result<PrunePlan> {
        let plan = pruner.plan(self)?;
        plan.check(&self.groups)?;
        Ok(plan)
    }

    /// The model, trained if the pruner trained it, the last scores, and what the pruner has asked for.
    pub fn finish(self) -> (Checkpoint, Option<GroupScores>, Asked) {
        (self.model, self.last, self.asked)
    }

    /// The network of a plan. Tensors that are whole are the model's own, but for the statistics of batch norms.
    fn candidate(&self, plan: &PrunePlan) -> Result<(Graph, Params)> {
        let (graph, mut params) = apply(&self.model.graph, &self.model.params, &self.groups, plan)?;
        for node in &graph.nodes {
            if !matches!(node.op, Op::BatchNorm { .. }) {
                continue;
            }
            for name in ["running_mean", "running_var", "num_batches_tracked"] {
                let key = format!("{}.{name}", node.name);
                let own = params.require(&key)?.detach().copy();
                params.insert(key, own);
            }
        }
        Ok((graph, params))
    }

    /// What images say, as far as a metric wants it.
    fn look(&mut self, metric: &dyn PruneMetric) -> Result<()> {
        let (wanted, batches) = (metric.needs(), self.options.calib_batches);
        if (wanted.grad || wanted.grad_square) && !self.looked[0] {
            self.asked.loss = true;
            let found = gradients(&self.model, self.data.calib, batches, &self.options.train)?;
            (self.measured.grads, self.measured.squares) = (found.mean, found.square);
            self.looked[0] = true;
        }
        if wanted.activation && !self.looked[1] {
            self.measured.activations = mean_activations(&self.model, &self.groups, self.data.calib, batches)?;
            self.looked[1] = true;
        }
        Ok(())
    }

    /// A group as the metric sees it, layer by layer or as a whole.
    fn tensors(&self, at: usize, metric: &dyn PruneMetric) -> yolo_core::Result<Vec<GroupTensors>> {
        let group = &self.groups.groups[at];
        let collect = |group: &ChannelGroup| {
            let index = (at, self.groups.groups.len());
            GroupTensors::collect(group, index, &self.model.params, Some(&self.measured), metric.needs())
        };
        if self.options.aggregate.is_none() && self.options.members == Members::Makers {
            return Ok(vec![collect(group)?]);
        }
        self.options.members.of(group).iter().map(collect).collect()
    }

    /// Measures a candidate, or remembers what it was.
    fn worth(&mut self, plan: &PrunePlan, steps: usize) -> Result<Evaluation> {
        self.asked.candidates = true;
        self.asked.loss |= steps > 0;
        let kept = self.cost.widths(plan, &self.groups);
        let share = |now: i64, full: i64| now as f64 / full.max(1) as f64;
        let full = self.cost.full();
        let candidate = Candidate {
            plan,
            steps,
            trained: self.trained,
            flops: share(self.cost.macs(&kept), self.cost.macs(full)),
            params: share(self.cost.params(&kept), self.cost.params(full)),
        };
        if let Some(known) = self.data.journal.and_then(|journal| journal.known(&candidate)) {
            return Ok(known);
        }
        let (graph, mut params) = self.candidate(plan)?;
        if steps > 0 {
            params = tune(
                &graph,
                &params.deep_clone(),
                self.data.train,
                steps,
                &self.options.train,
            )?;
        }
        recalibrate(&graph, &params, self.data.calib, self.options.calib_batches)?;
        let result = self.measure(&graph, &params)?;
        if let Some(journal) = self.data.journal {
            journal.note(&candidate, result)?;
        }
        Ok(result)
    }

    fn measure(&mut self, graph: &Graph, params: &Params) -> Result<Evaluation> {
        let report = val::validate(
            graph,
            params,
            self.data.select,
            &NmsOptions::validation(),
            &Silently(self.progress),
        )?;
        Ok(Evaluation {
            map50: report.metrics.map50,
            map: report.metrics.map,
        })
    }
}

impl PruneHost for Host<'_> {
    fn groups(&self) -> &ChannelGroups {
        &self.groups
    }

    fn cost(&self) -> &CostModel {
        &self.cost
    }

    fn budget(&self) -> Budget {
        self.options.budget
    }

    fn rounding(&self) -> Rounding {
        self.options.rounding
    }

    fn seed(&self) -> u64 {
        self.options.seed
    }

    fn scores(&mut self, metric: &dyn PruneMetric) -> yolo_core::Result<Scores> {
        self.asked.scores = true;
        self.look(metric).map_err(plain)?;
        let count = self.groups.groups.len();
        let tensors: Vec<Vec<GroupTensors>> = (0..count)
            .map(|at| self.tensors(at, metric))
            .collect::<yolo_core::Result<_>>()?;
        let joined = self.options.aggregate.unwrap_or(Aggregate::Mean);
        // Groups are scored side by side; the first complaint (in their order) is the one that is told.
        let scored: Vec<yolo_core::Result<Vec<f32>>> = tensors
            .into_par_iter()
            .map(|members| {
                let score = |group| checked_score(metric.typetag_name(), metric, group);
                let each: Vec<Vec<f32>> = tch::no_grad(|| members.iter().map(score).collect::<yolo_core::Result<_>>())?;
                match <[Vec<f32>; 1]>::try_from(each) {
                    Ok([only]) => Ok(only),
                    Err(each) => joined_scores(metric, joined, &each, members.first()),
                }
            })
            .collect();
        let scores: Scores = scored.into_iter().collect::<yolo_core::Result<_>>()?;
        let named = self.groups.groups.iter().map(|group| group.name.clone());
        self.last = Some(GroupScores {
            metric: serde_json::to_value(metric).unwrap_or_else(|_| metric.typetag_name().into()),
            scores: named.zip(scores.iter().cloned()).collect(),
        });
        Ok(scores)
    }

    fn tensor(&self, key: &str) -> yolo_core::Result<Tensor> {
        Ok(self.model.params.require(key)?.shallow_clone())
    }

    fn evaluate(&mut self, plan: &PrunePlan) -> yolo_core::Result<Evaluation> {
        self.evaluate_tuned(plan, 0)
    }

    fn evaluate_tuned(&mut self, plan: &PrunePlan, steps: usize) -> yolo_core::Result<Evaluation> {
        self.worth(plan, steps).map_err(plain)
    }

    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> yolo_core::Result<()> {
        self.asked.loss = true;
        self.asked.epochs += epochs;
        let options = TrainOptions {
            epochs,
            val_every: epochs.max(1),
            patience: 0,
            ..self.options.train.clone()
        };
        let mut hook = Regularise {
            groups: &self.groups,
            regulariser,
        };
        let mut hooks: [&mut dyn Hook; 1] = [&mut hook];
        let listener = Epochs {
            to: self.progress,
            epochs,
            done: Cell::new(0),
        };
        let start = self.model.deep_clone();
        let outcome = train(start, &options, self.data.train, None, None, &mut hooks, &listener).map_err(plain)?;
        self.model = outcome.last;
        (self.measured, self.looked) = (Measured::default(), [false; 2]);
        self.trained += 1;
        Ok(())
    }

    fn progress(&mut self, done: usize, total: usize, note: &str) -> yolo_core::Result<()> {
        // Without a total it only asks whether to go on.
        if total > 0 {
            self.progress.step(done, total, note)
        } else {
            self.progress.ask()
        }
    }
}

/// One score per channel of those that each layer gives.
fn joined_scores(
    metric: &dyn PruneMetric,
    aggregate: Aggregate,
    each: &[Vec<f32>],
    group: Option<&GroupTensors>,
) -> yolo_core::Result<Vec<f32>> {
    let scores = aggregate.join(each);
    match scores.iter().position(|score| !score.is_finite()) {
        None => Ok(scores),
        Some(channel) => Err(yolo_core::Error::Plugin {
            plugin: metric.typetag_name().to_owned(),
            reason: format!(
                "its scores of {} layers make {} for channel {channel} of `{}`",
                each.len(),
                scores[channel],
                group.map_or("", |group| group.name.as_str())
            ),
        }),
    }
}

/// Work inside of a pruner's: it is asked whether to go on, and shown nothing else.
struct Silently<'a>(&'a dyn Progress);

impl Progress for Silently<'_> {
    fn go_on(&self) -> bool {
        self.0.go_on()
    }
}

/// A training inside of a pruner's work: its batches count over all epochs.
struct Epochs<'a> {
    to: &'a dyn Progress,
    epochs: usize,
    done: Cell<usize>,
}

impl Progress for Epochs<'_> {
    fn say(&self, line: &str) {
        self.to.say(line);
    }

    fn advance(&self, done: usize, total: usize, note: &str) {
        self.to
            .advance(self.done.get() * total + done, self.epochs * total, note);
    }

    fn go_on(&self) -> bool {
        self.to.go_on()
    }
}

impl Listener for Epochs<'_> {
    fn epoch(&self, row: &EpochRow, _: bool) {
        self.done.set(row.epoch + 1);
    }
}

/// Pruners see errors of the core only.
fn plain(error: Error) -> yolo_core::Error {
    match error {
        Error::Core(error) => error,
        other => yolo_core::Error::other(other),
    }
}
