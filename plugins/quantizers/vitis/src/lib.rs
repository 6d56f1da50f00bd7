//! Xilinx Vitis: symmetric 8 bit with power-of-two scales; outputs of layers are quantized.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Method, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

/// Power-of-two scales for Xilinx Vitis.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Vitis {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "vitis")]
impl Quantizer for Vitis {
    fn backend(&self) -> BackendSpec {
        let mut backend = BackendSpec {
            weight: Scheme {
                narrow: false,
                method: Method::PowerOfTwo,
                ..Scheme::INT8
            },
            activation: Scheme {
                narrow: false,
                method: Method::PowerOfTwoUp,
                ..Scheme::INT8
            },
            placement: Placement {
                outputs_of: [
                    "conv2d", "linear", "avg-pool", "max-pool", "add", "mul", "concat", "upsample",
                ]
                .map(str::to_owned)
                .to_vec(),
                image: true,
                ..Placement::inputs_of(&["conv2d"])
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
        Ok(vec![emit::vitis(model, ranges)?])
    }
}

yolo_sdk::plugin! {
    quantizer Vitis = "vitis" {
        summary: "Power-of-two scales for Xilinx Vitis",
        paper: ("Trained Quantization Thresholds for Accurate and Efficient Fixed-Point Inference of Deep Neural Networks", "https://arxiv.org/abs/1903.08066", 2020, "TQT (MLSys 2020)"),
    }
}
