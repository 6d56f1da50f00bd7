//! Transformations `Graph -> Graph` with `Params -> Params`. None knows a plugin by name.

mod fuse;
mod gate;
mod upsample;

pub use fuse::fuse;
pub use gate::split_silu;
pub use upsample::upsample_late;
