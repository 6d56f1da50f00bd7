//! Files and folders that jobs write.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use yolo_engine::checkpoint;

use crate::error::{Error, Result, io_error};

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

/// Hash of a file's content.
///
/// # Errors
/// Names the file.
pub fn hash(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| io_error("can't read", path, &error))?;
    Ok(hex(&Sha256::digest(&bytes)))
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// A folder that one process writes to; given back when it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: std::fs::File,
}

/// Takes a folder for this process: two that write one run would each undo what the other does.
///
/// # Errors
/// Where another process has it, or it can't be made.
pub fn lock(folder: &Path) -> Result<Lock> {
    std::fs::create_dir_all(folder).map_err(|error| io_error("can't make the folder", folder, &error))?;
    // The folder itself is what is locked: nothing is left in it.
    let file = std::fs::File::open(folder).map_err(|error| io_error("can't open the folder", folder, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Usage(format!(
            "{}: another process is at work in this folder\n  help: wait for it, or give another name or folder",
            folder.display()
        ))),
        // A file system without locks protects nothing, and is no reason to do nothing.
        Err(std::fs::TryLockError::Error(_)) => Ok(Lock { _file: file }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_and_given_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("run");
        let first = lock(&folder).expect("it is free");
        let second = lock(&folder).expect_err("it is taken").to_string();
        assert!(second.contains("another process"), "{second}");
        drop(first);
        lock(&folder).expect("it is free again");
    }
}
