//! Xilinx Vitis: symmetric 8 bit with power-of-two scales; outputs of layers are quantized.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Method, Observer, Placement, Ranges, Scheme};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

/// Ops whose results are quantized.
const OPS: [&str; 8] = [
    "conv2d", "linear", "avg-pool", "max-pool", "add", "mul", "concat", "upsample",
];

/// Power-of-two scales for Xilinx Vitis.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Vitis {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
    /// Whether thresholds learn in quantization-aware training (TQT).
    pub learn: bool,
}

#[typetag::serde(name = "vitis")]
impl Quantizer for Vitis {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                narrow: false,
                method: if self.learn { Method::Tqt } else { Method::PowerOfTwo },
                observer: Observer::PowerOfTwo,
                ..Scheme::INT8
            },
            bias: Some(Scheme {
                narrow: false,
                method: Method::PowerOfTwo,
                observer: Observer::PowerOfTwo,
                ..Scheme::INT8
            }),
            activation: Scheme {
                narrow: false,
                method: if self.learn {
                    Method::TqtUp
                } else {
                    Method::PowerOfTwoUp
                },
                observer: Observer::PowerOfTwo,
                ..Scheme::INT8
            },
            placement: Placement {
                before_activations: true,
                ..Placement::inputs_of(&["conv2d"]).and_outputs_of(&OPS)
            },
            linear: true,
            integers_only: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let biases = ranges.layers.iter().filter_map(|layer| layer.bias.as_ref());
        let all = ranges.activations.iter().chain(&ranges.weights).chain(biases);
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
