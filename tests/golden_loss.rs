//! Loss, gradients and optimizer against the reference in double precision (tests/fixtures/loss.json).
//!
//! The network runs in double precision, too, so that 1e-4 tests the formulas and not the rounding; one more run in single
//! precision is held against the same numbers.

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use yolo_core::{Graph, Mode, Params, Program, testing};
use yolo_engine::loss::{Loss, LossOptions};
use yolo_engine::train::{BIASES, Optimizer, OptimizerKind};

use crate::support::fixture;

/// Relative error that the issue allows.
const TOLERANCE: f64 = 1e-4;

fn graph() -> Graph {
    let (name, text) = yolo_core::model::find("yolov5n").expect("yolov5n");
    let config = yolo_core::config::Located::parse(&format!("{name}.yaml"), text).expect("YAML");
    let config = yolo_core::model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
    yolo_core::model::build(&config, Some(10)).expect("a graph")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn targets(golden: &Value) -> Vec<[f32; 6]> {
    let rows = golden["targets"].as_array().expect("rows");
    rows.iter()
        .map(|row| std::array::from_fn(|i| number(&row[i]) as f32))
        .collect()
}

/// Gains of the fixture: they are scaled for levels, classes and size already.
fn options(hyp: &Value) -> LossOptions {
    LossOptions {
        box_gain: number(&hyp["box"]),
        obj_gain: number(&hyp["obj"]),
        cls_gain: number(&hyp["cls"]),
        obj_pw: number(&hyp["obj_pw"]),
        cls_pw: number(&hyp["cls_pw"]),
        anchor_t: number(&hyp["anchor_t"]),
        fl_gamma: number(&hyp["fl_gamma"]),
        label_smoothing: number(&hyp["label_smoothing"]),
    }
}

#[track_caller]
fn close(got: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = number(expected);
    let error = (got - expected).abs() / expected.abs().max(1e-12);
    assert!(
        error <= tolerance,
        "{what}: {got} instead of {expected}, relative error {error:.2e}"
    );
}

/// A network that trains, as the reference made it.
struct Network {
    graph: Graph,
    params: Params,
    program: Program,
    images: Tensor,
    kind: Kind,
}

impl Network {
    fn new(kind: Kind) -> Self {
        // Tests run beside each other.
        tch::set_num_threads(1);
        let graph = graph();
        let roles: std::collections::HashMap<String, bool> = graph
            .param_specs()
            .into_iter()
            .map(|spec| (spec.key, spec.role.trainable()))
            .collect();
        let params: Params = testing::fill_params(&graph, 2.5)
            .to(Device::Cpu, kind)
            .iter()
            .map(|(key, tensor)| {
                let trains = roles.get(key).copied().unwrap_or(false);
                (key.to_owned(), tensor.copy().set_requires_grad(trains))
            })
            .collect();
        let program = Program::new(&graph, &params).expect("a program");
        Self {
            program,
            params,
            images: testing::input(2, 3, 320, 320).to_kind(kind),
            graph,
            kind,
        }
    }

    fn loss(&self, options: &LossOptions) -> Loss {
        Loss::new(self.graph.head.as_ref().expect("a head"), options.clone())
    }

    fn grad(&self, key: &str) -> Tensor {
        self.params.get(key).expect("a parameter").grad()
    }

    fn grad_norm(&self) -> f64 {
        let squares = self.params.iter().filter(|(_, t)| t.requires_grad()).map(|(_, t)| {
            t.grad()
                .to_kind(Kind::Double)
                .square()
                .sum(None::<Kind>)
                .double_value(&[])
        });
        squares.sum::<f64>().sqrt()
    }
}

/// What may be off in a number of a step: 1e-4; in single precision, where the steps themselves blow rounding up, also ten times
/// the error of the reference's own single precision, if that is more.
fn tolerance(step: &Value, key: &str, kind: Kind) -> f64 {
    match kind {
        Kind::Double => TOLERANCE,
        _ => TOLERANCE.max(10.0 * number(&step["single"][key])),
    }
}

/// Loss parts, gradients and four steps of one hyper-parameter file.
fn check_steps(name: &str, kind: Kind) {
    let golden = fixture("loss.json");
    let (case, targets) = (&golden[name], targets(&golden));
    let hyp = &case["hyp"];
    let network = Network::new(kind);
    let loss = network.loss(&options(hyp));
    let [lr, momentum, decay] = ["lr0", "momentum", "weight_decay"].map(|key| number(&hyp[key]));
    let mut optimizer = Optimizer::new(
        OptimizerKind::Sgd,
        &network.graph,
        &network.params,
        lr,
        momentum,
        decay,
        &|_| false,
    )
    .expect("an optimizer");
    let sizes: Vec<u64> = optimizer.groups.iter().map(|group| group.len() as u64).collect();
    let expected: Vec<u64> = case["groups"]
        .as_array()
        .expect("sizes")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(sizes, expected, "{name}: norms, weights, biases");
    assert!(optimizer.groups[BIASES].keys().all(|key| key.ends_with("bias")));

    for (index, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
        let at = |what: &str| format!("{name} {kind:?}, step {index}: {what}");
        let maps = network.program.run(&network.images, Mode::Train).expect("maps");
        let value = loss.compute(&maps, &targets).expect("a loss");
        value.total.backward();
        let parts = Vec::<f64>::try_from(value.parts.to_kind(Kind::Double)).expect("parts");
        let total = value.total.to_kind(Kind::Double).double_value(&[]);
        let numbers = [total, parts[0], parts[1], parts[2], network.grad_norm()];
        for (got, key) in numbers.into_iter().zip(["total", "lbox", "lobj", "lcls", "grad_norm"]) {
            close(got, &step[key], tolerance(step, key, kind), &at(key));
        }
        if index == 0 {
            check_gradients(&network, case, name);
        }
        optimizer.step(None).expect("a step");
        optimizer.zero_grad().expect("gradients");
        if index == 0 {
            check_parameters(&network, case, name);
        }
    }
}

fn check_gradients(network: &Network, case: &Value, name: &str) {
    let norms = case["grad_l2"].as_object().expect("norms");
    assert_eq!(norms.len(), 15);
    for (key, expected) in norms {
        let stats = testing::stats(&network.grad(key), 8).expect("statistics");
        close(stats.l2, expected, TOLERANCE, &format!("{name}: gradient of {key}"));
        for (got, expected) in stats
            .samples
            .iter()
            .zip(case["grad_val"][key].as_array().expect("values"))
        {
            // Single elements are compared with the size of the tensor's elements: some are almost zero.
            let error = (got - number(expected)).abs() / stats.std.max(1e-12);
            assert!(
                error <= 10.0 * TOLERANCE,
                "{name}: gradient of {key}: {got} instead of {expected}"
            );
        }
    }
}

fn check_parameters(network: &Network, case: &Value, name: &str) {
    for (key, expected) in case["param_l2"].as_object().expect("norms") {
        let stats = testing::stats(network.params.get(key).expect("a parameter"), 8).expect("statistics");
        close(stats.l2, expected, TOLERANCE, &format!("{name}: {key} after a step"));
        let error = (stats.mean - number(&case["param_mean"][key])).abs() / stats.std.max(1e-12);
        assert!(error <= TOLERANCE, "{name}: mean of {key} after a step");
    }
    for (key, golden) in [("running_mean", "running_mean_l2"), ("running_var", "running_var_l2")] {
        let tensor = network
            .params
            .get(&format!("model.0.bn.{key}"))
            .expect("statistics of a norm");
        close(
            testing::stats(tensor, 8).expect("statistics").l2,
            &case[golden],
            TOLERANCE,
            key,
        );
    }
    assert_eq!(
        network.params.get("model.0.conv.weight").map(Tensor::kind),
        Some(network.kind)
    );
}

#[test]
fn four_steps_with_the_scratch_hyper_parameters_equal_the_reference() {
    check_steps("scratch", Kind::Double);
}

#[test]
fn four_steps_with_the_visdrone_hyper_parameters_equal_the_reference() {
    check_steps("visdrone", Kind::Double);
}

#[test]
fn single_precision_is_as_close_to_double_as_the_reference_is() {
    check_steps("scratch", Kind::Float);
    check_steps("visdrone", Kind::Float);
}

#[test]
fn label_smoothing_focal_loss_and_no_labels_equal_the_reference() {
    let golden = fixture("loss.json");
    let all = targets(&golden);
    let network = Network::new(Kind::Double);
    let maps = tch::no_grad(|| network.program.run(&network.images, Mode::Train).expect("maps"));
    let base = options(&golden["scratch"]["hyp"]);
    for (name, options, targets) in [
        (
            "label_smoothing_0.1",
            LossOptions {
                label_smoothing: 0.1,
                ..base.clone()
            },
            &all[..],
        ),
        (
            "fl_gamma_1.5",
            LossOptions {
                fl_gamma: 1.5,
                ..base.clone()
            },
            &all[..],
        ),
        ("no_targets", base.clone(), &[]),
    ] {
        let expected = &golden["variants"][name];
        let value = network.loss(&options).compute(&maps, targets).expect("a loss");
        close(value.total.double_value(&[]), &expected["total"], TOLERANCE, name);
        let parts = Vec::<f64>::try_from(value.parts).expect("parts");
        for (part, expected) in parts.iter().zip(expected["items"].as_array().expect("items")) {
            if number(expected) == 0.0 {
                assert_eq!(*part, 0.0, "{name}");
            } else {
                close(*part, expected, TOLERANCE, name);
            }
        }
    }
}

#[test]
fn labels_meet_the_anchors_of_the_reference() {
    let golden = fixture("loss.json");
    let graph = graph();
    for name in ["scratch", "visdrone"] {
        let loss = Loss::new(graph.head.as_ref().expect("a head"), options(&golden[name]["hyp"]));
        for (level, expected) in golden[name]["targets"].as_array().expect("levels").iter().enumerate() {
            let side = [40, 20, 10][level];
            let found = loss.level_targets(level, &targets(&golden), side, side);
            let list = |key: &str| -> Vec<i64> {
                expected[key]
                    .as_array()
                    .expect("numbers")
                    .iter()
                    .map(|v| number(v) as i64)
                    .collect()
            };
            let (b, a, gj, gi) = (list("b"), list("a"), list("gj"), list("gi"));
            let cells: Vec<i64> = (0..b.len())
                .map(|i| ((b[i] * side + gj[i]) * side + gi[i]) * 3 + a[i])
                .collect();
            assert_eq!(found.cells, cells, "{name}, level {level}");
            assert_eq!(found.classes, list("cls"), "{name}, level {level}");
            for (got, expected) in found.boxes.iter().zip(expected["tbox"].as_array().expect("boxes")) {
                for (got, expected) in got.iter().zip(expected.as_array().expect("a box")) {
                    // A label in cells has up to 6 digits; single precision keeps 7.
                    assert!(
                        (f64::from(*got) - number(expected)).abs() < 1e-4,
                        "{name}, level {level}"
                    );
                }
            }
        }
    }
}
