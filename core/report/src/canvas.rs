//! Pixels to draw on: a view of RGB bytes that somebody else owns, and a picture that owns its bytes. Everything is clipped.

use crate::{Error, Result};

/// A rectangle of pixels; the right and lower edges are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x0: i32,
    /// Upper edge.
    pub y0: i32,
    /// First column right of it.
    pub x1: i32,
    /// First row below it.
    pub y1: i32,
}

impl Rect {
    /// By corner and size.
    pub fn new(x: i32, y: i32, width: i32, height: i32) -> Self {
        Self {
            x0: x,
            y0: y,
            x1: x.saturating_add(width),
            y1: y.saturating_add(height),
        }
    }

    /// Whether two rectangles share a pixel.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.x0 < other.x1 && other.x0 < self.x1 && self.y0 < other.y1 && other.y0 < self.y1
    }
}

/// RGB pixels that are drawn on in place, row-major, three bytes each.
#[derive(Debug)]
pub struct Canvas<'a> {
    pixels: &'a mut [u8],
    width: usize,
    height: usize,
}

impl<'a> Canvas<'a> {
    /// A canvas over `width * height * 3` bytes.
    pub fn new(pixels: &'a mut [u8], width: usize, height: usize) -> Result<Self> {
        if width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(pixels.len()) {
            return Err(Error::Size {
                bytes: pixels.len(),
                width,
                height,
            });
        }
        Ok(Self { pixels, width, height })
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Colours the part of a rectangle that is on the canvas.
    pub fn fill(&mut self, rect: Rect, rgb: [u8; 3]) {
        let clip = |v: i32, end: usize| usize::try_from(v).unwrap_or(0).min(end);
        let (x0, x1) = (clip(rect.x0, self.width), clip(rect.x1, self.width));
        let (y0, y1) = (clip(rect.y0, self.height), clip(rect.y1, self.height));
        if x0 >= x1 {
            return;
        }
        for y in y0..y1 {
            let row = &mut self.pixels[(y * self.width + x0) * 3..(y * self.width + x1) * 3];
            row.as_chunks_mut::<3>().0.fill(rgb);
        }
    }

    /// Draws the border of a rectangle, `thickness` pixels inwards.
    pub fn frame(&mut self, rect: Rect, thickness: i32, rgb: [u8; 3]) {
        let Rect { x0, y0, x1, y1 } = rect;
        let inner_top = y0.saturating_add(thickness).min(y1);
        let inner_bottom = y1.saturating_sub(thickness).max(inner_top);
        self.fill(Rect { y1: inner_top, ..rect }, rgb);
        self.fill(
            Rect {
                y0: inner_bottom,
                ..rect
            },
            rgb,
        );
        self.fill(
            Rect {
                x0,
                y0: inner_top,
                x1: x0.saturating_add(thickness).min(x1),
                y1: inner_bottom,
            },
            rgb,
        );
        self.fill(
            Rect {
                x0: x1.saturating_sub(thickness).max(x0),
                y0: inner_top,
                x1,
                y1: inner_bottom,
            },
            rgb,
        );
    }

    /// Mixes a colour into one pixel; 255 replaces it. Off the canvas nothing happens.
    pub fn blend(&mut self, x: i32, y: i32, rgb: [u8; 3], alpha: u8) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y * self.width + x) * 3;
        let alpha = u32::from(alpha);
        for (pixel, color) in self.pixels[at..at + 3].iter_mut().zip(rgb) {
            *pixel = ((u32::from(*pixel) * (255 - alpha) + u32::from(color) * alpha + 127) / 255) as u8;
        }
    }

    /// Copies a picture onto the canvas with its upper left corner at `(x, y)`.
    pub fn paste(&mut self, picture: &Picture, x: usize, y: usize) {
        if x >= self.width {
            return;
        }
        let columns = picture.width.min(self.width - x);
        for row in 0..picture.height.min(self.height.saturating_sub(y)) {
            let from = row * picture.width * 3;
            let to = ((y + row) * self.width + x) * 3;
            self.pixels[to..to + columns * 3].copy_from_slice(&picture.data[from..from + columns * 3]);
        }
    }
}

/// RGB pixels with their size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

impl Picture {
    /// One colour.
    pub fn filled(width: usize, height: usize, rgb: [u8; 3]) -> Self {
        Self {
            width,
            height,
            data: rgb.repeat(width * height),
        }
    }

    /// Draws on the picture.
    pub fn canvas(&mut self) -> Result<Canvas<'_>> {
        Canvas::new(&mut self.data, self.width, self.height)
    }

    /// The colour of a pixel.
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        (x < self.width)
            .then(|| self.data.get((y * self.width + x) * 3..)?.first_chunk().copied())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: [u8; 3] = [255, 0, 0];

    fn count(picture: &Picture, rgb: [u8; 3]) -> usize {
        picture.data.chunks_exact(3).filter(|pixel| *pixel == rgb).count()
    }

    #[test]
    fn a_frame_colours_its_border_only() {
        let mut picture = Picture::filled(10, 8, [0; 3]);
        picture.canvas().unwrap().frame(Rect::new(1, 1, 6, 5), 1, RED);
        assert_eq!(count(&picture, RED), 6 * 5 - 4 * 3);
        assert_eq!(picture.pixel(2, 2), Some([0; 3]));
        assert_eq!(picture.pixel(6, 5), Some(RED));
    }

    #[test]
    fn drawing_is_clipped_to_the_canvas() {
        let mut picture = Picture::filled(4, 4, [0; 3]);
        let mut canvas = picture.canvas().unwrap();
        canvas.fill(
            Rect {
                x0: i32::MIN,
                y0: -5,
                x1: 2,
                y1: i32::MAX,
            },
            RED,
        );
        canvas.frame(
            Rect {
                x0: -9,
                y0: -9,
                x1: 99,
                y1: 99,
            },
            3,
            RED,
        );
        canvas.fill(
            Rect {
                x0: 3,
                y0: 3,
                x1: 1,
                y1: 9,
            },
            RED,
        );
        canvas.blend(-1, 2, RED, 255);
        canvas.blend(4, 2, RED, 255);
        assert_eq!(count(&picture, RED), 8, "two columns of four rows");
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let mut bytes = [0; 11];
        assert!(Canvas::new(&mut bytes, 2, 2).is_err());
        assert!(Canvas::new(&mut bytes, usize::MAX, 3).is_err());
    }

    #[test]
    fn blending_rounds_to_the_nearest_level() {
        let mut picture = Picture::filled(1, 1, [100, 0, 255]);
        picture.canvas().unwrap().blend(0, 0, [200, 255, 255], 128);
        // 100 + 100 * 128 / 255 = 150.2; 255 * 128 / 255 = 128.
        assert_eq!(picture.pixel(0, 0), Some([150, 128, 255]));
    }
}
