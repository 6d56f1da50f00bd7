//! L2 norm of the weights that make a channel: s = sqrt(sum w^2). A group that several layers make gets the root of the sum
//! of their mean squares.

use yolo_sdk::prelude::prune::GroupTensors;
use yolo_sdk::prelude::*;

/// Euclidean norm of the weights.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct L2 {}

#[typetag::serde(name = "l2")]
impl PruneMetric for L2 {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f32; group.channels];
        for weight in &group.weights {
            let elements = weight.size().get(1).copied().unwrap_or(1).max(1) as f64;
            let squares = weight
                .f_square()?
                .f_sum_dim_intlist(1, false, tch::Kind::Float)?
                .f_div_scalar(if group.weights.len() > 1 { elements } else { 1.0 })?;
            let squares = Vec::<f32>::try_from(squares)?;
            total.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
        }
        Ok(total.into_iter().map(f32::sqrt).collect())
    }
}

yolo_sdk::plugin! {
    metric L2 = "l2" {
        summary: "Euclidean norm of the weights",
        paper: ("Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", "https://arxiv.org/abs/1808.06866", 2018, "SFP (IJCAI 2018)"),
    }
}
