//! Networks with fake quantizers: onnxruntime on the QDQ file against the simulation.

use std::collections::HashMap;

use tch::{Kind, Tensor};
use yolo_core::{
    Graph, GraphBuilder, Mode, Node, Op, Params, Program, ValueId,
    graph::{Activation, Rewriter},
    nn, passes,
    quant::{FakeQuantSpec, Method},
};
use yolo_export::{
    onnx::{self, Options, Profile, check, proto::ModelProto},
    ort::Session,
};

use crate::support::{engine, fill, image, tiny};

const WEIGHTS: FakeQuantSpec = FakeQuantSpec {
    qmin: -127,
    qmax: 127,
    per_channel: true,
    symmetric: true,
    method: Method::Learnable,
};

/// A quantizer of activations: symmetric where it has negative numbers.
pub fn range(qmin: i64, qmax: i64) -> FakeQuantSpec {
    FakeQuantSpec {
        qmin,
        qmax,
        per_channel: false,
        symmetric: qmin < 0,
        method: Method::Learnable,
    }
}

/// The TensorRT scheme by hand: weights per channel, one quantizer per tensor that a convolution (not of the head), an
/// addition, a pool or an enlargement reads; ranges from one image, times `shrink`.
pub fn quantize(graph: &Graph, params: &Params, x: &Tensor, act: &FakeQuantSpec, shrink: f64) -> (Graph, Params) {
    let (graph, mut params) = passes::fuse(graph, params).unwrap();
    let mut ranges: HashMap<ValueId, (f64, f64)> = HashMap::new();
    Program::new(&graph, &params)
        .unwrap()
        .run_observed(x, Mode::Eval, |value, tensor| {
            ranges.insert(value, (tensor.min().double_value(&[]), tensor.max().double_value(&[])));
            Ok(())
        })
        .unwrap();
    let reads_int = |node: &Node, id: ValueId| {
        let inner = matches!(node.op, Op::Conv2d { .. }) && !graph.outputs.contains(&id);
        inner || matches!(node.op, Op::Add | Op::MaxPool { .. } | Op::Upsample { .. })
    };
    let mut wanted = vec![false; graph.nodes.len()];
    for (id, node) in graph.values().zip(&graph.nodes) {
        if reads_int(node, id) {
            node.inputs.iter().for_each(|v| wanted[v.index()] = true);
        }
    }
    let mut rewriter = Rewriter::new(&graph);
    for (id, node) in graph.values().zip(&graph.nodes) {
        let mut node = node.clone();
        if let (Op::Conv2d { weight_quant, cout, .. }, false) = (&mut node.op, graph.outputs.contains(&id)) {
            *weight_quant = Some(WEIGHTS);
            let weight = params.get(&format!("{}.weight", node.name)).unwrap();
            let scale = weight.abs().amax([1, 2, 3], false) / 127.0;
            let zeros = Tensor::zeros([*cout], (Kind::Float, tch::Device::Cpu));
            params.insert(format!("{}.weight_quant.scale", node.name), scale);
            params.insert(format!("{}.weight_quant.zero_point", node.name), zeros);
        }
        let new = rewriter.replace(node.clone());
        if wanted[id.index()] {
            let (low, high) = ranges[&id];
            let (low, high) = (low.min(0.0) * shrink, high.max(0.0) * shrink);
            let (scale, zero) = if act.qmin < 0 {
                (low.abs().max(high) / act.qmax as f64, 0.0)
            } else {
                let scale = (high - low) / (act.qmax - act.qmin) as f64;
                (scale, (act.qmin as f64 - low / scale).round())
            };
            let name = format!("{}.quant", node.name);
            params.insert(format!("{name}.scale"), Tensor::from_slice(&[scale as f32]));
            params.insert(format!("{name}.zero_point"), Tensor::from_slice(&[zero as f32]));
            let fq = rewriter.insert(Node {
                name,
                op: Op::FakeQuant { quant: act.clone() },
                inputs: vec![new],
            });
            rewriter.redirect(id, fq);
        }
    }
    (rewriter.finish().unwrap(), params)
}

