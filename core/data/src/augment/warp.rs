//! Rotation, scale, shear, translation and perspective at random, of a picture and its boxes.

use rand::Rng;

use super::{PixelBox, uniform};
use crate::letterbox::BORDER;
use crate::{Hyp, Image};

/// A 3 x 3 matrix, row-major.
type Matrix = [[f64; 3]; 3];

/// Boxes narrower or lower than this many pixels are dropped.
const MIN_SIDE: f64 = 2.0;
/// Boxes longer than this times their width are dropped (20 in YOLOv5 v6.0, 100 since v6.1).
const MAX_ASPECT: f64 = 100.0;
/// Boxes that keep less than this share of their area are dropped.
const MIN_AREA: f64 = 0.1;

/// Buffers of the resampling, reused from picture to picture.
#[derive(Debug, Default)]
pub struct Warp {
    row: Vec<u16>,
    taps: Vec<(u32, u32, u32)>,
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

fn inverse(m: &Matrix) -> Option<Matrix> {
    let cofactor = |i: usize, j: usize| {
        let (a, b) = ((i + 1) % 3, (i + 2) % 3);
        let (c, d) = ((j + 1) % 3, (j + 2) % 3);
        m[a][c] * m[b][d] - m[a][d] * m[b][c]
    };
    let det: f64 = (0..3).map(|j| m[0][j] * cofactor(0, j)).sum();
    (det.abs() > 1e-12).then(|| std::array::from_fn(|i| std::array::from_fn(|j| cofactor(j, i) / det)))
}

/// Warps `source` into `out` (`size`: height and width) as `translation * shear * rotation * perspective * centre` of random parts. Boxes
/// that become too small, too thin or lose more than 90 % of their area are dropped.
pub fn random_perspective(
    source: &Image,
    boxes: &mut Vec<PixelBox>,
    size: [usize; 2],
    hyp: &Hyp,
    rng: &mut impl Rng,
    buffers: &mut Warp,
    out: &mut Image,
) {
    let (w, h) = (source.width as f64, source.height as f64);
    let centre: Matrix = [[1., 0., -w / 2.], [0., 1., -h / 2.], [0., 0., 1.]];
    let bend = |rng: &mut _| uniform(rng, -hyp.perspective, hyp.perspective);
    let perspective: Matrix = [[1., 0., 0.], [0., 1., 0.], [bend(rng), bend(rng), 1.]];
    let angle = uniform(rng, -hyp.degrees, hyp.degrees).to_radians();
    let scale = uniform(rng, 1.0 - hyp.scale, 1.0 + hyp.scale);
    let (sin, cos) = (angle.sin() * scale, angle.cos() * scale);
    let rotation: Matrix = [[cos, sin, 0.], [-sin, cos, 0.], [0., 0., 1.]];
    let lean = |rng: &mut _| uniform(rng, -hyp.shear, hyp.shear).to_radians().tan();
    let shear: Matrix = [[1., lean(rng), 0.], [lean(rng), 1., 0.], [0., 0., 1.]];
    let [height, width] = size;
    let mut shift = |side: usize| uniform(rng, 0.5 - hyp.translate, 0.5 + hyp.translate) * side as f64;
    let translation: Matrix = [[1., 0., shift(width)], [0., 1., shift(height)], [0., 0., 1.]];
    let matrix = [perspective, rotation, shear, translation]
        .iter()
        .fold(centre, |m, next| product(next, &m));

    out.reset(width, height, BORDER);
    if let Some(back) = inverse(&matrix) {
        let flat = hyp.perspective == 0.0;
        if flat && hyp.degrees == 0.0 && hyp.shear == 0.0 {
            stretch(source, &back, buffers, out);
        } else {
            resample(source, &back, !flat, out);
        }
    }
    transform_boxes(boxes, &matrix, scale, size);
}

/// Moves boxes to the box around their moved corners, clips and filters them.
fn transform_boxes(boxes: &mut Vec<PixelBox>, matrix: &Matrix, scale: f64, [height, width]: [usize; 2]) {
    let limits = [width as f64, height as f64];
    boxes.retain_mut(|[_, x1, y1, x2, y2]| {
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        for (x, y) in [(*x1, *y1), (*x2, *y2), (*x1, *y2), (*x2, *y1)] {
            let [px, py, pz] = matrix.map(|row| row[0] * f64::from(x) + row[1] * f64::from(y) + row[2]);
            for (axis, value) in [px / pz, py / pz].into_iter().enumerate() {
                low[axis] = low[axis].min(value);
                high[axis] = high[axis].max(value);
            }
        }
        let inside = |corner: [f64; 2]| [0, 1].map(|axis: usize| corner[axis].clamp(0.0, limits[axis]));
        let (low, high) = (inside(low), inside(high));
        let old_area = f64::from(*x2 - *x1) * f64::from(*y2 - *y1) * scale * scale;
        let (w, h) = (high[0] - low[0], high[1] - low[1]);
        let aspect = (w / (h + 1e-16)).max(h / (w + 1e-16));
        [*x1, *y1, *x2, *y2] = [low[0] as f32, low[1] as f32, high[0] as f32, high[1] as f32];
        w > MIN_SIDE && h > MIN_SIDE && w * h / (old_area + 1e-16) > MIN_AREA && aspect < MAX_ASPECT
    });
}

/// A coordinate as a whole part and a fraction in 1/256.
fn split(value: f64) -> (i64, u32) {
    let fixed = (value * 65536.0) as i64;
    (fixed >> 16, ((fixed >> 8) & 255) as u32)
}

/// Bilinear sampling through an inverse matrix that only scales and moves: rows are blended once, then stretched. Beyond the
/// source everything is gray, down to the blend at its edge, as in [`resample`].
fn stretch(source: &Image, back: &Matrix, buffers: &mut Warp, out: &mut Image) {
    let (w, h) = (source.width, source.height);
    let edge = u16::from(BORDER) << 8;
    let Warp { row, taps } = buffers;
    taps.clear();
    let (mut first, mut last) = (w, 0);
    taps.extend((0..out.width).map(|x| {
        let (ix, ax) = split(back[0][0] * x as f64 + back[0][2]);
        // In the padded row, column 0 and column w + 1 are the border.
        let [a, b] = [ix + 1, ix + 2].map(|i| i.clamp(0, w as i64 + 1) as usize);
        first = first.min(a.saturating_sub(1));
        last = last.max(b.min(w));
        (a as u32 * 3, b as u32 * 3, ax)
    }));
    if first >= last {
        return;
    }
    row.clear();
    row.resize((w + 2) * 3, edge);
    let used = first * 3..last * 3;
    for (y, line) in out.data.chunks_exact_mut(out.width * 3).enumerate() {
        let (iy, ay) = split(back[1][1] * y as f64 + back[1][2]);
        if iy < -1 || iy >= h as i64 {
            continue;
        }
        let ay = ay as u16;
        let blended = &mut row[3 + used.start..3 + used.end];
        let source_row = |i: i64| -> Option<&[u8]> {
            (0..h as i64)
                .contains(&i)
                .then(|| &source.data[i as usize * w * 3..][used.clone()])
        };
        match (source_row(iy), source_row(iy + 1)) {
            (Some(upper), Some(lower)) => {
                for ((slot, a), b) in blended.iter_mut().zip(upper).zip(lower) {
                    *slot = u16::from(*a) * (256 - ay) + u16::from(*b) * ay;
                }
            }
            (upper, lower) => {
                let gray = u16::from(BORDER);
                for (i, slot) in blended.iter_mut().enumerate() {
                    let [a, b] = [upper, lower].map(|line| line.map_or(gray, |line| u16::from(line[i])));
                    *slot = a * (256 - ay) + b * ay;
                }
            }
        }
        for (pixel, (a, b, ax)) in line.chunks_exact_mut(3).zip(taps.iter()) {
            let (a, b) = (&row[*a as usize..][..3], &row[*b as usize..][..3]);
            for c in 0..3 {
                pixel[c] = ((u32::from(a[c]) * (256 - ax) + u32::from(b[c]) * ax + (1 << 15)) >> 16) as u8;
            }
        }
    }
}

/// Bilinear sampling through any inverse matrix; gray outside.
fn resample(source: &Image, back: &Matrix, projective: bool, out: &mut Image) {
    let (w, h) = (source.width as i64, source.height as i64);
    let stride = source.width * 3;
    let width = out.width;
    for (y, line) in out.data.chunks_exact_mut(width * 3).enumerate() {
        let start = back.map(|row| row[1] * y as f64 + row[2]);
        for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
            let x = x as f64;
            let (mut sx, mut sy) = (back[0][0] * x + start[0], back[1][0] * x + start[1]);
            if projective {
                let z = back[2][0] * x + start[2];
                (sx, sy) = (sx / z, sy / z);
            }
            let ((ix, ax), (iy, ay)) = (split(sx), split(sy));
            if ix >= 0 && iy >= 0 && ix + 1 < w && iy + 1 < h {
                let at = iy as usize * stride + ix as usize * 3;
                let (upper, lower) = (&source.data[at..at + 6], &source.data[at + stride..at + stride + 6]);
                for c in 0..3 {
                    let top = u32::from(upper[c]) * (256 - ax) + u32::from(upper[c + 3]) * ax;
                    let bottom = u32::from(lower[c]) * (256 - ax) + u32::from(lower[c + 3]) * ax;
                    pixel[c] = ((top * (256 - ay) + bottom * ay + (1 << 15)) >> 16) as u8;
                }
            } else if ix >= -1 && iy >= -1 && ix < w && iy < h {
                let at = |x: i64, y: i64, c: usize| -> u32 {
                    let inside = x >= 0 && y >= 0 && x < w && y < h;
                    u32::from(if inside {
                        source.data[y as usize * stride + x as usize * 3 + c]
                    } else {
                        BORDER
                    })
                };
                for (c, value) in pixel.iter_mut().enumerate() {
                    let top = at(ix, iy, c) * (256 - ax) + at(ix + 1, iy, c) * ax;
                    let bottom = at(ix, iy + 1, c) * (256 - ax) + at(ix + 1, iy + 1, c) * ax;
                    *value = ((top * (256 - ay) + bottom * ay + (1 << 15)) >> 16) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn noise(width: usize, height: usize) -> Image {
        let stream = yolo_core::testing::Stream::new("warp");
        Image {
            width,
            height,
            data: (0..width * height * 3).map(|i| stream.bits(i as u32) as u8).collect(),
        }
    }

    #[test]
    fn the_short_way_equals_the_general_one() {
        let source = noise(50, 40);
        for back in [
            [[1.3, 0., -7.7], [0., 0.8, 3.2], [0., 0., 1.]],
            [[0.5, 0., 10.], [0., 2.0, -20.], [0., 0., 1.]],
            [[1., 0., 200.], [0., 1., 0.], [0., 0., 1.]],
        ] {
            let (mut short, mut general) = (Image::filled(48, 48, [BORDER; 3]), Image::filled(48, 48, [BORDER; 3]));
            stretch(&source, &back, &mut Warp::default(), &mut short);
            resample(&source, &back, false, &mut general);
            assert_eq!(short, general, "{back:?}");
        }
    }

    #[test]
    fn doing_nothing_changes_nothing() {
        let source = noise(64, 64);
        let still = Hyp {
            translate: 0.0,
            scale: 0.0,
            ..Hyp::default()
        };
        let mut boxes = vec![[2.0, 10.0, 12.0, 30.0, 44.0]];
        let mut out = Image::default();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        random_perspective(
            &source,
            &mut boxes,
            [64; 2],
            &still,
            &mut rng,
            &mut Warp::default(),
            &mut out,
        );
        assert_eq!(out, source);
        assert_eq!(boxes, [[2.0, 10.0, 12.0, 30.0, 44.0]]);
    }

    #[test]
    fn boxes_follow_their_pixels() {
        // One bright rectangle: wherever it goes, its box must go too.
        let hyp = Hyp {
            degrees: 0.0,
            translate: 0.2,
            scale: 0.4,
            ..Hyp::default()
        };
        for seed in 0..20 {
            let mut source = Image::filled(100, 100, [0; 3]);
            for y in 40..60 {
                source.data[(y * 100 + 30) * 3..(y * 100 + 70) * 3].fill(255);
            }
            let mut boxes = vec![[0.0, 30.0, 40.0, 70.0, 60.0]];
            let mut out = Image::default();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            random_perspective(
                &source,
                &mut boxes,
                [100; 2],
                &hyp,
                &mut rng,
                &mut Warp::default(),
                &mut out,
            );
            let lit: Vec<(usize, usize)> = (0..10_000)
                .filter(|i| out.data[i * 3] > 127 && out.data[i * 3] != BORDER)
                .map(|i| (i % 100, i / 100))
                .collect();
            let [_, x1, y1, x2, y2] = boxes[0];
            let (left, right) = (
                lit.iter().map(|p| p.0).min().unwrap(),
                lit.iter().map(|p| p.0).max().unwrap() + 1,
            );
            let (top, bottom) = (
                lit.iter().map(|p| p.1).min().unwrap(),
                lit.iter().map(|p| p.1).max().unwrap() + 1,
            );
            // A pixel centre is half a pixel from its edge, and the edge is blurred by interpolation.
            for (edge, seen) in [(x1, left), (x2, right), (y1, top), (y2, bottom)] {
                assert!(
                    (edge - seen as f32).abs() <= 1.6,
                    "seed {seed}: {boxes:?} against {left} {top} {right} {bottom}"
                );
            }
        }
    }

    #[test]
    fn flat_pictures_stay_flat_and_move_by_their_own_sides() {
        let still = Hyp {
            translate: 0.0,
            scale: 0.0,
            ..Hyp::default()
        };
        let source = noise(96, 32);
        let (mut boxes, mut out) = (vec![[2.0, 10.0, 12.0, 90.0, 30.0]], Image::default());
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut buffers = Warp::default();
        random_perspective(&source, &mut boxes, [32, 96], &still, &mut rng, &mut buffers, &mut out);
        assert_eq!(out, source);
        assert_eq!(boxes, [[2.0, 10.0, 12.0, 90.0, 30.0]]);
        // Into a picture of another shape: centre stays at centre, boxes are clipped to width and height.
        random_perspective(&source, &mut boxes, [64, 64], &still, &mut rng, &mut buffers, &mut out);
        assert_eq!([out.width, out.height], [64, 64]);
        assert_eq!(boxes, [[2.0, 0.0, 28.0, 64.0, 46.0]]);
    }

    #[test]
    fn what_leaves_the_picture_is_dropped() {
        let matrix = [[1., 0., 95.], [0., 1., 0.], [0., 0., 1.]];
        let mut boxes = vec![
            [0.0, 0.0, 0.0, 100.0, 50.0],
            [1.0, 0.0, 0.0, 10.0, 50.0],
            [2.0, 10.0, 0.0, 30.0, 20.0],
        ];
        transform_boxes(&mut boxes, &matrix, 1.0, [100; 2]);
        // The first keeps 5 % of its area; the second half of it; the third nothing.
        assert_eq!(boxes, [[1.0, 95.0, 0.0, 100.0, 50.0]]);
    }
}
