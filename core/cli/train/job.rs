//! A training with progress on the terminal.

use std::path::Path;

use yolo_core::Pruner;
use yolo_core::config::Located;
use yolo_core::prune::Regulariser;
use yolo_data::{Loader, Split};
use yolo_engine::train::anchors::{self, AnchorReport};
use yolo_engine::train::{Event, Hook, Outcome, Regularise, Row, TrainOptions};

use crate::error::{CliError, CliResult};
use crate::{data_args, load, ranks, ui};

/// The penalty of a pruner, `{type: slimming, ...}`.
pub fn penalty(value: &serde_json::Value) -> CliResult<Box<dyn Regulariser>> {
    let pruner: Box<dyn Pruner> = Located::from_value("sparsify", value.clone()).read()?;
    pruner
        .regulariser()
        .ok_or_else(|| CliError::Usage(format!("the pruner {value} has no penalty to train under")))
}

/// The pruner of a penalty with all its options, as a setting of a run.
pub fn description(value: &serde_json::Value) -> CliResult<serde_json::Value> {
    penalty(value)?;
    let pruner: Box<dyn Pruner> = Located::from_value("sparsify", value.clone()).read()?;
    Ok(serde_json::to_value(&pruner)?)
}

/// A training with progress on the terminal.
pub struct Job<'a> {
    /// The model.
    pub start: yolo_engine::Checkpoint,
    /// Settings.
    pub options: TrainOptions,
    /// Data.
    pub dataset: &'a yolo_data::Dataset,
    /// Loader threads.
    pub workers: usize,
    /// Where decoded images are kept.
    pub cache: Option<data_args::Cache>,
    /// Where it writes.
    pub folder: &'a Path,
    /// Continue what is there.
    pub resume: bool,
}

