//! Distance to the geometric median of the filters (arXiv 1811.00250, equations 4 and 5): s_i = ||W_i - x||, x = argmin sum_j ||x - W_j||.
//! `fpgm` replaces the median by the filter that is nearest to all others (equation 7), here it is found by Weiszfeld's iteration.

use yolo_sdk::prelude::prune::GroupTensors;
use yolo_sdk::prelude::*;
use yolo_sdk::tch::{Kind, Tensor};

/// Distance to the geometric median.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct GeometricMedian {
    /// Most steps of Weiszfeld's iteration.
    pub iterations: usize,
}

impl Default for GeometricMedian {
    fn default() -> Self {
        Self { iterations: 50 }
    }
}

/// The iteration ends where a step is shorter than this share of the largest distance.
const TOLERANCE: f64 = 1e-6;

#[typetag::serde(name = "geometric-median")]
impl PruneMetric for GeometricMedian {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        let mut total = vec![0f64; group.channels];
        for weight in &group.weights {
            let distances = Vec::<f64>::try_from(self.distances(&weight.f_to_kind(Kind::Double)?)?)?;
            // Several layers: each counts by the mean distance per element.
            let elements = weight.size().get(1).copied().unwrap_or(1).max(1) as f64;
            let scale = if group.weights.len() > 1 { elements.sqrt() } else { 1.0 };
            total
                .iter_mut()
                .zip(distances)
                .for_each(|(sum, distance)| *sum += distance / scale);
        }
        Ok(total.into_iter().map(|score| score as f32).collect())
    }
}

impl GeometricMedian {
    /// Of each row to the median of all.
    fn distances(&self, rows: &Tensor) -> Result<Tensor> {
        let to = |point: &Tensor| -> Result<Tensor> {
            Ok(rows
                .f_sub(point)?
                .f_square()?
                .f_sum_dim_intlist(1, false, Kind::Double)?
                .f_sqrt()?)
        };
        let mut median = rows.f_mean_dim(0, true, Kind::Double)?;
        let mut distances = to(&median)?;
        for _ in 0..self.iterations {
            let largest = distances.f_max()?.f_double_value(&[])?;
            if largest == 0.0 {
                break;
            }
            // A filter that is the median itself would have no weight.
            let weights = distances.f_clamp_min(1e-12 * largest)?.f_reciprocal()?;
            let weights = weights.f_div(&weights.f_sum(Kind::Double)?)?;
            let next = weights.f_unsqueeze(0)?.f_matmul(rows)?;
            let moved = next.f_sub(&median)?.f_norm()?.f_double_value(&[])?;
            median = next;
            distances = to(&median)?;
            if moved <= TOLERANCE * largest {
                break;
            }
        }
        Ok(distances)
    }
}

yolo_sdk::plugin! {
    metric GeometricMedian = "geometric-median" {
        summary: "Distance to the geometric median of the filters",
        paper: ("Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", "https://arxiv.org/abs/1811.00250", 2019, "FPGM, equations 4 and 5 (CVPR 2019)"),
    }
}
