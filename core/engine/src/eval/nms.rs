//! Non-maximum suppression as YOLOv5 v6 does it, on plain slices.
//!
//! Boxes of different classes are kept apart by adding `class * 4096` to their corners in f32, which changes coordinates in
//! the last bits exactly as in the reference. There is no time limit (the reference stops after some seconds and loses
//! boxes on slow machines).

use super::{Detection, xywh_to_xyxy};

/// Distance between classes, in pixels.
const CLASS_OFFSET: f32 = 4096.0;

/// Settings.
#[derive(Debug, Clone, PartialEq)]
pub struct NmsOptions {
    /// Least confidence, exclusive.
    pub conf: f32,
    /// Boxes that overlap a better one by more than this are dropped.
    pub iou: f32,
    /// Keep only these classes.
    pub classes: Option<Vec<u32>>,
    /// Boxes suppress boxes of other classes too.
    pub agnostic: bool,
    /// A box may have several classes (used for measuring mAP).
    pub multi_label: bool,
    /// Most boxes per image.
    pub max_det: usize,
    /// Most candidates per image that enter the suppression (the best ones).
    pub max_nms: usize,
    /// Everything that is found counts as class 0.
    pub one_class: bool,
}

impl Default for NmsOptions {
    /// The settings of detection.
    fn default() -> Self {
        Self {
            conf: 0.25,
            iou: 0.45,
            classes: None,
            agnostic: false,
            multi_label: false,
            max_det: 1000,
            max_nms: 30_000,
            one_class: false,
        }
    }
}

impl NmsOptions {
    /// The settings of validation.
    pub fn validation() -> Self {
        Self {
            conf: 0.001,
            iou: 0.6,
            multi_label: true,
            max_det: 300,
            ..Self::default()
        }
    }
}

/// Working memory, so that nothing is allocated per box or per image once it has grown.
#[derive(Debug, Default)]
pub struct Nms {
    candidates: Vec<Detection>,
    order: Vec<u32>,
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    area: Vec<f32>,
    dropped: Vec<bool>,
}

impl Nms {
    /// Detections of one image, best first, appended to `out`.
    ///
    /// `predictions` holds rows of `columns = 5 + classes` values: centre x, centre y, width, height, objectness, class
    /// probabilities. `known` holds boxes (class, centre x, centre y, width, height) that count as certain predictions.
    pub fn run(
        &mut self,
        predictions: &[f32],
        columns: usize,
        known: &[[f32; 5]],
        options: &NmsOptions,
        out: &mut Vec<Detection>,
    ) {
        self.collect(predictions, columns, known, options);
        self.sort(options);
        let first = out.len();
        self.suppress(options, out);
        if options.one_class {
            out[first..].iter_mut().for_each(|detection| detection.class = 0);
        }
    }

    /// Candidates in the order of the predictions.
    fn collect(&mut self, predictions: &[f32], columns: usize, known: &[[f32; 5]], options: &NmsOptions) {
        self.candidates.clear();
        let classes = columns.saturating_sub(5);
        let multi_label = options.multi_label && classes > 1;
        let wanted = |class: u32| options.classes.as_ref().is_none_or(|list| list.contains(&class));
        for row in predictions.chunks_exact(columns.max(6)) {
            let objectness = row[4];
            if objectness.is_nan() || objectness <= options.conf {
                continue;
            }
            let xyxy = xywh_to_xyxy([row[0], row[1], row[2], row[3]]);
            if multi_label {
                for (class, p) in row[5..].iter().enumerate() {
                    let conf = p * objectness;
                    if conf > options.conf && wanted(class as u32) {
                        self.candidates.push(Detection {
                            xyxy,
                            conf,
                            class: class as u32,
                        });
                    }
                }
            } else {
                let (mut class, mut conf) = (0, f32::NEG_INFINITY);
                for (index, p) in row[5..].iter().enumerate() {
                    let value = p * objectness;
                    if value > conf {
                        (class, conf) = (index as u32, value);
                    }
                }
                if conf > options.conf && wanted(class) {
                    self.candidates.push(Detection { xyxy, conf, class });
                }
            }
        }
        for &[class, x, y, w, h] in known {
            let class = class.max(0.0) as u32;
            if wanted(class) && 1.0 > options.conf {
                self.candidates.push(Detection {
                    xyxy: xywh_to_xyxy([x, y, w, h]),
                    conf: 1.0,
                    class,
                });
            }
        }
    }

