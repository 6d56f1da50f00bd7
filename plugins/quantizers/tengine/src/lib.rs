//! Tengine: asymmetric uint8 per tensor, inputs, outputs and the network's outputs.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

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
        let mut backend = BackendSpec {
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
                outputs_of: [
                    "conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul", "concat",
                ]
                .map(str::to_owned)
                .to_vec(),
                network_outputs: true,
                ..Placement::inputs_of(&[
                    "conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul", "concat",
                ])
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
        Ok(vec![emit::tengine(model, ranges)])
    }
}

yolo_sdk::plugin! {
    quantizer Tengine = "tengine-u8" {
        summary: "Asymmetric uint8 for Tengine",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
