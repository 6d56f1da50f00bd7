//! Augmentation as in YOLOv5 v6: mosaic, copy-paste, random perspective, mixup, HSV, flips. Boxes are pixels
//! `[class, x1, y1, x2, y2]` while pictures change, and become normalised at the end. All randomness comes from the generator that
//! is passed in; all buffers belong to the caller and are reused.

mod color;
mod paste;
mod warp;

use rand::{Rng, RngExt as _};

use crate::Image;
use crate::labels::Label;
use crate::letterbox::BORDER;

pub use color::hsv;
pub use paste::copy_paste;
pub use warp::{Warp, random_perspective};

/// A box in pixels: class and corners.
pub type PixelBox = [f32; 5];

/// Evenly distributed between two bounds.
pub(crate) fn uniform(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Whether something with this probability happens.
pub fn chance(rng: &mut impl Rng, p: f64) -> bool {
    p > 0.0 && rng.random::<f64>() < p
}

/// Appends the boxes of an image of `w` x `h` pixels whose corner lies at `x`, `y`.
pub fn push_boxes(boxes: &mut Vec<PixelBox>, labels: &[Label], [w, h]: [f32; 2], [x, y]: [f32; 2]) {
    boxes.extend(labels.iter().map(|[class, cx, cy, bw, bh]| {
        let (cx, cy) = (cx * w + x, cy * h + y);
        let (bw, bh) = (bw * w / 2.0, bh * h / 2.0);
        [*class, cx - bw, cy - bh, cx + bw, cy + bh]
    }));
}

/// Joins four images of at most `size` around a random centre on a gray canvas of twice the size (Bochkovskiy et al., YOLOv4,
/// arXiv 2004.10934, section 3.3). `canvas` and `boxes` are overwritten.
pub fn mosaic(
    size: usize,
    parts: [(&Image, &[Label]); 4],
    rng: &mut impl Rng,
    canvas: &mut Image,
    boxes: &mut Vec<PixelBox>,
) {
    let side = 2 * size;
    let half = size as f64 / 2.0;
    let yc = uniform(rng, half, side as f64 - half) as i64;
    let xc = uniform(rng, half, side as f64 - half) as i64;
    canvas.reset(side, side, BORDER);
    boxes.clear();
    for (slot, (image, labels)) in parts.into_iter().enumerate() {
        let (w, h) = (image.width as i64, image.height as i64);
        // Where the image's top left corner falls on the canvas; what reaches beyond is cut.
        let x = if slot % 2 == 0 { xc - w } else { xc };
        let y = if slot < 2 { yc - h } else { yc };
        let (x0, x1) = (x.max(0), (x + w).min(side as i64));
        let (y0, y1) = (y.max(0), (y + h).min(side as i64));
        if x1 > x0 {
            let bytes = (x1 - x0) as usize * 3;
            for row in y0..y1 {
                let from = ((row - y) * w + (x0 - x)) as usize * 3;
                let to = (row as usize * side + x0 as usize) * 3;
                canvas.data[to..to + bytes].copy_from_slice(&image.data[from..from + bytes]);
            }
        }
        push_boxes(boxes, labels, [w as f32, h as f32], [x as f32, y as f32]);
    }
    let limit = side as f32;
    for value in boxes.iter_mut().flat_map(|corners| &mut corners[1..]) {
        *value = value.clamp(0.0, limit);
    }
}

/// Mirrors left and right.
pub fn flip_horizontal(image: &mut Image, boxes: &mut [PixelBox]) {
    for line in image.data.chunks_exact_mut(image.width * 3) {
        let (left, right) = line.split_at_mut(image.width / 2 * 3);
        for (a, b) in left.chunks_exact_mut(3).zip(right.chunks_exact_mut(3).rev()) {
            a.swap_with_slice(b);
        }
    }
    let w = image.width as f32;
    for [_, x1, _, x2, _] in boxes {
        (*x1, *x2) = (w - *x2, w - *x1);
    }
}

/// Mirrors top and bottom.
pub fn flip_vertical(image: &mut Image, boxes: &mut [PixelBox]) {
    let stride = image.width * 3;
    for row in 0..image.height / 2 {
        let (upper, lower) = image.data.split_at_mut((image.height - 1 - row) * stride);
        upper[row * stride..][..stride].swap_with_slice(&mut lower[..stride]);
    }
    let h = image.height as f32;
    for [_, _, y1, _, y2] in boxes {
        (*y1, *y2) = (h - *y2, h - *y1);
    }
}

/// Mixes a second picture in (Zhang et al., mixup, arXiv 1710.09412) with a share from Beta(32, 32), and appends its boxes.
pub fn mixup(
    image: &mut Image,
    boxes: &mut Vec<PixelBox>,
    other: &Image,
    other_boxes: &[PixelBox],
    rng: &mut impl Rng,
) {
    // For a whole shape k, Gamma(k) is minus the logarithm of a product of k uniforms; Beta(a, b) = G(a) / (G(a) + G(b)).
    let mut gamma = || -> f64 { (0..32).map(|_| -(1.0 - rng.random::<f64>()).ln()).sum() };
    let (a, b) = (gamma(), gamma());
    let share = (a / (a + b) * 256.0) as u16;
    for (a, b) in image.data.iter_mut().zip(&other.data) {
        *a = ((u16::from(*a) * share + u16::from(*b) * (256 - share)) >> 8) as u8;
    }
    boxes.extend_from_slice(other_boxes);
}
