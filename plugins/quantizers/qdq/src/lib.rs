//! The QDQ form of ONNX: the scheme of `tensorrt` plus products.

use yolo_sdk::prelude::quant::{BackendSpec, Observer, Placement, Scheme};
use yolo_sdk::prelude::*;

/// Int8 as QuantizeLinear/DequantizeLinear pairs (ONNX Runtime, TensorRT).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Qdq {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "qdq")]
impl Quantizer for Qdq {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                per_channel: true,
                ..Scheme::INT8
            },
            activation: Scheme { ..Scheme::INT8 },
            placement: Placement::inputs_of(&["conv2d", "linear", "max-pool", "avg-pool", "add", "mul"]),
            linear: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }
}

yolo_sdk::plugin! {
    quantizer Qdq = "qdq" {
        summary: "Int8 as QuantizeLinear/DequantizeLinear pairs (ONNX Runtime, TensorRT)",
        paper: ("Learned Step Size Quantization", "https://arxiv.org/abs/1902.08153", 2020, "LSQ (ICLR 2020)"),
    }
}
