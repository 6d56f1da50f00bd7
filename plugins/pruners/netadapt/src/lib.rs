//! NetAdapt (arXiv 1804.03230, algorithm 1): shrink one group at a time, each time the one whose shrinking costs the least accuracy
//! after a short fine-tuning, until the budget is met.

use yolo_sdk::prelude::prune::{self, PruneHost, PrunePlan, select};
use yolo_sdk::prelude::*;

/// Options of one group at a time, by measured accuracy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct NetAdapt {
    /// First reduction per iteration, as a share of the unpruned FLOPs.
    pub reduction: f64,
    /// The reduction shrinks by this factor per iteration.
    pub decay: f64,
    /// Optimizer steps of the short fine-tuning per proposal (0: recalibration of batch norm only).
    pub short_term_steps: usize,
    /// Groups that are tried per iteration, cheapest in norm first (0: all).
    pub proposals: usize,
    /// Most iterations.
    pub max_iterations: usize,
}

impl Default for NetAdapt {
    fn default() -> Self {
        Self {
            reduction: 0.05,
            decay: 0.96,
            short_term_steps: 0,
            proposals: 8,
            max_iterations: 100,
        }
    }
}

#[typetag::serde(name = "netadapt")]
impl Pruner for NetAdapt {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let budget = host.budget();
        budget.check()?;
        if budget.is_open() {
            return Err(Error::Impossible("netadapt needs a budget (flops or params)".into()));
        }
        let scores = host.scores(&*prune::Metric::named("l2"))?;
        let full = host.cost().macs(host.cost().full()) as f64;
        let mut widths = host.cost().full().to_vec();
        let mut reduction = self.reduction * full;
        for iteration in 0..self.max_iterations {
            if budget.allows(host.cost(), &widths) {
                return Ok(select::top(host.groups(), &scores, &widths));
            }
            let now = host.cost().macs(&widths) as f64;
            let mut proposals = self.proposals_for(host, &scores, &widths, now - reduction);
            if proposals.is_empty() {
                return Err(Error::Impossible(
                    "netadapt can't shrink any group further; raise the budget or `max_ratio`".into(),
                ));
            }
            if self.proposals > 0 {
                proposals.truncate(self.proposals);
            }
            let mut best: Option<(f64, Vec<usize>)> = None;
            for (_, candidate) in proposals {
                let plan = select::top(host.groups(), &scores, &candidate);
                let result = if self.short_term_steps > 0 {
                    host.evaluate_tuned(&plan, self.short_term_steps)?
                } else {
                    host.evaluate(&plan)?
                };
                // Accuracy per FLOP saved: proposals save different amounts, since widths are rounded.
                let saved = (now - host.cost().macs(&candidate) as f64) / full;
                let value = result.map50 + 0.1 * saved;
                if best.as_ref().is_none_or(|(other, _)| value > *other) {
                    best = Some((value, candidate));
                }
            }
            if let Some((_, candidate)) = best {
                widths = candidate;
            }
            reduction *= self.decay;
            let share = host.cost().macs(&widths) as f64 / full;
            host.progress(
                iteration + 1,
                self.max_iterations,
                &format!("{:.1} % of the FLOPs", 100.0 * share),
            )?;
        }
        Err(Error::Impossible(format!(
            "netadapt did not meet the budget in {} iterations",
            self.max_iterations
        )))
    }
}

impl NetAdapt {
    /// For each group, the largest width that meets the target; groups with the lowest scores per channel first.
    fn proposals_for(
        &self,
        host: &dyn PruneHost,
        scores: &prune::Scores,
        widths: &[usize],
        target: f64,
    ) -> Vec<(f32, Vec<usize>)> {
        let (groups, cost, rounding) = (host.groups(), host.cost(), host.rounding());
        let step = rounding.multiple.max(1);
        let mut proposals = Vec::new();
        for (index, group) in groups.groups.iter().enumerate() {
            let mut candidate = widths.to_vec();
            let mut width = widths[index];
            while width > step {
                let next = rounding.width(width - step, group);
                if next >= width {
                    break;
                }
                width = next;
                candidate[index] = width;
                if cost.macs(&candidate) as f64 <= target {
                    break;
                }
            }
            if candidate[index] < widths[index] {
                let mut sorted = scores[index].clone();
                sorted.sort_by(f32::total_cmp);
                let mean = scores[index].iter().sum::<f32>() / group.len().max(1) as f32;
                let removed = &sorted[..group.len() - candidate[index]];
                proposals.push((removed.iter().sum::<f32>() / mean.max(f32::MIN_POSITIVE), candidate));
            }
        }
        proposals.sort_by(|a, b| a.0.total_cmp(&b.0));
        proposals
    }
}

yolo_sdk::plugin! {
    pruner NetAdapt = "netadapt" {
        summary: "One group at a time, by measured accuracy",
        paper: ("NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", "https://arxiv.org/abs/1804.03230", 2018, "NetAdapt (ECCV 2018)"),
    }
}
