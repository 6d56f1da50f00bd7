//! What a training tells while it runs, and what it leaves.

use std::path::PathBuf;

use super::Row;
use crate::checkpoint::Checkpoint;
use crate::eval::Metrics;

/// What happens, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A batch is done.
    Batch {
        /// Epoch, from 0.
        epoch: usize,
        /// Batches done in the epoch.
        done: usize,
        /// Batches of the epoch.
        total: usize,
        /// Mean box, objectness and class loss of the epoch so far.
        loss: [f64; 3],
    },
    /// A batch of the validation is done.
    Val {
        /// Batches done.
        done: usize,
        /// Batches in all.
        total: usize,
    },
    /// An epoch is done.
    Epoch {
        /// Its row in `results.csv`.
        row: &'a Row,
        /// Whether it is the best so far.
        best: bool,
    },
}

/// What a training leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The best average model by fitness (0.1 mAP50 + 0.9 mAP).
    pub best: Checkpoint,
    /// The average model after the last epoch: what a penalty has worked on to the end.
    pub last: Checkpoint,
    /// Metrics of the best.
    pub metrics: Metrics,
    /// Its epoch.
    pub best_epoch: usize,
    /// Epochs that were done: fewer than asked for where nothing got better for long.
    pub epochs: usize,
    /// Training images per second, without validation and saving; of the epochs of this process.
    pub images_per_second: f64,
    /// Files `best.safetensors` and `last.safetensors`.
    pub weights: Option<(PathBuf, PathBuf)>,
}

/// Listens to events; returns `false` to stop.
pub type Listener<'a> = dyn FnMut(&Event<'_>) -> bool + 'a;
