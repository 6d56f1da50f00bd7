//! Gradual pruning (AGP, arXiv 1710.01878, equation 1) with structured masks: while the model trains, the share of silenced
//! channels grows as s_t = s_f * (1 - (1 - t / T)^3); at the end the silenced channels are cut.

use yolo_sdk::prelude::prune::{self, ChannelGroups, PruneHost, PrunePlan, Regulariser, Step, select};
use yolo_sdk::prelude::*;

/// Options of masks that grow while the model trains.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Gradual {
    /// Epochs of the ramp.
    pub epochs: usize,
    /// Share of channels to remove at the end; without it the budget decides.
    pub ratio: Option<f64>,
    /// Optimizer steps between two updates of the masks; fewer in a training of so few steps that there would be less than ten.
    pub every: usize,
}

impl Default for Gradual {
    fn default() -> Self {
        Self {
            epochs: 10,
            ratio: None,
            every: 10,
        }
    }
}

#[typetag::serde(name = "gradual")]
impl Pruner for Gradual {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        for (name, value) in [("epochs", self.epochs), ("every", self.every)] {
            if value == 0 {
                return Err(Error::Impossible(format!(
                    "gradual: `{name}` must be at least 1; `oneshot` cuts without training"
                )));
            }
        }
        let rounding = host.rounding();
        let widths = match self.ratio {
            Some(ratio) => select::uniform_widths(host.groups(), ratio, rounding),
            None if host.budget().is_open() => {
                return Err(Error::Impossible(
                    "gradual needs `ratio` or a budget (flops or params)".into(),
                ));
            }
            None => select::fit(host.budget(), host.cost(), |ratio| {
                select::uniform_widths(host.groups(), ratio, rounding)
            })?,
        };
        let mut ramp = Ramp {
            widths: widths.clone(),
            every: self.every,
            full: false,
            plan: PrunePlan::full(),
        };
        host.train(self.epochs, &mut ramp)?;
        let scores = norms(host.groups(), &|key| host.tensor(key))?;
        Ok(select::top(host.groups(), &scores, &widths))
    }
}

/// The masks of the ramp.
#[derive(Debug)]
struct Ramp {
    widths: Vec<usize>,
    every: usize,
    full: bool,
    plan: PrunePlan,
}

impl Regulariser for Ramp {
    fn after_step(&mut self, groups: &ChannelGroups, params: &prune::Params, step: Step) -> Result<()> {
        // Masks are full after three quarters of the training, so that the rest adapts to them; in a training of few steps, too, where
        // that may be between two updates.
        let t = ((step.step + 1) as f64 / (0.75 * step.total.max(1) as f64)).min(1.0);
        let full = t >= 1.0;
        // A ramp of one update would be a cut at once, at its end.
        let every = self.every.min((step.total / 10).max(1));
        if step.step.is_multiple_of(every) || full != self.full {
            self.full = full;
            let done = 1.0 - (1.0 - t).powi(3);
            let scores = norms(groups, &|key| params.require(key).map(tch::Tensor::shallow_clone))?;
            let now: Vec<usize> = groups
                .groups
                .iter()
                .zip(&self.widths)
                .map(|(group, last)| group.len() - ((group.len() - last) as f64 * done).floor() as usize)
                .collect();
            self.plan = select::top(groups, &scores, &now);
        }
        silence(groups, params, &self.plan)
    }
}

/// L2 norm of each channel over everything that makes it.
fn norms(groups: &ChannelGroups, tensor: &dyn Fn(&str) -> Result<tch::Tensor>) -> Result<prune::Scores> {
    tch::no_grad(|| {
        let mut scores = Vec::with_capacity(groups.groups.len());
        for group in &groups.groups {
            let mut total = vec![0f32; group.len()];
            for (at, cut) in group.cuts.iter().enumerate() {
                if cut.side != prune::Side::Producer || cut.role != prune::CutRole::Weight {
                    continue;
                }
                let weight = tensor(&cut.key)?;
                let rows = tch::Tensor::f_from_slice(&group.positions(at))?.f_to_device(weight.device())?;
                let weight = weight
                    .f_index_select(cut.axis as i64, &rows)?
                    .f_reshape([group.len() as i64, -1])?;
                let squares = Vec::<f32>::try_from(weight.f_square()?.f_mean_dim(1, false, tch::Kind::Float)?)?;
                total.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
            }
            scores.push(total.into_iter().map(f32::sqrt).collect());
        }
        Ok(scores)
    })
}

/// Zeros everything that makes the channels outside of the plan.
fn silence(groups: &ChannelGroups, params: &prune::Params, plan: &PrunePlan) -> Result<()> {
    tch::no_grad(|| -> Result<()> {
        for group in &groups.groups {
            let Some(keep) = plan.keep.get(&group.name) else {
                continue;
            };
            let gone: Vec<usize> = (0..group.len()).filter(|i| keep.binary_search(i).is_err()).collect();
            for (at, cut) in group.cuts.iter().enumerate() {
                if cut.side != prune::Side::Producer || cut.role == prune::CutRole::Other {
                    continue;
                }
                let rows: Vec<i64> = gone
                    .iter()
                    .flat_map(|i| &group.channels[*i][at])
                    .map(|row| i64::from(*row))
                    .collect();
                let mut weight = params.require(&cut.key)?.shallow_clone();
                let index = tch::Tensor::f_from_slice(&rows)?.f_to_device(weight.device())?;
                let _ = weight.f_index_fill_(cut.axis as i64, &index, 0.0)?;
            }
        }
        Ok(())
    })
}

yolo_sdk::plugin! {
    pruner Gradual = "gradual" {
        summary: "Masks that grow while the model trains",
        paper: ("To prune, or not to prune: exploring the efficacy of pruning for model compression", "https://arxiv.org/abs/1710.01878", 2017, "AGP (2017)"),
    }
}
