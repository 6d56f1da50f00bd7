//! The training loop.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::Device;
use yolo_core::exec::channels_last;
use yolo_core::graph::DetectHead;
use yolo_core::prune::Step as HookStep;
use yolo_core::{Graph, Mode, Params, Program};
use yolo_data::{Hyp, Loader};

use super::events::Events;
use super::results::{self, COLUMNS, Row};
use super::{BIASES, Decay, Ema, Hook, NOMINAL_BATCH, Optimizer, OptimizerKind, Schedule};
use crate::batch::image_tensor;
use crate::checkpoint::{self, Checkpoint, Stage, TrainState};
use crate::eval::{Metrics, NmsOptions};
use crate::loss::{Loss, LossOptions};
use crate::{Error, Result, val};

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Epochs.
    pub epochs: usize,
    /// Images per batch.
    pub batch: usize,
    /// Images per update: gradients of smaller batches are accumulated to it.
    #[serde(default = "nominal_batch")]
    pub nominal_batch: usize,
    /// Side of the images.
    pub size: usize,
    /// Hyper-parameters.
    pub hyp: Hyp,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Shape of the learning rate.
    pub decay: Decay,
    /// Epochs without a better fitness before stopping (0: never).
    pub patience: usize,
    /// Seed.
    pub seed: u64,
    /// Keys that start with one of these are not trained.
    pub freeze: Vec<String>,
    /// Batch norms keep their statistics (fine-tuning of a quantized or tiny model).
    pub freeze_norm: bool,
    /// Validate every so many epochs (the last one always).
    pub val_every: usize,
    /// Each batch at a size of its own, from half to one and a half of `size`.
    #[serde(default)]
    pub multi_scale: bool,
}

fn nominal_batch() -> usize {
    NOMINAL_BATCH
}

impl TrainOptions {
    /// The defaults of a plain training.
    pub fn new(epochs: usize, batch: usize, size: usize, hyp: Hyp) -> Self {
        Self {
            epochs,
            batch,
            nominal_batch: NOMINAL_BATCH,
            size,
            hyp,
            optimizer: OptimizerKind::Sgd,
            decay: Decay::Linear,
            patience: 100,
            seed: 0,
            freeze: Vec::new(),
            freeze_norm: false,
            val_every: 1,
            multi_scale: false,
        }
    }
}

/// What happens, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A batch is done.
    Batch {
        /// Epoch, from 0.
        epoch: usize,
        /// Batches done in the epoch.
        done: usize,
        /// Batches of the epoch.
        total: usize,
        /// Mean box, objectness and class loss of the epoch so far.
        loss: [f64; 3],
    },
    /// A batch of the validation is done.
    Val {
        /// Batches done.
        done: usize,
        /// Batches in all.
        total: usize,
    },
    /// An epoch is done.
    Epoch {
        /// Its row in `results.csv`.
        row: &'a Row,
        /// Whether it is the best so far.
        best: bool,
    },
}

/// What a training leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The best average model by fitness (0.1 mAP50 + 0.9 mAP).
    pub best: Checkpoint,
    /// The average model after the last epoch: what a penalty has worked on to the end.
    pub last: Checkpoint,
    /// Metrics of the best.
    pub metrics: Metrics,
    /// Its epoch.
    pub best_epoch: usize,
    /// Files `best.safetensors` and `last.safetensors`.
    pub weights: Option<(PathBuf, PathBuf)>,
}

/// Listens to events; returns `false` to stop.
pub type Listener<'a> = dyn FnMut(&Event<'_>) -> bool + 'a;

