//! onnxruntime on a CPU: every op between the image and the raw maps on 8-bit integers, SiLU included.

use yolo_sdk::prelude::quant::{BackendSpec, Observer, Placement, Scheme};
use yolo_sdk::prelude::*;

/// Int8 that is fast on CPUs: unsigned activations, signed weights, no op left in float.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct OnnxRuntime {
    /// How ranges of activations are found.
    pub observer: Observer,
    /// Weights in -64..63: for CPUs without VNNI, whose sums of two 8-bit products saturate at 16 bits.
    pub reduce_range: bool,
}

impl Default for OnnxRuntime {
    fn default() -> Self {
        Self {
            observer: Observer::Mse,
            reduce_range: false,
        }
    }
}

#[typetag::serde(name = "onnxruntime")]
impl Quantizer for OnnxRuntime {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                bits: if self.reduce_range { 7 } else { 8 },
                narrow: !self.reduce_range,
                per_channel: true,
                ..Scheme::INT8
            },
            activation: Scheme {
                symmetric: false,
                observer: self.observer,
                ..Scheme::INT8
            },
            placement: Placement {
                before_activations: true,
                moved_is_quantized: true,
                // The first convolution is faster in float, and more exact: three channels fill no vector of bytes.
                image: false,
                ..Placement::inputs_of(&["conv2d", "linear", "add", "mul", "avg-pool", "reduce"])
                    .and_outputs_of(&["conv2d", "add", "mul", "avg-pool", "reduce"])
            },
            linear: true,
            integer_ops: true,
            ..BackendSpec::default()
        }
    }
}

yolo_sdk::plugin! {
    quantizer OnnxRuntime = "onnxruntime" {
        summary: "Int8 that is fast on CPUs (onnxruntime): SiLU on integers, too",
        paper: ("Integer Quantization for Deep Learning Inference", "https://arxiv.org/abs/2004.09602", 2020, "Wu et al. (arXiv 2020)"),
    }
}
