//! What acts beside the loss acts at the right optimizer steps: infinities of f16, penalties, masks and projections of pruners, with
//! and without accumulated batches.

use serde_json::{Value, json};
use tch::{Kind, Tensor};
use yolo_builtin as _;
use yolo_core::config::Located;
use yolo_core::prune::{
    Budget, ChannelGroup, ChannelGroups, CostModel, CutRole, Evaluation, PruneHost, PruneMetric, PrunePlan, Pruner,
    Regulariser, Rounding, Scores, Side, Step as HookStep,
};
use yolo_core::{Graph, GraphBuilder, Params, nn, testing};
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Split, synth};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::{self, Meta, TrainState};
use yolo_engine::train::{
    Hook, OptimizerKind, Precision, Regularise, ScalerState, Schedule, StepOptions, StepRates, Stepper, TrainOptions,
    train,
};

const SIZE: usize = 64;
const TARGETS: [[f32; 6]; 3] = [
    [0.0, 1.0, 0.5, 0.5, 0.3, 0.4],
    [0.0, 2.0, 0.2, 0.7, 0.1, 0.1],
    [1.0, 0.0, 0.6, 0.4, 0.5, 0.2],
];

fn tiny(classes: i64) -> (Graph, Params) {
    let text = "extends: yolov5n\nscale: {depth: 0.33, width: 0.0625}\n";
    let located = Located::parse("tiny", text).expect("YAML");
    let located = yolo_core::model::resolve_extends(located, &mut |_| Ok(None)).expect("its base");
    let graph = yolo_core::model::build(&located, Some(classes)).expect("a graph");
    let params = testing::fill_params(&graph, 2.5);
    (graph, params)
}

fn options(optimizer: OptimizerKind, precision: Precision, hyp: Hyp) -> StepOptions {
    StepOptions {
        hyp,
        size: SIZE,
        optimizer,
        decay: 5e-4,
        precision,
        freeze: Vec::new(),
        freeze_norm: false,
        fuse: true,
        record: true,
    }
}

fn scaled(scale: f64) -> ScalerState {
    ScalerState {
        scale,
        ..ScalerState::default()
    }
}

fn images() -> Tensor {
    testing::input(2, 3, SIZE as i64, SIZE as i64)
}

const STEP: StepRates = StepRates {
    lr: 0.01,
    bias_lr: 0.01,
    momentum: 0.9,
    accumulate: 1,
};
const AT: HookStep = HookStep {
    step: 0,
    total: 1,
    per_epoch: 1,
};

/// A part of the loss that is far too large.
struct Infinite;

impl Hook for Infinite {
    fn extra_loss(&mut self, _images: &Tensor, maps: &[Tensor]) -> yolo_engine::Result<Option<Tensor>> {
        Ok(Some(maps[0].to_kind(Kind::Float).sum(Kind::Float) * f64::INFINITY))
    }
}

fn accumulate(stepper: &mut Stepper, hooks: &mut [&mut dyn Hook]) {
    let parts = stepper.accumulate(&images(), &TARGETS, hooks).expect("a loss");
    assert!(
        parts.isfinite().all().int64_value(&[]) == 1,
        "the loss itself is finite"
    );
}

fn copies<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<Tensor> {
    tensors.map(|tensor| tensor.detach().copy()).collect()
}

/// Weights, statistics, both moments.
fn everything(stepper: &Stepper) -> Vec<Tensor> {
    let state = stepper.optimizer.state();
    copies(stepper.params.iter().map(|(_, tensor)| tensor).chain(state.values()))
}

fn equal(a: &[Tensor], b: &[Tensor]) -> bool {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).all(|(a, b)| a.equal(b))
}

