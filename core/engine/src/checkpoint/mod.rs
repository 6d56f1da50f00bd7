//! Models as files: graph, tensors and everything that is needed to use them, in one `.safetensors`.
//!
//! What lives here: reading and writing checkpoints and training states, taking weights over from other models and formats.
//! What must not: building graphs from configurations, training.

mod anchors;
mod atomic;
mod convert;
mod file;
pub(crate) mod finite;
pub(crate) mod foreign;
mod keys;
mod state;
mod transfer;

pub use anchors::other_anchors;
pub use atomic::{TEMPORARY, write_atomically};
pub use convert::{adopt, state_dict};
pub use file::{TensorFile, load, read_tensors, save, write_tensors};
pub use keys::plain_keys;
pub use state::{TrainState, load_state, save_state, state_numbers};
pub use transfer::{TransferReport, is_folded, refuse_integers, transfer};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use yolo_core::{Graph, Params};

/// Version of the file format; raised when an old reader could misread a new file.
pub const FORMAT_VERSION: u32 = 1;

/// A model with its weights and its description.
#[derive(Debug)]
pub struct Checkpoint {
    /// The model.
    pub graph: Graph,
    /// Its tensors.
    pub params: Params,
    /// What else is known about it.
    pub meta: Meta,
}

/// What a checkpoint says about itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Names of the classes.
    pub names: Vec<String>,
    /// Image size that it was trained for, in pixels.
    pub image_size: i64,
    /// The configuration that the model was built from.
    pub config: Option<serde_json::Value>,
    /// How it was made, oldest first.
    pub history: Vec<HistoryEntry>,
    /// Measured numbers (`map50`, `map`, ...).
    pub metrics: IndexMap<String, f64>,
    /// Quantization scheme, if it is quantized.
    pub quantizer: Option<serde_json::Value>,
}

/// A step in the making of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// What was done (`train`, `prune`, `convert`, ...).
    pub kind: String,
    /// One line about it.
    pub summary: String,
    /// Its settings.
    pub settings: serde_json::Value,
}

/// Multiples that images are padded to where nothing larger is needed, as in YOLOv5.
const USUAL_STRIDE: i64 = 32;

/// What image sizes must be multiples of for this network.
pub(crate) fn max_stride(graph: &Graph) -> i64 {
    // A graph that fits no size at all is refused where it is run, with its reason.
    graph.size_step().unwrap_or(USUAL_STRIDE).max(USUAL_STRIDE)
}

impl Checkpoint {
    /// A model without weights of its own history.
    pub fn new(graph: Graph, params: Params, meta: Meta) -> Self {
        Self { graph, params, meta }
    }

    /// A copy that shares no tensor.
    pub fn deep_clone(&self) -> Self {
        Self {
            graph: self.graph.clone(),
            params: self.params.deep_clone(),
            meta: self.meta.clone(),
        }
    }

    /// The same model on `device`; tensors that are there already are shared.
    #[must_use]
    pub fn to_device(self, device: tch::Device) -> Self {
        Self {
            params: self.params.to_device(device),
            ..self
        }
    }

    /// As [`Checkpoint::to_device`], leaving this one as it is.
    #[must_use]
    pub fn on(&self, device: tch::Device) -> Self {
        Self {
            graph: self.graph.clone(),
            params: self.params.to_device(device),
            meta: self.meta.clone(),
        }
    }

    /// What image sizes must be multiples of: the largest stride of the network ([`Graph::size_step`]), and at least 32, as in YOLOv5.
    pub fn max_stride(&self) -> i64 {
        max_stride(&self.graph)
    }
}
