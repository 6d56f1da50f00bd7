//! Xilinx Vitis: symmetric 8 bit with power-of-two scales; outputs of layers are quantized.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Method, Observer, Placement, Ranges, Scheme};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

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
        BackendSpec {
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
            placement: Placement::inputs_of(&["conv2d"]).and_outputs_of(&[
                "conv2d", "linear", "avg-pool", "max-pool", "add", "mul", "concat", "upsample",
            ]),
            linear: true,
            integers_only: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let all = ranges.activations.iter().chain(&ranges.weights);
        let entries: Map<String, Value> = all
            .map(|range| (range.tensor.clone(), json!({"scale": power_of_two(range.scales[0])})))
            .collect();
        let value = json!({"vitis": entries});
        Ok(vec![Artifact::json(format!("{model}_clip_ranges.json"), &value)?])
    }
}

/// The scale that the simulation rounds with: the smallest power of two that is not below it.
fn power_of_two(scale: f64) -> f64 {
    // Exact powers must not fall to the next one by a rounding error.
    const TINY: f64 = 1e-6;
    (-((1.0 / scale.max(1e-10)).log2() + TINY).floor()).exp2()
}

yolo_sdk::plugin! {
    quantizer Vitis = "vitis" {
        summary: "Power-of-two scales for Xilinx Vitis",
        paper: ("Trained Quantization Thresholds for Accurate and Efficient Fixed-Point Inference of Deep Neural Networks", "https://arxiv.org/abs/1903.08066", 2020, "TQT (MLSys 2020)"),
    }
}
