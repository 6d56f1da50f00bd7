//! Boxes and how much they overlap.

/// Centre and size to corners.
pub fn xywh_to_xyxy([x, y, w, h]: [f32; 4]) -> [f32; 4] {
    [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]
}

/// Intersection over union of two boxes given by corners, in f32 and with no epsilon (as torchvision's `box_iou`).
pub fn box_iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |r: [f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let inter = w * h;
    inter / (area(a) + area(b) - inter)
}

/// Measures of overlap that are also losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IouKind {
    /// Intersection over union.
    Iou,
    /// Generalised: arXiv 1902.09630, equation 4.
    Giou,
    /// With the distance of the centres: arXiv 1911.08287, equation 7.
    Diou,
    /// With distance and aspect ratio: arXiv 1911.08287, equations 10 and 11.
    Ciou,
}

/// Overlap of two boxes given by corners, with the epsilon of YOLOv5 (1e-7).
pub fn iou(a: [f64; 4], b: [f64; 4], kind: IouKind) -> f64 {
    const EPS: f64 = 1e-7;
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let inter = w * h;
    let (w1, h1) = (a[2] - a[0], a[3] - a[1] + EPS);
    let (w2, h2) = (b[2] - b[0], b[3] - b[1] + EPS);
    let union = w1 * h1 + w2 * h2 - inter + EPS;
    let iou = inter / union;
    let (cw, ch) = (a[2].max(b[2]) - a[0].min(b[0]), a[3].max(b[3]) - a[1].min(b[1]));
    let distance = || {
        let squared = (b[0] + b[2] - a[0] - a[2]).powi(2) + (b[1] + b[3] - a[1] - a[3]).powi(2);
        squared / 4.0 / (cw * cw + ch * ch + EPS)
    };
    match kind {
        IouKind::Iou => iou,
        IouKind::Giou => {
            let hull = cw * ch + EPS;
            iou - (hull - union) / hull
        }
        IouKind::Diou => iou - distance(),
        IouKind::Ciou => {
            let v = 4.0 / std::f64::consts::PI.powi(2) * ((w2 / h2).atan() - (w1 / h1).atan()).powi(2);
            let alpha = v / (v - iou + 1.0 + EPS);
            iou - (distance() + v * alpha)
        }
    }
}

/// Boxes of a letterboxed image back to the original image, cut at its edges.
pub fn scale_boxes<'a>(
    boxes: impl Iterator<Item = &'a mut [f32; 4]>,
    gain: f32,
    pad: [f32; 2],
    width: f32,
    height: f32,
) {
    for b in boxes {
        for (i, v) in b.iter_mut().enumerate() {
            let limit = if i % 2 == 0 { width } else { height };
            *v = ((*v - pad[i % 2]) / gain).clamp(0.0, limit);
        }
    }
}
