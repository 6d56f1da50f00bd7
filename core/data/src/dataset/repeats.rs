//! Images that are listed more than once.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::Split;

/// The images of a split with how often each is listed. One image is one file, however its folder is spelled.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// By the true place of its folder: the image as it was listed first, how often, and where.
    images: BTreeMap<PathBuf, Listing>,
    folders: HashMap<PathBuf, PathBuf>,
    /// Files and folders that name images.
    places: Vec<PathBuf>,
    /// The first that was listed again: it, and both places.
    first: Option<(PathBuf, [String; 2])>,
}

#[derive(Debug)]
struct Listing {
    image: PathBuf,
    times: usize,
    /// Number of the file or folder, and line.
    place: (usize, usize),
}

impl Repeats {
    /// Adds an image that a place names in a line, or 0.
    pub fn add(&mut self, image: PathBuf, place: &Path, line: usize) {
        let true_place = self.true_place(&image);
        if self.places.last().is_none_or(|last| last != place) {
            self.places.push(place.to_owned());
        }
        let now = (self.places.len() - 1, line);
        let said = |(place, line): (usize, usize)| match line {
            0 => self.places[place].display().to_string(),
            line => format!("{}:{line}", self.places[place].display()),
        };
        match self.images.entry(true_place) {
            Entry::Vacant(new) => drop(new.insert(Listing {
                image,
                times: 1,
                place: now,
            })),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.times += 1;
                (self.first).get_or_insert_with(|| (known.image.clone(), [said(known.place), said(now)]));
            }
        }
    }

    fn true_place(&mut self, image: &Path) -> PathBuf {
        let (Some(folder), Some(name)) = (image.parent(), image.file_name()) else {
            return image.to_owned();
        };
        if !self.folders.contains_key(folder) {
            let place = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            self.folders.insert(folder.to_owned(), place);
        }
        self.folders[folder].join(name)
    }

    pub fn message(&self, split: Split) -> Option<String> {
        let (first, [one, other]) = self.first.as_ref()?;
        let count = self.images.values().filter(|listing| listing.times > 1).count();
        let used = match split {
            Split::Train => "each is learned as often as it is listed",
            _ => "each is used once",
        };
        let (images, split) = (if count == 1 { "image is" } else { "images are" }, split.name());
        let first = first.display();
        Some(format!(
            "{count} {images} listed more than once in `{split}`, first {first} in {one} and {other}; {used}"
        ))
    }

    /// The images, sorted, and how often those are listed that are listed more than once.
    pub fn finish(self) -> (Vec<PathBuf>, HashMap<PathBuf, usize>) {
        let repeated = (self.images.values())
            .filter(|listing| listing.times > 1)
            .map(|listing| (listing.image.clone(), listing.times))
            .collect();
        let mut images: Vec<PathBuf> = self.images.into_values().map(|listing| listing.image).collect();
        images.sort();
        (images, repeated)
    }
}
