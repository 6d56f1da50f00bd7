//! One step of a training: forward, loss, backward, and the update that follows when enough batches were added up. The same for a
//! training, for the short tunings of pruners and for gradients that metrics look at.
//!
//! What must not be here: epochs, files, validation.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use yolo_core::{Graph, Mode, Params, Program};
use yolo_data::{Batch, Hyp};

use super::distil::{self, Distillation, Teacher};
use super::precision::{Scaler, ScalerState};
use super::recorded::Recording;
use super::{BIASES, Ema, Hook, Optimizer, OptimizerKind, Precision, StepRates, loss_of};
use crate::batch::Feeder;
use crate::dist::{SyncNorm, World};
use crate::loss::{Counts, Loss};
use crate::{Error, Result};
use yolo_core::prune::Step as HookStep;

/// Gradients are scaled to at most this norm.
const CLIP: f64 = 10.0;

/// Settings of a [`Stepper`].
#[derive(Debug, Clone)]
pub struct StepOptions {
    /// Gains of the loss and, for the optimizer's start, learning rate and momentum.
    pub hyp: Hyp,
    /// Side of the images, which the objectness loss is scaled to.
    pub size: usize,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Weight decay, scaled to the batch.
    pub decay: f64,
    /// Mixed precision.
    pub precision: Precision,
    /// Keys that start with one of these are not trained.
    pub freeze: Vec<String>,
    /// Batch norms keep their statistics.
    pub freeze_norm: bool,
    /// Kernels of our own where there are some for the device.
    pub fuse: bool,
    /// Forward and backward as CUDA graphs where the device is one of CUDA's and batches of one size come again and again.
    pub record: bool,
}

impl StepOptions {
    /// Those of a training; `decay` is scaled to its batch.
    pub fn of(options: &super::TrainOptions, decay: f64) -> Self {
        Self {
            hyp: options.hyp.clone(),
            size: options.size,
            optimizer: options.optimizer,
            decay,
            precision: options.precision,
            freeze: options.freeze.clone(),
            freeze_norm: options.freeze_norm,
            fuse: true,
            // Sizes that change at every batch would be recorded for nothing.
            record: options.record && !options.multi_scale,
        }
    }
}

/// A model that is trained step by step, on the device of its tensors.
#[derive(Debug)]
pub struct Stepper {
    /// The trained tensors: own copies, channels last.
    pub params: Params,
    /// What changes them.
    pub optimizer: Optimizer,
    program: Program,
    loss: Loss,
    feeder: Feeder,
    precision: Precision,
    scaler: Option<Scaler>,
    mode: Mode,
    recording: Recording,
    world: Arc<World>,
    norm: Option<SyncNorm>,
    counted: bool,
    teacher: Option<Teacher>,
    distilled: Option<Tensor>,
}

impl Stepper {
    /// Own, trainable copies of `params`.
    ///
    /// # Errors
    /// Where the model has no head, lacks a tensor, or nothing of it may be trained.
    pub fn new(graph: &Graph, params: &Params, options: &StepOptions) -> Result<Self> {
        let head = graph
            .head
            .as_ref()
            .ok_or_else(|| Error::Settings("the model has no detection head".into()))?;
        let params = trainable(graph, params, &options.freeze);
        let mut program = Program::new(graph, &params)?;
        if options.fuse {
            program = program.with_fused_norms()?;
        }
        let device = program.device();
        let mut optimizer = Optimizer::new(
            options.optimizer,
            graph,
            &params,
            options.hyp.lr0,
            options.hyp.momentum,
            options.decay,
            &|key| is_frozen(key, &options.freeze),
        )?;
        optimizer.zero_grad()?;
        let scaled = options.precision == Precision::F16;
        Ok(Self {
            loss: loss_of(head, &options.hyp, options.size),
            feeder: Feeder::new(device, options.precision.half().unwrap_or(Kind::Float))?,
            precision: options.precision,
            scaler: scaled
                .then(|| Scaler::new(ScalerState::default(), device))
                .transpose()?,
            mode: if options.freeze_norm { Mode::Eval } else { Mode::Train },
            recording: if options.record && device.is_cuda() {
                Recording::Waiting(Vec::new(), 0)
            } else {
                Recording::Off(None)
            },
            params,
            optimizer,
            program,
            world: Arc::default(),
            norm: None,
            counted: true,
            teacher: None,
            distilled: None,
        })
    }

    /// Steps together with the ranks of `world`: each brings its part of a batch. With `sync_bn`, batch norms see the whole batch.
    #[must_use]
    pub fn within(mut self, world: Arc<World>, sync_bn: bool) -> Self {
        self.norm = world.sync_norm().filter(|_| sync_bn);
        if let Some(norm) = &self.norm {
            self.program = self.program.with_norm(Box::new(norm.clone()));
            // A graph of the device can't wait for other processes.
            self.recording = Recording::Off(Some("batch norm is synchronised".into()));
        }
        self.world = world;
        self
    }

