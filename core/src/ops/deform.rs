//! Modulated deformable convolution (DCNv2, arXiv 1811.11168, equation 1) from bilinear sampling and one matrix product:
//! y(p) = sum_k w_k * x(p + p_k + dp_k) * m_k, with zeros outside the map.

use tch::Tensor;

use super::shapes::{Taps, channels, map};
use super::{BY_BOTH, BY_OUTPUT, Checked, Flow, Left, OwnTensor, Place, Primitive, Value, Work, conv};
use crate::Result;
use crate::graph::{Op, Shape};

/// Inputs: map, offsets, mask.
pub(super) struct DeformConv2d {
    pub cin: i64,
    pub cout: i64,
    pub taps: Taps,
    pub bias: bool,
}

impl Primitive for DeformConv2d {
    fn limits(&self) -> Checked {
        self.taps.limits(&[self.cin, self.cout])
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let [x, offset, mask] = inputs else {
            return Err(format!("it takes 3 inputs (map, offsets, mask), not {}", inputs.len()));
        };
        let [n, c, h, w] = map(x)?;
        channels(c, self.cin)?;
        let ([ho, wo], taps) = (self.taps.places(h, w), self.taps.count());
        if *offset != [n, 2 * taps, ho, wo] || *mask != [n, taps, ho, wo] {
            return Err(format!(
                "offsets {offset:?} and mask {mask:?} do not fit {taps} taps at {ho} x {wo}"
            ));
        }
        Ok(vec![n, self.cout, ho, wo])
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let [kh, kw] = self.taps.kernel;
        let shape = vec![self.cout, self.cin, kh, kw];
        conv::weighted(
            name,
            shape,
            self.bias,
            self.cin * kh * kw,
            conv::Quants::default(),
            [BY_BOTH, BY_OUTPUT],
        )
    }

    fn flow(&self) -> Flow {
        Flow::New { steering: &[1, 2] }
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Dense {
            inputs: self.cin,
            outputs: self.cout,
            taps: self.taps.count(),
        }
    }

    fn resize(&self, op: &mut Op, left: &Left<'_>) -> Checked {
        if let Op::DeformConv2d { cin, cout, .. } = op {
            (*cin, *cout) = (left.inputs, left.outputs);
        }
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        let bias = self.bias.then(|| &params[1]);
        Ok(deform_conv2d([x[0], x[1], x[2]], &params[0], bias, &self.taps)?)
    }
}

type Torch<T> = Result<T, tch::TchError>;

/// # Shapes
/// `x [N, C, H, W]`, `offset [N, 2 * taps, Ho, Wo]` in (dy, dx) order per tap, `mask [N, taps, Ho, Wo]`,
/// `weight [O, C, kh, kw]`; result `[N, O, Ho, Wo]`.
fn deform_conv2d([x, offset, mask]: [&Tensor; 3], weight: &Tensor, bias: Option<&Tensor>, at: &Taps) -> Torch<Tensor> {
    let Taps {
        kernel,
        stride,
        padding,
        dilation,
    } = *at;
    let (n, c, h, w) = x.size4()?;
    let (_, taps, ho, wo) = mask.size4()?;
    let options = (x.kind(), x.device());
    // Where each tap looks without an offset: rows [taps, Ho, 1], columns [taps, 1, Wo].
    let axis = |len: i64, stride: i64, padding: i64| -> Torch<Tensor> {
        Tensor::f_arange(len, options)?
            .f_mul_scalar(stride)?
            .f_sub_scalar(padding)
    };
    let tap_rows: Vec<f64> = (0..taps).map(|k| (k / kernel[1] * dilation[0]) as f64).collect();
    let tap_cols: Vec<f64> = (0..taps).map(|k| (k % kernel[1] * dilation[1]) as f64).collect();
    let column = |values: &[f64]| -> Torch<Tensor> {
        Tensor::f_from_slice(values)?
            .f_to_kind(options.0)?
            .f_to_device(options.1)?
            .f_reshape([1, taps, 1, 1])
    };
    let offset = offset.f_reshape([n, taps, 2, ho, wo])?;
    let rows =
        axis(ho, stride[0], padding[0])?.f_reshape([1, 1, ho, 1])? + column(&tap_rows)? + offset.f_select(2, 0)?;
    let cols =
        axis(wo, stride[1], padding[1])?.f_reshape([1, 1, 1, wo])? + column(&tap_cols)? + offset.f_select(2, 1)?;
    // grid_sample wants (x, y) in -1..1 over the outer edges of the map: pixel p lies at (2 p + 1) / len - 1.
    let normal = |pixels: Tensor, len: i64| -> Torch<Tensor> {
        let len = len as f64;
        pixels.f_mul_scalar(2.0 / len)?.f_add_scalar(1.0 / len - 1.0)
    };
    let grid = Tensor::f_stack(&[normal(cols, w)?, normal(rows, h)?], -1)?.f_reshape([n, taps * ho, wo, 2])?;
    let sampled = x.f_grid_sampler(&grid, 0, 0, false)?.f_reshape([n, c, taps, ho * wo])?;
    let columns = sampled
        .f_mul(&mask.f_reshape([n, 1, taps, ho * wo])?)?
        .f_reshape([n, c * taps, ho * wo])?;
    let out = weight
        .f_reshape([1, -1, c * taps])?
        .f_matmul(&columns)?
        .f_reshape([n, -1, ho, wo])?;
    match bias {
        Some(bias) => out.f_add(&bias.f_reshape([1, -1, 1, 1])?),
        None => Ok(out),
    }
}
