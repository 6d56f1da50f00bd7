//! Measuring a model on a data set, with whoever waits for it.

use yolo_data::Loader;
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_engine::val::{self, Detector, ImageResult, Report};

use crate::Session;
use crate::error::Result;
use crate::plots::Pictures;

/// mAP50 and mAP of a model on a loader.
///
/// # Errors
/// An image that can't be read; a map that is not finite; the listener's wish to stop.
pub fn validate(session: Session<'_>, model: &Checkpoint, loader: &Loader, label: &str) -> Result<[f64; 2]> {
    let task = session.progress.task(label, loader.batches());
    let nms = NmsOptions::validation();
    let report = val::validate(&model.graph, &model.params, loader, &nms, &*task)?;
    Ok([report.metrics.map50, report.metrics.map])
}

/// Measures a model; keeps some pictures for a sheet and shows every image to `each`.
///
/// # Errors
/// Those of [`validate`], and those of `each`.
pub fn closely(
    session: Session<'_>,
    model: &Checkpoint,
    loader: &Loader,
    options: &NmsOptions,
    label: &str,
    each: &mut dyn FnMut(&ImageResult<'_>) -> Result,
) -> Result<(Report, Pictures)> {
    let detector = Detector::new(&model.graph, &model.params)?;
    let mut pictures = Pictures::of(loader.images());
    let mut refused = None;
    let task = session.progress.task(label, loader.batches());
    let mut see = |result: ImageResult<'_>| {
        pictures.see(&result);
        each(&result).map_err(|error| {
            refused = Some(error);
            yolo_core::Error::Cancelled.into()
        })
    };
    let batches = &mut loader.epoch(0);
    let report = val::measure(&detector, batches, loader.batches(), options, None, &mut see, &*task);
    match refused {
        Some(error) => Err(error),
        None => Ok((report?, pictures)),
    }
}
