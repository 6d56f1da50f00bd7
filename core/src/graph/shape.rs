//! Shape inference: the shape of every value for a concrete image.

use super::{Dim, Graph, Node, Op, limits};
use crate::{Error, Result};

/// Shape of a value.
pub type Shape = Vec<i64>;

pub(super) fn infer(graph: &Graph, image: [i64; 4]) -> Result<Vec<Shape>> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let inputs: Vec<&[i64]> = node
            .inputs
            .iter()
            .map(|value| shapes.get(value.index()).map(Vec::as_slice))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::Graph(format!("`{}` reads a value that comes later", node.name)))?;
        shapes.push(node_shape(node, &inputs, &image)?);
    }
    Ok(shapes)
}

/// Shape of the value of `node` given the shapes of its inputs.
pub(super) fn node_shape(node: &Node, inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape> {
    let shape = op_shape(&node.op, inputs, image).map_err(|reason| Error::Shape {
        node: node.name.clone(),
        op: node.op.name(),
        reason,
    })?;
    limits::check_shape(&shape).map_err(|reason| Error::Shape {
        node: node.name.clone(),
        op: node.op.name(),
        reason,
    })?;
    Ok(shape)
}

fn one<'a>(inputs: &[&'a [i64]]) -> Result<&'a [i64], String> {
    match inputs {
        [x] => Ok(x),
        _ => Err(format!("it takes 1 input, not {}", inputs.len())),
    }
}

fn two<'a>(inputs: &[&'a [i64]]) -> Result<(&'a [i64], &'a [i64]), String> {
    match inputs {
        [a, b] => Ok((a, b)),
        _ => Err(format!("it takes 2 inputs, not {}", inputs.len())),
    }
}

fn map(x: &[i64]) -> Result<[i64; 4], String> {
    x.try_into()
        .map_err(|_| format!("it takes a map [N, C, H, W], not {x:?}"))
}

fn window(size: i64, kernel: i64, stride: i64, padding: i64, dilation: i64) -> i64 {
    (size + 2 * padding - dilation * (kernel - 1) - 1).div_euclid(stride) + 1
}

/// Side lengths after padding to a multiple of the window, and the number of windows.
pub(crate) fn windows(h: i64, w: i64, size: i64) -> (i64, i64, i64) {
    let (ph, pw) = ((h + size - 1) / size * size, (w + size - 1) / size * size);
    (ph, pw, (ph / size) * (pw / size))
}

