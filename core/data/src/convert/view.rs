//! What the pixels of an annotation refer to: the image as it is, scaled, or before EXIF turns it.

use std::path::Path;

use super::found::{Boxes, Found, Place};
use super::{Frame, Settings};
use crate::{Error, Image, Result, probe};

/// From an annotation's pixels to the image as it is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct View {
    /// Width and height that the annotation counts in.
    pub size: [f64; 2],
    /// EXIF orientation by which boxes are turned; 1: they stand as they are.
    pub turn: u8,
}

impl View {
    /// Corners as shares of the image, turned as EXIF says.
    pub fn turned(&self, [x1, y1, x2, y2]: [f64; 4]) -> [f64; 4] {
        match self.turn {
            2 => [1.0 - x2, y1, 1.0 - x1, y2],
            3 => [1.0 - x2, 1.0 - y2, 1.0 - x1, 1.0 - y1],
            4 => [x1, 1.0 - y2, x2, 1.0 - y1],
            5 => [y1, x1, y2, x2],
            6 => [1.0 - y2, x1, 1.0 - y1, x2],
            7 => [1.0 - y2, 1.0 - x2, 1.0 - y1, 1.0 - x1],
            8 => [y1, 1.0 - x2, y2, 1.0 - x1],
            _ => [x1, y1, x2, y2],
        }
    }
}

/// Whether one size is the other, enlarged or reduced and rounded to whole pixels.
fn scaled(a: [f64; 2], b: [f64; 2]) -> bool {
    let scale = a[0] / b[0];
    (a[1] - scale * b[1]).abs() <= scale.max(1.0)
}

/// The head of a file that can be read to its end as far as that shows without decoding it.
fn head(image: &Path) -> Result<probe::Head> {
    // Formats that show what they are only when they are decoded are decoded here.
    Image::size_of(image)?;
    let bytes = crate::files::bytes(image).map_err(Error::io(image, "read it"))?;
    probe::head(&bytes).map_err(|reason| Error::image(image, reason))
}

impl Found {
    /// How the boxes of an image are to be read, if `declared` is the size that its annotation speaks of; `None` and a problem where
    /// that can't be told.
    pub fn view(
        &mut self,
        settings: &Settings,
        place: Place<'_>,
        image: &Path,
        declared: Option<[f64; 2]>,
    ) -> Option<View> {
        let head = match head(image) {
            Ok(head) => head,
            Err(error) => {
                let problem = crate::dataset::image_problem(image, "image-unreadable", &error);
                self.problems.push(problem);
                return None;
            }
        };
        let [stored, upright] = [head.stored, head.upright()].map(|size| size.map(|side| side as f64));
        let declared = declared.filter(|size| size.iter().all(|side| side.is_finite() && *side > 0.0));
        let name = image.display();
        let [w, h] = upright;
        let mut refuse = |why: &str| {
            let message = format!("{why}; the image is left out");
            self.unreadable(&mut Boxes::default(), place, "size-mismatch", &message);
            None
        };
        let fits = |size: [f64; 2]| declared.is_none_or(|declared| scaled(declared, size));
        let [dw, dh] = declared.unwrap_or_default();
        let other_shape = || {
            format!(
                "{name} has {w} x {h} pixels, but the annotation speaks of {dw} x {dh}, another shape: where its boxes lie can't be \
                 told (correct the size, or take it out if boxes count in the image's own pixels)"
            )
        };
        let turn = match (head.orientation, fits(stored), fits(upright)) {
            (1, true, _) => 1,
            (_, false, false) | (1, ..) => return refuse(&other_shape()),
            (turn, true, false) => turn,
            (_, false, true) => 1,
            (turn, true, true) => match settings.exif {
                Some(Frame::Stored) => turn,
                Some(Frame::Upright) => 1,
                None => {
                    return refuse(&format!(
                        "{name} is turned by EXIF (orientation {turn}), and whether its boxes were drawn before or after that can't be \
                         told by its size: say --exif stored or --exif upright, or save the photo upright"
                    ));
                }
            },
        };
        let own = if turn == 1 { upright } else { stored };
        let size = declared.unwrap_or(own);
        if turn != 1 {
            let message = format!("{name} is turned by EXIF (orientation {turn}), and its boxes with it");
            self.note(place.file, place.line, "exif-turned", message);
        }
        if size != own {
            let [w, h] = own;
            let message = format!(
                "it speaks of {dw} x {dh} pixels, {name} has {w} x {h}; boxes are taken relative to the former"
            );
            self.note(place.file, place.line, "size-mismatch", message);
        }
        Some(View { size, turn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_turn_as_pixels_do() {
        let [w, h] = [8usize, 5];
        // One pixel in a picture of its own.
        for orientation in 1..=8 {
            for (px, py) in [(0, 0), (7, 0), (2, 3)] {
                let mut image = Image::filled(w, h, [0; 3]);
                image.data[(py * w + px) * 3] = 255;
                let image = image.turned(orientation);
                let at = image.data.iter().position(|value| *value == 255).expect("the pixel") / 3;
                let (x, y) = ((at % image.width) as f64, (at / image.width) as f64);
                let view = View {
                    size: [w as f64, h as f64],
                    turn: orientation,
                };
                let (fw, fh) = (w as f64, h as f64);
                let (px, py) = (px as f64, py as f64);
                let corners = view.turned([px / fw, py / fh, (px + 1.0) / fw, (py + 1.0) / fh]);
                let (iw, ih) = (image.width as f64, image.height as f64);
                let wanted = [x / iw, y / ih, (x + 1.0) / iw, (y + 1.0) / ih];
                assert!(
                    corners.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12),
                    "{orientation}: {corners:?} {wanted:?}"
                );
            }
        }
    }

    #[test]
    fn a_scaled_size_is_known_and_a_turned_one_is_not_it() {
        assert!(scaled([80.0, 60.0], [40.0, 30.0]) && scaled([20.0, 15.0], [41.0, 31.0]));
        assert!(!scaled([30.0, 40.0], [40.0, 30.0]) && !scaled([100.0, 100.0], [64.0, 48.0]));
    }
}
