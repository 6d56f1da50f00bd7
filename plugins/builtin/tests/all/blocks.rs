//! The blocks against direct computations in double precision, and what the reference gets wrong.

use serde_json::{Value, json};
use tch::{Device, Kind as DType, Tensor};
use yolo_core::graph::{Graph, Op};
use yolo_core::plugin::BlockRequest;
use yolo_core::{GraphBuilder, Mode, NeckBlock, ParamRole, Params, Program, ValueId, testing};

use crate::published;

/// A graph of one block on a map of `channels`; repeats inside, residual connections off.
fn block_graph(config: Value, channels: i64, repeats: i64) -> Graph {
    let block: Box<dyn NeckBlock> = serde_json::from_value(config).expect("a block");
    let mut g = GraphBuilder::new(channels);
    let image = g.image();
    let request = BlockRequest {
        channels,
        repeats,
        shortcut: false,
    };
    let inputs = vec![image; block.arity().min];
    let out = g
        .layer(block.layer_name(), &inputs, |g| block.build(g, &inputs, request))
        .expect("it builds");
    g.finish(vec![out.value], None).expect("a graph")
}

fn value(graph: &Graph, name: &str) -> ValueId {
    let index = graph.nodes.iter().position(|node| node.name == name);
    ValueId(index.unwrap_or_else(|| panic!("no node `{name}`")) as u32)
}

/// Runs in double precision and returns the named values.
fn values(graph: &Graph, params: &Params, image: &Tensor, names: &[&str]) -> Vec<Tensor> {
    let params = params.to(Device::Cpu, DType::Double);
    let program = Program::new(graph, &params).expect("tensors fit");
    let wanted: Vec<ValueId> = names.iter().map(|name| value(graph, name)).collect();
    // Kept values are copied: a later activation may overwrite them.
    let mut kept: Vec<Option<Tensor>> = wanted.iter().map(|_| None).collect();
    tch::no_grad(|| {
        program.run_observed(&image.to_kind(DType::Double), Mode::Eval, |id, tensor| {
            for (slot, _) in kept.iter_mut().zip(&wanted).filter(|(_, w)| **w == id) {
                *slot = Some(tensor.copy());
            }
            Ok(())
        })
    })
    .expect("a forward");
    kept.into_iter().map(|tensor| tensor.expect("computed")).collect()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(DType::Double).contiguous().reshape([-1])).expect("numbers")
}

fn close(a: &[f64], b: &[f64], tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() < tolerance, "{what}, element {index}: {a} instead of {b}");
    }
}

/// Equation 1 of DCNv2, tap by tap: bilinear interpolation with zeros outside the map.
#[test]
fn deformable_convolution_is_equation_1() {
    const C: i64 = 4;
    let graph = block_graph(json!({"type": "deform", "form": "conv"}), C, 1);
    let mut params = testing::fill_params(&graph, 2.0);
    // Offsets of several cells, so that taps leave the map on every side.
    params.insert("model.0.offset_gain", Tensor::from_slice(&[4.0f32]));
    // The last map is one row high: taps above and below it are outside.
    for (h, w) in [(6usize, 7usize), (1, 5)] {
        let image = testing::input(1, C, h as i64, w as i64);
        let names = ["model.0.moved", "model.0.mask", "model.0.conv"];
        let found = values(&graph, &params, &image, &names);
        let (offset, mask) = (flat(&found[0]), flat(&found[1]));
        assert!(offset.iter().any(|v| v.abs() > 2.0) && offset.iter().any(|v| v.fract() != 0.0));
        let (x, weight) = (flat(&image), flat(params.get("model.0.conv.weight").expect("a weight")));
        let at = |channel: usize, y: i64, x0: i64| {
            let inside = (0..h as i64).contains(&y) && (0..w as i64).contains(&x0);
            if inside {
                x[(channel * h + y as usize) * w + x0 as usize]
            } else {
                0.0
            }
        };
        let mut expected = Vec::new();
        for cout in 0..C as usize {
            for row in 0..h {
                for column in 0..w {
                    let mut sum = 0.0;
                    for tap in 0..9 {
                        let place = |plane: usize| plane * h * w + row * w + column;
                        let y = row as f64 - 1.0 + (tap / 3) as f64 + offset[place(2 * tap)];
                        let x0 = column as f64 - 1.0 + (tap % 3) as f64 + offset[place(2 * tap + 1)];
                        let (top, left) = (y.floor(), x0.floor());
                        let (fy, fx) = (y - top, x0 - left);
                        for cin in 0..C as usize {
                            let corner = |dy: i64, dx: i64| at(cin, top as i64 + dy, left as i64 + dx);
                            let sample = (1.0 - fy) * ((1.0 - fx) * corner(0, 0) + fx * corner(0, 1))
                                + fy * ((1.0 - fx) * corner(1, 0) + fx * corner(1, 1));
                            sum += weight[(cout * C as usize + cin) * 9 + tap] * sample * mask[place(tap)];
                        }
                    }
                    expected.push(sum);
                }
            }
        }
        close(&flat(&found[2]), &expected, 1e-9, "deformable convolution");
    }
    let image = testing::input(1, C, 6, 7);
    // It starts as a regular grid.
    let fresh = Params::init(&graph, 0);
    let found = values(&graph, &fresh, &image, &["model.0.moved"]);
    assert!(flat(&found[0]).iter().all(|v| *v == 0.0));
}

