//! From names to components: built in, shared libraries and WASM. The only crate that loads foreign code.
//!
//! [`Index`] knows every plugin there is without loading any. It resolves the names in a configuration, and only what a
//! configuration names is loaded.

mod builtin;
mod carrier;
mod describe;
pub mod dynamic;
mod entry;
mod error;
mod index;
mod leave;
mod manifest;
mod package;
mod resolve;
mod scan;
mod search;
pub mod wasm;

pub use carrier::{Fact, Source};
pub use describe::{Description, Paper};
pub use entry::{Entry, Fitness};
pub use error::{Code, PluginError, Result};
pub use index::Index;
pub use leave::{hangup_ignored, ignore_hangup, leave, watch_exit};
pub use manifest::{FILE_NAME as MANIFEST_FILE, Library, Manifest, Packing, Provides};
pub use package::Package;
pub use resolve::{backbone, distiller, metric, neck_block, pruner, quantizer};
pub use search::{Level, SearchPath};

/// The libtorch of this program, which shared libraries must be built against.
pub const LIBTORCH: &str = yolo_abi::LIBTORCH;

/// The plugin ABI that this program speaks: `1.1`.
pub fn abi_version() -> String {
    format!("{}.{}", yolo_abi::ABI_MAJOR, yolo_abi::ABI_MINOR)
}
