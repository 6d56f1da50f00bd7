//! Layer-adaptive magnitude (LAMP, arXiv 2010.15646, equation 1), for channels: s_i = |W_i|^2 / (sum of |W_j|^2 over all channels j of the
//! group that are not smaller). The largest channel of every group scores 1, so scores can be ranked over all groups, and no group
//! is ever emptied.

use yolo_sdk::prelude::prune::{GroupTensors, Normaliser};
use yolo_sdk::prelude::*;

/// Share of a channel among the larger ones.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Lamp {}

#[typetag::serde(name = "lamp")]
impl PruneMetric for Lamp {
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
        Normaliser::Lamp.apply(&mut total);
        Ok(total)
    }
}

yolo_sdk::plugin! {
    metric Lamp = "lamp" {
        summary: "Squared norm among the larger ones of the layer",
        paper: ("Layer-adaptive Sparsity for the Magnitude-based Pruning", "https://arxiv.org/abs/2010.15646", 2021, "LAMP (ICLR 2021)"),
    }
}
