//! Pickled modules are what is computed: every setting is used or refused by name, in every wrapping, also fused, in both containers.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/python.rs"]
mod python;

use std::path::PathBuf;

use python::{LIST, Py, act, batch_norm, checkpoint, conv2d, dict, fuse, ints, legacy, module, network, text};
use yolo_builtin as _;
use yolo_core::config::Located;
use yolo_core::graph::Activation;
use yolo_core::{Graph, Mode, Op, Program};
use yolo_engine::checkpoint::{self, Checkpoint};
use yolo_engine::pt::{self, PtModel, Source};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, value: &Py) -> PathBuf {
        let path = self.0.path().join(name);
        python::save(&path, value);
        path
    }
}

fn read(value: &Py) -> yolo_engine::Result<PtModel> {
    let place = Place::new();
    pt::read(&place.file("model.pt", value))
}

fn graph(value: &Py) -> Result<(Graph, Vec<String>), String> {
    let model = read(value).map_err(|error| error.to_string())?;
    let graph = model.graph("model.pt".as_ref()).map_err(|error| error.to_string())?;
    Ok(graph.unwrap())
}

fn adopted(value: &Py) -> Checkpoint {
    let place = Place::new();
    let path = place.file("model.pt", value);
    let source = pt::read(&path).unwrap();
    let (graph, _) = source.graph(&path).unwrap().unwrap();
    checkpoint::adopt(&path, &source, graph, 64).unwrap().0
}

/// Raw maps on a fixed image.
fn maps(model: &Checkpoint) -> Vec<tch::Tensor> {
    let image = yolo_core::testing::input(1, 3, 64, 96);
    let program = Program::new(&model.graph, &model.params).unwrap();
    tch::no_grad(|| program.run(&image, Mode::Eval).unwrap())
}

fn worst(a: &[tch::Tensor], b: &[tch::Tensor]) -> f64 {
    let difference = |(a, b): (&tch::Tensor, &tch::Tensor)| (a - b).abs().max().double_value(&[]);
    a.iter().zip(b).map(difference).fold(0.0, f64::max)
}

fn op(graph: &Graph, name: &str) -> Op {
    graph
        .nodes
        .iter()
        .find(|node| node.name == name)
        .map(|node| node.op.clone())
        .unwrap()
}

