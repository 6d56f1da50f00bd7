//! From scores to plans: local and global ranking, rounding of widths, budgets.

use serde::{Deserialize, Serialize};

use super::{ChannelGroups, CostModel, PrunePlan, Rounding};
use crate::{Error, Result};

/// One score per channel, by group; the lowest go first.
pub type Scores = Vec<Vec<f32>>;

/// What the pruned model may cost, as shares of the unpruned one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Share of the multiply-adds.
    #[serde(default)]
    pub flops: Option<f64>,
    /// Share of the parameters.
    #[serde(default)]
    pub params: Option<f64>,
    /// Share of the time of an image, where times were measured ([`CostModel::milliseconds`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<f64>,
}

impl Budget {
    /// Refuses shares outside of 0..1.
    pub fn check(&self) -> Result<()> {
        for (name, share) in [
            ("flops", self.flops),
            ("params", self.params),
            ("latency", self.latency),
        ] {
            if let Some(share) = share.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
                return Err(Error::Impossible(format!(
                    "the budget `{name}: {share}` must be above 0 and at most 1"
                )));
            }
        }
        Ok(())
    }

    /// Whether widths fit.
    pub fn allows(&self, cost: &CostModel, kept: &[usize]) -> bool {
        let full = cost.full();
        let within =
            |share: Option<f64>, now: i64, before: i64| share.is_none_or(|share| now as f64 <= share * before as f64);
        within(self.flops, cost.macs(kept), cost.macs(full))
            && within(self.params, cost.params(kept), cost.params(full))
            && self
                .latency
                .is_none_or(|share| cost.time_share(kept).is_some_and(|now| now <= share))
    }

    /// Whether the smallest widths `most` fit.
    ///
    /// # Errors
    /// [`Error::Impossible`] says what they leave.
    pub fn check_reach(&self, cost: &CostModel, most: &[usize]) -> Result<()> {
        if self.allows(cost, most) {
            return Ok(());
        }
        let full = cost.full();
        Err(Error::Impossible(format!(
            "the budget can't be met: pruning as far as allowed leaves {:.1} % of the FLOPs{} and {:.1} % of the parameters; \
             raise the budget or `max_ratio`",
            100.0 * cost.macs(most) as f64 / cost.macs(full) as f64,
            cost.time_share(most)
                .map_or(String::new(), |share| format!(", {:.1} % of the time", 100.0 * share)),
            100.0 * cost.params(most) as f64 / cost.params(full) as f64
        )))
    }

    /// Whether anything is asked for.
    pub fn is_open(&self) -> bool {
        self.flops.is_none() && self.params.is_none() && self.latency.is_none()
    }
}

/// Keeps, in each group, the `width` channels with the highest scores (ties: the earlier channel).
pub fn top(groups: &ChannelGroups, scores: &Scores, widths: &[usize]) -> PrunePlan {
    let mut plan = PrunePlan::full();
    for ((group, scores), width) in groups.groups.iter().zip(scores).zip(widths) {
        if *width >= group.len() {
            continue;
        }
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        order.truncate(*width);
        order.sort_unstable();
        plan.keep.insert(group.name.clone(), order);
    }
    plan
}

/// Widths when every group loses the same share.
pub fn uniform_widths(groups: &ChannelGroups, ratio: f64, rounding: Rounding) -> Vec<usize> {
    groups
        .groups
        .iter()
        .map(|group| {
            let wanted = (group.len() as f64 * (1.0 - ratio)).round() as usize;
            rounding.width(wanted, group)
        })
        .collect()
}

/// Widths when the `ratio` lowest scores over all groups go. Of equal scores the later channels go first, so that a model whose
/// scores are all alike can be pruned, too.
pub fn global_widths(groups: &ChannelGroups, scores: &Scores, ratio: f64, rounding: Rounding) -> Vec<usize> {
    let mut wanted = vec![0; groups.groups.len()];
    let all: Vec<usize> = (0..wanted.len()).collect();
    lowest_go(scores, &all, ratio, false, &mut wanted);
    groups
        .groups
        .iter()
        .zip(wanted)
        .map(|(group, wanted)| rounding.width(wanted, group))
        .collect()
}

/// Writes into `wanted` how many channels each of these groups keeps when the `ratio` lowest of their scores go; `inclusive`: and the
/// next one, the threshold of Network Slimming's code, which keeps what lies above.
pub(super) fn lowest_go(scores: &Scores, among: &[usize], ratio: f64, inclusive: bool, wanted: &mut [usize]) {
    let mut all: Vec<(f32, usize, usize)> = Vec::new();
    for group in among {
        wanted[*group] = scores[*group].len();
        let own = scores[*group].iter().enumerate();
        all.extend(own.map(|(channel, score)| (*score, channel, *group)));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    let cut = (all.len() as f64 * ratio) as usize + usize::from(inclusive && ratio > 0.0);
    for (_, _, group) in &all[..cut.min(all.len().saturating_sub(1))] {
        wanted[*group] -= 1;
    }
}

/// The weakest pruning of a family of widths, ordered by ratio, that fits the budget: bisection over the ratio.
pub fn fit(budget: Budget, cost: &CostModel, widths_at: impl Fn(f64) -> Vec<usize>) -> Result<Vec<usize>> {
    budget.check()?;
    if budget.allows(cost, &widths_at(0.0)) {
        return Ok(widths_at(0.0));
    }
    let (mut low, mut high) = (0.0, 1.0);
    budget.check_reach(cost, &widths_at(high))?;
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if budget.allows(cost, &widths_at(middle)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(widths_at(high))
}
