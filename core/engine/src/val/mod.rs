//! Validation: a model on the images of a loader, measured as mAP.

mod engine;
mod shared;

pub use engine::{measure_engine, validate_engine};
pub use shared::measure_shared;

use std::time::Instant;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};
use yolo_core::exec::{all_finite, channels_last};
use yolo_core::graph::DetectHead;
use yolo_core::{Graph, Mode, Params, Program, Progress, passes};
use yolo_data::loader::Origin;
use yolo_data::{Batch, Loader};

use crate::batch::image_tensor;
use crate::eval::{self, ConfusionMatrix, Detection, Matches, Metrics, Nms, NmsOptions, Truth};
use crate::loss::Loss;
use crate::{Error, Result};

/// Milliseconds per image.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Speed {
    /// Bytes to the network's input.
    pub preprocess: f64,
    /// The network.
    pub inference: f64,
    /// Decoding and non-maximum suppression.
    pub nms: f64,
}

/// What validation found.
#[derive(Debug, Clone)]
pub struct Report {
    /// mAP and the like.
    pub metrics: Metrics,
    /// Which class was taken for which.
    pub confusion: ConfusionMatrix,
    /// Time per image.
    pub speed: Speed,
    /// Mean box, objectness and class loss, where it was asked for.
    pub loss: Option<[f64; 3]>,
}

/// A network ready for images: batch norm folded, channels last.
#[derive(Debug)]
pub struct Detector {
    program: Program,
    head: DetectHead,
    stride: usize,
}

impl Detector {
    /// Prepares a model (the given tensors are not changed).
    ///
    /// # Errors
    /// [`Error::Settings`] where the model has no detection head; [`Error::Core`] names a tensor that is missing or has another shape.
    pub fn new(graph: &Graph, params: &Params) -> Result<Self> {
        let head = graph
            .head
            .clone()
            .ok_or_else(|| Error::Settings("the model has no detection head".into()))?;
        let stride = usize::try_from(crate::checkpoint::max_stride(graph)).unwrap_or(1);
        let (graph, params) = passes::for_inference(graph, params)?;
        let params: Params = params
            .iter()
            .map(|(key, tensor)| (key.to_owned(), channels_last(&tensor.detach())))
            .collect();
        Ok(Self {
            program: Program::new(&graph, &params)?,
            head,
            stride,
        })
    }

    /// Boxes `[N, M, 5 + classes]` in pixels of the input, from images `[N, 3, H, W]` in 0..1: f32, on the CPU, contiguous.
    ///
    /// # Errors
    /// Those of [`Detector::maps`] and [`Detector::decode`].
    pub fn predict(&self, images: &Tensor) -> Result<Tensor> {
        self.decode(&self.maps(images)?)
    }

    /// The raw maps `[N, A * (5 + classes), h, w]` of the head, finest stride first, of images `[N, 3, H, W]` in 0..1.
    ///
    /// # Errors
    /// [`Error::Core`] names the node that can't be run on these images: the input where they have other channels than the model.
    pub fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        Ok(tch::no_grad(|| self.program.run(images, Mode::Eval))?)
    }

    /// Boxes `[N, M, 5 + classes]` from raw maps `[N, A * (5 + classes), h, w]`, in pixels of the input.
    ///
    /// # Errors
    /// Where the network gave values that are not finite: they would look like an image without objects.
    pub fn decode(&self, maps: &[Tensor]) -> Result<Tensor> {
        tch::no_grad(|| {
            let boxes = self.head.decode(maps)?.f_to_device(Device::Cpu)?;
            let boxes = boxes.f_to_kind(Kind::Float)?.f_contiguous()?;
            if all_finite(&boxes)? {
                Ok(boxes)
            } else {
                Err(Error::NotFinite)
            }
        })
    }

    /// Where it computes, and where images must be.
    pub fn device(&self) -> Device {
        self.program.device()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.head.classes as usize
    }

    /// Sides of images are multiples of it.
    pub fn stride(&self) -> usize {
        self.stride
    }
}

/// An image that was measured, in pixels of its file.
#[derive(Debug, Clone, Copy)]
pub struct ImageResult<'a> {
    /// The file.
    pub origin: &'a Origin,
    /// What was found, best first.
    pub detections: &'a [Detection],
    /// What is there.
    pub truths: &'a [Truth],
}

/// Measures a model. `progress` hears of finished batches and may end it.
///
/// # Errors
/// Those of [`Detector::new`] and [`measure`].
pub fn validate(
    graph: &Graph,
    params: &Params,
    loader: &Loader,
    options: &NmsOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let detector = Detector::new(graph, params)?;
    let total = loader.batches();
    validate_with(&detector, &mut loader.epoch(0), total, options, progress)
}

/// As [`validate`], on any batches (a part of the data, for searches).
///
/// # Errors
/// Those of [`measure`].
pub fn validate_with(
    detector: &Detector,
    batches: &mut dyn Iterator<Item = yolo_data::Result<Batch>>,
    total: usize,
    options: &NmsOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    measure(detector, batches, total, options, None, &mut |_| Ok(()), progress)
}

