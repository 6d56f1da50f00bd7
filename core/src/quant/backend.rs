//! A backend as data, and the trait that quantizer plugins implement.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::{Placement, Scheme, emit};
use crate::graph::{Graph, Node, Op};
use crate::{Params, Result};

/// Everything that a quantization backend is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// How weights are quantized.
    pub weight: Scheme,
    /// How activations are quantized.
    pub activation: Scheme,
    /// Which activations.
    pub placement: Placement,
    /// Quantize linear layers too.
    pub linear: bool,
    /// Whether the engine runs an op on integers only between two quantizers (onnxruntime). Then SiLU becomes a sigmoid and a
    /// product before anything is quantized, and files repeat a quantizer behind ops that move values.
    #[serde(default)]
    pub integer_ops: bool,
}

impl Default for BackendSpec {
    /// Symmetric int8, convolutions and linear layers with what they read.
    fn default() -> Self {
        Self {
            weight: Scheme {
                per_channel: true,
                ..Scheme::INT8
            },
            activation: Scheme::INT8,
            placement: Placement::inputs_of(&["conv2d", "linear"]),
            linear: true,
            integer_ops: false,
        }
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

/// A backend: scheme, placement and what it writes besides ONNX.
#[typetag::serde(tag = "type")]
pub trait Quantizer: Debug + Send + Sync {
    /// Scheme and placement.
    fn backend(&self) -> BackendSpec;

    /// Whether a weight is quantized (all convolutions, and linear layers if the backend does those).
    fn quantizes(&self, node: &Node) -> bool {
        match node.op {
            Op::Conv2d { .. } => true,
            Op::Linear { .. } => self.backend().linear,
            _ => false,
        }
    }

    /// The text files of the backend (ranges, encodings); the network itself is written by the exporter.
    fn artifacts(&self, _model: &str, _ranges: &emit::Ranges) -> Result<Vec<Artifact>> {
        Ok(Vec::new())
    }
}

/// What a quantized graph says about ranges, for emitters.
pub fn ranges(graph: &Graph, params: &Params) -> Result<emit::Ranges> {
    emit::Ranges::of(graph, params)
}
