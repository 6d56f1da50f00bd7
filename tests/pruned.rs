//! Pruned networks are ordinary ones: every published model at several ratios is trained a step, saved, reloaded and exported.

use serde_json::json;
use tch::{Kind, Tensor};
use yolo_core::config::{Located, merge};
use yolo_core::prune::{ChannelGroups, PrunePlan, Rounding, Step as HookStep, apply, select};
use yolo_core::{Graph, Mode, Params, Program, model, testing};
use yolo_data::Hyp;
use yolo_engine::checkpoint::{self, Checkpoint, Meta};
use yolo_engine::train::{OptimizerKind, Precision, StepOptions, StepRates, Stepper};
use yolo_export::checked::{self, Format, Request};
use yolo_export::ort;

use crate::explain::BLOCKS;

/// A published model or what is written on top of one, narrow and shallow where its backbone scales, with 3 classes.
fn narrow(name: &str, text: &str) -> Graph {
    let config = Located::parse(name, text).expect("YAML");
    let mut config = model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
    merge(&mut config.value, json!({"scale": {"depth": 0.33, "width": 0.125}}));
    model::build(&config, Some(3)).expect("a graph")
}

/// Random channels go: `ratio` of each group, in widths of any number.
fn random_plan(groups: &ChannelGroups, ratio: f64, seed: &str) -> PrunePlan {
    let rounding = Rounding {
        multiple: 1,
        ..Rounding::default()
    };
    let widths = select::uniform_widths(groups, ratio, rounding);
    let scores = groups
        .groups
        .iter()
        .map(|group| {
            let stream = testing::Stream::new(&format!("{seed}.{}", group.name));
            (0..group.len())
                .map(|channel| stream.unit(channel as u32) as f32)
                .collect()
        })
        .collect();
    select::top(groups, &scores, &widths)
}

fn maps(graph: &Graph, params: &Params, image: &Tensor) -> Vec<Tensor> {
    let program = Program::new(graph, params).expect("tensors fit");
    tch::no_grad(|| program.run(image, Mode::Eval)).expect("maps")
}

/// One step of SGD on two noise images with three boxes; returns what it made of the tensors.
fn one_step(graph: &Graph, params: &Params, image: &Tensor, size: usize) -> Params {
    let hyp = Hyp::default();
    let mut stepper = Stepper::new(
        graph,
        params,
        &StepOptions {
            hyp: hyp.clone(),
            size,
            optimizer: OptimizerKind::Sgd,
            decay: hyp.weight_decay,
            precision: Precision::Off,
            freeze: Vec::new(),
            freeze_norm: false,
            fuse: true,
            record: false,
        },
    )
    .expect("a stepper");
    let targets = [
        [0.0, 1.0, 0.5, 0.5, 0.4, 0.3],
        [0.0, 0.0, 0.2, 0.7, 0.1, 0.2],
        [1.0, 2.0, 0.6, 0.4, 0.7, 0.8],
    ];
    let losses = stepper.accumulate(image, &targets, &mut []).expect("a loss");
    assert!(f64::try_from(losses.sum(Kind::Double)).expect("a number").is_finite());
    let rates = StepRates {
        lr: 1e-4,
        bias_lr: 1e-4,
        momentum: 0.9,
        accumulate: 1,
    };
    let at = HookStep {
        step: 0,
        total: 1,
        per_epoch: 1,
    };
    stepper.update(&rates, at, &mut []).expect("a step");
    stepper.params.deep_clone()
}

/// Largest difference of all maps.
fn apart(a: &[Tensor], b: &[Tensor]) -> f64 {
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs().max().double_value(&[]));
    each.fold(0.0, f64::max)
}

#[test]
fn every_model_works_at_every_ratio() {
    let engine = ort::available();
    if let Err(reason) = &engine {
        crate::support::skip::skipped("onnxruntime", reason);
    }
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in model::published().iter().copied().chain(BLOCKS) {
        let graph = narrow(name, text);
        let params = testing::fill_params(&graph, 2.0);
        let groups = ChannelGroups::of(&graph).expect("groups");
        let stride = graph.strides().expect("strides").into_iter().max().expect("a stride");
        let mut before = graph.param_count();
        for ratio in [0.25, 0.5, 0.75] {
            let what = format!("{name} at {ratio}");
            let plan = random_plan(&groups, ratio, &what);
            let (smaller, cut) = apply(&graph, &params, &groups, &plan).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(
                smaller.param_count() < before,
                "{what}: {} parameters",
                smaller.param_count()
            );
            before = smaller.param_count();
            let image = testing::input(2, 3, 2 * stride, 2 * stride);
            let trained = one_step(&smaller, &cut, &image, 2 * stride as usize);
            let expected = maps(&smaller, &trained, &image);
            assert!(
                apart(&expected, &maps(&smaller, &cut, &image)) > 0.0,
                "{what}: the step changes nothing"
            );
            let finite = |map: &Tensor| map.isfinite().all().int64_value(&[]) == 1;
            assert!(expected.iter().all(finite), "{what}: values are not finite");
            let path = dir.path().join("pruned.safetensors");
            checkpoint::save(
                &path,
                &Checkpoint::new(smaller, trained.shallow_clone(), Meta::default()),
            )
            .expect("a file");
            let again = checkpoint::load(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (key, tensor) in trained.iter() {
                let same = again.params.get(key).is_some_and(|loaded| loaded.equal(tensor));
                assert!(same, "{what}: `{key}` is another after loading");
            }
            // Tensors at another place in memory may be summed in another order.
            let largest = expected
                .iter()
                .map(|map| map.abs().max().double_value(&[]))
                .fold(1.0, f64::max);
            let reloaded = apart(&expected, &maps(&again.graph, &again.params, &image));
            assert!(
                reloaded < 1e-5 * largest,
                "{what}: reloaded, the maps are {reloaded} apart"
            );
            let request = Request {
                threads: 1,
                ..Request::new(Format::Onnx, [stride, 2 * stride])
            };
            // The file is run and held against the network.
            let path = dir.path().join("pruned.onnx");
            let written =
                checked::write(&again.graph, &again.params, &request, &path).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(
                written.difference.is_some(),
                engine.is_ok(),
                "{what}: {:?}",
                written.unchecked
            );
        }
    }
}
