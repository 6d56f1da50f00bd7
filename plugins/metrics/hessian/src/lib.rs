//! Second-order change of the loss with a diagonal Hessian (Optimal Brain Damage, LeCun et al. 1989), where the Fisher information stands
//! for the Hessian: s = sum w^2 E[g^2] over the weights of a channel and the scales of its norms.

use yolo_sdk::prelude::prune::{GroupTensors, MetricInputs};
use yolo_sdk::prelude::*;

/// Second-order change of the loss.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Hessian {}

#[typetag::serde(name = "hessian")]
impl PruneMetric for Hessian {
    fn needs(&self) -> MetricInputs {
        MetricInputs {
            weight: true,
            bn: true,
            grad_square: true,
            ..MetricInputs::default()
        }
    }

    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f64; group.channels];
        // Products of four small numbers: f32 would lose them.
        let mut add = |values: &tch::Tensor, squares: &tch::Tensor| -> Result<()> {
            let products = values.f_to_kind(tch::Kind::Double)?.f_square()?.f_mul(squares)?;
            let rows = products.f_view([group.channels as i64, -1])?;
            let sums = Vec::<f64>::try_from(rows.f_sum_dim_intlist(1, false, tch::Kind::Double)?)?;
            total.iter_mut().zip(sums).for_each(|(sum, value)| *sum += value);
            Ok(())
        };
        for (weight, squares) in group.weights.iter().zip(&group.weight_squares) {
            add(weight, squares)?;
        }
        for (gamma, squares) in group.gammas.iter().zip(&group.gamma_squares) {
            add(gamma, squares)?;
        }
        Ok(total.into_iter().map(|score| score as f32).collect())
    }
}

yolo_sdk::plugin! {
    metric Hessian = "hessian" {
        summary: "Second-order change of the loss (OBD)",
        paper: ("Optimal Brain Damage", "https://papers.nips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html", 1989, "OBD (NIPS 1989)"),
    }
}
