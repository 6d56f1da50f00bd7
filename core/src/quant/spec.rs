//! What one fake quantizer does: range, granularity, rounding, gradient; and the schemes that backends are made of.

use serde::{Deserialize, Serialize};

use super::Observer;
use crate::params::Init;
use crate::{ParamRole, ParamSpec};

/// How a fake quantizer rounds and what it learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Linear grid, fixed scale, straight-through gradient inside the range.
    Fixed,
    /// Linear grid, learned scale (LSQ, arXiv 1902.08153; LSQ+, arXiv 2004.09576, for asymmetric ones).
    #[default]
    Learnable,
    /// HiSilicon's GFPQ: a logarithmic grid with 16 steps per octave and 7 bits of magnitude. The scale holds the largest value.
    Gfpq,
    /// Power-of-two scale, half to even (Vitis weights and biases).
    PowerOfTwo,
    /// Power-of-two scale, half towards plus infinity for negative numbers (Vitis activations).
    PowerOfTwoUp,
    /// As [`Method::PowerOfTwo`], and the threshold learns (TQT, arXiv 1903.08066).
    Tqt,
    /// As [`Method::PowerOfTwoUp`], and the threshold learns.
    TqtUp,
    /// Linear grid whose end learns, by what lies beyond it alone (PACT, arXiv 1805.06085). For activations.
    Pact,
    /// Linear grid; the gradient is that of a soft staircase (DSQ, arXiv 1908.05033).
    Dsq,
    /// Linear grid for `tanh` of the weight (DoReFa, arXiv 1606.06160), brought back to the weight's magnitude, since batch norm is folded
    /// and nothing behind it takes a factor out. For weights; [`super::baked`] ends it.
    Dorefa,
}

impl Method {
    /// Whether its grid points are the same distance apart, which is the scale.
    pub fn is_linear(self) -> bool {
        match self {
            Self::Fixed | Self::Learnable | Self::Pact | Self::Dsq => true,
            Self::Gfpq | Self::PowerOfTwo | Self::PowerOfTwoUp | Self::Tqt | Self::TqtUp | Self::Dorefa => false,
        }
    }

    /// Whether its scale is rounded to a power of two.
    pub fn is_power_of_two(self) -> bool {
        matches!(self, Self::PowerOfTwo | Self::PowerOfTwoUp | Self::Tqt | Self::TqtUp)
    }

    /// Whether negative halves are rounded up, where all others round halves to even numbers.
    pub fn rounds_up(self) -> bool {
        matches!(self, Self::PowerOfTwoUp | Self::TqtUp)
    }

    /// Whether its scale learns.
    pub fn learns(self) -> bool {
        matches!(self, Self::Learnable | Self::Tqt | Self::TqtUp | Self::Pact)
    }
}

/// One fake quantizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FakeQuantSpec {
    /// Smallest integer.
    pub qmin: i64,
    /// Largest integer.
    pub qmax: i64,
    /// One scale per output channel (weights) instead of one per tensor.
    pub per_channel: bool,
    /// Zero point fixed at 0.
    #[serde(default = "yes")]
    pub symmetric: bool,
    /// Rounding and gradient.
    #[serde(default)]
    pub method: Method,
}

fn yes() -> bool {
    true
}

impl FakeQuantSpec {
    /// `NAME.scale` and `NAME.zero_point`, one element per channel or one. What is not learned is a buffer.
    pub fn params(&self, name: &str, channels: i64) -> Vec<ParamSpec> {
        let shape = vec![if self.per_channel { channels } else { 1 }];
        let learned = self.method.learns();
        let spec = |key: &str, value, learned| ParamSpec {
            key: format!("{name}.{key}"),
            shape: shape.clone(),
            role: if learned { ParamRole::Quant } else { ParamRole::Buffer },
            init: Init::Const(value),
        };
        vec![
            spec("scale", 1.0, learned),
            spec("zero_point", 0.0, self.method == Method::Learnable && !self.symmetric),
        ]
    }
}

/// How weights or activations are quantized by a backend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// Bits.
    pub bits: u32,
    /// Zero point at 0.
    pub symmetric: bool,
    /// One scale per output channel.
    pub per_channel: bool,
    /// Leave out the most negative integer (-127..127).
    pub narrow: bool,
    /// Rounding and gradient.
    pub method: Method,
    /// How the range is found.
    pub observer: Observer,
}

impl Scheme {
    /// Symmetric int8, -127..127, learned scale.
    pub const INT8: Self = Self {
        bits: 8,
        symmetric: true,
        per_channel: false,
        narrow: true,
        method: Method::Learnable,
        observer: Observer::Mse,
    };

    /// With other bits, where there are some.
    #[must_use]
    pub fn with_bits(self, bits: Option<u32>) -> Self {
        Self {
            bits: bits.unwrap_or(self.bits),
            ..self
        }
    }

    /// The fake quantizer of this scheme.
    pub fn spec(&self) -> FakeQuantSpec {
        let (qmin, qmax) = if self.symmetric {
            let half = 1i64 << (self.bits - 1);
            (if self.narrow { 1 - half } else { -half }, half - 1)
        } else {
            (0, (1i64 << self.bits) - 1)
        };
        FakeQuantSpec {
            qmin,
            qmax,
            per_channel: self.per_channel,
            symmetric: self.symmetric,
            method: self.method,
        }
    }
}