/// Equation 3 of EfficientDet.
#[test]
fn weighted_fusion_is_equation_3() {
    let graph = block_graph(json!({"type": "bifpn"}), 3, 1);
    let mut params = Params::init(&graph, 0);
    params.insert("model.0.w", Tensor::from_slice(&[2.0f32, -1.0]));
    let image = testing::input(1, 3, 4, 4);
    let out = values(&graph, &params, &image, &["model.0.add1"]);
    // Weights are clipped at zero: 2 / (2 + eps) and 0.
    let expected: Vec<f64> = flat(&image).iter().map(|x| x * 2.0 / (2.0 + 1e-4)).collect();
    close(&flat(&out[0]), &expected, 1e-9, "weighted fusion");
}

/// Which windows and regions a token belongs to, from the paper's figure 4: token (y, x) of the map, rolled by `-shift`, falls into
/// a window; in the last windows the part that was rolled in from the other side is a region of its own.
fn neighbourhood(y: i64, x: i64, size: (i64, i64), window: i64, shift: i64) -> (i64, i64, bool, bool) {
    let side = |p: i64, len: i64| {
        let padded = (len + window - 1) / window * window;
        let rolled = (p - shift).rem_euclid(padded);
        (rolled / window, rolled >= padded - shift)
    };
    let ((wy, ry), (wx, rx)) = (side(y, size.0), side(x, size.1));
    (wy, wx, ry, rx)
}

/// One attention of C3STR, token by token, on maps whose sides are no multiple of the window: padded tokens play no part.
#[test]
fn window_attention_is_equation_4() {
    const WINDOW: i64 = 4;
    let graph = block_graph(json!({"type": "c3str", "window": WINDOW, "head_width": 8}), 16, 2);
    let params = testing::fill_params(&graph, 2.0);
    for (h, w) in [(6, 9), (8, 8), (3, 4), (5, 2)] {
        let image = testing::input(1, 16, h, w);
        for (block, shift) in [(0, 0), (1, WINDOW / 2)] {
            let scope = format!("model.0.m.blocks.{block}");
            let names = [format!("{scope}.add1"), format!("{scope}.merged")];
            let inputs = graph.node(value(&graph, &names[0])).inputs.clone();
            let before = graph.node(inputs[0]).name.clone();
            let found = values(&graph, &params, &image, &[&before, &names[1]]);
            // One window over the whole map is not shifted.
            let shift = if h <= WINDOW && w <= WINDOW { 0 } else { shift };
            let own = flat(&found[1]);
            let expected = direct_attention(&flat(&found[0]), &params, &scope, (h, w), WINDOW, shift);
            close(&own, &expected, 1e-9, &format!("block {block} on {h} x {w}"));
        }
    }
}

