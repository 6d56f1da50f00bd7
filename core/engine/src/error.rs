//! The error type of the engine: names the file, says what is wrong and what to do.

use std::path::{Path, PathBuf};

/// What can go wrong while a model is read, trained, measured or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("{}: can't {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried (`read it`, `write it`, ...).
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Settings that make no sense together.
    #[error("{0}")]
    Settings(String),
    /// Training produced numbers that are not finite.
    #[error("{what} is not finite (epoch {epoch}, batch {batch}): lower the learning rate (lr0) or check the labels")]
    Diverged {
        /// The loss, or the tensor's name.
        what: String,
        /// Epoch, from 0.
        epoch: usize,
        /// Batch in the epoch, from 0.
        batch: usize,
    },
    /// A network gave numbers that are not finite.
    #[error(
        "the network gives values that are not finite: its weights are damaged or its activations overflow; go back to an earlier \
         checkpoint"
    )]
    NotFinite,
    /// Memory ran out in a training step.
    #[error("a step with {batch} images of {size} pixels does not fit into memory ({reason}): {}", smaller(.fits, .batch))]
    OutOfMemory {
        /// Images of the batch.
        batch: usize,
        /// Side of the images.
        size: usize,
        /// A batch that would fit, where it is known.
        fits: Option<usize>,
        /// What libtorch said.
        reason: String,
    },
    /// A process that trains with this one is gone, or never came.
    #[error("{0}")]
    Lost(String),
    /// A program that runs files for deployment failed.
    #[error("{0}")]
    Foreign(String),
    /// An error of the graph, its passes or a plugin.
    #[error(transparent)]
    Core(#[from] yolo_core::Error),
    /// An error of the data set.
    #[error(transparent)]
    Data(#[from] yolo_data::Error),
    /// libtorch reported an error.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
}

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about a batch that was too large.
fn smaller(fits: &Option<usize>, batch: &usize) -> String {
    match *fits {
        Some(images) => format!("use --batch-size {images}, which was measured to fit, or smaller images"),
        None if *batch > 1 => format!("try --batch-size {}, or smaller images", batch / 2),
        None => "use smaller images or a smaller network".to_owned(),
    }
}

impl Error {
    /// A file system error at a path.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// Whether libtorch, or the system below it, had no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        let says = |text: &str| {
            // The allocators of CUDA and of the CPU (two wordings, by version).
            ["out of memory", "can't allocate memory", "not enough memory"]
                .iter()
                .any(|words| text.contains(words))
        };
        match self {
            Self::OutOfMemory { .. } => true,
            Self::Torch(error) => says(&error.to_string()),
            Self::Core(error) => says(&error.to_string()),
            _ => false,
        }
    }

    /// A file that is not what it should be.
    pub fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
