//! Every op of the graph, alone or in the pattern it lives in: onnxruntime on the written file against our executor.

use tch::Tensor;
use yolo_core::{
    Graph, GraphBuilder, Mode, Op, ParamRole, Program, Result, ValueId,
    graph::{Activation, Dim, ReduceKind},
};
use yolo_export::{
    onnx::{self, Options},
    ort::Session,
};

use crate::support::{engine, fill, image};

/// A network without a head: its only output is what `body` returns for the image.
pub fn graph(channels: i64, body: impl FnOnce(&mut GraphBuilder, ValueId) -> Result<ValueId>) -> Graph {
    let mut g = GraphBuilder::new(channels);
    let x = g.image().value;
    let y = body(&mut g, x).unwrap();
    g.finish(vec![y], None).unwrap()
}

/// Largest difference between onnxruntime and the executor, relative to the largest value of the result.
fn difference(graph: &Graph, size: [i64; 2], batch: Option<i64>, images: i64) -> f64 {
    let params = fill(graph, 1.0);
    let options = Options {
        image: size,
        batch,
        ..Options::default()
    };
    let exported = onnx::export(graph, &params, &options).unwrap();
    let mut session = Session::from_bytes(&prost::Message::encode_to_vec(&exported.model), 1).unwrap();
    let x = image(images, graph.input_channels(), size[0], size[1]);
    let want = Program::new(graph, &params)
        .unwrap()
        .run(&x, Mode::Eval)
        .unwrap()
        .remove(0);
    let got = session.run(&[("images", &x)]).unwrap().remove(0).1;
    assert_eq!(got.size(), want.size());
    assert!(
        want.abs().max().double_value(&[]) > 1e-3,
        "the result is not trivially zero"
    );
    (got - &want).abs().max().double_value(&[]) / want.abs().max().double_value(&[]).max(1.0)
}

/// f32 sums in another order: a few units in the last place of the largest value.
const TOLERANCE: f64 = 1e-5;

pub type Body = fn(&mut GraphBuilder, ValueId) -> Result<ValueId>;