/// Layer norm, qkv, softmax(q k / sqrt(d) + bias) v, projection, in plain loops; one head of 8 channels.
fn direct_attention(
    map: &[f64],
    params: &Params,
    scope: &str,
    (h, w): (i64, i64),
    window: i64,
    shift: i64,
) -> Vec<f64> {
    const C: usize = 8;
    let get = |key: &str| flat(params.get(&format!("{scope}.{key}")).expect("a tensor"));
    let (gamma, beta) = (get("norm1.weight"), get("norm1.bias"));
    let (wqkv, bqkv) = (get("attn.qkv.weight"), get("attn.qkv.bias"));
    let (wproj, bproj) = (get("attn.proj.weight"), get("attn.proj.bias"));
    let table = get("attn.relative_position_bias_table");
    let linear = |x: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
        bias.iter()
            .enumerate()
            .map(|(o, b)| b + x.iter().enumerate().map(|(i, x)| x * weight[o * C + i]).sum::<f64>())
            .collect()
    };
    let cells = (h * w) as usize;
    let qkv: Vec<Vec<f64>> = (0..cells)
        .map(|cell| {
            let x: Vec<f64> = (0..C).map(|c| map[c * cells + cell]).collect();
            let mean = x.iter().sum::<f64>() / C as f64;
            let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / C as f64;
            let x: Vec<f64> = x
                .iter()
                .enumerate()
                .map(|(c, v)| (v - mean) / (var + 1e-5).sqrt() * gamma[c] + beta[c])
                .collect();
            linear(&x, &wqkv, &bqkv)
        })
        .collect();
    let place = |cell: usize| (cell as i64 / w, cell as i64 % w);
    let home = |cell: usize| {
        let (y, x) = place(cell);
        neighbourhood(y, x, (h, w), window, shift)
    };
    // Relative positions are those inside of the window, after rolling.
    let inside = |cell: usize| {
        let (y, x) = place(cell);
        let padded = |len: i64| (len + window - 1) / window * window;
        (
            (y - shift).rem_euclid(padded(h)) % window,
            (x - shift).rem_euclid(padded(w)) % window,
        )
    };
    let mut out = vec![0.0; C * cells];
    for a in 0..cells {
        let others: Vec<usize> = (0..cells).filter(|b| home(*b) == home(a)).collect();
        let scores: Vec<f64> = others
            .iter()
            .map(|b| {
                let dot: f64 = (0..C).map(|c| qkv[a][c] * qkv[*b][C + c]).sum();
                let (dy, dx) = (inside(a).0 - inside(*b).0, inside(a).1 - inside(*b).1);
                let row = (dy + window - 1) * (2 * window - 1) + dx + window - 1;
                dot / (C as f64).sqrt() + table[row as usize]
            })
            .collect();
        let total: f64 = scores.iter().map(|s| s.exp()).sum();
        let mixed: Vec<f64> = (0..C)
            .map(|c| {
                others
                    .iter()
                    .zip(&scores)
                    .map(|(b, s)| s.exp() / total * qkv[*b][2 * C + c])
                    .sum()
            })
            .collect();
        for (c, v) in linear(&mixed, &wproj, &bproj).into_iter().enumerate() {
            out[c * cells + a] = v;
        }
    }
    out
}

/// The transformer blocks run in half precision: masks and biases follow the kind of the map.
#[test]
fn transformer_blocks_run_in_half_precision() {
    for name in ["c3tr", "c3str"] {
        let graph = block_graph(json!({"type": name}), 64, 2);
        let full = Params::init(&graph, 3);
        let image = testing::input(1, 64, 11, 13);
        let run = |params: &Params, image: &Tensor| {
            tch::no_grad(|| {
                Program::new(&graph, params)
                    .expect("tensors fit")
                    .run(image, Mode::Eval)
            })
            .expect("a forward")
        };
        let expected = &run(&full, &image)[0];
        let half = full.to(Device::Cpu, DType::Half);
        let own = &run(&half, &image.to_kind(DType::Half))[0];
        assert_eq!(own.kind(), DType::Half, "{name}");
        let difference = (own.to_kind(DType::Float) - expected).abs().max().double_value(&[]);
        // Half precision has 11 bits; the block chains some twenty ops on values around 1.
        assert!(difference < 0.02, "{name}: {difference}");
    }
}

/// The published transformer does not see where a token stands; ours does.
#[test]
fn the_encoder_sees_positions() {
    let turned = |variant: &str| {
        let graph = block_graph(json!({"type": "c3tr", "variant": variant}), 16, 1);
        let params = testing::fill_params(&graph, 2.0).to(Device::Cpu, DType::Double);
        let program = Program::new(&graph, &params).expect("tensors fit");
        let image = testing::input(1, 16, 4, 4).to_kind(DType::Double);
        // All other layers work on single cells, so a permutation of cells passes through a block without positions.
        let run = |x: &Tensor| {
            tch::no_grad(|| program.run(x, Mode::Eval))
                .expect("a forward")
                .remove(0)
        };
        let difference = run(&image.flip([2])).flip([2]) - run(&image);
        difference.abs().max().double_value(&[])
    };
    assert!(turned("published") < 1e-9);
    assert!(turned("encoder") > 1e-3);
}

