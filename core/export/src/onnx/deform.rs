//! Deformable convolution (DCNv2, arXiv 1811.11168) from standard ops: one GridSample fetches every tap, the mask scales
//! it, and a 1x1 convolution over (channel, tap) does the rest. GridSample with zero padding weighs each of the four
//! neighbours by itself, exactly as the op does, and exists in more engines than `DeformConv` (opset 19).

use yolo_core::{Node, Op, ValueId};

use super::builder::{int, ints, text};
use super::lower::{Lowering, map_shape};
use crate::Result;

pub(super) fn lower(l: &mut Lowering<'_>, value: ValueId, node: &Node, inputs: &[&str]) -> Result<String> {
    let Op::DeformConv2d {
        cin,
        cout,
        kernel,
        stride,
        padding,
        dilation,
        bias,
    } = &node.op
    else {
        return Err(Lowering::unsupported(node, "it is no deformable convolution"));
    };
    let &[x, offsets, mask] = inputs else {
        return Err(Lowering::unsupported(node, "it takes a map, offsets and a mask"));
    };
    let part = |s: &str| format!("{}.{s}", node.name);
    let taps = kernel[0] * kernel[1];
    let [_, _, h, w] = map_shape(node, l.shape(node.inputs[0]))?;
    let [n, _, ho, wo] = map_shape(node, l.shape(value))?;
    let n = l.batch(n);
    l.opset = l.opset.max(16);

    // Offsets [N, (tap, dy dx), Ho, Wo] -> [N, tap, Ho, Wo, (dy dx)] -> (dx dy), the order of a sampling grid.
    let y = l.reshape(&part("pairs"), offsets, &[n, taps, 2, ho, wo]);
    let y = l.transpose(&part("pairs_last"), &y, &[0, 1, 3, 4, 2]);
    let swap = l.b.i64(&[1, 0]);
    let y = l.b.node("Gather", &part("xy"), &[&y, &swap], vec![int("axis", 4)]);
    // Pixel p is at (2 p + 1) / size - 1 on a grid without aligned corners.
    let unit = l.b.f32(&part("unit"), &[2], &[2.0 / w as f32, 2.0 / h as f32]);
    let y = l.b.node("Mul", &part("scaled"), &[&y, &unit], vec![]);
    let mut base = Vec::with_capacity((taps * ho * wo * 2) as usize);
    for tap in 0..taps {
        let (ky, kx) = (tap / kernel[1], tap % kernel[1]);
        for row in 0..ho {
            for column in 0..wo {
                let at = |i: usize, cell: i64, k: i64, size: i64| {
                    let pixel = cell * stride[i] - padding[i] + k * dilation[i];
                    ((2 * pixel + 1) as f64 / size as f64 - 1.0) as f32
                };
                base.extend([at(1, column, kx, w), at(0, row, ky, h)]);
            }
        }
    }
    let base = l.b.f32(&part("base"), &[1, taps, ho, wo, 2], &base);
    let y = l.b.node("Add", &part("grid"), &[&y, &base], vec![]);
    let y = l.reshape(&part("grid_rows"), &y, &[n, taps * ho, wo, 2]);
    let y = l.b.node(
        "GridSample",
        &part("sampled"),
        &[x, &y],
        vec![
            int("align_corners", 0),
            text("mode", "bilinear"),
            text("padding_mode", "zeros"),
        ],
    );
    let y = l.reshape(&part("taps"), &y, &[n, *cin, taps, ho, wo]);
    let mask = l.reshape(&part("mask"), mask, &[n, 1, taps, ho, wo]);
    let y = l.b.node("Mul", &part("masked"), &[&y, &mask], vec![]);
    let y = l.reshape(&part("columns"), &y, &[n, cin * taps, ho, wo]);

    let key = part("weight");
    let weight = l.param(&key)?;
    let weight = l.b.f32(&key, &[*cout, cin * taps, 1, 1], &weight);
    let mut args = vec![y.as_str(), weight.as_str()];
    let shift = if *bias {
        let key = part("bias");
        let values = l.param(&key)?;
        Some(l.b.f32(&key, &[*cout], &values))
    } else {
        None
    };
    args.extend(shift.as_deref());
    Ok(l.b.node("Conv", &node.name, &args, vec![ints("kernel_shape", &[1, 1])]))
}