fn export(graph: &Graph, params: &Params, profile: Profile) -> onnx::Exported {
    onnx::export(
        graph,
        params,
        &Options {
            image: [96, 64],
            profile,
            ..Options::default()
        },
    )
    .unwrap()
}

fn bytes(model: &ModelProto) -> Vec<u8> {
    prost::Message::encode_to_vec(model)
}

fn count(model: &ModelProto, op: &str) -> usize {
    model
        .graph
        .as_ref()
        .unwrap()
        .node
        .iter()
        .filter(|node| node.op_type == op)
        .count()
}

#[test]
fn both_profiles_compute_what_the_simulation_computes() {
    if !engine() {
        return;
    }
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let x = image(1, 3, 96, 64);
    let signed = range(-128, 127);
    let symmetric = range(-127, 127);
    let unsigned = range(0, 255);
    let seven_bits = range(-64, 63);
    let wide = range(0, 65535);
    for (name, act, shrink) in [
        ("int8", signed, 1.0),
        ("int8 without -128", symmetric.clone(), 1.0),
        // Ranges that cut off: saturation must agree, too.
        ("int8 that saturates", symmetric, 0.5),
        ("uint8", unsigned, 0.9),
        ("7 bits", seven_bits, 0.7),
        ("uint16", wide, 1.0),
    ] {
        let (quantized, weights) = quantize(&graph, &params, &x, &act, shrink);
        assert!(onnx::is_quantized(&quantized) && !onnx::is_quantized(&graph));
        let float = Program::new(&graph, &params).unwrap().run(&x, Mode::Eval).unwrap();
        let simulated = Program::new(&quantized, &weights).unwrap().run(&x, Mode::Eval).unwrap();
        let noise = (&float[0] - &simulated[0]).abs().max().double_value(&[]);
        for profile in [Profile::TensorRt, Profile::Ort] {
            let exported = export(&quantized, &weights, profile);
            for optimized in [false, true] {
                let model = bytes(&exported.model);
                let mut session = if optimized {
                    Session::from_bytes(&model, 1)
                } else {
                    Session::unoptimized(&model, 1)
                }
                .unwrap();
                let d = check(&mut session, &quantized, &weights, &x).unwrap();
                eprintln!("{name}, {profile:?}, optimized {optimized}: {d:?}; noise {noise}");
                // A value that lies on a rounding edge may fall to the other side (another order of a sum), and such a step
                // of one scale unit spreads. It stays far below the quantization noise itself.
                assert!(
                    d.boxes < 0.5 && d.scores < 0.01,
                    "{name}, {profile:?}, optimized {optimized}: {d:?}"
                );
            }
        }
    }
}

#[test]
fn pairs_stand_where_the_profile_puts_them() {
    let graph = tiny(3);
    // A gain that gives activations of the usual size, above 1.
    let params = fill(&graph, 4.0);
    let x = image(1, 3, 96, 64);
    let act = range(-127, 127);
    let (quantized, weights) = quantize(&graph, &params, &x, &act, 1.0);
    let pairs = quantized
        .nodes
        .iter()
        .filter(|n| matches!(n.op, Op::FakeQuant { .. }))
        .count();
    let convs = quantized
        .nodes
        .iter()
        .filter(|n| {
            matches!(
                &n.op,
                Op::Conv2d {
                    weight_quant: Some(_),
                    ..
                }
            )
        })
        .count();

    let trt = export(&quantized, &weights, Profile::TensorRt).model;
    assert_eq!(count(&trt, "QuantizeLinear"), pairs, "weights are stored as integers");
    assert_eq!(count(&trt, "DequantizeLinear"), pairs + convs);
    // Outputs of SiLU and the image can't reach the end that int8 has and the scheme lacks.
    assert_eq!(count(&trt, "Clip"), 0);
    let weight = trt
        .graph
        .as_ref()
        .unwrap()
        .initializer
        .iter()
        .find(|t| t.name == "model.0.conv.weight.q")
        .unwrap();
    assert_eq!(weight.dims, [8, 3, 6, 6]);
    assert!(
        weight.raw_data.iter().all(|&b| b.cast_signed() != -128),
        "clipped to -127"
    );
    assert!(weight.raw_data.iter().any(|&b| b.cast_signed().abs() == 127));

    let ort = export(&quantized, &weights, Profile::Ort).model;
    assert!(
        count(&ort, "QuantizeLinear") > pairs,
        "pools and enlargements get a pair behind them"
    );

    let strip = export(&quantized, &weights, Profile::Strip).model;
    assert_eq!(count(&strip, "QuantizeLinear") + count(&strip, "DequantizeLinear"), 0);
}

