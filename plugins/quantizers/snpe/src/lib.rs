//! Qualcomm SNPE: asymmetric 8 bit per tensor for weights and activations, inputs and outputs of layers.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

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
                outputs_of: ["conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul"]
                    .map(str::to_owned)
                    .to_vec(),
                network_outputs: true,
                ..Placement::inputs_of(&["conv2d", "linear", "max-pool", "avg-pool", "upsample", "add", "mul"])
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
        Ok(vec![emit::snpe(model, ranges)?])
    }
}

yolo_sdk::plugin! {
    quantizer Snpe = "snpe" {
        summary: "Asymmetric 8 bit for Qualcomm SNPE",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
