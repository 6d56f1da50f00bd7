//! The error type of the exporters and engines.

use std::path::{Path, PathBuf};

/// What can go wrong while a network is exported, or an exported file is run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network itself is at fault.
    #[error(transparent)]
    Core(#[from] yolo_core::Error),
    /// The format cannot hold the network, or an option asks for something that does not exist.
    #[error("{0}")]
    Unsupported(String),
    /// A file would not compute what its network computes.
    #[error("{0}; nothing was written")]
    Disagrees(String),
    /// A node has no form in the target format.
    #[error("`{node}` ({op}) can't be exported to {format}: {reason}")]
    Node {
        /// Scoped name of the node.
        node: String,
        /// Name of its op.
        op: String,
        /// Name of the format.
        format: &'static str,
        /// Why, and what would help.
        reason: String,
    },
    /// A file could not be read.
    #[error("can't read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written; nothing is left under its name.
    #[error("can't write {path}: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("{path}: {reason}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine's library is not there or can't be used.
    #[error("{engine} is not available: {reason}\n  {help}")]
    EngineMissing {
        /// Name of the engine.
        engine: &'static str,
        /// What happened.
        reason: String,
        /// The way out.
        help: &'static str,
    },
    /// The process of an engine ended while it had a file open, or was to open it.
    #[error(
        "{engine} crashed on {path} ({how}); the file may be right: report it to the makers of {engine}, or run it with another engine \
         (`yolo doctor` lists them)",
        path = .path.display()
    )]
    EngineCrashed {
        /// Name of the engine.
        engine: &'static str,
        /// The file.
        path: PathBuf,
        /// How the process ended, and what it said last.
        how: String,
    },
    /// The engine refused a model or an input.
    #[error("{engine}: {reason}")]
    Engine {
        /// Name of the engine.
        engine: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            source,
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::Core(error.into())
    }
}
