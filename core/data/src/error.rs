//! The error type of the data crate: names the file, the place in it and the way out.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What can go wrong with a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("{}: can't {action}: {source}{}", path.display(), way_out(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not a readable image.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A row of a label file.
    #[error("{}:{line}: {reason}", path.display())]
    Label {
        /// The label file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A data set as a whole.
    #[error("{}{}: {reason}", path.display(), at_line(*line))]
    Dataset {
        /// Its YAML file or folder.
        path: PathBuf,
        /// Line of the file, from 1; 0 where it concerns all of it.
        line: usize,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Settings that can't work.
    #[error("{0}")]
    Settings(String),
    /// A configuration value.
    #[error(transparent)]
    Config(#[from] yolo_core::config::ConfigError),
    /// A worker thread of a loader died.
    #[error("a thread that reads images stopped unexpectedly; run again with one worker to see which image does it")]
    Worker,
    /// The user wanted it so.
    #[error("stopped")]
    Stopped,
}

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A file system error at a path.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// An unreadable image.
    pub fn image(path: &Path, reason: impl Into<String>) -> Self {
        Self::Image {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// A row of a label file.
    pub fn label(path: &Path, line: usize, reason: impl Into<String>) -> Self {
        Self::Label {
            path: path.to_owned(),
            line,
            reason: reason.into(),
        }
    }

    /// A data set that can't be used.
    pub fn dataset(path: &Path, reason: impl Into<String>) -> Self {
        Self::dataset_line(path, 0, reason)
    }

    /// A line of the file of a data set that can't be used.
    pub fn dataset_line(path: &Path, line: usize, reason: impl Into<String>) -> Self {
        Self::Dataset {
            path: path.to_owned(),
            line,
            reason: reason.into(),
        }
    }
}

/// `:7`, or nothing for line 0.
fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!(":{line}") }
}

/// What a user can do about a refusal of the file system.
fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder you may use, or change its rights"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room on the disk, or choose another one",
        ErrorKind::NotADirectory => "; a part of the path is a file",
        _ => "",
    }
}