/// OpenVINO's compiler ends its process on two pairs in a row; a quantizer behind an op that moves values brings a pair of its own.
#[test]
fn no_pair_stands_in_front_of_another() {
    let graph = tiny(3);
    let params = fill(&graph, 4.0);
    let (quantized, weights) = quantize(&graph, &params, &image(1, 3, 96, 64), &range(0, 255), 1.0);
    let behind_a_move = |node: &Node| {
        let before = |value: &ValueId| quantized.nodes[value.index()].op.moves_values();
        matches!(node.op, Op::FakeQuant { .. }) && node.inputs.iter().any(before)
    };
    assert!(quantized.nodes.iter().any(behind_a_move), "the case is there");
    for profile in [Profile::TensorRt, Profile::Ort] {
        let file = export(&quantized, &weights, profile).model.graph.unwrap();
        let made_by = |name: &str| {
            file.node
                .iter()
                .find(|node| node.output[0] == name)
                .map(|node| node.op_type.as_str())
        };
        for node in file.node.iter().filter(|node| node.op_type == "QuantizeLinear") {
            assert_ne!(
                made_by(&node.input[0]),
                Some("DequantizeLinear"),
                "{profile:?}: {}",
                node.output[0]
            );
        }
        // Nothing is left that nobody reads.
        for node in &file.node {
            let read = |name: &String| {
                file.node.iter().any(|node| node.input.contains(name)) || file.output.iter().any(|o| o.name == *name)
            };
            assert!(node.output.iter().all(read), "{profile:?}: {}", node.output[0]);
        }
    }
}

#[test]
fn a_convolution_with_a_quantizer_right_behind_it_runs_on_integers() {
    if !engine() {
        return;
    }
    // conv, relu, quantizer: what onnxruntime fuses into one integer convolution.
    let mut g = GraphBuilder::new(4);
    let x0 = g.image().value;
    let conv = |g: &mut GraphBuilder, name: &str, x: ValueId| {
        let o = nn::ConvOptions {
            kernel: 3,
            act: Some(Activation::Relu),
            ..Default::default()
        };
        g.scope(name, |g| nn::conv_bn_act(g, x, 16, o))
    };
    let a = conv(&mut g, "a", x0).unwrap();
    let b = conv(&mut g, "b", a).unwrap();
    let p = g
        .add(
            "p",
            Op::MaxPool {
                kernel: 2,
                stride: 2,
                padding: 0,
            },
            &[b],
        )
        .unwrap();
    let c = g.add("c", Op::conv(16, 8, 1, 1, 0, 1, true), &[p]).unwrap();
    let graph = g.finish(vec![c], None).unwrap();
    let params = fill(&graph, 2.0);
    let x = image(1, 4, 24, 32);
    let act = range(0, 255);
    let (quantized, weights) = quantize(&graph, &params, &x, &act, 1.0);
    let want = Program::new(&quantized, &weights)
        .unwrap()
        .run(&x, Mode::Eval)
        .unwrap()
        .remove(0);
    for profile in [Profile::TensorRt, Profile::Ort] {
        let options = Options {
            image: [24, 32],
            profile,
            ..Options::default()
        };
        let exported = onnx::export(&quantized, &weights, &options).unwrap();
        let mut session = Session::from_bytes(&bytes(&exported.model), 1).unwrap();
        let got = session.run(&[("images", &x)]).unwrap().remove(0).1;
        let worst = (got - &want).abs().max().double_value(&[]);
        let largest = want.abs().max().double_value(&[]);
        eprintln!("{profile:?}: {worst} of {largest}");
        // One step of the last activation grid times the sum of a row of weights.
        assert!(worst < 0.02 * largest, "{profile:?}: {worst} of {largest}");
    }
}

