//! The averaged model: what is validated and saved.

use yolo_core::Params;

use crate::Result;

/// Exponential moving average of every tensor of a model, buffers included. The decay rises from 0 to `decay` with
/// `decay * (1 - exp(-updates / 2000))`, so that early averages are not stuck at the start.
#[derive(Debug)]
pub struct Ema {
    /// The average.
    pub params: Params,
    /// Number of updates so far.
    pub updates: i64,
    decay: f64,
}

impl Ema {
    /// Starts from a model.
    pub fn new(params: &Params) -> Self {
        Self {
            params: params.deep_clone(),
            updates: 0,
            decay: 0.9999,
        }
    }

    /// Weight of the old average at this update.
    pub fn decay_at(&self, updates: i64) -> f64 {
        self.decay * (1.0 - (-updates as f64 / 2000.0).exp())
    }

    /// Moves the average towards the model. Counters are copied.
    pub fn update(&mut self, model: &Params) -> Result<()> {
        self.updates += 1;
        let weight = 1.0 - self.decay_at(self.updates);
        tch::no_grad(|| {
            for (key, average) in self.params.iter() {
                let Some(tensor) = model.get(key) else { continue };
                let mut average = average.shallow_clone();
                if average.is_floating_point() {
                    let _ = average.f_lerp_(tensor, weight)?;
                } else {
                    average.f_copy_(tensor)?;
                }
            }
            Ok(())
        })
    }
}
