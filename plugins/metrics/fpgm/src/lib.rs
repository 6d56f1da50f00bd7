//! Filter pruning via the geometric median (arXiv 1811.00250, equation 7): s_i = sum_j ||W_i - W_j||. A filter close to all others
//! is the most replaceable, whatever its norm.

use yolo_sdk::prelude::prune::GroupTensors;
use yolo_sdk::prelude::*;

/// Distance to all other filters (geometric median).
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Fpgm {
    /// What lies between two filters.
    pub distance: Distance,
}

/// What lies between two filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Distance {
    /// Euclidean, as in the paper.
    #[default]
    L2,
    /// Sum of absolute differences.
    L1,
    /// One less the cosine of the angle: filters that differ by a factor can replace each other.
    Cosine,
}

impl Distance {
    /// Between all rows of a matrix; and by what the number of elements lets it grow.
    fn all(self, rows: &tch::Tensor) -> Result<(tch::Tensor, f64)> {
        let elements = rows.size().get(1).copied().unwrap_or(1).max(1) as f64;
        Ok(match self {
            Self::L2 => (tch::Tensor::f_cdist(rows, rows, 2.0, None)?, elements.sqrt()),
            Self::L1 => (tch::Tensor::f_cdist(rows, rows, 1.0, None)?, elements),
            Self::Cosine => {
                let norms = rows.f_norm_scalaropt_dim(2.0, [1], true)?;
                // A row of zeros has no direction: at a right angle to all.
                let unit = rows.f_div(&norms.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
                let cosines = unit.f_matmul(&unit.f_transpose(0, 1)?)?.f_clamp(-1.0, 1.0)?;
                (cosines.f_neg()?.f_add_scalar(1.0)?, 1.0)
            }
        })
    }
}

#[typetag::serde(name = "fpgm")]
impl PruneMetric for Fpgm {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f32; group.channels];
        for weight in &group.weights {
            let (distances, growth) = self.distance.all(weight)?;
            let distances = distances.f_sum_dim_intlist(1, false, tch::Kind::Float)?;
            // Several layers: each counts by the mean distance per element.
            let scale = if group.weights.len() > 1 { growth } else { 1.0 };
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
