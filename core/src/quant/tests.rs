//! Quantized networks as a whole: their layers, single ones in float, reconstruction.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::*;
use crate::graph::Activation;
use crate::{Graph, GraphBuilder, Mode, Op, Params, Program, ValueId, testing};

#[derive(Debug, Serialize, Deserialize)]
struct Plain(BackendSpec);

#[typetag::serde(name = "plain-of-tests")]
impl Quantizer for Plain {
    fn backend(&self) -> BackendSpec {
        self.0.clone()
    }
}

/// Quantizers at inputs, weights of few bits.
fn at_inputs(bits: u32) -> BackendSpec {
    BackendSpec {
        weight: Scheme {
            bits,
            per_channel: true,
            ..Scheme::INT8
        },
        placement: Placement::inputs_of(&["conv2d", "add"]),
        ..BackendSpec::default()
    }
}

/// Every op between two quantizers.
fn on_integers() -> BackendSpec {
    BackendSpec {
        activation: Scheme {
            symmetric: false,
            ..Scheme::INT8
        },
        placement: Placement {
            before_activations: true,
            moved_is_quantized: true,
            ..Placement::inputs_of(&["conv2d", "add", "mul"]).and_outputs_of(&["conv2d", "add", "mul"])
        },
        integer_ops: true,
        ..BackendSpec::default()
    }
}

/// Three convolutions with SiLU, the second around a sum.
fn network() -> (Graph, Params) {
    let mut g = GraphBuilder::new(3);
    let silu = Op::Act { act: Activation::Silu };
    let conv = |g: &mut GraphBuilder, name: &str, x, cin, cout, act: bool| {
        let y = g
            .add(name, Op::conv(cin, cout, 3, 1, 1, 1, true), &[x])
            .expect("a node");
        if act {
            g.add(&format!("{name}.act"), silu.clone(), &[y]).expect("a node")
        } else {
            y
        }
    };
    let a = conv(&mut g, "m.a", ValueId::IMAGE, 3, 12, true);
    let b = conv(&mut g, "m.b", a, 12, 12, true);
    let sum = g.add("m.sum", Op::Add, &[a, b]).expect("a node");
    let out = conv(&mut g, "head", sum, 12, 6, false);
    let graph = g.finish(vec![out], None).expect("a graph");
    let params = testing::fill_params(&graph, 2.5);
    (graph, params)
}

fn run(graph: &Graph, params: &Params, images: &Tensor) -> Tensor {
    let program = Program::new(graph, params).expect("tensors fit");
    tch::no_grad(|| program.run(images, Mode::Eval))
        .expect("a forward")
        .remove(0)
}

fn calibrated(backend: BackendSpec, refinement: Refinement) -> Calibrated {
    let (graph, params) = network();
    let quantizer = Plain(backend);
    let images = testing::input(4, 3, 24, 24);
    let mut calibration = Calibration::refined(&quantizer, &graph, &params, refinement).expect("a calibration");
    calibration.see(&images).expect("a forward");
    calibration
        .finish_on(&images, &mut |_, _| Ok(()))
        .expect("a quantized network")
}

fn names(layers: &[QuantLayer]) -> Vec<&str> {
    layers.iter().map(|layer| layer.name.as_str()).collect()
}

fn quantizers(graph: &Graph) -> usize {
    let weight = |op: &Op| {
        matches!(
            op,
            Op::Conv2d {
                weight_quant: Some(_),
                ..
            }
        )
    };
    let is = |op: &Op| matches!(op, Op::FakeQuant { .. }) || weight(op);
    graph.nodes.iter().filter(|node| is(&node.op)).count()
}

#[test]
fn a_convolution_and_its_activation_are_one_layer() {
    for backend in [at_inputs(8), on_integers()] {
        let made = calibrated(backend, Refinement::default());
        assert_eq!(names(&layers(&made.graph)), ["m.a", "m.b", "m.sum", "head"]);
    }
}

