//! What an op says about itself is held against what it does, for one sample of each.

use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use super::{Flow, Follows, Place, Value, Work, window};
use crate::graph::{Activation, Dim, Op, ReduceKind, Shape};
use crate::params::Init;
use crate::quant::Scheme;
use crate::{Error, ParamRole, Result, testing};

/// A twin of nothing: adds one.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct PlusOne {}

#[typetag::serde(name = "ops-test-plus-one")]
impl super::CustomOp for PlusOne {
    fn name(&self) -> &str {
        "plus-one"
    }

    fn shape(&self, inputs: &[&[i64]]) -> Result<Shape> {
        let x = inputs.first().ok_or_else(|| Error::Graph("it takes an input".into()))?;
        Ok(x.to_vec())
    }

    fn macs(&self, _inputs: &[&[i64]], _output: &[i64]) -> i64 {
        7
    }

    fn forward(&self, inputs: &[&Tensor], _params: &[&Tensor], _train: bool) -> Result<Tensor> {
        Ok(inputs[0].f_add_scalar(1.0)?)
    }

    fn boxed_clone(&self) -> Box<dyn super::CustomOp> {
        Box::new(self.clone())
    }
}

fn conv(cin: i64, cout: i64, groups: i64) -> Op {
    let mut op = Op::conv(cin, cout, 3, 2, 1, groups, true);
    if let Op::Conv2d { weight_quant, .. } = &mut op {
        let scheme = Scheme {
            per_channel: true,
            ..Scheme::INT8
        };
        *weight_quant = Some(scheme.spec());
    }
    op
}

/// Each op, and shapes that it takes.
fn samples() -> Vec<(Op, Vec<Shape>)> {
    const MAP: [i64; 4] = [2, 6, 8, 8];
    let map = || vec![MAP.to_vec()];
    let tokens = || vec![vec![2, 5, 6]];
    let maps = || vec![MAP.to_vec(); 2];
    let pool = (2, 2, 1);
    let (size, shift, guard) = (4, 2, true);
    let relu = Activation::Relu;
    vec![
        (Op::Input { channels: 6 }, vec![]),
        (conv(6, 4, 1), map()),
        (conv(6, 12, 6), map()),
        (conv(6, 4, 2), map()),
        (
            Op::DeformConv2d {
                cin: 6,
                cout: 4,
                kernel: [3, 3],
                stride: [1, 1],
                padding: [1, 1],
                dilation: [1, 1],
                bias: true,
            },
            vec![MAP.to_vec(), vec![2, 18, 8, 8], vec![2, 9, 8, 8]],
        ),
        (
            Op::BatchNorm {
                channels: 6,
                eps: 1e-3,
                momentum: 0.03,
            },
            map(),
        ),
        (Op::LayerNorm { channels: 6, eps: 1e-5 }, tokens()),
        (Op::linear(6, 4, true), tokens()),
        (Op::Act { act: relu }, map()),
        (Op::Add, maps()),
        (Op::Sub, maps()),
        (Op::Mul, maps()),
        (Op::Div, maps()),
        (Op::Affine { mul: 2.0, add: 1.0 }, map()),
        (Op::Concat { dim: 1 }, maps()),
        (
            Op::Slice {
                dim: 1,
                start: 2,
                len: 3,
            },
            map(),
        ),
        (Op::ChannelShuffle { groups: 3 }, map()),
        (Op::SpaceToDepth, map()),
        (
            Op::MaxPool {
                kernel: pool.0,
                stride: pool.1,
                padding: pool.2,
            },
            map(),
        ),
        (
            Op::AvgPool {
                kernel: pool.0,
                stride: pool.1,
                padding: pool.2,
            },
            map(),
        ),
        (
            Op::Pad {
                top: 1,
                bottom: 2,
                left: 3,
                right: 4,
            },
            map(),
        ),
        (
            Op::Reduce {
                kind: ReduceKind::Mean,
                dims: vec![2, 3],
            },
            map(),
        ),
        (Op::Upsample { scale: 2 }, map()),
        (Op::Bilinear { scale: 2 }, map()),
        (Op::MatMul { transpose_b: true }, vec![vec![2, 5, 6], vec![2, 7, 6]]),
        (Op::Softmax { from_end: 1 }, tokens()),
        (
            Op::Reshape {
                dims: vec![Dim::Keep(0), Dim::Keep(1), Dim::Infer],
            },
            map(),
        ),
        (Op::Permute { dims: vec![0, 2, 1] }, tokens()),
        (Op::WindowPartition { size, shift, guard }, map()),
        (
            Op::WindowMerge { size, shift, guard },
            vec![vec![8, 16, 6], MAP.to_vec()],
        ),
        (
            Op::WindowMask {
                size,
                shift,
                guard,
                mask_padding: true,
            },
            map(),
        ),
        (Op::RelativePositionBias { size: 2 }, vec![vec![9, 3]]),
        (Op::AddWindowMask, vec![vec![8, 3, 4, 4], vec![4, 1, 4, 4]]),
        (Op::Dropout { p: 0.5 }, map()),
        (Op::DropPath { p: 0.5 }, map()),
        (
            Op::Parameter {
                shape: vec![3, 2],
                role: ParamRole::Table,
                init: Init::Const(1.0),
            },
            vec![],
        ),
        (
            Op::Constant {
                shape: vec![2],
                values: vec![1.0, 2.0],
            },
            vec![],
        ),
        (
            Op::FakeQuant {
                quant: Scheme::INT8.spec(),
            },
            map(),
        ),
        (
            Op::Custom {
                custom: Box::new(PlusOne {}),
            },
            map(),
        ),
    ]
}

