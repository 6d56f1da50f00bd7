//! The training step alone. One synthetic batch, carried to the device in every step as a loader would;
//! forward, loss, backward, clipping, SGD and the average. The device is waited for between blocks of steps only.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use tch::{Device, Kind, Tensor};
use yolo_core::{Graph, Params};
use yolo_data::{Batch, Hyp};
use yolo_engine::checkpoint;
use yolo_engine::train::{OptimizerKind, Precision, StepOptions, StepRates, Stepper};
use yolo_torch::native::device;

use crate::error::{Error, Result};
use crate::{Session, compute};

/// What is measured.
pub struct StepBench<'a> {
    /// The network.
    pub graph: &'a Graph,
    /// Its tensors, on the device.
    pub params: &'a Params,
    /// Where it is computed.
    pub device: Device,
    /// Mixed precision.
    pub precision: Precision,
    /// Side of the images.
    pub size: usize,
    /// Images per step.
    pub batch: usize,
    /// Steps before the clock runs.
    pub warmup: usize,
    /// Steps that are timed.
    pub steps: usize,
    /// Without kernels of our own.
    pub plain: bool,
    /// As CUDA graphs.
    pub record: bool,
    /// File for what the first step saw and made.
    pub save: Option<&'a Path>,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// `train-step`.
    pub what: &'static str,
    /// Where it was computed.
    pub device: String,
    /// Mixed precision.
    pub amp: Precision,
    /// Whether kernels of our own took part.
    pub fused: bool,
    /// Side of the images.
    pub img: usize,
    /// Images per step.
    pub batch: usize,
    /// Median milliseconds of a step.
    pub ms_median: f64,
    /// 95th percentile of them.
    pub ms_p95: f64,
    /// Images per second at the median.
    pub images_per_second: f64,
    /// Most bytes that tensors held on a GPU.
    pub peak_memory_bytes: Option<i64>,
    /// Most bytes that were taken from a GPU.
    pub peak_reserved_bytes: Option<i64>,
    /// How the step was launched.
    pub compile: serde_json::Value,
    /// Milliseconds of the host per part of a step.
    pub host_ms: serde_json::Value,
    /// Loss of every step.
    pub losses: Vec<f64>,
}

/// Steps between two looks at the clock.
const BLOCK: usize = 10;
/// Objects in each image.
const OBJECTS: usize = 8;

