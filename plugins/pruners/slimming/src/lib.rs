//! Network Slimming (arXiv 1708.06519): sparse training with an L1 penalty on batch norm scales, then one global threshold.
//!
//! The sub-gradient lambda * sign(gamma) joins the gradients once per optimizer step, after they have been unscaled, on the scales of
//! prunable groups only.

use std::collections::BTreeMap;

use yolo_sdk::prelude::prune::{
    self, ChannelGroups, Normaliser, PruneHost, PrunePlan, Ranking, Regulariser, Scope, Step,
};
use yolo_sdk::prelude::*;

/// Options of sparse batch norm scales, one global threshold.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Slimming {
    /// Weight lambda of the penalty during sparse training.
    pub sparse_rate: f64,
    /// Share of channels to remove over the whole model; without it the budget decides.
    pub ratio: Option<f64>,
    /// The channel at the threshold goes, too, as in the published code, which keeps what lies above. Else exactly the share goes.
    pub inclusive: bool,
    /// Which groups are ranked together: `global` (one threshold), `local` (each loses the same share), or `{patterns: [...]}`.
    pub scope: Scope,
    /// What makes scales of several groups comparable.
    pub normalise: Normaliser,
    /// Shares to remove of the groups that a pattern names, whatever the others lose: `{"model.9": 0.5}`.
    pub ratios: BTreeMap<String, f64>,
}

impl Default for Slimming {
    fn default() -> Self {
        Self {
            sparse_rate: 1e-3,
            ratio: None,
            inclusive: false,
            scope: Scope::Global,
            normalise: Normaliser::None,
            ratios: BTreeMap::new(),
        }
    }
}

#[typetag::serde(name = "slimming")]
impl Pruner for Slimming {
    fn regulariser(&self) -> Option<Box<dyn Regulariser>> {
        Some(Box::new(Sparsity {
            rate: self.sparse_rate,
            keys: None,
        }))
    }

    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let scores = host.scores(&*prune::Metric::named("bn-gamma"))?;
        let ranking = Ranking {
            scope: self.scope.clone(),
            normalise: self.normalise,
            ratios: self.ratios.clone(),
            inclusive: self.inclusive,
        };
        ranking.plan("slimming", host, scores, self.ratio)
    }
}

/// The sub-gradient of lambda * sum |gamma|.
#[derive(Debug)]
struct Sparsity {
    rate: f64,
    keys: Option<Vec<String>>,
}

impl Regulariser for Sparsity {
    fn before_step(&mut self, groups: &ChannelGroups, params: &prune::Params, _step: Step) -> Result<()> {
        let keys = self.keys.get_or_insert_with(|| groups.norm_weights());
        tch::no_grad(|| -> Result<()> {
            for key in keys {
                let gamma = params.require(key)?;
                let mut grad = gamma.grad();
                if grad.defined() {
                    let _ = grad.f_add_(&gamma.f_sign()?.f_mul_scalar(self.rate)?)?;
                }
            }
            Ok(())
        })
    }
}

yolo_sdk::plugin! {
    pruner Slimming = "slimming" {
        summary: "Sparse batch norm scales, one global threshold",
        paper: ("Learning Efficient Convolutional Networks through Network Slimming", "https://arxiv.org/abs/1708.06519", 2017, "Network Slimming (ICCV 2017)"),
    }
}
