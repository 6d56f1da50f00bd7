//! Training, validation, detection, pruning and quantization drivers, checkpoints.
//!
//! What lives here: everything that needs a model, tensors and data together. What must not: printing (progress goes
//! through callbacks), argument parsing, drawing, export formats.

pub mod batch;
pub mod checkpoint;
pub mod detect;
pub mod dist;
pub mod error;
pub mod eval;
pub mod loss;
pub mod prune;
pub mod pt;
pub mod quant;
pub mod raw;
pub mod train;
pub mod val;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
