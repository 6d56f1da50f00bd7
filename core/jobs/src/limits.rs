//! Ranges of the numbers that a person gives.

use crate::error::{Error, Result};

/// A number that can't be 0.
///
/// # Errors
/// [`Error::Usage`] names the option that is 0.
pub fn at_least_one(option: &str, value: usize) -> Result<usize> {
    if value == 0 {
        return Err(Error::Usage(format!("{option} 0: 1 or more is needed")));
    }
    Ok(value)
}

/// Thresholds are shares.
///
/// # Errors
/// [`Error::Usage`] names the first option that is not from 0 to 1.
pub fn shares(options: &[(&str, f32)]) -> Result {
    match options.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
        Some((name, value)) => Err(Error::Usage(format!("{name} {value}: a number from 0 to 1 is needed"))),
        None => Ok(()),
    }
}
