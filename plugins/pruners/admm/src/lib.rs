//! ADMM pruning (arXiv 1804.03294): the model trains under rho/2 * ||W - Z + U||^2, where Z is the projection of W + U onto the
//! allowed number of channels and U the dual variable; then the channels outside of the projection are cut.

use yolo_sdk::prelude::prune::{self, ChannelGroups, PruneHost, PrunePlan, Regulariser, Step, select};
use yolo_sdk::prelude::*;

/// Options of alternating direction method of multipliers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Admm {
    /// Outer iterations K.
    pub iterations: usize,
    /// Epochs per iteration.
    pub epochs: usize,
    /// Penalty rho.
    pub rho: f64,
    /// Share of channels to remove; without it the budget decides.
    pub ratio: Option<f64>,
}

impl Default for Admm {
    fn default() -> Self {
        Self {
            iterations: 6,
            epochs: 2,
            rho: 1e-3,
            ratio: None,
        }
    }
}

#[typetag::serde(name = "admm")]
impl Pruner for Admm {
    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        let rounding = host.rounding();
        let widths = match self.ratio {
            Some(ratio) => select::uniform_widths(host.groups(), ratio, rounding),
            None if host.budget().is_open() => {
                return Err(Error::Impossible(
                    "admm needs `ratio` or a budget (flops or params)".into(),
                ));
            }
            None => select::fit(host.budget(), host.cost(), |ratio| {
                select::uniform_widths(host.groups(), ratio, rounding)
            })?,
        };
        let mut state = State {
            widths,
            rho: self.rho,
            iterations: self.iterations,
            iteration: None,
            slots: Vec::new(),
            plan: PrunePlan::full(),
        };
        host.train(self.iterations * self.epochs, &mut state)?;
        if state.slots.is_empty() {
            return Err(Error::Impossible(
                "admm: the training had no optimizer step, so nothing was projected: use more `epochs` or `iterations`, or a smaller `--nominal-batch`".into(),
            ));
        }
        Ok(state.plan)
    }
}

/// Z and U of one weight.
#[derive(Debug)]
struct Slot {
    key: String,
    z: tch::Tensor,
    u: tch::Tensor,
}

#[derive(Debug)]
struct State {
    widths: Vec<usize>,
    rho: f64,
    iterations: usize,
    /// The one that the last projection began.
    iteration: Option<usize>,
    slots: Vec<Slot>,
    plan: PrunePlan,
}

impl State {
    /// Z <- projection of W + U, then U <- U + W - Z.
    fn project(&mut self, groups: &ChannelGroups, params: &prune::Params) -> Result<()> {
        let start = self.slots.is_empty();
        if start {
            for key in producer_keys(groups) {
                let weight = params.require(&key)?.detach();
                self.slots.push(Slot {
                    key,
                    z: weight.copy(),
                    u: weight.zeros_like(),
                });
            }
        }
        let sum = |slot: &Slot| -> Result<tch::Tensor> { Ok(params.require(&slot.key)?.detach().f_add(&slot.u)?) };
        let mut sums: Vec<tch::Tensor> = self.slots.iter().map(sum).collect::<Result<_>>()?;
        let find = |key: &str| self.slots.iter().position(|slot| slot.key == key);
        let mut scores: prune::Scores = Vec::new();
        for group in &groups.groups {
            let mut total = vec![0f32; group.len()];
            for (at, cut) in producer_cuts(group) {
                let Some(index) = find(&cut.key) else { continue };
                let rows = tch::Tensor::f_from_slice(&group.positions(at))?.f_to_device(sums[index].device())?;
                let weight = sums[index]
                    .f_index_select(cut.axis as i64, &rows)?
                    .f_reshape([group.len() as i64, -1])?;
                let squares = Vec::<f32>::try_from(weight.f_square()?.f_mean_dim(1, false, tch::Kind::Float)?)?;
                total.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
            }
            scores.push(total);
        }
        self.plan = select::top(groups, &scores, &self.widths);
        for group in &groups.groups {
            let Some(keep) = self.plan.keep.get(&group.name) else {
                continue;
            };
            for (at, cut) in producer_cuts(group) {
                let Some(index) = find(&cut.key) else { continue };
                let rows: Vec<i64> = (0..group.len())
                    .filter(|i| keep.binary_search(i).is_err())
                    .flat_map(|i| &group.channels[i][at])
                    .map(|row| i64::from(*row))
                    .collect();
                let rows = tch::Tensor::f_from_slice(&rows)?.f_to_device(sums[index].device())?;
                sums[index] = sums[index].f_index_fill(cut.axis as i64, &rows, 0.0)?;
            }
        }
        for (slot, z) in self.slots.iter_mut().zip(sums) {
            if !start {
                slot.u = slot.u.f_add(&params.require(&slot.key)?.detach())?.f_sub(&z)?;
            }
            slot.z = z;
        }
        Ok(())
    }
}

impl Regulariser for State {
    fn before_step(&mut self, groups: &ChannelGroups, params: &prune::Params, step: Step) -> Result<()> {
        tch::no_grad(|| {
            // Equal parts of the optimizer steps: an epoch may have less than one of them, and more in the warm-up than later.
            let iteration = step.step * self.iterations / step.total.max(1);
            if self.iteration.replace(iteration) != Some(iteration) {
                self.project(groups, params)?;
            }
            for slot in &self.slots {
                let weight = params.require(&slot.key)?;
                let mut grad = weight.grad();
                if grad.defined() {
                    let pull = weight.f_sub(&slot.z)?.f_add(&slot.u)?.f_mul_scalar(self.rho)?;
                    let _ = grad.f_add_(&pull)?;
                }
            }
            Ok(())
        })
    }
}

fn producer_cuts(group: &prune::ChannelGroup) -> impl Iterator<Item = (usize, &prune::Cut)> {
    group
        .cuts
        .iter()
        .enumerate()
        .filter(|(_, cut)| cut.side == prune::Side::Producer && cut.role == prune::CutRole::Weight)
}

fn producer_keys(groups: &ChannelGroups) -> Vec<String> {
    let mut keys: Vec<String> = groups
        .groups
        .iter()
        .flat_map(|group| producer_cuts(group).map(|(_, cut)| cut.key.clone()))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

yolo_sdk::plugin! {
    pruner Admm = "admm" {
        summary: "Alternating direction method of multipliers",
        paper: ("A Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers", "https://arxiv.org/abs/1804.03294", 2018, "ADMM pruning (ECCV 2018)"),
    }
}
