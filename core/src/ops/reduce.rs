//! Sums, maxima and products along axes.

use tch::{Kind, Tensor};

use super::shapes::{broadcast, one, two};
use super::{Checked, Flow, Left, OwnTensor, Place, Primitive, Value, Weightless, Work};
use crate::Result;
use crate::graph::{Op, ReduceKind, Shape};

/// Reduction over axes, which stay with size 1.
pub(super) struct Reduce<'a> {
    pub kind: ReduceKind,
    pub dims: &'a [usize],
}

impl Weightless for Reduce<'_> {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let mut x = one(inputs)?.to_vec();
        for dim in self.dims {
            *x.get_mut(*dim).ok_or_else(|| format!("there is no axis {dim}"))? = 1;
        }
        Ok(x)
    }

    fn flow(&self) -> Flow {
        Flow::Without {
            dims: self.dims.to_vec(),
        }
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        let dims: Vec<i64> = self.dims.iter().map(|d| *d as i64).collect();
        Ok(match self.kind {
            ReduceKind::Mean => x[0].f_mean_dim(dims.as_slice(), true, None::<Kind>)?,
            ReduceKind::Sum => x[0].f_sum_dim_intlist(dims.as_slice(), true, None::<Kind>)?,
            ReduceKind::Max => x[0].f_amax(dims.as_slice(), true)?,
        })
    }
}

/// Matrix product of the last two axes, batched over the others.
pub(super) struct MatMul {
    pub transpose_b: bool,
}

impl Primitive for MatMul {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (a, b) = two(inputs)?;
        if a.len() < 2 || b.len() < 2 {
            return Err(format!("it takes matrices, not {a:?} and {b:?}"));
        }
        let (rows, inner) = (a[a.len() - 2], a[a.len() - 1]);
        let (mut k, mut cols) = (b[b.len() - 2], b[b.len() - 1]);
        if self.transpose_b {
            (k, cols) = (cols, k);
        }
        if inner != k {
            return Err(format!("inner sizes {inner} and {k} differ"));
        }
        let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
        shape.extend([rows, cols]);
        Ok(shape)
    }

    fn tensors(&self, _name: &str) -> Vec<OwnTensor> {
        Vec::new()
    }

    fn flow(&self) -> Flow {
        Flow::Frozen
    }

    fn work(&self, inputs: &[&[i64]], output: &[i64]) -> Work {
        let inner = inputs.first().and_then(|x| x.last()).copied().unwrap_or(1);
        Work::Fixed(output.iter().product::<i64>() * inner)
    }

    fn resize(&self, _op: &mut Op, _left: &Left<'_>) -> Checked {
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(if self.transpose_b {
            x[0].f_matmul(&x[1].f_transpose(-2, -1)?)?
        } else {
            x[0].f_matmul(x[1])?
        })
    }
}

/// Softmax over an axis counted from the end.
pub(super) struct Softmax {
    pub from_end: usize,
}

impl Weightless for Softmax {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (x, from_end) = (one(inputs)?, self.from_end);
        if from_end < 1 || from_end > x.len() {
            return Err(format!("{x:?} has no axis {from_end} from the end"));
        }
        Ok(x.to_vec())
    }

    fn flow(&self) -> Flow {
        Flow::Frozen
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_softmax(-(self.from_end as i64), None::<Kind>)?)
    }
}
