//! One op on libtorch.

use tch::{Kind, Tensor};

use super::{Mode, TrainNorm, deform, window};
use crate::Result;
use crate::graph::{Activation, Dim, Op, ReduceKind};
use crate::quant;

/// What an op may use besides its inputs.
pub(super) struct Place<'a> {
    /// An activation may overwrite its input (eval only).
    pub in_place: bool,
    /// Masks of shifted windows that were made before.
    pub masks: &'a window::Masks,
    /// Computes batch norm in training, if it is there.
    pub norm: Option<&'a dyn TrainNorm>,
}

/// Runs `op`. `params` are the node's tensors in the order of `Op::params`; a constant has its value there.
#[allow(clippy::too_many_lines)] // one match arm per op: splitting it would hide that it is complete
pub(super) fn run(op: &Op, x: &[&Tensor], params: &[Tensor], mode: Mode, place: Place<'_>) -> Result<Tensor> {
    let train = mode == Mode::Train;
    Ok(match op {
        Op::Input { .. } => x[0].shallow_clone(),
        Op::Conv2d {
            stride,
            padding,
            dilation,
            groups,
            bias,
            weight_quant,
            ..
        } => {
            let (weight, bias) = weighted(params, *bias, weight_quant.as_ref(), train)?;
            x[0].f_conv2d(&weight, bias, stride, padding, dilation, *groups)?
        }
        Op::DeformConv2d {
            kernel,
            stride,
            padding,
            dilation,
            bias,
            ..
        } => {
            let bias = bias.then(|| &params[1]);
            deform::deform_conv2d(
                x[0], x[1], x[2], &params[0], bias, *kernel, *stride, *padding, *dilation,
            )?
        }
        Op::BatchNorm { eps, momentum, .. } => {
            let [weight, bias, mean, var, _] = params else {
                return Err(missing(op));
            };
            if let Some(norm) = place.norm.filter(|_| train) {
                return norm.batch_norm(x[0], [weight, bias, mean, var], *momentum, *eps);
            }
            x[0].f_batch_norm(
                Some(weight),
                Some(bias),
                Some(mean),
                Some(var),
                train,
                *momentum,
                *eps,
                false,
            )?
        }
        Op::LayerNorm { channels, eps } => {
            x[0].f_layer_norm([*channels], Some(&params[0]), Some(&params[1]), *eps, false)?
        }
        Op::Linear { bias, weight_quant, .. } => {
            let (weight, bias) = weighted(params, *bias, weight_quant.as_ref(), train)?;
            x[0].f_linear(&weight, bias)?
        }
        Op::Act { act } => activate(*act, x[0], place.in_place && !train)?,
        Op::Add => x[0].f_add(x[1])?,
        Op::Sub => x[0].f_sub(x[1])?,
        Op::Mul => x[0].f_mul(x[1])?,
        Op::Div => x[0].f_div(x[1])?,
        Op::Affine { mul, add } => x[0].f_mul_scalar(*mul)?.f_add_scalar(*add)?,
        Op::Concat { dim } => Tensor::f_cat(x, *dim as i64)?,
        Op::Slice { dim, start, len } => x[0].f_narrow(*dim as i64, *start, *len)?,
        Op::ChannelShuffle { groups } => x[0].f_channel_shuffle(*groups)?,
        Op::SpaceToDepth => space_to_depth(x[0])?,
        Op::MaxPool {
            kernel,
            stride,
            padding,
        } => x[0].f_max_pool2d([*kernel; 2], [*stride; 2], [*padding; 2], [1, 1], false)?,
        Op::AvgPool {
            kernel,
            stride,
            padding,
        } => x[0].f_avg_pool2d([*kernel; 2], [*stride; 2], [*padding; 2], false, true, None::<i64>)?,
        Op::Pad {
            top,
            bottom,
            left,
            right,
        } => x[0].f_constant_pad_nd([*left, *right, *top, *bottom])?,
        Op::Reduce { kind, dims } => {
            let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
            match kind {
                ReduceKind::Mean => x[0].f_mean_dim(dims.as_slice(), true, None::<Kind>)?,
                ReduceKind::Sum => x[0].f_sum_dim_intlist(dims.as_slice(), true, None::<Kind>)?,
                ReduceKind::Max => x[0].f_amax(dims.as_slice(), true)?,
            }
        }
        Op::Upsample { scale } => {
            let (_, _, h, w) = x[0].size4()?;
            x[0].f_upsample_nearest2d([h * scale, w * scale], None, None)?
        }
        Op::Bilinear { scale } => {
            let (_, _, h, w) = x[0].size4()?;
            x[0].f_upsample_bilinear2d([h * scale, w * scale], false, None, None)?
        }
        Op::MatMul { transpose_b } => {
            if *transpose_b {
                x[0].f_matmul(&x[1].f_transpose(-2, -1)?)?
            } else {
                x[0].f_matmul(x[1])?
            }
        }
        Op::Softmax { from_end } => x[0].f_softmax(-(*from_end as i64), None::<Kind>)?,
        Op::Reshape { dims } => reshape(x, dims)?,
        Op::Permute { dims } => x[0].f_permute(dims.iter().map(|d| *d as i64).collect::<Vec<_>>())?,
        Op::WindowPartition { size, shift, guard } => window::partition(x[0], *size, *shift, *guard)?,
        Op::WindowMerge { size, shift, guard } => window::merge(x[0], x[1], *size, *shift, *guard)?,
        Op::WindowMask {
            size,
            shift,
            guard,
            mask_padding,
        } => place.masks.get(x[0], *size, *shift, *guard, *mask_padding)?,
        Op::RelativePositionBias { .. } => window::relative_position_bias(x[0], &params[0])?,
        Op::AddWindowMask => window::add_mask(x[0], x[1])?,
        Op::Dropout { p } => x[0].f_dropout(*p, train)?,
        Op::DropPath { p } => drop_path(x[0], *p, train)?,
        Op::Parameter { .. } => params[0].shallow_clone(),
        Op::Constant { .. } => params[0].shallow_clone(),
        Op::FakeQuant { quant } => quant::fake_quant(x[0], quant, &params[0], &params[1], train)?,
        Op::Custom { custom } => custom.forward(x, &params.iter().collect::<Vec<_>>(), train)?,
    })
}

