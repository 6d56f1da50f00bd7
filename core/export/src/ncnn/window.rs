//! Shifted windows (Swin, arXiv 2103.14030) in blobs of at most four axes: channels go last first, then rows of windows are
//! cut, so that no step needs more.

use yolo_core::{Node, Op, ValueId};

use super::{lower::Lowering, model::Value};
use crate::Result;

/// `[C, H, W]` to `[windows, size * size, C]`.
pub(super) fn partition(l: &mut Lowering<'_>, value: ValueId, node: &Node) -> Result<String> {
    let Op::WindowPartition { size, shift, guard } = node.op else {
        return Err(Lowering::unsupported(node, "it is no window partition"));
    };
    let part = |s: &str| format!("{}.{s}", node.name);
    let (h, w) = (l.shape(node.inputs[0])[2], l.shape(node.inputs[0])[3]);
    let [count, tokens, c] = l.shape(value)[..] else {
        return Err(Lowering::unsupported(node, "its result is no list of windows"));
    };
    let (ph, pw) = (h.div_ceil_to(size), w.div_ceil_to(size));
    let mut y = l.blob(node, 0, 3)?;
    if (ph, pw) != (h, w) {
        let params = vec![(1, Value::Int(ph - h)), (3, Value::Int(pw - w))];
        y = l.layer("Padding", &part("pad"), &[&y], params);
    }
    y = roll(
        l,
        &part("roll"),
        &y,
        [ph, pw],
        -effective_shift(h, w, size, shift, guard),
    );
    y = l.permute(node, &part("last"), &y, &[1, 2, 0])?;
    y = l.reshape(node, &part("cut"), &y, &[ph / size, size, pw / size, size * c])?;
    y = l.permute(node, &part("order"), &y, &[0, 2, 1, 3])?;
    l.reshape(node, &node.name, &y, &[count, tokens, c])
}

/// `[windows, size * size, C]` to `[C, H, W]`.
pub(super) fn merge(l: &mut Lowering<'_>, value: ValueId, node: &Node) -> Result<String> {
    let Op::WindowMerge { size, shift, guard } = node.op else {
        return Err(Lowering::unsupported(node, "it is no window merge"));
    };
    let part = |s: &str| format!("{}.{s}", node.name);
    let [_, c, h, w] = l.shape(value)[..] else {
        return Err(Lowering::unsupported(node, "its result is no map"));
    };
    let (ph, pw) = (h.div_ceil_to(size), w.div_ceil_to(size));
    let x = l.blob(node, 0, 3)?;
    let mut y = l.reshape(node, &part("cut"), &x, &[ph / size, pw / size, size, size * c])?;
    y = l.permute(node, &part("order"), &y, &[0, 2, 1, 3])?;
    y = l.reshape(node, &part("map"), &y, &[ph, pw, c])?;
    y = l.permute(node, &part("first"), &y, &[2, 0, 1])?;
    y = roll(
        l,
        &part("roll"),
        &y,
        [ph, pw],
        effective_shift(h, w, size, shift, guard),
    );
    if ph != h {
        y = l.crop(&part("rows"), &y, 1, 0, h);
    }
    if pw != w {
        y = l.crop(&part("columns"), &y, 2, 0, w);
    }
    Ok(y)
}

/// With `guard`, no shift where one window covers the map.
fn effective_shift(h: i64, w: i64, size: i64, shift: i64, guard: bool) -> i64 {
    if guard && h <= size && w <= size { 0 } else { shift }
}

/// Cyclic move of height and width by `by` (negative: towards the origin).
fn roll(l: &mut Lowering<'_>, name: &str, x: &str, sizes: [i64; 2], by: i64) -> String {
    let mut y = x.to_owned();
    for (axis, size) in [1, 2].into_iter().zip(sizes) {
        let start = (-by).rem_euclid(size);
        if start != 0 {
            let tail = l.crop(&format!("{name}.tail{axis}"), &y, axis, start, size);
            let head = l.crop(&format!("{name}.head{axis}"), &y, axis, 0, start);
            y = l.layer(
                "Concat",
                &format!("{name}{axis}"),
                &[&tail, &head],
                vec![(0, Value::Int(axis))],
            );
        }
    }
    y
}

trait DivCeilTo {
    /// The next multiple of `unit`.
    fn div_ceil_to(self, unit: Self) -> Self;
}

impl DivCeilTo for i64 {
    fn div_ceil_to(self, unit: Self) -> Self {
        (self + unit - 1) / unit * unit
    }
}
