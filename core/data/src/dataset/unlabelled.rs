//! Images without a label file. They are background, which is legal; but a name that differs in a letter or a folder makes
//! background of labelled images, so they are counted, and files that may be their labels are named.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Split, label_path};
use crate::labels::Problem;
use crate::{endings, files};

/// Files that are named in the note.
const SHOWN: usize = 3;

/// A note about the images of a split that have no label file; none where all or none of them have one.
pub(crate) fn unlabelled(
    file: &Path,
    line: usize,
    split: Split,
    images: &[PathBuf],
    labelled: &[bool],
) -> Option<Problem> {
    let all = || images.iter().zip(labelled);
    let bare: Vec<&Path> = all()
        .filter(|(_, own)| !**own)
        .map(|(image, _)| image.as_path())
        .collect();
    let first = bare.first().filter(|_| bare.len() < images.len())?;
    let message = format!(
        "{} of {} images of `{}` have no label file (they are background), the first is {}, whose labels would be {}{}",
        bare.len(),
        images.len(),
        split.name(),
        first.display(),
        label_path(first).display(),
        unread(images, &bare)
    );
    Some(Problem::note(
        file.display().to_string(),
        line,
        "label-missing",
        message,
    ))
}

/// Files that may be labels but are not read as such, as the end of a sentence.
fn unread(images: &[PathBuf], bare: &[&Path]) -> String {
    let own: HashSet<PathBuf> = images.iter().map(|image| label_path(image)).collect();
    let mut listings = Listings::default();
    let mut found = BTreeSet::new();
    for image in bare {
        let stem = stem(image);
        for folder in places(image) {
            found.extend(
                listings
                    .of(&folder)
                    .named(&stem)
                    .filter(|path| !own.contains(*path))
                    .cloned(),
            );
        }
    }
    let stems: HashSet<String> = images
        .iter()
        .filter_map(|image| image.parent())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .flat_map(|folder| listings.of(folder).images.clone())
        .collect();
    let folders: BTreeSet<PathBuf> = bare.iter().filter_map(|image| label_folder(image)).collect();
    for folder in folders {
        let labels = listings.of(&folder).labels.iter();
        let lost = labels.filter(|(stem, _)| *stem != "classes" && !stems.contains(*stem));
        found.extend(lost.flat_map(|(_, paths)| paths).filter(|path| is_text(path)).cloned());
    }
    if found.is_empty() {
        return String::new();
    }
    let mut shown: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|path| path.display().to_string())
        .collect();
    if found.len() > SHOWN {
        shown.push(format!("and {} more", found.len() - SHOWN));
    }
    format!(
        "; files that may be labels but belong to no image by their names: {}",
        shown.join(", ")
    )
}

/// Where labels of an image may lie by mistake: beside it, in the folder of its labels and in the one above.
fn places(image: &Path) -> Vec<PathBuf> {
    let label = label_path(image);
    let mut places: Vec<PathBuf> = image.parent().into_iter().map(Path::to_owned).collect();
    // No higher than the folder of all labels.
    let mut folder = label.parent();
    while let Some(place) = folder {
        places.push(place.to_owned());
        if image.starts_with(place) || is_labels(place) {
            break;
        }
        folder = place.parent();
    }
    places
}

fn is_labels(folder: &Path) -> bool {
    folder
        .file_name()
        .is_some_and(|name| name.eq_ignore_ascii_case("labels"))
}

/// The folder of an image's labels, where it is one of its own.
fn label_folder(image: &Path) -> Option<PathBuf> {
    let folder = label_path(image).parent()?.to_owned();
    (image.parent() != Some(folder.as_path())).then_some(folder)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn is_text(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("txt"))
}

/// What a folder holds, by names without endings in small letters.
#[derive(Default)]
struct Listing {
    labels: HashMap<String, Vec<PathBuf>>,
    images: HashSet<String>,
}

impl Listing {
    fn named(&self, stem: &str) -> impl Iterator<Item = &PathBuf> {
        self.labels.get(stem).into_iter().flatten()
    }
}

/// Every folder is looked into once.
#[derive(Default)]
struct Listings(HashMap<PathBuf, Listing>);

impl Listings {
    /// A folder that is not there, or can't be looked into, holds nothing: this is only for a hint.
    fn of(&mut self, folder: &Path) -> &Listing {
        self.0.entry(folder.to_owned()).or_insert_with(|| {
            let mut listing = Listing::default();
            for path in files::listing(folder).unwrap_or_default() {
                let ending = path
                    .extension()
                    .and_then(OsStr::to_str)
                    .unwrap_or_default()
                    .to_ascii_lowercase();
                if endings::is_image(&path) {
                    listing.images.insert(stem(&path));
                } else if ["txt", "xml", "json"].contains(&ending.as_str()) {
                    listing.labels.entry(stem(&path)).or_default().push(path);
                }
            }
            listing
        })
    }
}