#[test]
fn an_infinity_in_f16_skips_the_step_and_nothing_else() {
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adam, OptimizerKind::AdamW] {
        let (graph, params) = tiny(3);
        let options = options(optimizer, Precision::F16, Hyp::default());
        let mut stepper = Stepper::new(&graph, &params, &options).expect("a stepper");
        // With this scale all gradients are finite at first.
        stepper.restore_scaler(scaled(1024.0)).expect("a scale");
        // Moments that are not zero.
        accumulate(&mut stepper, &mut []);
        stepper.update(&STEP, AT, &mut []).expect("a step");
        assert_eq!(stepper.optimizer.steps().expect("a number"), 1, "{optimizer:?}");

        accumulate(&mut stepper, &mut [&mut Infinite]);
        let before = everything(&stepper);
        stepper.update(&STEP, AT, &mut []).expect("a skipped step");
        assert!(
            equal(&before, &everything(&stepper)),
            "{optimizer:?}: the step was not skipped"
        );
        assert_eq!(stepper.optimizer.steps().expect("a number"), 1, "{optimizer:?}");
        let state = stepper.scaler_state().expect("a finite scale").expect("a scaler");
        let wanted = ScalerState {
            scale: 512.0,
            good_steps: 0,
            skipped: 1,
        };
        assert_eq!(state, wanted, "{optimizer:?}");

        // What is saved goes on as what was not: a step that is skipped, one that is not.
        let mut again = saved_and_loaded(&stepper, &graph, &options);
        for stepper in [&mut stepper, &mut again] {
            accumulate(stepper, &mut []);
            stepper.update(&STEP, AT, &mut []).expect("a step");
            assert_eq!(stepper.optimizer.steps().expect("a number"), 2, "{optimizer:?}");
            let state = stepper.scaler_state().expect("a finite scale").expect("a scaler");
            assert_eq!((state.scale, state.good_steps, state.skipped), (wanted.scale, 1, 1));
            accumulate(stepper, &mut [&mut Infinite]);
            stepper.update(&STEP, AT, &mut []).expect("a skipped step");
            let state = stepper.scaler_state().expect("a finite scale").expect("a scaler");
            assert_eq!(
                (state.scale, state.good_steps, state.skipped),
                (wanted.scale / 2.0, 0, 2)
            );
        }
        let after = everything(&stepper);
        assert!(
            equal(&after, &everything(&again)),
            "{optimizer:?}: a resumed training differs"
        );
        let moved = |(a, b): (&Tensor, &Tensor)| a.is_floating_point() && !a.equal(b);
        assert!(before.iter().zip(&after).filter(|pair| moved(*pair)).count() > before.len() / 2);
        assert!(after.iter().all(|tensor| tensor.isfinite().all().int64_value(&[]) == 1));
    }
}

/// The stepper of a run that ended here and goes on.
fn saved_and_loaded(stepper: &Stepper, graph: &Graph, options: &StepOptions) -> Stepper {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let state = TrainState {
        optimizer_steps: stepper.optimizer.steps().expect("a number"),
        scaler: stepper.scaler_state().expect("a finite scale"),
        ..TrainState::default()
    };
    let model = Checkpoint::new(graph.clone(), stepper.params.shallow_clone(), Meta::default());
    checkpoint::save_state(&path, &model, &stepper.ema().params, &stepper.optimizer.state(), &state).expect("a file");
    let (model, _, moments, state) = checkpoint::load_state(&path).expect("a state");
    let mut again = Stepper::new(&model.graph, &model.params, options).expect("a stepper");
    let find = |key: &str| moments.get(key).map(Tensor::shallow_clone);
    again.optimizer.restore(state.optimizer_steps, find).expect("moments");
    again.restore_scaler(state.scaler.expect("a scaler")).expect("a scale");
    again
}

fn pruner(config: Value) -> Box<dyn Pruner> {
    Located::from_value("pruner", config).read().expect("a pruner")
}

