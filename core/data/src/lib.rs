//! Data sets: reading, checking, augmenting, synthesising and batching images and labels.
//!
//! What lives here: everything between files and contiguous bytes. What must not: tensors, models, printing.

pub mod anchors;
pub mod augment;
pub mod check;
pub mod classes;
pub mod convert;
pub mod dataset;
pub mod endings;
mod entropy;
mod error;
pub mod files;
mod hyp;
pub mod labels;
pub mod letterbox;
pub mod loader;
pub mod pixels;
pub mod probe;
pub mod synth;
pub mod text;
pub mod variety;
pub mod weights;

pub use dataset::{Dataset, Policy, Sample, Samples, Split};
pub use error::{Error, Result};
pub use hyp::Hyp;
pub use loader::{Batch, Batches, Loader, LoaderOptions, Origin, Shard};
pub use pixels::Image;
