//! A training inside of a job: loaders, anchors, the penalty, and what is said when it ends before its time.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use yolo_core::config::Located;
use yolo_core::prune::Regulariser;
use yolo_core::{Progress, Pruner};
use yolo_data::{Dataset, Loader, Split, classes};
use yolo_engine::Checkpoint;
use yolo_engine::train::anchors::{self, AnchorReport};
use yolo_engine::train::{EpochRow, Hook, Listener, Outcome, Regularise, TrainOptions};

use crate::error::{Error, Result};
use crate::open::{self, Cache};
use crate::{Session, plots};

/// The penalty of a pruner, `{type: slimming, ...}`.
///
/// # Errors
/// An unknown name or option; a pruner without a penalty.
pub fn penalty(value: &serde_json::Value) -> Result<Box<dyn Regulariser>> {
    pruner(value)?
        .regulariser()
        .ok_or_else(|| Error::Usage(format!("the pruner {value} has no penalty to train under")))
}

/// The pruner of a penalty with all its options, as a setting of a run.
pub(super) fn description(value: &serde_json::Value) -> Result<serde_json::Value> {
    penalty(value)?;
    Ok(serde_json::to_value(&pruner(value)?)?)
}

/// A name or a configuration.
fn pruner(value: &serde_json::Value) -> Result<Box<dyn Pruner>> {
    Ok(Located::from_value("sparsify", open::written(value)?).read()?)
}

/// A training.
pub struct Job<'a> {
    /// Plugins and listener.
    pub session: Session<'a>,
    /// The model.
    pub start: Checkpoint,
    /// Settings.
    pub options: TrainOptions,
    /// Data.
    pub dataset: &'a Dataset,
    /// Loader threads.
    pub workers: usize,
    /// Where decoded images are kept.
    pub cache: Option<Cache>,
    /// Where it writes.
    pub folder: PathBuf,
    /// Continue what is there.
    pub resume: bool,
    /// Since when it is: pictures from before are another run's.
    pub began: SystemTime,
}

impl Job<'_> {
    /// Loaders of the training and validation images.
    ///
    /// # Errors
    /// Those of [`open::loader_of`] and of [`open::val_loader`].
    pub fn loaders(&self) -> Result<(Loader, Loader)> {
        let o = &self.options;
        let train = open::loader_of(
            self.session,
            self.dataset,
            o,
            &self.start,
            self.workers,
            self.cache.map(|cache| (cache, self.folder.as_path())),
        )?;
        let val = open::val_loader(
            self.session,
            self.dataset,
            Split::Val,
            &self.start,
            open::Batching {
                size: o.size,
                batch: o.batch,
                workers: self.workers,
            },
            true,
        )?;
        Ok((train, val))
    }

    /// Says which classes only one of the two has boxes of.
    pub fn say_lopsided(&self, train: &Loader, val: &Loader) {
        let names = &self.dataset.names;
        let counts = |loader: &Loader| {
            let labels = loader.samples().iter().flat_map(|sample| &sample.boxes);
            classes::counts(labels, names.len())
        };
        for said in classes::lopsided(names, &counts(train), &counts(val)) {
            self.session.say(format!("note: {said}"));
        }
    }

    /// Holds the model's anchors against the boxes to learn from, and fits them where they are far off and `fit` allows it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without a head, and for one that leaves its anchors to the data where `fit` is not set or the data
    /// gives none.
    pub fn fit_anchors(&mut self, train: &Loader, fit: bool, say: bool) -> Result<AnchorReport> {
        let o = &self.options;
        let report = anchors::check(&mut self.start, train.samples(), o.size, o.hyp.anchor_t, fit, o.seed)?;
        if say {
            self.session.say(report.summary());
            if let Some(warning) = &report.warning {
                self.session.say(format!("warning: {warning}"));
            }
        }
        Ok(report)
    }

    /// Whether what is in the folder goes on with these settings and data, before anything is written there.
    ///
    /// # Errors
    /// [`Error::Usage`] has what differs from what the run was started with, or the batch norm that would see a single value
    /// of each channel; [`Error::Failed`] for a state that can't be read and a teacher that does not fit.
    pub fn check_resume(&self, train: &Loader, val: &Loader) -> Result {
        let start = self.described();
        Ok(yolo_engine::train::check_resume(
            &self.folder,
            &start,
            &self.options,
            train,
            Some(val),
        )?)
    }

    /// The model, with what is known of the data.
    fn described(&self) -> Checkpoint {
        let mut start = Checkpoint::new(
            self.start.graph.clone(),
            self.start.params.shallow_clone(),
            self.start.meta.clone(),
        );
        start.meta.names.clone_from(&self.dataset.names);
        start.meta.image_size = self.options.size as i64;
        start
    }

    /// Trains, under the penalty of `sparsify` if there is one.
    ///
    /// # Errors
    /// Those of [`Job::loaders`] and [`Job::run_on`].
    pub fn run(self, label: &str, sparsify: Option<&serde_json::Value>) -> Result<Outcome> {
        let (train, val) = self.loaders()?;
        self.run_on(&train, &val, label, sparsify)
    }

    /// As [`Job::run`], on loaders that are there already.
    ///
    /// # Errors
    /// Those of [`Job::attempt`]; what ended the training, with what is kept and the command that goes on: [`Error::Interrupted`] where
    /// the listener wanted it, else [`Error::Usage`] or [`Error::Failed`].
    pub fn run_on(
        mut self,
        train: &Loader,
        val: &Loader,
        label: &str,
        sparsify: Option<&serde_json::Value>,
    ) -> Result<Outcome> {
        let folder = self.folder.clone();
        let place = Some((folder.as_path(), self.resume));
        let result = self.attempt((train, val), label, sparsify, place, &mut |_| ())?;
        result.map_err(|error| self.ended(error))
    }

    /// Trains; `place` is where it writes and whether it goes on there, `each` sees the row of every epoch. What ended the training
    /// is left as it is.
    ///
    /// # Errors
    /// Outside, before the training: those of [`penalty`], and a graph whose channels can't be followed. Inside: those of
    /// [`yolo_engine::train::train`].
    pub fn attempt(
        &mut self,
        (train, val): (&Loader, &Loader),
        label: &str,
        sparsify: Option<&serde_json::Value>,
        place: Option<(&Path, bool)>,
        each: &mut dyn FnMut(&EpochRow),
    ) -> Result<yolo_engine::Result<Outcome>> {
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
        let epochs = self.options.epochs;
        let task = self.session.progress.task(label, train.batches());
        let listener = Epochs {
            to: &*task,
            label,
            epochs,
            each: RefCell::new(each),
            anew: (!self.resume).then_some((self.folder.as_path(), self.began)),
        };
        let result = yolo_engine::train::train(start, &self.options, train, Some(val), place, &mut hooks, &listener);
        drop(task);
        if let Ok(outcome) = &result
            && outcome.epochs < epochs
        {
            self.session.say(format!(
                "stopped after {} of {epochs} epochs: no better fitness for {} epochs (--patience)",
                outcome.epochs, self.options.patience
            ));
        }
        Ok(result)
    }

    /// What a training says that ended before its time: what is kept, and how it goes on.
    fn ended(&self, error: yolo_engine::Error) -> Error {
        use yolo_engine::Error as Engine;
        let again = format!("`yolo train --resume {}`", self.folder.display());
        let last = self.folder.join("weights/last.safetensors");
        // What an earlier run left in the folder is none of this one's epochs.
        let state = yolo_engine::checkpoint::state_numbers(&self.folder.join(yolo_engine::train::STATE));
        let kept = state.is_ok_and(|state| state.epochs_done > 0);
        match error {
            Engine::Core(yolo_core::Error::Cancelled) => {
                Error::Interrupted(format!("stopped; every finished epoch is kept, continue with {again}"))
            }
            // The same settings would end in the same place.
            Engine::Diverged { .. } | Engine::OutOfMemory { .. } if !kept => Error::Failed(format!(
                "{error}\n  help: no epoch is finished yet: start the run again with other settings"
            )),
            Engine::Diverged { .. } | Engine::OutOfMemory { .. } => Error::Failed(format!(
                "{error}\n  help: every finished epoch is kept: start from there with other settings, `yolo train --weights {} ...`, or \
                 repeat this one with {again}",
                last.display()
            )),
            Engine::Lost(reason) => Error::Failed(with_advice(&reason, Some(&self.folder))),
            other => match Error::from(other) {
                Error::Failed(text) if !kept => Error::Failed(format!(
                    "{text}\n  help: no epoch is finished yet: when the cause is gone, {again} starts the run anew"
                )),
                Error::Failed(text) => Error::Failed(format!(
                    "{text}\n  help: every finished epoch is kept: when the cause is gone, continue with {again}"
                )),
                usage => usage,
            },
        }
    }
}

