//! A whole data set looked at: every image decoded, every label row read, files that belong to nothing, pictures in two splits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::dataset::{Listed, Read, image_problem, label_path, second_labels, shared_labels, unlabelled};
use crate::labels::Problem;
use crate::{Dataset, Error, Image, Policy, Result, Split, classes, endings, files};

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// `train`, `val` or `test`.
    pub split: &'static str,
    /// Images that can be used.
    pub images: usize,
    /// Of these, images without a box.
    pub backgrounds: usize,
    /// Boxes.
    pub boxes: usize,
}

/// What was found in a data set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Images that can be used, each file once.
    pub images: usize,
    /// Boxes in them.
    pub boxes: usize,
    /// Boxes of each class.
    pub per_class: Vec<usize>,
    /// The splits.
    pub splits: Vec<Part>,
    /// What is wrong, by file.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Problems that stop a training or lose rows; the rest are notes.
    pub fn fatal(&self) -> usize {
        self.problems.iter().filter(|problem| problem.fatal).count()
    }
}

/// Checksum and length of a file: equal for copies.
type Content = (u32, usize);

/// One image of the data set.
struct Seen {
    /// Whether it has a label file.
    labelled: bool,
    /// Boxes of each class; nothing where the image can't be used.
    classes: Option<Vec<usize>>,
    content: Option<Content>,
    problems: Vec<Problem>,
}

/// Looks at every file of a data set. `decode` decodes the pictures too, which finds damage inside of them. `progress` hears the
/// number of finished images and of all; what it returns says whether to go on.
///
/// # Errors
/// [`Error::Stopped`] where `progress` wants the end; [`Error::Io`] names a folder of labels that can't be looked into. All else that is
/// wrong with the data set is in the report.
pub fn check(data: &Dataset, decode: bool, progress: &(dyn Fn(usize, usize) -> bool + Sync)) -> Result<Report> {
    let mut problems = Vec::new();
    let mut splits: Vec<(Split, Vec<PathBuf>)> = Vec::new();
    for split in data.splits() {
        match data.list(split) {
            Ok(Listed {
                images,
                problems: found,
                ..
            }) => {
                // What is said of the whole is said for every split.
                for problem in found {
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
                splits.push((split, images));
            }
            Err(error) => problems.push(of_split(data, split, &error)),
        }
    }
    for split in [Split::Train, Split::Val].into_iter().filter(|split| !data.has(*split)) {
        if let Err(error) = data.list(split) {
            problems.push(of_split(data, split, &error));
        }
    }
    let images: BTreeSet<&Path> = splits
        .iter()
        .flat_map(|(_, images)| images)
        .map(PathBuf::as_path)
        .collect();
    let images: Vec<&Path> = images.into_iter().collect();
    let done = AtomicUsize::new(0);
    let seen: Vec<Seen> = images
        .par_iter()
        .map(|image| {
            let seen = look(data, image, decode);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if progress(done, images.len()) {
                Ok(seen)
            } else {
                Err(Error::Stopped)
            }
        })
        .collect::<Result<_>>()?;
    let by_path: HashMap<&Path, &Seen> = images.iter().copied().zip(&seen).collect();
    problems.extend(seen.iter().flat_map(|seen| seen.problems.iter().cloned()));
    problems.extend(shared_labels(&images));
    problems.extend(second_labels(&images));
    problems.extend(without_boxes(data, &splits, &by_path));
    for (split, images) in &splits {
        let labelled: Vec<bool> = images.iter().map(|image| by_path[image.as_path()].labelled).collect();
        problems.extend(unlabelled(&data.file, data.line(*split), *split, images, &labelled));
        // A single image shows in the counts.
        problems.extend(data.alike(*split, images.iter()).filter(|_| images.len() > 1));
    }
    problems.extend(orphans(&images)?);
    problems.extend(copies(&images, &seen));
    problems.extend(overlaps(data, &splits, &by_path));
    let per_class = sum(data.names.len(), seen.iter());
    problems.extend(empty_classes(data, &per_class));
    let of_split = |wanted: Split| {
        let images = splits
            .iter()
            .find(|(split, _)| *split == wanted)
            .map(|(_, images)| images)?;
        Some(sum(
            data.names.len(),
            images.iter().map(|image| by_path[image.as_path()]),
        ))
    };
    if let (Some(train), Some(val)) = (of_split(Split::Train), of_split(Split::Val)) {
        let said = classes::lopsided(&data.names, &train, &val);
        problems.extend(
            said.into_iter()
                .map(|message| note(&data.file, 0, "class-one-split", false, message)),
        );
    }
    let parts = splits
        .iter()
        .map(|(split, images)| {
            let usable: Vec<usize> = images
                .iter()
                .filter_map(|image| by_path[image.as_path()].classes.as_ref())
                .map(|classes| classes.iter().sum())
                .collect();
            Part {
                split: split.name(),
                images: usable.len(),
                backgrounds: usable.iter().filter(|boxes| **boxes == 0).count(),
                boxes: usable.iter().sum(),
            }
        })
        .collect();
    Ok(Report {
        images: seen.iter().filter(|seen| seen.classes.is_some()).count(),
        boxes: per_class.iter().sum(),
        per_class,
        splits: parts,
        problems,
    })
}

fn sum<'a>(classes: usize, seen: impl Iterator<Item = &'a Seen>) -> Vec<usize> {
    let mut total = vec![0; classes];
    for counts in seen.filter_map(|seen| seen.classes.as_ref()) {
        for (total, count) in total.iter_mut().zip(counts) {
            *total += count;
        }
    }
    total
}

