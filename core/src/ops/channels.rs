//! What joins, takes out and reorders channels.

use tch::Tensor;

use super::shapes::{map, one};
use super::{Checked, Flow, Left, OwnTensor, Place, Primitive, Value, Weightless, Work};
use crate::Result;
use crate::graph::limits::within;
use crate::graph::{Op, Shape};

/// Joins values along an axis.
pub(super) struct Concat {
    pub dim: usize,
}

impl Weightless for Concat {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let dim = self.dim;
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

    fn flow(&self) -> Flow {
        Flow::Joined { dim: self.dim }
    }

    fn value(&self) -> Value {
        Value::Moved
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(Tensor::f_cat(x, self.dim as i64)?)
    }
}

/// Part of an axis.
pub(super) struct Slice {
    pub dim: usize,
    pub start: i64,
    pub len: i64,
}

impl Primitive for Slice {
    fn limits(&self) -> Checked {
        within("start", &[self.start], 0)?;
        within("size", &[self.len], 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let Self { dim, start, len } = *self;
        let mut x = one(inputs)?.to_vec();
        let size = x.get_mut(dim).ok_or_else(|| format!("there is no axis {dim}"))?;
        if start + len > *size {
            return Err(format!("elements {start}..{} of an axis of {size}", start + len));
        }
        *size = len;
        Ok(x)
    }

    fn tensors(&self, _name: &str) -> Vec<OwnTensor> {
        Vec::new()
    }

    fn flow(&self) -> Flow {
        Flow::Part {
            dim: self.dim,
            start: self.start as usize,
            len: self.len as usize,
        }
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Fixed(0)
    }

    fn resize(&self, op: &mut Op, left: &Left<'_>) -> Checked {
        // Slices of other axes see the same sizes as before.
        let Some((_, keep)) = left.kept.filter(|(axis, _)| *axis == self.dim) else {
            return Ok(());
        };
        let range = self.start..self.start + self.len;
        let before = keep.iter().filter(|at| **at < range.start).count() as i64;
        let inside = keep.iter().filter(|at| range.contains(*at)).count() as i64;
        if inside == 0 {
            return Err(format!("a slice of channels {}..{}", range.start, range.end));
        }
        if let Op::Slice { start, len, .. } = op {
            (*start, *len) = (before, inside);
        }
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Moved
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_narrow(self.dim as i64, self.start, self.len)?)
    }
}

/// Interleaves groups of channels (ShuffleNet, arXiv 1707.01083).
pub(super) struct ChannelShuffle {
    pub groups: i64,
}

impl Weightless for ChannelShuffle {
    fn limits(&self) -> Checked {
        within("size", &[self.groups], 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (x, groups) = (map(one(inputs)?)?, self.groups);
        if x[1] % groups != 0 {
            return Err(format!("{} channels can't be shuffled in {groups} groups", x[1]));
        }
        Ok(x.to_vec())
    }

    fn flow(&self) -> Flow {
        Flow::Interleaved {
            groups: self.groups as usize,
        }
    }

    fn value(&self) -> Value {
        Value::Moved
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_channel_shuffle(self.groups)?)
    }
}

/// 2 x 2 pixel blocks to channels.
pub(super) struct SpaceToDepth;

impl Weightless for SpaceToDepth {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let [n, c, h, w] = map(one(inputs)?)?;
        if h % 2 != 0 || w % 2 != 0 {
            return Err(format!("height and width must be even, not {h} x {w}"));
        }
        Ok(vec![n, 4 * c, h / 2, w / 2])
    }

    fn flow(&self) -> Flow {
        Flow::Repeated { times: 4 }
    }

    fn value(&self) -> Value {
        Value::Moved
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        let (_, _, h, w) = x[0].size4()?;
        let part = |row: i64, column: i64| x[0].f_slice(2, row, h, 2)?.f_slice(3, column, w, 2);
        Ok(Tensor::f_cat(&[part(0, 0)?, part(1, 0)?, part(0, 1)?, part(1, 1)?], 1)?)
    }
}
