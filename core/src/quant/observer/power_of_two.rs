//! Scales that are powers of two, as Xilinx's quantizer searches them (Vitis AI's `nndct`; MQBench's `PoTModeObserver`).

use tch::{Kind, Tensor};

use super::Range;
use crate::quant::{FakeQuantSpec, fake_quant};
use crate::{Error, Result};

/// The shift of a DPU is at most so wide.
const MOST_EXPONENT: f64 = 12.0;

/// `2^-e` with the least squared error for `e` from the one that holds every value to the fourth after it; an image takes the first.
pub(super) fn search(spec: &FakeQuantSpec, rows: &Tensor, min: &Tensor, max: &Tensor, image: bool) -> Result<Range> {
    if !spec.symmetric {
        let reason = "the observer `power-of-two` is for symmetric grids (`symmetric: true`)";
        return Err(Error::Config(reason.into()));
    }
    let holds = max
        .f_div_scalar(spec.qmax as f64)?
        .f_maximum(&min.f_div_scalar(spec.qmin as f64)?)?
        .f_clamp_min(2f64.powi(-15))?;
    let first = holds.f_reciprocal()?.f_log2()?.f_floor()?;
    let zero = holds.f_zeros_like()?;
    let mut best: Option<(Tensor, Tensor)> = None;
    for more in 0..if image { 1 } else { 5 } {
        let exponent = first.f_add_scalar(more)?.f_clamp_max(MOST_EXPONENT)?;
        let scale = exponent.f_neg()?.f_exp2()?;
        let error = fake_quant(rows, spec, &scale, &zero, false)?
            .f_sub(rows)?
            .f_square()?
            .f_mean_dim(1, false, Kind::Float)?;
        best = Some(match best {
            None => (error, scale),
            Some((least, kept)) => {
                let better = error.f_lt_tensor(&least)?;
                (
                    error.f_where_self(&better, &least)?,
                    scale.f_where_self(&better, &kept)?,
                )
            }
        });
    }
    let (_, scale) = best.ok_or_else(|| Error::Impossible("there is no exponent to choose".into()))?;
    // The ends that `qparams` makes this scale of.
    let end = scale.f_mul_scalar((spec.qmax - spec.qmin) as f64 / 2.0)?;
    Ok(Range {
        min: end.f_neg()?,
        max: end,
    })
}