#[test]
fn names_mean_layers_and_what_is_below_them() {
    let made = calibrated(at_inputs(8), Refinement::default());
    let all = layers(&made.graph);
    let means = |names: &[&str]| named(&all, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(means(&["head", "m"]).expect("layers"), ["m.a", "m.b", "m.sum", "head"]);
    assert_eq!(means(&["m.b", "m.b"]).expect("layers"), ["m.b"]);
    let error = means(&["hed"]).expect_err("no such layer").to_string();
    assert!(error.contains("`hed`") && error.contains("`head`"), "{error}");
}

/// With all layers in float nothing is quantized and the network is the float one; with one, its error is less and others keep theirs.
#[test]
fn layers_go_back_to_float() {
    let (graph, params) = network();
    let images = testing::input(2, 3, 24, 24);
    let wanted = run(&graph, &params, &images);
    let apart = |graph: &Graph, params: &Params| {
        (run(graph, params, &images) - &wanted)
            .abs()
            .mean(Kind::Double)
            .double_value(&[])
    };
    // Reconstruction changes weights and biases: what is in float has its own again.
    let refined = Refinement {
        bias_correction: true,
        rounding: Rounding::AdaRound,
        ..Refinement::default()
    };
    for (backend, refinement) in [
        (at_inputs(6), Refinement::default()),
        (on_integers(), Refinement::default()),
        (at_inputs(6), refined),
        (on_integers(), refined),
    ] {
        let made = calibrated(backend, refinement);
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            in_float(&made.graph, &made.params, &made.float, &names).expect("a network")
        };
        let (float, tensors) = of(&["m.a", "m.b", "m.sum", "head"]);
        assert_eq!(quantizers(&float), 0);
        assert_eq!(tensors.len(), made.float.len(), "no tensor is left over");
        assert!(apart(&float, &tensors) < 1e-6, "{}", apart(&float, &tensors));
        let (one, tensors) = of(&["m.b"]);
        assert!(quantizers(&one) < quantizers(&made.graph) && quantizers(&one) > 0);
        let (all, one_less) = (apart(&made.graph, &made.params), apart(&one, &tensors));
        assert!(
            one_less > 1e-6 && (refinement == refined || one_less < all),
            "{one_less} {all}"
        );
        assert!(tensors.get("m.b.weight_quant.scale").is_none() && tensors.get("m.a.weight_quant.scale").is_some());
        let again = in_float(&one, &tensors, &made.float, &["m.b".to_owned()]);
        assert!(again.is_err(), "it is no quantized layer any more");
    }
}

/// Each refinement brings the network nearer to the float one, on images that it has not seen, and both together most.
#[test]
fn reconstruction_brings_a_network_nearer_to_its_float_form() {
    let (graph, params) = network();
    let unseen = testing::input(6, 3, 24, 24).flip([3]).narrow(0, 4, 2);
    let wanted = run(&graph, &params, &unseen);
    let error = |bias_correction, rounding| {
        let made = calibrated(
            at_inputs(4),
            Refinement {
                bias_correction,
                rounding,
                ..Refinement::default()
            },
        );
        (run(&made.graph, &made.params, &unseen) - &wanted)
            .square()
            .mean(Kind::Double)
            .double_value(&[])
    };
    let plain = error(false, Rounding::Nearest);
    let corrected = error(true, Rounding::Nearest);
    let rounded = error(false, Rounding::AdaRound);
    let both = error(true, Rounding::AdaRound);
    println!("{plain} {corrected} {rounded} {both}");
    assert!(corrected < 0.95 * plain && rounded < 0.7 * plain && both < corrected && both < 1.02 * rounded);
}

/// On the images that it was made on, a corrected layer has the mean of its float form in every channel.
#[test]
fn corrected_results_have_the_mean_of_the_float_ones() {
    let (graph, params) = network();
    let images = testing::input(4, 3, 24, 24);
    let mean = |graph: &Graph, params: &Params| {
        run(graph, params, &images).mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double)
    };
    let wanted = mean(&graph, &params);
    let off = |bias_correction| {
        let refinement = Refinement {
            bias_correction,
            ..Refinement::default()
        };
        let made = calibrated(at_inputs(4), refinement);
        (mean(&made.graph, &made.params) - &wanted)
            .abs()
            .max()
            .double_value(&[])
    };
    assert!(off(true) < 1e-6 && off(false) > 1e-3, "{} {}", off(true), off(false));
}

