//! COCO's own evaluation of boxes (the algorithm of pycocotools' `COCOeval`), for comparison with other toolkits.
//!
//! It differs from [`super::evaluate`]: labels can be matched again at each threshold, the curve is read to the right
//! instead of interpolated, and sizes are told apart (small < 32^2 <= medium < 96^2 <= large pixels).

use super::Detection;

/// A labelled object of COCO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CocoTruth {
    /// Class.
    pub class: u32,
    /// Left, top, width, height.
    pub xywh: [f64; 4],
    /// Area (COCO: of the mask).
    pub area: f64,
    /// A crowd of objects, which neither counts nor punishes.
    pub crowd: bool,
}

/// The twelve numbers of COCO, and AP per class. NaN where there is nothing to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoMetrics {
    /// AP, AP50, AP75, AP small, medium, large.
    pub ap: [f64; 6],
    /// AR with 1, 10, 100 detections per image, then AR small, medium, large.
    pub ar: [f64; 6],
    /// AP per class (NaN: no labels).
    pub class_ap: Vec<f64>,
    /// AP50 per class.
    pub class_ap50: Vec<f64>,
}

const AREAS: [(f64, f64); 4] = [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10)];
const MAX_DETS: [usize; 3] = [1, 10, 100];
const THRESHOLDS: usize = 10;
const RECALLS: usize = 101;

fn threshold(t: usize) -> f64 {
    0.5 + 0.05 * t as f64
}

/// A scored detection of one image, class and size: rank in its image, confidence, and per threshold hit or ignored.
struct Scored {
    rank: usize,
    conf: f64,
    hit: u16,
    ignored: u16,
}

/// Precision at each threshold and recall point, and final recall at each threshold, for one class, size and limit.
type Curves = ([[f64; RECALLS]; THRESHOLDS], [f64; THRESHOLDS]);

/// Evaluates images given as (detections with `[left, top, right, bottom]`, labels).
pub fn coco_evaluate(images: &[(Vec<Detection>, Vec<CocoTruth>)], classes: usize) -> CocoMetrics {
    let mut tables: Vec<[[Option<Curves>; 3]; 4]> = Vec::with_capacity(classes);
    for class in 0..classes as u32 {
        tables.push(AREAS.map(|area| {
            let mut scored = Vec::new();
            let mut labels = 0;
            for (detections, truths) in images {
                labels += score_image(detections, truths, class, area, &mut scored);
            }
            scored.sort_by(|a, b| b.conf.total_cmp(&a.conf));
            MAX_DETS.map(|limit| (labels > 0).then(|| curves(&scored, limit, labels)))
        }));
    }
    let precision = |area: usize, range: std::ops::Range<usize>| {
        mean(
            tables
                .iter()
                .filter_map(|t| t[area][2].as_ref())
                .flat_map(|c| c.0[range.clone()].iter().flatten().copied()),
        )
    };
    let recall = |area: usize, limit: usize| {
        mean(
            tables
                .iter()
                .filter_map(|t| t[area][limit].as_ref())
                .flat_map(|c| c.1.iter().copied()),
        )
    };
    let class_value = |range: std::ops::Range<usize>| {
        let value = |t: &[[Option<Curves>; 3]; 4]| {
            t[0][2]
                .as_ref()
                .map_or(f64::NAN, |c| mean(c.0[range.clone()].iter().flatten().copied()))
        };
        tables.iter().map(value).collect()
    };
    CocoMetrics {
        ap: [
            precision(0, 0..10),
            precision(0, 0..1),
            precision(0, 5..6),
            precision(1, 0..10),
            precision(2, 0..10),
            precision(3, 0..10),
        ],
        ar: [
            recall(0, 0),
            recall(0, 1),
            recall(0, 2),
            recall(1, 2),
            recall(2, 2),
            recall(3, 2),
        ],
        class_ap: class_value(0..10),
        class_ap50: class_value(0..1),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0u32, 0.0), |(n, sum), v| (n + 1, sum + v));
    if n == 0 { f64::NAN } else { sum / f64::from(n) }
}

