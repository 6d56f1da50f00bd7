//! Observers: from the values of a tensor to the range of its quantizer. All reduce over the whole tensor, or per output channel for
//! weights.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::FakeQuantSpec;
use super::spec::Method;
use crate::graph::Activation;
use crate::ops::pointwise::activate;
use crate::{Error, Result};

/// How a range is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Observer {
    /// Smallest and largest value of all batches.
    MinMax,
    /// Exponential mean (0.9) of each batch's smallest and largest value.
    EmaMinMax,
    /// The clip with the least squared error over all batches.
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
    behind: Option<Activation>,
    /// Values of each batch, for [`Observer::Mse`]: one clip is searched for all of them, so that it does not depend on how images come in
    /// batches.
    seen: Vec<Tensor>,
}

impl Watch {
    /// Has seen nothing.
    pub fn new(observer: Observer, spec: FakeQuantSpec) -> Self {
        Self {
            observer,
            spec,
            range: None,
            batches: 0,
            behind: None,
            seen: Vec::new(),
        }
    }

    /// An activation is all that becomes of the tensor: [`Observer::Mse`] counts the error of its results.
    #[must_use]
    pub fn behind(self, act: Option<Activation>) -> Self {
        Self { behind: act, ..self }
    }

    /// Looks at the values of one batch.
    pub fn see(&mut self, x: &Tensor) -> Result<()> {
        let searched = self.observer == Observer::Mse && !self.spec.per_channel;
        let now = tch::no_grad(|| -> Result<Range> {
            if !searched {
                return range_behind(self.observer, &self.spec, x, self.behind);
            }
            let (rows, range) = ends(&self.spec, x)?;
            self.seen.push(sample(&rows, OF_BATCH)?);
            Ok(range)
        })?;
        self.batches += 1;
        let weight = 1.0 / self.batches as f64;
        self.range = Some(match (self.range.take(), self.observer) {
            (None, _) => now,
            (Some(old), Observer::Mse) if searched => Range {
                min: old.min.f_minimum(&now.min)?,
                max: old.max.f_maximum(&now.max)?,
            },
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
        self.found()?.map(|range| qparams(&range, &self.spec)).transpose()
    }

    /// The range for what was seen.
    fn found(&self) -> Result<Option<Range>> {
        let Some(Range { min, max }) = &self.range else {
            return Ok(None);
        };
        if self.seen.is_empty() {
            return Ok(Some(Range {
                min: min.shallow_clone(),
                max: max.shallow_clone(),
            }));
        }
        tch::no_grad(|| {
            let seen = sample(&Tensor::f_cat(&self.seen, 1)?, OF_ALL)?;
            best_clip(&self.spec, &seen, min, max, self.behind).map(Some)
        })
    }
}

/// Values that a clip is searched on: so many of each batch, and of all of them.
const OF_BATCH: i64 = 20_000;
const OF_ALL: i64 = 100_000;

/// Evenly spread values `[1, N]` of a row: a sample of large activations estimates the error well enough.
fn sample(row: &Tensor, most: i64) -> Result<Tensor> {
    let count = row.size()[1];
    Ok(row.f_slice(1, 0, count, (count / most).max(1))?.f_contiguous()?)
}

/// Range of one tensor.
///
/// # Errors
/// Where a value is NaN or infinite: no scale can be found for it.
pub fn batch_range(observer: Observer, spec: &FakeQuantSpec, x: &Tensor) -> Result<Range> {
    range_behind(observer, spec, x, None)
}

/// The values of a tensor as rows, one for each range, and their ends.
fn ends(spec: &FakeQuantSpec, x: &Tensor) -> Result<(Tensor, Range)> {
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
    Ok((rows, Range { min, max }))
}

fn range_behind(observer: Observer, spec: &FakeQuantSpec, x: &Tensor, act: Option<Activation>) -> Result<Range> {
    let (rows, Range { min, max }) = ends(spec, x)?;
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
        Observer::Mse if spec.per_channel => best_clip(spec, &rows, &min, &max, act),
        Observer::Mse => best_clip(spec, &sample(&rows, OF_BATCH)?, &min, &max, act),
    }
}

/// Shrinks the range in steps and keeps, per row, the one with the least squared error. 40 steps down to 1/5: finer and deeper than what
/// changes results, coarser than what takes time. Before an activation, which may make nearly nothing of one side of the range, the two
/// ends of an asymmetric grid shrink one after the other.
fn best_clip(
    spec: &FakeQuantSpec,
    rows: &Tensor,
    min: &Tensor,
    max: &Tensor,
    act: Option<Activation>,
) -> Result<Range> {
    let sample = rows.f_contiguous()?;
    let search = Search {
        wanted: match act {
            None => sample.shallow_clone(),
            Some(act) => activate(act, &sample, false)?,
        },
        sample,
        act,
        spec,
        fixed: FakeQuantSpec {
            method: match spec.method {
                Method::Learnable => Method::Fixed,
                other => other,
            },
            ..spec.clone()
        },
    };
    let range = Range {
        min: min.shallow_clone(),
        max: max.shallow_clone(),
    };
    if act.is_none() || spec.symmetric {
        return search.shrink(&range, [true, true]);
    }
    search.shrink(&search.shrink(&range, [true, false])?, [false, true])
}

/// A search for the range with the least error.
struct Search<'a> {
    sample: Tensor,
    /// What becomes of the sample: itself, or the activation's results.
    wanted: Tensor,
    act: Option<Activation>,
    spec: &'a FakeQuantSpec,
    /// The quantizer without what it learns.
    fixed: FakeQuantSpec,
}

