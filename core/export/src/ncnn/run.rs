//! Runs a parsed ncnn network on libtorch: the meaning of each layer that we write, taken from ncnn's documentation and not
//! from our lowering, so that a file is checked against something else than its writer.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::model::{Layer, Net, Weight};
use crate::{Error, Result};

/// Looks at what layers read and make, and may put other values in their place.
pub(super) trait Force {
    /// Before a layer runs.
    fn before(&mut self, layer: &Layer, inputs: &mut [Tensor]) -> Result<()>;
    /// After it ran.
    fn after(&mut self, layer: &Layer, outputs: &mut [Tensor]) -> Result<()>;
}

/// Leaves everything as it is.
struct Free;

impl Force for Free {
    fn before(&mut self, _layer: &Layer, _inputs: &mut [Tensor]) -> Result<()> {
        Ok(())
    }
    fn after(&mut self, _layer: &Layer, _outputs: &mut [Tensor]) -> Result<()> {
        Ok(())
    }
}

/// Runs `image` `[1, C, H, W]`; returns every blob that nobody reads, without the batch axis, in file order.
///
/// # Errors
/// [`Error::Unsupported`] names a layer of an unknown kind or setting, and one whose input or weight is absent; [`Error::Core`] where
/// sizes don't go together.
pub fn run(net: &Net, image: &Tensor) -> Result<Vec<(String, Tensor)>> {
    run_forced(net, image, &mut Free)
}

/// As [`run`], under `force`.
pub(super) fn run_forced(net: &Net, image: &Tensor, force: &mut dyn Force) -> Result<Vec<(String, Tensor)>> {
    tch::no_grad(|| {
        let mut blobs: HashMap<&str, Tensor> = HashMap::new();
        let mut order = Vec::new();
        for layer in &net.layers {
            let mut inputs = layer
                .inputs
                .iter()
                .map(|name| {
                    // Every blob has one reader, so it is free afterwards.
                    blobs
                        .remove(name.as_str())
                        .ok_or_else(|| fail(layer, &format!("there is no blob `{name}` to read")))
                })
                .collect::<Result<Vec<_>>>()?;
            force.before(layer, &mut inputs)?;
            let mut outputs = if layer.kind == "Input" {
                vec![image.f_squeeze_dim(0)?]
            } else {
                step(layer, &inputs)?
            };
            force.after(layer, &mut outputs)?;
            for (name, tensor) in layer.outputs.iter().zip(outputs) {
                order.push(name.as_str());
                blobs.insert(name, tensor);
            }
        }
        Ok(order
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), blobs.remove(name)?)))
            .collect())
    })
}

fn fail(layer: &Layer, reason: &str) -> Error {
    Error::Unsupported(format!("ncnn layer `{}` ({}): {reason}", layer.name, layer.kind))
}

