//! Observers: from the values of a tensor to the range of its quantizer. All reduce over the whole tensor, or per output channel for
//! weights.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::FakeQuantSpec;
use super::spec::Method;
use crate::graph::Activation;
use crate::{Error, Result};

mod clip;
mod entropy;
mod moments;
mod power_of_two;

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
    #[serde(alias = "percentile")]
    Quantile,
    /// The clip whose rounded histogram tells the same as the histogram of the values (Kullback-Leibler divergence): TensorRT's entropy
    /// calibration (Migacz, 8-bit Inference with TensorRT, GTC 2017).
    Kl,
    /// Initial scales of LSQ ([arXiv 1902.08153](https://arxiv.org/abs/1902.08153)): `2 E|x| / sqrt(qmax)`.
    Lsq,
    /// Those of LSQ+ ([arXiv 2004.09576](https://arxiv.org/abs/2004.09576)): three deviations from the mean on symmetric grids, the least
    /// squared error on others.
    LsqPlus,
    /// 2.6 deviations from the mean, as far as values go (the start of DSQ, [arXiv 1908.05033](https://arxiv.org/abs/1908.05033)).
    ClipStd,
    /// The power of two with the least squared error among the five that follow the one that holds every value (Vitis; symmetric grids).
    PowerOfTwo,
}

impl Observer {
    /// Whether one range is found for values of all batches, so that it does not depend on how images come in batches.
    fn is_pooled(self) -> bool {
        match self {
            Self::MinMax | Self::EmaMinMax | Self::Quantile => false,
            Self::Mse | Self::Kl | Self::Lsq | Self::LsqPlus | Self::ClipStd | Self::PowerOfTwo => true,
        }
    }
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
    image: bool,
    /// Values of each batch, for observers that find one range for all of them.
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
            image: false,
            seen: Vec::new(),
        }
    }

    /// The tensor is the image: powers of two hold all of it, as the bytes of a camera come on that grid.
    #[must_use]
    pub fn of_image(self, image: bool) -> Self {
        Self { image, ..self }
    }

    /// An activation is all that becomes of the tensor: [`Observer::Mse`] counts the error of its results.
    #[must_use]
    pub fn behind(self, act: Option<Activation>) -> Self {
        Self { behind: act, ..self }
    }

    /// The quantizer whose range it looks for.
    pub fn spec(&self) -> &FakeQuantSpec {
        &self.spec
    }

    /// One that has seen what all of `watches` have, for tensors that share a range; `None` of none.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn joined(watches: &[&Self]) -> Result<Option<Self>> {
        let Some((first, others)) = watches.split_first() else {
            return Ok(None);
        };
        let mut all = Self::new(first.observer, first.spec.clone());
        for watch in std::iter::once(first).chain(others) {
            let Some(Range { min, max }) = &watch.range else {
                continue;
            };
            all.range = Some(match &all.range {
                None => Range {
                    min: min.shallow_clone(),
                    max: max.shallow_clone(),
                },
                Some(old) => Range {
                    min: old.min.f_minimum(min)?,
                    max: old.max.f_maximum(max)?,
                },
            });
            all.seen.extend(watch.seen.iter().map(Tensor::shallow_clone));
            all.batches = all.batches.max(watch.batches);
        }
        Ok(Some(all))
    }

    /// Looks at the values of one batch.
    pub fn see(&mut self, x: &Tensor) -> Result<()> {
        let pooled = self.observer.is_pooled() && !self.spec.per_channel;
        let now = tch::no_grad(|| -> Result<Range> {
            if !pooled {
                return self.choice().range(x);
            }
            let (rows, range) = ends(&self.spec, x)?;
            self.seen.push(sample(&rows, OF_BATCH)?);
            Ok(range)
        })?;
        self.batches += 1;
        let mean = |old: Range, now: Range, weight: f64| -> Result<Range> {
            Ok(Range {
                min: old.min.f_lerp(&now.min, weight)?,
                max: old.max.f_lerp(&now.max, weight)?,
            })
        };
        self.range = Some(match (self.range.take(), self.observer) {
            (None, _) => now,
            (Some(old), Observer::EmaMinMax) => mean(old, now, 0.1)?,
            (Some(old), observer) if pooled || observer == Observer::MinMax => Range {
                min: old.min.f_minimum(&now.min)?,
                max: old.max.f_maximum(&now.max)?,
            },
            (Some(old), _) => mean(old, now, 1.0 / self.batches as f64)?,
        });
        Ok(())
    }

    fn choice(&self) -> Choice<'_> {
        Choice {
            observer: self.observer,
            spec: &self.spec,
            behind: self.behind,
            image: self.image,
        }
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
            self.choice().of(&seen, min, max).map(Some)
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
    let choice = Choice {
        observer,
        spec,
        behind: None,
        image: false,
    };
    choice.range(x)
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

/// How the range of a tensor is chosen.
struct Choice<'a> {
    observer: Observer,
    spec: &'a FakeQuantSpec,
    behind: Option<Activation>,
    image: bool,
}

