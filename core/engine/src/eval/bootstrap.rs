//! How sure a difference between two models is: the paired bootstrap over images (Efron and Tibshirani, An Introduction to the Bootstrap,
//! 1993, chapters 6 and 13). Images are drawn with replacement, the same ones for both models, and mAP is computed anew from their
//! matches; the interval is that of the percentiles.
//!
//! What must not live here: running a model.

use rand::SeedableRng as _;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Matches, evaluate};

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Interval {
    /// 2.5 % of the draws are below.
    pub low: f64,
    /// 2.5 % of the draws are above.
    pub high: f64,
}

/// A number of a data set and its interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// On the images as they are.
    pub value: f64,
    /// Over draws of images.
    pub interval: Interval,
}

/// mAP50 and mAP of a model, or how much they differ between two.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimates {
    /// mAP at IoU 0.5.
    pub map50: Estimate,
    /// mAP over IoU 0.5:0.95.
    pub map: Estimate,
}

/// Models on the same images.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Each model.
    pub models: Vec<Estimates>,
    /// Each model less the first one: an interval on one side of 0 is a difference that other images of this kind would show, too.
    pub differences: Vec<Estimates>,
    /// Images.
    pub images: usize,
    /// Draws.
    pub draws: usize,
}

/// Compares models by what each of them hit, image by image: `models[m][i]` are the matches of model `m` on image `i`. The same seed
/// gives the same intervals.
///
/// # Panics
/// Never: models with fewer images than the first are compared on those that all have.
pub fn compare(models: &[Vec<Matches>], draws: usize, seed: u64) -> Comparison {
    let images = models.iter().map(Vec::len).min().unwrap_or(0);
    let all: Vec<usize> = (0..images).collect();
    let here: Vec<[f64; 2]> = models.iter().map(|model| numbers(model, &all)).collect();
    let drawn: Vec<Vec<[f64; 2]>> = (0..draws as u64)
        .into_par_iter()
        .map(|draw| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(draw);
            let picked: Vec<usize> = (0..images).map(|_| rng.random_range(0..images)).collect();
            models.iter().map(|model| numbers(model, &picked)).collect()
        })
        .collect();
    let estimates = |of: &dyn Fn(&[[f64; 2]]) -> [f64; 2]| {
        let estimate = |index: usize| Estimate {
            value: of(&here)[index],
            interval: interval(drawn.iter().map(|draw| of(draw)[index]).collect()),
        };
        Estimates {
            map50: estimate(0),
            map: estimate(1),
        }
    };
    let count = 0..models.len();
    Comparison {
        models: count.clone().map(|m| estimates(&|draw| draw[m])).collect(),
        differences: count
            .skip(1)
            .map(|m| estimates(&|draw| [0, 1].map(|index| draw[m][index] - draw[0][index])))
            .collect(),
        images,
        draws,
    }
}

/// mAP50 and mAP of these images, each as often as it stands there.
fn numbers(model: &[Matches], images: &[usize]) -> [f64; 2] {
    let mut all = Matches::default();
    images.iter().for_each(|image| all.append(&model[*image]));
    let metrics = evaluate(&all);
    [metrics.map50, metrics.map]
}

fn interval(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = |share: f64| {
        values
            .get((last as f64 * share).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    };
    Interval {
        low: at(0.025),
        high: at(0.975),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Detection, Truth};
    use super::*;

    /// One object per image; a model finds it where `finds` says so, and something else everywhere.
    fn model(images: usize, finds: impl Fn(usize) -> bool) -> Vec<Matches> {
        let image = |index: usize| {
            let truth = Truth {
                class: 0,
                xyxy: [0.0, 0.0, 10.0, 10.0],
            };
            let at = |xyxy, conf| Detection { xyxy, conf, class: 0 };
            let mut found = vec![at([50.0, 50.0, 60.0, 60.0], 0.2 + 0.001 * index as f32)];
            if finds(index) {
                found.insert(0, at(truth.xyxy, 0.9 - 0.001 * index as f32));
            }
            let mut matches = Matches::default();
            matches.add(&found, &[truth]);
            matches
        };
        (0..images).map(image).collect()
    }

    #[test]
    fn the_numbers_are_those_of_all_images_and_a_model_does_not_differ_from_itself() {
        let own = model(40, |image| image % 2 == 0);
        let result = compare(&[own.clone(), own.clone()], 200, 1);
        let mut all = Matches::default();
        own.iter().for_each(|image| all.append(image));
        assert_eq!(result.models[0].map50.value, evaluate(&all).map50);
        let none = Interval { low: 0.0, high: 0.0 };
        assert_eq!(
            result.differences[0].map50.interval, none,
            "the same images are drawn for both"
        );
        let Interval { low, high } = result.models[0].map50.interval;
        assert!(low < result.models[0].map50.value && result.models[0].map50.value < high);
    }

    #[test]
    fn a_clear_difference_is_sure_and_a_single_image_is_not() {
        let half = model(40, |image| image % 2 == 0);
        let more = model(40, |image| image % 4 != 3);
        let one_more = model(40, |image| image % 2 == 0 || image == 1);
        let result = compare(&[half, more, one_more], 400, 1);
        assert!(
            result.differences[0].map50.interval.low > 0.0,
            "{:?}",
            result.differences[0]
        );
        assert!(
            result.differences[1].map50.interval.low <= 0.0,
            "{:?}",
            result.differences[1]
        );
        assert!(result.differences[1].map50.value > 0.0);
    }

    /// The standard error of a share is known: sqrt(p (1 - p) / n). With one class and sure hits, AP is close to the share that is found.
    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        let own = model(100, |image| image % 2 == 0);
        let Interval { low, high } = compare(&[own], 2000, 7).models[0].map50.interval;
        let expected = 2.0 * 1.96 * (0.25f64 / 100.0).sqrt();
        assert!(
            ((high - low) / expected - 1.0).abs() < 0.2,
            "{} against {expected}",
            high - low
        );
    }

    #[test]
    fn the_same_seed_draws_the_same_images() {
        let own = model(30, |image| image % 3 == 0);
        let models = [own];
        assert_eq!(compare(&models, 50, 3), compare(&models, 50, 3));
        assert_ne!(compare(&models, 50, 3), compare(&models, 50, 4));
    }
}