fn step(layer: &Layer, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    if layer.kind == "Split" {
        let x = inputs.first().ok_or_else(|| fail(layer, "it has no input"))?;
        return Ok(layer.outputs.iter().map(|_| x.shallow_clone()).collect());
    }
    if layer.kind == "MemoryData" {
        let values = weight(layer, 0)?;
        let dims: Vec<i64> = [2, 11, 1, 0]
            .iter()
            .map(|id| layer.int(*id, 0))
            .filter(|d| *d > 0)
            .collect();
        return Ok(vec![values.f_reshape(dims.as_slice())?]);
    }
    let x = inputs.first().ok_or_else(|| fail(layer, "it has no input"))?;
    let second = || inputs.get(1).ok_or_else(|| fail(layer, "it lacks its second input"));
    let y = match layer.kind.as_str() {
        "Convolution" | "ConvolutionDepthWise" => convolution(layer, x)?,
        "DeformableConv2D" => {
            let third = inputs.get(2).ok_or_else(|| fail(layer, "it lacks its mask"))?;
            let bias = if layer.int(5, 0) == 1 {
                Some(weight(layer, 1)?)
            } else {
                None
            };
            super::deform::run(layer, [x, second()?, third], &weight(layer, 0)?, bias.as_ref())?
        }
        "BatchNorm" => {
            let at = |i: usize| -> Result<Tensor> { Ok(weight(layer, i)?.f_reshape([-1, 1, 1])?) };
            let deviation = at(2)?.f_add_scalar(f64::from(layer.float(1, 0.0)))?.f_sqrt()?;
            x.f_sub(&at(1)?)?.f_div(&deviation)?.f_mul(&at(0)?)?.f_add(&at(3)?)?
        }
        "LayerNorm" => x.f_layer_norm(
            [layer.int(0, 0)],
            Some(weight(layer, 0)?),
            Some(weight(layer, 1)?),
            f64::from(layer.float(1, 0.001)),
            false,
        )?,
        "InnerProduct" => {
            let rows = weight(layer, 0)?.f_reshape([layer.int(0, 0), -1])?;
            let bias = if layer.int(1, 0) == 1 {
                Some(weight(layer, 1)?)
            } else {
                None
            };
            x.f_linear(&rows, bias)?
        }
        "Swish" => x.f_silu()?,
        "ReLU" => {
            let slope = f64::from(layer.float(0, 0.0));
            x.f_clamp_min(0.0)?.f_add(&x.f_clamp_max(0.0)?.f_mul_scalar(slope)?)?
        }
        "Clip" => {
            let (low, high) = (layer.float(0, f32::MIN), layer.float(1, f32::MAX));
            x.f_clamp(f64::from(low), f64::from(high))?
        }
        "HardSigmoid" => hard_sigmoid(x, layer.float(0, 0.2), layer.float(1, 0.5))?,
        "HardSwish" => x.f_mul(&hard_sigmoid(x, layer.float(0, 0.2), layer.float(1, 0.5))?)?,
        "Sigmoid" => x.f_sigmoid()?,
        "GELU" => x.f_gelu("none")?,
        "TanH" => x.f_tanh()?,
        "BinaryOp" => {
            let scalar = Tensor::from(layer.float(2, 0.0));
            let other = if layer.int(1, 0) == 1 { &scalar } else { second()? };
            match layer.int(0, 0) {
                0 => x.f_add(other)?,
                1 => x.f_sub(other)?,
                2 => x.f_mul(other)?,
                3 => x.f_div(other)?,
                7 => other.f_sub(x)?,
                8 => other.f_div(x)?,
                kind => return Err(fail(layer, &format!("operation {kind} is unknown"))),
            }
        }
        "Concat" => Tensor::f_cat(inputs, layer.int(0, 0))?,
        "Crop" => {
            let mut y = x.shallow_clone();
            for ((axis, start), end) in layer.ints(11).iter().zip(layer.ints(9)).zip(layer.ints(10)) {
                y = y.f_narrow(*axis, *start, end - start)?;
            }
            y
        }
        "ShuffleChannel" => {
            let size = x.size();
            let groups = layer.int(0, 1);
            x.f_reshape([groups, -1, size[1], size[2]])?
                .f_transpose(0, 1)?
                .f_reshape(size.as_slice())?
        }
        "Reorg" => {
            let (c, h, w) = x.size3()?;
            let s = layer.int(0, 1);
            x.f_reshape([c, h / s, s, w / s, s])?
                .f_permute([2, 4, 0, 1, 3])?
                .f_reshape([c * s * s, h / s, w / s])?
        }
        "Pooling" => pooling(layer, x)?,
        "Reduction" => {
            let keep = layer.int(4, 0) == 1;
            let axes = layer.ints(3);
            match layer.int(0, 0) {
                0 => x.f_sum_dim_intlist(axes, keep, None::<Kind>)?,
                3 => x.f_mean_dim(axes, keep, None::<Kind>)?,
                4 => x.f_amax(axes, keep)?,
                kind => return Err(fail(layer, &format!("operation {kind} is unknown"))),
            }
        }
        "Interp" if matches!(layer.int(0, 0), 1 | 2) => {
            let (_, h, w) = x.size3()?;
            let scaled = |size: i64, id: i64| (size as f32 * layer.float(id, 1.0)) as i64;
            let (x, size) = (x.f_unsqueeze(0)?, [scaled(h, 1), scaled(w, 2)]);
            let y = if layer.int(0, 0) == 1 {
                x.f_upsample_nearest2d(size, None, None)?
            } else {
                x.f_upsample_bilinear2d(size, false, None, None)?
            };
            y.f_squeeze_dim(0)?
        }
        "MatMul" if layer.int(0, 0) == 1 => x.f_matmul(&second()?.f_transpose(-2, -1)?)?,
        "MatMul" => x.f_matmul(second()?)?,
        "Softmax" => x.f_softmax(layer.int(0, 0), None::<Kind>)?,
        "Reshape" => {
            let dims: Vec<i64> = [2, 11, 1, 0]
                .iter()
                .map(|id| layer.int(*id, -233))
                .filter(|d| *d != -233)
                .collect();
            x.f_reshape(dims.as_slice())?
        }
        "Permute" => permute(layer, x)?,
        "Padding" => x.f_constant_pad_nd([layer.int(2, 0), layer.int(3, 0), layer.int(0, 0), layer.int(1, 0)])?,
        _ => return Err(fail(layer, "this program does not run it; use ncnn itself")),
    };
    Ok(vec![y])
}

fn weight(layer: &Layer, index: usize) -> Result<Tensor> {
    Ok(match layer.weights.get(index) {
        Some(Weight::Tagged(values) | Weight::Plain(values)) => Tensor::f_from_slice(values)?,
        Some(Weight::Half(values)) => Tensor::f_from_slice(&values.iter().map(|v| v.to_f32()).collect::<Vec<_>>())?,
        Some(Weight::Int8(values)) => Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?,
        None => return Err(fail(layer, &format!("weight {index} is absent"))),
    })
}

fn hard_sigmoid(x: &Tensor, alpha: f32, beta: f32) -> Result<Tensor, tch::TchError> {
    x.f_mul_scalar(f64::from(alpha))?
        .f_add_scalar(f64::from(beta))?
        .f_clamp(0.0, 1.0)
}

