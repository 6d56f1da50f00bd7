//! Drawings of runs: curves, confusion matrix, what the labels are like, pictures with labels and detections.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use yolo_data::{Batch, Dataset, Image, Loader, Shard};
use yolo_engine::eval::{ConfusionMatrix, Detection, Metrics, Truth};
use yolo_engine::train::Sampling;
use yolo_engine::val::{ImageResult, Report};
use yolo_report::{
    Cell, Letters, Mark, PrCurve, confidence_curves, confusion_matrix, contact_sheet, grid_sheet, label_plots,
    pr_curves, save_picture, save_text, training_curves,
};

use crate::error::Result;
use crate::{Session, files};

/// Pictures of what a model finds.
pub const VALIDATION: [&str; 4] = [
    "pr_curve.svg",
    "confidence_curves.svg",
    "confusion_matrix.svg",
    "val_pictures.jpg",
];

/// Pictures of a training and its data.
const TRAINING: [&str; 3] = ["results.svg", "labels.svg", "train_batch.jpg"];

/// Takes away pictures of an earlier training in a folder: those that are older than `since`.
///
/// # Errors
/// Names the file that can't be removed.
pub fn forget(folder: &Path, since: SystemTime) -> Result {
    for name in VALIDATION.iter().chain(&TRAINING) {
        let path = folder.join(name);
        let old = path
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time < since);
        if old {
            std::fs::remove_file(&path).map_err(|error| crate::error::io_error("can't be removed", &path, &error))?;
        }
    }
    Ok(())
}

/// Pictures on a sheet.
const PICTURES: usize = 16;
/// Detections below this confidence are not drawn.
const CONFIDENT: f32 = 0.25;

/// Some of the pictures of a validation, kept for a sheet.
#[derive(Debug, Default)]
pub struct Pictures {
    every: usize,
    seen: usize,
    kept: Vec<(PathBuf, Vec<Mark>, Vec<Mark>)>,
}

impl Pictures {
    /// Keeps a few of `images` pictures, evenly spread.
    pub fn of(images: usize) -> Self {
        Self {
            every: images.div_ceil(PICTURES).max(1),
            ..Self::default()
        }
    }

    /// Looks at a measured picture.
    pub fn see(&mut self, result: &ImageResult<'_>) {
        if self.seen.is_multiple_of(self.every) {
            let label = |t: &Truth| Mark {
                class: t.class as usize,
                conf: None,
                xyxy: t.xyxy,
            };
            let found = |d: &Detection| Mark {
                class: d.class as usize,
                conf: Some(d.conf),
                xyxy: d.xyxy,
            };
            self.kept.push((
                result.origin.path.clone(),
                result.truths.iter().map(label).collect(),
                result
                    .detections
                    .iter()
                    .filter(|d| d.conf >= CONFIDENT)
                    .map(found)
                    .collect(),
            ));
        }
        self.seen += 1;
    }

