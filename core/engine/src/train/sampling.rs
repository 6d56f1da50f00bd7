//! Which images an epoch is made of, in which order and at which size.

use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use yolo_core::exec::channels_last;
use yolo_data::{Batches, Loader, Shard};

use super::TrainOptions;
use crate::Result;
use crate::eval::Metrics;

/// Choice and order of the training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Every image once, in random order.
    #[default]
    Shuffled,
    /// Drawn with replacement: more of rare classes, and of those that the last validation found the model bad at.
    Weighted,
    /// Every image once, by aspect ratio, in batches of one shape each: the same order in all epochs, without mosaics. The loader is
    /// made for it ([`yolo_data::LoaderOptions::rect`]).
    Rect,
}

impl Sampling {
    /// Whether it is the usual one, which states and settings need not mention.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The batches of an epoch, of each the part of one process; the same draw for all.
    pub fn epoch(self, loader: &Loader, epoch: usize, shard: Shard, class_maps: &[f64]) -> Batches {
        match self {
            Self::Weighted => loader.drawn(epoch, shard, class_maps),
            Self::Shuffled | Self::Rect => loader.part(epoch, shard),
        }
    }
}

/// mAP of each of `classes` classes; of those without labels, the mean, as in YOLOv5.
pub(super) fn class_maps(metrics: &Metrics, classes: usize) -> Vec<f64> {
    let mut maps = vec![metrics.map; classes];
    for class in &metrics.classes {
        if let Some(map) = maps.get_mut(class.class) {
            *map = class.ap_mean();
        }
    }
    maps
}

/// The batch `[N, 3, H, W]` at a random size: a multiple of the stride from half to one and a half of the size of the training (the
/// longer side of rectangles; the shorter one in proportion, to a multiple of the stride). The size is a function of seed and iteration,
/// so that a resumed run sees the same.
pub(super) fn rescaled(
    images: &tch::Tensor,
    options: &TrainOptions,
    iteration: usize,
    stride: i64,
) -> Result<tch::Tensor> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(options.seed ^ 0x6d73);
    rng.set_stream(iteration as u64);
    let cells = (options.size as i64 / stride).max(1);
    let side = rng.random_range((cells / 2).max(1)..=(cells * 3 / 2).max(1)) * stride;
    let (_, _, height, width) = images.size4()?;
    let scaled = |own: i64| {
        // Rounded up.
        let unit = height.max(width) * stride;
        (own * side + unit - 1) / unit * stride
    };
    let size = [scaled(height), scaled(width)];
    if size == [height, width] {
        return Ok(images.shallow_clone());
    }
    Ok(channels_last(&images.f_upsample_bilinear2d(size, false, None, None)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ClassMetrics;

    #[test]
    fn classes_without_labels_get_the_mean() {
        let of = |class: usize, ap: f64| ClassMetrics {
            class,
            labels: 1,
            precision: 0.0,
            recall: 0.0,
            f1: 0.0,
            ap: [ap; 10],
        };
        let metrics = Metrics {
            map: 0.4,
            classes: vec![of(0, 0.2), of(2, 0.6)],
            ..Metrics::default()
        };
        let maps = class_maps(&metrics, 4);
        let expected = [0.2, 0.4, 0.6, 0.4];
        assert!(
            maps.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{maps:?}"
        );
    }
}
