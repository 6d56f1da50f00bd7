//! Settings of a training. All that is not skipped here is compared when a run goes on.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use yolo_data::Hyp;

use super::{Decay, Distillation, NOMINAL_BATCH, OptimizerKind, Precision, Sampling};
use crate::dist::World;

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Epochs.
    pub epochs: usize,
    /// Images per batch.
    pub batch: usize,
    /// Images per update: gradients of smaller batches are accumulated to it.
    #[serde(default = "nominal_batch")]
    pub nominal_batch: usize,
    /// Side of the images.
    pub size: usize,
    /// Hyper-parameters.
    pub hyp: Hyp,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Shape of the learning rate.
    pub decay: Decay,
    /// Epochs without a better fitness before stopping (0: never).
    pub patience: usize,
    /// Seed.
    pub seed: u64,
    /// Keys that start with one of these are not trained.
    pub freeze: Vec<String>,
    /// Batch norms keep their statistics (fine-tuning of a quantized or tiny model).
    pub freeze_norm: bool,
    /// Validate every so many epochs (the last one always).
    pub val_every: usize,
    /// Each batch at a size of its own, from half to one and a half of `size`.
    #[serde(default)]
    pub multi_scale: bool,
    /// Choice and order of the images.
    #[serde(default, skip_serializing_if = "Sampling::is_usual")]
    pub sampling: Sampling,
    /// Mixed precision.
    #[serde(default)]
    pub precision: Precision,
    /// Steps as CUDA graphs, where they can be: the same numbers, launched faster.
    #[serde(skip)]
    pub record: bool,
    /// What acts in the training besides the loss (a pruner's penalty), as configurations: settings like all others.
    #[serde(default)]
    pub hooks: Vec<serde_json::Value>,
    /// A teacher to learn from besides the labels.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub distil: Option<Distillation>,
    /// Write `weights/epochN.safetensors` every so many epochs (0: never). No setting of the run: it changes no weight.
    #[serde(skip)]
    pub save_period: usize,
    /// The run goes on, and the weights that it was started from are gone: they can't be compared. No setting of the run.
    #[serde(skip)]
    pub start_is_gone: bool,
    /// Batch norms see the images of all processes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sync_bn: bool,
    /// The processes that train together: each does its part of every batch. Not a setting: a run goes on with others.
    #[serde(skip)]
    pub world: Arc<World>,
}

fn nominal_batch() -> usize {
    NOMINAL_BATCH
}

impl TrainOptions {
    /// The defaults of a plain training.
    pub fn new(epochs: usize, batch: usize, size: usize, hyp: Hyp) -> Self {
        Self {
            epochs,
            batch,
            nominal_batch: NOMINAL_BATCH,
            size,
            hyp,
            optimizer: OptimizerKind::Sgd,
            decay: Decay::Linear,
            patience: 100,
            seed: 0,
            freeze: Vec::new(),
            freeze_norm: false,
            val_every: 1,
            multi_scale: false,
            sampling: Sampling::Shuffled,
            start_is_gone: false,
            sync_bn: false,
            world: Arc::default(),
            precision: Precision::Off,
            record: true,
            hooks: Vec::new(),
            distil: None,
            save_period: 0,
        }
    }
}
