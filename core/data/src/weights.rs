//! Drawing training images by weight, as YOLOv5's `--image-weights`: images with rare classes, and with classes that the model is bad
//! at, come more often.

use rand::{Rng, RngExt as _};

use crate::Sample;

/// Weight of each sample: the sum over its boxes of `(1 - mAP)^2 / count` of their classes, where `count` is how many boxes of the class
/// there are. `class_maps` are mAPs from 0 to 1; of a class beyond its end, 0. An image without boxes weighs nothing.
pub fn image_weights(samples: &[Sample], class_maps: &[f64]) -> Vec<f64> {
    let class_of = |row: &[f32; 5]| row[0] as usize;
    let classes = samples.iter().flat_map(|sample| &sample.boxes).map(class_of).max();
    let mut counts = vec![0usize; classes.map_or(0, |last| last + 1)];
    for row in samples.iter().flat_map(|sample| &sample.boxes) {
        counts[class_of(row)] += 1;
    }
    let weights: Vec<f64> = counts
        .iter()
        .enumerate()
        .map(|(class, count)| {
            let missed = 1.0 - class_maps.get(class).copied().unwrap_or_default();
            missed * missed / (*count).max(1) as f64
        })
        .collect();
    let weight = |sample: &Sample| sample.boxes.iter().map(|row| weights[class_of(row)]).sum();
    samples.iter().map(weight).collect()
}

/// As many indices as there are weights, drawn with replacement in proportion to them. If nothing has a weight (no image has boxes, or
/// every class is perfect), all are drawn alike.
pub fn draw(weights: &[f64], rng: &mut impl Rng) -> Vec<usize> {
    let mut sum = 0.0;
    let bounds: Vec<f64> = weights
        .iter()
        .map(|weight| {
            sum += weight;
            sum
        })
        .collect();
    let count = weights.len();
    if sum <= 0.0 {
        return (0..count).map(|_| rng.random_range(0..count)).collect();
    }
    // Rounding may put a draw on the last bound, and weights at the end may be 0.
    let last = bounds.partition_point(|bound| *bound < sum);
    let one = |share: f64| bounds.partition_point(|bound| *bound <= share * sum).min(last);
    (0..count).map(|_| one(rng.random())).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sample(classes: &[usize]) -> Sample {
        Sample {
            image: "a.jpg".into(),
            label: "a.txt".into(),
            boxes: classes
                .iter()
                .map(|class| [*class as f32, 0.5, 0.5, 0.1, 0.1])
                .collect(),
            size: [64, 48],
        }
    }

    #[test]
    fn weights_are_inverse_frequencies_times_squared_misses() {
        let samples = [sample(&[0, 0, 0]), sample(&[0, 2]), sample(&[]), sample(&[2])];
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        // Four boxes of class 0, two of class 2.
        let fresh = image_weights(&samples, &[]);
        assert!(close(&fresh, &[0.75, 0.75, 0.0, 0.5]), "{fresh:?}");
        let later = image_weights(&samples, &[0.5, 0.1, 0.8]);
        let (first, third) = (0.25 / 4.0, 0.04 / 2.0);
        assert!(close(&later, &[3.0 * first, first + third, 0.0, third]), "{later:?}");
    }

    #[test]
    fn draws_follow_the_weights_and_the_generator() {
        let weights: Vec<f64> = (0..4000).map(|i| [0.0, 1.0, 3.0, 0.0][i % 4]).collect();
        let drawn = |seed| draw(&weights, &mut ChaCha8Rng::seed_from_u64(seed));
        let all = drawn(1);
        assert_eq!(all.len(), 4000);
        assert_eq!(all, drawn(1));
        assert_ne!(all, drawn(2));
        let count = |rest: usize| all.iter().filter(|index| **index % 4 == rest).count();
        assert_eq!((count(0), count(3)), (0, 0));
        // 3000 expected, with a standard deviation of 27.
        assert!((2860..3140).contains(&count(2)), "{}", count(2));
        let alike = draw(&[0.0; 500], &mut ChaCha8Rng::seed_from_u64(1));
        assert!(alike.iter().any(|index| *index < 100) && alike.iter().any(|index| *index >= 400));
    }
}
