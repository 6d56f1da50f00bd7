//! The jobs of `yolo` as a library: open models and data, train, prune, quantize, export, measure, and all of it by a recipe. The
//! command line parses, draws and prints; what it starts stands here.
//!
//! A job is given a [`Session`] (the plugins that it may use, and a [`Progress`] listener that sees it work and may end it) and the
//! same settings that the command line and a recipe read: [`train::TrainSettings`], [`prune::PruneSettings`],
//! [`quantize::QuantizeSettings`], [`export::ExportSettings`], [`bench::BenchSettings`]. It says what is odd through the listener,
//! prints nothing, and ends with a typed [`Error`].
//!
//! ```no_run
//! use std::path::Path;
//! use yolo_jobs::{Compute, Progress, Session, compress};
//! // use yolo_builtin as _; // links every plugin of the project
//!
//! struct Lines;
//! impl Progress for Lines {
//!     fn say(&self, line: &str) {
//!         println!("{line}");
//!     }
//!     fn begin(&self, label: &str, total: usize) {
//!         println!("{label}: {total} parts");
//!     }
//! }
//!
//! fn main() -> yolo_jobs::Result {
//!     let session = Session { plugins: &yolo_core::model::Linked, progress: &Lines };
//!     let recipe = compress::Recipe::read(Path::new("recipe.yaml"), &["img=320".to_owned()])?;
//!     let result = compress::run(session, &recipe, compress::Mode::Resume, Compute::cpu())?;
//!     for row in &result.rows {
//!         println!("{}: mAP50 {:.3}, {:.2} GFLOPs", row.name, row.map50, row.gflops);
//!     }
//!     Ok(())
//! }
//! ```

/// Tests build networks with the plugins of the project.
#[cfg(test)]
use yolo_builtin as _;

pub mod bench;
pub mod candidates;
pub mod compare;
pub mod compress;
pub mod compute;
pub mod deployed;
pub mod error;
pub mod export;
pub mod files;
pub mod latency;
pub mod limits;
mod lists;
pub mod measure;
pub mod memory;
pub mod open;
pub mod outputs;
pub mod plots;
pub mod prune;
pub mod quantize;
pub mod report;
mod session;
pub mod train;

pub use compute::Compute;
pub use error::{Error, Result};
pub use session::Session;
pub use yolo_core::Progress;
