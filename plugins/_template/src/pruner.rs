//! Template title: the same share of channels goes from every group, the least important ones by a metric.

use yolo_sdk::prelude::prune::{self, PruneHost, PrunePlan, select};
use yolo_sdk::prelude::*;

/// Options of the pruner.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// What ranks the channels of a group; any metric, of any package.
    pub metric: prune::Metric,
    /// Measure the plan before it is returned.
    pub measure: bool,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { metric: prune::Metric::named("l1"), measure: false }
    }
}

#[typetag::serde(name = "template-name")]
impl Pruner for TemplateName {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let budget = host.budget();
        if budget.is_open() {
            return Err(Error::Impossible("template-name needs a budget (flops or params)".into()));
        }
        let scores = host.scores(&*self.metric)?;
        let rounding = host.rounding();
        let widths_at = |ratio: f64| select::uniform_widths(host.groups(), ratio, rounding);
        let widths = select::fit(budget, host.cost(), widths_at)?;
        let plan = select::top(host.groups(), &scores, &widths);
        if self.measure {
            let worth = host.evaluate(&plan)?;
            host.progress(1, 1, &format!("mAP50 {:.3} without fine-tuning", worth.map50))?;
        }
        Ok(plan)
    }
}

yolo_sdk::plugin! {
    pruner TemplateName = "template-name" {
        summary: "The same share of every group, ranked by a metric",
    }
}
