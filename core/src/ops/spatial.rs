//! What works on height and width.

use tch::Tensor;

use super::shapes::{map, one, places};
use super::{Checked, Flow, Place, Value, Weightless};
use crate::Result;
use crate::graph::Shape;
use crate::graph::limits::within;

/// Maximum or mean over windows; padding counts as minus infinity for the one, as zeros for the other.
pub(super) struct Pool {
    pub kernel: i64,
    pub stride: i64,
    pub padding: i64,
    pub mean: bool,
}

impl Weightless for Pool {
    fn limits(&self) -> Checked {
        let Self { kernel, padding, .. } = *self;
        within("size", &[kernel, self.stride], 1)?;
        if padding < 0 || padding > kernel / 2 {
            return Err(format!(
                "padding {padding} must lie between 0 and half of the kernel {kernel}"
            ));
        }
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let [n, c, h, w] = map(one(inputs)?)?;
        let along = |size: i64| places(size, self.kernel, self.stride, self.padding, 1);
        Ok(vec![n, c, along(h), along(w)])
    }

    fn flow(&self) -> Flow {
        Flow::Same
    }

    fn value(&self) -> Value {
        if self.mean { Value::Computed } else { Value::Moved }
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        let (kernel, stride, padding) = ([self.kernel; 2], [self.stride; 2], [self.padding; 2]);
        Ok(if self.mean {
            x[0].f_avg_pool2d(kernel, stride, padding, false, true, None::<i64>)?
        } else {
            x[0].f_max_pool2d(kernel, stride, padding, [1, 1], false)?
        })
    }
}

/// Zeros around height and width.
pub(super) struct Pad {
    pub top: i64,
    pub bottom: i64,
    pub left: i64,
    pub right: i64,
}

impl Weightless for Pad {
    fn limits(&self) -> Checked {
        within("padding", &[self.top, self.bottom, self.left, self.right], 0)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let [n, c, h, w] = map(one(inputs)?)?;
        Ok(vec![n, c, h + self.top + self.bottom, w + self.left + self.right])
    }

    fn flow(&self) -> Flow {
        Flow::Same
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(x[0].f_constant_pad_nd([self.left, self.right, self.top, self.bottom])?)
    }
}

/// Enlargement: the nearest neighbour, or bilinear with the border repeated and centres of pixels half a pixel from the corner.
pub(super) struct Upsample {
    pub scale: i64,
    pub bilinear: bool,
}

impl Weightless for Upsample {
    fn limits(&self) -> Checked {
        within("factor", &[self.scale], 1)
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let [n, c, h, w] = map(one(inputs)?)?;
        Ok(vec![n, c, h * self.scale, w * self.scale])
    }

    fn flow(&self) -> Flow {
        Flow::Same
    }

    fn value(&self) -> Value {
        if self.bilinear { Value::Computed } else { Value::Moved }
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        let (_, _, h, w) = x[0].size4()?;
        let size = [h * self.scale, w * self.scale];
        Ok(if self.bilinear {
            x[0].f_upsample_bilinear2d(size, false, None, None)?
        } else {
            x[0].f_upsample_nearest2d(size, None, None)?
        })
    }
}
