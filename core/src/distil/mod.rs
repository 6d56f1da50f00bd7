//! Knowledge distillation: what a student can learn from a teacher beside the labels (Hinton et al., arXiv 1503.02531).
//!
//! A [`Distiller`] says which maps of both networks it compares, which tensors it trains for that (adapters, where widths differ), and how
//! far apart the maps are. Running the teacher, choosing the images and stepping the optimizer is the engine's.
//!
//! What must not be here: a formula of one distiller (plugins), anything about data.

mod distiller;
mod layout;

use crate::{Error, Result};

/// Refuses a weight or temperature of a distiller that teaches nothing, or the opposite.
///
/// # Errors
/// [`Error::Config`] names the option of `distiller` that is not above 0.
pub fn above_zero(distiller: &str, option: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{distiller}: `{option}: {value}` must be above 0"
    )))
}

pub use distiller::{DistilBatch, DistilNeeds, Distiller, HeadWeights, NetworkMaps, align_specs, checked_loss};
pub use layout::{HeadMaps, Layout, Level, Misfit, pair_levels};

// For plugins that work with adapters.
pub use crate::Params;