/// As [`validate_with`]: also the mean loss, and every image is shown to `each`.
///
/// # Errors
/// Those of [`Detector::maps`], [`Detector::decode`] and [`Loss::compute`], and those of `each`. [`Error::Data`] names an image that can't
/// be read; [`yolo_core::Error::Cancelled`] where `progress` wants the end.
pub fn measure(
    detector: &Detector,
    batches: &mut dyn Iterator<Item = yolo_data::Result<Batch>>,
    total: usize,
    options: &NmsOptions,
    loss: Option<&Loss>,
    each: &mut dyn FnMut(ImageResult<'_>) -> Result<()>,
    progress: &dyn Progress,
) -> Result<Report> {
    let mut tally = Tally::new(detector.classes(), options);
    for (done, batch) in batches.enumerate() {
        let batch = batch?;
        let part = measure_batch(detector, &batch, options, loss)?;
        tally.take(&batch, &part, each)?;
        progress.step(done + 1, total, "")?;
    }
    Ok(tally.report(loss.is_some()))
}

/// What was found in a batch.
#[derive(Debug, Clone, PartialEq, Default)]
struct Part {
    /// Box, objectness and class loss.
    loss: [f64; 3],
    /// Of each image, what was found and what is there.
    images: Vec<(Vec<Detection>, Vec<Truth>)>,
    /// For input, network and boxes.
    seconds: [f64; 3],
}

/// Sums over batches, in their order.
#[derive(Debug)]
struct Tally {
    matches: Matches,
    confusion: ConfusionMatrix,
    losses: [f64; 3],
    seconds: [f64; 3],
    batches: usize,
}

impl Tally {
    fn new(classes: usize, options: &NmsOptions) -> Self {
        Self {
            matches: Matches::default(),
            confusion: ConfusionMatrix::new(if options.one_class { 1 } else { classes }),
            losses: [0.0; 3],
            seconds: [0.0; 3],
            batches: 0,
        }
    }

    fn add(&mut self, part: &Part) {
        let start = Instant::now();
        for (detections, truths) in &part.images {
            self.matches.add(detections, truths);
            self.confusion.add(detections, truths);
        }
        for index in 0..3 {
            self.losses[index] += part.loss[index];
            self.seconds[index] += part.seconds[index];
        }
        self.seconds[2] += start.elapsed().as_secs_f64();
        self.batches += 1;
    }

    /// As [`Tally::add`], and shows every image to `each`.
    fn take(&mut self, batch: &Batch, part: &Part, each: &mut dyn FnMut(ImageResult<'_>) -> Result<()>) -> Result<()> {
        self.add(part);
        for (origin, (detections, truths)) in batch.images.iter().zip(&part.images) {
            each(ImageResult {
                origin,
                detections,
                truths,
            })?;
        }
        Ok(())
    }

    fn report(self, with_loss: bool) -> Report {
        let metrics = eval::evaluate(&self.matches);
        let [preprocess, inference, nms] = self.seconds.map(|seconds| seconds * 1e3 / metrics.images.max(1) as f64);
        Report {
            metrics,
            confusion: self.confusion,
            speed: Speed {
                preprocess,
                inference,
                nms,
            },
            loss: with_loss.then(|| self.losses.map(|sum| sum / self.batches.max(1) as f64)),
        }
    }
}

fn measure_batch(detector: &Detector, batch: &Batch, options: &NmsOptions, loss: Option<&Loss>) -> Result<Part> {
    let start = Instant::now();
    let images = image_tensor(batch, detector.device())?;
    let ready = Instant::now();
    let maps = detector.maps(&images)?;
    let mut losses = [0.0; 3];
    if let Some(loss) = loss {
        let parts = tch::no_grad(|| loss.compute(&maps, &batch.targets))?.parts;
        let parts = Vec::<f64>::try_from(parts.f_to_kind(Kind::Double)?)?;
        losses.iter_mut().zip(parts).for_each(|(loss, part)| *loss = part);
    }
    let predictions = detector.decode(&maps)?;
    let inferred = Instant::now();
    let images = boxes_of(batch, &predictions, detector.classes() + 5, options)?;
    let seconds = [ready - start, inferred - ready, inferred.elapsed()].map(|time| time.as_secs_f64());
    Ok(Part {
        loss: losses,
        images,
        seconds,
    })
}

/// Detections and labels of each image of a batch, in pixels of its file, where the reference compares them.
fn boxes_of(
    batch: &Batch,
    predictions: &Tensor,
    columns: usize,
    options: &NmsOptions,
) -> Result<Vec<(Vec<Detection>, Vec<Truth>)>> {
    let mut rows = vec![0f32; predictions.numel()];
    predictions.f_copy_data(&mut rows, predictions.numel())?;
    let per_image = rows.len() / batch.len().max(1);
    let (w, h) = (batch.size[1] as f32, batch.size[0] as f32);
    let image = |nms: &mut Nms, index: usize, origin: &Origin| {
        let mut detections = Vec::new();
        nms.run(
            &rows[index * per_image..][..per_image],
            columns,
            &[],
            options,
            &mut detections,
        );
        let own = batch.targets.iter().filter(|target| target[0] as usize == index);
        let mut truths: Vec<Truth> = own
            .map(|[_, class, cx, cy, bw, bh]| Truth {
                class: *class as u32,
                xyxy: eval::xywh_to_xyxy([cx * w, cy * h, bw * w, bh * h]),
            })
            .collect();
        let gain = origin.fit.ratio[0].min(origin.fit.ratio[1]) as f32;
        let pad = origin.fit.pad.map(|p| p as f32);
        let [oh, ow] = origin.original.map(|side| side as f32);
        eval::scale_boxes(detections.iter_mut().map(|d| &mut d.xyxy), gain, pad, ow, oh);
        eval::scale_boxes(truths.iter_mut().map(|t| &mut t.xyxy), gain, pad, ow, oh);
        (detections, truths)
    };
    let images = batch.images.par_iter().enumerate();
    Ok(images
        .map_init(Nms::default, |nms, (index, origin)| image(nms, index, origin))
        .collect())
}
