//! Resizing as OpenCV does it (INTER_LINEAR, 8 bit, fixed point with 11-bit coefficients) and letterboxing as YOLOv5 does it, so
//! that models trained elsewhere see the same pixels.

use crate::Image;

/// Gray of the border.
pub const BORDER: u8 = 114;

/// Where two source samples meet for one target sample: index of the first, index of the second, weights (sum 2048).
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// At the ends of a row OpenCV takes one sample whole; at the first and last row it blends the row with itself, which may cost a
/// level by rounding: `blend_ends`.
fn taps(source: usize, target: usize, blend_ends: bool) -> Vec<Tap> {
    let scale = source as f64 / target as f64;
    let last = source as isize - 1;
    (0..target)
        .map(|i| {
            let centre = ((i as f64 + 0.5) * scale - 0.5) as f32;
            let floor = centre.floor();
            let index = floor as isize;
            let inside = index >= 0 && index < last;
            let fraction = if inside || blend_ends { centre - floor } else { 0.0 };
            let one = ((1.0 - fraction) * 2048.0).round_ties_even() as i32;
            let two = (fraction * 2048.0).round_ties_even() as i32;
            let [first, second] = [index, index + 1].map(|sample| sample.clamp(0, last) as usize);
            Tap {
                first,
                second,
                weights: [one, two],
            }
        })
        .collect()
}

/// Bilinear resize to `width` x `height` into a part of `out` (rows of `stride` bytes, starting at byte `at`).
fn resize_into(source: &Image, width: usize, height: usize, out: &mut [u8], at: usize, stride: usize) {
    if (width, height) == (source.width, source.height) {
        for (row, line) in source.data.chunks_exact(width * 3).enumerate() {
            out[at + row * stride..][..width * 3].copy_from_slice(line);
        }
        return;
    }
    if source.width == 2 * width && source.height == 2 * height {
        halve_into(source, out, at, stride);
        return;
    }
    let columns = taps(source.width, width, false);
    let rows = taps(source.height, height, true);
    let mut lines = [vec![0i32; width * 3], vec![0i32; width * 3]];
    let mut held = [usize::MAX; 2];
    for (y, row) in rows.iter().enumerate() {
        for (slot, wanted) in [row.first, row.second].into_iter().enumerate() {
            if held[slot] == wanted {
                continue;
            }
            if slot == 0 && held[1] == wanted {
                lines.swap(0, 1);
                held.swap(0, 1);
                continue;
            }
            let line = &source.data[wanted * source.width * 3..][..source.width * 3];
            for (tap, out) in columns.iter().zip(lines[slot].chunks_exact_mut(3)) {
                let (a, b) = (&line[tap.first * 3..][..3], &line[tap.second * 3..][..3]);
                for c in 0..3 {
                    out[c] = i32::from(a[c]) * tap.weights[0] + i32::from(b[c]) * tap.weights[1];
                }
            }
            held[slot] = wanted;
        }
        let [b0, b1] = row.weights;
        let target = &mut out[at + y * stride..][..width * 3];
        for ((out, s0), s1) in target.iter_mut().zip(&lines[0]).zip(&lines[1]) {
            *out = ((((b0 * (s0 >> 4)) >> 16) + ((b1 * (s1 >> 4)) >> 16) + 2) >> 2).clamp(0, 255) as u8;
        }
    }
}

/// Both sides exactly halved: OpenCV averages blocks of 2 x 2, for INTER_LINEAR and INTER_AREA alike.
fn halve_into(source: &Image, out: &mut [u8], at: usize, stride: usize) {
    let (width, height) = (source.width / 2, source.height / 2);
    for y in 0..height {
        let (upper, lower) = source.data[2 * y * source.width * 3..][..2 * source.width * 3].split_at(source.width * 3);
        let line = &mut out[at + y * stride..][..width * 3];
        for x in 0..width {
            for c in 0..3 {
                let i = 6 * x + c;
                let sum = u16::from(upper[i]) + u16::from(upper[i + 3]) + u16::from(lower[i]) + u16::from(lower[i + 3]);
                line[3 * x + c] = ((sum + 2) >> 2) as u8;
            }
        }
    }
}

/// Bilinear resize.
pub fn resize(source: &Image, width: usize, height: usize) -> Image {
    let mut data = vec![0; width * height * 3];
    resize_into(source, width, height, &mut data, 0, width * 3);
    Image { width, height, data }
}

/// How an image was fitted: needed to map boxes back.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fit {
    /// Horizontal and vertical scale.
    pub ratio: [f64; 2],
    /// Border at the left (and right) and at the top (and bottom), in pixels, halves possible.
    pub pad: [f64; 2],
}

/// Options of [`letterbox`].
#[derive(Debug, Clone, Copy)]
pub struct Letterbox {
    /// Height and width to fit into.
    pub size: [usize; 2],
    /// Pad only to a multiple of `stride` instead of to the full size.
    pub auto: bool,
    /// Stretch instead of padding.
    pub stretch: bool,
    /// Enlarge small images.
    pub scale_up: bool,
    /// For `auto`.
    pub stride: usize,
}

impl Letterbox {
    /// Square (`auto`: minimal rectangle), enlarging small images.
    pub fn square(size: usize, auto: bool, stride: usize) -> Self {
        Self {
            size: [size, size],
            auto,
            stretch: false,
            scale_up: true,
            stride,
        }
    }