#[test]
fn a_penalty_depends_neither_on_the_scale_of_the_loss_nor_on_clipping() {
    const RATE: f64 = 1e-3;
    let (graph, params) = tiny(3);
    let groups = ChannelGroups::of(&graph).expect("groups");
    let gammas = groups.norm_weights();
    assert!(gammas.len() > 20);
    let step = StepRates {
        lr: 1.0,
        bias_lr: 1.0,
        ..STEP
    };
    // The first step of Nesterov's momentum.
    let moved = RATE * step.lr * (1.0 + step.momentum);
    let cases = [
        (Precision::Off, None, 1e-3, false),
        (Precision::Off, None, 1e3, true),
        (Precision::Bf16, None, 1e3, true),
        (Precision::F16, Some(scaled(1024.0)), 1e-3, false),
        (Precision::F16, Some(scaled(16.0)), 1e2, true),
        (Precision::F16, Some(scaled(64.0)), 1e2, true),
    ];
    for (precision, scale, gain, clipped) in cases {
        let what = format!("{precision:?} {scale:?} gain {gain}");
        let hyp = Hyp::default();
        let hyp = Hyp {
            box_gain: hyp.box_gain * gain,
            obj: hyp.obj * gain,
            cls: hyp.cls * gain,
            ..hyp
        };
        // Gammas after one step, with and without a penalty, of the same gradients.
        let after = |penalty: bool| -> Vec<Tensor> {
            let mut stepper = Stepper::new(&graph, &params, &options(OptimizerKind::Sgd, precision, hyp.clone()));
            let stepper = stepper.as_mut().expect("a stepper");
            if let Some(scale) = scale {
                stepper.restore_scaler(scale).expect("a scale");
            }
            accumulate(stepper, &mut []);
            let squares = stepper
                .optimizer
                .params()
                .map(|p| p.grad().square().sum(Kind::Double).double_value(&[]));
            let norm = squares.sum::<f64>().sqrt() / scale.map_or(1.0, |state| state.scale);
            assert_eq!(norm > 10.0, clipped, "{what}: the norm of the gradients is {norm}");
            let mut regulariser = pruner(json!({"type": "slimming", "sparse_rate": RATE})).regulariser();
            let regulariser = regulariser.as_deref_mut().expect("a penalty");
            let mut hook = Regularise {
                groups: &groups,
                regulariser,
            };
            let mut hooks: Vec<&mut dyn Hook> = Vec::new();
            if penalty {
                hooks.push(&mut hook);
            }
            stepper.update(&step, AT, &mut hooks).expect("a step");
            let state = stepper.scaler_state().expect("a finite scale");
            assert_eq!(
                state.map_or(0, |state| state.skipped),
                0,
                "{what}: the step was skipped"
            );
            gammas
                .iter()
                .map(|key| stepper.params.require(key).expect("a norm").detach().copy())
                .collect()
        };
        let (with, without) = (after(true), after(false));
        for ((with, without), key) in with.iter().zip(&without).zip(&gammas) {
            let wanted = params.require(key).expect("a norm").sign() * (-moved);
            let wrong = (with - without - wanted).abs().max().double_value(&[]);
            assert!(wrong < 1e-2 * moved, "{what}: {key} differs by {wrong}");
        }
    }
}

/// Accumulation of the schedules below.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Accumulation {
    One,
    Four,
    Ramp,
}

const ALL: [Accumulation; 3] = [Accumulation::One, Accumulation::Four, Accumulation::Ramp];

fn train_options(accumulation: Accumulation, epochs: usize) -> TrainOptions {
    let hyp = Hyp {
        warmup_epochs: if accumulation == Accumulation::Ramp { 3.0 } else { 0.0 },
        mosaic: 0.0,
        ..Hyp::default()
    };
    let mut options = TrainOptions::new(epochs, 2, SIZE, hyp);
    options.nominal_batch = if accumulation == Accumulation::One { 2 } else { 8 };
    options.val_every = epochs.max(1);
    options
}

/// Optimizer steps of a training as the loop takes them.
fn steps(options: &TrainOptions, batches: usize) -> Vec<HookStep> {
    let schedule = Schedule::of(options, batches);
    let updates = schedule.updates(batches);
    let mut last = -1;
    let mut out = Vec::new();
    for iteration in 0..options.epochs * batches {
        if iteration as i64 - last >= schedule.step(iteration, iteration / batches).accumulate as i64 {
            last = iteration as i64;
            out.push(HookStep {
                step: out.len(),
                total: updates.total,
                per_epoch: updates.per_epoch,
            });
        }
    }
    out
}

/// Notes the steps.
#[derive(Default)]
struct Recorder {
    before: Vec<HookStep>,
    after: Vec<HookStep>,
}

impl Hook for Recorder {
    fn before_step(&mut self, _params: &Params, step: HookStep) -> yolo_engine::Result<()> {
        self.before.push(step);
        Ok(())
    }
    fn after_step(&mut self, _params: &Params, step: HookStep) -> yolo_engine::Result<()> {
        self.after.push(step);
        Ok(())
    }
}

