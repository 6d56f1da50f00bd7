//! EagleEye (arXiv 2007.02491): random per-layer strategies within the budget, ranked by the accuracy of the pruned network after
//! adaptive batch normalisation, without any training.

use yolo_sdk::prelude::prune::{self, PruneHost, PrunePlan, select};
use yolo_sdk::prelude::*;

/// Options of random strategies ranked by adaptive batch norm.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct EagleEye {
    /// Candidates that are evaluated.
    pub candidates: usize,
    /// Each group keeps a share drawn from `min_keep..=1`.
    pub min_keep: f64,
    /// How far below the budget a candidate may stay, as a share of the unpruned FLOPs.
    pub window: f64,
    /// Strategies drawn per candidate before giving up.
    pub tries: usize,
    /// The metric that ranks channels in a group.
    pub metric: prune::Metric,
}

impl Default for EagleEye {
    fn default() -> Self {
        Self {
            candidates: 32,
            min_keep: 0.3,
            window: 0.02,
            tries: 2000,
            metric: prune::Metric::named("l1"),
        }
    }
}

#[typetag::serde(name = "eagleeye")]
impl Pruner for EagleEye {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let budget = host.budget();
        budget.check()?;
        let Some(target) = budget.flops else {
            return Err(Error::Impossible("eagleeye needs a FLOPs budget".into()));
        };
        let scores = host.scores(&*self.metric)?;
        let mut random = Stream(host.seed() ^ 0x6561_676c_6565_7965);
        let mut best: Option<(f64, PrunePlan)> = None;
        for candidate in 0..self.candidates.max(1) {
            let Some(plan) = self.draw(host, &scores, target, &mut random) else {
                break;
            };
            let result = host.evaluate(&plan)?;
            host.progress(candidate + 1, self.candidates, &format!("mAP50 {:.3}", result.map50))?;
            // The first candidate counts even at mAP 0: a weak model still yields the best plan there is.
            if best.as_ref().is_none_or(|(value, _)| result.map50 > *value) {
                best = Some((result.map50, plan));
            }
        }
        best.map(|(_, plan)| plan).ok_or_else(|| {
            Error::Impossible(format!(
                "eagleeye found no strategy within {:.1} to {:.1} % of the FLOPs in {} tries; raise `window` or lower `min_keep`",
                100.0 * (target - self.window),
                100.0 * target,
                self.tries
            ))
        })
    }
}

impl EagleEye {
    /// One random strategy whose cost lies in the window, or nothing after all tries.
    fn draw(
        &self,
        host: &dyn PruneHost,
        scores: &prune::Scores,
        target: f64,
        random: &mut Stream,
    ) -> Option<PrunePlan> {
        let (groups, cost, rounding) = (host.groups(), host.cost(), host.rounding());
        let full = cost.macs(cost.full()) as f64;
        for _ in 0..self.tries {
            let shares: Vec<f64> = groups
                .groups
                .iter()
                .map(|_| self.min_keep + (1.0 - self.min_keep) * random.next())
                .collect();
            // Scaling all shares together moves a draw towards the window without changing its character.
            let widths_at = |scale: f64| -> Vec<usize> {
                groups
                    .groups
                    .iter()
                    .zip(&shares)
                    .map(|(group, share)| {
                        rounding.width(
                            (group.len() as f64 * (share * scale).min(1.0)).round() as usize,
                            group.len(),
                        )
                    })
                    .collect()
            };
            let (mut low, mut high) = (0.3, 2.0);
            for _ in 0..12 {
                let middle = f64::midpoint(low, high);
                let widths = widths_at(middle);
                let share = cost.macs(&widths) as f64 / full;
                if share > target {
                    high = middle;
                } else if share < target - self.window {
                    low = middle;
                } else if host.budget().allows(cost, &widths) {
                    return Some(select::top(groups, scores, &widths));
                } else {
                    high = middle;
                }
            }
        }
        None
    }
}

/// SplitMix64 as uniform numbers in 0..1. Not of a crate: a seed must give the same candidates for ever, and `rand` promises no such thing.
#[derive(Debug)]
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

yolo_sdk::plugin! {
    pruner EagleEye = "eagleeye" {
        summary: "Random strategies ranked by adaptive batch norm",
        paper: ("EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", "https://arxiv.org/abs/2007.02491", 2020, "EagleEye (ECCV 2020)"),
    }
}
