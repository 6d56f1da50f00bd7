//! Transformations `Graph -> Graph` with `Params -> Params`. None knows a plugin by name.

mod fuse;

pub use fuse::fuse;
