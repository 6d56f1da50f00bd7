//! Ranges from means and deviations.

use tch::{Kind, Tensor};

use super::Range;
use crate::Result;
use crate::quant::FakeQuantSpec;

/// What lies in both ranges.
pub(super) fn clipped(min: &Tensor, max: &Tensor, low: &Tensor, high: &Tensor) -> Result<Range> {
    Ok(Range {
        min: min.f_maximum(low)?,
        max: max.f_minimum(high)?,
    })
}

/// A scale of `2 E|x| / sqrt(qmax)`. A symmetric grid lies around zero, another one begins at the smallest value.
pub(super) fn lsq(spec: &FakeQuantSpec, rows: &Tensor, min: &Tensor) -> Result<Range> {
    let scale = rows
        .f_abs()?
        .f_mean_dim(1, false, Kind::Float)?
        .f_mul_scalar(2.0 / (spec.qmax as f64).sqrt())?;
    let span = scale.f_mul_scalar((spec.qmax - spec.qmin) as f64)?;
    if spec.symmetric {
        return around_zero(&span.f_div_scalar(2.0)?);
    }
    let min = min.f_clamp_max(0.0)?;
    Ok(Range {
        max: min.f_add(&span)?.f_clamp_min(0.0)?,
        min,
    })
}

/// A scale of `max(|mean - 3 deviations|, |mean + 3 deviations|) / 2^(bits - 1)`.
pub(super) fn lsq_plus(spec: &FakeQuantSpec, rows: &Tensor) -> Result<Range> {
    let (low, high) = deviations(rows, 3.0)?;
    let half = 2f64.powf(((spec.qmax - spec.qmin + 1) as f64).log2().ceil() - 1.0);
    let scale = low.f_abs()?.f_maximum(&high.f_abs()?)?.f_div_scalar(half)?;
    around_zero(&scale.f_mul_scalar((spec.qmax - spec.qmin) as f64 / 2.0)?)
}

/// So many deviations from the mean as DSQ begins with, no further than values go.
pub(super) fn clip_std(rows: &Tensor, min: &Tensor, max: &Tensor) -> Result<Range> {
    let (low, high) = deviations(rows, 2.6)?;
    clipped(min, max, &low, &high)
}

fn deviations(rows: &Tensor, count: f64) -> Result<(Tensor, Tensor)> {
    let mean = rows.f_mean_dim(1, false, Kind::Float)?;
    let reach = rows.f_std_dim(1, false, false)?.f_mul_scalar(count)?;
    Ok((mean.f_sub(&reach)?, mean.f_add(&reach)?))
}

fn around_zero(end: &Tensor) -> Result<Range> {
    Ok(Range {
        min: end.f_neg()?,
        max: end.shallow_clone(),
    })
}