/// Every op, for images of 4 channels and 12 x 20 pixels.
pub fn cases() -> Vec<(&'static str, Body)> {
    vec![
        ("pad", |g, x| {
            let pad = Op::Pad {
                top: 1,
                bottom: 0,
                left: 2,
                right: 3,
            };
            g.add("p", pad, &[x])
        }),
        ("conv", |g, x| {
            let op = Op::Conv2d {
                cin: 4,
                cout: 6,
                kernel: [3, 5],
                stride: [2, 1],
                padding: [1, 4],
                dilation: [1, 2],
                groups: 2,
                bias: true,
                weight_quant: None,
                bias_quant: None,
            };
            g.add("c", op, &[x])
        }),
        ("batch-norm after a pool stays a node", |g, x| {
            let y = g.add(
                "p",
                Op::MaxPool {
                    kernel: 2,
                    stride: 2,
                    padding: 0,
                },
                &[x],
            )?;
            g.add(
                "bn",
                Op::BatchNorm {
                    channels: 4,
                    eps: 1e-3,
                    momentum: 0.03,
                },
                &[y],
            )
        }),
        ("conv, batch-norm, silu", |g, x| yolo_core::nn::conv(g, "c", x, 8, 3, 1)),
        ("focus", |g, x| g.add("f", Op::SpaceToDepth, &[x])),
        ("shuffle", |g, x| g.add("s", Op::ChannelShuffle { groups: 2 }, &[x])),
        ("max-pool", |g, x| {
            g.add(
                "p",
                Op::MaxPool {
                    kernel: 5,
                    stride: 1,
                    padding: 2,
                },
                &[x],
            )
        }),
        ("avg-pool", |g, x| {
            g.add(
                "p",
                Op::AvgPool {
                    kernel: 3,
                    stride: 2,
                    padding: 1,
                },
                &[x],
            )
        }),
        ("upsample", |g, x| g.add("u", Op::Upsample { scale: 2 }, &[x])),
        ("bilinear", |g, x| g.add("u", Op::Bilinear { scale: 2 }, &[x])),
        ("bilinear-3", |g, x| g.add("u", Op::Bilinear { scale: 3 }, &[x])),
        ("slice and concat", |g, x| {
            let a = g.add(
                "a",
                Op::Slice {
                    dim: 1,
                    start: 1,
                    len: 2,
                },
                &[x],
            )?;
            let b = g.add(
                "b",
                Op::Slice {
                    dim: 1,
                    start: 0,
                    len: 1,
                },
                &[x],
            )?;
            g.add("c", Op::Concat { dim: 1 }, &[a, x, b])
        }),
        ("arithmetic with broadcasting", |g, x| {
            let mean = g.add(
                "m",
                Op::Reduce {
                    kind: ReduceKind::Mean,
                    dims: vec![2, 3],
                },
                &[x],
            )?;
            let top = g.add(
                "t",
                Op::Reduce {
                    kind: ReduceKind::Max,
                    dims: vec![2, 3],
                },
                &[x],
            )?;
            let a = g.add("a", Op::Sub, &[x, mean])?;
            let b = g.add("b", Op::Div, &[a, top])?;
            let c = g.add("c", Op::Mul, &[b, x])?;
            let d = g.add("d", Op::Affine { mul: -2.0, add: 0.25 }, &[c])?;
            g.add("e", Op::Add, &[d, mean])
        }),
        ("reductions over other axes", |g, x| {
            let a = g.add(
                "a",
                Op::Reduce {
                    kind: ReduceKind::Mean,
                    dims: vec![1],
                },
                &[x],
            )?;
            let b = g.add(
                "b",
                Op::Reduce {
                    kind: ReduceKind::Max,
                    dims: vec![1],
                },
                &[x],
            )?;
            let c = g.add(
                "c",
                Op::Reduce {
                    kind: ReduceKind::Sum,
                    dims: vec![3],
                },
                &[x],
            )?;
            let d = g.add("d", Op::Add, &[a, b])?;
            g.add("e", Op::Add, &[d, c])
        }),
        ("fusion weights", |g, x| {
            let w = g.add(
                "w",
                Op::Parameter {
                    shape: vec![2],
                    role: ParamRole::Table,
                    init: yolo_core::params::Init::Const(1.0),
                },
                &[],
            )?;
            let first = g.add(
                "first",
                Op::Slice {
                    dim: 0,
                    start: 0,
                    len: 1,
                },
                &[w],
            )?;
            let k = g.add(
                "k",
                Op::Constant {
                    shape: vec![1, 4, 1, 1],
                    values: vec![1.0, 2.0, 3.0, 4.0],
                },
                &[],
            )?;
            let y = g.add("y", Op::Mul, &[x, first])?;
            g.add("z", Op::Add, &[y, k])
        }),
        ("attention", |g, x| {
            let [_, c, h, w] = *g.shape(x) else {
                panic!("a map has four sizes")
            };
            let _ = (h, w);
            let t = g.add(
                "t",
                Op::Reshape {
                    dims: vec![Dim::Keep(0), Dim::Fixed(c), Dim::Infer],
                },
                &[x],
            )?;
            let t = g.add("p", Op::Permute { dims: vec![0, 2, 1] }, &[t])?;
            let t = g.add("n", Op::LayerNorm { channels: c, eps: 1e-5 }, &[t])?;
            let q = g.add("q", Op::linear(c, 8, true), &[t])?;
            let k = g.add("k", Op::linear(c, 8, false), &[t])?;
            let s = g.add("s", Op::MatMul { transpose_b: true }, &[q, k])?;
            let s = g.add("sm", Op::Softmax { from_end: 1 }, &[s])?;
            let y = g.add("y", Op::MatMul { transpose_b: false }, &[s, k])?;
            let y = g.add("d", Op::DropPath { p: 0.1 }, &[y])?;
            let y = g.add("o", Op::Permute { dims: vec![0, 2, 1] }, &[y])?;
            let dims = vec![Dim::Like(0), Dim::Fixed(8), Dim::Like(2), Dim::Like(3)];
            g.add("back", Op::Reshape { dims }, &[y, x])
        }),
        ("deformable convolution", |g, x| {
            let offset = g.add("offset", Op::conv(4, 18, 3, 2, 1, 1, true), &[x])?;
            let mask = g.add("mask", Op::conv(4, 9, 3, 2, 1, 1, true), &[x])?;
            let mask = g.add(
                "gate",
                Op::Act {
                    act: Activation::Sigmoid,
                },
                &[mask],
            )?;
            let op = Op::DeformConv2d {
                cin: 4,
                cout: 5,
                kernel: [3; 2],
                stride: [2; 2],
                padding: [1; 2],
                dilation: [1; 2],
                bias: true,
            };
            g.add("d", op, &[x, offset, mask])
        }),
    ]
}

#[test]
fn every_op_runs_in_onnxruntime_as_in_the_executor() {
    if !engine() {
        return;
    }
    for (name, body) in cases() {
        let graph = graph(4, body);
        // Odd windows and both forms of batch; the height differs from the width.
        for (batch, images) in [(Some(1), 1), (Some(2), 2), (None, 3)] {
            let worst = difference(&graph, [12, 20], batch, images);
            assert!(worst <= TOLERANCE, "{name}, batch {batch:?}: {worst:e}");
        }
    }
}