#[test]
fn the_modules_of_a_layer_list_are_its_network() {
    let list = Located::parse("list.yaml", LIST).unwrap();
    let wanted = yolo_core::model::build(&list, None).unwrap();
    let (graph, notes) = graph(&checkpoint(network())).unwrap();
    assert_eq!(
        serde_json::to_value(&graph).unwrap(),
        serde_json::to_value(&wanted).unwrap()
    );
    assert!(notes.is_empty(), "{notes:?}");
    let Some(path) = common::shared("data/weights/yolov5n.pt") else {
        return;
    };
    let source = pt::read(&path).unwrap();
    let (graph, notes) = source.graph(&path).unwrap().unwrap();
    let list = Located::from_value("yolov5n.pt", source.yaml.unwrap());
    let wanted = yolo_core::model::build(&list, Some(80)).unwrap();
    assert_eq!(
        serde_json::to_value(&graph.nodes).unwrap(),
        serde_json::to_value(&wanted.nodes).unwrap()
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn activations_are_those_of_the_modules() {
    let float = |name, value| vec![(name, Py::Float(value))];
    for (class, attributes, wanted) in [
        ("ReLU", vec![("inplace", Py::Bool(true))], Activation::Relu),
        ("LeakyReLU", float("negative_slope", 0.1), Activation::LeakyRelu(0.1)),
        ("LeakyReLU", float("negative_slope", 0.25), Activation::LeakyRelu(0.25)),
        ("Hardswish", vec![], Activation::Hardswish),
        ("Hardsigmoid", vec![], Activation::Hardsigmoid),
        ("GELU", vec![("approximate", text("none"))], Activation::Gelu),
        ("GELU", vec![], Activation::Gelu),
        ("Tanh", vec![], Activation::Tanh),
        ("Sigmoid", vec![], Activation::Sigmoid),
        (
            "ReLU6",
            vec![("min_val", Py::Float(0.0)), ("max_val", Py::Float(6.0))],
            Activation::Relu6,
        ),
        (
            "Hardtanh",
            vec![("min_val", Py::Int(0)), ("max_val", Py::Int(6))],
            Activation::Relu6,
        ),
    ] {
        // One of many: nothing is taken from the neighbours.
        let mut net = network();
        net.module("model.3").at("_modules").set("act", act(class, attributes));
        let (graph, _) = graph(&checkpoint(net)).unwrap();
        assert_eq!(
            format!("{:?}", op(&graph, "model.3.act")),
            format!("{:?}", Op::Act { act: wanted })
        );
        assert!(matches!(op(&graph, "model.4.act"), Op::Act { act: Activation::Silu }));
    }
    // No activation at all.
    let mut net = network();
    let nothing = module("torch.nn.modules.linear.Identity", vec![], vec![], vec![]);
    net.module("model.3").at("_modules").set("act", nothing);
    let (graph, _) = graph(&checkpoint(net)).unwrap();
    assert!(graph.nodes.iter().all(|node| node.name != "model.3.act"));
    assert_eq!(graph.nodes[graph.layers[3].output.index()].name, "model.3.bn");
}

#[test]
fn the_activation_survives_in_our_own_file() {
    let mut net = network();
    net.each(&mut |class, m| {
        if class == "models.common.Conv" {
            m.at("_modules")
                .set("act", act("LeakyReLU", vec![("negative_slope", Py::Float(0.1))]));
        }
    });
    let model = adopted(&checkpoint(net));
    assert!(
        worst(&maps(&model), &maps(&adopted(&checkpoint(network())))) > 1e-3,
        "another network"
    );
    let place = Place::new();
    let path = place.0.path().join("own.safetensors");
    checkpoint::save(&path, &model).unwrap();
    assert_eq!(worst(&maps(&checkpoint::load(&path).unwrap()), &maps(&model)), 0.0);
}

#[test]
fn settings_of_modules_are_used() {
    type Edit = fn(&mut Py);
    type Check = fn(&Graph) -> bool;
    let cases: [(&str, Edit, Check); 14] = [
        (
            "bilinear",
            |m| m.module("model.7").set("mode", text("bilinear")),
            |g| matches!(op(g, "model.7"), Op::Bilinear { scale: 2 }),
        ),
        (
            "factor as a pair",
            |m| {
                m.module("model.7")
                    .set("scale_factor", Py::Tuple(vec![Py::Float(2.0), Py::Int(2)]));
            },
            |g| matches!(op(g, "model.7"), Op::Upsample { scale: 2 }),
        ),
        (
            "eps",
            |m| m.module("model.1.bn").set("eps", Py::Float(0.1)),
            |g| {
                matches!(op(g, "model.1.bn"), Op::BatchNorm { eps, .. } if eps == 0.1)
                    && matches!(op(g, "model.0.bn"), Op::BatchNorm { eps, .. } if eps == 1e-3)
            },
        ),
        (
            "momentum",
            |m| m.module("model.1.bn").set("momentum", Py::Float(0.1)),
            |g| matches!(op(g, "model.1.bn"), Op::BatchNorm { momentum, .. } if momentum == 0.1),
        ),
        (
            "no shortcut",
            |m| m.module("model.2.m.0").set("add", Py::Bool(false)),
            |g| {
                g.nodes.iter().all(|n| n.name != "model.2.m.0.add")
                    && g.nodes.iter().any(|n| n.name == "model.2.m.1.add")
            },
        ),
        (
            "pool",
            |m| {
                m.module("model.5.m").set("kernel_size", ints(&[3, 3]));
                m.module("model.5.m").set("padding", Py::Int(1));
            },
            |g| {
                matches!(
                    op(g, "model.5.m.2"),
                    Op::MaxPool {
                        kernel: 3,
                        stride: 1,
                        padding: 1
                    }
                )
            },
        ),
        (
            "rounding up without effect",
            |m| m.module("model.5.m").set("ceil_mode", Py::Bool(true)),
            |g| matches!(op(g, "model.5.m.0"), Op::MaxPool { kernel: 5, .. }),
        ),
        (
            "dilation",
            |m| {
                m.module("model.3.conv").set("dilation", ints(&[2, 2]));
                m.module("model.3.conv").set("padding", ints(&[2, 2]));
            },
            |g| {
                matches!(
                    op(g, "model.3.conv"),
                    Op::Conv2d {
                        dilation: [2, 2],
                        padding: [2, 2],
                        ..
                    }
                )
            },
        ),
        (
            "padding by name",
            |m| m.module("model.2.m.0.cv2.conv").set("padding", text("same")),
            |g| matches!(op(g, "model.2.m.0.cv2.conv"), Op::Conv2d { padding: [1, 1], .. }),
        ),
        (
            "other layers",
            |m| m.module("model.8").set("f", Py::List(vec![Py::Int(3), Py::Int(-1)])),
            |g| g.layers[8].from == [Some(3), Some(7)],
        ),
        (
            "an axis from the end",
            |m| m.module("model.8").set("d", Py::Int(-3)),
            |g| matches!(op(g, "model.8"), Op::Concat { dim: 1 }),
        ),
        (
            "anchors",
            |m| {
                let anchors = m.module("model.10").at("_buffers").at("anchors");
                let Py::Tensor { values, .. } = anchors else { panic!() };
                values[0] = 2.0;
            },
            |g| g.head.as_ref().unwrap().anchors[0][0] == [16.0, 13.0],
        ),
        (
            "one bottleneck less",
            |m| drop(m.module("model.2.m").at("_modules").take("1")),
            |g| g.nodes.iter().all(|n| !n.name.starts_with("model.2.m.1")),
        ),
        (
            "synchronised norms",
            |m| {
                m.module("model.1.bn")
                    .reclass("torch.nn.modules.batchnorm.SyncBatchNorm");
            },
            |g| matches!(op(g, "model.1.bn"), Op::BatchNorm { .. }),
        ),
    ];
    for (name, edit, check) in cases {
        let mut net = network();
        edit(&mut net);
        let (graph, _) = graph(&checkpoint(net)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(check(&graph), "{name}");
    }
}

#[test]
fn what_can_not_be_expressed_is_refused_by_the_name_of_its_module() {
    type Edit = fn(&mut Py);
    let cases: [(Edit, &[&str]); 24] = [
        (
            |m| m.module("model.3").at("_modules").set("act", act("Mish", vec![])),
            &["`model.3.act`", "Mish"],
        ),
        (
            |m| m.module("model.2.cv1").at("_modules").set("act", act("ELU", vec![])),
            &["`model.2.cv1.act`", "ELU"],
        ),
        (
            |m| {
                m.module("model.3")
                    .at("_modules")
                    .set("act", act("LeakyReLU", vec![("negative_slope", Py::Float(1.5))]))
            },
            &["`model.3.act`", "slope", "1.5"],
        ),
        (
            |m| {
                m.module("model.3")
                    .at("_modules")
                    .set("act", act("GELU", vec![("approximate", text("tanh"))]))
            },
            &["`model.3.act`", "tanh"],
        ),
        (
            |m| {
                m.module("model.3")
                    .at("_modules")
                    .set("act", module("utils.activations.FReLU", vec![], vec![], vec![]))
            },
            &["`model.3.act`", "FReLU"],
        ),
        (
            |m| m.module("model.7").set("mode", text("bicubic")),
            &["`model.7`", "bicubic"],
        ),
        (
            |m| {
                m.module("model.7").set("mode", text("bilinear"));
                m.module("model.7").set("align_corners", Py::Bool(true));
            },
            &["`model.7`", "align_corners"],
        ),
        (
            |m| m.module("model.7").set("size", ints(&[8, 8])),
            &["`model.7`", "size"],
        ),
        (
            |m| m.module("model.7").set("scale_factor", Py::Float(1.5)),
            &["`model.7`", "1.5"],
        ),
        (
            |m| m.module("model.3.conv").set("padding_mode", text("reflect")),
            &["`model.3.conv`", "reflect"],
        ),
        (
            |m| m.module("model.3.bn").set("track_running_stats", Py::Bool(false)),
            &["`model.3.bn`", "track_running_stats"],
        ),
        (
            |m| m.module("model.3.bn").set("eps", text("small")),
            &["`model.3.bn`", "`eps`", "small"],
        ),
        (
            |m| {
                m.module("model.5.m").set("stride", Py::Int(2));
                m.module("model.5.m").set("ceil_mode", Py::Bool(true));
            },
            &["`model.5.m`", "ceil_mode"],
        ),
        (
            |m| m.module("model.8").set("f", Py::List(vec![Py::Int(-1), Py::Int(12)])),
            &["`model.8`", "12"],
        ),
        (|m| drop(m.module("model.8").take("f")), &["`model.8`", "`f`"]),
        (|m| m.module("model.10").set("nc", Py::Int(3)), &["`model.10`", "`no`"]),
        (
            |m| {
                m.module("model.10").set(
                    "stride",
                    Py::Tensor {
                        values: vec![8.0, 32.0],
                        shape: vec![2],
                        half: false,
                    },
                )
            },
            &["`model.10`", "strides"],
        ),
        (
            |m| {
                m.module("model.3").at("_modules").set(
                    "drop",
                    module("torch.nn.modules.dropout.Dropout2d", vec![], vec![], vec![]),
                )
            },
            &["`model.3`", "`drop`"],
        ),
        (
            |m| {
                let gamma = Py::Tensor {
                    values: vec![1.0],
                    shape: vec![1],
                    half: false,
                };
                m.module("model.2").at("_parameters").set("gamma", gamma);
            },
            &["`model.2`", "`gamma`"],
        ),
        (
            |m| {
                let conv = m.module("model.3.conv");
                let weight = conv.at("_parameters").take("weight");
                conv.at("_parameters").set("weight_orig", weight);
            },
            &["`model.3.conv`", "weight_orig", "prune.remove"],
        ),
        (
            |m| {
                m.module("model.3")
                    .at("_forward_hooks")
                    .set("1", Py::Call("mine", "Hook", vec![]))
            },
            &["`model.3`", "forward_hooks"],
        ),
        (
            |m| m.module("model.3").set("forward", Py::Call("mine", "Forward", vec![])),
            &["`model.3`", "`forward`"],
        ),
        (
            |m| m.module("model.2").reclass("models.common.C9"),
            &["models.common.C9", "`model.2`"],
        ),
        (
            |m| drop(m.module("model.3").at("_modules").take("bn")),
            &["`model.3`", "no batch norm"],
        ),
    ];
    for (edit, words) in cases {
        let mut net = network();
        edit(&mut net);
        let error = graph(&checkpoint(net)).unwrap_err();
        for word in words.iter().chain(&["model.pt"]) {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
    }
}

#[test]
fn an_attribute_of_changed_code_is_said() {
    let mut net = network();
    net.module("model.2").set("alpha", Py::Float(0.5));
    net.module("model.3").set("beta", Py::Int(1));
    let (_, notes) = graph(&checkpoint(net)).unwrap();
    assert!(
        notes.len() == 1 && notes[0].contains("`model.2` (C3) has `alpha`") && notes[0].contains("1 more"),
        "{notes:?}"
    );
}

#[test]
fn a_fused_checkpoint_computes_what_the_open_one_does() {
    let open = adopted(&checkpoint(network()));
    let mut net = network();
    fuse(&mut net);
    let (fused, notes) = graph(&checkpoint(net.clone())).unwrap();
    assert!(fused.nodes.iter().all(|node| !matches!(node.op, Op::BatchNorm { .. })));
    assert!(notes.len() == 1 && notes[0].contains("fuse()"), "{notes:?}");
    let fused = adopted(&checkpoint(net));
    let difference = worst(&maps(&open), &maps(&fused));
    assert!(difference < 1e-4, "{difference:e}");
    assert!(checkpoint::is_folded(
        &open.params,
        fused.params.iter().map(|(key, _)| key)
    ));
    assert!(!checkpoint::is_folded(
        &open.params,
        open.params.iter().map(|(key, _)| key)
    ));
    // Saved by a program that left no replaced forward behind.
    let mut bare = network();
    fuse(&mut bare);
    bare.each(&mut |class, m| {
        if class == "models.common.Conv" {
            m.take("forward");
        }
    });
    assert_eq!(worst(&maps(&fused), &maps(&adopted(&checkpoint(bare)))), 0.0);
}

#[test]
fn the_network_is_found_in_every_wrapping() {
    let wrapped = |class: &str, child: &str| module(class, vec![], vec![], vec![(child.to_owned(), network())]);
    let ddp = wrapped("torch.nn.parallel.distributed.DistributedDataParallel", "module");
    let compiled = module(
        "torch._dynamo.eval_frame.OptimizedModule",
        vec![],
        vec![],
        vec![("_orig_mod".into(), ddp.clone())],
    );
    let average = Py::Object(
        "utils.torch_utils.ModelEMA".into(),
        vec![(text("ema"), network()), (text("updates"), Py::Int(9))],
    );
    let wanted = maps(&adopted(&checkpoint(network())));
    for (name, value, source) in [
        ("ddp", checkpoint(ddp), Source::Model),
        (
            "dp",
            checkpoint(wrapped("torch.nn.parallel.data_parallel.DataParallel", "module")),
            Source::Model,
        ),
        ("compiled", checkpoint(compiled), Source::Model),
        ("bare", network(), Source::Model),
        (
            "ema only",
            dict(vec![("model", Py::None), ("ema", network())]),
            Source::Ema,
        ),
        (
            "ema pair",
            dict(vec![("ema", Py::Tuple(vec![network(), Py::Int(7)]))]),
            Source::Ema,
        ),
        (
            "ema object",
            dict(vec![("model", Py::None), ("ema", average)]),
            Source::Ema,
        ),
    ] {
        let model = read(&value).unwrap();
        assert_eq!((model.source, model.names.len()), (source, 2), "{name}");
        assert_eq!(worst(&maps(&adopted(&value)), &wanted), 0.0, "{name}");
    }
}

/// Averaged weights as a plain dict beside the module of the trained ones: they are taken, or it is said why not.
#[test]
fn an_average_without_modules_is_taken() {
    let scaled = |factor: f32| {
        let mut net = network();
        let Py::Tensor { values, .. } = net.module("model.0.conv").at("_parameters").at("weight") else {
            panic!()
        };
        values.iter_mut().for_each(|value| *value *= factor);
        net
    };
    let wanted = maps(&adopted(&checkpoint(scaled(0.5))));
    for (key, prefix) in [("ema", ""), ("ema_state_dict", "module."), ("model_ema", "")] {
        let value = dict(vec![
            ("model", network()),
            (key, Py::Ordered(scaled(0.5).state_dict(prefix))),
        ]);
        let model = read(&value).unwrap();
        assert_eq!(model.source, Source::Ema, "{key}");
        assert!(
            model
                .notes
                .iter()
                .any(|note| note.contains(&format!("`{key}`, are taken"))),
            "{:?}",
            model.notes
        );
        assert_eq!(worst(&maps(&adopted(&value)), &wanted), 0.0, "{key}");
    }
    let mut part = network().state_dict("");
    part.retain(|(name, _)| *name != text("model.0.conv.weight"));
    let value = dict(vec![("model", network()), ("ema", Py::Ordered(part))]);
    let model = read(&value).unwrap();
    assert_eq!(model.source, Source::Model);
    assert!(
        model
            .notes
            .iter()
            .any(|note| note.contains("`model.0.conv.weight`") && note.contains("left out")),
        "{:?}",
        model.notes
    );
    assert_eq!(
        worst(&maps(&adopted(&value)), &maps(&adopted(&checkpoint(network())))),
        0.0
    );
}

#[test]
fn tensors_of_a_state_dict_get_their_plain_names() {
    let state = |prefix: &str| Py::Ordered(network().state_dict(prefix));
    let optimizer = || dict(vec![("state", dict(vec![])), ("lr", Py::Float(0.01))]);
    for (name, value) in [
        ("plain", state("")),
        ("ddp", state("module.")),
        ("compiled ddp", state("_orig_mod.module.")),
        ("inner", state("model.")),
        (
            "nested",
            dict(vec![("state_dict", state("module.")), ("epoch", Py::Int(3))]),
        ),
        (
            "trainer",
            dict(vec![
                ("model_state_dict", state("net.")),
                ("optimizer_state_dict", optimizer()),
            ]),
        ),
        (
            "own key",
            dict(vec![("detector", state("")), ("optimizer", optimizer())]),
        ),
    ] {
        let model = read(&value).unwrap();
        assert_eq!(model.source, Source::StateDict, "{name}");
        assert!(
            model.tree.is_none() && model.state.contains_key("model.0.conv.weight"),
            "{name}"
        );
        assert_eq!(model.state.len(), network().state_dict("").len(), "{name}");
    }
    let several = dict(vec![("student", state("")), ("teacher", state(""))]);
    let error = read(&several).unwrap_err().to_string();
    assert!(error.contains("student, teacher"), "{error}");
    // Of two that have usual names one is taken, and which one is said.
    let two = dict(vec![("model_state_dict", state("")), ("ema_state_dict", state(""))]);
    let model = read(&two).unwrap();
    assert_eq!(model.state.len(), network().state_dict("").len());
    assert!(
        model.notes.len() == 1 && model.notes[0].contains("`ema_state_dict` is taken, `model_state_dict` is not"),
        "{:?}",
        model.notes
    );
    // Names of classes beside it.
    let names = |names: Py| read(&dict(vec![("state_dict", state("")), ("names", names)])).unwrap();
    let model = names(Py::List(vec![text("cell"), text("gap")]));
    assert_eq!((model.names.join(" ").as_str(), model.notes.len()), ("cell gap", 0));
    let model = names(dict(vec![("cell", Py::Int(0))]));
    assert!(
        model.names.is_empty() && model.notes.len() == 1 && model.notes[0].contains("`names`"),
        "{:?}",
        model.notes
    );
    // What is no tensor is said.
    let mut odd = network().state_dict("");
    odd.push((text("loss.weight"), Py::Int(3)));
    let model = read(&Py::Ordered(odd)).unwrap();
    assert!(
        model.notes.len() == 1 && model.notes[0].contains("`loss.weight`"),
        "{:?}",
        model.notes
    );
}

#[test]
fn files_of_pytorch_before_1_6_are_read_and_cuts_are_found() {
    let place = Place::new();
    let bytes = legacy(&checkpoint(network()));
    let path = place.0.path().join("old.PT");
    std::fs::write(&path, &bytes).unwrap();
    assert!(pt::is_checkpoint(&path));
    let (old, new) = (pt::read(&path).unwrap(), read(&checkpoint(network())).unwrap());
    assert_eq!(old.state, new.state);
    assert_eq!(old.tree, new.tree);
    for keep in [20, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        let error = pt::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("damaged or cut off") && error.contains("old.PT"),
            "{keep}: {error}"
        );
    }
}

#[test]
fn a_checkpoint_is_known_by_its_content_or_its_ending() {
    let place = Place::new();
    for name in ["w.pth", "w.PT", "w.ckpt", "weights", "w.safetensors.bak"] {
        assert!(pt::is_checkpoint(&place.file(name, &checkpoint(network()))), "{name}");
    }
    let other = place.0.path().join("w.bak");
    std::fs::write(&other, b"notes").unwrap();
    assert!(!pt::is_checkpoint(&other));
    assert!(pt::is_checkpoint("nowhere.Pth".as_ref()));
}

#[test]
fn values_that_are_not_finite_are_refused_where_they_are_read_and_written() {
    let broken = |value: f32, half: bool| {
        let mut net = network();
        let bn = net.module("model.4.bn").at("_buffers");
        let Py::Tensor { values, half: kind, .. } = bn.at("running_var") else {
            panic!()
        };
        values[3] = value;
        *kind = half;
        net
    };
    for (net, name) in [
        (checkpoint(broken(f32::NAN, false)), "NaN"),
        (checkpoint(broken(f32::INFINITY, true)), "infinity in f16"),
        (
            Py::Ordered(broken(f32::NEG_INFINITY, false).state_dict("module.")),
            "state dict",
        ),
    ] {
        let error = read(&net).unwrap_err().to_string();
        assert!(
            error.contains("`model.4.bn.running_var`") && error.contains("not finite"),
            "{name}: {error}"
        );
    }
    let place = Place::new();
    let path = place.0.path().join("own.safetensors");
    let mut model = adopted(&checkpoint(network()));
    checkpoint::save(&path, &model).unwrap();
    let before = std::fs::read(&path).unwrap();
    model.params.insert(
        "model.4.bn.running_var",
        tch::Tensor::full([16], f64::NAN, tch::kind::FLOAT_CPU),
    );
    let error = checkpoint::save(&path, &model).unwrap_err().to_string();
    assert!(error.contains("`model.4.bn.running_var`"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "the file that was there stays");
}

#[test]
fn class_names_are_taken_as_they_are_written() {
    let named = |names: Py| {
        let mut net = network();
        net.set("names", names);
        read(&checkpoint(net))
    };
    let pairs = |pairs: &[(Py, &str)]| Py::Dict(pairs.iter().map(|(k, v)| (k.clone(), text(v))).collect());
    for (names, wanted, notes) in [
        (
            Py::Tuple(vec![text("红细胞"), text("🩸 cell")]),
            ["红细胞", "🩸 cell"],
            0,
        ),
        (Py::List(vec![Py::Int(2146), text("b")]), ["2146", "b"], 0),
        (Py::List(vec![text("a"), Py::Bool(false)]), ["a", "False"], 0),
        (pairs(&[(Py::Int(1), "b"), (Py::Int(0), "a")]), ["a", "b"], 0),
        (pairs(&[(Py::Int(1), "a"), (Py::Int(2), "b")]), ["a", "b"], 1),
        (pairs(&[(text("0"), "a"), (text("1"), "b")]), ["a", "b"], 0),
        (pairs(&[(Py::Int(1), "b")]), ["class 0", "b"], 1),
        (Py::List(vec![text("a"), text("b"), text("c")]), ["a", "b"], 1),
    ] {
        let model = named(names).unwrap();
        assert_eq!(
            (model.names.as_slice(), model.notes.len()),
            (&wanted.map(str::to_owned)[..], notes),
            "{:?}",
            model.notes
        );
    }
    for (names, word) in [
        (pairs(&[(text("cell"), "0")]), "`cell`"),
        (Py::List(vec![text("a"), Py::List(vec![text("b")])]), "names[1]"),
        (text("cell"), "neither a list"),
    ] {
        let error = named(names).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("class names"), "{error}");
    }
}

#[test]
fn plain_layers_of_pytorch_are_layers_of_a_model() {
    let mut net = network();
    // `nn.Conv2d`, `nn.BatchNorm2d` and a `Sequential` in place of a `Conv`.
    let parts = vec![
        ("0".into(), conv2d(8, 16, 3, 2, 1, false)),
        ("1".into(), batch_norm(16)),
    ];
    let mut plain = module("torch.nn.modules.container.Sequential", vec![], vec![], parts);
    plain.set("i", Py::Int(3));
    plain.set("f", Py::Int(-1));
    net.module("model").at("_modules").set("3", plain);
    let (graph, _) = graph(&checkpoint(net)).unwrap();
    assert!(matches!(op(&graph, "model.3.0"), Op::Conv2d { stride: [2, 2], .. }));
    assert!(matches!(op(&graph, "model.3.1"), Op::BatchNorm { .. }));
}

#[test]
fn arguments_of_a_layer_list_are_used_or_refused_with_their_line() {
    let build = |from: &str, to: &str| {
        assert!(LIST.contains(from), "{from}");
        let list = Located::parse("list.yaml", &LIST.replacen(from, to, 1)).unwrap();
        yolo_core::model::build(&list, None).map_err(|error| error.to_string())
    };
    let plain = "[None, 2, 'nearest']";
    assert!(matches!(
        op(&build(plain, "[None, 2, 'bilinear']").unwrap(), "model.7"),
        Op::Bilinear { scale: 2 }
    ));
    let same = build(plain, "[None, 2, 'bilinear', False]").unwrap();
    assert!(matches!(op(&same, "model.7"), Op::Bilinear { scale: 2 }));
    // v7.0 has a dilation before the activation.
    let linear = build("Conv, [8, 3, 2]", "Conv, [8, 3, 2, None, 1, 1, False]").unwrap();
    assert!(linear.nodes.iter().all(|node| node.name != "model.1.act"));
    let leaky = build("nc: 2", "nc: 2\nactivation: nn.LeakyReLU(0.1)").unwrap();
    let all = leaky
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Act { .. }))
        .collect::<Vec<_>>();
    let act = Activation::LeakyRelu(0.1);
    assert!(
        all.len() > 10
            && all
                .iter()
                .all(|node| matches!(node.op, Op::Act { act: own } if own == act))
    );
    for (from, to, words) in [
        (plain, "[None, 2, 'bicubic']", "bicubic"),
        (plain, "[None, 2, 'bilinear', True]", "argument 4 is true"),
        (plain, "[[8, 8], 2, 'nearest']", "argument 1 is [8,8]"),
        ("Concat, [1]", "Concat, [1, 2]", "argument 2 (`2`) has no meaning"),
        (
            "Conv, [8, 3, 2]",
            "Conv, [8, 3, 2, None, 1, 2, True]",
            "argument 6 is 2",
        ),
        (
            "Conv, [8, 3, 2]",
            "Conv, [8, 3, 2, None, 1, 1, True, 9]",
            "argument 8 (`9`)",
        ),
        ("nc: 2", "nc: 2\nactivation: nn.Mish()", "no activation `Mish`"),
    ] {
        let error = build(from, to).unwrap_err();
        assert!(
            error.contains(words) && error.starts_with("list.yaml:"),
            "{to}: {error}"
        );
    }
}

#[test]
fn models_of_other_families_are_named() {
    type Edit = fn(&mut Py);
    let cases: [(Edit, &[&str]); 4] = [
        (
            |m| m.module("model.10").reclass("models.yolo.IDetect"),
            &["`model.10`", "`models.yolo.IDetect`", "another family"],
        ),
        (
            |m| m.module("model.10").reclass("models.yolo.Segment"),
            &["`model.10`", "`models.yolo.Segment`", "another family"],
        ),
        (
            |m| m.reclass("models.yolo.SegmentationModel"),
            &["`models.yolo.SegmentationModel`", "segmentation", "another family"],
        ),
        (
            |m| m.reclass("ultralytics.nn.tasks.DetectionModel"),
            &["`ultralytics.nn.tasks.DetectionModel`", "YOLOv8", "another family"],
        ),
    ];
    for (edit, words) in cases {
        let mut net = network();
        edit(&mut net);
        let error = graph(&checkpoint(net)).unwrap_err();
        for word in words.iter().chain(&["model.pt"]) {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
        assert!(!error.contains("one is expected"), "{error}");
    }
}

#[test]
fn integers_are_no_weights() {
    let place = Place::new();
    let path = place.file("model.pt", &checkpoint(network()));
    let mut source = pt::read(&path).unwrap();
    let (graph, _) = source.graph(&path).unwrap().unwrap();
    let model = checkpoint::adopt(&path, &source, graph.clone(), 64).unwrap().0;
    let key = "model.0.conv.weight";
    let raw = &mut source.state[key];
    raw.bytes = vec![7; raw.numel()];
    raw.dtype = safetensors::Dtype::U8;
    let error = checkpoint::adopt(&path, &source, graph, 64).unwrap_err().to_string();
    assert!(
        error.contains("model.pt") && error.contains(key) && error.contains("integers (Uint8)"),
        "{error}"
    );
    // The same in a file of ours.
    let mut model = model;
    let codes = model.params.get(key).unwrap().to_kind(tch::Kind::Int8);
    model.params.insert(key.to_owned(), codes);
    let path = place.0.path().join("model.safetensors");
    checkpoint::save(&path, &model).unwrap();
    let error = checkpoint::load(&path).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors") && error.contains(key) && error.contains("integers (Int8)"),
        "{error}"
    );
}

#[test]
fn anchors_of_our_file_are_those_of_its_graph() {
    let place = Place::new();
    let path = place.0.path().join("model.safetensors");
    let mut model = adopted(&checkpoint(network()));
    let head = model.graph.head.clone().unwrap();
    let (key, cells) = (head.anchors_key(), head.anchors_in_cells());
    // Rounding is no difference.
    model.params.insert(key.clone(), cells.to_kind(tch::Kind::Half));
    checkpoint::save(&path, &model).unwrap();
    let back = checkpoint::load(&path).unwrap();
    assert_eq!(back.graph.head.unwrap().anchors, head.anchors);
    assert_eq!(back.params.get(&key), Some(&cells));
    for (wrong, words) in [(&cells * 1.01, "other anchors"), (cells.unsqueeze(0), "shape")] {
        model.params.insert(key.clone(), wrong);
        checkpoint::save(&path, &model).unwrap();
        let error = checkpoint::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("model.safetensors") && error.contains(&key) && error.contains(words),
            "{error}"
        );
    }
}
