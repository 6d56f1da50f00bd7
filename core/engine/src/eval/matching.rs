//! Which detections hit which labelled object, at the ten COCO thresholds.

use super::{Detection, box_iou};

/// 0.50, 0.55, ..., 0.95.
pub const IOU_THRESHOLDS: [f32; 10] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

/// A labelled object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Class.
    pub class: u32,
    /// Left, top, right, bottom in pixels.
    pub xyxy: [f32; 4],
}

/// Which detection a label goes to, when several overlap it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatchRule {
    /// At each threshold the most confident detection that reaches it: COCO's idea, and YOLOv5 since v6.2.
    #[default]
    PerThreshold,
    /// The most confident detection that reaches 0.5, for all thresholds. YOLOv5 v6.0 did so: a sloppy box that is sure of itself
    /// takes the label away from an exact one, which costs some mAP at high thresholds. For comparing with its numbers.
    Once,
}

/// Detections of all images with what each of them hit.
#[derive(Debug, Clone, Default)]
pub struct Matches {
    /// Which detection a label goes to.
    pub rule: MatchRule,
    /// Bit `t` is set where the detection is right at `IOU_THRESHOLDS[t]`.
    pub hits: Vec<u16>,
    /// Confidences.
    pub conf: Vec<f32>,
    /// Classes of the detections.
    pub class: Vec<u32>,
    /// Labelled objects per class.
    pub labels: Vec<usize>,
    /// Images seen.
    pub images: usize,
    pairs: Vec<(u32, u32, f32)>,
    taken: Vec<u16>,
}

impl Matches {
    /// Adds an image.
    pub fn add(&mut self, detections: &[Detection], truths: &[Truth]) {
        self.images += 1;
        for truth in truths {
            let class = truth.class as usize;
            if self.labels.len() <= class {
                self.labels.resize(class + 1, 0);
            }
            self.labels[class] += 1;
        }
        let start = self.hits.len();
        self.hits.resize(start + detections.len(), 0);
        self.conf.extend(detections.iter().map(|d| d.conf));
        self.class.extend(detections.iter().map(|d| d.class));
        match_image(
            detections,
            truths,
            self.rule,
            &mut self.pairs,
            &mut self.taken,
            &mut self.hits[start..],
        );
    }

    /// Adds what was found in other images.
    pub fn append(&mut self, other: &Self) {
        self.images += other.images;
        if self.labels.len() < other.labels.len() {
            self.labels.resize(other.labels.len(), 0);
        }
        self.labels
            .iter_mut()
            .zip(&other.labels)
            .for_each(|(own, more)| *own += more);
        self.hits.extend_from_slice(&other.hits);
        self.conf.extend_from_slice(&other.conf);
        self.class.extend_from_slice(&other.class);
    }

    /// Number of labelled objects.
    pub fn instances(&self) -> usize {
        self.labels.iter().sum()
    }
}

/// Sets the bits of the thresholds that each detection reaches.
///
/// Of the pairs (label, detection) with equal class and IoU >= 0.5, each detection keeps the label it overlaps most; each label
/// then goes to its most confident detection, as `rule` says.
pub fn match_image(
    detections: &[Detection],
    truths: &[Truth],
    rule: MatchRule,
    pairs: &mut Vec<(u32, u32, f32)>,
    taken: &mut Vec<u16>,
    hits: &mut [u16],
) {
    best_label_per_detection(detections, truths, IOU_THRESHOLDS[0], true, pairs);
    taken.clear();
    taken.resize(truths.len(), 0);
    for (detection, label, iou) in pairs.iter() {
        let reached = IOU_THRESHOLDS.iter().enumerate().filter(|(_, t)| *iou >= **t);
        let reached = reached.fold(0u16, |mask, (bit, _)| mask | 1 << bit);
        let taken = &mut taken[*label as usize];
        hits[*detection as usize] = reached & !*taken;
        *taken |= match rule {
            MatchRule::PerThreshold => reached,
            MatchRule::Once => u16::MAX,
        };
    }
}

/// (detection, label, IoU) of the label that each detection overlaps most, in the order of the detections. Of equal overlaps
/// the later label wins, as a reversed stable sort gives.
pub(super) fn best_label_per_detection(
    detections: &[Detection],
    truths: &[Truth],
    threshold: f32,
    same_class: bool,
    pairs: &mut Vec<(u32, u32, f32)>,
) {
    pairs.clear();
    for (index, detection) in detections.iter().enumerate() {
        let mut best: Option<(u32, f32)> = None;
        for (label, truth) in truths.iter().enumerate() {
            if same_class && truth.class != detection.class {
                continue;
            }
            let iou = box_iou(truth.xyxy, detection.xyxy);
            let reaches = if same_class { iou >= threshold } else { iou > threshold };
            if reaches && best.is_none_or(|(_, b)| iou >= b) {
                best = Some((label as u32, iou));
            }
        }
        if let Some((label, iou)) = best {
            pairs.push((index as u32, label, iou));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_box_counts_beside_a_sloppy_one_that_is_surer() {
        let truth = Truth {
            class: 0,
            xyxy: [0.0, 0.0, 100.0, 100.0],
        };
        let found = |right: f32, conf: f32| Detection {
            xyxy: [0.0, 0.0, right, 100.0],
            conf,
            class: 0,
        };
        // IoU 0.61 with confidence 0.9, IoU 0.92 with confidence 0.5.
        let detections = [found(61.0, 0.9), found(92.0, 0.5)];
        let hits = |rule| {
            let mut matches = Matches {
                rule,
                ..Matches::default()
            };
            matches.add(&detections, &[truth]);
            matches.hits
        };
        let until = |t: f32| IOU_THRESHOLDS.iter().filter(|v| **v <= t).count();
        let sloppy = (1u16 << until(0.61)) - 1;
        let exact = (1u16 << until(0.92)) - 1;
        assert_eq!(hits(MatchRule::PerThreshold), [sloppy, exact & !sloppy]);
        assert_eq!(hits(MatchRule::Once), [sloppy, 0]);
    }
}
