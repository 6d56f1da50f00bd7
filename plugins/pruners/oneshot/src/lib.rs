//! One-shot pruning by any metric: score, cut, done. Local (the same share in every group) or global (normalised scores ranked
//! together).

use yolo_sdk::prelude::prune::{self, PruneHost, PrunePlan, select};
use yolo_sdk::prelude::*;

/// Options of one cut by any metric.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct OneShot {
    /// The metric: `{type: l1}`, `{type: fpgm}`, `{type: my-wasm-metric}`, ...
    pub metric: prune::Metric,
    /// Rank all groups together (scores divided by their group's mean) instead of taking the same share of each.
    pub global: bool,
    /// Share of channels to remove; without it the budget decides.
    pub ratio: Option<f64>,
}

impl Default for OneShot {
    fn default() -> Self {
        Self {
            metric: prune::Metric::named("l1"),
            global: false,
            ratio: None,
        }
    }
}

#[typetag::serde(name = "oneshot")]
impl Pruner for OneShot {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let mut scores = host.scores(&*self.metric)?;
        let rounding = host.rounding();
        if self.global {
            select::normalise(&mut scores);
        }
        let widths_at = |ratio: f64| {
            if self.global {
                select::global_widths(host.groups(), &scores, ratio, rounding)
            } else {
                select::uniform_widths(host.groups(), ratio, rounding)
            }
        };
        let widths = match self.ratio {
            Some(ratio) if (0.0..1.0).contains(&ratio) => widths_at(ratio),
            Some(ratio) => {
                return Err(Error::Impossible(format!(
                    "oneshot: `ratio: {ratio}` must lie between 0 and 1"
                )));
            }
            None if host.budget().is_open() => {
                return Err(Error::Impossible(
                    "oneshot needs `ratio` or a budget (flops or params)".into(),
                ));
            }
            None => select::fit(host.budget(), host.cost(), widths_at)?,
        };
        Ok(select::top(host.groups(), &scores, &widths))
    }
}

yolo_sdk::plugin! {
    pruner OneShot = "oneshot" {
        summary: "One cut by any metric",
        paper: ("Pruning Filters for Efficient ConvNets", "https://arxiv.org/abs/1608.08710", 2017, "One-shot filter pruning (ICLR 2017)"),
    }
}
