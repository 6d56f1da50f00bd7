//! What a pruner may ask of the program.

use std::cell::Cell;

use rayon::prelude::*;
use tch::Tensor;
use yolo_core::prune::{
    Budget, ChannelGroups, CostModel, Evaluation, GroupTensors, PruneHost, PruneMetric, PrunePlan, Regulariser,
    Rounding, Scores, apply, checked_score,
};
use yolo_core::{Graph, Params, Progress};

use super::gradients::mean_gradients;
use super::tune::tune;
use super::{PruneData, PruneOptions, recalibrate};
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
    gradients: Option<Params>,
}

impl<'a> Host<'a> {
    /// A host that works on `model`, which must share no tensors with others: a pruner may train it.
    ///
    /// # Errors
    /// Those of [`ChannelGroups::of`] and [`CostModel::of`]: a graph whose shapes do not fit, at the image size of `data.calib`.
    pub fn new(
        model: Checkpoint,
        data: PruneData<'a>,
        options: &'a PruneOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let groups = ChannelGroups::of(&model.graph)?;
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
            gradients: None,
        })
    }

    /// The model, trained if the pruner trained it.
    pub fn into_model(self) -> Checkpoint {
        self.model
    }

    /// The pruned copy of a plan, with tensors of its own.
    fn candidate(&self, plan: &PrunePlan) -> Result<(Graph, Params)> {
        let (graph, params) = apply(&self.model.graph, &self.model.params, &self.groups, plan)?;
        Ok((graph, params.deep_clone()))
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
        let wanted = metric.needs();
        if wanted.grad && self.gradients.is_none() {
            let found = mean_gradients(
                &self.model,
                self.data.calib,
                self.options.calib_batches,
                &self.options.train,
            );
            self.gradients = Some(found.map_err(plain)?);
        }
        let count = self.groups.groups.len();
        let tensors: Vec<GroupTensors> = self
            .groups
            .groups
            .iter()
            .enumerate()
            .map(|(at, group)| {
                GroupTensors::collect(group, (at, count), &self.model.params, self.gradients.as_ref(), wanted)
            })
            .collect::<yolo_core::Result<_>>()?;
        // Groups are scored side by side; the first complaint (in their order) is the one that is told.
        let scored: Vec<yolo_core::Result<Vec<f32>>> = tensors
            .into_par_iter()
            .map(|group| tch::no_grad(|| checked_score(metric.typetag_name(), metric, &group)))
            .collect();
        scored.into_iter().collect()
    }

    fn tensor(&self, key: &str) -> yolo_core::Result<Tensor> {
        Ok(self.model.params.require(key)?.shallow_clone())
    }

    fn evaluate(&mut self, plan: &PrunePlan) -> yolo_core::Result<Evaluation> {
        self.evaluate_tuned(plan, 0)
    }

    fn evaluate_tuned(&mut self, plan: &PrunePlan, steps: usize) -> yolo_core::Result<Evaluation> {
        let result = (|| {
            let (graph, mut params) = self.candidate(plan)?;
            if steps > 0 {
                params = tune(&graph, &params, self.data.train, steps, &self.options.train)?;
            }
            recalibrate(&graph, &params, self.data.calib, self.options.calib_batches)?;
            self.measure(&graph, &params)
        })();
        result.map_err(plain)
    }

    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> yolo_core::Result<()> {
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
        self.gradients = None;
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
