//! Other formats to YOLO labels: VisDrone's text files, Pascal VOC's XML, COCO's JSON. Each reader gives the same plain list of
//! images with boxes; one writer makes a data set of it. Nothing of the source is changed, and nothing of it is lost without a word: an
//! image with an object that can't be read is left out, since with a part of its boxes it would teach the opposite.

mod coco;
mod found;
mod view;
mod visdrone;
mod voc;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::found::{Found, Item};
use crate::labels::Problem;
use crate::{Error, Result, endings, files};

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

/// Which picture boxes were drawn on, where a photo is turned by EXIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// The picture as its pixels are stored: boxes are turned with it.
    Stored,
    /// The picture as viewers show it.
    Upright,
}

impl Frame {
    /// Names of all frames.
    pub const NAMES: [&str; 2] = ["stored", "upright"];

    /// The frame of a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "stored" => Some(Self::Stored),
            "upright" => Some(Self::Upright),
            _ => None,
        }
    }
}

/// Which of two descriptions of one object counts, where they are different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxSource {
    /// COCO's `bbox`.
    Bbox,
    /// The box around COCO's polygons.
    Polygon,
}

impl BoxSource {
    /// Names of all sources.
    pub const NAMES: [&str; 2] = ["bbox", "polygon"];

    /// The source of a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "bbox" => Some(Self::Bbox),
            "polygon" => Some(Self::Polygon),
            _ => None,
        }
    }
}

/// What is kept although it is left out by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Images with an object that can't be read, without that object.
    pub incomplete: bool,
    /// COCO's crowds.
    pub crowd: bool,
    /// VOC's objects marked `difficult`.
    pub difficult: bool,
    /// VisDrone's ignored regions, others, and rows with a score of 0; COCO's annotations that say `ignore`.
    pub ignored: bool,
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
    /// What is kept although it is left out by default.
    pub keep: Keep,
    /// What boxes refer to in photos that EXIF turns and where their size does not tell; without it such images are left out.
    pub exif: Option<Frame>,
    /// Which of `bbox` and polygons counts in COCO files that have both; without it objects where they are different places can't be read.
    pub boxes: Option<BoxSource>,
}

impl Settings {
    /// Share of the images for validation, unless another is asked for.
    pub const VAL_SHARE: f64 = 0.2;

    /// With what is usual.
    pub fn new(format: Format, source: &Path) -> Self {
        Self {
            format,
            source: source.to_owned(),
            images: None,
            names: None,
            val_share: Self::VAL_SHARE,
            copy: false,
            keep: Keep::default(),
            exif: None,
            boxes: None,
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
///
/// # Errors
/// - [`Error::Settings`]: a share for validation outside of 0..1, a class without a name or one that is named twice, names for VisDrone,
///   whose classes are fixed.
/// - [`Error::Dataset`]: the source or the folder of the images does not exist or holds nothing of the format, `out` has a `data.yaml`
///   already, COCO files contradict themselves or each other, no image or no box can be used (with the first problem).
/// - [`Error::Label`] names file and line of a COCO file that can't be read, where it is the only one.
/// - [`Error::Io`] names what can't be read or written.
pub fn convert(settings: &Settings, out: &Path, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Converted> {
    if !(0.0..1.0).contains(&settings.val_share) {
        return Err(Error::Settings(format!(
            "the share for validation is {}; use 0 to 0.9",
            settings.val_share
        )));
    }
    if let Some(names) = &settings.names {
        check_names(names)?;
    }
    if !settings.source.exists() {
        return Err(Error::dataset(&settings.source, "there is no such file or folder"));
    }
    if let Some(images) = settings.images.as_ref().filter(|images| !images.is_dir()) {
        return Err(Error::dataset(images, "the folder of the images does not exist"));
    }
    let yaml = out.join("data.yaml");
    if yaml.exists() {
        return Err(Error::dataset(
            &yaml,
            "there is a data set already; choose another folder or remove it",
        ));
    }
    let mut read = match settings.format {
        Format::VisDrone => visdrone::read(settings)?,
        Format::Voc => voc::read(settings)?,
        Format::Coco => coco::read(settings)?,
    };
    read.finish(settings);
    let nothing = |what: &str| {
        // That a split is empty is what is to be explained.
        let all = || read.problems.iter().filter(|problem| problem.kind != "split-empty");
        let first = all().find(|problem| problem.fatal).or_else(|| all().next());
        let why = first.map_or_else(String::new, |first| format!(": {first}"));
        Err(Error::dataset(&settings.source, format!("{what}{why}")))
    };
    if read.items.is_empty() {
        return nothing("no image can be used");
    }
    if read.items.iter().all(|item| item.labels.is_empty()) {
        return nothing("no image has a box, so there is nothing to learn");
    }
    write::write(read, out, settings.copy, progress)
}

/// Names that were asked for.
fn check_names(names: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.trim().is_empty() {
            return Err(Error::Settings("a class has no name (two commas in a row?)".into()));
        }
        if !seen.insert(name) {
            return Err(Error::Settings(format!("the class `{name}` is named twice")));
        }
    }
    Ok(())
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

/// A draw from 0 to 1 by chance, but always the same for a name.
fn draw(name: &str) -> f64 {
    f64::from(crc32fast::hash(name.as_bytes())) / f64::from(u32::MAX)
}

/// The upright box around a box that is turned about its centre by this many degrees: CVAT writes the box before it is turned, and the
/// angle beside it (`rotation`).
fn upright([x1, y1, x2, y2]: [f64; 4], degrees: f64) -> [f64; 4] {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (cx, cy, w, h) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1);
    let across = (w * cos.abs() + h * sin.abs()) / 2.0;
    let down = (w * sin.abs() + h * cos.abs()) / 2.0;
    [cx - across, cy - down, cx + across, cy + down]
}

/// Name of a file or folder, for people.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Name of a file without its ending.
fn stem_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The images of a folder by their names without ending; of some there may be several.
fn images_by_stem(folder: &Path, found: &mut Found) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let files::Pictures { images, left_out } = files::pictures(folder, false)?;
    if let Some(message) = endings::left_out(&left_out) {
        found.note(folder, 0, "image-left-out", message);
    }
    let mut by_stem: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for image in images {
        by_stem.entry(stem_of(&image)).or_default().push(image);
    }
    Ok(by_stem)
}

/// The first folder that exists.
fn first_folder(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.into_iter().find(|folder| folder.is_dir())
}