    /// Size of the resized image and of the result, and the fit.
    pub fn plan(&self, width: usize, height: usize) -> ([usize; 2], [usize; 2], Fit) {
        let [th, tw] = self.size;
        let mut ratio = (th as f64 / height as f64).min(tw as f64 / width as f64);
        if !self.scale_up {
            ratio = ratio.min(1.0);
        }
        let mut ratios = [ratio, ratio];
        let round = |v: f64| v.round_ties_even() as usize;
        let mut inner = [round(width as f64 * ratio).max(1), round(height as f64 * ratio).max(1)];
        let (mut dw, mut dh) = ((tw - inner[0].min(tw)) as f64, (th - inner[1].min(th)) as f64);
        if self.auto {
            (dw, dh) = (dw % self.stride as f64, dh % self.stride as f64);
        } else if self.stretch {
            (dw, dh) = (0.0, 0.0);
            inner = [tw, th];
            ratios = [tw as f64 / width as f64, th as f64 / height as f64];
        }
        let pad = [dw / 2.0, dh / 2.0];
        let outer = [inner[0] + dw as usize, inner[1] + dh as usize];
        (inner, outer, Fit { ratio: ratios, pad })
    }
}

/// Resizes and pads with gray.
pub fn letterbox(source: &Image, options: &Letterbox) -> (Image, Fit) {
    let mut out = Image::default();
    let fit = letterbox_into(source, options, &mut out);
    (out, fit)
}

/// Resizes and pads with gray into an image whose memory is reused.
pub fn letterbox_into(source: &Image, options: &Letterbox, out: &mut Image) -> Fit {
    let (inner, outer, fit) = options.plan(source.width, source.height);
    out.reset(outer[0], outer[1], BORDER);
    let left = (fit.pad[0] - 0.1).round_ties_even().max(0.0) as usize;
    let top = (fit.pad[1] - 0.1).round_ties_even().max(0.0) as usize;
    resize_into(
        source,
        inner[0],
        inner[1],
        &mut out.data,
        (top * outer[0] + left) * 3,
        outer[0] * 3,
    );
    fit
}

/// Maps corner boxes from a letterboxed image (`from`: height, width) back to the original (`to`), clipped to it. Without `fit` the
/// letterbox is taken to be centred with one ratio, as YOLOv5 does.
pub fn scale_boxes(boxes: &mut [[f32; 4]], from: [usize; 2], to: [usize; 2], fit: Option<&Fit>) {
    let [h1, w1] = from.map(|side| side as f64);
    let [h0, w0] = to.map(|side| side as f64);
    let Fit { ratio, pad } = fit.copied().unwrap_or_else(|| {
        let gain = (h1 / h0).min(w1 / w0);
        Fit {
            ratio: [gain; 2],
            pad: [(w1 - w0 * gain) / 2.0, (h1 - h0 * gain) / 2.0],
        }
    });
    for corners in boxes {
        for (i, value) in corners.iter_mut().enumerate() {
            let limit = if i % 2 == 0 { w0 } else { h0 };
            *value = ((f64::from(*value) - pad[i % 2]) / ratio[i % 2]).clamp(0.0, limit) as f32;
        }
    }
}

/// Area-averaging resize for shrinking (OpenCV's INTER_AREA): every target pixel is the mean of the source area under it.
pub fn resize_area(source: &Image, width: usize, height: usize) -> Image {
    let halved = (source.width, source.height) == (2 * width, 2 * height);
    if width > source.width || height > source.height || halved {
        return resize(source, width, height);
    }
    let columns = area_taps(source.width, width);
    let rows = area_taps(source.height, height);
    let mut line = vec![0f32; width * 3];
    let mut sum = vec![0f32; width * 3];
    let mut out = Image {
        width,
        height,
        data: Vec::with_capacity(width * height * 3),
    };
    for row in &rows {
        sum.fill(0.0);
        for (y, weight) in row {
            let pixels = &source.data[y * source.width * 3..][..source.width * 3];
            for (taps, slot) in columns.iter().zip(line.chunks_exact_mut(3)) {
                let mut mean = [0f32; 3];
                for (x, weight) in taps {
                    for (value, pixel) in mean.iter_mut().zip(&pixels[x * 3..x * 3 + 3]) {
                        *value += weight * f32::from(*pixel);
                    }
                }
                slot.copy_from_slice(&mean);
            }
            for (total, value) in sum.iter_mut().zip(&line) {
                *total += weight * value;
            }
        }
        out.data
            .extend(sum.iter().map(|v| v.round_ties_even().clamp(0.0, 255.0) as u8));
    }
    out
}

/// For each target sample the source samples under it, with weights that sum to 1.
fn area_taps(source: usize, target: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = source as f64 / target as f64;
    (0..target)
        .map(|i| {
            let (start, end) = (i as f64 * scale, ((i + 1) as f64 * scale).min(source as f64));
            (start.floor() as usize..(end - 1e-9).ceil() as usize)
                .map(|s| {
                    let cover = (end.min(s as f64 + 1.0) - start.max(s as f64)).max(0.0);
                    (s, (cover / (end - start)) as f32)
                })
                .collect()
        })
        .collect()
}
