//! The training loop.

use std::path::PathBuf;
use std::sync::Arc;

use yolo_core::graph::DetectHead;
use yolo_core::prune::Step as HookStep;
use yolo_core::{Params, Progress};
use yolo_data::{Hyp, Loader};

use super::events::Events;
use super::fingerprint::Fingerprint;
use super::finite::not_finite;
use super::results::{self, COLUMNS, EpochRow};
use super::resume;
use super::sampling::{self, Sampling};
use super::step::{LossMean, StepOptions, Stepper};
use super::{Distillation, Ema, Hook, Listener, Outcome, Schedule, TrainOptions, distil, norms};
use crate::checkpoint::{self, Checkpoint, HistoryEntry, TrainState};
use crate::dist::World;
use crate::eval::{Metrics, NmsOptions};
use crate::loss::{Loss, LossOptions};
use crate::{Error, Result, val};

/// Trains `start`. With `folder`, writes `weights/{last,best}.safetensors`, `state.safetensors` and `results.csv` there, and continues
/// an unfinished run of the same settings if `resume` is set. The same seed gives the same run, interrupted or not.
///
/// # Errors
/// - [`Error::Settings`]: a batch norm would see one value (it is named, with what would do), nothing is left to train, the unfinished run
///   in `folder` has other settings or data (what differs is named), or the ranks have different models.
/// - [`Error::Diverged`] names the loss or the tensor that is not finite, with epoch and batch.
/// - [`Error::OutOfMemory`] names the batch, and one that fits where that is known.
/// - [`Error::Lost`] where another rank is gone.
/// - [`Error::Data`] names an image that can't be read.
/// - [`Error::Io`] and [`Error::File`] name the file of `folder` that can't be written, or not be understood.
/// - [`Error::Core`]: the model can't be run, has no head or lacks a tensor, does not fit its teacher, a hook failed, or the listener
///   wanted the end ([`yolo_core::Error::Cancelled`]).
pub fn train(
    start: Checkpoint,
    options: &TrainOptions,
    train: &Loader,
    val: Option<&Loader>,
    folder: Option<(&std::path::Path, bool)>,
    hooks: &mut [&mut dyn Hook],
    listener: &dyn Listener,
) -> Result<Outcome> {
    let mut run = Run::new(start, options, train, val, folder)?;
    run.begin()?;
    if run.state.epochs_done == 0 && run.world.is_main() {
        for remark in run.schedule.remarks(options.hyp.warmup_epochs) {
            listener.say(&format!("note: {remark}"));
        }
    }
    match epochs(&mut run, options, train, val, hooks, listener) {
        Ok(()) => run.finish(),
        Err(error) => Err(run.explain(error, options)),
    }
}

/// All that are left to do.
fn epochs(
    run: &mut Run,
    options: &TrainOptions,
    train: &Loader,
    val: Option<&Loader>,
    hooks: &mut [&mut dyn Hook],
    listener: &dyn Listener,
) -> Result<()> {
    let (done, best) = (run.state.epochs_done, run.state.best_epoch);
    if val.is_some() && done > 0 && done < options.epochs && done.is_multiple_of(options.val_every.max(1)) {
        let tired = impatient(done - 1, best, options);
        if options.world.decide(tired)? {
            if run.world.is_main() {
                listener.say(&format!(
                    "the run was over after {done} of {} epochs: none of the last {} was better than epoch {} (patience: {}); a new run can start \
                     from its weights",
                    options.epochs,
                    done - 1 - best,
                    best + 1,
                    options.patience
                ));
            }
            return Ok(());
        }
    }
    while run.state.epochs_done < options.epochs {
        let epoch = run.state.epochs_done;
        let losses = run.epoch(epoch, options, train, hooks, listener)?;
        let last = epoch + 1 == options.epochs;
        let due = last || (epoch + 1).is_multiple_of(options.val_every.max(1));
        let report = match val.filter(|_| due) {
            Some(loader) => run.validate(loader, &Validating(listener))?,
            None => None,
        };
        let metrics = report.as_ref().map(|report| report.metrics.clone());
        let row = EpochRow {
            epoch,
            loss: losses,
            metrics: metrics.as_ref().map(|m| [m.precision, m.recall, m.map50, m.map]),
            val_loss: report.and_then(|report| report.loss),
            lr: [0, 1, 2].map(|group: usize| run.stepper.optimizer.groups[group].lr),
            distil_loss: options.distil.as_ref().map(|_| run.distilled.iter().sum()),
        };
        if due && options.sampling == Sampling::Weighted {
            run.remember_classes(metrics.as_ref())?;
        }
        let measured = metrics.is_some();
        let best = run.keep_best(epoch, metrics, val.is_none());
        run.save(&row, best, options)?;
        listener.epoch(&row, best);
        let wanted = options.world.all(listener.go_on())?;
        // Epochs that were not measured are no reason for impatience.
        let tired = measured && impatient(epoch, run.state.best_epoch, options);
        if options.world.decide(tired)? {
            break;
        }
        if run.state.epochs_done < options.epochs {
            go_on(wanted)?;
        }
    }
    Ok(())
}

