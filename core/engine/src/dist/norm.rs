//! Batch norm over the images of all ranks (`--sync-bn`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;
use yolo_core::exec::TrainNorm;
use yolo_torch::native::dist::Group;

/// Batch norm over the images of all ranks. Copies share the switch of [`SyncNorm::count`].
#[derive(Debug, Clone)]
pub struct SyncNorm {
    group: Arc<Group>,
    counts: Arc<AtomicBool>,
}

impl SyncNorm {
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self {
            group,
            counts: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Whether the images of this rank count in what follows. One that got none of a short batch only takes part.
    pub fn count(&self, counts: bool) {
        self.counts.store(counts, Ordering::Relaxed);
    }
}

impl TrainNorm for SyncNorm {
    fn batch_norm(&self, x: &Tensor, params: [&Tensor; 4], momentum: f64, eps: f64) -> yolo_core::Result<Tensor> {
        let counts = self.counts.load(Ordering::Relaxed);
        Ok(self.group.batch_norm(x, params, momentum, eps, counts)?)
    }
}
