//! Which COCO file lists which image.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The file that lists an image, for all files that were read before.
#[derive(Default)]
pub(super) struct Claims(HashMap<PathBuf, PathBuf>);

impl Claims {
    /// Adds the images that `file` lists. One that two files list would come twice, even into two splits, each time with a part of its
    /// boxes.
    ///
    /// # Errors
    /// [`Error::Dataset`] names both files, how many images they share and the first of these.
    pub fn add<'a>(&mut self, file: &Path, images: impl Iterator<Item = &'a Path>) -> Result<()> {
        let mut shared: Option<(usize, &Path, PathBuf)> = None;
        for image in images {
            match self.0.insert(identity(image), file.to_owned()) {
                Some(other) if other != file => {
                    let (count, first, other) = shared.unwrap_or((0, image, other));
                    shared = Some((count + 1, first, other));
                }
                _ => {}
            }
        }
        let Some((count, first, other)) = shared else {
            return Ok(());
        };
        let reason = format!(
            "it lists {count} images that {} lists too, the first is {}: each would come twice, with a part of its boxes; convert one of \
             the files, or join them into one first",
            other.display(),
            first.display()
        );
        Err(Error::dataset(file, reason))
    }
}

/// The same for each way to a file through folders.
pub(super) fn identity(image: &Path) -> PathBuf {
    let folder = image.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, image.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => image.to_owned(),
    }
}
