//! Pruners on the far side of the boundary, with a host that remembers what it was asked.

use serde_json::json;
use tch::{Kind, Tensor};
use yolo_core::prune::{
    Budget, ChannelGroups, CostModel, Evaluation, GroupTensors, PruneHost, PruneMetric, PrunePlan, Pruner, Regulariser,
    Rounding, Scores, Step, checked_score,
};
use yolo_core::{Error, Graph, GraphBuilder, Op, Params, Result, testing};

use crate::{far, near};

struct Host {
    graph: Graph,
    params: Params,
    groups: ChannelGroups,
    cost: CostModel,
    budget: Budget,
    log: Vec<String>,
}

impl Host {
    fn new() -> Self {
        let mut g = GraphBuilder::new(3);
        let a = yolo_core::nn::conv(&mut g, "a", yolo_core::ValueId::IMAGE, 32, 3, 2).expect("a layer");
        let b = yolo_core::nn::conv(&mut g, "b", a, 32, 3, 1).expect("a layer");
        let sum = g.add("sum", Op::Add, &[a, b]).expect("a node");
        let c = yolo_core::nn::conv(&mut g, "c", sum, 64, 3, 2).expect("a layer");
        let out = g.add("out", Op::conv(64, 8, 1, 1, 0, 1, true), &[c]).expect("a node");
        let graph = g.finish(vec![out], None).expect("a graph");
        let params = testing::fill_params(&graph, 1.0);
        let groups = ChannelGroups::of(&graph).expect("groups");
        let cost = CostModel::of(&graph, &groups, 64).expect("a cost");
        let budget = Budget {
            flops: Some(0.6),
            params: None,
            latency: None,
        };
        Self {
            graph,
            params,
            groups,
            cost,
            budget,
            log: Vec::new(),
        }
    }
}

