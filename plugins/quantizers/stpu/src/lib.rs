//! STPU: symmetric int8 per tensor, fixed ranges in a min-max file.

use yolo_sdk::prelude::quant::{
    Artifact, BackendSpec, LayerRange, Method, Observer, Placement, Ranges, Scheme, TensorRange,
};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

/// Ops whose inputs and outputs are quantized.
const OPS: [&str; 7] = ["conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul"];

/// Symmetric int8 with min-max files for STPU.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Stpu {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "stpu")]
impl Quantizer for Stpu {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                observer: Observer::MinMax,
                method: Method::Fixed,
                ..Scheme::INT8
            },
            activation: Scheme {
                observer: Observer::EmaMinMax,
                method: Method::Fixed,
                ..Scheme::INT8
            },
            placement: Placement {
                network_outputs: true,
                before_activations: true,
                concat_shares: true,
                ..Placement::inputs_of(&OPS).and_outputs_of(&OPS)
            },
            linear: true,
            integers_only: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let symmetric = |range: &TensorRange| json!({"min": -127.0 * range.scales[0], "max": 127.0 * range.scales[0]});
        let mut entries: Map<String, Value> = ranges
            .activations
            .iter()
            .map(|range| (range.tensor.clone(), symmetric(range)))
            .collect();
        for layer in &ranges.layers {
            if let Some(output) = &layer.output {
                let mut entry = symmetric(output);
                if let Some(exponent) = lowest_exponent(layer, output) {
                    entry["emin"] = json!(exponent);
                }
                entries.insert(layer.name.clone(), entry);
            }
            let (Some(weight), Some(Some(input))) = (&layer.weight, layer.inputs.first()) else {
                continue;
            };
            entries.insert(format!("{}_weights", layer.name), symmetric(weight));
            let span = |range: &TensorRange| 2.0 * 127.0 * range.scales[0] / 254.0;
            entries.insert(
                format!("{}_bias", layer.name),
                json!({"alpha": span(weight) * span(input), "zero_point": 0}),
            );
        }
        let value = Value::Object(entries);
        Ok(vec![Artifact::json(format!("{model}_stpu_minmax.json"), &value)?])
    }
}

/// The lowest exponent that its sums are kept with, biased by 127 as in a 32-bit float: 20 below that of what upsampling gives, 10 below the
/// larger one of a convolution's result and of what chance makes of its sums.
fn lowest_exponent(layer: &LayerRange, output: &TensorRange) -> Option<i64> {
    let most = |range: &TensorRange| 127.0 * range.scales[0];
    match (layer.op.as_ref(), &layer.weight, layer.inputs.first()) {
        ("upsample", _, _) => Some(exponent(most(output)) - 20),
        ("linear", _, _) => Some(128),
        ("conv2d", Some(weight), Some(Some(input))) => {
            let sums = (layer.fan_in as f64).sqrt() * most(input) * most(weight);
            Some(exponent(sums.max(most(output))) - 10)
        }
        _ => None,
    }
}

/// `e` with `2^(e - 127) <= value < 2^(e - 126)`, 0 for 0, else 1 to 254.
fn exponent(value: f64) -> i64 {
    if value == 0.0 {
        return 0;
    }
    (value.log2().floor() as i64 + 127).clamp(1, 254)
}

yolo_sdk::plugin! {
    quantizer Stpu = "stpu" {
        summary: "Symmetric int8 with min-max files for STPU",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
