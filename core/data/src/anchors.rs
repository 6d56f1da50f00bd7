//! Anchors that fit the boxes of a data set: k-means on their sizes, then evolution, as YOLOv5's autoanchor; and how well given
//! anchors fit (best possible recall).

use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::dataset::Sample;
use crate::{Error, Result};

/// Width and height in pixels of the network's input.
pub type Size = [f64; 2];

/// How well anchors fit boxes.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Fit {
    /// Share of the boxes that some anchor fits within the threshold: the rest can't be learned.
    pub best_possible_recall: f64,
    /// Anchors within the threshold, per box.
    pub anchors_per_box: f64,
    /// Mean closeness of the best anchor of each box (0 where none is within the threshold): what evolution raises.
    pub fitness: f64,
}

/// Sides below this many pixels can't be found, and no anchor is made for them.
pub const LEAST_SIDE: f64 = 2.0;

/// The boxes of samples at an image size, in pixels.
pub fn box_sizes(samples: &[Sample], image: usize) -> Vec<Size> {
    let mut sizes = Vec::new();
    for Sample {
        boxes, size: [w, h], ..
    } in samples
    {
        let ratio = image as f64 / *w.max(h) as f64;
        sizes.extend(
            boxes
                .iter()
                .map(|[.., bw, bh]| [f64::from(*bw) * *w as f64 * ratio, f64::from(*bh) * *h as f64 * ratio]),
        );
    }
    sizes
}

/// Boxes that anchors are made for: those of at least [`LEAST_SIDE`] pixels, and of many some that stand for all.
///
/// # Errors
/// Where too few are left for `count` anchors, with what is in the way.
fn learnable(boxes: &[Size], count: usize) -> Result<Vec<Size>> {
    let large: Vec<Size> = (boxes.iter().copied())
        .filter(|size| size.iter().all(|side| *side >= LEAST_SIDE))
        .collect();
    if large.len() < count {
        let small = boxes.len() - large.len();
        let why = match (large.len(), small) {
            (0, 0) => "there are no boxes".to_owned(),
            (0, small) => format!("all {small} boxes are smaller than {LEAST_SIDE} px"),
            (some, 0) => format!("{some} boxes are too few for {count} anchors"),
            (some, small) => {
                format!("{some} boxes are too few for {count} anchors; {small} more are smaller than {LEAST_SIDE} px")
            }
        };
        return Err(Error::Settings(why));
    }
    let step = large.len().div_ceil(MOST_BOXES);
    Ok(large.into_iter().step_by(step).collect())
}

/// The smallest image size above `image`, a multiple of `stride`, at which `anchors` reach [`ENOUGH`] of `boxes`, whose sizes are
/// those at `image`; nothing if none up to 16 times `image` does.
pub fn size_that_fits(anchors: &[Size], boxes: &[Size], threshold: f64, image: usize, stride: usize) -> Option<usize> {
    let some: Vec<Size> = boxes
        .iter()
        .copied()
        .step_by(boxes.len().div_ceil(MOST_BOXES).max(1))
        .collect();
    let mut size = image;
    while size < 16 * image {
        size = (size * 5 / 4).next_multiple_of(stride).max(size + stride);
        let growth = size as f64 / image as f64;
        let grown: Vec<Size> = some.iter().map(|sides| sides.map(|side| side * growth)).collect();
        let visible = grown
            .iter()
            .filter(|sides| sides.iter().all(|side| *side >= LEAST_SIDE))
            .count();
        if visible == grown.len() && fit(anchors, &grown, threshold).best_possible_recall >= ENOUGH {
            return Some(size);
        }
    }
    None
}

/// How close a box and an anchor are: the smaller of all ratios of their sides, 1 for equal ones.
fn closeness(a: Size, b: Size) -> f64 {
    let ratio = |i: usize| (a[i] / b[i]).min(b[i] / a[i]);
    ratio(0).min(ratio(1))
}

/// How well `anchors` fit `boxes`, within sides `threshold` times larger or smaller (the hyper-parameter `anchor_t`).
pub fn fit(anchors: &[Size], boxes: &[Size], threshold: f64) -> Fit {
    let least = 1.0 / threshold;
    let (mut reached, mut within, mut total) = (0usize, 0usize, 0.0);
    for size in boxes {
        let mut best = 0.0f64;
        for anchor in anchors {
            let close = closeness(*size, *anchor);
            within += usize::from(close > least);
            best = best.max(close);
        }
        if best > least {
            reached += 1;
            total += best;
        }
    }
    let n = boxes.len().max(1) as f64;
    Fit {
        best_possible_recall: reached as f64 / n,
        anchors_per_box: within as f64 / n,
        fitness: total / n,
    }
}

/// Best possible recall from which on anchors are left as they are (YOLOv5's autoanchor).
pub const ENOUGH: f64 = 0.98;

/// Boxes that are looked at to find anchors: more bring nothing but time.
const MOST_BOXES: usize = 50_000;

/// Clusterings to choose from: a single one may put two centres into one cluster, and evolution does not get out of that.
const STARTS: usize = 10;

