//! Tengine: asymmetric uint8 per tensor, inputs, outputs and the network's outputs.

use std::fmt::Write as _;

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Ranges, Scheme, TensorRange};
use yolo_sdk::prelude::*;

/// Ops whose inputs and outputs are quantized.
const OPS: [&str; 9] = [
    "conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul", "concat", "act",
];

/// Asymmetric uint8 for Tengine.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Tengine {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "tengine-u8")]
impl Quantizer for Tengine {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                symmetric: false,
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            activation: Scheme {
                symmetric: false,
                observer: Observer::EmaMinMax,
                ..Scheme::INT8
            },
            placement: Placement {
                network_outputs: true,
                before_activations: true,
                ..Placement::inputs_of(&OPS).and_outputs_of(&OPS)
            },
            // SiLU is a sigmoid and a product there, each with a scale.
            integer_ops: true,
            linear: true,
            integers_only: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let mut text = String::new();
        let mut line = |tensor: &str, range: &TensorRange| {
            let (scale, zero_point) = (range.scales[0], range.zero_points[0].round() as i64);
            let _ = writeln!(text, "{tensor} {scale} {zero_point}");
        };
        ranges.activations.iter().for_each(|range| line(&range.tensor, range));
        for layer in &ranges.layers {
            // A convolution whose only reader is a ReLU has its scale.
            if let Some(output) = layer.output.as_ref().filter(|output| output.tensor != layer.name) {
                line(&layer.name, output);
            }
        }
        Ok(vec![Artifact {
            name: format!("{model}_for_tengine.scale"),
            text,
        }])
    }
}

yolo_sdk::plugin! {
    quantizer Tengine = "tengine-u8" {
        summary: "Asymmetric uint8 for Tengine",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