/// Whether the last of the epochs up to `epoch` that got better is longer ago than patience lasts.
fn impatient(epoch: usize, best: usize, options: &TrainOptions) -> bool {
    options.patience > 0 && epoch - best.min(epoch) >= options.patience
}

/// Whether the run in `folder` goes on with these settings, data and start; for callers that write before they call [`train`].
///
/// # Errors
/// What differs, or a state that can't be read.
pub fn check_resume(
    folder: &std::path::Path,
    start: &Checkpoint,
    options: &TrainOptions,
    train: &Loader,
    val: Option<&Loader>,
) -> Result<()> {
    let path = folder.join(resume::STATE);
    if !path.exists() {
        return Ok(());
    }
    norms::check(start, options, train)?;
    distil::check(options, start, train)?;
    let settings = serde_json::to_value(options).map_err(yolo_core::Error::from)?;
    let state = checkpoint::state_numbers(&path)?;
    let mut fingerprint = Fingerprint::of(train, val, &start.meta.names, &start.params)?;
    if options.start_is_gone {
        fingerprint.start_as(state.fingerprint.as_ref());
    }
    resume::check(folder, &state, &settings, &fingerprint)
}

/// The loss of a head with the gains of `hyp`, scaled to its levels, classes and the image size.
pub(crate) fn loss_of(head: &DetectHead, hyp: &Hyp, size: usize) -> Loss {
    let gains = LossOptions {
        box_gain: hyp.box_gain,
        obj_gain: hyp.obj,
        cls_gain: hyp.cls,
        obj_pw: hyp.obj_pw,
        cls_pw: hyp.cls_pw,
        anchor_t: hyp.anchor_t,
        fl_gamma: hyp.fl_gamma,
        label_smoothing: hyp.label_smoothing,
    };
    Loss::new(head, gains.scaled(head.anchors.len(), head.classes, size as i64))
}

/// The validation after an epoch.
struct Validating<'a>(&'a dyn Listener);

impl Progress for Validating<'_> {
    fn advance(&self, done: usize, total: usize, _: &str) {
        self.0.advance(done, total, "validating");
    }

    fn go_on(&self) -> bool {
        self.0.go_on()
    }
}

fn go_on(wanted: bool) -> Result<()> {
    if wanted {
        Ok(())
    } else {
        Err(yolo_core::Error::Cancelled.into())
    }
}

/// State of a running training.
struct Run {
    world: Arc<World>,
    sync_bn: bool,
    model: Checkpoint,
    stepper: Stepper,
    ema: Ema,
    schedule: Schedule,
    state: TrainState,
    best: Option<(Params, Metrics)>,
    folder: Option<PathBuf>,
    /// Opened with the first row.
    events: Option<Events>,
    /// Mean parts of the distiller's loss in the last epoch.
    distilled: Vec<f64>,
    /// Images trained on in this process, and the seconds that took.
    seen: usize,
    seconds: f64,
}

