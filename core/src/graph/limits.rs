//! Sizes that no model has: refused before anything is allocated or multiplied for them, since graphs can come from foreign files
//! and foreign code.

use super::{Dim, Op, Shape};

/// Largest size of a dimension in an op: channels, kernels, strides, paddings.
const MAX_SIZE: i64 = 1 << 20;
/// Most elements of one tensor of a model.
const MAX_WEIGHT: i64 = 1 << 27;
/// Most elements of one value: attention between all cells of a large map has some 10^11 scores, sums of costs stay in range.
const MAX_VALUE: i64 = 1 << 40;
/// Most dimensions.
const MAX_RANK: usize = 8;

impl Op {
    /// Checks the sizes that the op itself states.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        let within =
            |what: &str, sizes: &[i64], least: i64| match sizes.iter().find(|n| !(least..=MAX_SIZE).contains(*n)) {
                Some(size) => Err(format!("the {what} {size} is not between {least} and {MAX_SIZE}")),
                None => Ok(()),
            };
        match self {
            Self::Conv2d {
                cin,
                cout,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                ..
            } => {
                within(
                    "size",
                    &[&[*cin, *cout, *groups][..], kernel, stride, dilation].concat(),
                    1,
                )?;
                within("padding", padding, 0)?;
                if cin % groups != 0 || cout % groups != 0 {
                    return Err(format!(
                        "{groups} groups do not divide {cin} input and {cout} output channels"
                    ));
                }
            }
            Self::DeformConv2d {
                cin,
                cout,
                kernel,
                stride,
                padding,
                dilation,
                ..
            } => {
                within("size", &[&[*cin, *cout][..], kernel, stride, dilation].concat(), 1)?;
                within("padding", padding, 0)?;
            }
            Self::Linear { cin, cout, .. } => within("size", &[*cin, *cout], 1)?,
            Self::BatchNorm { channels, .. } | Self::LayerNorm { channels, .. } | Self::Input { channels } => {
                within("size", &[*channels], 1)?;
            }
            Self::MaxPool {
                kernel,
                stride,
                padding,
            }
            | Self::AvgPool {
                kernel,
                stride,
                padding,
            } => {
                within("size", &[*kernel, *stride], 1)?;
                if *padding < 0 || *padding > *kernel / 2 {
                    return Err(format!(
                        "padding {padding} must lie between 0 and half of the kernel {kernel}"
                    ));
                }
            }
            Self::Pad {
                top,
                bottom,
                left,
                right,
            } => within("padding", &[*top, *bottom, *left, *right], 0)?,
            Self::Upsample { scale } | Self::Bilinear { scale } => within("factor", &[*scale], 1)?,
            Self::ChannelShuffle { groups } => within("size", &[*groups], 1)?,
            Self::WindowPartition { size, shift, .. }
            | Self::WindowMerge { size, shift, .. }
            | Self::WindowMask { size, shift, .. } => {
                within("size", &[*size], 1)?;
                within("shift", &[*shift], 0)?;
            }
            Self::RelativePositionBias { size } if !(1..=64).contains(size) => {
                return Err(format!("the window {size} is not between 1 and 64"));
            }
            Self::Slice { start, len, .. } => {
                within("start", &[*start], 0)?;
                within("size", &[*len], 1)?;
            }
            Self::Parameter { shape, .. } => within("size", shape, 1)?,
            Self::Constant { shape, values } => {
                within("size", shape, 1)?;
                if elements(shape) != Some(values.len() as i64) {
                    return Err(format!("{} values do not fill the shape {shape:?}", values.len()));
                }
            }
            Self::Reshape { dims } => {
                if dims.len() > MAX_RANK {
                    return Err(format!("{} dimensions; {MAX_RANK} are the most", dims.len()));
                }
                let fixed: Vec<i64> = dims
                    .iter()
                    .filter_map(|d| if let Dim::Fixed(n) = d { Some(*n) } else { None })
                    .collect();
                within("size", &fixed, 1)?;
            }
            _ => {}
        }
        for spec in self.params("") {
            if spec.shape.len() > MAX_RANK || elements(&spec.shape).is_none_or(|n| !(0..=MAX_WEIGHT).contains(&n)) {
                return Err(format!("a tensor of shape {:?} is larger than any model's", spec.shape));
            }
        }
        Ok(())
    }
}

/// Checks the shape of a value.
pub(super) fn check_shape(shape: &Shape) -> Result<(), String> {
    if let Some(dim) = shape.iter().find(|dim| **dim < 1) {
        return Err(format!(
            "the result {shape:?} has a dimension of {dim}; is the image too small?"
        ));
    }
    if shape.len() > MAX_RANK || elements(shape).is_none_or(|n| n > MAX_VALUE) {
        return Err(format!("the result {shape:?} is larger than any model's"));
    }
    Ok(())
}

/// Product of sizes, unless it does not fit.
pub(super) fn elements(shape: &[i64]) -> Option<i64> {
    shape.iter().try_fold(1i64, |n, size| n.checked_mul(*size))
}