impl StepBench<'_> {
    /// Measures.
    ///
    /// # Errors
    /// What the step gives; a loss that is not finite; the listener's wish to stop.
    pub fn run(&self, session: Session<'_>) -> Result<StepReport> {
        let hyp = Hyp::default();
        let options = StepOptions {
            decay: hyp.weight_decay,
            hyp,
            size: self.size,
            optimizer: OptimizerKind::Sgd,
            precision: self.precision,
            freeze: Vec::new(),
            freeze_norm: false,
            fuse: !self.plain,
            record: self.record,
        };
        let classes = self.graph.head.as_ref().map_or(1, |head| head.classes);
        let batch = synthetic(self.batch, self.size, classes);
        let cuda = self.device.is_cuda();
        if cuda {
            tch::Cuda::cudnn_set_benchmark(true);
        }
        let mut stepper = Stepper::new(self.graph, self.params, &options)?;
        let mut ema = stepper.ema();
        let step = StepRates {
            lr: 0.01,
            bias_lr: 0.01,
            momentum: 0.937,
            accumulate: 1,
        };
        let mut losses = Vec::new();
        let mut host = Host::default();
        let mut blocks: Vec<f64> = Vec::new();
        let mut start = Instant::now();
        let total = self.warmup + self.steps;
        let task = session.progress.task("bench", total);
        for done in 0..total {
            if done == self.warmup {
                self.wait();
                start = Instant::now();
            }
            host.start(done >= self.warmup);
            let images = stepper.images(&batch)?;
            host.images();
            let parts = stepper.accumulate(&images, &batch.targets, &mut [])?;
            host.network();
            if let Some(path) = self.save.filter(|_| done == 0) {
                self.save_step(path, &stepper, &images, &batch, &parts)?;
            }
            let at = yolo_core::prune::Step {
                step: done,
                total,
                per_epoch: 1,
            };
            stepper.update(&step, at, &mut [])?;
            ema.update()?;
            host.update();
            losses.push(parts);
            let timed = (done + 1).saturating_sub(self.warmup);
            if timed > 0 && (timed.is_multiple_of(BLOCK) || timed == self.steps) {
                self.wait();
                let count = timed - blocks.len() * BLOCK;
                blocks.push(start.elapsed().as_secs_f64() * 1e3 / count as f64);
                start = Instant::now();
            }
            task.step(done + 1, total, "")?;
        }
        drop(task);
        // From the start: what a recorded graph needs was taken when it was recorded.
        let memory = cuda.then(|| device::peak_memory(self.device)).transpose()?;
        let losses = losses
            .iter()
            .map(|parts| Ok(f64::try_from(parts.f_sum(Kind::Double)?)? * self.batch as f64))
            .collect::<Result<Vec<f64>, tch::TchError>>()?;
        if let Some(step) = losses.iter().position(|loss| !loss.is_finite()) {
            return Err(Error::Failed(format!("bench: the loss of step {step} is not finite")));
        }
        blocks.sort_by(f64::total_cmp);
        let at = |share: f64| blocks[((blocks.len() - 1) as f64 * share).round() as usize];
        Ok(StepReport {
            what: "train-step",
            device: compute::name(self.device),
            amp: self.precision,
            fused: !self.plain,
            img: self.size,
            batch: self.batch,
            ms_median: at(0.5),
            ms_p95: at(0.95),
            images_per_second: self.batch as f64 * 1e3 / at(0.5),
            peak_memory_bytes: memory.map(|m| m.0),
            peak_reserved_bytes: memory.map(|m| m.1),
            compile: serde_json::to_value(stepper.recording())?,
            host_ms: host.per_step(),
            losses,
        })
    }

    fn wait(&self) {
        if let Device::Cuda(index) = self.device {
            tch::Cuda::synchronize(index as i64);
        }
    }

    /// What the first step saw and made: `images` (u8), `targets`, `raw.LEVEL`, `loss` (total, box, objectness, class), `grad.KEY` before
    /// clipping.
    fn save_step(&self, path: &Path, stepper: &Stepper, images: &Tensor, batch: &Batch, parts: &Tensor) -> Result {
        let save = || -> yolo_engine::Result<()> {
            let mut out = Params::new();
            let side = self.size as i64;
            let pixels = Tensor::f_from_data_size(&batch.pixels, &[self.batch as i64, 3, side, side], Kind::Uint8)?;
            out.insert("images", pixels);
            let targets = Tensor::f_from_slice(batch.targets.as_flattened())?;
            out.insert("targets", targets.f_reshape([-1, 6])?);
            for (level, map) in tch::no_grad(|| stepper.maps(images))?.iter().enumerate() {
                out.insert(format!("raw.{level}"), map.f_to_kind(Kind::Float)?);
            }
            let total = parts
                .f_sum(Kind::Float)?
                .f_mul_scalar(self.batch as f64)?
                .f_reshape([1])?;
            out.insert("loss", Tensor::f_cat(&[total, parts.f_to_kind(Kind::Float)?], 0)?);
            for (key, tensor) in stepper.params.iter().filter(|(_, tensor)| tensor.requires_grad()) {
                out.insert(format!("grad.{key}"), tensor.grad());
            }
            let plain: Params = out
                .iter()
                .map(|(key, t)| (key.to_owned(), t.to_device(Device::Cpu).contiguous()))
                .collect();
            checkpoint::write_tensors(path, plain.iter(), std::collections::HashMap::new())
        };
        Ok(save()?)
    }
}

/// Time that the host takes to launch the parts of a step; the device may still be at work.
#[derive(Default)]
struct Host {
    last: Option<Instant>,
    sums: [f64; 3],
    steps: usize,
}

impl Host {
    fn start(&mut self, counts: bool) {
        self.last = counts.then(Instant::now);
        self.steps += usize::from(counts);
    }

    fn add(&mut self, part: usize) {
        if let Some(last) = &mut self.last {
            self.sums[part] += last.elapsed().as_secs_f64() * 1e3;
            *last = Instant::now();
        }
    }

    fn images(&mut self) {
        self.add(0);
    }

    fn network(&mut self) {
        self.add(1);
    }

    fn update(&mut self) {
        self.add(2);
    }

    fn per_step(&self) -> serde_json::Value {
        let [images, network, update] = self.sums.map(|sum| sum / self.steps.max(1) as f64);
        json!({"images": images, "forward_loss_backward": network, "update": update})
    }
}

/// A batch of coloured noise with boxes in fixed places.
fn synthetic(batch: usize, size: usize, classes: i64) -> Batch {
    let pixels = (0..batch * 3 * size * size)
        .map(|i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let targets = (0..batch * OBJECTS)
        .map(|i| {
            let share = |step: usize, count: usize| (i * step % count) as f32 / count as f32;
            [
                (i / OBJECTS) as f32,
                (i as i64 % classes) as f32,
                0.1 + 0.8 * share(7, 31),
                0.1 + 0.8 * share(11, 29),
                0.03 + 0.3 * share(3, 13),
                0.03 + 0.3 * share(5, 17),
            ]
        })
        .collect();
    Batch {
        pixels,
        size: [size, size],
        images: vec![yolo_data::loader::Origin::default(); batch],
        targets,
        ..Batch::default()
    }
}