impl Run {
    fn new(
        start: Checkpoint,
        options: &TrainOptions,
        train: &Loader,
        val: Option<&Loader>,
        folder: Option<(&std::path::Path, bool)>,
    ) -> Result<Self> {
        norms::check(&start, options, train)?;
        distil::check(options, &start, train)?;
        // Rank 0 reads and writes; the others get from it what they need.
        let folder = folder.filter(|_| options.world.is_main());
        let settings = serde_json::to_value(options).map_err(yolo_core::Error::from)?;
        let mut fingerprint = Fingerprint::of(train, val, &start.meta.names, &start.params)?;
        let saved = match folder {
            Some((folder, true)) if folder.join(resume::STATE).exists() => {
                let (model, ema, optimizer, state) = checkpoint::load_state(&folder.join(resume::STATE))?;
                if options.start_is_gone {
                    fingerprint.start_as(state.fingerprint.as_ref());
                }
                resume::check(folder, &state, &settings, &fingerprint)?;
                Some((model, ema, optimizer, state))
            }
            _ => None,
        };
        // A run goes on where this start is: on its device, not on the one that the state was written from.
        let device = start.params.device();
        let (start, restored) = match saved {
            Some((model, ema, optimizer, state)) => (model.to_device(device), Some((ema, optimizer, state))),
            None => (start, None),
        };
        let batches = train.batches().max(1);
        let schedule = Schedule::of(options, batches);
        let mut stepper = Stepper::new(
            &start.graph,
            &start.params,
            &StepOptions::of(options, schedule.scaled_decay(options.hyp.weight_decay)),
        )?
        .within(options.world.clone(), options.sync_bn)
        .taught_by(options.distil.as_ref(), options.seed)?;
        let mut ema = stepper.ema();
        let mut state = TrainState {
            last_step: -1,
            settings,
            fingerprint: Some(fingerprint),
            best_fitness: -1.0,
            ..TrainState::default()
        };
        if let Some((average, tensors, old)) = restored {
            stepper.restore(old.optimizer_steps, |key| {
                tensors.get(key).map(tch::Tensor::shallow_clone)
            })?;
            if let Some(scaler) = old.scaler {
                stepper.restore_scaler(scaler)?;
            }
            ema.restore(&average, old.ema_updates)?;
            state = old;
        }
        let model = Checkpoint::new(start.graph, stepper.params.shallow_clone(), start.meta);
        let folder = folder.map(|(folder, _)| folder.to_owned());
        let mut run = Self {
            world: options.world.clone(),
            sync_bn: options.sync_bn,
            model,
            stepper,
            ema,
            schedule,
            state,
            best: None,
            folder,
            events: None,
            distilled: Vec::new(),
            seen: 0,
            seconds: 0.0,
        };
        run.restore_best()?;
        run.start_alike()?;
        Ok(run)
    }

    /// A run can be continued from its first moment on, and repeats nothing that is in its tables already.
    fn begin(&mut self) -> Result<()> {
        let Some(folder) = self.folder.clone() else {
            return Ok(());
        };
        resume::cut(&folder, self.state.epochs_done)?;
        if self.state.epochs_done == 0 {
            self.save_state(&folder)?;
        }
        Ok(())
    }

    /// Weights, average, optimizer and numbers of rank 0, everywhere.
    fn start_alike(&mut self) -> Result<()> {
        if self.world.backend().is_none() {
            return Ok(());
        }
        let optimizer = self.stepper.state();
        let names: Vec<&str> = self.model.params.iter().map(|(key, _)| key).collect();
        let shapes: Vec<Vec<i64>> = self.model.params.iter().map(|(_, tensor)| tensor.size()).collect();
        let own = serde_json::to_vec(&(&names, &shapes)).map_err(yolo_core::Error::from)?;
        let same = self.world.share(own.clone())? == own;
        if !self.world.all(same)? {
            return Err(Error::Settings(
                "the ranks have different models: start all of them with the same command and files".into(),
            ));
        }
        self.state.ema_updates = self.ema.updates;
        self.state.optimizer_steps = self.stepper.optimizer.steps()?;
        self.state.scaler = self.stepper.scaler_state()?;
        let state = serde_json::to_vec(&self.state).map_err(yolo_core::Error::from)?;
        self.state = serde_json::from_slice(&self.world.share(state)?).map_err(yolo_core::Error::from)?;
        if !self.world.is_main() {
            let keep = |key: &str| optimizer.get(key).map(tch::Tensor::shallow_clone);
            self.stepper.restore(self.state.optimizer_steps, keep)?;
            if let Some(scaler) = self.state.scaler {
                self.stepper.restore_scaler(scaler)?;
            }
            self.ema.updates = self.state.ema_updates;
        }
        let tensors: Vec<tch::Tensor> = (self.model.params.iter().map(|(_, tensor)| tensor))
            .chain(self.ema.params.iter().map(|(_, tensor)| tensor))
            .chain(optimizer.values())
            .map(tch::Tensor::detach)
            .collect();
        self.world.broadcast(&tensors)
    }

