//! The academic setting: weights and activations of convolutions and linear layers only, schemes chosen freely.
//! Outputs of the network stay float.

use yolo_sdk::prelude::quant::{BackendSpec, Method, Observer, Scheme};
use yolo_sdk::prelude::*;

/// Schemes of the academic setting.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Academic {
    /// What is other than 8 bits, symmetric, per channel, -127..127, learnable, MSE for weights.
    pub weight: Changes,
    /// What is other than 8 bits, symmetric, per tensor, -127..127, learnable, MSE for activations.
    pub activation: Changes,
    /// Bits of the first and the last layers, weights and inputs, which few bits hurt most.
    pub end_bits: u32,
}

/// What a scheme has otherwise than the default.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Changes {
    /// Bits.
    pub bits: Option<u32>,
    /// Zero point at 0.
    pub symmetric: Option<bool>,
    /// One scale per output channel.
    pub per_channel: Option<bool>,
    /// Leave out the most negative integer.
    pub narrow: Option<bool>,
    /// Rounding and gradient.
    pub method: Option<Method>,
    /// How the range is found.
    pub observer: Option<Observer>,
}

impl Changes {
    fn over(&self, usual: Scheme) -> Scheme {
        Scheme {
            bits: self.bits.unwrap_or(usual.bits),
            symmetric: self.symmetric.unwrap_or(usual.symmetric),
            per_channel: self.per_channel.unwrap_or(usual.per_channel),
            narrow: self.narrow.unwrap_or(usual.narrow),
            method: self.method.unwrap_or(usual.method),
            observer: self.observer.unwrap_or(usual.observer),
        }
    }
}

impl Default for Academic {
    fn default() -> Self {
        Self {
            weight: Changes::default(),
            activation: Changes::default(),
            end_bits: 8,
        }
    }
}

#[typetag::serde(name = "academic")]
impl Quantizer for Academic {
    fn backend(&self) -> BackendSpec {
        let usual = BackendSpec::default();
        BackendSpec {
            weight: self.weight.over(usual.weight),
            activation: self.activation.over(usual.activation),
            end_bits: Some(self.end_bits),
            ..usual
        }
    }
}

yolo_sdk::plugin! {
    quantizer Academic = "academic" {
        summary: "Free choice of schemes for weights and activations",
        paper: ("Learned Step Size Quantization", "https://arxiv.org/abs/1902.08153", 2020, "LSQ (ICLR 2020)"),
    }
}