    /// Best first; equal confidences keep their order. Only the best `max_nms` stay.
    fn sort(&mut self, options: &NmsOptions) {
        let candidates = &self.candidates;
        self.order.clear();
        self.order.extend(0..candidates.len() as u32);
        let rank = |a: &u32, b: &u32| {
            candidates[*b as usize]
                .conf
                .total_cmp(&candidates[*a as usize].conf)
                .then(a.cmp(b))
        };
        if self.order.len() > options.max_nms {
            self.order.select_nth_unstable_by(options.max_nms, rank);
            self.order.truncate(options.max_nms);
        }
        self.order.sort_unstable_by(rank);
    }

    fn suppress(&mut self, options: &NmsOptions, out: &mut Vec<Detection>) {
        let n = self.order.len();
        for list in [&mut self.x1, &mut self.y1, &mut self.x2, &mut self.y2, &mut self.area] {
            list.clear();
            list.reserve(n);
        }
        for index in &self.order {
            let Detection { xyxy, class, .. } = self.candidates[*index as usize];
            let offset = if options.agnostic {
                0.0
            } else {
                class as f32 * CLASS_OFFSET
            };
            let [x1, y1, x2, y2] = xyxy.map(|v| v + offset);
            self.x1.push(x1);
            self.y1.push(y1);
            self.x2.push(x2);
            self.y2.push(y2);
            self.area.push((x2 - x1) * (y2 - y1));
        }
        self.dropped.clear();
        self.dropped.resize(n, false);
        let mut kept = 0;
        for i in 0..n {
            if self.dropped[i] {
                continue;
            }
            out.push(self.candidates[self.order[i] as usize]);
            kept += 1;
            if kept == options.max_det {
                break;
            }
            self.drop_overlapping(i, options.iou);
        }
    }

    /// Marks every later box that overlaps box `i` by more than `threshold`. Written so that the compiler can vectorise it.
    fn drop_overlapping(&mut self, i: usize, threshold: f32) {
        let (ax1, ay1, ax2, ay2, area) = (self.x1[i], self.y1[i], self.x2[i], self.y2[i], self.area[i]);
        let rest = i + 1..self.order.len();
        let boxes = self.x1[rest.clone()]
            .iter()
            .zip(&self.y1[rest.clone()])
            .zip(self.x2[rest.clone()].iter().zip(&self.y2[rest.clone()]))
            .zip(self.area[rest.clone()].iter().zip(&mut self.dropped[rest]));
        for (((x1, y1), (x2, y2)), (b_area, dropped)) in boxes {
            let w = (ax2.min(*x2) - ax1.max(*x1)).max(0.0);
            let h = (ay2.min(*y2) - ay1.max(*y1)).max(0.0);
            let inter = w * h;
            *dropped |= inter / (area + b_area - inter) > threshold;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: &[[f32; 7]], options: &NmsOptions) -> Vec<Detection> {
        let mut out = Vec::new();
        Nms::default().run(rows.as_flattened(), 7, &[], options, &mut out);
        out
    }

    #[test]
    fn equal_confidences_keep_their_order_and_the_best_candidates_enter() {
        let rows: Vec<[f32; 7]> = (0..20)
            .map(|i| [100.0 * i as f32, 50.0, 20.0, 20.0, 0.9, 0.9, 0.1])
            .collect();
        let all = run(&rows, &NmsOptions::default());
        assert_eq!(all.len(), 20);
        assert!(all.windows(2).all(|w| w[0].xyxy[0] < w[1].xyxy[0]));
        let few = run(
            &rows,
            &NmsOptions {
                max_nms: 5,
                ..NmsOptions::default()
            },
        );
        assert_eq!(few, all[..5]);
    }

    #[test]
    fn nothing_in_nothing_out_and_nan_is_no_detection() {
        assert!(run(&[], &NmsOptions::default()).is_empty());
        assert!(run(&[[1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0]], &NmsOptions::default()).is_empty());
        assert!(run(&[[1.0, 1.0, 1.0, 1.0, 1.0, f32::NAN, f32::NAN]], &NmsOptions::default()).is_empty());
    }
}
