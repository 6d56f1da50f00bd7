//! ncnn files, read back and run layer by layer, against the network they came from.

use yolo_core::{Graph, GraphBuilder, Mode, Op, Params, Program, graph::Activation, nn};
use yolo_export::{
    ncnn::{self, Options, Precision},
    onnx,
};

use crate::onnx_ops::{ACTIVATIONS, cases, graph, windowed};
use crate::qdq::{quantize, range};
use crate::support::{fill, image, tiny, yolov5n};

/// Largest difference of the first output, relative to the largest value of the result.
fn difference(graph: &Graph, size: [i64; 2]) -> f64 {
    let params = fill(graph, 1.0);
    let net = ncnn::export(
        graph,
        &params,
        &Options {
            image: size,
            ..Options::default()
        },
    )
    .unwrap();
    let net = ncnn::model::Net::parse(&net.to_param(), &net.to_bin()).unwrap();
    let x = image(1, graph.input_channels(), size[0], size[1]);
    let want = Program::new(graph, &params)
        .unwrap()
        .run(&x, Mode::Eval)
        .unwrap()
        .remove(0);
    let got = ncnn::run(&net, &x)
        .unwrap()
        .into_iter()
        .find(|(name, _)| name == "out0")
        .unwrap()
        .1;
    let worst = (got.reshape(want.size().as_slice()) - &want)
        .abs()
        .max()
        .double_value(&[]);
    worst / want.abs().max().double_value(&[]).max(1.0)
}

/// f32 sums in another order.
const TOLERANCE: f64 = 1e-5;

#[test]
fn every_op_means_the_same_to_ncnn() {
    for (name, body) in cases() {
        let worst = difference(&graph(4, body), [12, 20]);
        assert!(worst <= TOLERANCE, "{name}: {worst:e}");
    }
    for act in ACTIVATIONS {
        let spread = graph(3, |g, x| {
            let y = g.add("spread", Op::Affine { mul: 20.0, add: -10.0 }, &[x])?;
            g.add("act", Op::Act { act }, &[y])
        });
        assert!(difference(&spread, [16, 16]) <= 2e-6, "{act:?}");
        // Behind a convolution, where ncnn may compute it inside.
        let inside = graph(3, |g, x| {
            let y = g.add("conv", Op::conv(3, 4, 3, 1, 1, 1, true), &[x])?;
            g.add("act", Op::Act { act }, &[y])
        });
        assert!(difference(&inside, [16, 16]) <= TOLERANCE, "{act:?}");
    }
    for (size, shift, guard, mask_padding, image) in [
        (4, 0, false, false, [8, 12]),
        (4, 2, false, true, [7, 13]),
        (8, 4, true, true, [6, 5]),
        (8, 4, false, true, [6, 5]),
    ] {
        let worst = difference(&windowed(size, shift, guard, mask_padding), image);
        assert!(worst <= TOLERANCE, "window {size}, shift {shift}, {image:?}: {worst:e}");
    }
}

#[test]
fn a_detector_gives_the_same_boxes_from_both_files() {
    let graph = yolov5n(10);
    let params = fill(&graph, 2.906_25);
    let x = image(1, 3, 96, 160);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("yolov5n.param");
    let options = Options {
        image: [96, 160],
        precision: Precision::F32,
    };
    let written = ncnn::write(&graph, &params, &options, &path).unwrap();
    let net = ncnn::read(&path).unwrap();
    assert_eq!(net.layers.len(), written.layers.len());
    let d = ncnn::check(&net, &graph, &params, &x).unwrap();
    assert!(d.boxes < 0.05 && d.scores < 1e-3 && d.raw < 1e-3, "{d:?}");
    // Every blob has one producer and at most one reader.
    let mut readers = std::collections::HashMap::new();
    for name in net.layers.iter().flat_map(|layer| &layer.inputs) {
        *readers.entry(name).or_insert(0) += 1;
    }
    assert!(readers.values().all(|n| *n == 1));

    // Half weights: half the bytes, and still nearly the same network.
    let float = std::fs::metadata(dir.path().join("yolov5n.bin")).unwrap().len();
    let options = Options {
        precision: Precision::F16,
        ..options
    };
    ncnn::write(&graph, &params, &options, &path).unwrap();
    let half = std::fs::metadata(dir.path().join("yolov5n.bin")).unwrap().len();
    assert!(half * 100 < float * 52, "{half} of {float} bytes");
    let d = ncnn::check(&ncnn::read(&path).unwrap(), &graph, &params, &x).unwrap();
    // Weights keep 11 bits: a relative error of 2.4e-4 each, mostly cancelling in sums.
    assert!(d.scores > 0.0 && d.scores < 0.02, "{d:?}");
}

