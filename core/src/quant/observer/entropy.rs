//! The clip that keeps most of what a histogram tells: entropy calibration (Migacz, 8-bit Inference with TensorRT, GTC 2017).

use tch::{Kind, Tensor};

use super::{Range, moments};
use crate::Result;
use crate::quant::FakeQuantSpec;

/// Bins of the histogram of absolute values.
const BINS: usize = 2048;

/// The clip of each row.
pub(super) fn clip(spec: &FakeQuantSpec, rows: &Tensor, min: &Tensor, max: &Tensor) -> Result<Range> {
    let (lows, highs) = (floats(min)?, floats(max)?);
    let values: Vec<f32> = Vec::try_from(rows.f_reshape([-1])?.f_to_kind(Kind::Float)?)?;
    let length = values.len() / lows.len().max(1);
    let clips: Vec<f32> = values
        .chunks(length.max(1))
        .zip(lows.iter().zip(&highs))
        .map(|(row, (low, high))| of_row(row, steps_of(spec, *low, *high)) as f32)
        .collect();
    let clip = Tensor::f_from_slice(&clips)?.f_to_device(rows.device())?;
    moments::clipped(min, max, &clip.f_neg()?, &clip)
}

fn floats(x: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(x.f_to_kind(Kind::Double)?)?)
}

/// Steps of the grid between zero and the farther end.
fn steps_of(spec: &FakeQuantSpec, low: f64, high: f64) -> usize {
    let all = (spec.qmax - spec.qmin + 1) as f64;
    let far = low.abs().max(high.abs());
    let span = if spec.symmetric {
        2.0 * far
    } else {
        high.max(0.0) - low.min(0.0)
    };
    if span > 0.0 {
        (all * far / span).round() as usize
    } else {
        1
    }
}

/// Of all clips that leave the grid more bins than steps, the one whose rounded histogram diverges least from the histogram with what
/// lies beyond in its last bin.
fn of_row(row: &[f32], steps: usize) -> f64 {
    let largest = row.iter().fold(0f64, |most, x| most.max(f64::from(x.abs())));
    if largest == 0.0 || steps >= BINS {
        return largest;
    }
    let width = largest / BINS as f64;
    let mut histogram = [0f64; BINS];
    for x in row {
        let bin = (f64::from(x.abs()) / width) as usize;
        histogram[bin.min(BINS - 1)] += 1.0;
    }
    // Zeros lie on every grid, and their number would outweigh all else.
    histogram[0] = histogram[0].min(histogram[1]);
    let mut beyond: f64 = histogram[steps..].iter().sum();
    let mut best = (f64::INFINITY, BINS);
    for bins in steps..=BINS {
        let found = divergence(&histogram[..bins], beyond, steps);
        if found < best.0 {
            best = (found, bins);
        }
        beyond -= histogram.get(bins).copied().unwrap_or_default();
    }
    (best.1 as f64 + if best.1 == BINS { 0.0 } else { 0.5 }) * width
}

/// `KL(P || Q)`: P the bins with `beyond` in the last one, Q the same bins in so many groups, each shared evenly among its bins that are
/// not empty.
fn divergence(bins: &[f64], beyond: f64, steps: usize) -> f64 {
    let total = bins.iter().sum::<f64>() + beyond;
    let per_step = bins.len() as f64 / steps as f64;
    let kept = bins.iter().sum::<f64>().max(1.0);
    let mut found = 0.0;
    for step in 0..steps {
        let from = (step as f64 * per_step).round() as usize;
        let to = ((step + 1) as f64 * per_step).round() as usize;
        let group = &bins[from..to.min(bins.len())];
        let filled = group.iter().filter(|count| **count > 0.0).count();
        let share = group.iter().sum::<f64>() / filled.max(1) as f64 / kept;
        for (at, count) in group.iter().enumerate() {
            let last = from + at + 1 == bins.len();
            let p = (count + if last { beyond } else { 0.0 }) / total;
            if p > 0.0 {
                // What lies in no bin of the grid costs a whole nat.
                found += if *count > 0.0 { p * (p / share).ln() } else { 1.0 };
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bell-shaped values and one far away: the far one is given up. Evenly spread values: none is.
    #[test]
    fn outliers_are_clipped_and_even_values_are_not() {
        let bell = |i: usize| {
            let sum: f64 = (1..=6)
                .map(|k| ((i * 7919 * k + k * 104_729) % 10_007) as f64 / 10_007.0)
                .sum();
            (sum - 3.0) as f32
        };
        let mut values: Vec<f32> = (0..20_000).map(bell).collect();
        values.push(30.0);
        let clip = of_row(&values, 128);
        assert!((1.5..6.0).contains(&clip), "{clip}");
        let even: Vec<f32> = (0..20_480).map(|i| i as f32 / 20_480.0).collect();
        let clip = of_row(&even, 128);
        assert!((0.98..=1.0).contains(&clip), "{clip}");
    }

    #[test]
    fn a_histogram_that_is_kept_whole_diverges_by_nothing() {
        let bins: Vec<f64> = (0..256).map(|i| f64::from(1 + i / 2)).collect();
        assert!(divergence(&bins, 0.0, 128).abs() < 1e-12);
        assert!(divergence(&bins, 50.0, 128) > 0.0);
        assert!(divergence(&bins[..128], bins[128..].iter().sum(), 128) > 0.1);
    }
}