const IMAGE: [i64; 4] = [2, 6, 8, 8];

fn shape_of(op: &Op, inputs: &[Shape]) -> std::result::Result<Shape, String> {
    let inputs: Vec<&[i64]> = inputs.iter().map(Vec::as_slice).collect();
    op.with(|op| op.shape(&inputs, &IMAGE))
}

fn run(op: &Op, inputs: &[Shape], train: bool) -> (Vec<Tensor>, Tensor) {
    let mut inputs: Vec<Tensor> = (inputs.iter())
        .map(|shape| {
            let n = shape.iter().product::<i64>();
            Tensor::arange(n, (Kind::Float, Device::Cpu)).reshape(shape.as_slice()) / n as f64 + 0.25
        })
        .collect();
    if matches!(op, Op::Input { .. }) {
        inputs.push(testing::input(2, 6, 8, 8));
    }
    let mut params: Vec<Tensor> = op
        .params("n")
        .iter()
        .map(|spec| crate::params::init_tensor(spec, 1))
        .collect();
    if let Op::Constant { values, .. } = op {
        params.push(Tensor::from_slice(values));
    }
    let place = Place {
        train,
        in_place: false,
        masks: &window::Masks::default(),
        norm: None,
    };
    let refs: Vec<&Tensor> = inputs.iter().collect();
    let result = op.with(|op| op.run(&refs, &params, &place)).expect("a result");
    (inputs, result)
}

