//! Other formats to YOLO labels: VisDrone's text files, Pascal VOC's XML, COCO's JSON. Each reader gives the same plain list of
//! images with boxes in pixels; one writer makes a data set of it. Nothing of the source is changed.

mod coco;
mod visdrone;
mod voc;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::labels::{Label, Problem};
use crate::pixels::is_image;
use crate::{Error, Image, Result, files};

/// A format that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `annotations/NAME.txt` with rows `left, top, width, height, score, category, truncation, occlusion`.
    VisDrone,
    /// One XML file per image.
    Voc,
    /// JSON files with `images`, `annotations` and `categories`.
    Coco,
}

impl Format {
    /// Names of all formats.
    pub const NAMES: [&str; 3] = ["visdrone", "voc", "coco"];

    /// The format of a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "visdrone" => Some(Self::VisDrone),
            "voc" => Some(Self::Voc),
            "coco" => Some(Self::Coco),
            _ => None,
        }
    }
}

/// What to convert, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Format of the source.
    pub format: Format,
    /// Folder (COCO: or one JSON file).
    pub source: PathBuf,
    /// Folder of the images, where it is not one of the usual places.
    pub images: Option<PathBuf>,
    /// Classes in their order; others are errors. By default all that occur.
    pub names: Option<Vec<String>>,
    /// Share of the images for validation, where the source has no splits.
    pub val_share: f64,
    /// Copy the images instead of linking to them.
    pub copy: bool,
}

impl Settings {
    /// With what is usual.
    pub fn new(format: Format, source: &Path) -> Self {
        Self {
            format,
            source: source.to_owned(),
            images: None,
            names: None,
            val_share: 0.2,
            copy: false,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Converted {
    /// The data set's YAML file.
    pub yaml: PathBuf,
    /// Names of the classes.
    pub names: Vec<String>,
    /// Images in all splits.
    pub images: usize,
    /// Boxes in all splits.
    pub boxes: usize,
    /// Images of each split.
    pub splits: BTreeMap<String, usize>,
    /// Boxes that were left out on purpose, by reason (`ignored`, `difficult`, `crowd`, `empty`, `duplicate`, `outside`).
    pub dropped: BTreeMap<&'static str, usize>,
    /// What could not be used.
    pub problems: Vec<Problem>,
}

/// Converts into a folder; `progress` gets the number of finished images and of all.
pub fn convert(settings: &Settings, out: &Path, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Converted> {
    if !(0.0..1.0).contains(&settings.val_share) {
        return Err(Error::Settings(format!(
            "the share for validation is {}; use 0 to 0.9",
            settings.val_share
        )));
    }
    if !settings.source.exists() {
        return Err(Error::dataset(&settings.source, "there is no such file or folder"));
    }
    let yaml = out.join("data.yaml");
    if yaml.exists() {
        return Err(Error::dataset(
            &yaml,
            "there is a data set already; choose another folder or remove it",
        ));
    }
    let read = match settings.format {
        Format::VisDrone => visdrone::read(settings)?,
        Format::Voc => voc::read(settings)?,
        Format::Coco => coco::read(settings)?,
    };
    if read.items.is_empty() {
        let why = read
            .problems
            .first()
            .map_or_else(|| "there is nothing to convert".to_owned(), ToString::to_string);
        return Err(Error::dataset(&settings.source, format!("no image can be used: {why}")));
    }
    write::write(read, out, settings.copy, progress)
}

/// What a reader found.
#[derive(Debug, Default)]
struct Source {
    names: Vec<String>,
    items: Vec<Item>,
    dropped: BTreeMap<&'static str, usize>,
    problems: Vec<Problem>,
}

/// One image of the source.
#[derive(Debug)]
struct Item {
    split: &'static str,
    image: PathBuf,
    labels: Vec<Label>,
}

impl Source {
    fn drop(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    fn problem(&mut self, file: &Path, line: usize, kind: &'static str, message: impl Into<String>) {
        let (file, message) = (file.display().to_string(), message.into());
        self.problems.push(Problem {
            file,
            line,
            kind,
            message,
            fatal: true,
        });
    }

    /// Adds a box given by its corners in pixels: clipped to the image, as shares of it. Left out if nothing remains, or if it
    /// stands there already.
    fn push_box(&mut self, labels: &mut Vec<Label>, class: usize, corners: [f64; 4], [w, h]: [f64; 2]) {
        let [x1, y1, x2, y2] = corners;
        if x2 <= x1 || y2 <= y1 {
            return self.drop("empty");
        }
        let (x1, x2) = (x1.clamp(0.0, w), x2.clamp(0.0, w));
        let (y1, y2) = (y1.clamp(0.0, h), y2.clamp(0.0, h));
        if x2 <= x1 || y2 <= y1 {
            return self.drop("outside");
        }
        let shares = [(x1 + x2) / 2.0 / w, (y1 + y2) / 2.0 / h, (x2 - x1) / w, (y2 - y1) / h];
        let [cx, cy, bw, bh] = shares.map(|share| share as f32);
        let label = [class as f32, cx, cy, bw, bh];
        if labels.contains(&label) {
            return self.drop("duplicate");
        }
        labels.push(label);
    }

    /// The upright size of an image, or a problem.
    fn size(&mut self, image: &Path) -> Option<[f64; 2]> {
        match Image::size_of(image) {
            Ok((w, h)) => Some([w as f64, h as f64]),
            Err(error) => {
                self.problems
                    .push(crate::dataset::image_problem(image, "image-unreadable", &error));
                None
            }
        }
    }
}

/// The split that a name speaks of.
fn split_of(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    // `trainval` is neither.
    let found = ["train", "val", "test"].map(|split| name.contains(split));
    match found {
        [true, false, false] => Some("train"),
        [false, true, false] => Some("val"),
        [false, false, true] => Some("test"),
        _ => None,
    }
}

/// A split by chance, but always the same for a name.
fn split_by_share(name: &str, val_share: f64) -> &'static str {
    let draw = f64::from(crc32fast::hash(name.as_bytes())) / f64::from(u32::MAX);
    if draw < val_share { "val" } else { "train" }
}

/// The images of a folder by their names without ending.
fn images_by_stem(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let stem = |path: PathBuf| Some((path.file_stem()?.to_string_lossy().into_owned(), path));
    Ok(files::listing(folder)?
        .into_iter()
        .filter(|path| is_image(path))
        .filter_map(stem)
        .collect())
}

/// The first folder that exists.
fn first_folder(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.into_iter().find(|folder| folder.is_dir())
}