/// Ranges that are far too wide are found to be so by the results of what reads them.
#[test]
fn ranges_are_fitted_to_the_results_of_their_readers() {
    let (graph, params) = network();
    let images = testing::input(4, 3, 24, 24);
    let wanted = run(&graph, &params, &images);
    for symmetric in [true, false] {
        let mut backend = at_inputs(8);
        backend.activation = Scheme {
            bits: 4,
            symmetric,
            observer: Observer::MinMax,
            ..Scheme::INT8
        };
        let error = |fit_ranges| {
            let refinement = Refinement {
                fit_ranges,
                ..Refinement::default()
            };
            let made = calibrated(backend.clone(), refinement);
            (run(&made.graph, &made.params, &images) - &wanted)
                .square()
                .mean(Kind::Double)
                .double_value(&[])
        };
        let [plain, fitted] = [false, true].map(error);
        println!("{symmetric}: {plain} {fitted}");
        assert!(fitted < 0.9 * plain, "{symmetric}: {fitted} {plain}");
    }
}

#[test]
fn what_a_grid_can_t_do_is_refused() {
    let (graph, params) = network();
    let refinement = Refinement {
        rounding: Rounding::AdaRound,
        ..Refinement::default()
    };
    let mut backend = at_inputs(8);
    backend.weight.method = Method::PowerOfTwo;
    let error = Calibration::refined(&Plain(backend), &graph, &params, refinement).expect_err("no linear grid");
    assert!(error.to_string().contains("PowerOfTwo"), "{error}");
    let refinement = Refinement {
        equalize: true,
        ..Refinement::default()
    };
    let error = Calibration::refined(&Plain(at_inputs(8)), &graph, &params, refinement).expect_err("SiLU");
    assert!(error.to_string().contains("SiLU"), "{error}");
}

/// Two convolutions that meet in a join, and one that reads it.
fn joined() -> (Graph, Params) {
    let mut g = GraphBuilder::new(3);
    let conv = |g: &mut GraphBuilder, name: &str, x, cin| {
        g.add(name, Op::conv(cin, 4, 3, 1, 1, 1, true), &[x]).expect("a node")
    };
    let a = conv(&mut g, "a", ValueId::IMAGE, 3);
    let b = conv(&mut g, "b", a, 4);
    let c = conv(&mut g, "c", b, 4);
    let join = g.add("join", Op::Concat { dim: 1 }, &[a, c]).expect("a node");
    let out = conv(&mut g, "out", join, 8);
    let graph = g.finish(vec![out], None).expect("a graph");
    let mut params = testing::fill_params(&graph, 2.5);
    // Values of two sizes.
    let large: Tensor = params.get("c.weight").expect("a weight") * 10.0f64;
    params.insert("c.weight", large);
    (graph, params)
}

fn scale_of(params: &Params, node: &str) -> f64 {
    let scale = params.get(&format!("{node}.act_quant.scale"));
    scale.expect("a quantizer").double_value(&[0])
}

/// What is joined has the range of the join, found on all of it; others keep their own.
#[test]
fn joined_values_can_share_a_range() {
    let (graph, params) = joined();
    let scales = |shares: bool, observer: Observer| {
        let mut backend = BackendSpec {
            placement: Placement {
                concat_shares: shares,
                ..Placement::inputs_of(&["conv2d"]).and_outputs_of(&["conv2d", "concat"])
            },
            ..BackendSpec::default()
        };
        backend.activation.observer = observer;
        let quantizer = Plain(backend);
        let mut calibration = Calibration::new(&quantizer, &graph, &params).expect("a calibration");
        calibration.see(&testing::input(2, 3, 24, 24)).expect("a forward");
        let (_, params) = calibration.finish().expect("a network");
        ["a", "b", "c", "join"].map(|node| scale_of(&params, node))
    };
    for observer in [Observer::MinMax, Observer::Mse] {
        let ([a, b, c, join], [a1, b1, c1, join1]) = (scales(false, observer), scales(true, observer));
        assert!(a < c && b1 == b, "{a} {c} {b} {b1}");
        assert!(a1 == join1 && c1 == join1, "{a1} {c1} {join1}");
        assert!((join1 / join - 1.0).abs() < 0.1, "{join1} {join}");
    }
}