impl Choice<'_> {
    /// Of one tensor, all of it.
    fn range(&self, x: &Tensor) -> Result<Range> {
        let (rows, Range { min, max }) = ends(self.spec, x)?;
        self.of(&rows, &min, &max)
    }

    /// Of values in rows, one for each range, whose ends are known.
    fn of(&self, rows: &Tensor, min: &Tensor, max: &Tensor) -> Result<Range> {
        match self.observer {
            Observer::MinMax | Observer::EmaMinMax => Ok(Range {
                min: min.shallow_clone(),
                max: max.shallow_clone(),
            }),
            Observer::Quantile => {
                // Of a sample: the quantile of a million values is as good as that of all.
                let sample = sample(rows, 1_000_000)?.f_abs()?;
                let rank = ((sample.size()[1] as f64 * 0.99999).ceil() as i64).clamp(1, sample.size()[1]);
                let (clip, _) = sample.f_kthvalue(rank, 1, false)?;
                moments::clipped(min, max, &clip.f_neg()?, &clip)
            }
            Observer::Kl => entropy::clip(self.spec, rows, min, max),
            Observer::Lsq => moments::lsq(self.spec, rows, min),
            Observer::LsqPlus if self.spec.symmetric => moments::lsq_plus(self.spec, rows),
            Observer::ClipStd => moments::clip_std(rows, min, max),
            Observer::PowerOfTwo => power_of_two::search(self.spec, rows, min, max, self.image),
            Observer::Mse | Observer::LsqPlus => clip::best_clip(self.spec, rows, min, max, self.behind),
        }
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

    /// Scales of 1000 values from -2 to 2 by each formula.
    #[test]
    fn observers_find_what_their_formulas_say() {
        let values: Vec<f32> = (0..=1000).map(|i| i as f32 / 250.0 - 2.0).collect();
        let x = Tensor::from_slice(&values);
        let spec = |symmetric: bool| FakeQuantSpec {
            qmin: if symmetric { -128 } else { 0 },
            qmax: if symmetric { 127 } else { 255 },
            per_channel: false,
            symmetric,
            method: Method::Fixed,
        };
        let found = |observer, symmetric| {
            let mut watch = Watch::new(observer, spec(symmetric));
            watch.see(&x).expect("finite");
            let (scale, zero) = watch.qparams().expect("finite").expect("it has seen something");
            (scale.double_value(&[0]), zero.double_value(&[0]))
        };
        let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 2e-3, "{found} is not {wanted}");
        // The mean of |x| is 1, the deviation 2 / sqrt(3).
        near(found(Observer::Lsq, true).0, 2.0 / 127f64.sqrt());
        near(found(Observer::Lsq, false).0, 2.0 / 255f64.sqrt());
        near(found(Observer::LsqPlus, true).0, 3.0 * 2.0 / 3f64.sqrt() / 128.0);
        near(found(Observer::ClipStd, true).0, 2.0 / 127.5);
        // 2^-5 holds all of it; with 2^-6 only the last value is cut.
        near(found(Observer::PowerOfTwo, true).0, 2f64.powi(-6));
        near(found(Observer::MinMax, false).0, 4.0 / 255.0);
        assert!((127.0..=128.0).contains(&found(Observer::MinMax, false).1));
        let error = Watch::new(Observer::PowerOfTwo, spec(false)).choice().range(&x);
        assert!(error.expect_err("not symmetric").to_string().contains("symmetric"));
        // Two of a million values far out: clipped by those that look at all values, kept by the ends.
        let far = Tensor::cat(&[x.repeat([100]), Tensor::from_slice(&[40f32, -40.0])], 0);
        for (observer, most) in [(Observer::ClipStd, 4.0), (Observer::Mse, 41.0)] {
            let range = Choice {
                observer,
                spec: &spec(true),
                behind: None,
                image: false,
            }
            .range(&far)
            .expect("finite");
            assert!(range.max.double_value(&[0]) < most, "{observer:?} {range:?}");
        }
    }

    /// Weights are looked at one by one: what every second of many thousands would say is another range.
    #[test]
    fn ranges_of_weights_look_at_all_of_them() {
        let values: Vec<f32> = (0..200_000).map(|i| if i % 4 == 1 { 1.9 } else { 0.02 }).collect();
        let spec = FakeQuantSpec {
            qmin: -8,
            qmax: 7,
            per_channel: false,
            symmetric: true,
            method: Method::PowerOfTwo,
        };
        for observer in [Observer::PowerOfTwo, Observer::Mse] {
            let range = batch_range(observer, &spec, &Tensor::from_slice(&values)).expect("finite");
            assert!(range.max.double_value(&[0]) > 1.5, "{observer:?} {range:?}");
        }
    }

    /// An image takes the grid that holds all of it.
    #[test]
    fn powers_of_two_hold_the_whole_image() {
        let values: Vec<f32> = (0..=255).map(|i| i as f32 / 255.0).collect();
        let spec = FakeQuantSpec {
            qmin: -128,
            qmax: 127,
            per_channel: false,
            symmetric: true,
            method: Method::PowerOfTwoUp,
        };
        let scale = |image| {
            let mut watch = Watch::new(Observer::PowerOfTwo, spec.clone()).of_image(image);
            watch.see(&Tensor::from_slice(&values)).expect("finite");
            watch
                .qparams()
                .expect("finite")
                .expect("it has seen something")
                .0
                .double_value(&[0])
        };
        assert_eq!((scale(true), scale(false)), (2f64.powi(-6), 2f64.powi(-7)));
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