pub const ACTIVATIONS: [Activation; 9] = [
    Activation::Silu,
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu(0.1),
    Activation::Hardswish,
    Activation::Hardsigmoid,
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::Tanh,
];

#[test]
fn every_activation_agrees() {
    if !engine() {
        return;
    }
    for act in ACTIVATIONS {
        // Values from -10 to 10, so that both ends of every piecewise function are reached.
        let graph = graph(3, |g, x| {
            let y = g.add("spread", Op::Affine { mul: 20.0, add: -10.0 }, &[x])?;
            g.add("act", Op::Act { act }, &[y])
        });
        let worst = difference(&graph, [16, 16], Some(1), 1);
        assert!(worst <= 2e-6, "{act:?}: {worst:e}");
    }
}

/// One shifted-window attention step without projections.
pub fn windowed(size: i64, shift: i64, guard: bool, mask_padding: bool) -> Graph {
    graph(8, move |g, x| {
        let tokens = g.add("part", Op::WindowPartition { size, shift, guard }, &[x])?;
        let q = g.add("q", Op::linear(8, 8, true), &[tokens])?;
        let heads = vec![Dim::Keep(0), Dim::Keep(1), Dim::Fixed(2), Dim::Fixed(4)];
        let split = g.add("heads", Op::Reshape { dims: heads }, &[q])?;
        let split = g.add("order", Op::Permute { dims: vec![0, 2, 1, 3] }, &[split])?;
        let scores = g.add("scores", Op::MatMul { transpose_b: true }, &[split, split])?;
        let rows = (2 * size - 1) * (2 * size - 1);
        let table = Op::Parameter {
            shape: vec![rows, 2],
            role: ParamRole::Table,
            init: yolo_core::params::Init::Const(0.0),
        };
        let table = g.add("relative_position_bias_table", table, &[])?;
        let bias = g.add("bias", Op::RelativePositionBias { size }, &[table])?;
        let scores = g.add("biased", Op::Add, &[scores, bias])?;
        let mask = g.add(
            "mask",
            Op::WindowMask {
                size,
                shift,
                guard,
                mask_padding,
            },
            &[x],
        )?;
        let scores = g.add("masked", Op::AddWindowMask, &[scores, mask])?;
        let weights = g.add("softmax", Op::Softmax { from_end: 1 }, &[scores])?;
        let y = g.add("mix", Op::MatMul { transpose_b: false }, &[weights, split])?;
        let y = g.add("back", Op::Permute { dims: vec![0, 2, 1, 3] }, &[y])?;
        let y = g.add(
            "flat",
            Op::Reshape {
                dims: vec![Dim::Keep(0), Dim::Keep(1), Dim::Fixed(8)],
            },
            &[y],
        )?;
        g.add("merge", Op::WindowMerge { size, shift, guard }, &[y, x])
    })
}

#[test]
fn shifted_windows_agree_on_sizes_that_do_not_fit() {
    if !engine() {
        return;
    }
    for (size, shift, guard, mask_padding, image) in [
        (4, 0, false, false, [8, 12]),
        (4, 2, false, false, [8, 12]),
        (4, 2, false, true, [7, 13]),
        (8, 4, true, true, [6, 5]),
        (8, 4, false, true, [6, 5]),
    ] {
        let graph = windowed(size, shift, guard, mask_padding);
        for (batch, images) in [(Some(1), 1), (None, 2)] {
            let worst = difference(&graph, image, batch, images);
            assert!(worst <= TOLERANCE, "window {size}, shift {shift}, {image:?}: {worst:e}");
        }
    }
}

#[test]
fn a_custom_op_without_a_lowering_is_named() {
    #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
    struct Opaque;
    #[typetag::serde(name = "test-opaque")]
    impl yolo_core::graph::CustomOp for Opaque {
        fn name(&self) -> &str {
            "opaque"
        }
        fn shape(&self, inputs: &[&[i64]]) -> Result<Vec<i64>> {
            Ok(inputs[0].to_vec())
        }
        fn forward(&self, inputs: &[&Tensor], _: &[&Tensor], _: bool) -> Result<Tensor> {
            Ok(inputs[0].shallow_clone())
        }
        fn boxed_clone(&self) -> Box<dyn yolo_core::graph::CustomOp> {
            Box::new(self.clone())
        }
    }
    let graph = graph(3, |g, x| {
        g.add(
            "model.1.strange",
            Op::Custom {
                custom: Box::new(Opaque),
            },
            &[x],
        )
    });
    let error = onnx::export(
        &graph,
        &fill(&graph, 1.0),
        &Options {
            image: [32; 2],
            ..Options::default()
        },
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("model.1.strange") && text.contains("opaque"), "{text}");
}
