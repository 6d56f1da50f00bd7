//! Observers: from the values of a tensor to the range of its quantizer. All reduce over the whole tensor, or per output channel for
//! weights.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::FakeQuantSpec;
use super::spec::Method;
use crate::{Error, Result};

/// How a range is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Observer {
    /// Smallest and largest value of all batches.
    MinMax,
    /// Exponential mean (0.9) of each batch's smallest and largest value.
    EmaMinMax,
    /// The clip with the least squared error of each batch, averaged.
    #[default]
    Mse,
    /// The 99.999 % quantile of absolute values, averaged.
    Quantile,
}

/// A range.
#[derive(Debug)]
pub struct Range {
    /// Smallest value, `[1]` or `[channels]`.
    pub min: Tensor,
    /// Largest value.
    pub max: Tensor,
}

/// Scale and zero point of a range (PyTorch's formulas): symmetric `s = max(-min, max) / ((qmax - qmin) / 2)`; asymmetric
/// `s = (max - min) / (qmax - qmin)`, `z = clamp(qmin - round(min / s))`. GFPQ keeps the largest magnitude instead.
pub fn qparams(range: &Range, spec: &FakeQuantSpec) -> Result<(Tensor, Tensor)> {
    let min = range.min.f_clamp_max(0.0)?;
    let max = range.max.f_clamp_min(0.0)?;
    let magnitude = max.f_maximum(&min.f_neg()?)?;
    if spec.method == Method::Gfpq {
        return Ok((magnitude.f_clamp_min(1e-10)?, min.f_zeros_like()?));
    }
    const SMALLEST: f64 = 1.19e-7;
    if spec.symmetric {
        let scale = magnitude
            .f_div_scalar((spec.qmax - spec.qmin) as f64 / 2.0)?
            .f_clamp_min(SMALLEST)?;
        return Ok((scale, min.f_zeros_like()?));
    }
    let scale = max
        .f_sub(&min)?
        .f_div_scalar((spec.qmax - spec.qmin) as f64)?
        .f_clamp_min(SMALLEST)?;
    let zero = min
        .f_div(&scale)?
        .f_round()?
        .f_neg()?
        .f_add_scalar(spec.qmin as f64)?
        .f_clamp(spec.qmin, spec.qmax)?;
    Ok((scale, zero))
}

/// Watches one tensor over batches.
#[derive(Debug)]
pub struct Watch {
    observer: Observer,
    spec: FakeQuantSpec,
    range: Option<Range>,
    batches: usize,
}

impl Watch {
    /// Has seen nothing.
    pub fn new(observer: Observer, spec: FakeQuantSpec) -> Self {
        Self {
            observer,
            spec,
            range: None,
            batches: 0,
        }
    }

    /// Looks at the values of one batch.
    pub fn see(&mut self, x: &Tensor) -> Result<()> {
        let now = tch::no_grad(|| batch_range(self.observer, &self.spec, x))?;
        self.batches += 1;
        let weight = 1.0 / self.batches as f64;
        self.range = Some(match (self.range.take(), self.observer) {
            (None, _) => now,
            (Some(old), Observer::MinMax) => Range {
                min: old.min.f_minimum(&now.min)?,
                max: old.max.f_maximum(&now.max)?,
            },
            (Some(old), Observer::EmaMinMax) => Range {
                min: old.min.f_lerp(&now.min, 0.1)?,
                max: old.max.f_lerp(&now.max, 0.1)?,
            },
            (Some(old), Observer::Mse | Observer::Quantile) => Range {
                min: old.min.f_lerp(&now.min, weight)?,
                max: old.max.f_lerp(&now.max, weight)?,
            },
        });
        Ok(())
    }

    /// Scale and zero point of what was seen; `None` if nothing was.
    pub fn qparams(&self) -> Result<Option<(Tensor, Tensor)>> {
        self.range.as_ref().map(|range| qparams(range, &self.spec)).transpose()
    }
}

/// Range of one tensor.
///
/// # Errors
/// Where a value is NaN or infinite: no scale can be found for it.
pub fn batch_range(observer: Observer, spec: &FakeQuantSpec, x: &Tensor) -> Result<Range> {
    let x = x.detach().to_kind(Kind::Float);
    let rows = if spec.per_channel {
        x.f_reshape([x.size()[0], -1])?
    } else {
        x.f_reshape([1, -1])?
    };
    let (min, max) = (rows.f_amin(1, false)?, rows.f_amax(1, false)?);
    // NaN and infinities pass through both; multiplied by 0, only finite numbers are 0.
    let zero = min.f_sub(&max)?.f_mul_scalar(0.0)?.f_sum(Kind::Float)?;
    if zero.f_double_value(&[])? != 0.0 {
        return Err(Error::Impossible("it has values that are not finite".into()));
    }
    match observer {
        Observer::MinMax | Observer::EmaMinMax => Ok(Range { min, max }),
        Observer::Quantile => {
            // Of a sample: the quantile of a million values is as good as that of all.
            let count = rows.size()[1];
            let step = (count / 1_000_000).max(1);
            let sample = rows.f_slice(1, 0, count, step)?.f_abs()?;
            let rank = ((sample.size()[1] as f64 * 0.99999).ceil() as i64).clamp(1, sample.size()[1]);
            let (clip, _) = sample.f_kthvalue(rank, 1, false)?;
            Ok(Range {
                min: min.f_maximum(&clip.f_neg()?)?,
                max: max.f_minimum(&clip)?,
            })
        }
        Observer::Mse => best_clip(spec, &rows, &min, &max),
    }
}

/// Shrinks the range in steps and keeps, per row, the one with the least squared error. 40 steps down to 1/5: finer and deeper than what
/// changes results, coarser than what takes time.
fn best_clip(spec: &FakeQuantSpec, rows: &Tensor, min: &Tensor, max: &Tensor) -> Result<Range> {
    const STEPS: usize = 40;
    // A sample of large activations estimates the error well enough.
    let count = rows.size()[1];
    let step = if rows.size()[0] == 1 {
        (count / 200_000).max(1)
    } else {
        1
    };
    let sample = rows.f_slice(1, 0, count, step)?;
    let fixed = FakeQuantSpec {
        method: if spec.method == Method::Learnable {
            Method::Fixed
        } else {
            spec.method
        },
        ..spec.clone()
    };
    let mut best: Option<(Tensor, Tensor, Tensor)> = None;
    for i in 0..STEPS {
        let share = 1.0 - 0.02 * i as f64;
        let range = Range {
            min: min.f_mul_scalar(share)?,
            max: max.f_mul_scalar(share)?,
        };
        let (scale, zero) = qparams(&range, spec)?;
        let error = super::fake_quant(&sample, &fixed, &scale, &zero, false)?
            .f_sub(&sample)?
            .f_square()?
            .f_mean_dim(1, false, Kind::Float)?;
        best = Some(match best {
            None => (error, range.min, range.max),
            Some((least, best_min, best_max)) => {
                let better = error.f_lt_tensor(&least)?;
                (
                    error.f_where_self(&better, &least)?,
                    range.min.f_where_self(&better, &best_min)?,
                    range.max.f_where_self(&better, &best_max)?,
                )
            }
        });
    }
    let (min, max) = best.map_or_else(
        || (min.shallow_clone(), max.shallow_clone()),
        |(_, min, max)| (min, max),
    );
    Ok(Range { min, max })
}
