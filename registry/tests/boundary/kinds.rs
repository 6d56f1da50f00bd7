//! Each kind, near and far: the same graphs, values, gradients, scores and files.

use serde_json::{Value, json};
use tch::{Kind, Tensor};
use yolo_core::distil::{DistilBatch, HeadWeights, Layout, Level, NetworkMaps, checked_loss};
use yolo_core::graph::CustomOp;
use yolo_core::plugin::BlockRequest;
use yolo_core::prune::GroupTensors;
use yolo_core::quant::{Ranges, TensorRange};
use yolo_core::{
    Backbone, Distiller, Graph, GraphBuilder, Mode, NeckBlock, Op, Params, Program, PruneMetric, Quantizer, Scale,
    testing,
};

use crate::{PLUGIN, far, near};

fn network(backbone: &dyn Backbone, block: &dyn NeckBlock) -> Graph {
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    // Something before, so that layers and names are renumbered.
    let first = g
        .layer("Conv", &[image], |g| yolo_core::nn::conv(g, "cv", image.value, 3, 1, 1))
        .expect("a layer");
    let maps = backbone
        .build(&mut g, first, Scale { depth: 1.0, width: 0.5 })
        .expect("a backbone");
    let last = maps.0[2];
    let request = BlockRequest {
        channels: 24,
        repeats: 1,
        shortcut: false,
    };
    let joined = g
        .layer(block.layer_name(), &[last, last], |g| {
            block.build(g, &[last, last], request)
        })
        .expect("a block");
    g.finish(vec![maps.0[0].value, joined.value], None).expect("a graph")
}

/// The graph as JSON, with ops of libraries written as if they were linked.
fn comparable(graph: &Graph) -> Value {
    let mut json = serde_json::to_value(graph).expect("JSON");
    for node in json["nodes"].as_array_mut().expect("nodes") {
        if node["op"]["custom"]["type"] == "@dynamic" {
            let custom = node["op"]["custom"].clone();
            assert_eq!(custom["plugin"], PLUGIN);
            let mut plain = json!({"type": custom["name"]});
            for (option, value) in custom["options"].as_object().expect("options") {
                plain[option] = value.clone();
            }
            node["op"]["custom"] = plain;
        }
    }
    json
}

#[test]
fn backbones_and_blocks_build_the_same_graph() {
    let options = json!({"channels": 8});
    let (a, b) = (
        far::<Box<dyn Backbone>>("steps", options.clone()),
        far::<Box<dyn NeckBlock>>("join", json!({"kernel": 1})),
    );
    let (a, b) = (a.expect("a backbone"), b.expect("a block"));
    assert_eq!((b.layer_name(), b.arity().min, b.arity().max), ("Join", 2, 2));
    let there = network(&*a, &*b);
    let here = network(
        &*near::<Box<dyn Backbone>>("steps", options),
        &*near::<Box<dyn NeckBlock>>("join", json!({"kernel": 1})),
    );
    assert_eq!(comparable(&there), comparable(&here));
    assert!(
        there.nodes.iter().any(|node| node.name == "model.1.cv1.conv"),
        "renumbered: {}",
        there.nodes[3].name
    );
    assert!(
        there.nodes.iter().any(|node| node.name == "model.11.m.cv1.conv"),
        "in its scope"
    );
    assert_eq!(there.param_count(), here.param_count());

    // A checkpoint is the graph as JSON: the ops of the library are found again.
    let again: Graph = serde_json::from_str(&serde_json::to_string(&there).expect("JSON")).expect("a graph");
    let params = testing::fill_params(&there, 1.0);
    let image = testing::input(2, 3, 64, 64);
    let run = |graph: &Graph| {
        Program::new(graph, &params)
            .expect("fits")
            .run(&image, Mode::Eval)
            .expect("runs")
    };
    let (x, y, z) = (run(&here), run(&there), run(&again));
    for at in 0..2 {
        assert_eq!(x[at], y[at], "to the last bit");
        assert_eq!(x[at], z[at]);
    }
}