#[test]
fn hooks_hear_of_optimizer_steps_one_after_the_other_up_to_the_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = synth::Settings {
        images: 10,
        size: SIZE,
        ..synth::Settings::default()
    };
    let made = synth::write(folder.path(), &settings, &|_| {}).expect("a data set");
    let data = Dataset::open(&made.yaml).expect("readable");
    let samples = data.samples(Split::Train, Policy::Strict).expect("good").items;
    let names = data.names.clone();
    for accumulation in ALL {
        let options = train_options(accumulation, 5);
        let (graph, params) = tiny(names.len() as i64);
        let start = Checkpoint::new(
            graph,
            params,
            Meta {
                names: names.clone(),
                ..Meta::default()
            },
        );
        let loaded = LoaderOptions {
            workers: 1,
            ..LoaderOptions::train(SIZE, options.batch, options.hyp.clone(), 0)
        };
        let loader = Loader::new(samples.clone(), loaded).expect("a loader");
        let mut recorder = Recorder::default();
        train(start, &options, &loader, None, None, &mut [&mut recorder], &()).expect("a training");
        let wanted = steps(&options, loader.batches());
        assert_eq!(recorder.before, wanted, "{accumulation:?}");
        assert_eq!(recorder.after, wanted, "{accumulation:?}");
        assert_eq!(
            wanted.len(),
            wanted[0].total,
            "{accumulation:?}: the last one ends the training"
        );
        let batches = options.epochs * loader.batches();
        let few = wanted.len() == batches / 4;
        match accumulation {
            Accumulation::One => assert_eq!(wanted.len(), batches),
            Accumulation::Four => assert!(few),
            Accumulation::Ramp => assert!(!few && wanted.len() < batches),
        }
    }
}

/// A pruner's host whose trainings take the optimizer steps of a schedule and change nothing but what the pruner changes.
struct Bench {
    params: Params,
    groups: ChannelGroups,
    cost: CostModel,
    accumulation: Accumulation,
    batches: usize,
    /// For each step, what the pruner added to the gradients.
    pulls: Vec<Vec<Tensor>>,
    /// For each step, how many channels of each group are silent.
    silent: Vec<Vec<usize>>,
    steps: Vec<HookStep>,
}

