//! From a configuration to a graph: a model file names a backbone, a neck and a head. Ultralytics' layer lists are read into the
//! same graph ([`ultralytics`]). Which plugins there are is not known here: names are looked up among the linked ones, or by
//! the caller's [`Resolver`].

mod config;
pub mod diagram;
mod head;
pub mod names;
mod pan;
mod published;
pub mod ultralytics;

pub use config::{Anchors, Head, ModelConfig, build, build_with, resolve_extends};
pub use head::{default_anchors, detect, with_anchor_count, with_classes};
pub use names::{Linked, Resolver};
pub use pan::{Level, Pan, Reads, Skip};
pub use published::{find, published};
