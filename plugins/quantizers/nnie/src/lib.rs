//! HiSilicon NNIE: GFPQ, a logarithmic 8-bit grid with 16 steps per octave, per tensor.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Method, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

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
        let mut backend = BackendSpec {
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
            ..BackendSpec::default()
        };
        if let Some(observer) = self.observer {
            backend.activation.observer = observer;
        }
        backend
    }

    fn artifacts(&self, model: &str, ranges: &emit::Ranges) -> Result<Vec<Artifact>> {
        Ok(vec![emit::nnie(model, ranges)?])
    }
}

yolo_sdk::plugin! {
    quantizer Nnie = "nnie" {
        summary: "GFPQ for HiSilicon NNIE: logarithmic 8 bit",
        paper: ("MQBench: Towards Reproducible and Deployable Model Quantization Benchmark", "https://arxiv.org/abs/2111.03759", 2021, "MQBench (NeurIPS 2021)"),
    }
}
