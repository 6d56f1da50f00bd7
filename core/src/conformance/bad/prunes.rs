//! Metrics and pruners.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use super::super::{Report, metric, pruner};
use super::{every_check_refuses, faulty};
use crate::prune::{ChannelGroups, GroupTensors, PruneHost, PruneMetric, PrunePlan, Pruner, Regulariser, Step};
use crate::{Error, Params, Result};

faulty!(BadMetric);

#[typetag::serde(name = "bad-metric")]
impl PruneMetric for BadMetric {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        static HOME: OnceLock<ThreadId> = OnceLock::new();
        let mass = group.weights[0].f_abs()?.f_mean_dim(1, false, tch::Kind::Float)?;
        let mut scores = Vec::<f32>::try_from(&mass)?;
        let elements: i64 = group.weights.iter().map(|part| part.size()[1]).sum();
        if self.is(&format!(
            "{} channels x {elements}: one finite score each",
            group.channels
        )) {
            // Half of the layers get too few, the others one that is no number.
            match group.channels % 2 {
                0 => drop(scores.pop()),
                _ => scores[0] = f32::NAN,
            }
        }
        for score in &mut scores {
            match self.fault.as_str() {
                "channels of other weights get other scores" => *score = 1.0,
                "the same layer gets the same scores, whatever was scored in between" => {
                    *score += CALLS.fetch_add(1, Ordering::Relaxed) as f32;
                }
                "from two threads at once, too" => {
                    let here = std::thread::current().id();
                    *score += f32::from(*HOME.get_or_init(|| here) != here);
                }
                "a layer of zeros gets finite scores" => {
                    *score /= mass.f_sum(tch::Kind::Float)?.double_value(&[]) as f32
                }
                "tiny and large weights get finite scores" => *score = score.exp(),
                _ => {}
            }
        }
        Ok(scores)
    }
}

faulty!(BadPruner);

#[typetag::serde(name = "bad-pruner")]
impl Pruner for BadPruner {
    fn regulariser(&self) -> Option<Box<dyn Regulariser>> {
        self.is("a sparsity training leaves finite weights")
            .then(|| Box::new(Spoils) as Box<dyn Regulariser>)
    }

    fn plan(&self, host: &mut dyn PruneHost) -> Result<PrunePlan> {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let within_reach = host.budget().flops.is_some_and(|share| share > 0.01);
        match self.fault.as_str() {
            "it makes a plan for 60 % of the FLOPs" => return Err(Error::Impossible("on purpose".into())),
            "a budget that can't be met is refused" => {}
            _ if !within_reach => return Err(Error::Impossible("out of reach".into())),
            _ => {}
        }
        if self.is("the pruned network runs, with finite results") {
            let key = host.groups().groups[0].cuts[0].key.clone();
            let _ = tch::no_grad(|| host.tensor(&key)?.f_fill_(f64::NAN).map_err(Error::from))?;
        }
        let odd = usize::from(self.is("widths are multiples of 8"));
        // Which channels stay is another question at every call.
        let turn = match self.is("the same seed gives the same plan") {
            true => CALLS.fetch_add(1, Ordering::Relaxed) % 2,
            false => 0,
        };
        let mut plan = PrunePlan::full();
        for group in host.groups() {
            let kept = 8 - odd;
            plan.keep.insert(group.name.clone(), (turn..turn + kept).collect());
        }
        match self.fault.as_str() {
            "the plan fits the network" => drop(plan.keep.insert("no.such.group".into(), vec![0])),
            "the plan meets the budget" => plan = PrunePlan::full(),
            _ => {}
        }
        Ok(plan)
    }
}

#[derive(Debug)]
struct Spoils;

impl Regulariser for Spoils {
    fn after_step(&mut self, groups: &ChannelGroups, params: &Params, _: Step) -> Result<()> {
        let key = &groups.norm_weights()[0];
        let mut weight = params.require(key)?.shallow_clone();
        let _ = tch::no_grad(|| weight.f_fill_(f64::INFINITY))?;
        Ok(())
    }
}

#[test]
fn metrics() {
    let report = |fault: &str| -> Report { metric(&BadMetric::breaks(fault)) };
    every_check_refuses(&report(""), report);
}

#[test]
fn pruners() {
    let report = |fault: &str| -> Report { pruner(&BadPruner::breaks(fault)) };
    every_check_refuses(&report(""), report);
}
