//! TensorRT: symmetric int8 in -127..127, one scale per output channel of weights, one per activation tensor; scales are learned in QAT
//! (LSQ). SiLU runs in float between a convolution and the next quantizer; the head's raw maps stay float.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

/// Int8 for TensorRT: per-channel weights, per-tensor activations.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TensorRt {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "tensorrt")]
impl Quantizer for TensorRt {
    fn backend(&self) -> BackendSpec {
        let mut backend = BackendSpec {
            weight: Scheme {
                per_channel: true,
                ..Scheme::INT8
            },
            activation: Scheme { ..Scheme::INT8 },
            placement: Placement {
                fuse_conv_add: false,
                ..Placement::inputs_of(&["conv2d", "linear", "max-pool", "avg-pool", "add"])
            },
            linear: true,
            ..BackendSpec::default()
        };
        if let Some(observer) = self.observer {
            backend.activation.observer = observer;
        }
        backend
    }

    fn artifacts(&self, model: &str, ranges: &emit::Ranges) -> Result<Vec<Artifact>> {
        Ok(vec![emit::tensorrt(model, ranges)?])
    }
}

yolo_sdk::plugin! {
    quantizer TensorRt = "tensorrt" {
        summary: "Int8 for TensorRT: per-channel weights, per-tensor activations",
        paper: ("Learned Step Size Quantization", "https://arxiv.org/abs/1902.08153", 2020, "LSQ (ICLR 2020)"),
    }
}