impl Bench {
    fn new(accumulation: Accumulation, batches: usize) -> Self {
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        let stem = g
            .layer("Conv", &[image], |g| nn::conv(g, "conv", image.value, 16, 3, 2))
            .expect("a layer");
        let next = g
            .layer("Conv", &[stem], |g| nn::conv(g, "conv", stem.value, 32, 3, 2))
            .expect("a layer");
        let last = g
            .layer("Conv", &[next], |g| nn::conv(g, "conv", next.value, 8, 1, 1))
            .expect("a layer");
        let graph = g.finish(vec![last.value], None).expect("a graph");
        let groups = ChannelGroups::of(&graph).expect("groups");
        assert!(groups.groups.len() >= 2);
        Self {
            params: testing::fill_params(&graph, 2.5),
            cost: CostModel::of(&graph, &groups, 64).expect("a cost"),
            groups,
            accumulation,
            batches,
            pulls: Vec::new(),
            silent: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Weights that make channels.
    fn producers(&self) -> Vec<String> {
        let cuts = self.groups.groups.iter().flat_map(|group| group.cuts.iter());
        let made = cuts.filter(|cut| cut.side == Side::Producer && cut.role == CutRole::Weight);
        made.map(|cut| cut.key.clone()).collect()
    }

    fn silent(&self, group: &ChannelGroup) -> usize {
        let made = |cut: &&yolo_core::prune::Cut| cut.side == Side::Producer && cut.role == CutRole::Weight;
        let cut = group.cuts.iter().find(made).expect("a weight");
        let rows = self.params.require(&cut.key).expect("a weight").detach().abs();
        let rows = rows.reshape([group.len() as i64, -1]).amax([1].as_slice(), false);
        rows.eq(0.0).sum(Kind::Int64).int64_value(&[]) as usize
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
        Budget {
            flops: None,
            params: None,
            latency: None,
        }
    }
    fn rounding(&self) -> Rounding {
        Rounding {
            multiple: 1,
            max_ratio: 0.9,
            ..Rounding::default()
        }
    }
    fn seed(&self) -> u64 {
        0
    }
    fn scores(&mut self, _metric: &dyn PruneMetric) -> yolo_core::Result<Scores> {
        panic!("nobody asks for scores here")
    }
    fn tensor(&self, key: &str) -> yolo_core::Result<Tensor> {
        Ok(self.params.require(key)?.shallow_clone())
    }
    fn evaluate(&mut self, _plan: &PrunePlan) -> yolo_core::Result<Evaluation> {
        panic!("nobody measures here")
    }
    fn evaluate_tuned(&mut self, _plan: &PrunePlan, _steps: usize) -> yolo_core::Result<Evaluation> {
        panic!("nobody measures here")
    }
    fn train(&mut self, epochs: usize, regulariser: &mut dyn Regulariser) -> yolo_core::Result<()> {
        self.steps = steps(&train_options(self.accumulation, epochs), self.batches);
        let weights: Vec<Tensor> = self
            .producers()
            .iter()
            .map(|key| self.params.require(key).expect("a weight").set_requires_grad(true))
            .collect();
        for weight in &weights {
            weight.sum(Kind::Float).backward();
        }
        for step in self.steps.clone() {
            weights.iter().for_each(|weight| drop(weight.grad().zero_()));
            regulariser.before_step(&self.groups, &self.params, step)?;
            self.pulls
                .push(weights.iter().map(|weight| weight.grad().copy()).collect());
            regulariser.after_step(&self.groups, &self.params, step)?;
            let silent = self.groups.groups.iter().map(|group| self.silent(group)).collect();
            self.silent.push(silent);
        }
        Ok(())
    }
    fn progress(&mut self, _done: usize, _total: usize, _note: &str) -> yolo_core::Result<()> {
        Ok(())
    }
}

/// Data sets from smaller than an optimizer step to many of them.
const BATCHES: [usize; 9] = [1, 2, 3, 4, 5, 7, 10, 29, 64];

#[test]
fn gradual_masks_are_full_after_three_quarters_of_the_steps_whatever_the_size_of_the_data_set() {
    for (accumulation, batches) in ALL.into_iter().flat_map(|a| BATCHES.map(|batches| (a, batches))) {
        let mut bench = Bench::new(accumulation, batches);
        let plan = pruner(json!({"type": "gradual", "ratio": 0.5}))
            .plan(&mut bench)
            .expect("a plan");
        let what = format!("{accumulation:?}, {batches} batches, {} steps", bench.steps.len());
        let gone: Vec<usize> = bench
            .groups
            .groups
            .iter()
            .map(|group| group.len() - plan.kept(group))
            .collect();
        assert!(gone.iter().sum::<usize>() >= 20, "{what}: {gone:?}");
        assert!(!bench.steps.is_empty(), "{what}");
        let mut before = vec![0; gone.len()];
        for (step, silent) in bench.steps.iter().zip(&bench.silent) {
            let done = (step.step + 1) as f64 / step.total as f64;
            assert_eq!(
                *silent == gone,
                done >= 0.75,
                "{what}: {silent:?} of {gone:?} after {done:.2} of the training"
            );
            assert!(
                silent.iter().zip(&before).all(|(now, before)| now >= before),
                "{what}: masks only grow"
            );
            before.clone_from(silent);
        }
        if bench.steps.len() >= 80 {
            let mut stages = bench.silent.clone();
            stages.dedup();
            assert!(
                stages.len() > 4,
                "{what}: masks grow little by little, not at once: {stages:?}"
            );
        }
    }
}

#[test]
fn admm_projects_once_in_each_of_its_iterations_whatever_the_size_of_the_data_set() {
    const ITERATIONS: usize = 6;
    for (accumulation, batches) in ALL.into_iter().flat_map(|a| BATCHES.map(|batches| (a, batches))) {
        let mut bench = Bench::new(accumulation, batches);
        let admm = json!({"type": "admm", "ratio": 0.5, "iterations": ITERATIONS, "epochs": 2});
        pruner(admm).plan(&mut bench).expect("a plan");
        // The weights stay, so that the pull changes with a projection only.
        let changed = |at: usize| at == 0 || !equal(&bench.pulls[at - 1], &bench.pulls[at]);
        let total = bench.steps.len();
        let projections: Vec<usize> = (0..total).filter(|at| changed(*at)).collect();
        let what = format!("{accumulation:?}, {batches} batches, {total} steps: {projections:?}");
        assert_eq!(projections.len(), ITERATIONS.min(total), "{what}");
        // Evenly: each iteration has its share of the steps, to one.
        let lengths = projections.iter().zip(projections[1..].iter().chain([&total]));
        for (start, end) in lengths {
            assert!((end - start).abs_diff(total / projections.len()) <= 1, "{what}");
        }
    }
}
