//! TensorRT: symmetric int8 in -127..127, one scale per output channel of weights, one per activation tensor; scales are learned in QAT
//! (LSQ). SiLU runs in float between a convolution and the next quantizer; the head's raw maps stay float.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Ranges, Scheme, TensorRange};
use yolo_sdk::prelude::*;
use yolo_sdk::serde_json::{Map, Value, json};

/// Int8 for TensorRT: per-channel weights, per-tensor activations.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TensorRt {
    /// How ranges of activations are found (default: the backend's).
    pub observer: Option<Observer>,
}

#[typetag::serde(name = "tensorrt")]
impl Quantizer for TensorRt {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme {
                per_channel: true,
                ..Scheme::INT8
            },
            activation: Scheme { ..Scheme::INT8 },
            placement: Placement::inputs_of(&["conv2d", "linear", "max-pool", "avg-pool", "add"]),
            linear: true,
            ..BackendSpec::default()
        }
        .observed_by(self.observer)
    }

    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let amax = |range: &TensorRange| json!(range.scales[0] * range.spec.qmax.max(-range.spec.qmin) as f64);
        let entries: Map<String, Value> = ranges
            .activations
            .iter()
            .map(|range| (range.tensor.clone(), amax(range)))
            .collect();
        let value = json!({"tensorrt": {"blob_range": entries}});
        Ok(vec![Artifact::json(format!("{model}_clip_ranges.json"), &value)?])
    }
}

yolo_sdk::plugin! {
    quantizer TensorRt = "tensorrt" {
        summary: "Int8 for TensorRT: per-channel weights, per-tensor activations",
        paper: ("Learned Step Size Quantization", "https://arxiv.org/abs/1902.08153", 2020, "LSQ (ICLR 2020)"),
    }
}