/// Stochastic depth drops whole samples in training, keeps the mean, and does nothing in eval.
#[test]
fn stochastic_depth_acts_in_training_only() {
    let mut g = GraphBuilder::new(1);
    let x = g
        .add("drop", Op::DropPath { p: 0.25 }, &[ValueId::IMAGE])
        .expect("an op");
    let graph = g.finish(vec![x], None).expect("a graph");
    let program = Program::new(&graph, &Params::new()).expect("no tensors");
    let image = Tensor::ones([4000, 1, 2, 2], (DType::Float, Device::Cpu));
    let eval = program.run(&image, Mode::Eval).expect("a forward").remove(0);
    assert!(eval.equal(&image));
    tch::manual_seed(5);
    let train = program.run(&image, Mode::Train).expect("a forward").remove(0);
    let samples = train.amax([1, 2, 3], false);
    assert!(
        samples.equal(&train.amin([1, 2, 3], false)),
        "samples are dropped whole"
    );
    let kept = samples
        .gt(0.0)
        .to_kind(DType::Double)
        .mean(DType::Double)
        .double_value(&[]);
    // 4000 draws with p = 0.75: standard deviation 0.007.
    assert!((kept - 0.75).abs() < 0.03, "{kept}");
    assert!((train.max().double_value(&[]) - 1.0 / 0.75).abs() < 1e-6);
    // The published EfficientNet-Lite has it in every residual block but the first stages' first blocks.
    let graph = published::graph("yolov5l-efficientlite0");
    let rates: Vec<f64> = graph
        .nodes
        .iter()
        .filter_map(|node| match node.op {
            Op::DropPath { p } => Some(p),
            _ => None,
        })
        .collect();
    assert_eq!(rates.len(), 9, "one per residual connection");
    assert!(
        rates.windows(2).all(|pair| pair[0] < pair[1]) && rates[8] < 0.2,
        "{rates:?}"
    );
}

/// Everything that attention trains is in a group of the optimizer, norms and tables without decay.
#[test]
fn parameters_are_in_the_right_groups() {
    let roles = |name: &str| -> Vec<(String, ParamRole)> {
        let specs = published::graph(name).param_specs();
        specs.into_iter().map(|spec| (spec.key, spec.role)).collect()
    };
    let role_of = |roles: &[(String, ParamRole)], suffix: &str| -> Vec<ParamRole> {
        let found: Vec<ParamRole> = roles
            .iter()
            .filter(|(key, _)| key.ends_with(suffix))
            .map(|(_, role)| *role)
            .collect();
        assert!(!found.is_empty(), "no {suffix}");
        found
    };
    let tph = roles("yolov5x-tph");
    assert_eq!(role_of(&tph, "in_proj_weight"), vec![ParamRole::Weight; 8]);
    assert_eq!(role_of(&tph, "in_proj_bias"), vec![ParamRole::Bias; 8]);
    assert_eq!(role_of(&tph, "layernorm1.weight"), vec![ParamRole::NormWeight; 8]);
    let swin = roles("yolov5x-swin");
    assert_eq!(
        role_of(&swin, "relative_position_bias_table"),
        vec![ParamRole::Table; 8]
    );
    assert_eq!(role_of(&swin, "norm1.weight"), vec![ParamRole::NormWeight; 8]);
    assert!(
        role_of(&swin, "relative_position_index")
            .iter()
            .all(|role| !role.trainable())
    );
    for (key, role) in tph.iter().chain(&swin) {
        let buffer = key.contains("running_") || key.ends_with("tracked") || key.ends_with("_index");
        assert_eq!(role.trainable(), !buffer, "{key}");
    }
}

/// CBAM's two passes through its channel network share the weights.
#[test]
fn cbam_shares_its_channel_network() {
    let graph = block_graph(json!({"type": "cbam"}), 32, 1);
    let keys: Vec<String> = graph.param_specs().into_iter().map(|spec| spec.key).collect();
    assert_eq!(
        keys,
        [
            "model.0.channel_attention.fc1.weight",
            "model.0.channel_attention.fc2.weight",
            "model.0.spatial_attention.conv1.weight"
        ]
    );
    assert_eq!(graph.param_count(), 2 * 32 * 2 + 2 * 49);
    assert_eq!(graph.cost(64).expect("a cost").layers[0].params, graph.param_count());
}

/// Where a variant pins a published network, the plugin's own default is another one.
#[test]
fn defaults_are_not_the_published_quirks() {
    let has = |config: Value, gate: yolo_core::graph::Activation| {
        let located = yolo_core::config::Located::from_value("net", json!({"extends": "yolov5l", "backbone": config}));
        let graph = yolo_core::model::build(&located, Some(2)).expect("a model");
        graph
            .nodes
            .iter()
            .any(|node| matches!(node.op, Op::Act { act } if act == gate && node.name.contains("Excitation")))
    };
    use yolo_core::graph::Activation::{Hardsigmoid, Sigmoid};
    for name in ["ghostnet", "mobilenet-v3-small", "pp-lcnet"] {
        assert!(has(json!({"type": name}), Hardsigmoid), "{name}");
        assert!(has(json!({"type": name, "variant": "published"}), Sigmoid), "{name}");
    }
    let bias = |variant: &str| {
        let located = yolo_core::config::Located::from_value(
            "net",
            json!({"extends": "yolov5l", "backbone": {"type": "shufflenet-v2", "variant": variant}}),
        );
        let graph = yolo_core::model::build(&located, Some(2)).expect("a model");
        graph
            .nodes
            .iter()
            .any(|node| matches!(node.op, Op::Conv2d { groups, bias: true, .. } if groups > 1))
    };
    assert!(bias("published") && !bias("paper"));
}