impl Job<'_> {
    /// Loaders of the training and validation images.
    pub fn loaders(&self) -> CliResult<(Loader, Loader)> {
        let o = &self.options;
        let train = data_args::loader_of(
            self.dataset,
            o,
            &self.start,
            self.workers,
            self.cache.map(|cache| (cache, self.folder)),
        )?;
        let val = data_args::val_loader(
            self.dataset,
            Split::Val,
            &self.start,
            o.size,
            o.batch,
            self.workers,
            true,
        )?;
        Ok((train, val))
    }

    /// Holds the model's anchors against the boxes to learn from, and fits them where they are far off and `fit` allows it.
    pub fn fit_anchors(&mut self, train: &Loader, fit: bool, say: bool) -> CliResult<AnchorReport> {
        let o = &self.options;
        let report = anchors::check(&mut self.start, train.samples(), o.size, o.hyp.anchor_t, fit, o.seed);
        let report = report.map_err(load::failed)?;
        if say {
            ui::say(report.summary());
            if let Some(warning) = &report.warning {
                ui::say(format!("warning: {warning}"));
            }
        }
        Ok(report)
    }

    /// Whether what is in the folder goes on with these settings and data, before anything is written there.
    pub fn check_resume(&self, train: &Loader, val: &Loader) -> CliResult {
        let start = self.described();
        yolo_engine::train::check_resume(self.folder, &start, &self.options, train, Some(val)).map_err(load::failed)
    }

    /// The model, with what is known of the data.
    fn described(&self) -> yolo_engine::Checkpoint {
        let mut start = yolo_engine::Checkpoint::new(
            self.start.graph.clone(),
            self.start.params.shallow_clone(),
            self.start.meta.clone(),
        );
        start.meta.names.clone_from(&self.dataset.names);
        start.meta.image_size = self.options.size as i64;
        start
    }

    /// Trains, under the penalty of `sparsify` if there is one.
    pub fn run(self, label: &str, sparsify: Option<&serde_json::Value>) -> CliResult<Outcome> {
        let (train, val) = self.loaders()?;
        self.run_on(&train, &val, label, sparsify)
    }

    /// As [`Job::run`], on loaders that are there already.
    pub fn run_on(
        mut self,
        train: &Loader,
        val: &Loader,
        label: &str,
        sparsify: Option<&serde_json::Value>,
    ) -> CliResult<Outcome> {
        let place = Some((self.folder, self.resume));
        let result = self.attempt((train, val), label, sparsify, place, &mut |_| ())?;
        result.map_err(|error| self.ended(error))
    }

    /// Trains; `place` is where it writes and whether it goes on there, `each` sees the row of every epoch. What ended the training
    /// is left as it is.
    pub fn attempt(
        &mut self,
        (train, val): (&Loader, &Loader),
        label: &str,
        sparsify: Option<&serde_json::Value>,
        place: Option<(&Path, bool)>,
        each: &mut dyn FnMut(&Row),
    ) -> CliResult<yolo_engine::Result<Outcome>> {
        let start = self.described();
        self.options.hooks = sparsify.map(description).transpose()?.into_iter().collect();
        let groups = yolo_core::prune::ChannelGroups::of(&start.graph)?;
        let mut regulariser = sparsify.map(penalty).transpose()?;
        let mut hook = regulariser.as_mut().map(|regulariser| Regularise {
            groups: &groups,
            regulariser: regulariser.as_mut(),
        });
        let mut hooks: Vec<&mut dyn Hook> = Vec::new();
        if let Some(hook) = &mut hook {
            hooks.push(hook);
        }
        ui::stop_flag();
        let epochs = self.options.epochs;
        let mut bar = ui::Bar::new(label, train.batches() as u64);
        let mut listen = |event: &Event<'_>| {
            match event {
                Event::Batch {
                    epoch,
                    done,
                    total,
                    loss,
                } => {
                    let note = format!(
                        "epoch {}/{epochs} box {:.4} obj {:.4} cls {:.4}",
                        epoch + 1,
                        loss[0],
                        loss[1],
                        loss[2]
                    );
                    bar.set(*done as u64, *total as u64, &note);
                }
                Event::Val { done, total } => bar.set(*done as u64, *total as u64, "validating"),
                Event::Epoch { row, best } => {
                    each(row);
                    let [box_loss, obj, cls] = row.loss;
                    let metrics = row
                        .metrics
                        .map(|[_, _, map50, map]| format!("  mAP50 {map50:.4}  mAP {map:.4}"))
                        .unwrap_or_default();
                    let star = if *best { "  *" } else { "" };
                    let epoch = row.epoch + 1;
                    bar.line(&format!(
                        "{label} {epoch:>3}/{epochs}  box {box_loss:.4}  obj {obj:.4}  cls {cls:.4}{metrics}{star}"
                    ));
                }
            }
            !ui::stopped()
        };
        let result = yolo_engine::train::train(start, &self.options, train, Some(val), place, &mut hooks, &mut listen);
        bar.finish();
        if let Ok(outcome) = &result
            && outcome.epochs < epochs
        {
            ui::say(format!(
                "stopped after {} of {epochs} epochs: no better fitness for {} epochs (--patience)",
                outcome.epochs, self.options.patience
            ));
        }
        Ok(result)
    }

    /// What a training says that ended before its time: what is kept, and how it goes on.
    fn ended(&self, error: yolo_engine::Error) -> CliError {
        use yolo_engine::Error;
        let again = format!("`yolo train --resume {}`", self.folder.display());
        let last = self.folder.join("weights/last.safetensors");
        match error {
            Error::Core(yolo_core::Error::Cancelled) => {
                CliError::Interrupted(format!("stopped; every finished epoch is kept, continue with {again}"))
            }
            // The same settings would end in the same place.
            Error::Diverged { .. } | Error::OutOfMemory { .. } => CliError::Failed(format!(
                "{error}\n  help: every finished epoch is kept: start from there with other settings, `yolo train --weights {} ...`, or \
                 repeat this one with {again}",
                last.display()
            )),
            Error::Lost(reason) => CliError::Failed(ranks::with_advice(&reason, Some(&self.folder.to_owned()))),
            other => match load::failed(other) {
                CliError::Failed(text) if !last.is_file() => CliError::Failed(format!(
                    "{text}\n  help: no epoch is finished yet: when the cause is gone, {again} starts the run anew"
                )),
                CliError::Failed(text) => CliError::Failed(format!(
                    "{text}\n  help: every finished epoch is kept: when the cause is gone, continue with {again}"
                )),
                usage => usage,
            },
        }
    }
}
