//! Files and folders that jobs write.

use std::path::{Path, PathBuf};

use yolo_engine::checkpoint;

use crate::error::{Result, io_error};

/// Writes a file so that a reader sees all of it or none.
///
/// # Errors
/// Names the file.
pub fn write(path: &Path, bytes: &[u8]) -> Result {
    use std::io::Write as _;
    checkpoint::write_atomically(path, |file| file.write_all(bytes))
        .map_err(|error| io_error("can't write", path, &std::io::Error::other(error)))
}

/// Reads a text.
///
/// # Errors
/// Names the file.
pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| io_error("can't read", path, &error))
}

/// `project/name`, or `project/name2`, ... if that exists.
pub fn run_folder(project: &Path, name: &str, exist_ok: bool) -> PathBuf {
    let base = project.join(name);
    if exist_ok || !base.exists() {
        return base;
    }
    (2..)
        .map(|n| project.join(format!("{name}{n}")))
        .find(|path| !path.exists())
        .unwrap_or(base)
}
