//! Filter pruning via the geometric median (arXiv 1811.00250, equation 7): s_i = sum_j ||W_i - W_j||. A filter close to all others
//! is the most replaceable, whatever its norm.

use yolo_sdk::prelude::prune::GroupTensors;
use yolo_sdk::prelude::*;

/// Distance to all other filters (geometric median).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Fpgm {}

#[typetag::serde(name = "fpgm")]
impl PruneMetric for Fpgm {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f32; group.channels];
        for weight in &group.weights {
            let distances =
                tch::Tensor::f_cdist(weight, weight, 2.0, None)?.f_sum_dim_intlist(1, false, tch::Kind::Float)?;
            // Several layers: each counts by the mean distance per element.
            let elements = weight.size().get(1).copied().unwrap_or(1).max(1) as f64;
            let scale = if group.weights.len() > 1 { elements.sqrt() } else { 1.0 };
            let distances = Vec::<f32>::try_from(distances.f_div_scalar(scale)?)?;
            total
                .iter_mut()
                .zip(distances)
                .for_each(|(sum, distance)| *sum += distance);
        }
        Ok(total)
    }
}

yolo_sdk::plugin! {
    metric Fpgm = "fpgm" {
        summary: "Distance to all other filters (geometric median)",
        paper: ("Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", "https://arxiv.org/abs/1811.00250", 2019, "FPGM (CVPR 2019)"),
    }
}
