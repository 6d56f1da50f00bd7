//! PyTorch's own layers as nodes: every setting that changes what they compute is used, or refused.

use serde_json::json;
use yolo_core::graph::{Activation, ReduceKind};
use yolo_core::params::Init;
use yolo_core::{GraphBuilder, Op, ParamRole, Result, ValueId, nn};

use super::super::tree::PtModule;
use super::Context;
use super::settings::refuse;

/// Whether this is a layer of PyTorch, or its copy in YOLOv5's `utils.activations`.
pub(super) fn is_layer(module: &PtModule) -> bool {
    module.class.starts_with("torch.nn.") || module.class.starts_with("utils.activations.")
}

/// Appends a layer called `name` (empty: the scope itself); the value is `x` itself where it computes nothing.
pub(super) fn layer(cx: &Context<'_>, g: &mut GraphBuilder, name: &str, m: &PtModule, x: ValueId) -> Result<ValueId> {
    match m.kind() {
        "Conv2d" => {
            let op = convolution(cx, m)?;
            g.add(name, op, &[x])
        }
        "BatchNorm2d" | "SyncBatchNorm" => {
            let op = batch_norm(cx, m)?;
            g.add(name, op, &[x])
        }
        "Linear" | "NonDynamicallyQuantizableLinear" | "_LinearWithBias" => {
            let op = linear(cx, m)?;
            g.add(name, op, &[x])
        }
        "LayerNorm" => {
            m.only_parts(&["weight", "bias"], &[])?;
            let &[channels] = cx.shape(m, "weight")?.as_slice() else {
                return Err(refuse(m, "only the last axis can be normalised"));
            };
            g.add(
                name,
                Op::LayerNorm {
                    channels,
                    eps: m.float("eps")?,
                },
                &[x],
            )
        }
        "MaxPool2d" => {
            let op = max_pool(m)?;
            g.add(name, op, &[x])
        }
        "AdaptiveAvgPool2d" => {
            m.only_parts(&[], &[])?;
            if m.side("output_size", None)? != 1 {
                return Err(refuse(m, "only an output of 1 x 1 can be expressed"));
            }
            let op = Op::Reduce {
                kind: ReduceKind::Mean,
                dims: vec![2, 3],
            };
            g.add(name, op, &[x])
        }
        "Upsample" | "UpsamplingNearest2d" | "UpsamplingBilinear2d" => {
            let op = upsample(m)?;
            g.add(name, op, &[x])
        }
        "ZeroPad2d" => {
            let op = zero_pad(m)?;
            g.add(name, op, &[x])
        }
        "Dropout" => {
            m.only_parts(&[], &[])?;
            g.add(name, Op::Dropout { p: m.float("p")? }, &[x])
        }
        _ => match activation(m)? {
            Some(act) => g.add(name, Op::Act { act }, &[x]),
            None => Ok(x),
        },
    }
}

fn convolution(cx: &Context<'_>, m: &PtModule) -> Result<Op> {
    m.only_parts(&["weight", "bias"], &[])?;
    m.only("padding_mode", &json!("zeros"))?;
    m.only("transposed", &json!(false))?;
    // PyTorch computes with the tensor's shape, not with what the module says about it.
    let shape = cx.shape(m, "weight")?;
    let &[cout, inner, height, width] = shape.as_slice() else {
        return Err(refuse(
            m,
            format!("its weight has shape {shape:?}, not [cout, cin, height, width]"),
        ));
    };
    let (kernel, groups) = ([height, width], m.int("groups")?);
    let (stride, dilation) = (m.pair("stride", Some([1; 2]))?, m.pair("dilation", Some([1; 2]))?);
    let same = m.attrs.get("padding") == Some(&super::super::tree::Attr::Value(json!("same")));
    let padding = if same {
        let full = [0, 1].map(|axis| dilation[axis] * (kernel[axis] - 1));
        if stride != [1; 2] || full.iter().any(|rows| rows % 2 != 0) {
            return Err(refuse(
                m,
                "padding `same` with an even window or a stride can't be expressed",
            ));
        }
        full.map(|rows| rows / 2)
    } else if m.attrs.get("padding") == Some(&super::super::tree::Attr::Value(json!("valid"))) {
        [0; 2]
    } else {
        m.pair("padding", Some([0; 2]))?
    };
    Ok(Op::Conv2d {
        cin: inner.saturating_mul(groups),
        cout,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias: m.tensors.contains_key("bias"),
        weight_quant: None,
        bias_quant: None,
    })
}

