//! Measuring a model on a data set, with whoever waits for it.

use yolo_core::Progress;
use yolo_data::Loader;
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_engine::val::{self, Detector, ImageResult, Report};
use yolo_export::deployed::Deployed;

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
    watched(session, loader, label, each, |see, progress| {
        let batches = &mut loader.epoch(0);
        val::measure(&detector, batches, loader.batches(), options, None, see, progress)
    })
}

/// As [`closely`], of a file in its engine.
///
/// # Errors
/// Those of the engine, and those of `each`.
pub fn deployed(
    session: Session<'_>,
    file: &mut Deployed,
    loader: &Loader,
    options: &NmsOptions,
    label: &str,
    each: &mut dyn FnMut(&ImageResult<'_>) -> Result,
) -> Result<(Report, Pictures)> {
    let classes = file.classes();
    let mut run = |images: &tch::Tensor| file.predict(images).map_err(crate::deployed::stops);
    watched(session, loader, label, each, |see, progress| {
        let batches = &mut loader.epoch(0);
        val::measure_engine(&mut run, classes, batches, loader.batches(), options, see, progress)
    })
}

type See<'a> = dyn FnMut(ImageResult<'_>) -> yolo_engine::Result<()> + 'a;

/// Measures; keeps some pictures for a sheet and shows every image to `each`.
fn watched(
    session: Session<'_>,
    loader: &Loader,
    label: &str,
    each: &mut dyn FnMut(&ImageResult<'_>) -> Result,
    measure: impl FnOnce(&mut See<'_>, &dyn Progress) -> yolo_engine::Result<Report>,
) -> Result<(Report, Pictures)> {
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
    let report = measure(&mut see, &*task);
    match refused {
        Some(error) => Err(error),
        None => Ok((report?, pictures)),
    }
}
