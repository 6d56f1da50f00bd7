//! Copy-paste of boxes.

use rand::Rng;
use rand::seq::index::sample;

use super::PixelBox;
use crate::Image;

/// Pastes mirrored copies of a share `p` of the boxes onto the mirrored place, where they cover less than 30 % of any other box
/// (after Ghiasi et al., Copy-Paste, arXiv 2012.07177). Ultralytics copies segments; label files of boxes have none, so whole boxes
/// are copied, which suits small objects seen from above.
pub fn copy_paste(image: &mut Image, boxes: &mut Vec<PixelBox>, p: f64, rng: &mut impl Rng, row: &mut Vec<u8>) {
    let count = boxes.len();
    let wanted = (count as f64 * p).round() as usize;
    if p <= 0.0 || wanted == 0 {
        return;
    }
    let width = image.width as f32;
    for index in sample(rng, count, wanted.min(count)) {
        let [class, x1, y1, x2, y2] = boxes[index];
        let copy = [class, width - x2, y1, width - x1, y2];
        if boxes.iter().any(|other| covered(&copy, other) >= 0.3) {
            continue;
        }
        let clip = |value: f32, limit: usize| (value.round().max(0.0) as usize).min(limit);
        let (left, right) = (clip(x1, image.width), clip(x2, image.width));
        for y in clip(y1, image.height)..clip(y2, image.height) {
            let line = &mut image.data[y * image.width * 3..][..image.width * 3];
            row.clear();
            row.extend(line[left * 3..right * 3].chunks_exact(3).rev().flatten());
            line[(image.width - right) * 3..(image.width - left) * 3].copy_from_slice(row);
        }
        boxes.push(copy);
    }
}

/// Share of `other` that `copy` covers.
fn covered(copy: &PixelBox, other: &PixelBox) -> f32 {
    let w = (copy[3].min(other[3]) - copy[1].max(other[1])).max(0.0);
    let h = (copy[4].min(other[4]) - copy[2].max(other[2])).max(0.0);
    w * h / ((other[3] - other[1]) * (other[4] - other[2]) + 1e-16)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_box_is_copied_to_the_mirrored_place_unless_it_hides_another() {
        let mut image = Image::filled(20, 10, [0; 3]);
        image.data[(2 * 20 + 3) * 3] = 255;
        let mut boxes = vec![[1.0, 2.0, 1.0, 6.0, 5.0]];
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        copy_paste(&mut image, &mut boxes, 1.0, &mut rng, &mut Vec::new());
        assert_eq!(boxes, [[1.0, 2.0, 1.0, 6.0, 5.0], [1.0, 14.0, 1.0, 18.0, 5.0]]);
        assert_eq!(image.data[(2 * 20 + 16) * 3], 255);
        // Now both mirrored places are taken.
        copy_paste(&mut image, &mut boxes, 1.0, &mut rng, &mut Vec::new());
        assert_eq!(boxes.len(), 2);
    }
}