/// Trains `start`. With `folder`, writes `weights/{last,best}.safetensors`, `state.safetensors` and `results.csv` there, and continues
/// an unfinished run of the same settings if `resume` is set. The same seed gives the same run, interrupted or not.
pub fn train(
    start: Checkpoint,
    options: &TrainOptions,
    train: &Loader,
    val: Option<&Loader>,
    folder: Option<(&std::path::Path, bool)>,
    hooks: &mut [&mut dyn Hook],
    listen: &mut Listener<'_>,
) -> Result<Outcome> {
    let mut run = Run::new(start, options, train, folder)?;
    let head = run
        .model
        .graph
        .head
        .clone()
        .ok_or_else(|| Error::Settings("the model has no detection head".into()))?;
    let loss = loss_of(&head, &options.hyp, options.size);
    while run.state.epochs_done < options.epochs {
        let epoch = run.state.epochs_done;
        let losses = run.epoch(epoch, options, train, &loss, hooks, listen)?;
        let last = epoch + 1 == options.epochs;
        let due = last || (epoch + 1) % options.val_every.max(1) == 0;
        let report = match val.filter(|_| due) {
            Some(loader) => {
                let mut progress = |done: usize, total: usize| go_on(listen(&Event::Val { done, total }));
                Some(run.validate(loader, &loss, &mut progress)?)
            }
            None => None,
        };
        let metrics = report.as_ref().map(|report| report.metrics.clone());
        let row = Row {
            epoch,
            loss: losses,
            metrics: metrics.as_ref().map(|m| [m.precision, m.recall, m.map50, m.map]),
            val_loss: report.and_then(|report| report.loss),
            lr: [0, 1, 2].map(|group: usize| run.optimizer.groups[group].lr),
        };
        let measured = metrics.is_some();
        let best = run.keep_best(epoch, metrics, val.is_none());
        run.save(&row, best)?;
        let wanted = listen(&Event::Epoch { row: &row, best });
        // Epochs that were not measured are no reason for impatience.
        let stale = epoch - run.state.best_epoch.min(epoch);
        if measured && options.patience > 0 && stale >= options.patience {
            break;
        }
        if run.state.epochs_done < options.epochs {
            go_on(wanted)?;
        }
    }
    run.finish()
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

fn go_on(wanted: bool) -> Result<()> {
    if wanted {
        Ok(())
    } else {
        Err(yolo_core::Error::Cancelled.into())
    }
}

/// State of a running training.
struct Run {
    model: Checkpoint,
    program: Program,
    ema: Ema,
    optimizer: Optimizer,
    schedule: Schedule,
    state: TrainState,
    best: Option<(Params, Metrics)>,
    folder: Option<PathBuf>,
    /// Opened with the first row.
    events: Option<Events>,
}

impl Run {
    fn new(
        start: Checkpoint,
        options: &TrainOptions,
        train: &Loader,
        folder: Option<(&std::path::Path, bool)>,
    ) -> Result<Self> {
        let settings = serde_json::to_value(options).map_err(yolo_core::Error::from)?;
        let saved = match folder {
            Some((folder, true)) if folder.join("state.safetensors").exists() => {
                let (model, ema, optimizer, state) = checkpoint::load_state(&folder.join("state.safetensors"))?;
                if state.settings != settings {
                    return Err(Error::Settings(format!(
                        "{}: the unfinished run there has other settings; use them, or another folder",
                        folder.display()
                    )));
                }
                Some((model, ema, optimizer, state))
            }
            _ => None,
        };
        let (start, restored) = match saved {
            Some((model, ema, optimizer, state)) => (model, Some((ema, optimizer, state))),
            None => (start, None),
        };
        let params = trainable(&start.graph, &start.params, &options.freeze);
        let program = Program::new(&start.graph, &params)?;
        let batches = train.batches().max(1);
        let warmup = (options.hyp.warmup_epochs * batches as f64).round() as usize;
        let schedule = Schedule {
            lr0: options.hyp.lr0,
            lrf: options.hyp.lrf,
            decay: options.decay,
            momentum: options.hyp.momentum,
            warmup_momentum: options.hyp.warmup_momentum,
            warmup_bias_lr: options.hyp.warmup_bias_lr,
            // At least 100 iterations, as YOLOv5, but never more than half of a short training.
            warmup_iterations: if options.hyp.warmup_epochs > 0.0 {
                warmup.max(100).min(options.epochs * batches / 2)
            } else {
                0
            },
            epochs: options.epochs,
            batch: options.batch,
            nominal: options.nominal_batch,
        };
        let frozen = |key: &str| options.freeze.iter().any(|prefix| key.starts_with(prefix.as_str()));
        let mut optimizer = Optimizer::new(
            options.optimizer,
            &start.graph,
            &params,
            options.hyp.lr0,
            options.hyp.momentum,
            schedule.scaled_decay(options.hyp.weight_decay),
            &frozen,
        )?;
        let mut ema = Ema::new(&params);
        let mut state = TrainState {
            last_step: -1,
            settings,
            best_fitness: -1.0,
            ..TrainState::default()
        };
        if let Some((average, tensors, old)) = restored {
            optimizer.restore(old.optimizer_steps, |key| {
                tensors.get(key).map(tch::Tensor::shallow_clone)
            })?;
            ema.params = average;
            ema.updates = old.ema_updates;
            state = old;
        }
        let model = Checkpoint::new(start.graph, params, start.meta);
        let folder = folder.map(|(folder, _)| folder.to_owned());
        let mut run = Self {
            model,
            program,
            ema,
            optimizer,
            schedule,
            state,
            best: None,
            folder,
            events: None,
        };
        run.restore_best()?;
        Ok(run)
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

    /// Measures the average model.
    fn validate(
        &self,
        loader: &Loader,
        loss: &Loss,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<val::Report> {
        let detector = val::Detector::new(&self.model.graph, &self.ema.params)?;
        let (total, nms) = (loader.batches(), NmsOptions::validation());
        val::measure(
            &detector,
            &mut loader.epoch(0),
            total,
            &nms,
            Some(loss),
            &mut |_| Ok(()),
            progress,
        )
    }

    /// One epoch; returns the mean losses.
    fn epoch(
        &mut self,
        epoch: usize,
        options: &TrainOptions,
        loader: &Loader,
        loss: &Loss,
        hooks: &mut [&mut dyn Hook],
        listen: &mut Listener<'_>,
    ) -> Result<[f64; 3]> {
        // Dropout and stochastic depth draw from libtorch's generator: one seed per epoch makes a resumed run equal.
        tch::manual_seed(options.seed.wrapping_add(epoch as u64) as i64);
        let total = loader.batches();
        let mut mean = [0.0; 3];
        let mode = if options.freeze_norm { Mode::Eval } else { Mode::Train };
        self.optimizer.zero_grad();
        for (index, batch) in loader.epoch(epoch).enumerate() {
            let batch = batch?;
            let iteration = epoch * total + index;
            let step = self.schedule.step(iteration, epoch);
            for (group, settings) in self.optimizer.groups.iter_mut().enumerate() {
                settings.lr = if group == BIASES { step.bias_lr } else { step.lr };
            }
            self.optimizer.momentum = step.momentum;
            let mut images = image_tensor(&batch, Device::Cpu)?;
            if options.multi_scale {
                images = rescaled(&images, options, iteration, self.model.max_stride())?;
            }
            let maps = self.program.run(&images, mode)?;
            let value = loss.compute(&maps, &batch.targets)?;
            let mut objective = value.total;
            for hook in hooks.iter_mut() {
                if let Some(extra) = hook.extra_loss(&images, &maps)? {
                    objective = objective.f_add(&extra)?;
                }
            }
            objective.f_backward()?;
            let parts = Vec::<f64>::try_from(value.parts.to_kind(tch::Kind::Double))?;
            if parts.iter().any(|part| !part.is_finite()) {
                return Err(Error::Diverged { epoch, batch: index });
            }
            for (mean, part) in mean.iter_mut().zip(&parts) {
                *mean += (part - *mean) / (index + 1) as f64;
            }
            if iteration as i64 - self.state.last_step >= step.accumulate as i64 {
                let at = HookStep {
                    step: iteration,
                    total: options.epochs * total,
                    per_epoch: total,
                };
                for hook in hooks.iter_mut() {
                    hook.before_step(&self.model.params, at)?;
                }
                self.optimizer.clip_gradients(10.0)?;
                self.optimizer.step()?;
                self.optimizer.zero_grad();
                for hook in hooks.iter_mut() {
                    hook.after_step(&self.model.params, at)?;
                }
                self.ema.update(&self.model.params)?;
                self.state.last_step = iteration as i64;
            }
            go_on(listen(&Event::Batch {
                epoch,
                done: index + 1,
                total,
                loss: mean,
            }))?;
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
        meta.history.push(Stage {
            kind: "train".into(),
            summary: format!("{} epochs", self.state.epochs_done),
            settings: self.state.settings.clone(),
        });
        let contiguous = params
            .iter()
            .map(|(key, tensor)| (key.to_owned(), tensor.detach().contiguous()))
            .collect();
        Checkpoint::new(self.model.graph.clone(), contiguous, meta)
    }

    fn save(&mut self, row: &Row, best: bool) -> Result<()> {
        let Some(folder) = self.folder.clone() else {
            return Ok(());
        };
        self.state.ema_updates = self.ema.updates;
        self.state.optimizer_steps = self.optimizer.steps();
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
            events.scalars(row.epoch, measured)?;
        }
        checkpoint::save(
            &folder.join("weights/last.safetensors"),
            &self.checkpoint(&self.ema.params, None),
        )?;
        if let Some((params, metrics)) = self.best.as_ref().filter(|_| best) {
            checkpoint::save(
                &folder.join("weights/best.safetensors"),
                &self.checkpoint(params, Some(metrics)),
            )?;
        }
        checkpoint::save_state(
            &folder.join("state.safetensors"),
            &self.model,
            &self.ema.params,
            &self.optimizer.state(),
            &self.state,
        )
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
            weights,
        })
    }
}

/// The batch at a random size: a multiple of the stride from half to one and a half of the size of the training. The size is a
/// function of seed and iteration, so that a resumed run sees the same.
fn rescaled(images: &tch::Tensor, options: &TrainOptions, iteration: usize, stride: i64) -> Result<tch::Tensor> {
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(options.seed ^ 0x6d73);
    rng.set_stream(iteration as u64);
    let cells = (options.size as i64 / stride).max(1);
    let side = rng.random_range((cells / 2).max(1)..=(cells * 3 / 2).max(1)) * stride;
    if side == options.size as i64 {
        return Ok(images.shallow_clone());
    }
    Ok(channels_last(&images.f_upsample_bilinear2d(
        [side, side],
        false,
        None,
        None,
    )?))
}

/// Own copies of all tensors, channels last, with gradients where they are trained.
pub(crate) fn trainable(graph: &Graph, params: &Params, freeze: &[String]) -> Params {
    let specs: std::collections::HashMap<String, bool> = graph
        .param_specs()
        .into_iter()
        .map(|spec| (spec.key, spec.role.trainable()))
        .collect();
    params
        .iter()
        .map(|(key, tensor)| {
            let own = channels_last(&tensor.detach().copy());
            let frozen = freeze.iter().any(|prefix| key.starts_with(prefix.as_str()));
            let trains = specs.get(key).copied().unwrap_or(false) && !frozen;
            (key.to_owned(), own.set_requires_grad(trains))
        })
        .collect()
}

/// Rows of a finished or unfinished run, for plots.
pub fn history(folder: &std::path::Path) -> Result<Vec<Row>> {
    results::read(&folder.join("results.csv"))
}