/// A split that can't be read is one problem, so that the others are still looked at.
fn of_split(data: &Dataset, split: Split, error: &Error) -> Problem {
    let message = match error {
        Error::Dataset { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    note(&data.file, data.line(split), "split-unusable", true, message)
}

fn note(file: &Path, line: usize, kind: &'static str, fatal: bool, message: String) -> Problem {
    Problem {
        file: file.display().to_string(),
        line,
        kind,
        message,
        fatal,
    }
}

fn look(data: &Dataset, image: &Path, decode: bool) -> Seen {
    let Read {
        sample,
        labelled,
        mut problems,
    } = match data.read(image, Policy::Skip) {
        Ok(read) => read,
        Err(error) => {
            let problem = image_problem(&label_path(image), "label-unreadable", &error);
            return Seen {
                labelled: true,
                classes: None,
                content: None,
                problems: vec![problem],
            };
        }
    };
    let Some(sample) = sample else {
        return Seen {
            labelled,
            classes: None,
            content: None,
            problems,
        };
    };
    let read = crate::files::bytes(image).map_err(Error::io(image, "read it"));
    let content = read.as_ref().ok().map(|bytes| (crc32fast::hash(bytes), bytes.len()));
    let decoded = read.and_then(|bytes| match decode {
        true => Image::decode_with_remark(&bytes)
            .map(|(_, remark)| remark)
            .map_err(|reason| Error::image(image, reason)),
        false => Ok(None),
    });
    match &decoded {
        Ok(Some(remark)) if problems.iter().all(|found| found.message != *remark) => {
            problems.push(note(image, 0, "image-remark", false, remark.clone()));
        }
        Ok(_) => {}
        Err(error) => problems.push(image_problem(image, "image-unreadable", error)),
    }
    if decoded.is_err() {
        return Seen {
            labelled,
            classes: None,
            content,
            problems,
        };
    }
    let mut classes = vec![0; data.names.len()];
    for label in &sample.boxes {
        classes[label[0] as usize] += 1;
    }
    Seen {
        labelled,
        classes: Some(classes),
        content,
        problems,
    }
}

/// Splits without a box: what training and validation refuse, in their words. A split for the final test may have no labels.
fn without_boxes(data: &Dataset, splits: &[(Split, Vec<PathBuf>)], seen: &HashMap<&Path, &Seen>) -> Vec<Problem> {
    let mut found = Vec::new();
    for (split, images) in splits {
        let all = || images.iter().map(|image| seen[image.as_path()]);
        let has_box = |seen: &Seen| {
            seen.classes
                .as_ref()
                .is_some_and(|classes| classes.iter().any(|boxes| *boxes > 0))
        };
        if all().any(has_box) {
            continue;
        }
        let problems: Vec<Problem> = all().flat_map(|seen| seen.problems.iter().cloned()).collect();
        let reason = data.why_no_boxes(*split, &images[0], all().any(|seen| seen.labelled), &problems);
        let fatal = *split != Split::Test;
        found.push(note(&data.file, data.line(*split), "split-unusable", fatal, reason));
    }
    found
}

/// A folder of labels.
#[derive(Default)]
struct Folder {
    place: PathBuf,
    /// Names of the files that images have there.
    read: HashSet<OsString>,
    /// Folders of those images.
    homes: BTreeSet<PathBuf>,
}

/// Label files beside the others that belong to no image.
fn orphans(images: &[&Path]) -> Result<Vec<Problem>> {
    // By the true places of their folders: lists spell them in many ways.
    let mut folders: BTreeMap<PathBuf, Folder> = BTreeMap::new();
    for (image, label) in images.iter().map(|image| (*image, label_path(image))) {
        let (Some(folder), Some(name), Some(home)) = (label.parent(), label.file_name(), image.parent()) else {
            continue;
        };
        if !folders.contains_key(folder) {
            let place = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            folders.insert(
                folder.to_owned(),
                Folder {
                    place,
                    ..Folder::default()
                },
            );
        }
        if let Some(folder) = folders.get_mut(folder) {
            folder.read.insert(name.to_owned());
            folder.homes.insert(home.to_owned());
        }
    }
    let mut places: BTreeMap<PathBuf, (PathBuf, Folder)> = BTreeMap::new();
    for (spelled, folder) in folders {
        match places.get_mut(&folder.place) {
            Some((_, known)) => {
                known.read.extend(folder.read);
                known.homes.extend(folder.homes);
            }
            None => drop(places.insert(folder.place.clone(), (spelled, folder))),
        }
    }
    let mut problems = Vec::new();
    for (spelled, folder) in places.into_values().filter(|(spelled, _)| spelled.is_dir()) {
        let mut pictures: HashSet<OsString> = HashSet::new();
        for home in &folder.homes {
            let found = files::listing(home)?;
            let stems = found
                .iter()
                .filter(|file| endings::is_image(file))
                .filter_map(|file| file.file_stem());
            pictures.extend(stems.map(ToOwned::to_owned));
        }
        for file in files::listing(&spelled)? {
            let is_label = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
            // Some systems make no difference between `.TXT` and `.txt`.
            let read_as = file.with_extension("txt");
            let named = read_as.file_name().is_some_and(|name| folder.read.contains(name));
            let is_read = named && read_as.exists();
            // Labelling tools leave the names of the classes there.
            let is_names = file.file_stem().is_some_and(|stem| stem == "classes");
            // Lists of images may stand beside the images.
            let beside_images = folder.homes.contains(&spelled);
            if is_label && !is_names && !beside_images && !is_read {
                let pictured = file.file_stem().is_some_and(|stem| pictures.contains(stem));
                let message = match (named, pictured) {
                    (true, _) => "its ending is not `.txt` in small letters, so it is not read as a label file",
                    (_, true) => "its image is in no split",
                    (_, false) => "there is no image for this label file",
                };
                let message = message.to_owned();
                problems.push(note(&file, 0, "label-orphan", false, message));
            }
        }
    }
    Ok(problems)
}

/// Files with the content of an earlier one.
fn copies(images: &[&Path], seen: &[Seen]) -> Vec<Problem> {
    let mut first: HashMap<Content, &Path> = HashMap::new();
    let mut problems = Vec::new();
    for (image, seen) in images.iter().zip(seen) {
        let Some(content) = seen.content else { continue };
        match first.get(&content) {
            Some(earlier) => {
                let message = format!("the same picture as {}", earlier.display());
                problems.push(note(image, 0, "image-duplicate", false, message));
            }
            None => drop(first.insert(content, image)),
        }
    }
    problems
}

/// One problem per pair of splits that share pictures.
fn overlaps(data: &Dataset, splits: &[(Split, Vec<PathBuf>)], seen: &HashMap<&Path, &Seen>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, (later, images)) in splits.iter().enumerate() {
        for (earlier, others) in &splits[..index] {
            let paths: HashSet<&PathBuf> = others.iter().collect();
            let contents: HashSet<Content> = others
                .iter()
                .filter_map(|image| seen[image.as_path()].content)
                .collect();
            let shared: Vec<&PathBuf> = images
                .iter()
                .filter(|image| {
                    let content = seen[image.as_path()].content;
                    paths.contains(image) || content.is_some_and(|content| contents.contains(&content))
                })
                .collect();
            if let Some(first) = shared.first() {
                let (n, later_name, earlier) = (shared.len(), later.name(), earlier.name());
                let message = format!(
                    "{n} of {} images of `{later_name}` are in `{earlier}` too, the first is {}: what is measured on them says \
                     little about new images",
                    images.len(),
                    first.display()
                );
                problems.push(note(&data.file, data.line(*later), "split-overlap", false, message));
            }
        }
    }
    problems
}

fn empty_classes(data: &Dataset, per_class: &[usize]) -> Vec<Problem> {
    let empty: BTreeMap<usize, &String> = data
        .names
        .iter()
        .enumerate()
        .filter(|(class, _)| per_class[*class] == 0)
        .collect();
    empty
        .into_iter()
        .map(|(class, name)| {
            note(
                &data.file,
                0,
                "class-empty",
                false,
                format!("class {class} (`{name}`) has no box"),
            )
        })
        .collect()
}
