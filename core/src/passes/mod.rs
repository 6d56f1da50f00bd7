//! Transformations `Graph -> Graph` with `Params -> Params`. None knows a plugin by name.

mod fuse;
mod upsample;

pub use fuse::fuse;
pub use upsample::upsample_late;
