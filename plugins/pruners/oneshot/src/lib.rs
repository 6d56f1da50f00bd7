//! One-shot pruning by any metric: score, cut, done. Each group loses the same share, or scores are ranked over all groups or sets of them.

use std::collections::BTreeMap;

use yolo_sdk::prelude::prune::{self, Normaliser, PruneHost, PrunePlan, Ranking, Scope};
use yolo_sdk::prelude::*;

/// Options of one cut by any metric.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct OneShot {
    /// The metric: `{type: l1}`, `{type: fpgm}`, `{type: my-wasm-metric}`, ...
    pub metric: prune::Metric,
    /// Which groups are ranked together: `local` (each loses the same share), `global`, or `{patterns: [...]}`.
    pub scope: Scope,
    /// What makes scores of several groups comparable.
    pub normalise: Normaliser,
    /// Share of channels to remove; without it the budget decides.
    pub ratio: Option<f64>,
    /// Shares to remove of the groups that a pattern names, whatever the others lose: `{"model.9": 0.5}`.
    pub ratios: BTreeMap<String, f64>,
}

impl Default for OneShot {
    fn default() -> Self {
        Self {
            metric: prune::Metric::named("l1"),
            scope: Scope::Local,
            normalise: Normaliser::Mean,
            ratio: None,
            ratios: BTreeMap::new(),
        }
    }
}

#[typetag::serde(name = "oneshot")]
impl Pruner for OneShot {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let scores = host.scores(&*self.metric)?;
        let ranking = Ranking {
            scope: self.scope.clone(),
            normalise: self.normalise,
            ratios: self.ratios.clone(),
            inclusive: false,
        };
        ranking.plan("oneshot", host, scores, self.ratio)
    }
}

yolo_sdk::plugin! {
    pruner OneShot = "oneshot" {
        summary: "One cut by any metric",
        paper: ("Pruning Filters for Efficient ConvNets", "https://arxiv.org/abs/1608.08710", 2017, "One-shot filter pruning (ICLR 2017)"),
    }
}
