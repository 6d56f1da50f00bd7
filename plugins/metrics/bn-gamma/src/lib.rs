//! |gamma| of batch norm (Network Slimming, arXiv 1708.06519). Channels that several norms scale (residual adds) get the mean; a
//! group without a norm gets the mean absolute weight of its filters.

use yolo_sdk::prelude::prune::{GroupTensors, MetricInputs};
use yolo_sdk::prelude::*;

/// Absolute scale of batch normalisation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct BnGamma {}

#[typetag::serde(name = "bn-gamma")]
impl PruneMetric for BnGamma {
    fn needs(&self) -> MetricInputs {
        MetricInputs {
            weight: true,
            bn: true,
            ..MetricInputs::default()
        }
    }

    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let sources: Vec<tch::Tensor> = if group.gammas.is_empty() {
            let mean = |w: &tch::Tensor| w.f_abs()?.f_mean_dim(1, false, tch::Kind::Float);
            group.weights.iter().map(mean).collect::<Result<_, _>>()?
        } else {
            group.gammas.iter().map(tch::Tensor::f_abs).collect::<Result<_, _>>()?
        };
        let mut total = vec![0f32; group.channels];
        for source in &sources {
            let values = Vec::<f32>::try_from(source.shallow_clone())?;
            total
                .iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += value / sources.len() as f32);
        }
        Ok(total)
    }
}

yolo_sdk::plugin! {
    metric BnGamma = "bn-gamma" {
        summary: "Absolute scale of batch normalisation",
        paper: ("Learning Efficient Convolutional Networks through Network Slimming", "https://arxiv.org/abs/1708.06519", 2017, "Network Slimming (ICCV 2017)"),
    }
}