/// `count` anchors for the boxes, smallest first. The same seed gives the same anchors.
///
/// # Errors
/// [`Error::Settings`] where `count` is 0 or `threshold` at most 1, or where too few boxes are left for `count` anchors, with what is in
/// the way.
pub fn find(boxes: &[Size], count: usize, threshold: f64, generations: usize, seed: u64) -> Result<Vec<Size>> {
    if count == 0 || threshold <= 1.0 {
        return Err(Error::Settings(format!(
            "{count} anchors within a factor of {threshold}: 1 or more within more than 1 are needed"
        )));
    }
    let boxes = &learnable(boxes, count)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut anchors = Vec::new();
    let mut best = f64::NEG_INFINITY;
    for _ in 0..STARTS {
        let start = k_means(boxes, count, &mut rng);
        let fitness = fit(&start, boxes, threshold).fitness;
        if fitness > best {
            (anchors, best) = (start, fitness);
        }
    }
    for _ in 0..generations {
        let mutated = mutate(&anchors, &mut rng);
        let fitness = fit(&mutated, boxes, threshold).fitness;
        if fitness > best {
            (anchors, best) = (mutated, fitness);
        }
    }
    anchors.sort_by(|a, b| (a[0] * a[1]).total_cmp(&(b[0] * b[1])));
    Ok(anchors)
}

/// Lloyd's algorithm on sizes in units of their spread, started from spread-out boxes (k-means++).
fn k_means(boxes: &[Size], count: usize, rng: &mut impl Rng) -> Vec<Size> {
    let spread: Size = std::array::from_fn(|i| {
        let mean = boxes.iter().map(|b| b[i]).sum::<f64>() / boxes.len() as f64;
        let variance = boxes.iter().map(|b| (b[i] - mean).powi(2)).sum::<f64>() / boxes.len() as f64;
        variance.sqrt().max(1e-9)
    });
    let distance = |a: &Size, b: &Size| ((a[0] - b[0]) / spread[0]).powi(2) + ((a[1] - b[1]) / spread[1]).powi(2);
    let mut centres = vec![boxes[rng.random_range(0..boxes.len())]];
    while centres.len() < count {
        let far: Vec<f64> = boxes
            .iter()
            .map(|size| {
                centres
                    .iter()
                    .map(|centre| distance(size, centre))
                    .fold(f64::INFINITY, f64::min)
            })
            .collect();
        let mut left = rng.random::<f64>() * far.iter().sum::<f64>();
        let next = far.iter().position(|d| {
            left -= d;
            left <= 0.0
        });
        centres.push(boxes[next.unwrap_or(0)]);
    }
    for _ in 0..30 {
        let mut sums = vec![([0.0, 0.0], 0usize); count];
        for size in boxes {
            let nearest =
                (0..count).min_by(|a, b| distance(size, &centres[*a]).total_cmp(&distance(size, &centres[*b])));
            let (sum, n) = &mut sums[nearest.unwrap_or(0)];
            (sum[0], sum[1], *n) = (sum[0] + size[0], sum[1] + size[1], *n + 1);
        }
        for (centre, (sum, n)) in centres.iter_mut().zip(sums) {
            if n > 0 {
                *centre = sum.map(|s| s / n as f64);
            }
        }
    }
    centres
}

/// Each side times a factor near 1, nine in ten of them unchanged or nearly so.
fn mutate(anchors: &[Size], rng: &mut impl Rng) -> Vec<Size> {
    let side = |side: f64, rng: &mut dyn FnMut() -> f64| {
        if rng() < 0.9 {
            // The sum of three even draws is close enough to a bell.
            let bell = rng() + rng() + rng() - 1.5;
            (side * (1.0 + 0.2 * bell).clamp(0.3, 3.0)).max(2.0)
        } else {
            side
        }
    };
    let mut draw = || rng.random::<f64>();
    anchors
        .iter()
        .map(|[w, h]| [side(*w, &mut draw), side(*h, &mut draw)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closeness_is_one_for_equal_sizes_and_the_worst_ratio_else() {
        assert_eq!(closeness([10.0, 20.0], [10.0, 20.0]), 1.0);
        assert_eq!(closeness([10.0, 20.0], [40.0, 10.0]), 0.25);
        let found = fit(
            &[[10.0, 10.0], [100.0, 100.0]],
            &[[20.0, 10.0], [10.0, 300.0], [50.0, 50.0], [60.0, 60.0]],
            4.0,
        );
        assert_eq!(found.best_possible_recall, 0.75);
        // 50 and 60 are within a factor of 4 of 100 only; 20 x 10 of 10 only.
        assert_eq!(found.anchors_per_box, 0.75);
        assert!((found.fitness - (0.5 + 0.5 + 0.6) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn clusters_are_found() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let centres = [[8.0, 12.0], [40.0, 30.0], [150.0, 220.0]];
        let boxes: Vec<Size> = (0..600)
            .map(|i| {
                let centre: Size = centres[i % 3];
                centre.map(|side| side * (0.9 + 0.2 * rng.random::<f64>()))
            })
            .collect();
        let anchors = find(&boxes, 3, 4.0, 300, 0).expect("anchors");
        for (anchor, centre) in anchors.iter().zip(centres) {
            assert!(closeness(*anchor, centre) > 0.93, "{anchor:?} for {centre:?}");
        }
        assert_eq!(anchors, find(&boxes, 3, 4.0, 300, 0).expect("anchors"));
        assert_eq!(fit(&anchors, &boxes, 4.0).best_possible_recall, 1.0);
        assert!(find(&boxes[..2], 3, 4.0, 10, 0).is_err() && find(&boxes, 3, 1.0, 10, 0).is_err());
    }
}
