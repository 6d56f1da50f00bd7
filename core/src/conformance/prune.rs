//! Metrics and pruners.

use tch::Tensor;

use super::model::finite;
use super::{Report, because};
use crate::prune::{
    Budget, ChannelGroup, ChannelGroups, CostModel, Evaluation, GroupTensors, Measured, NamedMetric, PruneHost,
    PruneMetric, PrunePlan, Pruner, Regulariser, Rounding, Scores, Step, apply, checked_score,
};
use crate::testing::Stream;
use crate::{Graph, GraphBuilder, Mode, Params, Program, Result, nn, testing};

/// Shapes of layers: channels, and the elements of each part of a row.
const LAYERS: [(usize, &[i64]); 6] = [
    (1, &[1]),
    (1, &[27]),
    (8, &[9]),
    (33, &[72, 5]),
    (64, &[576]),
    (256, &[128, 1152]),
];

/// A layer of numbers that are the same everywhere.
fn layer(channels: usize, parts: &[i64], scale: f64) -> GroupTensors {
    let tensor = |name: &str, part: usize, shape: &[i64], offset: f64| {
        let stream = Stream::new(&format!("{name}.{part}"));
        let count = shape.iter().product::<i64>() as u32;
        let values: Vec<f32> = (0..count).map(|i| (offset + scale * stream.signed(i)) as f32).collect();
        Tensor::from_slice(&values).reshape(shape)
    };
    let each = |name: &str, offset: f64, shape: &dyn Fn(i64) -> Vec<i64>| -> Vec<Tensor> {
        parts
            .iter()
            .enumerate()
            .map(|(at, elements)| tensor(name, at, &shape(*elements), offset))
            .collect()
    };
    let rows = |elements: i64| vec![channels as i64, elements];
    let one = |_: i64| vec![channels as i64];
    GroupTensors {
        name: "model.1.conv".into(),
        index: (1, LAYERS.len()),
        channels,
        weights: each("weight", 0.0, &rows),
        weight_grads: each("weight_grad", 0.0, &rows),
        gammas: each("gamma", if scale > 0.0 { 1.0 } else { 0.0 }, &one),
        betas: each("beta", 0.0, &one),
        gamma_grads: each("gamma_grad", 0.0, &one),
        // Squares and absolute values are not negative.
        weight_squares: each("weight_square", scale, &rows),
        gamma_squares: each("gamma_square", scale, &one),
        activations: each("activation", scale, &one),
    }
}

/// A metric on layers of many shapes.
pub fn metric(metric: &dyn PruneMetric) -> Report {
    let mut report = Report::default();
    let score = |group: &GroupTensors| tch::no_grad(|| checked_score("it", metric, group)).map_err(because);
    let mut first = Vec::new();
    for (channels, parts) in LAYERS {
        let elements: i64 = parts.iter().sum();
        let what = format!("{channels} channels x {elements}: one finite score each");
        first.push(report.get(what, || score(&layer(channels, parts, 0.1))));
    }
    report.check("channels of other weights get other scores", || {
        match first[4].as_deref() {
            Some([score, rest @ ..]) if rest.iter().all(|other| other == score) => Err(format!(
                "all {} channels of a layer of random weights got {score}: an option that the description lacks reads as 0",
                rest.len() + 1
            )),
            _ => Ok(()),
        }
    });
    report.check(
        "the same layer gets the same scores, whatever was scored in between",
        || {
            for ((channels, parts), wanted) in LAYERS.into_iter().zip(&first).rev() {
                let Some(wanted) = wanted else { continue };
                if *wanted != score(&layer(channels, parts, 0.1))? {
                    return Err(format!("{channels} channels got other scores than before"));
                }
            }
            Ok(())
        },
    );
    report.check("from two threads at once, too", || {
        let (channels, parts) = LAYERS[4];
        let Some(wanted) = &first[4] else { return Ok(()) };
        let run = || score(&layer(channels, parts, 0.1));
        std::thread::scope(|scope| {
            for thread in [scope.spawn(run), scope.spawn(run)] {
                let scores = thread.join().map_err(|_| "it panicked".to_owned())??;
                if *wanted != scores {
                    return Err("the scores are others".into());
                }
            }
            Ok(())
        })
    });
    report.check("a layer of zeros gets finite scores", || {
        score(&layer(8, &[9], 0.0)).map(drop)
    });
    report.check("tiny and large weights get finite scores", || {
        score(&layer(8, &[9], 1e-18))?;
        score(&layer(8, &[9], 1e4)).map(drop)
    });
    report
}