    /// Labels beside detections.
    fn save(&self, path: &Path, names: &[String], letters: &Letters) -> Result {
        let images: Vec<(Image, String)> = self
            .kept
            .iter()
            .map(|(file, ..)| Ok((Image::open(file)?, file_name(file))))
            .collect::<yolo_data::Result<_>>()?;
        let cells: Vec<Cell<'_>> = images
            .iter()
            .zip(&self.kept)
            .map(|((image, title), (_, labels, predictions))| Cell {
                pixels: &image.data,
                width: image.width,
                height: image.height,
                title,
                labels,
                predictions,
            })
            .collect();
        let sheet = contact_sheet(&cells, names, letters, 320, 2)?;
        Ok(save_picture(path, &sheet.data, sheet.width, sheet.height)?)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Says once which names could not be written on pictures.
pub fn say_missing(session: Session<'_>, letters: &Letters) {
    if let Some(note) = letters.take_note() {
        session.say(note);
    }
}

/// Curves, confusion matrix and pictures of a validation.
///
/// # Errors
/// `Error::Failed` names a drawing that can't be written or a picture that can't be read again, or says that the matrix is of another
/// number of `names`.
pub fn validation(
    session: Session<'_>,
    folder: &Path,
    names: &[String],
    letters: &Letters,
    report: &Report,
    pictures: &Pictures,
) -> Result {
    curves(folder, names, &report.metrics)?;
    confusion(folder, names, &report.confusion)?;
    pictures.save(&folder.join("val_pictures.jpg"), names, letters)?;
    say_missing(session, letters);
    Ok(())
}

fn curves(folder: &Path, names: &[String], metrics: &Metrics) -> Result {
    let classes: Vec<PrCurve<'_>> = metrics
        .curves
        .iter()
        .zip(&metrics.classes)
        .map(|(curve, class)| PrCurve {
            name: names.get(curve.class).map_or("?", String::as_str),
            ap50: class.ap50(),
            precision_at_recall: &curve.precision_at_recall,
            precision: &curve.precision,
            recall: &curve.recall,
        })
        .collect();
    save_text(&folder.join("pr_curve.svg"), &pr_curves(&classes))?;
    Ok(save_text(
        &folder.join("confidence_curves.svg"),
        &confidence_curves(&classes),
    )?)
}

fn confusion(folder: &Path, names: &[String], matrix: &ConfusionMatrix) -> Result {
    let counts: Vec<u64> = matrix.rows().flatten().copied().collect();
    let svg = confusion_matrix(names, &counts)?;
    Ok(save_text(&folder.join("confusion_matrix.svg"), &svg)?)
}

/// The columns of `results.csv` over the epochs.
///
/// # Errors
/// `Error::Failed` names `results.csv` where it can't be read or `results.svg` where it can't be written, or says what is no table in the
/// first.
pub fn training(folder: &Path) -> Result {
    let path = folder.join("results.csv");
    let csv = files::read_text(&path)?;
    Ok(save_text(&folder.join("results.svg"), &training_curves(&csv)?)?)
}

/// What the labels of the training images are like, and the first batch as the network sees it.
///
/// # Errors
/// `Error::Failed` names an image of the batch that can't be read, or a drawing that can't be written.
pub fn training_data(
    session: Session<'_>,
    folder: &Path,
    dataset: &Dataset,
    letters: &Letters,
    loader: &Loader,
    sampling: Sampling,
) -> Result {
    let boxes: Vec<[f32; 5]> = loader
        .samples()
        .iter()
        .flat_map(|sample| sample.boxes.iter().copied())
        .collect();
    save_text(&folder.join("labels.svg"), &label_plots(&dataset.names, &boxes))?;
    if let Some(batch) = sampling.epoch(loader, 0, Shard::default(), &[]).next() {
        let batch = batch?;
        train_batch(&folder.join("train_batch.jpg"), &dataset.names, letters, &batch)?;
    }
    say_missing(session, letters);
    Ok(())
}

/// The first pictures of a batch, side by side.
fn train_batch(path: &Path, names: &[String], letters: &Letters, batch: &Batch) -> Result {
    let [h, w] = batch.size;
    let plane = h * w;
    let shown = batch.len().min(PICTURES);
    let pixels: Vec<Vec<u8>> = batch
        .pixels
        .chunks_exact(3 * plane)
        .take(shown)
        .map(|image| {
            (0..plane)
                .flat_map(|i| [image[i], image[plane + i], image[2 * plane + i]])
                .collect()
        })
        .collect();
    let marks = |index: usize| -> Vec<Mark> {
        let own = batch.targets.iter().filter(|target| target[0] as usize == index);
        own.map(|[_, class, x, y, bw, bh]| {
            let (fw, fh) = (w as f32, h as f32);
            let xyxy = [
                (x - bw / 2.0) * fw,
                (y - bh / 2.0) * fh,
                (x + bw / 2.0) * fw,
                (y + bh / 2.0) * fh,
            ];
            Mark {
                class: *class as usize,
                conf: None,
                xyxy,
            }
        })
        .collect()
    };
    let labels: Vec<Vec<Mark>> = (0..shown).map(marks).collect();
    let titles: Vec<String> = batch.images.iter().map(|origin| file_name(&origin.path)).collect();
    let cells: Vec<Cell<'_>> = pixels
        .iter()
        .zip(&labels)
        .zip(&titles)
        .map(|((pixels, labels), title)| Cell {
            pixels,
            width: w,
            height: h,
            title,
            labels,
            predictions: &[],
        })
        .collect();
    let sheet = grid_sheet(&cells, names, letters, 320, 4)?;
    Ok(save_picture(path, &sheet.data, sheet.width, sheet.height)?)
}
