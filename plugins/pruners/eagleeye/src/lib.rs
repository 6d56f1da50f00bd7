//! EagleEye (arXiv 2007.02491): per-layer strategies within the budget, ranked by the accuracy of the pruned network after adaptive batch
//! normalisation, without any training. Strategies are drawn at random, as in the paper, or bred from the best.

use yolo_sdk::prelude::prune::{self, PruneHost, PrunePlan, select};
use yolo_sdk::prelude::*;

/// Options of strategies ranked by adaptive batch norm.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct EagleEye {
    /// Candidates that are evaluated.
    pub candidates: usize,
    /// Each group keeps a share drawn from `min_keep..=1`.
    pub min_keep: f64,
    /// How far below the budget a candidate may stay, as a share of the unpruned FLOPs (or parameters, where only they have a budget).
    pub window: f64,
    /// Strategies drawn per candidate before giving up.
    pub tries: usize,
    /// The metric that ranks channels in a group.
    pub metric: prune::Metric,
    /// Where strategies come from: `random`, or `evolution`: after the first quarter, children of the best.
    pub sampler: Sampler,
    /// Best candidates that `evolution` breeds from.
    pub parents: usize,
    /// Chance of a child's share to be drawn anew.
    pub mutation: f64,
}

/// Where strategies come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Sampler {
    /// Each is drawn on its own, as in the paper
    #[default]
    Random,
    /// After a quarter of random ones, each share is that of one of two parents among the best, or drawn anew
    Evolution,
}

impl Default for EagleEye {
    fn default() -> Self {
        Self {
            candidates: 32,
            min_keep: 0.3,
            window: 0.02,
            tries: 2000,
            metric: prune::Metric::named("l1"),
            sampler: Sampler::Random,
            parents: 4,
            mutation: 0.1,
        }
    }
}

/// A strategy that was measured.
struct Found {
    shares: Vec<f64>,
    plan: PrunePlan,
    map50: f64,
}

#[typetag::serde(name = "eagleeye")]
impl Pruner for EagleEye {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let budget = host.budget();
        budget.check()?;
        let (target, what) = match (budget.flops, budget.params) {
            (Some(flops), _) => (flops, "FLOPs"),
            (None, Some(params)) => (params, "parameters"),
            (None, None) => return Err(Error::Impossible("eagleeye needs a budget (flops or params)".into())),
        };
        self.check()?;
        let scores = host.scores(&*self.metric)?;
        let mut random = Stream(host.seed() ^ 0x6561_676c_6565_7965);
        // Best first; of equal ones the earlier.
        let mut found: Vec<Found> = Vec::new();
        for candidate in 0..self.candidates.max(1) {
            let bred = self.sampler == Sampler::Evolution && 4 * candidate >= self.candidates;
            let parents = if bred {
                &found[..found.len().min(self.parents)]
            } else {
                &[]
            };
            let Some((shares, plan)) = self.draw(host, &scores, target, parents, &mut random) else {
                break;
            };
            let map50 = host.evaluate(&plan)?.map50;
            host.progress(candidate + 1, self.candidates, &format!("mAP50 {map50:.3}"))?;
            // The first candidate counts even at mAP 0: a weak model still yields the best plan there is.
            let place = found.partition_point(|other| other.map50 >= map50);
            found.insert(place, Found { shares, plan, map50 });
            found.truncate(self.parents.max(1));
        }
        found.into_iter().next().map(|best| best.plan).ok_or_else(|| {
            Error::Impossible(format!(
                "eagleeye found no strategy within {:.1} to {:.1} % of the {what} in {} tries; raise `window` or lower `min_keep`",
                100.0 * (target - self.window),
                100.0 * target,
                self.tries
            ))
        })
    }
}

impl EagleEye {
    fn check(&self) -> Result<()> {
        let shares = [
            ("min_keep", self.min_keep),
            ("window", self.window),
            ("mutation", self.mutation),
        ];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(Error::Impossible(format!(
                "eagleeye: `{name}: {share}` must lie in 0..1"
            )));
        }
        if self.parents == 0 && self.sampler == Sampler::Evolution {
            return Err(Error::Impossible(
                "eagleeye: `parents` must be at least 1 for evolution".into(),
            ));
        }
        Ok(())
    }

    /// One strategy whose cost lies in the window, or nothing after all tries.
    fn draw(
        &self,
        host: &dyn PruneHost,
        scores: &prune::Scores,
        target: f64,
        parents: &[Found],
        random: &mut Stream,
    ) -> Option<(Vec<f64>, PrunePlan)> {
        let groups = host.groups().groups.len();
        for _ in 0..self.tries {
            let pair = parents
                .first()
                .map(|_| [0; 2].map(|_| &parents[random.below(parents.len())]));
            let shares: Vec<f64> = (0..groups)
                .map(|group| match pair {
                    Some(pair) if random.next() >= self.mutation => pair[random.below(2)].shares[group],
                    _ => self.min_keep + (1.0 - self.min_keep) * random.next(),
                })
                .collect();
            if let Some(widths) = self.scaled_to_window(host, &shares, target) {
                return Some((shares, select::top(host.groups(), scores, &widths)));
            }
        }
        None
    }

    /// Widths in the window: scaling all shares together moves a draw towards it without changing its character.
    fn scaled_to_window(&self, host: &dyn PruneHost, shares: &[f64], target: f64) -> Option<Vec<usize>> {
        let (groups, cost, rounding, budget) = (host.groups(), host.cost(), host.rounding(), host.budget());
        let share_of = |widths: &[usize]| match budget.flops {
            Some(_) => cost.macs(widths) as f64 / cost.macs(cost.full()) as f64,
            None => cost.params(widths) as f64 / cost.params(cost.full()) as f64,
        };
        let widths_at = |scale: f64| -> Vec<usize> {
            let each = groups.groups.iter().zip(shares);
            each.map(|(group, share)| {
                rounding.width((group.len() as f64 * (share * scale).min(1.0)).round() as usize, group)
            })
            .collect()
        };
        let (mut low, mut high) = (0.3, 2.0);
        for _ in 0..12 {
            let middle = f64::midpoint(low, high);
            let widths = widths_at(middle);
            let share = share_of(&widths);
            if share > target {
                high = middle;
            } else if share < target - self.window {
                low = middle;
            } else if budget.allows(cost, &widths) {
                return Some(widths);
            } else {
                high = middle;
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

    /// One of `count` numbers from 0.
    fn below(&mut self, count: usize) -> usize {
        ((self.next() * count as f64) as usize).min(count.saturating_sub(1))
    }
}

yolo_sdk::plugin! {
    pruner EagleEye = "eagleeye" {
        summary: "Strategies ranked by adaptive batch norm, random or bred",
        paper: ("EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", "https://arxiv.org/abs/2007.02491", 2020, "EagleEye (ECCV 2020)"),
    }
}
