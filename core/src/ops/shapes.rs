//! What shapes of several families have in common.

use crate::graph::Shape;
use crate::graph::limits::within;

use super::Checked;

/// The only input.
pub(super) fn one<'a>(inputs: &[&'a [i64]]) -> Result<&'a [i64], String> {
    match inputs {
        [x] => Ok(x),
        _ => Err(format!("it takes 1 input, not {}", inputs.len())),
    }
}

/// Both inputs.
pub(super) fn two<'a>(inputs: &[&'a [i64]]) -> Result<(&'a [i64], &'a [i64]), String> {
    match inputs {
        [a, b] => Ok((a, b)),
        _ => Err(format!("it takes 2 inputs, not {}", inputs.len())),
    }
}

/// `[N, C, H, W]`.
pub(super) fn map(x: &[i64]) -> Result<[i64; 4], String> {
    x.try_into()
        .map_err(|_| format!("it takes a map [N, C, H, W], not {x:?}"))
}

/// Checks the channels of an input.
pub(super) fn channels(got: i64, wanted: i64) -> Checked {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("it takes {wanted} channels, but its input has {got}"))
    }
}

/// Places of a window along an axis.
pub(super) fn places(size: i64, kernel: i64, stride: i64, padding: i64, dilation: i64) -> i64 {
    (size + 2 * padding - dilation * (kernel - 1) - 1).div_euclid(stride) + 1
}

/// The shape of a sum of two values.
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Result<Shape, String> {
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

/// Where a convolution looks; each pair is vertical, horizontal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taps {
    pub kernel: [i64; 2],
    pub stride: [i64; 2],
    pub padding: [i64; 2],
    pub dilation: [i64; 2],
}

impl Taps {
    /// How many.
    pub fn count(&self) -> i64 {
        self.kernel[0] * self.kernel[1]
    }

    /// Height and width of the result on a map of `h` x `w`.
    pub fn places(&self, h: i64, w: i64) -> [i64; 2] {
        let along =
            |i: usize, size: i64| places(size, self.kernel[i], self.stride[i], self.padding[i], self.dilation[i]);
        [along(0, h), along(1, w)]
    }

    /// Checks its sizes and those of a convolution's `widths`.
    pub fn limits(&self, widths: &[i64]) -> Checked {
        within(
            "size",
            &[widths, &self.kernel, &self.stride, &self.dilation].concat(),
            1,
        )?;
        within("padding", &self.padding, 0)
    }
}
