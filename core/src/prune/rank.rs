//! Which groups compete with each other for the channels that stay, and by what.
//!
//! The options mean what they do in DepGraph's Torch-Pruning (arXiv 2301.12900): scores are normalised per group, then ranked within the
//! group, over all groups, or within sets of groups.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::select::{self, Scores};
use super::{ChannelGroup, ChannelGroups, PruneHost, PrunePlan, Rounding, pattern};
use crate::{Error, Result};

/// How the scores of a group are made comparable with those of others. None changes the order within a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normaliser {
    /// Scores as they are
    #[default]
    None,
    /// Divided by their mean
    Mean,
    /// Divided by their sum
    Sum,
    /// Divided by the largest
    Max,
    /// From 0 for the lowest to 1 for the largest
    MinMax,
    /// Less their mean, divided by their standard deviation
    Standardise,
    /// Divided by the sum of itself and all larger ones (LAMP, arXiv 2010.15646, equation 1)
    Lamp,
}

impl Normaliser {
    /// Acts on the scores of one group. What would divide by zero leaves them alone.
    pub fn apply(self, scores: &mut [f32]) {
        let count = scores.len().max(1) as f64;
        let sum = scores.iter().map(|v| f64::from(*v)).sum::<f64>();
        let mean = sum / count;
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lowest = scores.iter().copied().fold(f32::INFINITY, f32::min);
        let (shift, scale) = match self {
            Self::None => return,
            Self::Lamp => return lamp(scores),
            Self::Mean => (0.0, mean),
            Self::Sum => (0.0, sum),
            Self::Max => (0.0, f64::from(largest)),
            Self::MinMax => (f64::from(lowest), f64::from(largest) - f64::from(lowest)),
            Self::Standardise => {
                let variance = scores.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count;
                (mean, variance.sqrt())
            }
        };
        if scale > 0.0 {
            for score in scores {
                *score = ((f64::from(*score) - shift) / scale) as f32;
            }
        }
    }
}

/// score / (sum of all scores that are not lower); of equal ones the later counts as larger, so that sums are definite.
fn lamp(scores: &mut [f32]) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(b.cmp(a)));
    let mut sum = 0.0;
    for at in order {
        sum += f64::from(scores[at]);
        if sum > 0.0 {
            scores[at] = (f64::from(scores[at]) / sum) as f32;
        }
    }
}

/// Which groups are ranked together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each group by itself: all lose the same share
    #[default]
    Local,
    /// All groups together: the lowest scores go, wherever they are
    Global,
    /// Groups that the same pattern names together (the first that does), all others each by itself: `{patterns: ["model.{0,1,2}",
    /// "model.*.m"]}`
    Patterns(Vec<String>),
}

/// How scores become widths.
#[derive(Debug, Clone, Default)]
pub struct Ranking {
    /// Which groups compete.
    pub scope: Scope,
    /// What makes them comparable.
    pub normalise: Normaliser,
    /// Shares to remove that are fixed, by pattern of groups.
    pub ratios: BTreeMap<String, f64>,
    /// Whether the channel at the threshold goes, too.
    pub inclusive: bool,
}

impl Ranking {
    /// The plan for `scores`: of the share `ratio`, or else of the smallest share that meets the host's budget. `name` is the pruner's.
    ///
    /// # Errors
    /// [`Error::Impossible`]: a share that is none, neither share nor budget, a budget that can't be met, a pattern that names no group.
    pub fn plan(&self, name: &str, host: &dyn PruneHost, mut scores: Scores, ratio: Option<f64>) -> Result<PrunePlan> {
        let (groups, rounding) = (host.groups(), host.rounding());
        let fixed = self.fixed(name, groups)?;
        let sets = self.sets(groups)?;
        for own in &mut scores {
            self.normalise.apply(own);
        }
        let widths_at = |ratio: f64| self.widths(groups, &scores, &sets, &fixed, ratio, rounding);
        let widths = match ratio {
            Some(ratio) if ratio > 0.0 && ratio < 1.0 => widths_at(ratio),
            Some(ratio) => {
                return Err(Error::Impossible(format!(
                    "{name}: `ratio: {ratio}` must lie between 0 and 1"
                )));
            }
            None if host.budget().is_open() && !self.ratios.is_empty() => widths_at(0.0),
            None if host.budget().is_open() => {
                return Err(Error::Impossible(format!(
                    "{name} needs `ratio` or a budget (flops or params)"
                )));
            }
            None => select::fit(host.budget(), host.cost(), widths_at)?,
        };
        Ok(select::top(groups, &scores, &widths))
    }

