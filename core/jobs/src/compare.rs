//! Models against each other on the same images, with intervals: whether one is better, or these images happen to suit it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tch::Device;
use yolo_data::{Dataset, Split};
use yolo_engine::eval::bootstrap::{self, Comparison};
use yolo_engine::eval::{Matches, NmsOptions};

use crate::error::{Error, Result};
use crate::{Session, limits, measure, open};

/// Settings of a comparison.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
pub struct CompareSettings {
    /// Side of the images (default: what the first model was trained for; the same for all)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    pub img: Option<usize>,
    /// Images per step
    #[arg(long, visible_alias = "batch", default_value_t = 16)]
    pub batch_size: usize,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// Draws of images for the intervals
    #[arg(long, default_value_t = 1000)]
    pub draws: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Measures models on the same images of a split, and the side of the images. Each model less the first one is the difference that has an
/// interval.
///
/// # Errors
/// A file that is no checkpoint, a model of other classes than the data, the listener's wish to stop.
pub fn compare(
    session: Session<'_>,
    weights: &[PathBuf],
    (data, dataset): (&Path, &Dataset),
    split: Split,
    settings: &CompareSettings,
    device: Device,
) -> Result<(Comparison, usize)> {
    for (name, value) in [("--batch-size", settings.batch_size), ("--draws", settings.draws)] {
        limits::at_least_one(name, value)?;
    }
    if weights.len() < 2 {
        return Err(Error::Usage("give two or more models: --weights A B".into()));
    }
    let (mut found, mut size) = (Vec::new(), None);
    for file in weights {
        let model = open::checkpoint(session, file)?.to_device(device);
        open::same_classes(session, file, &model, data, dataset)?;
        let side = match size {
            Some(side) => side,
            None => *size.insert(open::image_size(session, settings.img, &model)?),
        };
        let stride = usize::try_from(model.max_stride()).unwrap_or(1).max(1);
        if side % stride != 0 {
            return Err(Error::Usage(format!(
                "{}: it can't be run at {side} pixels, its stride is {stride}\n  help: give --img a multiple of the strides of all models",
                file.display()
            )));
        }
        let loader = open::val_loader(
            session,
            dataset,
            split,
            &model,
            open::Batching {
                size: side,
                batch: settings.batch_size,
                workers: settings.workers,
            },
            false,
        )?;
        let mut images: Vec<(PathBuf, Matches)> = Vec::with_capacity(loader.images());
        let label = file.file_stem().unwrap_or_default().to_string_lossy();
        let nms = NmsOptions::validation();
        measure::closely(session, &model, &loader, &nms, &label, &mut |image| {
            let mut own = Matches::default();
            own.add(image.detections, image.truths);
            images.push((image.origin.path.clone(), own));
            Ok(())
        })?;
        // Rectangular batches put the images of models with other strides into another order.
        images.sort_by(|a, b| a.0.cmp(&b.0));
        found.push(images.into_iter().map(|(_, matches)| matches).collect());
    }
    let comparison = bootstrap::compare(&found, settings.draws, settings.seed);
    Ok((comparison, size.unwrap_or_default()))
}
