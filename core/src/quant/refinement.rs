//! What calibration may do besides finding ranges.

use serde::{Deserialize, Serialize};

/// How weights come to their grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// To the nearest point.
    #[default]
    Nearest,
    /// Up or down, as the results of the layer want it (AdaRound, arXiv 2004.10568).
    AdaRound,
}

/// What calibration does besides finding ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Refinement {
    /// Ranges of weights are made alike from layer to layer (arXiv 1906.04721, section 4.1).
    pub equalize: bool,
    /// Ranges of activations are fitted to the results of the layers that read them (arXiv 2006.16669).
    pub fit_ranges: bool,
    /// How weights come to their grid.
    pub rounding: Rounding,
    /// The mean error of each layer's results is taken off its bias (arXiv 1906.04721, section 4.2).
    pub bias_correction: bool,
}

impl Refinement {
    /// Whether layers are changed on images, one after the other.
    pub fn reconstructs(&self) -> bool {
        self.bias_correction || self.fit_ranges || self.rounding != Rounding::Nearest
    }
}
