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

/// The folder of a run, made for this process alone: two that start at once get two. Where nothing was written into it, it goes again
/// when it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Folders that were made for it, the deepest first.
    made: Vec<PathBuf>,
}

impl RunFolder {
    /// `project/name`, or `project/name2`, ... if that exists; with `exist_ok` it may exist.
    ///
    /// # Errors
    /// Names the folder that can't be made.
    pub fn take(project: &Path, name: &str, exist_ok: bool) -> Result<Self> {
        let mut made = missing(project);
        std::fs::create_dir_all(project).map_err(|error| io_error("can't make the folder", project, &error))?;
        for number in 1.. {
            let path = match number {
                1 => project.join(name),
                number => project.join(format!("{name}{number}")),
            };
            // A name may have folders in it.
            if let Some(above) = path.parent() {
                made.splice(0..0, missing(above));
                std::fs::create_dir_all(above).map_err(|error| io_error("can't make the folder", above, &error))?;
            }
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    made.insert(0, path.clone());
                    return Ok(Self { path, made });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && exist_ok => {
                    return Ok(Self { path, made });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("can't make the folder", &path, &error)),
            }
        }
        Err(Error::Failed(format!("{}: no name is free", project.display())))
    }

    /// Where results go: `save_dir` as it is; else a folder of `(project, name, exist_ok)` where there are any, and nowhere where not.
    ///
    /// # Errors
    /// Those of [`RunFolder::take`].
    pub fn of_results(save_dir: Option<&Path>, any: bool, named: (&Path, &str, bool)) -> Result<Self> {
        match save_dir {
            None if any => Self::take(named.0, named.1, named.2),
            given => Ok(Self {
                path: given.unwrap_or(Path::new("")).to_owned(),
                made: Vec::new(),
            }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        remove_empty(&self.made);
    }
}

/// Removes folders, the deepest first; those that hold something stay, as the system refuses to remove them.
fn remove_empty(folders: &[PathBuf]) {
    for folder in folders {
        if std::fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

/// Folders on the way to `folder` that are not there, the deepest first.
fn missing(folder: &Path) -> Vec<PathBuf> {
    let named = folder.ancestors().filter(|part| !part.as_os_str().is_empty());
    named.take_while(|part| !part.exists()).map(Path::to_owned).collect()
}

/// A folder that one process writes to; given back when it is dropped, or the process ends in whatever way. Where it was made for that and
/// nothing was written into it, it goes again.
#[derive(Debug)]
pub struct Lock {
    _file: std::fs::File,
    /// Folders that were made for it, the deepest first.
    made: Vec<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        remove_empty(&self.made);
    }
}

/// Takes a folder for this process: two that write one run would each undo what the other does.
///
/// # Errors
/// Where another process has it, or it can't be made.
pub fn lock(folder: &Path) -> Result<Lock> {
    let made = missing(folder);
    std::fs::create_dir_all(folder).map_err(|error| io_error("can't make the folder", folder, &error))?;
    // The folder itself is what is locked: nothing is left in it.
    let file = std::fs::File::open(folder).map_err(|error| io_error("can't open the folder", folder, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file, made }),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Usage(format!(
            "{}: another process is at work in this folder\n  help: wait for it, or give another name or folder",
            folder.display()
        ))),
        // A file system without locks protects nothing, and is no reason to do nothing.
        Err(std::fs::TryLockError::Error(_)) => Ok(Lock { _file: file, made }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_start_at_once_get_folders_of_their_own_and_leave_none_that_is_empty() {
        let dir = tempfile::tempdir().expect("a folder");
        let project = dir.path().join("runs/train");
        let folders: Vec<RunFolder> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| RunFolder::take(&project, "exp", false).expect("a folder")))
                .collect();
            all.into_iter().map(|one| one.join().expect("no panic")).collect()
        });
        let mut names: Vec<_> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        names.sort();
        let mut wanted: Vec<PathBuf> = (2..=8).map(|n| project.join(format!("exp{n}"))).collect();
        wanted.insert(0, project.join("exp"));
        assert_eq!(names, wanted);
        std::fs::write(project.join("exp3/results.csv"), "epoch").expect("a file");
        drop(folders);
        let left: Vec<_> = std::fs::read_dir(&project).expect("it stays").flatten().collect();
        assert_eq!(left.len(), 1, "only the one that holds something");
        let again = RunFolder::take(&project, "exp3", true).expect("it may be there");
        assert_eq!(again.path(), project.join("exp3"));
        drop(again);
        assert!(project.join("exp3/results.csv").exists());
        let other = dir.path().join("other");
        drop(RunFolder::take(&other, "a/b", false).expect("a folder"));
        assert!(!other.exists());
    }

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
