//! The averaged model: what is validated and saved.

use tch::Tensor;
use yolo_core::Params;
use yolo_torch::native::step;

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
    floats: Pairs,
    integers: Pairs,
}

/// Averages and the tensors of the model that they follow.
#[derive(Debug, Default)]
struct Pairs {
    averages: Vec<Tensor>,
    models: Vec<Tensor>,
}

impl Ema {
    /// Starts from a model, and follows its tensors.
    pub fn new(model: &Params) -> Self {
        let params = model.deep_clone();
        let (mut floats, mut integers) = (Pairs::default(), Pairs::default());
        for ((_, average), (_, tensor)) in params.iter().zip(model.iter()) {
            let pairs = if average.is_floating_point() {
                &mut floats
            } else {
                &mut integers
            };
            pairs.averages.push(average.shallow_clone());
            pairs.models.push(tensor.detach());
        }
        Self {
            params,
            updates: 0,
            decay: 0.9999,
            floats,
            integers,
        }
    }

    /// Weight of the old average at this update.
    pub fn decay_at(&self, updates: i64) -> f64 {
        self.decay * (1.0 - (-updates as f64 / 2000.0).exp())
    }

    /// Moves the average towards the model. Counters are copied.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn update(&mut self) -> Result<()> {
        self.updates += 1;
        let weight = 1.0 - self.decay_at(self.updates);
        step::foreach_lerp(&self.floats.averages, &self.floats.models, weight)?;
        Ok(step::foreach_copy(&self.integers.averages, &self.integers.models)?)
    }

    /// Puts a saved average back.
    ///
    /// # Errors
    /// Names the tensor that is missing.
    pub fn restore(&mut self, saved: &Params, updates: i64) -> Result<()> {
        self.updates = updates;
        tch::no_grad(|| {
            for (key, average) in self.params.iter() {
                average.shallow_clone().f_copy_(saved.require(key)?)?;
            }
            Ok(())
        })
    }
}
