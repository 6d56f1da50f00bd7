//! A data set: its YAML file, the images of a split and their labels.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use yolo_core::config::Located;

use crate::labels::{self, Label, Problem};
use crate::pixels::is_image;
use crate::{Error, Image, Result};

/// Which images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For choosing.
    Val,
    /// For the final number.
    Test,
}

impl Split {
    /// Key in the YAML file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// `train`, `val` or `test`.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Train, Self::Val, Self::Test]
            .into_iter()
            .find(|split| split.name() == name)
    }
}

/// What to do with images and label rows that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The first one is an error.
    Strict,
    /// They are left out and reported.
    Skip,
}

/// Images with a shorter side are refused, as by Ultralytics.
pub const MIN_SIDE: usize = 10;

/// The YAML file of a data set.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The file.
    pub file: PathBuf,
    /// Names of the classes.
    pub names: Vec<String>,
    root: PathBuf,
    sources: Vec<Source>,
    /// Names that the label files count by, where all classes are taken as one.
    merged: Option<Vec<String>>,
}

/// Where the images of a split are.
#[derive(Debug, Clone)]
struct Source {
    split: Split,
    /// Line in the YAML file, 0 if unknown.
    line: usize,
    paths: Vec<PathBuf>,
}

/// One image with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The image.
    pub image: PathBuf,
    /// Its label file (may not exist: background).
    pub label: PathBuf,
    /// Its boxes.
    pub boxes: Vec<Label>,
    /// Width and height of the upright image.
    pub size: [usize; 2],
}

/// The images of a split.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// Sorted by path.
    pub items: Vec<Sample>,
    /// What was found wrong.
    pub problems: Vec<Problem>,
}

