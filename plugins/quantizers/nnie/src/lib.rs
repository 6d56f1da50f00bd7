//! HiSilicon NNIE: GFPQ, a logarithmic 8-bit grid with 16 steps per octave, per tensor.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, LayerRange, Method, Observer, Placement, Ranges, Scheme};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

/// GFPQ for HiSilicon NNIE: logarithmic 8 bit.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Nnie {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "nnie")]
impl Quantizer for Nnie {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                method: Method::Gfpq,
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            activation: Scheme {
                method: Method::Gfpq,
                observer: Observer::EmaMinMax,
                ..Scheme::INT8
            },
            placement: Placement::inputs_of(&["conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul"]),
            linear: true,
            integers_only: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let mut clips: Map<String, Value> = Map::new();
        let mut upsamples = 0;
        for layer in ranges.layers.iter().filter(|layer| !is_skipped(layer)) {
            let is_upsample = layer.op == "upsample";
            let read = if is_upsample { 1 } else { usize::MAX };
            let own: Vec<f64> = layer
                .inputs
                .iter()
                .take(read)
                .flatten()
                .map(|range| range.scales[0])
                .collect();
            if own.is_empty() {
                continue;
            }
            if is_upsample {
                clips.insert(format!("{}_permute_{upsamples}", layer.name), json!(own));
                upsamples += 1;
            }
            clips.insert(layer.name.clone(), json!(own));
        }
        let value = json!({"nnie": {"gfpq_param_dict": clips}});
        Ok(vec![Artifact::json(format!("{model}_gfpq_param_dict.json"), &value)?])
    }
}

/// What the toolchain does not look up: element-wise and shape layers, grouped convolutions.
fn is_skipped(layer: &LayerRange) -> bool {
    matches!(&*layer.op, "act" | "reshape" | "softmax" | "mul" | "reduce" | "permute") || layer.groups != 1
}

yolo_sdk::plugin! {
    quantizer Nnie = "nnie" {
        summary: "GFPQ for HiSilicon NNIE: logarithmic 8 bit",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