impl Search<'_> {
    /// The best of the ranges whose lower or upper end, or both, are shares of those of `start`.
    fn shrink(&self, start: &Range, [lower, upper]: [bool; 2]) -> Result<Range> {
        const STEPS: usize = 40;
        let mut best: Option<(Tensor, Range)> = None;
        for i in 0..STEPS {
            let share = 1.0 - 0.02 * i as f64;
            let shrunk = |end: &Tensor, does: bool| end.f_mul_scalar(if does { share } else { 1.0 });
            let range = Range {
                min: shrunk(&start.min, lower)?,
                max: shrunk(&start.max, upper)?,
            };
            let error = self.error(&range)?;
            best = Some(match best {
                None => (error, range),
                Some((least, kept)) => {
                    let better = error.f_lt_tensor(&least)?;
                    let range = Range {
                        min: range.min.f_where_self(&better, &kept.min)?,
                        max: range.max.f_where_self(&better, &kept.max)?,
                    };
                    (error.f_where_self(&better, &least)?, range)
                }
            });
        }
        best.map(|(_, range)| range)
            .ok_or_else(|| Error::Impossible("there is no range to choose".into()))
    }

    /// Mean squared error of each row.
    fn error(&self, range: &Range) -> Result<Tensor> {
        let (scale, zero) = qparams(range, self.spec)?;
        let rounded = super::fake_quant(&self.sample, &self.fixed, &scale, &zero, false)?;
        let found = match self.act {
            None => rounded,
            Some(act) => activate(act, &rounded, false)?,
        };
        Ok(found
            .f_sub(&self.wanted)?
            .f_square()?
            .f_mean_dim(1, false, Kind::Float)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SiLU makes nearly nothing of what lies far below zero: a range need not hold it.
    #[test]
    fn ranges_before_an_activation_are_those_of_its_results() {
        let values: Vec<f32> = (0..4000).map(|i| -16.0 + 20.0 * i as f32 / 4000.0).collect();
        let x = Tensor::from_slice(&values);
        let spec = FakeQuantSpec {
            qmin: 0,
            qmax: 255,
            per_channel: false,
            symmetric: false,
            method: Method::Learnable,
        };
        let seen = |act| {
            let mut watch = Watch::new(Observer::Mse, spec.clone()).behind(act);
            watch.see(&x).expect("finite");
            let range = watch.found().expect("finite").expect("it has seen something");
            [range.min.double_value(&[0]), range.max.double_value(&[0])]
        };
        let [low, high] = seen(None);
        assert!(low < -15.0 && high > 3.7, "{low} {high}");
        let [low, high] = seen(Some(Activation::Silu));
        assert!(-12.0 < low && low < -3.0 && high > 3.7, "{low} {high}");
        // The same range for the results of a ReLU would be wrong by what it cuts off above.
        let [low, high] = seen(Some(Activation::Relu));
        assert!(low > -4.0 && high > 3.7, "{low} {high}");
    }

    #[test]
    fn a_searched_range_does_not_depend_on_batches() {
        // Two of many values lie far out: 16 steps are better spent on the others.
        let mut values: Vec<f32> = (0..4000).map(|i| (i * 37 % 4000) as f32 / 2000.0 - 1.0).collect();
        (values[3998], values[3999]) = (-3.0, 3.0);
        let spec = FakeQuantSpec {
            qmin: 0,
            qmax: 15,
            per_channel: false,
            symmetric: false,
            method: Method::Learnable,
        };
        let scale = |parts: usize| {
            let mut watch = Watch::new(Observer::Mse, spec.clone());
            for part in values.chunks(values.len() / parts) {
                watch.see(&Tensor::from_slice(part)).expect("finite");
            }
            let (scale, zero) = watch.qparams().expect("finite").expect("it has seen something");
            [scale.double_value(&[0]), zero.double_value(&[0])]
        };
        assert_eq!(scale(1), scale(8));
        assert!(scale(8)[0] < 0.8 * 6.0 / 15.0, "it is a searched one");
    }
}
