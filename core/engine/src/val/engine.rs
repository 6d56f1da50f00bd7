//! Validation of an engine that is not ours: an exported file, run on the same images.

use std::time::Instant;

use tch::{Device, Tensor};
use yolo_core::Progress;
use yolo_data::{Batch, Loader};

use super::{ImageResult, Part, Report, Tally, boxes_of};
use crate::Result;
use crate::batch::image_tensor;
use crate::eval::{Metrics, NmsOptions};

/// Measures `run`, which turns images `[N, 3, H, W]` into boxes `[N, M, 5 + classes]` in pixels of the input (f32, on the CPU,
/// contiguous).
///
/// # Errors
/// Those of [`measure_engine`].
pub fn validate_engine(
    run: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    classes: usize,
    loader: &Loader,
    options: &NmsOptions,
    progress: &dyn Progress,
) -> Result<Metrics> {
    let total = loader.batches();
    let batches = &mut loader.epoch(0);
    Ok(measure_engine(run, classes, batches, total, options, &mut |_| Ok(()), progress)?.metrics)
}

/// As [`validate_engine`], on any batches and with all that [`super::measure`] reports; every image is shown to `each`.
///
/// # Errors
/// Those of `run` and `each`. `Error::Data` names an image that can't be read; `Error::Torch` where the boxes are not f32;
/// [`yolo_core::Error::Cancelled`] where `progress` wants the end.
pub fn measure_engine(
    run: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    classes: usize,
    batches: &mut dyn Iterator<Item = yolo_data::Result<Batch>>,
    total: usize,
    options: &NmsOptions,
    each: &mut dyn FnMut(ImageResult<'_>) -> Result<()>,
    progress: &dyn Progress,
) -> Result<Report> {
    let mut tally = Tally::new(classes, options);
    for (done, batch) in batches.enumerate() {
        let batch = batch?;
        let start = Instant::now();
        let images = image_tensor(&batch, Device::Cpu)?;
        let ready = Instant::now();
        let predictions = run(&images)?;
        let inferred = Instant::now();
        let images = boxes_of(&batch, &predictions, classes + 5, options)?;
        let part = Part {
            loss: [0.0; 3],
            images,
            seconds: [ready - start, inferred - ready, inferred.elapsed()].map(|time| time.as_secs_f64()),
        };
        tally.take(&batch, &part, each)?;
        progress.step(done + 1, total, "")?;
    }
    Ok(tally.report(false))
}
