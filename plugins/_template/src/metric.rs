//! Template title: the p-norm of the weights that make a channel, divided by their number.

use yolo_sdk::prelude::prune::{GroupTensors, MetricInputs};
use yolo_sdk::prelude::*;

/// Options of the metric.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// Exponent p of the norm.
    pub power: f64,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { power: 1.0 }
    }
}

#[typetag::serde(name = "template-name")]
impl PruneMetric for TemplateName {
    fn needs(&self) -> MetricInputs {
        MetricInputs { weight: true, ..MetricInputs::default() }
    }

    /// One score per channel; the lowest go first. `group.weights` are `[channels, elements]`, one per layer that makes the channels.
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut scores = vec![0f32; group.channels];
        for weight in &group.weights {
            // The `f_` functions return errors; the others panic.
            let powers = weight.f_abs()?.f_pow_tensor_scalar(self.power)?;
            let means = Vec::<f32>::try_from(powers.f_mean_dim(1, false, tch::Kind::Float)?)?;
            scores.iter_mut().zip(means).for_each(|(score, mean)| *score += mean);
        }
        Ok(scores)
    }
}

yolo_sdk::plugin! {
    metric TemplateName = "template-name" {
        summary: "Mean of the powers of absolute weights",
    }
}
