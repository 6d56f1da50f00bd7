//! Sizes that no model has: refused before anything is allocated or multiplied for them, since graphs can come from foreign files
//! and foreign code.

use super::{Op, Shape};

/// Largest size of a dimension in an op: channels, kernels, strides, paddings.
const MAX_SIZE: i64 = 1 << 20;
/// Most elements of one tensor of a model.
const MAX_WEIGHT: i64 = 1 << 27;
/// Most elements of one value: attention between all cells of a large map has some 10^11 scores, sums of costs stay in range.
const MAX_VALUE: i64 = 1 << 40;
/// Most dimensions.
pub(crate) const MAX_RANK: usize = 8;

impl Op {
    /// Checks the sizes that the op itself states, and those of its tensors.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        self.with(|op| op.limits())?;
        for spec in self.params("") {
            if spec.shape.len() > MAX_RANK || elements(&spec.shape).is_none_or(|n| !(0..=MAX_WEIGHT).contains(&n)) {
                return Err(format!("a tensor of shape {:?} is larger than any model's", spec.shape));
            }
        }
        Ok(())
    }
}

/// Checks sizes of an op against `least` and the largest.
pub(crate) fn within(what: &str, sizes: &[i64], least: i64) -> Result<(), String> {
    match sizes.iter().find(|n| !(least..=MAX_SIZE).contains(*n)) {
        Some(size) => Err(format!("the {what} {size} is not between {least} and {MAX_SIZE}")),
        None => Ok(()),
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
pub(crate) fn elements(shape: &[i64]) -> Option<i64> {
    shape.iter().try_fold(1i64, |n, size| n.checked_mul(*size))
}
