//! Precision, recall, F1 and average precision per class.
//!
//! AP is the area under the interpolated precision-recall curve at 101 points (COCO's rule), integrated with trapezoids as
//! YOLOv5 does. Precision and recall are read where the mean F1 of all classes, smoothed as YOLOv5 v7 does it, is highest.

use super::Matches;
use super::matching::IOU_THRESHOLDS;

/// Points of the curves over confidence.
const CURVE: usize = 1000;
/// Points that the mean F1 is averaged over on either side before its highest place is looked for: YOLOv5 v7's `smooth(f1, 0.1)` is a box
/// of 101 points, with the ends of the curve repeated.
const SMOOTH: usize = CURVE / 20;
/// Points of the precision-recall curve.
const RECALLS: usize = 101;

/// Numbers of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassMetrics {
    /// Class.
    pub class: usize,
    /// Labelled objects.
    pub labels: usize,
    /// Precision at the best mean F1.
    pub precision: f64,
    /// Recall there.
    pub recall: f64,
    /// F1 there.
    pub f1: f64,
    /// Average precision at each of the ten thresholds.
    pub ap: [f64; 10],
}

impl ClassMetrics {
    /// AP at IoU 0.5.
    pub fn ap50(&self) -> f64 {
        self.ap[0]
    }

    /// AP at IoU 0.75.
    pub fn ap75(&self) -> f64 {
        self.ap[5]
    }

    /// Mean AP over 0.5:0.95.
    pub fn ap_mean(&self) -> f64 {
        self.ap.iter().sum::<f64>() / 10.0
    }
}

/// Curves of one class for drawing, at IoU 0.5: 1000 points over confidence 0..1, and precision over recall 0..1.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassCurves {
    /// Class.
    pub class: usize,
    /// Precision at each confidence.
    pub precision: Vec<f64>,
    /// Recall at each confidence.
    pub recall: Vec<f64>,
    /// Precision at each recall.
    pub precision_at_recall: Vec<f64>,
}

/// Numbers of a data set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Mean precision.
    pub precision: f64,
    /// Mean recall.
    pub recall: f64,
    /// Mean AP at IoU 0.5.
    pub map50: f64,
    /// Mean AP at IoU 0.75.
    pub map75: f64,
    /// Mean AP over IoU 0.5:0.95.
    pub map: f64,
    /// Confidence at which precision and recall were read.
    pub confidence: f64,
    /// Images.
    pub images: usize,
    /// Labelled objects.
    pub instances: usize,
    /// Every class that has labels.
    pub classes: Vec<ClassMetrics>,
    /// Their curves.
    pub curves: Vec<ClassCurves>,
}

impl Metrics {
    /// What "best" means when checkpoints are chosen: 0.1 mAP50 + 0.9 mAP.
    pub fn fitness(&self) -> f64 {
        0.1 * self.map50 + 0.9 * self.map
    }
}

/// Numbers from the matches of all images.
pub fn evaluate(matches: &Matches) -> Metrics {
    let mut order: Vec<u32> = (0..matches.conf.len() as u32).collect();
    order.sort_by(|a, b| matches.conf[*b as usize].total_cmp(&matches.conf[*a as usize]));
    let present = || matches.labels.iter().enumerate().filter(|(_, n)| **n > 0);
    let mut metrics = Metrics {
        images: matches.images,
        instances: matches.instances(),
        ..Metrics::default()
    };
    for (class, labels) in present() {
        let mine: Vec<u32> = order
            .iter()
            .copied()
            .filter(|i| matches.class[*i as usize] as usize == class)
            .collect();
        let (ap, curves) = class_metrics(matches, class, *labels, &mine);
        metrics.classes.push(ClassMetrics {
            class,
            labels: *labels,
            precision: 0.0,
            recall: 0.0,
            f1: 0.0,
            ap,
        });
        metrics.curves.push(curves);
    }
    let n = metrics.classes.len();
    // As in the reference: without a single hit there is nothing to average.
    if n == 0 || matches.hits.iter().all(|h| *h == 0) {
        return metrics;
    }
    let f1 = |c: &ClassCurves, i: usize| 2.0 * c.precision[i] * c.recall[i] / (c.precision[i] + c.recall[i] + 1e-16);
    let mean_f1: Vec<f64> = (0..CURVE)
        .map(|i| metrics.curves.iter().map(|c| f1(c, i)).sum::<f64>() / n as f64)
        .collect();
    let at = smooth_peak(&mean_f1, SMOOTH);
    metrics.confidence = at as f64 / (CURVE - 1) as f64;
    for (class, curves) in metrics.classes.iter_mut().zip(&metrics.curves) {
        (class.precision, class.recall, class.f1) = (curves.precision[at], curves.recall[at], f1(curves, at));
    }
    let mean = |value: &dyn Fn(&ClassMetrics) -> f64| metrics.classes.iter().map(value).sum::<f64>() / n as f64;
    let means = [
        mean(&|c| c.precision),
        mean(&|c| c.recall),
        mean(&ClassMetrics::ap50),
        mean(&ClassMetrics::ap75),
        mean(&ClassMetrics::ap_mean),
    ];
    [
        metrics.precision,
        metrics.recall,
        metrics.map50,
        metrics.map75,
        metrics.map,
    ] = means;
    metrics
}

