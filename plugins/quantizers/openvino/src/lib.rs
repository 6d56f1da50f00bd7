//! OpenVINO: per-channel weights in 7 bits (no saturation in AVX2 and AVX-512 kernels), unsigned 8-bit activations.

use yolo_sdk::prelude::quant::{BackendSpec, Observer, Placement, Scheme};
use yolo_sdk::prelude::*;

/// 7-bit weights, 8-bit activations for OpenVINO.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct OpenVino {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "openvino")]
impl Quantizer for OpenVino {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                bits: 7,
                narrow: false,
                per_channel: true,
                ..Scheme::INT8
            },
            // Unsigned: behind a Concat OpenVINO computes something else on signed ones.
            activation: Scheme {
                symmetric: false,
                narrow: false,
                ..Scheme::INT8
            },
            placement: Placement::inputs_of(&["conv2d", "linear", "avg-pool", "add", "max-pool"]),
            linear: true,
            engine: Some("openvino".to_owned()),
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }
}

yolo_sdk::plugin! {
    quantizer OpenVino = "openvino" {
        summary: "7-bit weights, unsigned 8-bit activations for OpenVINO",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
