//! STPU: symmetric int8 per tensor, fixed ranges in a min-max file.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

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
        let mut backend = BackendSpec {
            weight: Scheme {
                observer: Observer::MinMax,
                ..Scheme::INT8
            },
            activation: Scheme {
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
        Ok(vec![emit::stpu(model, ranges)?])
    }
}

yolo_sdk::plugin! {
    quantizer Stpu = "stpu" {
        summary: "Symmetric int8 with min-max files for STPU",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
