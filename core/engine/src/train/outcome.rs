//! What a training tells while it runs, and what it leaves.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use yolo_core::Progress;

use super::EpochRow;
use crate::checkpoint::Checkpoint;
use crate::eval::Metrics;

/// Whoever waits for a training: sees its batches as [`Progress`], and every epoch. `()` looks at nothing.
pub trait Listener: Progress {
    /// An epoch is done: its row in `results.csv`, and whether it is the best so far.
    fn epoch(&self, _row: &EpochRow, _best: bool) {}
}

impl Listener for () {}

/// A listener that sees the rows of the epochs and answers whether to go on.
pub struct EachEpoch<F> {
    see: RefCell<F>,
    go_on: Cell<bool>,
}

impl<F: FnMut(&EpochRow) -> bool> EachEpoch<F> {
    /// Shows every row to `see`.
    pub fn new(see: F) -> Self {
        Self {
            see: RefCell::new(see),
            go_on: Cell::new(true),
        }
    }
}

impl<F: FnMut(&EpochRow) -> bool> Progress for EachEpoch<F> {
    fn go_on(&self) -> bool {
        self.go_on.get()
    }
}

impl<F: FnMut(&EpochRow) -> bool> Listener for EachEpoch<F> {
    fn epoch(&self, row: &EpochRow, _: bool) {
        let wanted = (self.see.borrow_mut())(row);
        self.go_on.set(wanted);
    }
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