pub(super) fn missing(op: &Op) -> crate::Error {
    crate::Error::Params(format!("a {} has fewer tensors than it needs", op.name()))
}

/// Weight (fake-quantized where asked) and bias of a convolution or linear layer.
fn weighted<'a>(
    params: &'a [Tensor],
    bias: bool,
    weight_quant: Option<&quant::FakeQuantSpec>,
    train: bool,
) -> Result<(Tensor, Option<&'a Tensor>)> {
    let first_quant = 1 + usize::from(bias);
    let weight = match weight_quant {
        Some(spec) => quant::fake_quant(&params[0], spec, &params[first_quant], &params[first_quant + 1], train)?,
        None => params[0].shallow_clone(),
    };
    Ok((weight, bias.then(|| &params[1])))
}

fn activate(act: Activation, x: &Tensor, in_place: bool) -> Result<Tensor, tch::TchError> {
    let mut own = x.shallow_clone();
    match (act, in_place) {
        (Activation::Silu, true) => own.f_silu_(),
        (Activation::Silu, false) => x.f_silu(),
        (Activation::Relu, true) => own.f_relu_(),
        (Activation::Relu, false) => x.f_relu(),
        (Activation::Relu6, true) => own.f_clamp_(0, 6),
        (Activation::Relu6, false) => x.f_hardtanh_relu6(),
        (Activation::LeakyRelu(slope), _) => x.f_maximum(&x.f_mul_scalar(slope)?),
        (Activation::Hardswish, true) => own.f_hardswish_(),
        (Activation::Hardswish, false) => x.f_hardswish(),
        (Activation::Hardsigmoid, _) => x.f_hardsigmoid(),
        (Activation::Sigmoid, true) => own.f_sigmoid_(),
        (Activation::Sigmoid, false) => x.f_sigmoid(),
        (Activation::Gelu, _) => x.f_gelu("none"),
        (Activation::Tanh, _) => x.f_tanh(),
    }
}

/// `clamp(x, 0, 6)`, named so that the table above reads as a table.
trait Relu6 {
    fn f_hardtanh_relu6(&self) -> Result<Tensor, tch::TchError>;
}

impl Relu6 for Tensor {
    fn f_hardtanh_relu6(&self) -> Result<Tensor, tch::TchError> {
        self.f_clamp(0, 6)
    }
}

fn space_to_depth(x: &Tensor) -> Result<Tensor, tch::TchError> {
    let (_, _, h, w) = x.size4()?;
    let part = |row: i64, column: i64| x.f_slice(2, row, h, 2)?.f_slice(3, column, w, 2);
    Tensor::f_cat(&[part(0, 0)?, part(1, 0)?, part(0, 1)?, part(1, 1)?], 1)
}

fn reshape(x: &[&Tensor], dims: &[Dim]) -> Result<Tensor, tch::TchError> {
    let size = x[0].size();
    let shape: Vec<i64> = dims
        .iter()
        .map(|dim| match dim {
            Dim::Keep(axis) => size[*axis],
            Dim::Fixed(n) => *n,
            Dim::Infer => -1,
            Dim::Like(axis) => x[1].size()[*axis],
        })
        .collect();
    x[0].f_reshape(shape.as_slice())
}

/// Stochastic depth: each sample survives with probability 1 - p and is scaled by 1 / (1 - p).
fn drop_path(x: &Tensor, p: f64, train: bool) -> Result<Tensor, tch::TchError> {
    if !train || p <= 0.0 {
        return Ok(x.shallow_clone());
    }
    let mut shape = vec![1; x.dim()];
    shape[0] = x.size()[0];
    let keep = Tensor::f_rand(shape.as_slice(), (x.kind(), x.device()))?
        .f_ge(p)?
        .f_to_kind(x.kind())?;
    x.f_mul(&keep.f_div_scalar(1.0 - p)?)
}
