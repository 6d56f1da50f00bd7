//! Result of everything here. The error itself is [`yolo_core::PluginError`], so that it passes through the core's traits as what it is.

pub use yolo_core::{Code, PluginError};

/// Result of everything in this crate.
pub type Result<T, E = PluginError> = std::result::Result<T, E>;
