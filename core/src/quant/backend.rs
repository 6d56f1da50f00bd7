//! A backend as data, and the trait that quantizer plugins implement.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::{Method, Observer, Placement, Ranges, Refinement, Scheme};
use crate::graph::{Node, Op};
use crate::{Error, Result};

/// Everything that a quantization backend is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// How weights are quantized.
    pub weight: Scheme,
    /// How biases of quantized layers are quantized, where the toolchain gives them a grid of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Scheme>,
    /// How activations are quantized.
    pub activation: Scheme,
    /// Which activations.
    pub placement: Placement,
    /// Bits of the weights of the first and the last layers and of what these read, where they differ from the others'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_bits: Option<u32>,
    /// Quantize linear layers too.
    pub linear: bool,
    /// Whether the engine runs an op on integers only between two quantizers (onnxruntime). Then SiLU becomes a sigmoid and a
    /// product before anything is quantized, and files repeat a quantizer behind ops that move values.
    #[serde(default)]
    pub integer_ops: bool,
    /// The form of its QDQ files where it is not the usual one: `openvino` for that engine, `qlinear` for integer operators in the place of
    /// pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// What calibration does besides finding ranges, unless asked for something else.
    #[serde(default)]
    pub refinement: Refinement,
    /// Whether its toolchain runs all layers on integers: a table of ranges can't say that one stays in float.
    #[serde(default)]
    pub integers_only: bool,
}

impl Default for BackendSpec {
    /// Symmetric int8, convolutions and linear layers with what they read.
    fn default() -> Self {
        Self {
            weight: Scheme {
                per_channel: true,
                ..Scheme::INT8
            },
            bias: None,
            activation: Scheme::INT8,
            placement: Placement::inputs_of(&["conv2d", "linear"]),
            end_bits: None,
            linear: true,
            integer_ops: false,
            engine: None,
            refinement: Refinement::default(),
            integers_only: false,
        }
    }
}

impl BackendSpec {
    /// With another observer of activations, where a user names one: the option that most backends have.
    #[must_use]
    pub fn observed_by(mut self, observer: Option<Observer>) -> Self {
        if let Some(observer) = observer {
            self.activation.observer = observer;
        }
        self
    }

    /// Refuses what no network can be quantized with.
    ///
    /// # Errors
    /// A width outside of 2 to 16 bits, and an op of the placement that does not exist.
    pub fn check(&self) -> Result<()> {
        if let Some(bits) = self.end_bits.filter(|bits| !(2..=16).contains(bits)) {
            return Err(Error::Config(format!(
                "its first and last layers have {bits} bits; 2 to 16 are possible"
            )));
        }
        let biases = self.bias.iter().map(|scheme| ("biases", scheme));
        for (what, scheme) in [("weights", &self.weight), ("activations", &self.activation)]
            .into_iter()
            .chain(biases)
        {
            if !(2..=16).contains(&scheme.bits) {
                return Err(Error::Config(format!(
                    "its {what} have {} bits; 2 to 16 are possible",
                    scheme.bits
                )));
            }
        }
        if self.activation.method == Method::Dorefa {
            return Err(Error::Config(
                "`dorefa` is a method for weights; activations have `pact`, `learnable`, `dsq` or `fixed`".into(),
            ));
        }
        self.placement.check()
    }
}

/// A file that a backend's toolchain reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Name of the file.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Artifact {
    /// A JSON file with four blanks per level, as Python's `json.dump(.., indent=4)` and so the toolchains' own files have it.
    ///
    /// # Errors
    /// None that a [`serde_json::Value`] can cause.
    pub fn json(name: String, value: &serde_json::Value) -> Result<Self> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
        Ok(Self {
            name,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

/// A backend: scheme, placement and what it writes besides ONNX.
#[typetag::serde(tag = "type")]
pub trait Quantizer: Debug + Send + Sync {
    /// Scheme and placement.
    fn backend(&self) -> BackendSpec;

    /// Whether a weight is quantized (all convolutions, and linear layers if the backend does those).
    ///
    /// # Errors
    /// Those of a plugin behind a boundary.
    fn quantizes(&self, node: &Node) -> Result<bool> {
        Ok(match node.op {
            Op::Conv2d { .. } => true,
            Op::Linear { .. } => self.backend().linear,
            _ => false,
        })
    }

    /// The text files of the backend (ranges, encodings); the network itself is written by the exporter.
    fn artifacts(&self, _model: &str, _ranges: &Ranges) -> Result<Vec<Artifact>> {
        Ok(Vec::new())
    }
}