impl Dataset {
    /// Reads `path, train, val, test, nc, names`; `train` may be a folder, a list file, an image or a list of them.
    pub fn open(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(Error::io(file, "read the data set"))?;
        let config = Located::parse(&file.display().to_string(), &text)?;
        let Value::Object(map) = &config.value else {
            return Err(config
                .error("", "a data set file has keys `train`, `val`, `names`", None)
                .into());
        };
        let known = ["path", "train", "val", "test", "nc", "names", "download"];
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            // Ultralytics files carry keys of other tools; only look-alikes are mistakes.
            if let Some(hint) = yolo_core::suggest::did_you_mean(key, known) {
                return Err(config
                    .error(key, &format!("there is no key `{key}`"), Some(&hint))
                    .into());
            }
        }
        let names = read_names(&config)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let root = match map.get("path") {
            Some(Value::String(path)) => {
                let beside = folder.join(path);
                if beside.exists() || !Path::new(path).exists() {
                    beside
                } else {
                    PathBuf::from(path)
                }
            }
            _ => folder.to_owned(),
        };
        let mut sources = Vec::new();
        for split in [Split::Train, Split::Val, Split::Test] {
            let entries: Vec<&str> = match map.get(split.name()) {
                Some(Value::String(one)) => vec![one],
                Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
                Some(Value::Null) | None => continue,
                Some(_) => {
                    return Err(config
                        .value_error(split.name(), "a folder, a list file or a list of them is needed", None)
                        .into());
                }
            };
            sources.push(Source {
                split,
                line: config.place(split.name()).map_or(0, |place| place.line as usize),
                paths: entries.into_iter().map(|entry| root.join(entry)).collect(),
            });
        }
        if sources.is_empty() {
            return Err(config
                .error("", "the data set names neither `train` nor `val`", None)
                .into());
        }
        Ok(Self {
            file: file.to_owned(),
            names,
            root,
            sources,
            merged: None,
        })
    }

    /// Takes all classes as one: find the objects, whatever they are.
    pub fn merge_classes(&mut self) {
        if self.merged.is_none() {
            self.merged = Some(std::mem::replace(&mut self.names, vec!["object".to_owned()]));
        }
    }

    /// Whether the file names this split.
    pub fn has(&self, split: Split) -> bool {
        self.sources.iter().any(|source| source.split == split)
    }

    /// The splits that the file names, in the order train, val, test.
    pub fn splits(&self) -> impl Iterator<Item = Split> + '_ {
        self.sources.iter().map(|source| source.split)
    }

    /// Line of a split in the YAML file, 0 if unknown.
    pub(crate) fn line(&self, split: Split) -> usize {
        let source = self.sources.iter().find(|source| source.split == split);
        source.map_or(0, |source| source.line)
    }

    /// Paths of the images of a split, sorted, each once.
    pub fn images(&self, split: Split) -> Result<Vec<PathBuf>> {
        let Source { line, paths, .. } = self
            .sources
            .iter()
            .find(|source| source.split == split)
            .ok_or_else(|| Error::dataset(&self.file, format!("it names no `{}` images", split.name())))?;
        let mut images = Vec::new();
        for source in paths {
            if source.is_dir() {
                for entry in walkdir::WalkDir::new(source).follow_links(true) {
                    match entry {
                        Ok(entry) if is_image(entry.path()) => images.push(entry.into_path()),
                        Ok(_) => {}
                        // A link to an image that is gone: reading it will say so.
                        Err(error) if error.path().is_some_and(is_image) => {
                            images.extend(error.path().map(Path::to_owned));
                        }
                        Err(error) => {
                            let place = error.path().unwrap_or(source).to_owned();
                            return Err(Error::io(&place, "look into the folder")(error.into()));
                        }
                    }
                }
            } else if source.extension().is_some_and(|e| e == "txt") {
                let text = std::fs::read_to_string(source).map_err(Error::io(source, "read the list of images"))?;
                let lines = text
                    .trim_start_matches('\u{feff}')
                    .lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty());
                images.extend(lines.map(|line| self.listed(source, line)));
            } else if source.is_file() {
                images.push(source.clone());
            } else {
                let (split, source) = (split.name(), source.display());
                let reason = format!("`{split}` points at {source}, which does not exist");
                return Err(Error::dataset_line(&self.file, *line, reason));
            }
        }
        images.sort();
        images.dedup();
        if images.is_empty() {
            let places: Vec<String> = paths.iter().map(|source| source.display().to_string()).collect();
            let reason = format!("there are no images for `{}` in {}", split.name(), places.join(", "));
            return Err(Error::dataset_line(&self.file, *line, reason));
        }
        Ok(images)
    }

    /// The image of a line of a list file: beside the list, in the data set's folder, or from the working folder.
    fn listed(&self, list: &Path, line: &str) -> PathBuf {
        let beside = list.parent().unwrap_or(Path::new("")).join(line);
        if beside.exists() {
            return beside;
        }
        [self.root.join(line), PathBuf::from(line)]
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or(beside)
    }

    /// Images and labels of a split. Every file is read and checked as far as it can be without decoding pictures.
    pub fn samples(&self, split: Split, policy: Policy) -> Result<Samples> {
        let images = self.images(split)?;
        let read: Vec<Result<Read>> = images.par_iter().map(|image| self.read(image, policy)).collect();
        let mut samples = Samples::default();
        let mut with_labels = 0;
        for read in read {
            let Read {
                sample,
                labelled,
                problems,
            } = read?;
            with_labels += usize::from(labelled);
            samples.problems.extend(problems);
            samples.items.extend(sample);
        }
        let boxes: usize = samples.items.iter().map(|sample| sample.boxes.len()).sum();
        if boxes == 0 {
            let reason = self.why_no_boxes(split, &images[0], with_labels > 0, &samples.problems);
            return Err(Error::dataset_line(&self.file, self.line(split), reason));
        }
        Ok(samples)
    }

    fn why_no_boxes(&self, split: Split, first: &Path, labelled: bool, problems: &[Problem]) -> String {
        let split = split.name();
        if !labelled {
            let (image, label) = (first.display(), label_path(first));
            return format!(
                "no image of `{split}` has labels; {image} should have {}",
                label.display()
            );
        }
        match problems.iter().find(|problem| problem.fatal) {
            Some(first) => format!("no image of `{split}` has a usable box; the first problem is {first}"),
            None => format!("the label files of `{split}` are all empty, so there is nothing to learn or to measure"),
        }
    }

    /// One image and its labels; no sample where the image can't be used.
    pub(crate) fn read(&self, image: &Path, policy: Policy) -> Result<Read> {
        let label = label_path(image);
        let (text, labelled) = match std::fs::read(&label) {
            Ok(text) => (text, true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Vec::new(), false),
            Err(error) => return Err(Error::io(&label, "read the labels")(error)),
        };
        let names = self.merged.as_ref().unwrap_or(&self.names);
        let (mut boxes, mut problems) = labels::parse(&label, &text, names);
        if self.merged.is_some() {
            boxes.iter_mut().for_each(|label| label[0] = 0.0);
        }
        if policy == Policy::Strict
            && let Some(first) = problems.iter().find(|p| p.fatal)
        {
            return Err(Error::label(&label, first.line, first.message.clone()));
        }
        let size = match Image::size_of(image) {
            Ok((w, h)) if w.min(h) < MIN_SIDE => Err(("image-small", Error::image(image, too_small(w, h)))),
            Ok((w, h)) => Ok([w, h]),
            Err(error) => Err(("image-unreadable", error)),
        };
        let sample = match size {
            Ok(size) => Some(Sample {
                image: image.to_owned(),
                label,
                boxes,
                size,
            }),
            Err((_, error)) if policy == Policy::Strict => return Err(error),
            Err((kind, error)) => {
                problems.push(image_problem(image, kind, &error));
                None
            }
        };
        Ok(Read {
            sample,
            labelled,
            problems,
        })
    }
}