#[test]
fn gradients_cross() {
    let options = json!({"channels": 3, "factor": 0.7});
    let ops: [Box<dyn CustomOp>; 2] = [far("gain", options.clone()).expect("an op"), near("gain", options)];
    let grads: Vec<(Tensor, Tensor)> = ops
        .iter()
        .map(|op| {
            let x = testing::input(2, 3, 5, 4).set_requires_grad(true);
            let weight = Tensor::from_slice(&[0.5f32, 2.0, -1.0])
                .reshape([1, 3, 1, 1])
                .set_requires_grad(true);
            let hidden = &x * 2.0;
            let y = op.forward(&[&hidden], &[&weight], true).expect("a forward");
            y.square().sum(Kind::Float).backward();
            assert!(
                !tch::no_grad(|| op.forward(&[&hidden], &[&weight], false))
                    .expect("a forward")
                    .requires_grad()
            );
            (x.grad(), weight.grad())
        })
        .collect();
    assert!(grads[0].0.abs().sum(Kind::Float).double_value(&[]) > 1.0);
    assert_eq!(grads[0], grads[1]);
    assert_eq!(ops[0].params(), ops[1].params());
    assert_eq!(ops[0].name(), "gain");
    assert_eq!(ops[0].macs(&[&[1, 3, 4, 4]], &[1, 3, 4, 4]), 48);
    assert_eq!(ops[0].shape(&[&[1, 3, 4, 4]]).expect("a shape"), [1, 3, 4, 4]);
    let error = ops[0].shape(&[&[1, 5, 4, 4]]).expect_err("another width").to_string();
    assert!(error.contains("gain takes 3 channels"), "{error}");

    // Its form in primitive ops computes the same, with the tensors under the same keys.
    let lowered: Vec<Value> = ops
        .iter()
        .map(|op| {
            let mut g = GraphBuilder::new(3);
            let value = g.scope("model.0", |g| {
                op.lower(g, &[yolo_core::ValueId::IMAGE]).expect("it has one")
            });
            let graph = g.finish(vec![value.expect("lowered")], None).expect("a graph");
            assert_eq!(graph.param_specs()[0].key, "model.0.weight");
            serde_json::to_value(graph).expect("JSON")
        })
        .collect();
    assert_eq!(lowered[0], lowered[1]);
}

#[test]
fn metrics_give_the_same_scores() {
    let group = GroupTensors {
        name: "model.3".into(),
        index: (1, 4),
        channels: 6,
        weights: vec![testing::input(1, 1, 6, 45).reshape([6, 45]) - 0.5],
        gammas: vec![Tensor::from_slice(&[1f32, -2.0, 0.0, 1e-30, 3.0, 0.5])],
        ..GroupTensors::default()
    };
    let there: Box<dyn PruneMetric> = far("peak", json!({"power": 1.25})).expect("a metric");
    let here: Box<dyn PruneMetric> = near("peak", json!({"power": 1.25}));
    assert_eq!(there.needs(), here.needs());
    assert_eq!(
        there.score(&group).expect("scores"),
        here.score(&group).expect("scores")
    );
    let json = serde_json::to_value(&there).expect("JSON");
    assert_eq!(
        json,
        json!({"type": "@dynamic", "plugin": PLUGIN, "name": "peak", "options": {"power": 1.25}})
    );
    let again: Box<dyn PruneMetric> = serde_json::from_value(json).expect("itself");
    assert_eq!(
        again.score(&group).expect("scores"),
        here.score(&group).expect("scores")
    );
}