/// Matches one image greedily, best detection first; returns how many labels count.
fn score_image(
    detections: &[Detection],
    truths: &[CocoTruth],
    class: u32,
    (low, high): (f64, f64),
    out: &mut Vec<Scored>,
) -> usize {
    let outside = |area: f64| area < low || area > high;
    let mut labels: Vec<(CocoTruth, bool)> = truths
        .iter()
        .filter(|t| t.class == class)
        .map(|t| (*t, t.crowd || outside(t.area)))
        .collect();
    labels.sort_by_key(|(_, ignored)| *ignored);
    let mut mine: Vec<&Detection> = detections.iter().filter(|d| d.class == class).collect();
    mine.sort_by(|a, b| b.conf.total_cmp(&a.conf));
    mine.truncate(MAX_DETS[2]);
    let boxes: Vec<[f64; 4]> = mine.iter().map(|d| to_xywh(d.xyxy)).collect();
    let first = out.len();
    out.extend(mine.iter().enumerate().map(|(rank, d)| Scored {
        rank,
        conf: f64::from(d.conf),
        hit: 0,
        ignored: 0,
    }));
    let mut taken = vec![false; labels.len()];
    for t in 0..THRESHOLDS {
        taken.fill(false);
        for (d, xywh) in boxes.iter().enumerate() {
            let mut best = threshold(t).min(1.0 - 1e-10);
            let mut found = None;
            for (l, (truth, ignored)) in labels.iter().enumerate() {
                if taken[l] && !truth.crowd {
                    continue;
                }
                // Labels that don't count come last: a match that counts is not given up for them.
                if *ignored && found.is_some_and(|f: usize| !labels[f].1) {
                    break;
                }
                let iou = overlap(*xywh, truth);
                if iou >= best {
                    (best, found) = (iou, Some(l));
                }
            }
            let scored = &mut out[first + d];
            match found {
                Some(l) => {
                    taken[l] = true;
                    scored.hit |= 1 << t;
                    scored.ignored |= u16::from(labels[l].1) << t;
                }
                None => scored.ignored |= u16::from(outside(xywh[2] * xywh[3])) << t,
            }
        }
    }
    labels.iter().filter(|(_, ignored)| !ignored).count()
}

fn to_xywh(b: [f32; 4]) -> [f64; 4] {
    [
        f64::from(b[0]),
        f64::from(b[1]),
        f64::from(b[2] - b[0]),
        f64::from(b[3] - b[1]),
    ]
}

/// IoU; over the detection's own area for a crowd.
fn overlap(d: [f64; 4], truth: &CocoTruth) -> f64 {
    let g = truth.xywh;
    let w = (d[0] + d[2]).min(g[0] + g[2]) - d[0].max(g[0]);
    let h = (d[1] + d[3]).min(g[1] + g[3]) - d[1].max(g[1]);
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let inter = w * h;
    let union = if truth.crowd {
        d[2] * d[3]
    } else {
        d[2] * d[3] + g[2] * g[3] - inter
    };
    inter / union
}

fn curves(scored: &[Scored], limit: usize, labels: usize) -> Curves {
    let mut precision = [[0.0; RECALLS]; THRESHOLDS];
    let mut final_recall = [0.0; THRESHOLDS];
    let (mut rc, mut pr) = (Vec::new(), Vec::new());
    for t in 0..THRESHOLDS {
        rc.clear();
        pr.clear();
        let (mut hits, mut misses) = (0.0, 0.0);
        for s in scored.iter().filter(|s| s.rank < limit) {
            let counts = s.ignored >> t & 1 == 0;
            let hit = s.hit >> t & 1 == 1;
            hits += f64::from(u8::from(counts && hit));
            misses += f64::from(u8::from(counts && !hit));
            rc.push(hits / labels as f64);
            pr.push(hits / (hits + misses + f64::EPSILON));
        }
        final_recall[t] = rc.last().copied().unwrap_or(0.0);
        for i in (1..pr.len()).rev() {
            pr[i - 1] = pr[i].max(pr[i - 1]);
        }
        for (r, value) in precision[t].iter_mut().enumerate() {
            // The points are those of `linspace(0, 1, 101)`.
            let at = rc.partition_point(|v| *v < r as f64 * 0.01);
            *value = pr.get(at).copied().unwrap_or(0.0);
        }
    }
    (precision, final_recall)
}