/// What is known about one image of a data set.
pub(crate) struct Read {
    pub sample: Option<Sample>,
    pub labelled: bool,
    pub problems: Vec<Problem>,
}

fn too_small(w: usize, h: usize) -> String {
    format!("the image is {w} x {h} pixels; {MIN_SIDE} a side are the least that can be used")
}

/// An error about an image as a problem of the whole file.
pub(crate) fn image_problem(image: &Path, kind: &'static str, error: &Error) -> Problem {
    let file = image.display().to_string();
    let text = error.to_string();
    let message = text
        .strip_prefix(&file)
        .map_or(text.as_str(), |rest| rest.trim_start_matches(": "))
        .to_owned();
    Problem {
        file,
        line: 0,
        kind,
        message,
        fatal: true,
    }
}

/// `names` as a list or a map, checked against `nc`.
fn read_names(config: &Located) -> Result<Vec<String>> {
    let names: Vec<String> = match config.get("names") {
        Some(Value::Array(items)) => items.iter().map(plain).collect(),
        Some(Value::Object(map)) => {
            let mut pairs = Vec::with_capacity(map.len());
            for (key, value) in map {
                let index: usize = key.parse().map_err(|_| {
                    config.error(&format!("names.{key}"), &format!("`{key}` is not a class number"), None)
                })?;
                pairs.push((index, plain(value)));
            }
            pairs.sort();
            if let Some((gap, _)) = pairs.iter().enumerate().find(|(i, (index, _))| i != index) {
                return Err(config.error("names", &format!("class {gap} has no name"), None).into());
            }
            pairs.into_iter().map(|(_, name)| name).collect()
        }
        _ => match config.get("nc").and_then(Value::as_u64) {
            Some(count) => (0..count).map(|i| format!("class{i}")).collect(),
            None => {
                return Err(config
                    .error("", "the data set has no `names`", Some("add `names: [...]`"))
                    .into());
            }
        },
    };
    if names.is_empty() {
        return Err(config.error("names", "the data set has no classes", None).into());
    }
    if let Some(count) = config.get("nc").and_then(Value::as_u64)
        && count as usize != names.len()
    {
        let message = format!("nc is {count}, but there are {} names", names.len());
        return Err(config
            .error("nc", &message, Some("make them agree, or leave `nc` out"))
            .into());
    }
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(config
            .error("names", &format!("two classes are called `{twice}`"), None)
            .into());
    }
    Ok(names)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Ultralytics' rule: the last `images` folder of the path becomes `labels`, the ending `.txt`.
pub fn label_path(image: &Path) -> PathBuf {
    let mut parts: Vec<_> = image.components().map(|c| c.as_os_str().to_owned()).collect();
    if let Some(part) = parts.iter_mut().rev().skip(1).find(|part| *part == "images") {
        *part = "labels".into();
    }
    parts.iter().collect::<PathBuf>().with_extension("txt")
}
