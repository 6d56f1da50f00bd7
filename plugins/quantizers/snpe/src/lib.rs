//! Qualcomm SNPE: asymmetric 8 bit per tensor for weights and activations, inputs and outputs of layers.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Ranges, Scheme, TensorRange};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

/// Ops whose inputs and outputs are quantized.
const OPS: [&str; 7] = ["conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul"];

/// Asymmetric 8 bit for Qualcomm SNPE.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Snpe {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "snpe")]
impl Quantizer for Snpe {
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
                ..Placement::inputs_of(&OPS).and_outputs_of(&OPS)
            },
            linear: true,
            integers_only: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let encoding = |range: &TensorRange| {
            let (min, max) = range.limits();
            json!([{"bitwidth": range.bits(), "min": min, "max": max}])
        };
        let encodings: Map<String, Value> = ranges
            .activations
            .iter()
            .map(|range| (range.tensor.clone(), encoding(range)))
            .collect();
        let value = json!({"activation_encodings": encodings, "param_encodings": {}});
        Ok(vec![Artifact::json(format!("{model}_clip_ranges.json"), &value)?])
    }
}

yolo_sdk::plugin! {
    quantizer Snpe = "snpe" {
        summary: "Asymmetric 8 bit for Qualcomm SNPE",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