    /// Learns from a teacher besides the labels, if there is one; `seed` is that of the adapters, which are trained along.
    ///
    /// # Errors
    /// A teacher that does not fit.
    pub fn taught_by(mut self, distillation: Option<&Distillation>, seed: u64) -> Result<Self> {
        let Some(distillation) = distillation else {
            return Ok(self);
        };
        let teacher = Teacher::new(distillation, self.program.graph(), &self.params, seed)?;
        for (spec, tensor) in teacher.adapters() {
            self.optimizer.include(spec, tensor);
        }
        self.optimizer.zero_grad()?;
        self.program = self.program.keeping(teacher.wanted())?;
        if matches!(self.recording, Recording::Waiting(..)) {
            self.recording = Recording::Off(Some("a teacher is compared with".into()));
        }
        self.teacher = Some(teacher);
        Ok(self)
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.program.device()
    }

    /// The loss of its head.
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// The images `[N, 3, H, W]` of a batch in 0..1, on its device, in its precision.
    ///
    /// # Errors
    /// Where the device has no memory left.
    pub fn images(&self, batch: &Batch) -> Result<Tensor> {
        self.feeder.images(batch)
    }

    /// Raw maps `[N, A * (5 + classes), h, w]` of images `[N, 3, H, W]` in training mode.
    ///
    /// # Errors
    /// Those of the network.
    pub fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let (program, mode) = (&self.program, self.mode);
        self.precision.run(self.device(), || Ok(program.run(images, mode)?))
    }

    /// Adds the gradients of a batch `[N, 3, H, W]` to those that are there. Returns box, objectness and class loss `[3]` of the batch, on
    /// the device. With several processes: those of this one's part (which may be empty) to those of its parts; the losses are those of
    /// the whole.
    ///
    /// # Errors
    /// Those of the network, of labels that the head has no class for, and of hooks; a lost process.
    pub fn accumulate(&mut self, images: &Tensor, targets: &[[f32; 6]], hooks: &mut [&mut dyn Hook]) -> Result<Tensor> {
        let counted = self.counted;
        let recorded = self
            .recording
            .for_images(images, &self.program, self.mode, self.precision);
        let (maps, kept) = match recorded {
            Some(recorded) => (recorded.forward(images)?, Vec::new()),
            None => {
                let (program, mode) = (&self.program, self.mode);
                self.precision
                    .run(program.device(), || Ok(program.run_kept(images, mode)?))?
            }
        };
        let assigned = self.loss.assign(&maps, targets)?;
        let counts = joint(&self.world, Counts::of(&maps, &assigned), counted)?;
        let value = self.loss.compute_part(&maps, &assigned, &counts)?;
        let mut objective = value.total;
        for hook in hooks.iter_mut() {
            if let Some(extra) = hook.extra_loss(images, &maps)? {
                objective = objective.f_add(&extra)?;
            }
        }
        let mut distilled = None;
        if let Some(teacher) = &self.teacher {
            // The share of these images in the mean over the batch; like the loss of the labels, it is that of an image times their number.
            let share = images.size()[0] as f64 / counts.images.max(1.0);
            let losses = teacher
                .loss(images, &maps, &kept, self.precision)?
                .f_mul_scalar(share)?;
            objective = objective.f_add(&losses.f_sum(None::<Kind>)?.f_mul_scalar(counts.images)?)?;
            distilled = Some(losses.detach());
        }
        if let Some(scaler) = &self.scaler {
            objective = scaler.scaled(&objective)?;
        }
        let mut parts = value.parts;
        if !counted {
            objective = objective.f_mul_scalar(0.0)?;
            parts = parts.f_zeros_like()?;
            distilled = distilled.map(|losses| losses.f_zeros_like()).transpose()?;
        }
        objective.f_backward()?;
        if let Some(recorded) = recorded {
            recorded.backward(&maps)?;
        }
        self.world.sum_tensors(std::slice::from_ref(&parts))?;
        if let Some(losses) = &distilled {
            self.world.sum_tensors(std::slice::from_ref(losses))?;
        }
        self.distilled = distilled;
        Ok(parts)
    }

    /// The parts of the distiller's loss of the last batch `[parts]`, on the device; nothing without a teacher.
    pub fn distilled(&self) -> Option<&Tensor> {
        self.distilled.as_ref()
    }

    /// The tensors of the training that are no part of its model, to be saved: state of the optimizer, adapters to a teacher.
    pub fn state(&self) -> indexmap::IndexMap<String, Tensor> {
        distil::state(self.optimizer.state(), self.teacher.as_ref())
    }

    /// Puts what [`Stepper::state`] gave back.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another shape.
    pub fn restore(&mut self, steps: i64, get: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        self.optimizer.restore(steps, &get)?;
        self.teacher.as_ref().map_or(Ok(()), |teacher| teacher.restore(&get))
    }

    /// Whether the images of the next batch count. A process that got nothing of a short batch only takes part in it.
    pub fn count(&mut self, counted: bool) {
        self.counted = counted;
        if let Some(norm) = &self.norm {
            norm.count(counted);
        }
    }

    /// The gradients of the whole batch, from those of its parts.
    fn join_gradients(&self) -> Result<()> {
        if self.world.backend().is_none() {
            return Ok(());
        }
        let gradients: Vec<Tensor> = self
            .optimizer
            .params()
            .map(Tensor::grad)
            .filter(Tensor::defined)
            .collect();
        self.world.sum_tensors(&gradients)
    }

    /// Takes over learning rates and momentum of an iteration, whether or not an update follows it.
    pub fn set(&mut self, step: &StepRates) {
        for (group, settings) in self.optimizer.groups.iter_mut().enumerate() {
            settings.lr = if group == BIASES { step.bias_lr } else { step.lr };
        }
        self.optimizer.momentum = step.momentum;
    }

    /// Updates the tensors from the gradients, which are zero afterwards: takes the scale of f16 out, clips, lets hooks act, steps. What
    /// hooks add is so independent of the scale and of the norm of the other gradients.
    ///
    /// # Errors
    /// Those of hooks and of libtorch.
    pub fn update(&mut self, step: &StepRates, at: HookStep, hooks: &mut [&mut dyn Hook]) -> Result<()> {
        self.set(step);
        self.join_gradients()?;
        let found_inf = match &mut self.scaler {
            Some(scaler) => {
                let params: Vec<&Tensor> = self.optimizer.params().collect();
                Some(scaler.unscale(&params)?.shallow_clone())
            }
            None => None,
        };
        self.optimizer.clip_gradients(CLIP)?;
        for hook in hooks.iter_mut() {
            hook.before_step(&self.params, at)?;
        }
        self.optimizer.step(found_inf.as_ref())?;
        if let Some(scaler) = &mut self.scaler {
            scaler.update()?;
        }
        self.optimizer.zero_grad()?;
        for hook in hooks.iter_mut() {
            hook.after_step(&self.params, at)?;
        }
        Ok(())
    }

    /// Whether steps are launched as CUDA graphs: `recorded`, `waiting`, `off`, or why they can't be.
    pub fn recording(&self) -> &str {
        self.recording.state()
    }

    /// State of the scaler of f16; waits for the device.
    ///
    /// # Errors
    /// Where no scale makes the gradients finite.
    pub fn scaler_state(&self) -> Result<Option<ScalerState>> {
        self.scaler.as_ref().map(Scaler::state).transpose()
    }

    /// Puts a saved state of the scaler back.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore_scaler(&mut self, state: ScalerState) -> Result<()> {
        if self.scaler.is_some() {
            self.scaler = Some(Scaler::new(state, self.device())?);
        }
        Ok(())
    }

    /// An average that follows its tensors.
    pub fn ema(&self) -> Ema {
        Ema::new(&self.params)
    }
}

