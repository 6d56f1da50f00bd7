//! What can go wrong while something is drawn or written.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while something is drawn or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not `width * height` RGB pixels.
    #[error("{bytes} bytes are not a picture of {width} x {height} RGB pixels")]
    Size {
        /// Bytes that came.
        bytes: usize,
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A file name whose ending names no format that can be written.
    #[error("can't write {}: pictures are written as .jpg, .jpeg or .png", .0.display())]
    Format(PathBuf),
    /// An encoder refused.
    #[error("the picture can't be encoded: {0}")]
    Encode(#[from] image::ImageError),
    /// The file can't be written.
    #[error("can't write {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Bytes that should be a font.
    #[error("this is no TrueType or OpenType font that can be read")]
    Font,
    /// A table of numbers that can't be read.
    #[error("{0}")]
    Table(String),
}

impl Error {
    /// A failure to write `path`.
    pub(crate) fn write(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |source| Self::Write {
            path: path.to_owned(),
            source,
        }
    }
}
