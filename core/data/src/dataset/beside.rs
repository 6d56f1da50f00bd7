//! Labels beside images that are not the ones that are read.

use std::path::Path;

use super::label_path;
use crate::labels::Problem;

/// A note where label files lie beside images as well as in their own folder, and say something else: labelling tools save there.
pub(crate) fn second_labels(images: &[impl AsRef<Path>]) -> Option<Problem> {
    let differs = |image: &&Path| {
        let (own, beside) = (label_path(image), image.with_extension("txt"));
        if own == beside || !beside.is_file() {
            return false;
        }
        let Ok(text) = std::fs::read(&beside) else { return false };
        // Captions lie there, too.
        let is_label = text
            .split(|byte| byte.is_ascii_whitespace())
            .find(|word| !word.is_empty());
        let is_label = is_label.is_none_or(|word| word.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'));
        is_label && std::fs::read(own).is_ok_and(|own| own != text)
    };
    let mut found = images.iter().map(AsRef::as_ref).filter(differs);
    let first = found.next()?;
    let count = 1 + found.count();
    let message = format!(
        "{count} label files stand beside their images and differ from those that are read, first {} from {}; what stands beside an image is \
         not read where a folder `labels` is",
        first.with_extension("txt").display(),
        label_path(first).display()
    );
    Some(Problem::note(first.display().to_string(), 0, "label-second", message))
}
