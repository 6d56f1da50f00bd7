//! ncnn's `DeformableConv2D` as its documentation gives it, sampled point by point.

use tch::Tensor;

use super::model::Layer;
use crate::Result;
use crate::onnx::floats;

/// `x [C, H, W]`, `offset [2 * taps, Ho, Wo]` as (row, column) per tap, `mask [taps, Ho, Wo]`, `weight` and `bias` of the layer;
/// the result is `[O, Ho, Wo]`.
pub(super) fn run(
    layer: &Layer,
    [x, offset, mask]: [&Tensor; 3],
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let n = |id: i64, default: i64| layer.int(id, default);
    let (kw, dw, sw, left) = (n(1, 0), n(2, 1), n(3, 1), n(4, 0));
    let (kh, dh, sh, top) = (n(11, kw), n(12, dw), n(13, sw), n(14, left));
    let (c, h, w) = x.size3()?;
    let (taps, ho, wo) = mask.size3()?;
    debug_assert_eq!(taps, kh * kw);
    let (pixels, moved, shares) = (floats(x)?, floats(offset)?, floats(mask)?);
    let plane = (ho * wo) as usize;
    let mut columns = vec![0f32; (c * taps) as usize * plane];
    for tap in 0..taps {
        for at in 0..ho * wo {
            let index = tap as usize * plane + at as usize;
            let shift = |axis: usize| moved[(2 * tap as usize + axis) * plane + at as usize];
            let row = (at / wo * sh - top + tap / kw * dh) as f32 + shift(0);
            let column = (at % wo * sw - left + tap % kw * dw) as f32 + shift(1);
            for (channel, map) in pixels.chunks_exact((h * w) as usize).enumerate() {
                let value = shares[index] * sample(map, [h, w], row, column);
                columns[(channel * taps as usize + tap as usize) * plane + at as usize] = value;
            }
        }
    }
    let columns = Tensor::f_from_slice(&columns)?.f_reshape([c * taps, ho * wo])?;
    let y = weight
        .f_reshape([-1, c * taps])?
        .f_matmul(&columns)?
        .f_reshape([-1, ho, wo])?;
    match bias {
        Some(bias) => Ok(y.f_add(&bias.f_reshape([-1, 1, 1])?)?),
        None => Ok(y),
    }
}

/// Between the four neighbours; those outside of the map are 0.
fn sample(map: &[f32], [h, w]: [i64; 2], row: f32, column: f32) -> f32 {
    let (y, x) = (row.floor(), column.floor());
    let (fy, fx) = (row - y, column - x);
    let pixel = |y: f32, x: f32| {
        let (y, x) = (y as i64, x as i64);
        if (0..h).contains(&y) && (0..w).contains(&x) {
            map[(y * w + x) as usize]
        } else {
            0.0
        }
    };
    let upper = pixel(y, x) * (1.0 - fx) + pixel(y, x + 1.0) * fx;
    let lower = pixel(y + 1.0, x) * (1.0 - fx) + pixel(y + 1.0, x + 1.0) * fx;
    upper * (1.0 - fy) + lower * fy
}