/// The layers at both ends of a network, and what they read, can have bits of their own.
#[test]
fn ends_of_a_network_can_have_more_bits() {
    let mut backend = at_inputs(4);
    (backend.activation.bits, backend.end_bits) = (4, Some(8));
    let graph = calibrated(backend, Refinement::default()).graph;
    let bits: Vec<(&str, i64)> = (graph.nodes.iter())
        .filter_map(|node| match &node.op {
            Op::FakeQuant { quant } => Some((node.name.as_str(), quant.qmax)),
            op => op.weight_quant().map(|quant| (node.name.as_str(), quant.qmax)),
        })
        .collect();
    let wanted = [
        ("image.act_quant", 127),
        ("m.a", 127),
        ("m.a.act.act_quant", 7),
        ("m.b", 7),
        ("m.b.act.act_quant", 7),
        ("m.sum.act_quant", 127),
        ("head", 127),
    ];
    assert_eq!(bits[1..], wanted[1..], "{bits:?}");
    assert_eq!(bits[0].1, 127);
}

/// Biases on a grid and bent weights: the network with both done computes what the quantizers compute, and has no such quantizer left.
#[test]
fn baked_networks_compute_the_same() {
    let mut backend = at_inputs(8);
    backend.weight.method = Method::Dorefa;
    backend.bias = Some(Scheme {
        bits: 4,
        observer: Observer::PowerOfTwo,
        method: Method::PowerOfTwo,
        ..Scheme::INT8
    });
    let made = calibrated(backend, Refinement::default());
    let images = testing::input(2, 3, 24, 24);
    let (graph, params) = baked(&made.graph, &made.params).expect("all tensors");
    assert_eq!(run(&made.graph, &made.params, &images), run(&graph, &params, &images));
    params.check(&graph).expect("its own tensors");
    let of = |graph: &Graph| {
        let ops = graph.nodes.iter().map(|node| &node.op);
        ops.filter(|op| {
            matches!(
                op,
                Op::Conv2d {
                    bias_quant: Some(_),
                    ..
                }
            ) || op.weight_quant().is_some_and(|q| q.method == Method::Dorefa)
        })
        .count()
    };
    assert_eq!((of(&made.graph), of(&graph)), (3, 0));
    let apart = |key: &str| {
        let (old, new) = (made.params.get(key).expect("it"), params.get(key).expect("it"));
        (old - new).abs().max().double_value(&[])
    };
    assert!(apart("m.a.weight") > 0.0 && apart("m.a.bias") > 0.0);
    // And back in float nothing of either is left.
    let (_, tensors) = in_float(&made.graph, &made.params, &made.float, &["m.b".to_owned()]).expect("a network");
    assert!(tensors.get("m.b.bias_quant.scale").is_none() && tensors.get("m.a.bias_quant.scale").is_some());
}

/// Bias correction moves biases: their grids follow.
#[test]
fn grids_of_biases_follow_their_correction() {
    let (graph, params) = network();
    let mut backend = at_inputs(3);
    backend.bias = Some(Scheme {
        observer: Observer::PowerOfTwo,
        method: Method::PowerOfTwo,
        narrow: false,
        ..Scheme::INT8
    });
    // Small biases, that a correction is more than.
    let mut small = params.shallow_clone();
    for key in ["m.a.bias", "m.b.bias", "head.bias"] {
        small.insert(key, params.get(key).expect("a bias") * 1e-3f64);
    }
    let quantizer = Plain(backend);
    let images = testing::input(4, 3, 24, 24);
    let refinement = Refinement {
        bias_correction: true,
        ..Refinement::default()
    };
    let mut calibration = Calibration::refined(&quantizer, &graph, &small, refinement).expect("a calibration");
    calibration.see(&images).expect("a forward");
    let made = calibration.finish_on(&images, &mut |_, _| Ok(())).expect("a network");
    for layer in ["m.a", "m.b", "head"] {
        let get = |end: &str| made.params.get(&format!("{layer}.{end}")).expect("it").shallow_clone();
        let (bias, scale) = (get("bias"), get("bias_quant.scale").double_value(&[0]));
        let largest = bias.abs().max().double_value(&[]);
        assert!(largest <= 129.0 * scale, "{layer}: {largest} of steps of {scale}");
    }
}
