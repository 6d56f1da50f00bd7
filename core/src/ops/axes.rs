//! Other views of the same elements.

use tch::Tensor;

use super::shapes::one;
use super::{Checked, Flow, Place, Value, Weightless};
use crate::Result;
use crate::graph::limits::{MAX_RANK, elements, within};
use crate::graph::{Dim, Shape};

/// The same elements in the same order.
pub(super) struct Reshape<'a> {
    pub dims: &'a [Dim],
}

impl Weightless for Reshape<'_> {
    fn limits(&self) -> Checked {
        let dims = self.dims;
        if dims.len() > MAX_RANK {
            return Err(format!("{} dimensions; {MAX_RANK} are the most", dims.len()));
        }
        let fixed: Vec<i64> = dims
            .iter()
            .filter_map(|d| if let Dim::Fixed(n) = d { Some(*n) } else { None })
            .collect();
        within("size", &fixed, 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let x = inputs.first().ok_or("it takes an input")?;
        let mut shape = Vec::with_capacity(self.dims.len());
        let mut infer_at = None;
        for dim in self.dims {
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
        let (Some(total), Some(known)) = (elements(x), elements(&shape)) else {
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

    fn flow(&self) -> Flow {
        Flow::Reshaped {
            dims: self.dims.to_vec(),
        }
    }

    fn value(&self) -> Value {
        Value::Moved
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        let size = x[0].size();
        let shape: Vec<i64> = self
            .dims
            .iter()
            .map(|dim| match dim {
                Dim::Keep(axis) => size[*axis],
                Dim::Fixed(n) => *n,
                Dim::Infer => -1,
                Dim::Like(axis) => x[1].size()[*axis],
            })
            .collect();
        Ok(x[0].f_reshape(shape.as_slice())?)
    }
}

/// Reorders axes.
pub(super) struct Permute<'a> {
    pub dims: &'a [usize],
}

impl Weightless for Permute<'_> {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (x, dims) = (one(inputs)?, self.dims);
        let mut sorted = dims.to_vec();
        sorted.sort_unstable();
        if sorted.len() != x.len() || sorted.iter().enumerate().any(|(i, d)| i != *d) {
            return Err(format!("{dims:?} does not order the {} axes", x.len()));
        }
        Ok(dims.iter().map(|d| x[*d]).collect())
    }

    fn flow(&self) -> Flow {
        Flow::Reordered {
            dims: self.dims.to_vec(),
        }
    }

    fn value(&self) -> Value {
        Value::Moved
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_permute(self.dims.iter().map(|d| *d as i64).collect::<Vec<_>>())?)
    }
}