#[allow(clippy::too_many_lines)] // one match arm per op: splitting it would hide that it is complete
fn op_shape(op: &Op, inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape, String> {
    let channels = |got: i64, wanted: i64| {
        if got == wanted {
            Ok(())
        } else {
            Err(format!("it takes {wanted} channels, but its input has {got}"))
        }
    };
    match op {
        Op::Input { channels: c } => {
            channels(image[1], *c)?;
            Ok(image.to_vec())
        }
        Op::Conv2d {
            cin,
            cout,
            kernel,
            stride,
            padding,
            dilation,
            ..
        } => {
            let [n, c, h, w] = map(one(inputs)?)?;
            channels(c, *cin)?;
            Ok(vec![
                n,
                *cout,
                window(h, kernel[0], stride[0], padding[0], dilation[0]),
                window(w, kernel[1], stride[1], padding[1], dilation[1]),
            ])
        }
        Op::DeformConv2d {
            cin,
            cout,
            kernel,
            stride,
            padding,
            dilation,
            ..
        } => {
            let [x, offset, mask] = inputs else {
                return Err(format!("it takes 3 inputs (map, offsets, mask), not {}", inputs.len()));
            };
            let [n, c, h, w] = map(x)?;
            channels(c, *cin)?;
            let (ho, wo) = (
                window(h, kernel[0], stride[0], padding[0], dilation[0]),
                window(w, kernel[1], stride[1], padding[1], dilation[1]),
            );
            let taps = kernel[0] * kernel[1];
            if *offset != [n, 2 * taps, ho, wo] || *mask != [n, taps, ho, wo] {
                return Err(format!(
                    "offsets {offset:?} and mask {mask:?} do not fit {taps} taps at {ho} x {wo}"
                ));
            }
            Ok(vec![n, *cout, ho, wo])
        }
        Op::BatchNorm { channels: c, .. } => {
            let x = one(inputs)?;
            channels(*x.get(1).ok_or("it takes [N, C, ...]")?, *c)?;
            Ok(x.to_vec())
        }
        Op::LayerNorm { channels: c, .. } => {
            let x = one(inputs)?;
            channels(*x.last().ok_or("its input is a scalar")?, *c)?;
            Ok(x.to_vec())
        }
        Op::Linear { cin, cout, .. } => {
            let mut x = one(inputs)?.to_vec();
            let last = x.last_mut().ok_or("its input is a scalar")?;
            channels(*last, *cin)?;
            *last = *cout;
            Ok(x)
        }
        Op::Act { .. } | Op::Affine { .. } | Op::Dropout { .. } | Op::DropPath { .. } | Op::FakeQuant { .. } => {
            Ok(one(inputs)?.to_vec())
        }
        Op::Softmax { from_end } => {
            let x = one(inputs)?;
            if *from_end < 1 || *from_end > x.len() {
                return Err(format!("{x:?} has no axis {from_end} from the end"));
            }
            Ok(x.to_vec())
        }
        Op::Add | Op::Sub | Op::Mul | Op::Div => {
            let (a, b) = two(inputs)?;
            broadcast(a, b)
        }
        Op::Concat { dim } => concat(inputs, *dim),
        Op::Slice { dim, start, len } => {
            let mut x = one(inputs)?.to_vec();
            let size = x.get_mut(*dim).ok_or_else(|| format!("there is no axis {dim}"))?;
            if start + len > *size {
                return Err(format!("elements {start}..{} of an axis of {size}", start + len));
            }
            *size = *len;
            Ok(x)
        }
        Op::ChannelShuffle { groups } => {
            let x = map(one(inputs)?)?;
            if x[1] % groups != 0 {
                return Err(format!("{} channels can't be shuffled in {groups} groups", x[1]));
            }
            Ok(x.to_vec())
        }
        Op::SpaceToDepth => {
            let [n, c, h, w] = map(one(inputs)?)?;
            if h % 2 != 0 || w % 2 != 0 {
                return Err(format!("height and width must be even, not {h} x {w}"));
            }
            Ok(vec![n, 4 * c, h / 2, w / 2])
        }
        Op::MaxPool {
            kernel,
            stride,
            padding,
        }
        | Op::AvgPool {
            kernel,
            stride,
            padding,
        } => {
            let [n, c, h, w] = map(one(inputs)?)?;
            Ok(vec![
                n,
                c,
                window(h, *kernel, *stride, *padding, 1),
                window(w, *kernel, *stride, *padding, 1),
            ])
        }
        Op::Pad {
            top,
            bottom,
            left,
            right,
        } => {
            let [n, c, h, w] = map(one(inputs)?)?;
            Ok(vec![n, c, h + top + bottom, w + left + right])
        }
        Op::Reduce { dims, .. } => {
            let mut x = one(inputs)?.to_vec();
            for dim in dims {
                *x.get_mut(*dim).ok_or_else(|| format!("there is no axis {dim}"))? = 1;
            }
            Ok(x)
        }
        Op::Upsample { scale } | Op::Bilinear { scale } => {
            let [n, c, h, w] = map(one(inputs)?)?;
            Ok(vec![n, c, h * scale, w * scale])
        }
        Op::MatMul { transpose_b } => {
            let (a, b) = two(inputs)?;
            matmul(a, b, *transpose_b)
        }
        Op::Reshape { dims } => reshape(inputs, dims),
        Op::Permute { dims } => {
            let x = one(inputs)?;
            let mut sorted = dims.clone();
            sorted.sort_unstable();
            if sorted.len() != x.len() || sorted.iter().enumerate().any(|(i, d)| i != *d) {
                return Err(format!("{dims:?} does not order the {} axes", x.len()));
            }
            Ok(dims.iter().map(|d| x[*d]).collect())
        }
        Op::WindowPartition { size, .. } => {
            let [n, c, h, w] = map(one(inputs)?)?;
            Ok(vec![n * windows(h, w, *size).2, size * size, c])
        }
        Op::WindowMerge { size, .. } => {
            let (x, like) = two(inputs)?;
            let [n, _, h, w] = map(like)?;
            if x.len() != 3 || x[0] != n * windows(h, w, *size).2 || x[1] != size * size {
                return Err(format!("windows {x:?} do not cover {like:?}"));
            }
            Ok(vec![n, x[2], h, w])
        }
        Op::WindowMask { size, .. } => {
            let [_, _, h, w] = map(one(inputs)?)?;
            Ok(vec![windows(h, w, *size).2, 1, size * size, size * size])
        }
        Op::RelativePositionBias { size } => {
            let x = one(inputs)?;
            let rows = (2 * size - 1) * (2 * size - 1);
            if x.len() != 2 || x[0] != rows {
                return Err(format!("it takes a table [{rows}, heads], not {x:?}"));
            }
            Ok(vec![1, x[1], size * size, size * size])
        }
        Op::AddWindowMask => {
            let (x, mask) = two(inputs)?;
            if x.len() != 4 || mask.len() != 4 || x[0] % mask[0] != 0 || x[2..] != mask[2..] {
                return Err(format!("the mask {mask:?} does not fit the scores {x:?}"));
            }
            Ok(x.to_vec())
        }
        Op::Parameter { shape, .. } | Op::Constant { shape, .. } => Ok(shape.clone()),
        Op::Custom { custom } => custom.shape(inputs).map_err(|error| error.to_string()),
    }
}

fn broadcast(a: &[i64], b: &[i64]) -> Result<Shape, String> {
    let rank = a.len().max(b.len());
    let at = |x: &[i64], i: usize| {
        if i + x.len() < rank { 1 } else { x[i + x.len() - rank] }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(format!("shapes {a:?} and {b:?} don't fit each other")),
        })
        .collect()
}

