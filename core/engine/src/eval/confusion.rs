//! Which class is taken for which.

use super::matching::best_label_per_detection;
use super::{Detection, Truth};

/// Counts of (predicted class, true class); the last row counts objects that were missed, the last column detections of
/// nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfusionMatrix {
    classes: usize,
    conf: f32,
    iou: f32,
    counts: Vec<u64>,
    pairs: Vec<(u32, u32, f32)>,
}

impl ConfusionMatrix {
    /// An empty matrix; detections count above 0.25, overlaps above 0.45.
    pub fn new(classes: usize) -> Self {
        let side = classes + 1;
        Self {
            classes,
            conf: 0.25,
            iou: 0.45,
            counts: vec![0; side * side],
            pairs: Vec::new(),
        }
    }

    /// Number of classes; the matrix has one more row and column.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The count at (predicted, true).
    pub fn get(&self, predicted: usize, truth: usize) -> u64 {
        self.counts[predicted * (self.classes + 1) + truth]
    }

    /// Rows, by predicted class.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks_exact(self.classes + 1)
    }

    /// Adds an image. The reference counts detections of nothing only in images where something matched, so images without objects and
    /// those where all is wrong leave no trace in its last column; here they do.
    pub fn add(&mut self, detections: &[Detection], truths: &[Truth]) {
        let confident: Vec<Detection> = detections.iter().copied().filter(|d| d.conf > self.conf).collect();
        best_label_per_detection(&confident, truths, self.iou, false, &mut self.pairs);
        // Each label keeps the detection that overlaps it most.
        let mut of_label: Vec<Option<(u32, f32)>> = vec![None; truths.len()];
        for (detection, label, iou) in &self.pairs {
            let best = &mut of_label[*label as usize];
            if best.is_none_or(|(_, b)| *iou >= b) {
                *best = Some((*detection, *iou));
            }
        }
        let nothing = self.classes;
        let mut used = vec![false; confident.len()];
        for (truth, best) in truths.iter().zip(&of_label) {
            let predicted = best.map_or(nothing, |(d, _)| {
                used[d as usize] = true;
                confident[d as usize].class as usize
            });
            self.count(predicted, truth.class as usize);
        }
        for (detection, used) in confident.iter().zip(used) {
            if !used {
                self.count(detection.class as usize, nothing);
            }
        }
    }

    fn count(&mut self, predicted: usize, truth: usize) {
        let clip = |class: usize| class.min(self.classes);
        self.counts[clip(predicted) * (self.classes + 1) + clip(truth)] += 1;
    }
}