    /// Running statistics of rank 0, everywhere. Without synchronised batch norm each rank has those of its own images; as with PyTorch's
    /// `DistributedDataParallel`, rank 0's count.
    fn same_statistics(&self) -> Result<()> {
        if self.world.backend().is_none() || self.sync_bn {
            return Ok(());
        }
        let kept = |(key, tensor): (&str, &tch::Tensor)| (!tensor.requires_grad()).then(|| key.to_owned());
        let keys: Vec<String> = self.model.params.iter().filter_map(kept).collect();
        let both = [&self.model.params, &self.ema.params];
        let tensors: Vec<tch::Tensor> = both
            .iter()
            .flat_map(|params| keys.iter().filter_map(|key| params.get(key)))
            .map(tch::Tensor::detach)
            .collect();
        self.world.broadcast(&tensors)
    }

    /// The best model of an earlier part of this run.
    fn restore_best(&mut self) -> Result<()> {
        let Some(path) = self
            .folder
            .as_ref()
            .map(|folder| folder.join("weights/best.safetensors"))
        else {
            return Ok(());
        };
        if self.state.epochs_done > 0 && path.exists() {
            let best = checkpoint::load(&path)?;
            let value = |name: &str| best.meta.metrics.get(name).copied().unwrap_or_default();
            let metrics = Metrics {
                map50: value("map50"),
                map: value("map"),
                precision: value("precision"),
                recall: value("recall"),
                ..Metrics::default()
            };
            self.best = Some((best.params, metrics));
        }
        Ok(())
    }

    /// Measures the average model; the report is rank 0's. Outputs that are no numbers are the training's fault, not a file's.
    fn validate(&self, loader: &Loader, progress: &dyn Progress) -> Result<Option<val::Report>> {
        self.measured(loader, progress).map_err(|error| match error {
            Error::NotFinite => diverged("what the average model gives", self.state.epochs_done - 1, 0),
            other => other,
        })
    }

    fn measured(&self, loader: &Loader, progress: &dyn Progress) -> Result<Option<val::Report>> {
        let detector = val::Detector::new(&self.model.graph, &self.ema.params)?;
        let (total, nms, loss) = (loader.batches(), NmsOptions::validation(), Some(self.stepper.loss()));
        if self.world.backend().is_some() {
            return val::measure_shared(&detector, loader, &nms, loss, &self.world, progress);
        }
        let batches = &mut loader.epoch(0);
        val::measure(&detector, batches, total, &nms, loss, &mut |_| Ok(()), progress).map(Some)
    }

    /// mAP of each class, which only rank 0 has measured, everywhere: the next images are drawn by it.
    fn remember_classes(&mut self, metrics: Option<&Metrics>) -> Result<()> {
        let classes = self.model.graph.head.as_ref().map_or(0, |head| head.classes as usize);
        let own = metrics.map_or_else(Vec::new, |metrics| sampling::class_maps(metrics, classes));
        let own = serde_json::to_vec(&own).map_err(yolo_core::Error::from)?;
        self.state.class_maps = serde_json::from_slice(&self.world.share(own)?).map_err(yolo_core::Error::from)?;
        Ok(())
    }

