//! A data set: its YAML file, the images of a split and their labels.

mod beside;
mod held;
mod keys;
mod lists;
mod places;
mod repeats;
mod unlabelled;
mod yaml;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use self::places::label_path;
pub(crate) use self::unlabelled::unlabelled;

pub(crate) use self::beside::second_labels;
use self::places::Entry;
use self::repeats::Repeats;
use crate::labels::{self, Label, Problem, Rows};
use crate::{Error, Image, Result, endings, files, text, variety};

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
    roots: Vec<PathBuf>,
    /// `path` and its line, where there is no such folder.
    missing: Option<(String, usize)>,
    sources: Vec<Source>,
    /// `kpt_shape`: rows have key points behind the box.
    keypoints: Option<[usize; 2]>,
    /// Names that the label files count by, where all classes are taken as one.
    merged: Option<Vec<String>>,
    /// What is to be said of the file itself.
    remarks: Vec<Problem>,
    /// Training images that are held out.
    held_out: usize,
}

/// Where the images of a split are.
#[derive(Debug, Clone)]
struct Source {
    split: Split,
    /// Line in the YAML file, 0 if unknown.
    line: usize,
    entries: Vec<Entry>,
}

/// The images of a split, and what was found on the way to them.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Sorted, each once.
    pub images: Vec<PathBuf>,
    /// How often each of those is listed that are listed more than once.
    pub repeated: HashMap<PathBuf, usize>,
    /// Lines of list files that lead nowhere; pictures that can't be read.
    pub problems: Vec<Problem>,
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
    ///
    /// # Errors
    /// [`Error::Io`] where the file can't be read, [`Error::Label`] with the line where it is no text. [`Error::Config`] with the place of
    /// what is no YAML, of a key that is misspelt or a value that makes no sense, and of names that are missing, repeated or not as many as
    /// `nc`.
    pub fn open(file: &Path) -> Result<Self> {
        yaml::open(file)
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
    ///
    /// # Errors
    /// Those of [`Dataset::list`].
    pub fn images(&self, split: Split) -> Result<Vec<PathBuf>> {
        Ok(self.list(split)?.images)
    }

    /// As [`Dataset::images`], with what was found on the way.
    ///
    /// # Errors
    /// [`Error::Dataset`] where the file does not name the split, where a place does not exist (with all that were looked at) or is a file
    /// that can't be read as a picture, and where there are no images. [`Error::Io`] names a folder or list file that can't be read,
    /// [`Error::Label`] the line of a list file that is no text.
    pub fn list(&self, split: Split) -> Result<Listed> {
        let Source { line, entries, .. } = self
            .sources
            .iter()
            .find(|source| source.split == split)
            .ok_or_else(|| Error::dataset(&self.file, format!("it names no `{}` images", split.name())))?;
        let mut listed = Listed {
            problems: self.remarks.clone(),
            ..Listed::default()
        };
        if entries.is_empty() {
            let split = split.name();
            let reason =
                format!("`{split}` is an empty list: name a folder of images, a list file, or several of them");
            return Err(Error::dataset_line(&self.file, *line, reason));
        }
        let mut repeats = Repeats::default();
        for entry in entries {
            let Some(place) = entry.found() else {
                let (split, first, places) = (split.name(), entry.first().display(), entry.places());
                let reason = format!("`{split}` points at {first}, which does not exist; looked at {places}");
                return Err(Error::dataset_line(&self.file, *line, reason));
            };
            // An absolute place needs no `path`.
            if let Some((path, line)) = self.missing.as_ref().filter(|_| place != entry.first()) {
                let message = path_missing(path, split, place);
                let file = self.file.display().to_string();
                listed
                    .problems
                    .push(Problem::note(file, *line, "path-missing", message));
            }
            if place.is_dir() {
                let found = files::pictures(place, true)?;
                if let Some(message) = endings::left_out(&found.left_out) {
                    let file = place.display().to_string();
                    listed.problems.push(Problem::note(file, 0, "image-left-out", message));
                }
                found.images.into_iter().for_each(|image| repeats.add(image, place, 0));
            } else if endings::is_image(place) {
                repeats.add(place.to_owned(), &self.file, *line);
            } else if let Some(why) = endings::why_not(place) {
                return Err(Error::dataset_line(
                    &self.file,
                    *line,
                    format!("{}: {why}", place.display()),
                ));
            } else {
                self.read_list(place, &mut listed, &mut repeats)?;
            }
        }
        if let Some(message) = repeats.message(split) {
            let file = self.file.display().to_string();
            let note = Problem::note(file, *line, "image-listed-twice", message);
            listed.problems.push(note);
        }
        (listed.images, listed.repeated) = repeats.finish();
        if listed.images.is_empty() {
            let places: Vec<String> = entries
                .iter()
                .map(|entry| entry.found().unwrap_or(entry.first()).display().to_string())
                .collect();
            let why = listed
                .problems
                .first()
                .map_or(String::new(), |first| format!(": {first}"));
            let reason = format!(
                "there are no images for `{}` in {}{why}",
                split.name(),
                places.join(", ")
            );
            return Err(Error::dataset_line(&self.file, *line, reason));
        }
        // Where all classes are one, it does not matter what they are called.
        if self.merged.is_none() {
            let lists = lists::against(&self.names, &self.file, &listed.images);
            listed.problems.extend(lists);
        }
        Ok(listed)
    }

    /// The images of a list file.
    fn read_list(&self, list: &Path, listed: &mut Listed, repeats: &mut Repeats) -> Result<()> {
        let content = text::read(list, "read the list of images")?;
        for (index, row) in content.lines().enumerate() {
            let (line, row) = (index + 1, row.trim());
            if row.is_empty() {
                continue;
            }
            let mut bad = |message: String| {
                let (file, kind, fatal) = (list.display().to_string(), "image-missing", true);
                listed.problems.push(Problem {
                    file,
                    line,
                    kind,
                    message,
                    fatal,
                });
            };
            match places::listed(list, &self.roots, row) {
                Err(message) => bad(message),
                Ok(image) if !endings::is_image(&image) => {
                    let why = endings::why_not(&image).unwrap_or("its ending is none of a picture's");
                    bad(format!("`{row}`: {why}"));
                }
                Ok(image) => repeats.add(image, list, line),
            }
        }
        Ok(())
    }

    /// Images and labels of a split, without those that are held out. Every file is read and checked as far as it can be without decoding pictures. An image that has
    /// a row which can't be used is left out: with a part of its boxes it would teach that the others are none. An image of `train` is there
    /// as often as it is listed.
    ///
    /// # Errors
    /// Those of [`Dataset::list`]. [`Error::Label`] where a list of names beside the labels has them in another order. [`Error::Io`] names
    /// a label file that can't be read. [`Error::Dataset`] where the split has no box that can be used, with the reason. With
    /// [`Policy::Strict`] also the first problem: [`Error::Label`] names file and line, [`Error::Image`] or [`Error::Io`] an image that
    /// can't be used.
    pub fn samples(&self, split: Split, policy: Policy) -> Result<Samples> {
        let (mut samples, repeated) = self.whole(split, policy)?;
        if split == Split::Train {
            self.part(&mut samples, false)?;
            if !repeated.is_empty() {
                let times = |sample: &Sample| repeated.get(&sample.image).copied().unwrap_or(1);
                let items = std::mem::take(&mut samples.items).into_iter();
                samples.items = items.flat_map(|sample| vec![sample.clone(); times(&sample)]).collect();
            }
        }
        Ok(samples)
    }

    /// A split with the images that are held out.
    fn whole(&self, split: Split, policy: Policy) -> Result<(Samples, HashMap<PathBuf, usize>)> {
        let Listed {
            images,
            repeated,
            problems,
        } = self.list(split)?;
        // Names under wrong numbers concern every image, so there is nothing to leave out.
        let stops = |problem: &&Problem| problem.fatal && (policy == Policy::Strict || problem.kind == lists::ORDER);
        if let Some(first) = problems.iter().find(stops) {
            return Err(Error::label(Path::new(&first.file), first.line, first.message.clone()));
        }
        let read: Vec<Result<Read>> = images.par_iter().map(|image| self.read(image, policy)).collect();
        let mut samples = Samples {
            items: Vec::new(),
            problems,
        };
        let mut with_labels = Vec::with_capacity(images.len());
        for read in read {
            let Read {
                sample,
                labelled,
                problems,
            } = read?;
            with_labels.push(labelled);
            samples.problems.extend(problems);
            samples.items.extend(sample);
        }
        samples.problems.extend(shared_labels(&images));
        samples.problems.extend(second_labels(&images));
        let line = self.line(split);
        samples
            .problems
            .extend(unlabelled(&self.file, line, split, &images, &with_labels));
        let boxes: usize = samples.items.iter().map(|sample| sample.boxes.len()).sum();
        if boxes == 0 {
            let reason = self.why_no_boxes(split, &images[0], with_labels.contains(&true), &samples.problems);
            return Err(Error::dataset_line(&self.file, self.line(split), reason));
        }
        samples
            .problems
            .extend(self.alike(split, samples.items.iter().map(|sample| &sample.image)));
        Ok((samples, repeated))
    }

    /// A note on images that are no set of pictures.
    pub(crate) fn alike<'a>(
        &self,
        split: Split,
        images: impl ExactSizeIterator<Item = &'a PathBuf>,
    ) -> Option<Problem> {
        let (file, line, name) = (self.file.display().to_string(), self.line(split), split.name());
        let lack = variety::lack(images)?;
        let message = format!("`{name}`: {lack}; what is learned or measured on it says nothing about others");
        Some(Problem::note(file, line, "images-alike", message))
    }

    /// Why a split without a box can't be used.
    pub(crate) fn why_no_boxes(&self, split: Split, first: &Path, labelled: bool, problems: &[Problem]) -> String {
        let split = split.name();
        if !labelled {
            let (image, label) = (first.display(), label_path(first));
            return format!(
                "no image of `{split}` has labels; {image} should have {}",
                label.display()
            );
        }
        let lost = |problem: &&Problem| problem.fatal || problem.kind == "label-empty-box";
        match problems.iter().find(lost) {
            Some(first) => format!("no image of `{split}` has a usable box; the first problem is {first}"),
            None => format!("the label files of `{split}` are all empty, so there is nothing to learn or to measure"),
        }
    }

    /// One image and its labels; no sample where the image can't be used.
    pub(crate) fn read(&self, image: &Path, policy: Policy) -> Result<Read> {
        let label = label_path(image);
        let (text, labelled) = match crate::files::bytes(&label) {
            Ok(text) => (text, true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Vec::new(), false),
            Err(error) => return Err(Error::io(&label, "read the labels")(error)),
        };
        let names = self.merged.as_ref().unwrap_or(&self.names);
        let rows = Rows {
            names,
            keypoints: self.keypoints,
        };
        let (mut boxes, mut problems) = labels::parse(&label, &text, rows);
        if self.merged.is_some() {
            labels::merge(&mut boxes);
        }
        if policy == Policy::Strict
            && let Some(first) = problems.iter().find(|p| p.fatal)
        {
            return Err(Error::label(&label, first.line, first.message.clone()));
        }
        let broken = problems.iter().any(|problem| problem.fatal);
        let size = match Image::look(image) {
            Ok(((w, h), _)) if w.min(h) < MIN_SIDE => Err(("image-small", Error::image(image, too_small(w, h)))),
            Ok(((w, h), remark)) => {
                problems
                    .extend(remark.map(|remark| Problem::note(image.display().to_string(), 0, "image-remark", remark)));
                Ok([w, h])
            }
            Err(error) => Err(("image-unreadable", error)),
        };
        let sample = match size {
            Ok(_) if broken => None,
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

fn path_missing(path: &str, split: Split, place: &Path) -> String {
    let home = if path.starts_with('~') {
        " (`~` is not replaced by your home folder)"
    } else {
        ""
    };
    let (split, place) = (split.name(), place.display());
    format!("`path` {path} does not exist{home}; `{split}` is taken from {place}")
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

/// Images of one name and different endings have one label file between them.
pub(crate) fn shared_labels(images: &[impl AsRef<Path>]) -> Vec<Problem> {
    let mut first: HashMap<PathBuf, &Path> = HashMap::new();
    let mut problems = Vec::new();
    for image in images.iter().map(AsRef::as_ref) {
        let label = label_path(image);
        match first.get(&label) {
            Some(other) if label.exists() => {
                let message = format!("{} has the same label file, {}", other.display(), label.display());
                problems.push(Problem::note(image.display().to_string(), 0, "label-shared", message));
            }
            Some(_) => {}
            None => drop(first.insert(label, image)),
        }
    }
    problems
}
