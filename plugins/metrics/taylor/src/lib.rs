//! First-order Taylor criterion (arXiv 1906.10771, equation 8): s = (sum g * w)^2 per filter, gradients averaged over calibration
//! batches; with a batch norm, the gate form on gamma and beta counts as one more weight.

use yolo_sdk::prelude::prune::{GroupTensors, MetricInputs};
use yolo_sdk::prelude::*;

/// Squared first-order change of the loss.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Taylor {}

#[typetag::serde(name = "taylor")]
impl PruneMetric for Taylor {
    fn needs(&self) -> MetricInputs {
        MetricInputs {
            weight: true,
            bn: true,
            grad: true,
            ..MetricInputs::default()
        }
    }

    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f32; group.channels];
        let mut add = |products: tch::Tensor| -> Result<()> {
            let values = Vec::<f32>::try_from(products.f_square()?)?;
            total.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            Ok(())
        };
        for (weight, grad) in group.weights.iter().zip(&group.weight_grads) {
            add(weight.f_mul(grad)?.f_sum_dim_intlist(1, false, tch::Kind::Float)?)?;
        }
        for (gamma, grad) in group.gammas.iter().zip(&group.gamma_grads) {
            add(gamma.f_mul(grad)?)?;
        }
        Ok(total)
    }
}

yolo_sdk::plugin! {
    metric Taylor = "taylor" {
        summary: "Squared first-order change of the loss",
        paper: ("Importance Estimation for Neural Network Pruning", "https://arxiv.org/abs/1906.10771", 2019, "Taylor-FO (CVPR 2019)"),
    }
}