/// What images say crosses as it is, each part where it belongs.
#[test]
fn metrics_see_images_there_too() {
    let numbers = |at: i64, count: i64| {
        testing::input(1, 1, 1, at + count)
            .reshape([at + count])
            .narrow(0, at, count)
    };
    let rows = |at: i64| numbers(at, 12).reshape([4, 3]);
    let group = GroupTensors {
        name: "model.3".into(),
        index: (1, 4),
        channels: 4,
        weights: vec![rows(0)],
        weight_grads: vec![rows(3)],
        weight_squares: vec![rows(5)],
        gamma_squares: vec![numbers(7, 4)],
        activations: vec![numbers(9, 4), numbers(11, 4)],
        ..GroupTensors::default()
    };
    let options = json!({"images": true});
    let there: Box<dyn PruneMetric> = far("peak", options.clone()).expect("a metric");
    let here: Box<dyn PruneMetric> = near("peak", options);
    assert!(there.needs().grad_square && there.needs().activation);
    assert_eq!(there.needs(), here.needs());
    let scores = here.score(&group).expect("scores");
    assert_eq!(there.score(&group).expect("scores"), scores);
    let plain: Box<dyn PruneMetric> = near("peak", json!({}));
    assert_ne!(plain.score(&group).expect("scores"), scores);
}

#[test]
fn quantizers_place_and_write_the_same() {
    let there: Box<dyn Quantizer> = far("ranges", json!({"bits": 5})).expect("a quantizer");
    let here: Box<dyn Quantizer> = near("ranges", json!({"bits": 5}));
    assert_eq!(there.backend(), here.backend());
    let graph = network(
        &*near::<Box<dyn Backbone>>("steps", json!({})),
        &*near::<Box<dyn NeckBlock>>("join", json!({})),
    );
    let convs: Vec<_> = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Conv2d { .. }))
        .collect();
    let chosen = |quantizer: &dyn Quantizer| -> Vec<bool> {
        graph
            .nodes
            .iter()
            .map(|node| quantizer.quantizes(node).expect("an answer"))
            .collect()
    };
    let conv_choices: Vec<bool> = convs
        .iter()
        .map(|node| there.quantizes(node).expect("an answer"))
        .collect();
    assert!(
        conv_choices.contains(&true) && conv_choices.contains(&false),
        "it has a say"
    );
    assert_eq!(
        chosen(&*there).iter().filter(|yes| **yes).count(),
        conv_choices.iter().filter(|yes| **yes).count()
    );
    let ranges = Ranges {
        activations: vec![TensorRange {
            tensor: "model.0.act".into(),
            spec: here.backend().activation.spec(),
            scales: vec![0.1 + 0.2, 1.0 / 3.0, 1e-300],
            zero_points: vec![-0.0],
            extremes: Some((-1.0 / 7.0, f64::from(f32::MAX))),
        }],
        ..Ranges::default()
    };
    let files = there.artifacts("net", &ranges).expect("files");
    assert_eq!(
        files,
        here.artifacts("net", &ranges).expect("files"),
        "numbers arrive to the last bit"
    );
    assert_eq!(files[0].name, "net.ranges");
}

/// The op of a network on the far side trains like the near one.
#[test]
fn a_far_network_takes_training_steps() {
    let losses: Vec<f64> = [true, false]
        .into_iter()
        .map(|is_far| {
            let backbone: Box<dyn Backbone> = if is_far {
                far("steps", json!({})).expect("a backbone")
            } else {
                near("steps", json!({}))
            };
            let graph = network(&*backbone, &*near::<Box<dyn NeckBlock>>("join", json!({})));
            let params = Params::init(&graph, 3);
            let trained: Vec<Tensor> = graph
                .param_specs()
                .iter()
                .filter(|spec| spec.role.trainable())
                .map(|spec| params.get(&spec.key).expect("there").set_requires_grad(true))
                .collect();
            let program = Program::new(&graph, &params).expect("fits");
            let image = testing::input(2, 3, 64, 64);
            let mut loss = 0.0;
            for _ in 0..3 {
                let y = &program.run(&image, Mode::Train).expect("runs")[1];
                let value = (y - 1.0).square().mean(Kind::Float);
                value.backward();
                loss = value.double_value(&[]);
                tch::no_grad(|| {
                    for tensor in &trained {
                        let mut grad = tensor.grad();
                        if grad.defined() {
                            let _ = tensor.shallow_clone().f_sub_(&(&grad * 0.05)).expect("a step");
                            let _ = grad.zero_();
                        }
                    }
                });
            }
            loss
        })
        .collect();
    assert_eq!(losses[0], losses[1]);
    assert!(losses[0] < 1.1, "{losses:?}");
}

