//! Which images an epoch is made of, and in which order.

use serde::{Deserialize, Serialize};
use yolo_data::{Batches, Loader, Shard};

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