impl PruneHost for Host {
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
        Rounding {
            multiple: 4,
            max_ratio: 0.8,
            ..Rounding::default()
        }
    }
    fn seed(&self) -> u64 {
        u64::MAX - 3
    }
    fn scores(&mut self, metric: &dyn PruneMetric) -> Result<Scores> {
        let count = self.groups.groups.len();
        self.groups
            .groups
            .iter()
            .enumerate()
            .map(|(at, group)| {
                let tensors = GroupTensors::collect(group, (at, count), &self.params, None, metric.needs())?;
                checked_score("metric", metric, &tensors)
            })
            .collect()
    }
    fn tensor(&self, key: &str) -> Result<Tensor> {
        Ok(self.params.require(key)?.shallow_clone())
    }
    fn evaluate(&mut self, plan: &PrunePlan) -> Result<Evaluation> {
        self.evaluate_tuned(plan, 0)
    }
    fn evaluate_tuned(&mut self, plan: &PrunePlan, steps: usize) -> Result<Evaluation> {
        let widths = self.cost.widths(plan, &self.groups);
        self.log.push(format!("evaluate {widths:?} {steps}"));
        let share = self.cost.macs(&widths) as f64 / self.cost.macs(self.cost.full()) as f64;
        Ok(Evaluation {
            map50: 1.0 / (1.0 + (share - 0.4).abs()),
            map: share,
        })
    }
    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> Result<()> {
        self.log.push(format!("train {epochs}"));
        let trained = self.params.get("a.bn.weight").expect("there").set_requires_grad(true);
        (&trained * 3.0).sum(Kind::Float).backward();
        for step in 0..2 {
            let step = Step {
                step,
                total: 2,
                per_epoch: 1,
            };
            regulariser.before_step(&self.groups, &self.params, step)?;
            regulariser.after_step(&self.groups, &self.params, step)?;
        }
        let (value, grad) = (
            Vec::<f32>::try_from(trained.detach()),
            Vec::<f32>::try_from(trained.grad()),
        );
        self.log
            .push(format!("{:?} {:?}", value.expect("floats"), grad.expect("floats")));
        Ok(())
    }
    fn progress(&mut self, done: usize, total: usize, note: &str) -> Result<()> {
        self.log.push(format!("{done}/{total} {note}"));
        if note == "cancel" {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}

fn plan(pruner: &dyn Pruner) -> (Result<PrunePlan>, Vec<String>) {
    let mut host = Host::new();
    let plan = pruner.plan(&mut host);
    if let Ok(plan) = &plan {
        yolo_core::prune::apply(&host.graph, &host.params, &host.groups, plan).expect("it can be applied");
    }
    (plan, host.log)
}

#[test]
fn every_way_of_planning_gives_the_same_plan() {
    for mode in ["plan", "evaluate", "train", "tensor", "budget", "named"] {
        let options = json!({"mode": mode});
        let there = plan(&*far::<Box<dyn Pruner>>("everything", options.clone()).expect("a pruner"));
        let here = plan(&*near::<Box<dyn Pruner>>("everything", options));
        let (a, b) = (there.0.expect(mode), here.0.expect(mode));
        assert_eq!(a, b, "{mode}");
        assert!(!a.keep.is_empty() || mode == "train", "{mode} prunes");
        assert_eq!(there.1, here.1, "{mode}: the host was asked the same");
    }
}

#[test]
fn a_metric_may_live_anywhere() {
    // On the far side itself, lent by name through the host.
    for metric in [
        json!({"type": "peak", "power": 2.0}),
        json!("spread"),
        json!({"type": "TOP"}),
    ] {
        let far_pruner: Box<dyn Pruner> =
            far("everything", json!({"mode": "named", "metric": metric})).expect("a pruner");
        assert!(plan(&*far_pruner).0.is_ok(), "{metric}");
    }
    let far_pruner: Box<dyn Pruner> = far("everything", json!({"mode": "unknown"})).expect("a pruner");
    let error = plan(&*far_pruner).0.expect_err("no such metric").to_string();
    assert!(
        error.contains("there is no prune metric `spreadd`") && error.contains("did you mean `spread`"),
        "{error}"
    );
}

#[test]
fn the_errors_of_the_host_come_back_as_they_were() {
    let run = |mode: &str| {
        let pruner: Box<dyn Pruner> = far("everything", json!({"mode": mode})).expect("a pruner");
        plan(&*pruner).0.expect_err(mode)
    };
    assert!(matches!(run("cancel"), Error::Cancelled));
    assert!(matches!(run("impossible"), Error::Impossible(text) if text == "the budget can't be met at all"));
    let error = run("panic").to_string();
    assert!(
        error.contains("`everything` panicked: plan on purpose") && error.contains("plugins.rs:"),
        "{error}"
    );
    let error = run("nonsense").to_string();
    assert!(error.contains("no.such.group"), "{error}");
}

#[test]
fn regularisers_act_on_the_hosts_tensors() {
    let steps = |pruner: &dyn Pruner| {
        let mut host = Host::new();
        let mut regulariser = pruner.regulariser().expect("it has one");
        host.train(1, &mut *regulariser).expect("trains");
        host.log
    };
    let there = steps(&*far::<Box<dyn Pruner>>("everything", json!({})).expect("a pruner"));
    assert_eq!(there, steps(&*near::<Box<dyn Pruner>>("everything", json!({}))));
    assert!(
        there[1].contains('4') || there[1].contains("3.5") || there[1].contains('5'),
        "gradients grew: {}",
        there[1]
    );
    let none: Box<dyn Pruner> = far("everything", json!({"mode": "none"})).expect("a pruner");
    assert!(none.regulariser().is_none());
    let bad: Box<dyn Pruner> = far("everything", json!({"mode": "bad-regulariser"})).expect("a pruner");
    let mut regulariser = bad.regulariser().expect("one that fails");
    let error = Host::new()
        .train(1, &mut *regulariser)
        .expect_err("a panic")
        .to_string();
    assert!(error.contains("regulariser on purpose"), "{error}");
}
