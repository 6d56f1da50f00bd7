//! Shifted-window ops (Swin, arXiv 2103.14030) at a concrete map size: padding, rolling and cutting become Pad, Slice,
//! Concat, Reshape and Transpose with numbers; masks and position indices become constants.

use yolo_core::{Node, Op, ValueId, exec};

use super::builder::int;
use super::lower::{Lowering, map_shape};
use crate::Result;

pub(super) fn lower(l: &mut Lowering<'_>, value: ValueId, node: &Node, inputs: &[&str]) -> Result<String> {
    let name = node.name.as_str();
    let part = |s: &str| format!("{name}.{s}");
    let shape_of = |l: &Lowering<'_>, index: usize| -> Result<Vec<i64>> {
        let input = node
            .inputs
            .get(index)
            .ok_or_else(|| Lowering::unsupported(node, "an input is absent"))?;
        Ok(l.shape(*input).to_vec())
    };
    let first = *inputs
        .first()
        .ok_or_else(|| Lowering::unsupported(node, "an input is absent"))?;
    match &node.op {
        Op::WindowPartition { size, shift, guard } => {
            let [n, c, h, w] = map_shape(node, &shape_of(l, 0)?)?;
            let n = l.batch(n);
            let (ph, pw) = padded(h, w, *size);
            let shift = effective_shift(h, w, *size, *shift, *guard);
            let mut y = first.to_owned();
            if (ph, pw) != (h, w) {
                let pads = l.b.i64(&[0, 0, 0, 0, 0, 0, ph - h, pw - w]);
                y = l.b.node("Pad", &part("pad"), &[&y, &pads], vec![]);
            }
            y = roll(l, &part("roll"), &y, [ph, pw], -shift);
            y = l.reshape(&part("cut"), &y, &[n, c, ph / size, *size, pw / size, *size]);
            y = l.transpose(&part("order"), &y, &[0, 2, 4, 3, 5, 1]);
            Ok(l.reshape(name, &y, &[-1, size * size, c]))
        }
        Op::WindowMerge { size, shift, guard } => {
            let [n, _, h, w] = map_shape(node, &shape_of(l, 1)?)?;
            let c = map_shape(node, l.shape(value))?[1];
            let n = l.batch(n);
            let (ph, pw) = padded(h, w, *size);
            let shift = effective_shift(h, w, *size, *shift, *guard);
            let mut y = l.reshape(&part("windows"), first, &[n, ph / size, pw / size, *size, *size, c]);
            y = l.transpose(&part("order"), &y, &[0, 5, 1, 3, 2, 4]);
            y = l.reshape(&part("map"), &y, &[n, c, ph, pw]);
            y = roll(l, &part("roll"), &y, [ph, pw], shift);
            if ph != h {
                y = l.slice(&part("rows"), &y, 2, 0, h);
            }
            if pw != w {
                y = l.slice(&part("columns"), &y, 3, 0, w);
            }
            Ok(y)
        }
        Op::WindowMask {
            size,
            shift,
            guard,
            mask_padding,
        } => {
            let [_, _, h, w] = map_shape(node, &shape_of(l, 0)?)?;
            let values = exec::window_mask_values(h, w, *size, *shift, *guard, *mask_padding);
            let dims = l.shape(value).to_vec();
            Ok(l.b.f32(name, &dims, &values))
        }
        Op::RelativePositionBias { size } => {
            let tokens = size * size;
            let heads = l.shape(value)[1];
            let index = l.b.i64(&exec::relative_position_index(*size));
            let y =
                l.b.node("Gather", &part("rows"), &[first, &index], vec![int("axis", 0)]);
            let y = l.reshape(&part("pairs"), &y, &[tokens, tokens, heads]);
            let y = l.transpose(&part("heads"), &y, &[2, 0, 1]);
            Ok(l.reshape(name, &y, &[1, heads, tokens, tokens]))
        }
        Op::AddWindowMask => {
            let mask = *inputs
                .get(1)
                .ok_or_else(|| Lowering::unsupported(node, "an input is absent"))?;
            let [_, heads, t, _] = map_shape(node, l.shape(value))?;
            let windows = shape_of(l, 1)?[0];
            let y = l.reshape(&part("images"), first, &[-1, windows, heads, t, t]);
            let y = l.b.node("Add", &part("masked"), &[&y, mask], vec![]);
            Ok(l.reshape(name, &y, &[-1, heads, t, t]))
        }
        other => Err(Lowering::unsupported(
            node,
            format!("`{}` is no window op", other.name()),
        )),
    }
}

fn padded(h: i64, w: i64, size: i64) -> (i64, i64) {
    ((h + size - 1) / size * size, (w + size - 1) / size * size)
}

/// With `guard`, no shift where one window covers the map.
fn effective_shift(h: i64, w: i64, size: i64, shift: i64, guard: bool) -> i64 {
    if guard && h <= size && w <= size { 0 } else { shift }
}

/// Cyclic move of both axes by `by` (negative: towards the origin).
fn roll(l: &mut Lowering<'_>, name: &str, x: &str, sizes: [i64; 2], by: i64) -> String {
    let mut y = x.to_owned();
    for (axis, size) in [2, 3].into_iter().zip(sizes) {
        let start = (-by).rem_euclid(size);
        if start == 0 {
            continue;
        }
        let tail = l.slice(&format!("{name}.tail{axis}"), &y, axis, start, size);
        let head = l.slice(&format!("{name}.head{axis}"), &y, axis, 0, start);
        y = l.b.node(
            "Concat",
            &format!("{name}{axis}"),
            &[&tail, &head],
            vec![int("axis", axis)],
        );
    }
    y
}
