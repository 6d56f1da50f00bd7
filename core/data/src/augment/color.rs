//! Jitter of hue, saturation and value.

use rand::Rng;

use super::uniform;
use crate::{Hyp, Image};

/// Fraction bits of the look-up tables.
const BITS: u32 = 12;

/// Jitters hue, saturation and value by look-up tables on OpenCV's 8-bit scales (hue 0..180), in integers.
///
/// Back from HSV, each channel is `v - v s k`, where `k` (0 to 1) depends on hue and channel alone; so one table of hue gives all
/// three, and no pixel needs a case distinction by sector.
pub fn hsv(image: &mut Image, hyp: &Hyp, rng: &mut impl Rng) {
    if hyp.hsv_h == 0.0 && hyp.hsv_s == 0.0 && hyp.hsv_v == 0.0 {
        return;
    }
    let gains = [hyp.hsv_h, hyp.hsv_s, hyp.hsv_v].map(|gain| uniform(rng, -1.0, 1.0) * gain + 1.0);
    apply(image, gains);
}

/// Multiplies hue (turning round), saturation and value (clipping) by gains.
fn apply(image: &mut Image, gains: [f64; 3]) {
    let scaled = |gain: f64| -> [u32; 256] { std::array::from_fn(|i| (i as f64 * gain).clamp(0.0, 255.0) as u32) };
    let (saturation, value) = (scaled(gains[1]), scaled(gains[2]));
    // `k` / 255 with 23 bits (the product with `v s` still fits 32), for red, green, blue. A hue of 180 can only arise by rounding and is 0.
    let weights: [[u32; 3]; 181] = std::array::from_fn(|hue| {
        let hue = ((hue % 180) as f64 * gains[0]) as u32 % 180;
        [5.0, 3.0, 1.0].map(|offset| {
            let turn = (offset + f64::from(hue) / 30.0) % 6.0;
            (turn.min(4.0 - turn).clamp(0.0, 1.0) / 255.0 * f64::from(1 << 23)).round() as u32
        })
    });
    let ratio = |numerator: f64| -> [i32; 256] {
        std::array::from_fn(|i| {
            if i == 0 {
                0
            } else {
                (numerator * f64::from(1 << BITS) / i as f64).round() as i32
            }
        })
    };
    let (per_value, per_span) = (ratio(255.0), ratio(30.0));
    const HALF: i32 = 1 << (BITS - 1);
    for pixel in image.data.chunks_exact_mut(3) {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let span = max - min;
        let s = (span * per_value[max as usize & 255] + HALF) >> BITS;
        let (side, base) = if max == r {
            (g - b, if g < b { 180 } else { 0 })
        } else if max == g {
            (b - r, 60)
        } else {
            (r - g, 120)
        };
        let h = base + ((side * per_span[span as usize & 255] + HALF) >> BITS);
        let v = value[max as usize & 255];
        let vs = v * saturation[s as usize & 255];
        let k = &weights[h.clamp(0, 180) as usize];
        for (slot, k) in pixel.iter_mut().zip(k) {
            *slot = (v - ((vs * k + (1 << 22)) >> 23)) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(rgb: [u8; 3], gains: [f64; 3]) -> [u8; 3] {
        let mut image = Image::filled(1, 1, rgb);
        apply(&mut image, gains);
        [image.data[0], image.data[1], image.data[2]]
    }

    #[test]
    fn gains_of_one_change_no_pixel_much() {
        // 8-bit hue has steps of 2 degrees, so a round trip moves a channel by at most 255 / 60 + rounding.
        for r in (0..=255).step_by(15) {
            for g in (0..=255).step_by(15) {
                for b in (0..=255).step_by(15) {
                    let rgb = [r as u8, g as u8, b as u8];
                    let back = once(rgb, [1.0; 3]);
                    for (a, b) in rgb.iter().zip(back) {
                        assert!(a.abs_diff(b) <= 5, "{rgb:?} became {back:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_gain_does_its_part() {
        assert_eq!(once([200, 100, 50], [1.0, 1.0, 0.5])[0], 100);
        assert_eq!(once([200, 100, 50], [1.0, 0.0, 1.0]), [200; 3]);
        assert_eq!(once([90, 90, 90], [1.3, 1.7, 1.0]), [90; 3]);
        assert_eq!(once([200, 100, 50], [1.0, 1.0, 3.0])[0], 255);
        // Green (hue 60) times 2 is blue (hue 120).
        assert_eq!(once([0, 255, 0], [2.0, 1.0, 1.0]), [0, 0, 255]);
    }
}