fn batch_norm(cx: &Context<'_>, m: &PtModule) -> Result<Op> {
    m.only_parts(
        &["weight", "bias", "running_mean", "running_var", "num_batches_tracked"],
        &[],
    )?;
    m.only("affine", &json!(true))?;
    m.only("track_running_stats", &json!(true))?;
    let &[channels] = cx.shape(m, "running_mean")?.as_slice() else {
        return Err(refuse(m, "its statistics are no list of channels"));
    };
    Ok(Op::BatchNorm {
        channels,
        eps: m.float("eps")?,
        momentum: m.float("momentum")?,
    })
}

fn linear(cx: &Context<'_>, m: &PtModule) -> Result<Op> {
    m.only_parts(&["weight", "bias"], &[])?;
    let &[cout, cin] = cx.shape(m, "weight")?.as_slice() else {
        return Err(refuse(m, "its weight is no matrix"));
    };
    Ok(Op::linear(cin, cout, m.tensors.contains_key("bias")))
}

fn max_pool(m: &PtModule) -> Result<Op> {
    m.only_parts(&[], &[])?;
    m.only("dilation", &json!(1))?;
    m.only("return_indices", &json!(false))?;
    let kernel = m.side("kernel_size", None)?;
    let stride = m.side("stride", Some(kernel))?;
    // Rounding up makes no difference where nothing is rounded.
    if m.flag("ceil_mode", false)? && stride != 1 {
        return Err(refuse(m, "`ceil_mode` can't be expressed"));
    }
    Ok(Op::MaxPool {
        kernel,
        stride,
        padding: m.side("padding", Some(0))?,
    })
}

fn upsample(m: &PtModule) -> Result<Op> {
    m.only_parts(&[], &[])?;
    if let Some(size) = m.setting("size", "nothing")? {
        return Err(refuse(m, format!("`size` is {size}: only a factor can be expressed")));
    }
    let [height, width] = m.factors()?;
    if height != width || height < 1.0 || height.fract() != 0.0 {
        return Err(refuse(
            m,
            format!("`scale_factor` is {height} x {width}: only one whole number can be expressed"),
        ));
    }
    let scale = height as i64;
    match m.text("mode", "nearest")? {
        // The two agree where the factor is whole.
        "nearest" | "nearest-exact" => Ok(Op::Upsample { scale }),
        "bilinear" if !m.flag("align_corners", false)? => Ok(Op::Bilinear { scale }),
        "bilinear" => Err(refuse(
            m,
            "`bilinear` with `align_corners` can't be expressed (only without)",
        )),
        mode => Err(refuse(
            m,
            format!("the mode `{mode}` can't be expressed (only nearest and bilinear)"),
        )),
    }
}

impl PtModule {
    /// `scale_factor` of an upsampling: vertical, horizontal.
    fn factors(&self) -> Result<[f64; 2]> {
        let value = self.setting("scale_factor", "a number")?;
        let pair = match value {
            Some(serde_json::Value::Array(items)) => match items.as_slice() {
                [h, w] => h.as_f64().zip(w.as_f64()).map(|(h, w)| [h, w]),
                _ => None,
            },
            Some(one) => one.as_f64().map(|factor| [factor; 2]),
            None => None,
        };
        pair.ok_or_else(|| refuse(self, "its `scale_factor` is no number"))
    }
}

fn zero_pad(m: &PtModule) -> Result<Op> {
    m.only_parts(&[], &[])?;
    m.only("value", &json!(0.0))?;
    let sides = match m.setting("padding", "four whole numbers")? {
        Some(serde_json::Value::Array(items)) => {
            items.iter().map(serde_json::Value::as_i64).collect::<Option<Vec<_>>>()
        }
        Some(one) => one.as_i64().map(|all| vec![all; 4]),
        None => None,
    };
    match sides.as_deref() {
        Some(&[left, right, top, bottom]) => Ok(Op::Pad {
            top,
            bottom,
            left,
            right,
        }),
        _ => Err(refuse(m, "its `padding` is not four whole numbers")),
    }
}