/// serde knows all variants: an unknown one is answered with the list.
#[test]
fn there_is_a_sample_of_each_op() {
    let error = serde_json::from_str::<Op>(r#"{"op": "?"}"#)
        .expect_err("no op")
        .to_string();
    let variants: BTreeSet<&str> = error.split('`').skip(3).step_by(2).collect();
    let form = |op: &Op| {
        serde_json::to_value(op).expect("JSON")["op"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    let sampled: BTreeSet<String> = samples().iter().map(|(op, _)| form(op)).collect();
    assert_eq!(variants, sampled.iter().map(String::as_str).collect(), "{error}");
    let plain = |name: &str| name.replace('-', "");
    let listed: Vec<String> = error.split('`').skip(3).step_by(2).map(plain).collect();
    assert_eq!(listed, Op::NAMES.map(plain), "{error}");
    for (op, _) in samples() {
        assert_eq!(plain(op.name()), plain(&form(&op)));
    }
}

#[test]
fn the_shape_is_that_of_the_result() {
    for (op, inputs) in samples() {
        let wanted = shape_of(&op, &inputs).expect("a shape");
        for train in [false, true] {
            assert_eq!(run(&op, &inputs, train).1.size(), wanted, "{}", op.name());
        }
    }
}

#[test]
fn other_inputs_are_refused() {
    for (op, inputs) in samples().into_iter().filter(|(_, inputs)| !inputs.is_empty()) {
        let name = op.name();
        assert!(shape_of(&op, &[]).is_err(), "{name} without inputs");
        let scalar = vec![vec![]; inputs.len()];
        let anything = matches!(
            op,
            Op::Act { .. }
                | Op::Affine { .. }
                | Op::Add
                | Op::Sub
                | Op::Mul
                | Op::Div
                | Op::Dropout { .. }
                | Op::DropPath { .. }
                | Op::FakeQuant { .. }
                | Op::Custom { .. }
        );
        assert_eq!(shape_of(&op, &scalar).is_ok(), anything, "{name} of scalars");
    }
}

#[test]
fn elements_of_the_inputs_are_what_it_says_they_are() {
    for (op, inputs) in samples() {
        let (given, made) = run(&op, &inputs, false);
        let bits = |tensor: &Tensor| -> BTreeSet<u32> {
            let values = Vec::<f32>::try_from(tensor.reshape([-1])).expect("numbers");
            values.into_iter().map(f32::to_bits).collect()
        };
        let known: BTreeSet<u32> = given.iter().flat_map(&bits).collect();
        match op.value() {
            Value::Moved => assert!(bits(&made).is_subset(&known), "{}", op.name()),
            Value::Passed => assert!(made.equal(&given[0]), "{}", op.name()),
            Value::Fixed => {
                let others: Vec<Shape> = inputs.clone();
                assert!(run(&op, &others, true).1.equal(&made), "{}", op.name());
            }
            Value::Table => assert!(bits(&made).is_subset(&known), "{}", op.name()),
            Value::Computed => {}
        }
        assert_eq!(op.moves_values(), matches!(op.value(), Value::Moved | Value::Passed));
    }
}

#[test]
fn axes_of_tensors_are_as_long_as_their_channels() {
    for (op, inputs) in samples() {
        let output = shape_of(&op, &inputs).expect("a shape");
        let on_last = matches!(op.with(|op| op.flow()), Flow::NewLast);
        let channels = |shape: &Shape| if on_last { shape[shape.len() - 1] } else { shape[1] };
        for tensor in op.tensors("n") {
            for (axis, follows) in tensor.axes {
                let wanted = match follows {
                    Follows::Input => channels(&inputs[0]),
                    Follows::Output => channels(&output),
                };
                assert_eq!(tensor.spec.shape[*axis], wanted, "{} {}", op.name(), tensor.spec.key);
            }
        }
    }
    let axes = |op: Op| -> Vec<(String, usize)> {
        let tensors = op.tensors("n").into_iter();
        tensors.map(|tensor| (tensor.spec.key, tensor.axes.len())).collect()
    };
    let named = |counts: [usize; 4]| -> Vec<(String, usize)> {
        let keys = [
            "n.weight",
            "n.bias",
            "n.weight_quant.scale",
            "n.weight_quant.zero_point",
        ];
        keys.map(str::to_owned).into_iter().zip(counts).collect()
    };
    assert_eq!(axes(conv(6, 4, 1)), named([2, 1, 1, 1]));
    assert_eq!(axes(conv(6, 12, 6)), named([1, 1, 1, 1]));
    assert_eq!(axes(conv(6, 4, 2)), named([0, 0, 0, 0]), "channels of wide groups stay");
}

#[test]
fn work_is_counted_and_divides_into_widths() {
    for (op, inputs) in samples() {
        let output = shape_of(&op, &inputs).expect("a shape");
        let refs: Vec<&[i64]> = inputs.iter().map(Vec::as_slice).collect();
        let work = op.work(&refs, &output);
        let macs = work.macs(&output);
        let elements: i64 = output.iter().product();
        let wanted = match op.name() {
            "conv2d" | "deform-conv2d" => {
                let weight = &op.params("n")[0].shape;
                elements * weight[1..].iter().product::<i64>()
            }
            "linear" | "matmul" => elements * 6,
            "custom" => 7,
            _ => 0,
        };
        assert_eq!(macs, wanted, "{}", op.name());
        match work {
            Work::Fixed(_) => {}
            Work::Dense { inputs, outputs, taps } => assert_eq!(elements / outputs * outputs * inputs * taps, macs),
            Work::Depthwise { outputs, taps } => assert_eq!(elements / outputs * outputs * taps, macs),
        }
    }
}

#[test]
fn sizes_that_no_op_has_are_refused() {
    for (op, _) in samples() {
        op.with(|op| op.limits())
            .unwrap_or_else(|reason| panic!("{}: {reason}", op.name()));
    }
    let stated: Vec<Op> = vec![
        Op::Input { channels: 0 },
        conv(6, 4, 5),
        Op::conv(1 << 21, 8, 1, 1, 0, 1, false),
        Op::conv(8, 8, 1, 0, 0, 1, false),
        Op::linear(0, 4, true),
        Op::Slice {
            dim: 1,
            start: -1,
            len: 2,
        },
        Op::Upsample { scale: 0 },
        Op::ChannelShuffle { groups: 0 },
        Op::MaxPool {
            kernel: 3,
            stride: 1,
            padding: 2,
        },
        Op::RelativePositionBias { size: 65 },
        Op::Reshape {
            dims: vec![Dim::Keep(0); 9],
        },
        Op::Constant {
            shape: vec![3],
            values: vec![1.0],
        },
    ];
    for op in stated {
        assert!(op.with(|op| op.limits()).is_err(), "{op:?}");
    }
}

/// Files hold ops in this form: a change here is a change of every checkpoint.
#[test]
fn the_form_in_files_stays() {
    let forms = [
        (
            r#"{"op":"conv2d","cin":6,"cout":4,"kernel":[3,3],"stride":[2,2],"padding":[1,1],"dilation":[1,1],"groups":1,"bias":true}"#,
            Op::conv(6, 4, 3, 2, 1, 1, true),
        ),
        (r#"{"op":"add"}"#, Op::Add),
        (
            r#"{"op":"act","act":{"leaky-relu":0.1}}"#,
            Op::Act {
                act: Activation::LeakyRelu(0.1),
            },
        ),
        (
            r#"{"op":"reshape","dims":[{"keep":0},{"fixed":4},"infer",{"like":1}]}"#,
            Op::Reshape {
                dims: vec![Dim::Keep(0), Dim::Fixed(4), Dim::Infer, Dim::Like(1)],
            },
        ),
        (
            r#"{"op":"custom","custom":{"type":"ops-test-plus-one"}}"#,
            Op::Custom {
                custom: Box::new(PlusOne {}),
            },
        ),
    ];
    for (text, op) in forms {
        assert_eq!(serde_json::to_string(&op).expect("JSON"), text);
    }
    for (op, _) in samples() {
        let text = serde_json::to_string(&op).expect("JSON");
        let again: Op = serde_json::from_str(&text).expect("the op");
        assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
    }
    assert!(serde_json::from_str::<Op>(r#"{"op":"Conv2d","cin":6}"#).is_err());
}