/// A network with what makes pruning hard: residual sums and concatenations.
pub(super) fn network() -> Result<Graph> {
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let stem = g.layer("Conv", &[image], |g| nn::conv(g, "conv", image.value, 32, 3, 2))?;
    let down = g.layer("Conv", &[stem], |g| nn::conv(g, "conv", stem.value, 64, 3, 2))?;
    let csp = g.layer("C3", &[down], |g| nn::c3(g, down.value, 64, 2, true))?;
    let next = g.layer("Conv", &[csp], |g| nn::conv(g, "conv", csp.value, 128, 3, 2))?;
    let last = g.layer("C3", &[next], |g| nn::c3(g, next.value, 128, 1, false))?;
    g.finish(vec![csp.value, last.value], None)
}

/// A host without data: what a plan is worth follows from what it leaves, and training changes what the regulariser changes.
struct Bench {
    graph: Graph,
    params: Params,
    groups: ChannelGroups,
    cost: CostModel,
    budget: Budget,
}

impl Bench {
    fn new(flops: f64) -> Result<Self> {
        let graph = network()?;
        let params = testing::fill_params(&graph, 2.5);
        let groups = ChannelGroups::of(&graph)?;
        let cost = CostModel::of(&graph, &groups, 64)?;
        Ok(Self {
            graph,
            params,
            groups,
            cost,
            budget: Budget {
                flops: Some(flops),
                params: None,
                latency: None,
            },
        })
    }

    fn worth(&self, plan: &PrunePlan) -> Result<Evaluation> {
        plan.check(&self.groups)?;
        let kept = self.cost.widths(plan, &self.groups);
        let share = self.cost.macs(&kept) as f64 / self.cost.macs(self.cost.full()) as f64;
        Ok(Evaluation {
            map50: 0.6 * share.sqrt(),
            map: 0.3 * share.sqrt(),
        })
    }

    /// Weights stand for what images would say.
    fn measured(&self, group: &ChannelGroup) -> Measured {
        let ones = Tensor::ones([group.len() as i64], (tch::Kind::Float, tch::Device::Cpu));
        Measured {
            grads: self.params.shallow_clone(),
            squares: self.params.shallow_clone(),
            activations: [(group.name.clone(), vec![ones])].into(),
        }
    }

    fn score(&self, at: usize, group: &ChannelGroup, metric: &dyn PruneMetric) -> Result<Vec<f32>> {
        if NamedMetric::of(metric).is_some() {
            // A metric of another crate, which is not linked here: any scores do.
            let stream = Stream::new(&group.name);
            return Ok((0..group.len()).map(|c| stream.unit(c as u32) as f32).collect());
        }
        let index = (at, self.groups.groups.len());
        let tensors = GroupTensors::collect(group, index, &self.params, Some(&self.measured(group)), metric.needs())?;
        checked_score("metric", metric, &tensors)
    }
}

impl PruneHost for Bench {
    fn groups(&self) -> &ChannelGroups {
        &self.groups
    }
    fn cost(&self) -> &CostModel {
        &self.cost
    }
    fn budget(&self) -> Budget {
        self.budget
    }
    fn rounding(&self) -> Rounding {
        Rounding::default()
    }
    fn seed(&self) -> u64 {
        7
    }
    fn scores(&mut self, metric: &dyn PruneMetric) -> Result<Scores> {
        let groups = self.groups.groups.iter().enumerate();
        tch::no_grad(|| groups.map(|(at, group)| self.score(at, group, metric)).collect())
    }
    fn tensor(&self, key: &str) -> Result<Tensor> {
        Ok(self.params.require(key)?.shallow_clone())
    }
    fn evaluate(&mut self, plan: &PrunePlan) -> Result<Evaluation> {
        self.worth(plan)
    }
    fn evaluate_tuned(&mut self, plan: &PrunePlan, _steps: usize) -> Result<Evaluation> {
        self.worth(plan)
    }
    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> Result<()> {
        const PER_EPOCH: usize = 2;
        let total = epochs * PER_EPOCH;
        (0..total).try_for_each(|step| {
            self.train_step(
                regulariser,
                Step {
                    step,
                    total,
                    per_epoch: PER_EPOCH,
                },
            )
        })
    }
    fn progress(&mut self, _done: usize, _total: usize, _note: &str) -> Result<()> {
        Ok(())
    }
}