/// What to do after a lost rank: the run can be continued.
pub fn with_advice(reason: &str, folder: Option<&PathBuf>) -> String {
    match folder {
        Some(folder) => format!(
            "{reason}\n  help: start all ranks again with `yolo train --resume {}`; their number may be another",
            folder.display()
        ),
        None => reason.to_owned(),
    }
}

/// Shows every epoch in a line.
struct Epochs<'a> {
    to: &'a dyn Progress,
    label: &'a str,
    epochs: usize,
    each: RefCell<&'a mut dyn FnMut(&EpochRow)>,
    /// The folder of a run that is not resumed, and since when it is.
    anew: Option<(&'a Path, SystemTime)>,
}

impl Progress for Epochs<'_> {
    fn say(&self, line: &str) {
        self.to.say(line);
    }

    fn advance(&self, done: usize, total: usize, note: &str) {
        self.to.advance(done, total, note);
    }

    fn go_on(&self) -> bool {
        self.to.go_on()
    }
}

impl Listener for Epochs<'_> {
    fn epoch(&self, row: &EpochRow, best: bool) {
        (self.each.borrow_mut())(row);
        if let Some((folder, began)) = self.anew.filter(|_| row.epoch == 0)
            && let Err(error) = plots::forget(folder, began)
        {
            self.to.say(&format!("note: pictures of an earlier run: {error}"));
        }
        let [box_loss, obj, cls] = row.loss;
        let taught = row
            .distil_loss
            .map(|loss| format!("  teacher {loss:.4}"))
            .unwrap_or_default();
        let metrics = row
            .metrics
            .map(|[_, _, map50, map]| format!("  mAP50 {map50:.4}  mAP {map:.4}"))
            .unwrap_or_default();
        let star = if best { "  *" } else { "" };
        self.to.say(&format!(
            "{} {:>3}/{}  box {box_loss:.4}  obj {obj:.4}  cls {cls:.4}{taught}{metrics}{star}",
            self.label,
            row.epoch + 1,
            self.epochs
        ));
    }
}