/// Where the mean over `reach` neighbours on either side is highest; the first such place.
fn smooth_peak(curve: &[f64], reach: usize) -> usize {
    let last = curve.len().saturating_sub(1);
    let smoothed = |i: usize| {
        let window = i..=i + 2 * reach;
        window.map(|k| curve[k.saturating_sub(reach).min(last)]).sum::<f64>() / (2 * reach + 1) as f64
    };
    let better = |best: (usize, f64), (i, value): (usize, f64)| if value > best.1 { (i, value) } else { best };
    (0..curve.len())
        .map(|i| (i, smoothed(i)))
        .fold((0, f64::NEG_INFINITY), better)
        .0
}

/// AP at all thresholds and the curves; `order` lists the detections of the class, best first.
fn class_metrics(matches: &Matches, class: usize, labels: usize, order: &[u32]) -> ([f64; 10], ClassCurves) {
    let zeros = || vec![0.0; CURVE];
    let mut curves = ClassCurves {
        class,
        precision: zeros(),
        recall: zeros(),
        precision_at_recall: zeros(),
    };
    let mut ap = [0.0; IOU_THRESHOLDS.len()];
    if order.is_empty() {
        return (ap, curves);
    }
    let (mut recall, mut precision) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
    for (threshold, ap) in ap.iter_mut().enumerate() {
        recall.clear();
        precision.clear();
        let mut hits = 0u32;
        for (rank, index) in order.iter().enumerate() {
            hits += u32::from(matches.hits[*index as usize] >> threshold & 1);
            recall.push(f64::from(hits) / (labels as f64 + 1e-16));
            precision.push(f64::from(hits) / (rank + 1) as f64);
        }
        let (x, y) = envelope(&recall, &precision);
        *ap = area(&x, &y);
        if threshold == 0 {
            let falling: Vec<f64> = order.iter().map(|i| -f64::from(matches.conf[*i as usize])).collect();
            for i in 0..CURVE {
                let at = i as f64 / (CURVE - 1) as f64;
                curves.recall[i] = interpolate(-at, &falling, &recall, 0.0);
                curves.precision[i] = interpolate(-at, &falling, &precision, 1.0);
                curves.precision_at_recall[i] = interpolate(at, &x, &y, 1.0);
            }
        }
    }
    (ap, curves)
}

/// Average precision of a recall and precision curve (both over falling confidence).
pub fn average_precision(recall: &[f64], precision: &[f64]) -> f64 {
    let (x, y) = envelope(recall, precision);
    area(&x, &y)
}

/// The curve with its ends added and precision made to fall monotonically.
fn envelope(recall: &[f64], precision: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut x = Vec::with_capacity(recall.len() + 2);
    x.push(0.0);
    x.extend_from_slice(recall);
    x.push(1.0);
    let mut y = Vec::with_capacity(precision.len() + 2);
    y.push(1.0);
    y.extend_from_slice(precision);
    y.push(0.0);
    for i in (0..y.len() - 1).rev() {
        y[i] = y[i].max(y[i + 1]);
    }
    (x, y)
}

fn area(x: &[f64], y: &[f64]) -> f64 {
    let step = 1.0 / (RECALLS - 1) as f64;
    let value = |i: usize| interpolate(i as f64 * step, x, y, y[0]);
    (1..RECALLS)
        .map(|i| (value(i - 1) + value(i)) / 2.0 * (i as f64 * step - (i - 1) as f64 * step))
        .sum()
}

/// Linear interpolation in rising `xs`; `left` before the first, the last value after the last. Where `xs` repeats a value the
/// last of them counts.
fn interpolate(x: f64, xs: &[f64], ys: &[f64], left: f64) -> f64 {
    let after = xs.partition_point(|v| *v <= x);
    match after {
        0 => left,
        n if n == xs.len() => ys[n - 1],
        n if xs[n - 1] == x => ys[n - 1],
        n => {
            let slope = (ys[n] - ys[n - 1]) / (xs[n] - xs[n - 1]);
            slope * (x - xs[n - 1]) + ys[n - 1]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_curve_has_almost_full_area() {
        // The sentinel (recall 1, precision 0) takes half of nothing here: recall reaches 1 exactly.
        let ap = average_precision(&[0.5, 1.0], &[1.0, 1.0]);
        assert!((ap - 0.995).abs() < 1e-12, "the known 0.995 of this rule, got {ap}");
    }

    #[test]
    fn the_peak_is_that_of_the_smoothed_curve() {
        // A spike of one point against a plateau that is a little lower.
        let mut curve = vec![0.2; CURVE];
        curve[100] = 0.9;
        curve[600..=700].fill(0.6);
        assert_eq!(
            smooth_peak(&curve, SMOOTH),
            650,
            "the middle of the plateau of 101 points"
        );
        assert_eq!(smooth_peak(&curve, 0), 100, "without smoothing the spike");
        // The ends are repeated, so a curve that falls from its start peaks there.
        let falling: Vec<f64> = (0..CURVE).map(|i| 1.0 - i as f64 / CURVE as f64).collect();
        assert_eq!(smooth_peak(&falling, SMOOTH), 0);
        // Of equals the first, as numpy's argmax.
        assert_eq!(smooth_peak(&[0.5; CURVE], SMOOTH), 0);
    }

    #[test]
    fn nothing_found_is_zero() {
        let mut matches = Matches::default();
        matches.add(
            &[],
            &[crate::eval::Truth {
                class: 0,
                xyxy: [0.0, 0.0, 9.0, 9.0],
            }; 3],
        );
        let metrics = evaluate(&matches);
        assert_eq!((metrics.map50, metrics.map, metrics.instances), (0.0, 0.0, 3));
        assert_eq!(metrics.classes.len(), 1);
    }
}
