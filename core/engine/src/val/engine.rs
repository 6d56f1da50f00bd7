//! Validation of an engine that is not ours: an exported file, run on the same images.

use tch::{Device, Tensor};
use yolo_core::Progress;
use yolo_data::Loader;

use super::boxes_of;
use crate::Result;
use crate::batch::image_tensor;
use crate::eval::{self, Matches, Metrics, NmsOptions};

/// Measures `run`, which turns images `[N, 3, H, W]` into boxes `[N, M, 5 + classes]` in pixels of the input (f32, on the CPU,
/// contiguous).
pub fn validate_engine(
    run: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    classes: usize,
    loader: &Loader,
    options: &NmsOptions,
    progress: &dyn Progress,
) -> Result<Metrics> {
    let mut matches = Matches::default();
    let total = loader.batches();
    for (done, batch) in loader.epoch(0).enumerate() {
        let batch = batch?;
        let predictions = run(&image_tensor(&batch, Device::Cpu)?)?;
        for (detections, truths) in boxes_of(&batch, &predictions, classes + 5, options)? {
            matches.add(&detections, &truths);
        }
        progress.step(done + 1, total, "")?;
    }
    Ok(eval::evaluate(&matches))
}
