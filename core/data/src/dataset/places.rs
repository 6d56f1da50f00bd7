//! Where the images and labels of a data set may lie: beside the YAML file, in its `path`, from the working folder, and where the
//! tools put them that write data sets.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// One entry of `train`, `val` or `test`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where it may be, the first that exists counts.
    candidates: Vec<PathBuf>,
}

/// Folders that entries are relative to, in the order of their right: `path` beside the YAML file and from the working folder.
pub(super) fn roots(folder: &Path, path: Option<&str>) -> Vec<PathBuf> {
    let Some(path) = path else {
        return vec![folder.to_owned()];
    };
    let mut roots = Vec::new();
    for text in spellings(path) {
        push(&mut roots, folder.join(&text));
        push(&mut roots, PathBuf::from(text));
    }
    // An existing folder goes first.
    roots.sort_by_key(|root| !root.exists());
    roots
}

/// As written, and with the separators of Windows turned.
fn spellings(text: &str) -> Vec<String> {
    let turned = text.replace('\\', "/");
    if turned == text {
        vec![turned]
    } else {
        vec![text.to_owned(), turned]
    }
}

/// Adds a path that is not there yet, without `.` and without `a/..`.
fn push(paths: &mut Vec<PathBuf>, path: PathBuf) {
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let path = if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path
    };
    if !paths.contains(&path) {
        paths.push(path);
    }
}

impl Entry {
    pub(super) fn new(roots: &[PathBuf], folder: &Path, text: &str) -> Self {
        let mut candidates = Vec::new();
        for text in spellings(text) {
            for root in roots {
                push(&mut candidates, root.join(&text));
            }
            push(&mut candidates, folder.join(&text));
            push(&mut candidates, PathBuf::from(&text));
        }
        // Roboflow writes `../train/images` beside `train`.
        for text in spellings(text) {
            if let Some(inside) = text.strip_prefix("../") {
                for root in roots.iter().map(PathBuf::as_path).chain([folder]) {
                    push(&mut candidates, root.join(inside));
                }
            }
        }
        Self { candidates }
    }

    /// The place that exists.
    pub(super) fn found(&self) -> Option<&Path> {
        self.candidates.iter().map(PathBuf::as_path).find(|path| path.exists())
    }

    /// The place that was meant first.
    pub(super) fn first(&self) -> &Path {
        self.candidates.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// All places, for a message.
    pub(super) fn places(&self) -> String {
        let places: Vec<String> = self.candidates.iter().map(|path| path.display().to_string()).collect();
        places.join(", ")
    }
}

/// The image of a line of a list file: beside the list, in the data set's folders, or from the working folder. The error has the places.
pub(super) fn listed(list: &Path, roots: &[PathBuf], line: &str) -> Result<PathBuf, String> {
    let mut candidates = Vec::new();
    for text in spellings(line) {
        push(&mut candidates, list.parent().unwrap_or(Path::new("")).join(&text));
        for root in roots {
            push(&mut candidates, root.join(&text));
        }
        push(&mut candidates, PathBuf::from(&text));
    }
    if let Some(found) = candidates.iter().find(|path| path.exists()) {
        return Ok(found.clone());
    }
    let places: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(format!("there is no image `{line}`; looked at {}", places.join(", ")))
}

/// Ultralytics' rule: the last `images` folder of the path becomes `labels`, the ending `.txt`. Folders of other tools are known where
/// they have labels beside them: `Images` and `JPEGImages` with `labels` or `Labels`.
pub fn label_path(image: &Path) -> PathBuf {
    let parts: Vec<&OsStr> = image.components().map(Component::as_os_str).collect();
    let folders = &parts[..parts.len().saturating_sub(1)];
    let is = |part: &OsStr, name: &str| part.eq_ignore_ascii_case(name);
    let exact = folders.iter().rposition(|part| *part == "images");
    let other = || {
        folders
            .iter()
            .rposition(|part| is(part, "images") || is(part, "jpegimages"))
    };
    let Some(at) = exact.or_else(other) else {
        return image.with_extension("txt");
    };
    let before: PathBuf = parts[..at].iter().collect();
    let rest: PathBuf = parts[at + 1..].iter().collect();
    let mut known = ["labels", "Labels", "LABELS"].into_iter();
    let folder = match known.find(|name| before.join(name).is_dir()) {
        Some(folder) => folder,
        None if exact.is_some() => "labels",
        // Nothing says that labels are not beside the images.
        None => return image.with_extension("txt"),
    };
    before.join(folder).join(rest).with_extension("txt")
}
