//! OpenPPL: W8A16 and the CUDA scheme.

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Observer, Placement, Scheme, emit};
use yolo_sdk::prelude::*;

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
        let mut backend = BackendSpec {
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
        Ok(vec![emit::ppl(model, ranges)?])
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
        let mut backend = BackendSpec {
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
        Ok(vec![emit::ppl_cuda(model, ranges)])
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