    fn widths(
        &self,
        groups: &ChannelGroups,
        scores: &Scores,
        sets: &[usize],
        fixed: &[Option<f64>],
        ratio: f64,
        rounding: Rounding,
    ) -> Vec<usize> {
        let mut wanted = vec![0; groups.groups.len()];
        let members = |set: usize| (0..sets.len()).filter(move |at| sets[*at] == set && fixed[*at].is_none());
        for set in 0..sets.len() {
            let own: Vec<usize> = members(set).collect();
            match own.as_slice() {
                [only] if self.scope != Scope::Global => wanted[*only] = share(&groups.groups[*only], ratio),
                own => select::lowest_go(scores, own, ratio, self.inclusive, &mut wanted),
            }
        }
        for (at, group) in groups.groups.iter().enumerate() {
            if let Some(ratio) = fixed[at] {
                wanted[at] = share(group, ratio);
            }
        }
        let rounded = groups.groups.iter().zip(wanted);
        rounded.map(|(group, wanted)| rounding.width(wanted, group)).collect()
    }

    /// For each group, the number of the set that it is ranked in.
    fn sets(&self, groups: &ChannelGroups) -> Result<Vec<usize>> {
        let count = groups.groups.len();
        match &self.scope {
            Scope::Local => Ok((0..count).collect()),
            Scope::Global => Ok(vec![0; count]),
            Scope::Patterns(patterns) => {
                let mut sets: Vec<usize> = (0..count).collect();
                let mut taken = vec![false; count];
                for text in patterns {
                    let free: Vec<usize> = pattern::find(groups, text)?
                        .into_iter()
                        .filter(|at| !taken[*at])
                        .collect();
                    for at in &free {
                        (sets[*at], taken[*at]) = (free[0], true);
                    }
                }
                Ok(sets)
            }
        }
    }

    /// For each group, its fixed share.
    fn fixed(&self, name: &str, groups: &ChannelGroups) -> Result<Vec<Option<f64>>> {
        let mut fixed = vec![None; groups.groups.len()];
        for (text, ratio) in &self.ratios {
            if !(0.0..1.0).contains(ratio) {
                return Err(Error::Impossible(format!(
                    "{name}: `ratios: {{{text}: {ratio}}}` must be at least 0 and below 1"
                )));
            }
            for at in pattern::find(groups, text)? {
                fixed[at] = Some(*ratio);
            }
        }
        Ok(fixed)
    }
}

/// What a group keeps when it loses a share.
fn share(group: &ChannelGroup, ratio: f64) -> usize {
    (group.len() as f64 * (1.0 - ratio)).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each formula against the same in f64, written out; order within the group stays.
    #[test]
    fn normalisers_are_their_formulas() {
        let values = [3.0f32, 0.5, 8.0, 0.5, 1.25];
        let each: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let sum: f64 = each.iter().sum();
        let mean = sum / 5.0;
        let deviation = (each.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 5.0).sqrt();
        let expected = |normaliser: Normaliser| -> Vec<f64> {
            let of = |at: usize| match normaliser {
                Normaliser::None => each[at],
                Normaliser::Mean => each[at] / mean,
                Normaliser::Sum => each[at] / sum,
                Normaliser::Max => each[at] / 8.0,
                Normaliser::MinMax => (each[at] - 0.5) / 7.5,
                Normaliser::Standardise => (each[at] - mean) / deviation,
                Normaliser::Lamp => {
                    let not_lower =
                        |other: &usize| each[*other] > each[at] || (each[*other] == each[at] && *other >= at);
                    each[at] / (0..5).filter(not_lower).map(|other| each[other]).sum::<f64>()
                }
            };
            (0..5).map(of).collect()
        };
        let all = [
            Normaliser::None,
            Normaliser::Mean,
            Normaliser::Sum,
            Normaliser::Max,
            Normaliser::MinMax,
            Normaliser::Standardise,
            Normaliser::Lamp,
        ];
        for normaliser in all {
            let mut scores = values;
            normaliser.apply(&mut scores);
            for (score, expected) in scores.iter().zip(expected(normaliser)) {
                assert!(
                    (f64::from(*score) - expected).abs() < 1e-6,
                    "{normaliser:?}: {scores:?}"
                );
            }
            let mut order = [1, 3, 4, 0, 2];
            order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)));
            assert!(matches!(order, [1 | 3, 3 | 1, 4, 0, 2]), "{normaliser:?}: {scores:?}");
            let mut alike = [0.0; 4];
            normaliser.apply(&mut alike);
            assert_eq!(alike, [0.0; 4], "{normaliser:?}");
        }
    }
}
