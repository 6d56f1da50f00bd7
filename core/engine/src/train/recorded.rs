//! Forward and backward of a network as CUDA graphs: recorded once for a size of batch, then launched as a whole. The host's time for
//! launching kernels one by one, which small networks on large cards wait for, is gone. The loss stays outside, since the number of
//! objects differs from batch to batch.

use tch::Tensor;
use yolo_core::{Mode, Program};
use yolo_torch::native::graph::{CudaGraph, backward};

use super::Precision;
use crate::Result;

/// Batches of one size before recording: libraries choose their algorithms and memory settles.
const WARM_UP: usize = 3;

/// What is known of recordings.
#[derive(Debug)]
pub(super) enum Recording {
    /// Not wanted, or not possible: why.
    Off(Option<String>),
    /// Nothing is recorded yet; so many batches of this size were seen.
    Waiting(Vec<i64>, usize),
    /// Recorded for a size of batch.
    Ready(Box<Recorded>),
}

/// Forward and backward for one size of batch.
#[derive(Debug)]
pub(super) struct Recorded {
    forward: CudaGraph,
    backward: CudaGraph,
    images: Tensor,
    maps: Vec<Tensor>,
    gradients: Vec<Tensor>,
}

impl Recording {
    /// The recording for these images, if there is one; makes it when their size has come often enough. Where recording fails, training
    /// goes on without.
    pub fn for_images(
        &mut self,
        images: &Tensor,
        program: &Program,
        mode: Mode,
        precision: Precision,
    ) -> Option<&Recorded> {
        if let Self::Waiting(size, seen) = self {
            if *size != images.size() {
                (*size, *seen) = (images.size(), 0);
            }
            *seen += 1;
            if *seen <= WARM_UP {
                return None;
            }
            *self = match Recorded::new(images, program, mode, precision) {
                Ok(recorded) => Self::Ready(Box::new(recorded)),
                Err(error) => Self::Off(Some(error.to_string())),
            };
        }
        match self {
            Self::Ready(recorded) if recorded.images.size() == images.size() => Some(recorded),
            _ => None,
        }
    }

    /// `recorded`, `off`, or why it is off.
    pub fn state(&self) -> &str {
        match self {
            Self::Off(None) => "off",
            Self::Off(Some(reason)) => reason,
            Self::Waiting(..) => "waiting",
            Self::Ready(_) => "recorded",
        }
    }
}

impl Recorded {
    fn new(images: &Tensor, program: &Program, mode: Mode, precision: Precision) -> Result<Self> {
        let device = program.device();
        let images = images.copy();
        let (forward, maps) = CudaGraph::record(device, None, || {
            precision.run(device, || Ok(program.run(&images, mode)?))
        })?;
        let gradients: Vec<Tensor> = maps.iter().map(Tensor::zeros_like).collect();
        let (backward, ()) = CudaGraph::record(device, Some(&forward), || {
            backward(&maps, &gradients).map_err(crate::Error::from)
        })?;
        Ok(Self {
            forward,
            backward,
            images,
            maps: maps.iter().map(Tensor::detach).collect(),
            gradients,
        })
    }

    /// Runs the forward on images `[N, 3, H, W]` of the recorded size; the maps `[N, A * (5 + classes), h, w]` are leaves that collect
    /// their gradients.
    ///
    /// # Errors
    /// `Error::Torch` where CUDA fails.
    pub fn forward(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        tch::no_grad(|| self.images.shallow_clone().f_copy_(images))?;
        self.forward.replay()?;
        Ok(self
            .maps
            .iter()
            .map(|map| map.detach().set_requires_grad(true))
            .collect())
    }

    /// Runs the backward from the gradients that `leaves`, the maps of [`Recorded::forward`], have collected.
    ///
    /// # Errors
    /// `Error::Torch` where CUDA fails.
    pub fn backward(&self, leaves: &[Tensor]) -> Result<()> {
        tch::no_grad(|| -> Result<()> {
            for (slot, leaf) in self.gradients.iter().zip(leaves) {
                slot.shallow_clone().f_copy_(&leaf.f_grad()?)?;
            }
            Ok(())
        })?;
        Ok(self.backward.replay()?)
    }
}
