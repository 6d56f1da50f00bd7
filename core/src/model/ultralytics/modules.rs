//! The modules that need no plugin: convolutions, residual blocks, joins and PyTorch's own layers.

use serde_json::{Value, json};

use super::{Call, LayerModule};
use crate::graph::Activation;
use crate::nn::{self, BottleneckOptions, ConvOptions};
use crate::{Error, GraphBuilder, Op, Result, ValueId};

macro_rules! modules {
    ($($name:literal, $channels:literal, $inside:literal, $ratio:expr, $build:ident;)*) => {$(
        inventory::submit! {
            LayerModule {
                name: $name,
                takes_channels: $channels,
                repeats_inside: $inside,
                ratio_after: $ratio,
                build: $build,
            }
        }
    )*};
}

// name, first argument is the width, repeats inside, arguments before a trailing ratio, builder
modules! {
    "Conv", true, false, Some(0), conv;
    "DWConv", true, false, Some(0), depthwise;
    "Focus", true, false, Some(0), focus;
    "CrossConv", true, false, Some(4), cross_conv;
    "MixConv2d", true, false, None, mix_conv;
    "Bottleneck", true, false, Some(3), bottleneck;
    "BottleneckCSP", true, true, Some(3), bottleneck_csp;
    "Concat", false, false, None, concat;
    "Sum", false, false, None, sum;
    "Contract", false, false, None, contract;
    "nn.Upsample", false, false, None, upsample;
    "nn.MaxPool2d", false, false, None, max_pool;
    "nn.ZeroPad2d", false, false, None, zero_pad;
    "nn.BatchNorm2d", false, false, None, batch_norm;
}

/// Kernel, stride, padding, groups and activation; v7.0 has a dilation before the activation.
fn conv_options(call: &Call<'_>) -> Result<ConvOptions> {
    call.at_most(6)?;
    let act = if call.args.len() > 5 {
        call.only(4, &json!(1))?;
        5
    } else {
        // v6.0 has the activation here, v7.0 the dilation.
        if call
            .args
            .get(4)
            .and_then(Value::as_i64)
            .is_some_and(|dilation| dilation > 1)
        {
            call.only(4, &json!(1))?;
        }
        4
    };
    Ok(ConvOptions {
        kernel: call.side(0, 1)?,
        stride: call.side(1, 1)?,
        padding: match call.int(2, -1)? {
            -1 => None,
            padding => Some(padding),
        },
        groups: call.int(3, 1)?,
        act: call.flag(act, true)?.then_some(Activation::Silu),
    })
}

fn conv(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    nn::conv_bn_act(g, call.input().value, call.channels, conv_options(call)?)
}

fn depthwise(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(3)?;
    let options = ConvOptions {
        kernel: call.int(0, 1)?,
        stride: call.int(1, 1)?,
        groups: greatest_divisor(call.input().channels, call.channels),
        act: call.flag(2, true)?.then_some(Activation::Silu),
        ..ConvOptions::default()
    };
    nn::conv_bn_act(g, call.input().value, call.channels, options)
}

fn greatest_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

fn focus(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    nn::focus(g, call.input().value, call.channels, conv_options(call)?)
}

/// A 1 x k, then a k x 1 convolution.
fn cross_conv(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(5)?;
    let (kernel, stride, groups) = (call.int(0, 3)?, call.int(1, 1)?, call.int(2, 1)?);
    let hidden = (call.channels as f64 * call.float(3, 1.0)?) as i64;
    let x = call.input();
    let mut half = |name: &str, from: ValueId, cout: i64, vertical: bool, groups: i64| {
        g.scope(name, |g| {
            let pair = |value: i64, other: i64| if vertical { [value, other] } else { [other, value] };
            let op = Op::Conv2d {
                cin: g.channels(from),
                cout,
                kernel: pair(kernel, 1),
                stride: pair(stride, 1),
                padding: pair(kernel / 2, 0),
                dilation: [1; 2],
                groups,
                bias: false,
                weight_quant: None,
                bias_quant: None,
            };
            let y = g.add("conv", op, &[from])?;
            let y = nn::batch_norm(g, "bn", y)?;
            let act = Activation::Silu;
            g.add("act", Op::Act { act }, &[y])
        })
    };
    let y = half("cv1", x.value, hidden, false, 1)?;
    let y = half("cv2", y, call.channels, true, groups)?;
    if call.flag(4, false)? && x.channels == call.channels {
        g.add("add", Op::Add, &[x.value, y])
    } else {
        Ok(y)
    }
}