fn head(widths: [i64; 2]) -> Layout {
    let level = |(stride, channels): (i64, i64)| Level {
        stride,
        channels,
        anchors: vec![[10.0, 13.5]],
    };
    Layout {
        classes: 2,
        levels: [8, 16].into_iter().zip(widths).map(level).collect(),
    }
}

/// The parts of a distiller's loss with the gradients of the student's maps and of the adapters.
fn compared(distiller: &dyn Distiller) -> yolo_core::Result<Vec<Tensor>> {
    let (student, teacher) = (head([4, 6]), head([4, 9]));
    let maps = |layout: &Layout, offset: f64, leaves: bool| {
        let map = |channels: i64, level: usize| {
            let side = 8 >> level;
            (testing::input(2, channels, side, side) * (1.0 + level as f64) - offset).set_requires_grad(leaves)
        };
        let levels = layout.levels.iter().enumerate();
        NetworkMaps {
            raw: (0..2).map(|level| map(7, level)).collect(),
            neck: levels.map(|(at, level)| map(level.channels, at)).collect(),
        }
    };
    let adapters: Params = distiller
        .adapters(&student, &teacher)?
        .iter()
        .map(|spec| {
            (
                spec.key.clone(),
                yolo_core::params::init_tensor(spec, 2).set_requires_grad(true),
            )
        })
        .collect();
    assert_eq!(adapters.len(), 1, "one level differs in its width");
    let weights = teacher.levels.iter().map(|level| HeadWeights {
        weight: testing::input(1, 7, 1, level.channels).reshape([7, level.channels, 1, 1]),
        bias: testing::input(1, 1, 1, 7).reshape([7]),
    });
    let needs = distiller.needs();
    let batch = DistilBatch {
        student_layout: &student,
        teacher_layout: &teacher,
        student: maps(&student, 0.5, true),
        teacher: maps(&teacher, 0.2, false),
        teacher_head: if needs.head { weights.collect() } else { Vec::new() },
        adapters: &adapters,
    };
    let parts = checked_loss("mimic", distiller, &batch)?;
    parts.sum(Kind::Float).backward();
    let leaves = batch
        .student
        .raw
        .iter()
        .chain(&batch.student.neck)
        .chain(adapters.iter().map(|(_, tensor)| tensor));
    let mut out: Vec<Tensor> = leaves.map(Tensor::grad).collect();
    assert!(
        out.iter()
            .all(|grad| grad.defined() && grad.abs().max().double_value(&[]) > 0.0)
    );
    out.push(parts.detach());
    Ok(out)
}

#[test]
fn distillers_compare_the_same_and_teach_the_same() {
    for options in [json!({}), json!({"wrong": "headless"})] {
        let there: Box<dyn Distiller> = far("mimic", options.clone()).expect("a distiller");
        let here: Box<dyn Distiller> = near("mimic", options);
        assert_eq!((there.needs(), there.parts()), (here.needs(), here.parts()));
        let (a, b) = (compared(&*there).expect("losses"), compared(&*here).expect("losses"));
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(&b).all(|(a, b)| a.equal(b)), "to the last bit");
    }
}

#[test]
fn distillers_that_misbehave_are_told_from_those_that_don_t() {
    let made = |wrong: &str| far::<Box<dyn Distiller>>("mimic", json!({"wrong": wrong}));
    let text = made("names").expect_err("names for the log");
    assert!(text.contains("no usable names") && !text.contains('\u{1b}'), "{text}");
    for (wrong, words) in [
        ("adapters", "its adapter"),
        ("refuses", "2 classes are too many"),
        ("panic", "loss on purpose"),
        ("short", "2 losses for its 3 parts"),
    ] {
        let distiller = made(wrong).expect("a distiller");
        let text = compared(&*distiller).expect_err(wrong).to_string();
        assert!(text.contains(words), "{wrong}: {text}");
    }
}
