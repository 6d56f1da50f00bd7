//! The academic setting: weights and activations of convolutions and linear layers only, schemes chosen freely.
//! Outputs of the network stay float.

use yolo_sdk::prelude::quant::{BackendSpec, Scheme};
use yolo_sdk::prelude::*;

/// Schemes of the academic setting.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Academic {
    /// Scheme of weights.
    pub weight: Scheme,
    /// Scheme of activations.
    pub activation: Scheme,
    /// Bits of the first and the last layers, weights and inputs, which few bits hurt most.
    pub end_bits: u32,
}

impl Default for Academic {
    fn default() -> Self {
        let BackendSpec { weight, activation, .. } = BackendSpec::default();
        Self {
            weight,
            activation,
            end_bits: 8,
        }
    }
}

#[typetag::serde(name = "academic")]
impl Quantizer for Academic {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: self.weight,
            activation: self.activation,
            end_bits: Some(self.end_bits),
            ..BackendSpec::default()
        }
    }
}

yolo_sdk::plugin! {
    quantizer Academic = "academic" {
        summary: "Free choice of schemes for weights and activations",
        paper: ("Learned Step Size Quantization", "https://arxiv.org/abs/1902.08153", 2020, "LSQ (ICLR 2020)"),
    }
}