impl Bench {
    /// One step of gradient descent with gradients of zero: what changes, the regulariser changed.
    fn train_step(&self, regulariser: &mut dyn Regulariser, step: Step) -> Result<()> {
        let trained: Vec<String> = self
            .graph
            .param_specs()
            .into_iter()
            .filter(|spec| spec.role.trainable())
            .map(|spec| spec.key)
            .collect();
        for key in &trained {
            let tensor = self.params.require(key)?.set_requires_grad(true);
            tensor.f_sum(tch::Kind::Float)?.f_mul_scalar(0.0)?.f_backward()?;
        }
        regulariser.before_step(&self.groups, &self.params, step)?;
        tch::no_grad(|| -> Result<()> {
            for key in &trained {
                let mut tensor = self.params.require(key)?.shallow_clone();
                let _ = tensor.f_sub_(&tensor.grad().f_mul_scalar(0.01)?)?;
                tensor.zero_grad();
            }
            regulariser.after_step(&self.groups, &self.params, step)
        })
    }
}

/// A pruner on a small network.
pub fn pruner(pruner: &dyn Pruner) -> Report {
    const SHARE: f64 = 0.6;
    let mut report = Report::default();
    let plan = || -> Result<(Bench, PrunePlan), String> {
        let mut bench = Bench::new(SHARE).map_err(because)?;
        let plan = pruner.plan(&mut bench).map_err(because)?;
        Ok((bench, plan))
    };
    let made = report.get("it makes a plan for 60 % of the FLOPs", plan);
    report.check("a sparsity training leaves finite weights", || {
        let Some(mut regulariser) = pruner.regulariser() else {
            return Ok(());
        };
        let mut bench = Bench::new(SHARE).map_err(because)?;
        bench.train(2, regulariser.as_mut()).map_err(because)?;
        bench
            .params
            .iter()
            .try_for_each(|(key, tensor)| finite(tensor).map_err(|reason| format!("`{key}`: {reason}")))
    });
    let Some((bench, plan_made)) = made else { return report };
    report.check("the plan fits the network", || {
        plan_made.check(&bench.groups).map_err(because)
    });
    report.check("the plan meets the budget", || {
        let kept = bench.cost.widths(&plan_made, &bench.groups);
        if bench.budget.allows(&bench.cost, &kept) {
            return Ok(());
        }
        let share = bench.cost.macs(&kept) as f64 / bench.cost.macs(bench.cost.full()) as f64;
        Err(format!("{:.1} % of the FLOPs are left", 100.0 * share))
    });
    report.check("widths are multiples of 8", || {
        let odd = bench
            .groups
            .groups
            .iter()
            .find(|group| !plan_made.kept(group).is_multiple_of(8));
        odd.map_or(Ok(()), |group| {
            Err(format!("`{}` keeps {}", group.name, plan_made.kept(group)))
        })
    });
    report.check("the pruned network runs, with finite results", || {
        let (graph, params) = apply(&bench.graph, &bench.params, &bench.groups, &plan_made).map_err(because)?;
        let program = Program::new(&graph, &params).map_err(because)?;
        tch::no_grad(|| program.run(&testing::input(1, 3, 64, 64), Mode::Eval))
            .map_err(because)?
            .iter()
            .try_for_each(finite)
    });
    report.check("the same seed gives the same plan", || {
        let (_, again) = plan()?;
        if again == plan_made {
            Ok(())
        } else {
            Err("it is another one".into())
        }
    });
    report.check("a budget that can't be met is refused", || {
        let mut bench = Bench::new(1e-6).map_err(because)?;
        match pruner.plan(&mut bench) {
            Err(_) => Ok(()),
            Ok(_) => Err("it makes a plan for a millionth of the FLOPs".into()),
        }
    });
    report
}
