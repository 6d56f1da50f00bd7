//! The clip with the least squared error ([`super::Observer::Mse`]).

use tch::{Kind, Tensor};

use super::{Range, qparams};
use crate::graph::Activation;
use crate::ops::pointwise::activate;
use crate::quant::{FakeQuantSpec, fake_quant};
use crate::{Error, Result};

/// Shrinks the range in steps and keeps, per row, the one with the least squared error. 40 steps down to 1/5: finer and deeper than what
/// changes results, coarser than what takes time. Before an activation, which may make nearly nothing of one side of the range, the two
/// ends of an asymmetric grid shrink one after the other.
pub(super) fn best_clip(
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
        let rounded = fake_quant(&self.sample, self.spec, &scale, &zero, false)?;
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
