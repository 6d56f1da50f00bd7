//! L1 norm of the weights that make a channel: s = sum |w| (arXiv 1608.08710, section 3.1). A group that several
//! layers make gets the sum of their mean norms, so that wide kernels do not drown narrow ones.

use yolo_sdk::prelude::prune::GroupTensors;
use yolo_sdk::prelude::*;

/// Sum of absolute weights.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct L1 {}

#[typetag::serde(name = "l1")]
impl PruneMetric for L1 {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f32; group.channels];
        for weight in &group.weights {
            let elements = weight.size().get(1).copied().unwrap_or(1).max(1) as f64;
            let norms = weight
                .f_abs()?
                .f_sum_dim_intlist(1, false, tch::Kind::Float)?
                .f_div_scalar(if group.weights.len() > 1 { elements } else { 1.0 })?;
            let norms = Vec::<f32>::try_from(norms)?;
            total.iter_mut().zip(norms).for_each(|(sum, norm)| *sum += norm);
        }
        Ok(total)
    }
}

yolo_sdk::plugin! {
    metric L1 = "l1" {
        summary: "Sum of absolute weights",
        paper: ("Pruning Filters for Efficient ConvNets", "https://arxiv.org/abs/1608.08710", 2017, "L1-norm pruning (ICLR 2017)"),
    }
}
