//! ONNX QNN (TVM): asymmetric 8 bit per tensor, inputs and outputs; linear layers stay float.

use yolo_sdk::prelude::quant::{BackendSpec, Observer, Placement, Scheme};
use yolo_sdk::prelude::*;

/// Ops that run on integers.
const OPS: [&str; 3] = ["conv2d", "add", "avg-pool"];

/// Asymmetric uint8 for TVM and ONNX QLinear operators.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct OnnxQnn {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "onnx-qnn")]
impl Quantizer for OnnxQnn {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                symmetric: false,
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            activation: Scheme {
                symmetric: false,
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            placement: Placement {
                before_activations: true,
                ..Placement::inputs_of(&OPS).and_outputs_of(&OPS)
            },
            engine: Some("qlinear".into()),
            linear: false,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }
}

yolo_sdk::plugin! {
    quantizer OnnxQnn = "onnx-qnn" {
        summary: "Asymmetric uint8 for TVM and ONNX QLinear operators",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
