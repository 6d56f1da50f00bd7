//! OpenPPL: W8A16 and the CUDA scheme.

use std::fmt::Write as _;

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Ranges, Scheme, TensorRange};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

/// Ops whose inputs and outputs are quantized.
const OPS: [&str; 7] = ["conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul"];

/// 8-bit weights, 16-bit activations for PPL.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct PplW8A16 {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "ppl-w8a16")]
impl Quantizer for PplW8A16 {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                symmetric: false,
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            activation: Scheme {
                bits: 16,
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
        let one_or_all = |values: &[f64]| match values {
            [one] => json!(one),
            all => json!(all),
        };
        let entry = |range: &TensorRange| {
            let (min, max) = range.limits();
            json!({
                "step": one_or_all(&range.scales), "zero_point": one_or_all(&range.zero_points), "min": min, "max": max,
                "bit": range.bits(), "type": "biased",
            })
        };
        let all = ranges.activations.iter().chain(&ranges.weights);
        let entries: Map<String, Value> = all.map(|range| (range.tensor.clone(), entry(range))).collect();
        Ok(vec![Artifact::json(
            format!("{model}_clip_ranges.json"),
            &json!({"ppl": entries}),
        )?])
    }
}

/// Asymmetric 8 bit, per-channel weights for PPL CUDA.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct PplCuda {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "ppl-cuda")]
impl Quantizer for PplCuda {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                symmetric: false,
                per_channel: true,
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            activation: Scheme {
                symmetric: false,
                observer: Observer::MinMax,
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
        let mut text = String::new();
        for range in &ranges.activations {
            let (min, max) = range.limits();
            let _ = writeln!(text, "{}: {}", range.tensor, max.max(-min));
        }
        Ok(vec![Artifact {
            name: format!("{model}_clip_ranges.json"),
            text,
        }])
    }
}

yolo_sdk::plugin! {
    quantizer PplW8A16 = "ppl-w8a16" {
        summary: "8-bit weights, 16-bit activations for PPL",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
    quantizer PplCuda = "ppl-cuda" {
        summary: "Asymmetric 8 bit, per-channel weights for PPL CUDA",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