#[test]
fn integers_are_those_of_the_simulation() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let x = image(1, 3, 96, 64);
    let (quantized, weights) = quantize(&graph, &params, &x, &range(-127, 127), 1.0);
    let options = Options {
        image: [96, 64],
        precision: Precision::Int8,
    };
    let net = ncnn::export(&quantized, &weights, &options).unwrap();
    let net = ncnn::model::Net::parse(&net.to_param(), &net.to_bin()).unwrap();
    let int8 = net.layers.iter().filter(|layer| layer.int(8, 0) != 0).count();
    let convs = net
        .layers
        .iter()
        .filter(|layer| layer.kind.starts_with("Convolution"))
        .count();
    assert_eq!(int8, convs - 3, "all but the three of the head");
    let (plain, plain_weights) = onnx::strip(&quantized, &weights).unwrap();
    let file = ncnn::check(&net, &quantized, &weights, &x).unwrap();
    let float = ncnn::export(
        &plain,
        &plain_weights,
        &Options {
            precision: Precision::F32,
            ..options
        },
    )
    .unwrap();
    let noise = ncnn::check(&float, &quantized, &weights, &x).unwrap();
    // ncnn rounds the inputs of convolutions only; behind the first addition every rounding falls otherwise than in the
    // simulation. So it is as far from the float network, and no further from the simulation than both errors together.
    assert!(
        file.raw < 2.0 * noise.raw && file.scores < 2.0 * noise.scores,
        "file {file:?}, float {noise:?}"
    );
    let own = ncnn::check(&net, &plain, &plain_weights, &x).unwrap();
    assert!(
        own.raw > 0.5 * noise.raw && own.raw < 2.0 * noise.raw,
        "file {own:?}, simulation {noise:?}"
    );
}

#[test]
fn activations_that_ncnn_computes_inside_are_not_layers() {
    let count = |act: Activation| {
        let g = graph(3, |g, x| {
            let y = g.add("conv", Op::conv(3, 4, 3, 1, 1, 1, true), &[x])?;
            g.add("act", Op::Act { act }, &[y])
        });
        let net = ncnn::export(
            &g,
            &fill(&g, 1.0),
            &Options {
                image: [8, 8],
                ..Options::default()
            },
        )
        .unwrap();
        net.layers.iter().map(|layer| layer.kind.clone()).collect::<Vec<_>>()
    };
    assert_eq!(count(Activation::Relu), ["Input", "Convolution", "Reshape"]);
    assert_eq!(count(Activation::Silu), ["Input", "Convolution", "Swish", "Reshape"]);
}

#[test]
fn a_chain_of_integer_convolutions_equals_the_simulation() {
    // Here both round at the same places.
    let graph = graph(4, |g, x| {
        let conv = |g: &mut GraphBuilder, name: &str, x, act| {
            let options = nn::ConvOptions {
                kernel: 3,
                act: Some(act),
                ..Default::default()
            };
            g.scope(name, |g| nn::conv_bn_act(g, x, 16, options))
        };
        let y = conv(g, "a", x, Activation::Relu)?;
        let y = conv(g, "b", y, Activation::Silu)?;
        let y = conv(g, "c", y, Activation::Hardswish)?;
        g.add("d", Op::conv(16, 8, 1, 1, 0, 1, true), &[y])
    });
    let params = fill(&graph, 2.0);
    let x = image(1, 4, 24, 32);
    let (quantized, weights) = quantize(&graph, &params, &x, &range(-127, 127), 1.0);
    let options = Options {
        image: [24, 32],
        precision: Precision::Int8,
    };
    let net = ncnn::export(&quantized, &weights, &options).unwrap();
    assert_eq!(net.layers.iter().filter(|layer| layer.int(8, 0) != 0).count(), 3);
    let run = |graph: &Graph, weights: &Params| {
        let program = Program::new(graph, weights).unwrap();
        program.run(&x, Mode::Eval).unwrap().remove(0)
    };
    let (plain, plain_weights) = onnx::strip(&quantized, &weights).unwrap();
    let want = run(&quantized, &weights);
    let noise = (run(&plain, &plain_weights) - &want).abs().max().double_value(&[]);
    let got = ncnn::run(&net, &x).unwrap().remove(0).1;
    let worst = (got.reshape(want.size().as_slice()) - &want)
        .abs()
        .max()
        .double_value(&[]);
    assert!(worst < 0.01 * noise, "{worst} where rounding makes {noise}");
}