/// What the means of the loss of the whole batch are taken over.
fn joint(world: &World, own: Counts, counted: bool) -> Result<Counts> {
    let mut numbers = [&[own.images], own.positives.as_slice()].concat();
    if !counted {
        numbers.fill(0.0);
    }
    world.sum(&mut numbers)?;
    Ok(Counts {
        images: numbers.remove(0),
        positives: numbers,
    })
}

fn is_frozen(key: &str, freeze: &[String]) -> bool {
    freeze.iter().any(|prefix| key.starts_with(prefix.as_str()))
}

/// Own copies of all tensors, channels last, with gradients where they are trained.
fn trainable(graph: &Graph, params: &Params, freeze: &[String]) -> Params {
    let specs: std::collections::HashMap<String, bool> = graph
        .param_specs()
        .into_iter()
        .map(|spec| (spec.key, spec.role.trainable()))
        .collect();
    params
        .iter()
        .map(|(key, tensor)| {
            let own = yolo_core::exec::channels_last(&tensor.detach().copy());
            let trains = specs.get(key).copied().unwrap_or(false) && !is_frozen(key, freeze);
            (key.to_owned(), own.set_requires_grad(trains))
        })
        .collect()
}

/// Losses that are summed up on the device and read now and then, so that the host need not wait for every batch.
#[derive(Debug)]
pub struct LossMean {
    sum: Tensor,
    count: usize,
    read: Vec<f64>,
    every: usize,
}

/// Batches between two looks at the losses on a device that computes by itself.
const LOOK_EVERY: usize = 10;

impl LossMean {
    /// Nothing yet, of so many losses.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(losses: usize, device: Device) -> Result<Self> {
        Ok(Self {
            sum: Tensor::f_zeros([losses as i64].as_slice(), (Kind::Double, device))?,
            count: 0,
            read: vec![0.0; losses],
            every: if device == Device::Cpu { 1 } else { LOOK_EVERY },
        })
    }

    /// Adds the losses `[losses]` of a batch; `last` is the last of an epoch. Returns the means as last read, or `None` where a loss was
    /// not finite.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn add(&mut self, parts: &Tensor, last: bool) -> Result<Option<&[f64]>> {
        let _ = self.sum.f_add_(parts)?;
        self.count += 1;
        if last || self.count.is_multiple_of(self.every) {
            let sums = Vec::<f64>::try_from(&self.sum)?;
            for (mean, sum) in self.read.iter_mut().zip(&sums) {
                *mean = sum / self.count as f64;
            }
            if sums.iter().any(|sum| !sum.is_finite()) {
                return Ok(None);
            }
        }
        Ok(Some(&self.read))
    }
}