#[test]
fn an_uncalibrated_quantizer_is_refused() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let act = range(-127, 127);
    let (quantized, mut weights) = quantize(&graph, &params, &image(1, 3, 64, 64), &act, 1.0);
    let key = weights
        .iter()
        .map(|(key, _)| key.to_owned())
        .find(|key| key.ends_with("quant.scale"))
        .unwrap();
    let zero = weights.get(&key).unwrap() * 0.0;
    weights.insert(key.clone(), zero);
    let error = onnx::export(
        &quantized,
        &weights,
        &Options {
            image: [64; 2],
            ..Options::default()
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("calibrate"), "{error}");
}

#[test]
fn learned_scales_may_be_negative_and_odd_grids_are_refused() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let x = image(1, 3, 96, 64);
    let (quantized, mut weights) = quantize(&graph, &params, &x, &range(-127, 127), 1.0);
    let scale = |weights: &Params, key: &str| weights.get(key).unwrap().double_value(&[0]);
    let key = "images.quant.scale";
    let file = |q: &Graph, w: &Params| bytes(&export(q, w, Profile::Ort).model);
    let before = file(&quantized, &weights);
    // The simulation takes the absolute value, and so does the file.
    weights.insert(key.to_owned(), Tensor::from_slice(&[-scale(&weights, key) as f32]));
    assert!(before == file(&quantized, &weights));

    let with = |method: Method| {
        let mut graph = quantized.clone();
        for node in &mut graph.nodes {
            if let Op::FakeQuant { quant } = &mut node.op {
                quant.method = method;
            }
        }
        graph
    };
    // A scale becomes the smallest power of two that is not below it.
    let model = export(&with(Method::PowerOfTwo), &weights, Profile::TensorRt).model;
    let network = model.graph.unwrap();
    let node = network
        .node
        .iter()
        .find(|n| n.op_type == "QuantizeLinear" && n.input[0] == "images")
        .unwrap();
    let constant = network.initializer.iter().find(|t| t.name == node.input[1]).unwrap();
    let stored = f32::from_le_bytes(constant.raw_data[..4].try_into().unwrap());
    assert_eq!(
        f64::from(stored),
        2f64.powf(scale(&weights, key).abs().log2().ceil()),
        "{stored}"
    );

    // Halves that are rounded up are no halves that are rounded to even numbers.
    let options = Options {
        image: [96, 64],
        ..Options::default()
    };
    let error = onnx::export(&with(Method::PowerOfTwoUp), &weights, &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("rounds halves up"), "{error}");
    export(&with(Method::PowerOfTwoUp), &weights, Profile::Strip);

    let logarithmic = with(Method::Gfpq);
    let error = onnx::export(&logarithmic, &weights, &options).unwrap_err().to_string();
    assert!(error.contains("logarithmic"), "{error}");
    export(&logarithmic, &weights, Profile::Strip);
}

#[test]
fn a_stripped_network_is_what_the_stripped_file_computes() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let x = image(1, 3, 96, 64);
    let (quantized, mut weights) = quantize(&graph, &params, &x, &range(-127, 127), 1.0);
    // A range that cuts the weights.
    let key = "model.3.conv.weight_quant.scale";
    let halved = weights.get(key).unwrap() * 0.5;
    weights.insert(key.to_owned(), halved);
    let (plain, plain_weights) = onnx::strip(&quantized, &weights).unwrap();
    assert!(!onnx::is_quantized(&plain));
    let largest = |p: &Params| p.get("model.3.conv.weight").unwrap().abs().max().double_value(&[]);
    assert!(largest(&plain_weights) < 0.51 * largest(&weights));
    if !engine() {
        return;
    }
    let mut session = Session::from_bytes(&bytes(&export(&quantized, &weights, Profile::Strip).model), 1).unwrap();
    let d = check(&mut session, &plain, &plain_weights, &x).unwrap();
    assert!(d.boxes < 0.05 && d.scores < 1e-3, "{d:?}");
}