/// Convolutions of several sizes side by side (MixConv, arXiv 1907.09595), channels in equal parts, with a residual connection.
fn mix_conv(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(3)?;
    call.only(2, &json!(true))?;
    let (kernels, stride) = (call.ints(0, &[1, 3])?, call.int(1, 1)?);
    let x = call.input();
    let parts = kernels.len() as i64;
    let mut values = Vec::new();
    for (part, kernel) in (0..).zip(&kernels) {
        let start = (call.channels * part + parts - 1) / parts;
        let end = (call.channels * (part + 1) + parts - 1) / parts;
        let op = Op::conv(x.channels, end - start, *kernel, stride, kernel / 2, 1, false);
        values.push(g.add(&format!("m.{part}"), op, &[x.value])?);
    }
    let y = g.add("cat", Op::Concat { dim: 1 }, &values)?;
    let y = nn::batch_norm(g, "bn", y)?;
    let act = Activation::LeakyRelu(0.1);
    let y = g.add("act", Op::Act { act }, &[y])?;
    g.add("add", Op::Add, &[x.value, y])
}

fn bottleneck_options(call: &Call<'_>) -> Result<BottleneckOptions> {
    call.at_most(3)?;
    Ok(BottleneckOptions {
        shortcut: call.flag(0, true)?,
        groups: call.int(1, 1)?,
        expansion: call.float(2, 0.5)?,
    })
}

fn bottleneck(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    nn::bottleneck(g, call.input().value, call.channels, bottleneck_options(call)?)
}

fn bottleneck_csp(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let options = bottleneck_options(call)?;
    nn::bottleneck_csp(g, call.input().value, call.channels, call.repeats, options)
}

fn values(call: &Call<'_>) -> Vec<ValueId> {
    call.inputs().iter().map(|feat| feat.value).collect()
}

fn concat(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(1)?;
    // Maps have four axes, and negative numbers count from the last.
    let axis = call.int(0, 1)?;
    let Some(dim) = (0..4usize).find(|dim| [*dim as i64, *dim as i64 - 4].contains(&axis)) else {
        return Err(Error::Build {
            plugin: "Concat".into(),
            reason: format!("axis {axis} does not exist: maps are joined along axis 1"),
        });
    };
    g.add("", Op::Concat { dim }, &values(call))
}

fn sum(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    if call.flag(1, false)? {
        return Err(Error::Build {
            plugin: "Sum".into(),
            reason: "weights are not supported here: use the neck block `bifpn`".into(),
        });
    }
    let mut inputs = values(call).into_iter();
    let mut total = inputs.next().unwrap_or(ValueId::IMAGE);
    for (index, value) in inputs.enumerate() {
        total = g.add(&format!("add{index}"), Op::Add, &[total, value])?;
    }
    Ok(total)
}

/// 2 x 2 blocks to channels, rows before columns (`SpaceToDepth` has columns before rows).
fn contract(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    if call.int(0, 2)? != 2 {
        return Err(Error::Build {
            plugin: "Contract".into(),
            reason: "only a gain of 2 is supported".into(),
        });
    }
    let x = call.input();
    let blocks = g.add("blocks", Op::SpaceToDepth, &[x.value])?;
    let mut parts = Vec::new();
    for (index, from) in [0, 2, 1, 3].into_iter().enumerate() {
        let op = Op::Slice {
            dim: 1,
            start: from * x.channels,
            len: x.channels,
        };
        parts.push(g.add(&format!("part{index}"), op, &[blocks])?);
    }
    g.add("cat", Op::Concat { dim: 1 }, &parts)
}

fn upsample(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(5)?;
    call.only(0, &Value::Null)?;
    let scale = call.needed_int(1)?;
    let op = match call.args.get(2) {
        None | Some(Value::Null) => Op::Upsample { scale },
        Some(mode) if mode == "nearest" => Op::Upsample { scale },
        Some(mode) if mode == "bilinear" => Op::Bilinear { scale },
        Some(mode) => {
            return Err(Error::Build {
                plugin: "nn.Upsample".into(),
                reason: format!("the mode {mode} is not supported: nearest or bilinear"),
            });
        }
    };
    call.only(3, &json!(false))?;
    g.add("", op, &[call.input().value])
}

fn max_pool(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(6)?;
    // Dilation, indices, rounding up.
    call.only(3, &json!(1))?;
    call.only(4, &json!(false))?;
    call.only(5, &json!(false))?;
    let kernel = call.needed_int(0)?;
    let op = Op::MaxPool {
        kernel,
        stride: call.int(1, kernel)?,
        padding: call.int(2, 0)?,
    };
    g.add("", op, &[call.input().value])
}

fn zero_pad(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(1)?;
    let op = match call.ints(0, &[])?.as_slice() {
        [all] => Op::Pad {
            top: *all,
            bottom: *all,
            left: *all,
            right: *all,
        },
        [left, right, top, bottom] => Op::Pad {
            top: *top,
            bottom: *bottom,
            left: *left,
            right: *right,
        },
        _ => {
            return Err(Error::Build {
                plugin: "nn.ZeroPad2d".into(),
                reason: "it takes one number, or left, right, top, bottom".into(),
            });
        }
    };
    g.add("", op, &[call.input().value])
}

fn batch_norm(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    nn::batch_norm(g, "", call.input().value)
}
