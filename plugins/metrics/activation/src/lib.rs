//! Mean |activation| of a channel over calibration images, where layers read it. Several values that the channel is read from (before
//! and behind a residual sum) count by their mean.

use yolo_sdk::prelude::prune::{GroupTensors, MetricInputs};
use yolo_sdk::prelude::*;

/// Mean absolute activation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct MeanActivation {}

#[typetag::serde(name = "activation")]
impl PruneMetric for MeanActivation {
    fn needs(&self) -> MetricInputs {
        MetricInputs {
            activation: true,
            ..MetricInputs::default()
        }
    }

    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f64; group.channels];
        for values in &group.activations {
            let values = Vec::<f32>::try_from(values.shallow_clone())?;
            total
                .iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += f64::from(value));
        }
        let count = group.activations.len().max(1) as f64;
        Ok(total.into_iter().map(|sum| (sum / count) as f32).collect())
    }
}

yolo_sdk::plugin! {
    metric MeanActivation = "activation" {
        summary: "Mean absolute activation over calibration images",
        paper: ("Pruning Convolutional Neural Networks for Resource Efficient Inference", "https://arxiv.org/abs/1611.06440", 2016, "mean activation, section 2.2 (ICLR 2017)"),
    }
}