fn convolution(layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let n = |id: i64, default: i64| layer.int(id, default);
    let group = if layer.kind == "Convolution" { 1 } else { n(7, 1) };
    let (kw, dw, sw, left) = (n(1, 0), n(2, 1), n(3, 1), n(4, 0));
    let (kh, dh, sh, top) = (n(11, kw), n(12, dw), n(13, sw), n(14, left));
    let pads = [left, n(15, left), top, n(16, top)];
    let cout = n(0, 0);
    let kernel = weight(layer, 0)?.f_reshape([cout, -1, kh, kw])?;
    let bias = if n(5, 0) == 1 { Some(weight(layer, 1)?) } else { None };
    let conv = |x: &Tensor, kernel: &Tensor, bias: Option<&Tensor>| -> Result<Tensor, tch::TchError> {
        let x = x.f_unsqueeze(0)?.f_constant_pad_nd(pads)?;
        x.f_conv2d(kernel, bias, [sh, sw], [0, 0], [dh, dw], group)?
            .f_squeeze_dim(0)
    };
    let y = if n(8, 0) == 0 {
        conv(x, &kernel, bias.as_ref())?
    } else {
        // Integers in f64: sums of products of bytes are exact. ncnn rounds half away from zero.
        let first = 1 + usize::from(bias.is_some());
        let double = |t: &Tensor| t.f_to_kind(Kind::Double);
        let weight_scale = double(&weight(layer, first)?)?;
        let input_scale = weight(layer, first + 1)?.f_double_value(&[0])?;
        let integers = quantized(x, input_scale)?;
        let sums = conv(&integers, &double(&kernel)?, None)?;
        let y = sums
            .f_div(&weight_scale.f_mul_scalar(input_scale)?.f_reshape([-1, 1, 1])?)?
            .f_to_kind(Kind::Float)?;
        match &bias {
            Some(bias) => y.f_add(&bias.f_reshape([-1, 1, 1])?)?,
            None => y,
        }
    };
    let arguments = layer.floats(10);
    let argument = |i: usize| f64::from(arguments.get(i).copied().unwrap_or_default());
    Ok(match n(9, 0) {
        0 => y,
        1 => y.f_relu()?,
        2 => y
            .f_clamp_min(0.0)?
            .f_add(&y.f_clamp_max(0.0)?.f_mul_scalar(argument(0))?)?,
        3 => y.f_clamp(argument(0), argument(1))?,
        4 => y.f_sigmoid()?,
        6 => y.f_mul(&hard_sigmoid(&y, argument(0) as f32, argument(1) as f32)?)?,
        kind => return Err(fail(layer, &format!("activation {kind} is unknown"))),
    })
}

/// The integers that ncnn makes of a value, as f64.
pub(super) fn quantized(x: &Tensor, scale: f64) -> Result<Tensor> {
    let scaled = x.f_to_kind(Kind::Double)?.f_mul_scalar(scale)?;
    let away_from_zero = scaled.f_abs()?.f_add_scalar(0.5)?.f_floor()?.f_mul(&scaled.f_sign()?)?;
    Ok(away_from_zero.f_clamp(-127.0, 127.0)?)
}

fn pooling(layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let n = |id: i64, default: i64| layer.int(id, default);
    if n(5, 0) != 1 || n(4, 0) != 0 {
        return Err(fail(layer, "only windows with pad mode 1 are known"));
    }
    let (k, s, p) = (
        [n(11, n(1, 0)), n(1, 0)],
        [n(12, n(2, 1)), n(2, 1)],
        [n(13, n(3, 0)), n(3, 0)],
    );
    let x = x.f_unsqueeze(0)?;
    let y = if n(0, 0) == 0 {
        x.f_max_pool2d(k, s, p, [1, 1], false)?
    } else {
        x.f_avg_pool2d(k, s, p, false, n(6, 0) == 1, None::<i64>)?
    };
    Ok(y.f_squeeze_dim(0)?)
}

/// The documentation lists orders as new (width, height, depth, channels); axes of a tensor run the other way.
fn permute(layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let kind = layer.int(0, 0);
    let order: &[i64] = match (x.dim(), kind) {
        (2, 0) => &[0, 1],
        (2, 1) => &[1, 0],
        (3, 0) => &[0, 1, 2],
        (3, 1) => &[0, 2, 1],
        (3, 2) => &[1, 0, 2],
        (3, 3) => &[1, 2, 0],
        (3, 4) => &[2, 0, 1],
        (3, 5) => &[2, 1, 0],
        (4, 0) => &[0, 1, 2, 3],
        (4, 1) => &[0, 1, 3, 2],
        (4, 2) => &[0, 2, 1, 3],
        _ => {
            return Err(fail(
                layer,
                &format!("order {kind} of {} axes is unknown here", x.dim()),
            ));
        }
    };
    Ok(x.f_permute(order)?.f_contiguous()?)
}