fn concat(inputs: &[&[i64]], dim: usize) -> Result<Shape, String> {
    let mut shape = inputs.first().ok_or("it takes at least 1 input")?.to_vec();
    for x in &inputs[1..] {
        let fits = x.len() == shape.len() && (0..x.len()).all(|i| i == dim || x[i] == shape[i]);
        if !fits || dim >= shape.len() {
            return Err(format!("{x:?} can't be joined to {shape:?} along axis {dim}"));
        }
        shape[dim] += x[dim];
    }
    Ok(shape)
}

fn matmul(a: &[i64], b: &[i64], transpose_b: bool) -> Result<Shape, String> {
    if a.len() < 2 || b.len() < 2 {
        return Err(format!("it takes matrices, not {a:?} and {b:?}"));
    }
    let (rows, inner) = (a[a.len() - 2], a[a.len() - 1]);
    let (mut k, mut cols) = (b[b.len() - 2], b[b.len() - 1]);
    if transpose_b {
        (k, cols) = (cols, k);
    }
    if inner != k {
        return Err(format!("inner sizes {inner} and {k} differ"));
    }
    let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
    shape.extend([rows, cols]);
    Ok(shape)
}

fn reshape(inputs: &[&[i64]], dims: &[Dim]) -> Result<Shape, String> {
    let x = inputs.first().ok_or("it takes an input")?;
    let mut shape = Vec::with_capacity(dims.len());
    let mut infer_at = None;
    for dim in dims {
        shape.push(match dim {
            Dim::Keep(axis) => *x.get(*axis).ok_or_else(|| format!("there is no axis {axis}"))?,
            Dim::Fixed(size) => *size,
            Dim::Like(axis) => *inputs
                .get(1)
                .and_then(|like| like.get(*axis))
                .ok_or_else(|| format!("a second input with an axis {axis} is needed"))?,
            Dim::Infer => {
                if infer_at.replace(shape.len()).is_some() {
                    return Err("only one size can be inferred".into());
                }
                1
            }
        });
    }
    let (Some(total), Some(known)) = (limits::elements(x), limits::elements(&shape)) else {
        return Err(format!("{shape:?} is larger than any model's"));
    };
    if let Some(at) = infer_at {
        if known < 1 || total % known != 0 {
            return Err(format!("{x:?} does not fill {shape:?}"));
        }
        shape[at] = total / known;
    } else if known != total {
        return Err(format!("{x:?} has {total} elements, {shape:?} has {known}"));
    }
    Ok(shape)
}