/// The activation that a layer is; `None` for the identity. What can't be expressed is refused by its class.
pub(super) fn activation(m: &PtModule) -> Result<Option<Activation>> {
    if !is_layer(m) {
        return Err(unknown(m));
    }
    let act = match m.kind() {
        "Identity" => None,
        "SiLU" => Some(Activation::Silu),
        "ReLU" => Some(Activation::Relu),
        "ReLU6" => {
            m.only("min_val", &json!(0.0))?;
            m.only("max_val", &json!(6.0))?;
            Some(Activation::Relu6)
        }
        "Hardtanh" if (m.float("min_val")?, m.float("max_val")?) == (0.0, 6.0) => Some(Activation::Relu6),
        "LeakyReLU" => {
            let slope = m.float("negative_slope")?;
            if !(0.0..=1.0).contains(&slope) {
                return Err(refuse(m, format!("its slope is {slope}: only 0 to 1 can be expressed")));
            }
            Some(Activation::LeakyRelu(slope))
        }
        "Hardswish" => Some(Activation::Hardswish),
        "Hardsigmoid" => Some(Activation::Hardsigmoid),
        "Sigmoid" => Some(Activation::Sigmoid),
        "Tanh" => Some(Activation::Tanh),
        "GELU" => {
            m.only("approximate", &json!("none"))?;
            Some(Activation::Gelu)
        }
        _ => return Err(unknown(m)),
    };
    m.only_parts(&[], &[])?;
    Ok(act)
}

/// A module whose computation is not known, or has no op.
pub(super) fn unknown(m: &PtModule) -> yolo_core::Error {
    let place = if m.path.is_empty() {
        "the model itself".to_owned()
    } else {
        format!("`{}`", m.path)
    };
    yolo_core::Error::Config(if is_layer(m) {
        format!(
            "{place} is a {} (`{}`), which this program has no op for (activations: SiLU, ReLU, ReLU6, LeakyReLU, Hardswish, \
             Hardsigmoid, Sigmoid, Tanh, GELU, Identity); train the model with one of these in its place",
            m.kind(),
            m.class
        )
    } else {
        format!(
            "it holds a module of class `{}` at {place}, which is not part of YOLOv5 v6 and whose computation is not in the file; \
             rebuild the model as a configuration of plugins and load the weights into that",
            m.class
        )
    })
}

/// `nn.MultiheadAttention` on queries, keys and values of their own, in the current scope; the value is its first result.
pub(super) fn attention(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, inputs: [ValueId; 3]) -> Result<ValueId> {
    m.only_parts(&["in_proj_weight", "in_proj_bias"], &["out_proj"])?;
    m.only("add_zero_attn", &json!(false))?;
    m.only("batch_first", &json!(false))?;
    let heads = m.int("num_heads")?;
    let &[rows, width] = cx.shape(m, "in_proj_weight")?.as_slice() else {
        return Err(refuse(m, "its `in_proj_weight` is no matrix"));
    };
    if rows != 3 * width || heads < 1 || width % heads != 0 || !m.tensors.contains_key("in_proj_bias") {
        return Err(refuse(
            m,
            "only one projection with a bias, divided among the heads, can be expressed",
        ));
    }
    let xavier = Init::Xavier {
        fan_in: width,
        fan_out: 3 * width,
    };
    let parameter = |shape: Vec<i64>, role, init| Op::Parameter { shape, role, init };
    let weight = g.add(
        "in_proj_weight",
        parameter(vec![3 * width, width], ParamRole::Weight, xavier),
        &[],
    )?;
    let bias = g.add(
        "in_proj_bias",
        parameter(vec![3 * width], ParamRole::Bias, Init::Const(0.0)),
        &[],
    )?;
    let mut parts = inputs;
    for (index, (name, slot)) in ["q", "k", "v"].into_iter().zip(&mut parts).enumerate() {
        let part = Op::Slice {
            dim: 0,
            start: index as i64 * width,
            len: width,
        };
        let w = g.add(&format!("{name}_weight"), part.clone(), &[weight])?;
        let b = g.add(&format!("{name}_bias"), part, &[bias])?;
        let y = g.add(&format!("{name}_matmul"), Op::MatMul { transpose_b: true }, &[*slot, w])?;
        *slot = g.add(name, Op::Add, &[y, b])?;
    }
    let y = nn::attention(g, (parts[0], parts[1], parts[2]), heads, |_, scores| Ok(scores))?;
    layer(cx, g, "out_proj", m.child("out_proj")?, y)
}