    /// One epoch; returns the mean losses.
    fn epoch(
        &mut self,
        epoch: usize,
        options: &TrainOptions,
        loader: &Loader,
        hooks: &mut [&mut dyn Hook],
        listener: &dyn Listener,
    ) -> Result<[f64; 3]> {
        // Dropout and stochastic depth draw from libtorch's generators: one seed per epoch makes a resumed run equal.
        // Ranks draw for different images.
        let own = (self.world.rank() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        tch::manual_seed(options.seed.wrapping_add(epoch as u64).wrapping_add(own) as i64);
        // Batches that no update followed are dropped here: a state holds no gradients, so a resumed run couldn't have them.
        self.stepper.optimizer.zero_grad()?;
        let total = loader.batches();
        let taught = options.distil.as_ref().map_or(0, |distil| distil.parts().len());
        let [mut losses, mut distilled] = [
            LossMean::new(3, self.stepper.device())?,
            LossMean::new(taught, self.stepper.device())?,
        ];
        let mut mean = [0.0; 3];
        let updates = self.schedule.updates(total);
        let started = std::time::Instant::now();
        let (shard, maps) = (self.world.shard(), &self.state.class_maps);
        for (index, batch) in options.sampling.epoch(loader, epoch, shard, maps).enumerate() {
            let batch = batch?;
            let iteration = epoch * total + index;
            let step = self.schedule.step(iteration, epoch);
            self.stepper.set(&step);
            self.stepper.count(!batch.idle);
            let mut images = self.stepper.images(&batch)?;
            if options.multi_scale {
                images = sampling::rescaled(&images, options, iteration, self.model.max_stride())?;
            }
            let parts = self.stepper.accumulate(&images, &batch.targets, hooks)?;
            let last = index + 1 == total;
            let read = losses
                .add(&parts, last)?
                .ok_or_else(|| diverged("the loss", epoch, index))?;
            mean.copy_from_slice(read);
            if let Some(parts) = self.stepper.distilled() {
                let read = distilled.add(parts, last)?;
                let what = || {
                    format!(
                        "the loss of the distiller `{}`",
                        options.distil.as_ref().map_or("", Distillation::name)
                    )
                };
                self.distilled = read.ok_or_else(|| diverged(&what(), epoch, index))?.to_vec();
            }
            if iteration as i64 - self.state.last_step >= step.accumulate as i64 {
                let at = HookStep {
                    step: self.state.updates,
                    total: updates.total,
                    per_epoch: updates.per_epoch,
                };
                self.stepper.update(&step, at, hooks)?;
                self.ema.update()?;
                self.state.last_step = iteration as i64;
                self.state.updates += 1;
            }
            let note = format!(
                "epoch {}/{} box {:.4} obj {:.4} cls {:.4}",
                epoch + 1,
                options.epochs,
                mean[0],
                mean[1],
                mean[2]
            );
            listener.advance(index + 1, total, &note);
            // All ranks stop at the same batch.
            go_on(self.world.all(listener.go_on())?)?;
        }
        self.same_statistics()?;
        // The losses of the last batch were read, so the device is done.
        self.seconds += started.elapsed().as_secs_f64();
        self.seen += loader.images();
        // A loss is looked at before the update that follows it; what the last update made of the weights nobody has seen yet.
        for (params, of) in [(&self.stepper.params, ""), (&self.ema.params, "the average of ")] {
            if let Some(key) = not_finite(params)? {
                return Err(diverged(&format!("{of}`{key}`"), epoch, total - 1));
            }
        }
        self.state.epochs_done = epoch + 1;
        Ok(mean)
    }

    /// Keeps the average model if it is the best; without validation, the latest counts.
    fn keep_best(&mut self, epoch: usize, metrics: Option<Metrics>, blind: bool) -> bool {
        let Some(metrics) = metrics.or_else(|| blind.then(Metrics::default)) else {
            return false;
        };
        let better = blind || metrics.fitness() > self.state.best_fitness;
        if better {
            self.state.best_fitness = metrics.fitness();
            self.state.best_epoch = epoch;
            self.best = Some((self.ema.params.deep_clone(), metrics));
        }
        better
    }

    /// The average model as a checkpoint.
    fn checkpoint(&self, params: &Params, metrics: Option<&Metrics>) -> Checkpoint {
        let mut meta = self.model.meta.clone();
        if let Some(m) = metrics {
            meta.metrics = [
                ("map50", m.map50),
                ("map", m.map),
                ("precision", m.precision),
                ("recall", m.recall),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        }
        let mut settings = self.state.settings.clone();
        settings["images"] = serde_json::json!(self.state.fingerprint.as_ref().map(|known| &known.train));
        meta.history.push(HistoryEntry {
            kind: "train".into(),
            summary: format!("{} epochs", self.state.epochs_done),
            settings,
        });
        let contiguous = params
            .iter()
            .map(|(key, tensor)| (key.to_owned(), tensor.detach().to_device(tch::Device::Cpu).contiguous()))
            .collect();
        Checkpoint::new(self.model.graph.clone(), contiguous, meta)
    }

    /// Everything that an epoch leaves. The state comes last: whatever ends the process before is repeated from the state before.
    fn save(&mut self, row: &EpochRow, best: bool, options: &TrainOptions) -> Result<()> {
        let period = options.save_period;
        let Some(folder) = self.folder.clone() else {
            return Ok(());
        };
        if self.state.epochs_done == 1 {
            resume::replace(&folder)?;
        }
        results::append(&folder.join("results.csv"), row)?;
        if self.events.is_none() {
            self.events = Some(Events::new(&folder)?);
        }
        if let Some(events) = &mut self.events {
            let values = row.values();
            let measured = COLUMNS[1..]
                .iter()
                .zip(values)
                .filter_map(|(tag, value)| Some((*tag, value?)));
            let tags: Vec<String> = options
                .distil
                .iter()
                .flat_map(|distil| distil.parts())
                .map(|part| format!("distil/{part}"))
                .collect();
            let distilled = tags.iter().map(String::as_str).zip(self.distilled.iter().copied());
            events.scalars(row.epoch, measured.chain(distilled))?;
        }
        let last = self.checkpoint(&self.ema.params, None);
        checkpoint::save(&folder.join("weights/last.safetensors"), &last)?;
        let done = self.state.epochs_done;
        if period > 0 && done.is_multiple_of(period) {
            checkpoint::save(&folder.join(format!("weights/epoch{done}.safetensors")), &last)?;
        }
        if let Some((params, metrics)) = self.best.as_ref().filter(|_| best) {
            checkpoint::save(
                &folder.join("weights/best.safetensors"),
                &self.checkpoint(params, Some(metrics)),
            )?;
        }
        self.save_state(&folder)
    }

    fn save_state(&mut self, folder: &std::path::Path) -> Result<()> {
        self.state.ema_updates = self.ema.updates;
        self.state.optimizer_steps = self.stepper.optimizer.steps()?;
        self.state.scaler = self.stepper.scaler_state()?;
        checkpoint::save_state(
            &folder.join(resume::STATE),
            &self.model,
            &self.ema.params,
            &self.stepper.state(),
            &self.state,
        )
    }

    /// An error that ended the run; where memory was short, with the batch that would fit.
    fn explain(self, error: Error, options: &TrainOptions) -> Error {
        if !error.is_out_of_memory() {
            return error;
        }
        // What the run holds is given back first; its model is all that is needed to measure.
        let Self {
            model,
            stepper,
            ema,
            best,
            ..
        } = self;
        drop((stepper, ema, best));
        Error::OutOfMemory {
            batch: options.batch,
            size: options.size,
            fits: super::largest_batch(&model, options)
                .ok()
                .filter(|fits| *fits < options.batch),
            reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }

    fn finish(self) -> Result<Outcome> {
        let weights = self.folder.as_ref().map(|folder| {
            (
                folder.join("weights/best.safetensors"),
                folder.join("weights/last.safetensors"),
            )
        });
        let last = self.checkpoint(&self.ema.params, None);
        let (best, metrics) = match &self.best {
            Some((params, metrics)) => (self.checkpoint(params, Some(metrics)), metrics.clone()),
            None => (self.checkpoint(&self.ema.params, None), Metrics::default()),
        };
        Ok(Outcome {
            best,
            last,
            metrics,
            best_epoch: self.state.best_epoch,
            epochs: self.state.epochs_done,
            images_per_second: self.seen as f64 / self.seconds.max(1e-9),
            weights,
        })
    }
}

fn diverged(what: &str, epoch: usize, batch: usize) -> Error {
    Error::Diverged {
        what: what.to_owned(),
        epoch,
        batch,
    }
}

/// Rows of a finished or unfinished run, for plots.
///
/// # Errors
/// [`Error::Io`] where `results.csv` can't be read, [`Error::File`] with the line that is no row of a training. A missing file has no rows.
pub fn history(folder: &std::path::Path) -> Result<Vec<EpochRow>> {
    results::read(&folder.join("results.csv"))
}
