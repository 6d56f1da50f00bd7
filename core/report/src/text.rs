//! Text on pixels: Noto Sans Mono as ready-made bitmaps with smooth edges (SIL Open Font License). For other letters see [`crate::Letters`].

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::Canvas;

/// Height of a line of text in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FontSize {
    /// 16 pixels.
    Small,
    /// 20 pixels.
    Medium,
    /// 24 pixels.
    Large,
    /// 32 pixels.
    Huge,
}

impl FontSize {
    /// The size that suits a picture.
    pub fn for_picture(width: usize, height: usize) -> Self {
        match (width + height) / 2 {
            0..900 => Self::Small,
            900..1400 => Self::Medium,
            1400..2000 => Self::Large,
            _ => Self::Huge,
        }
    }

    /// Height of a line.
    pub fn height(self) -> i32 {
        self.raster().val() as i32
    }

    fn raster(self) -> RasterHeight {
        match self {
            Self::Small => RasterHeight::Size16,
            Self::Medium => RasterHeight::Size20,
            Self::Large => RasterHeight::Size24,
            Self::Huge => RasterHeight::Size32,
        }
    }
}

/// Whether the bitmaps have all letters of a text.
pub(crate) fn is_built_in(text: &str) -> bool {
    let has = |letter| get_raster(letter, FontWeight::Regular, RasterHeight::Size16).is_some();
    text.chars().all(has)
}

/// Width of a line of the built-in letters; others take no place.
pub fn text_width(text: &str, size: FontSize) -> i32 {
    let has = |letter: &char| get_raster(*letter, FontWeight::Regular, size.raster()).is_some();
    (text.chars().filter(has).count() * get_raster_width(FontWeight::Regular, size.raster())) as i32
}

impl Canvas<'_> {
    /// Writes a line with its upper left corner at `(x, y)`. Letters beyond Latin-1 are left out.
    pub fn text(&mut self, x: i32, y: i32, text: &str, size: FontSize, rgb: [u8; 3]) {
        let advance = get_raster_width(FontWeight::Regular, size.raster()) as i32;
        let glyphs = text
            .chars()
            .filter_map(|letter| get_raster(letter, FontWeight::Regular, size.raster()));
        for (place, glyph) in glyphs.enumerate() {
            let left = x.saturating_add(advance.saturating_mul(place as i32));
            for (dy, row) in glyph.rows().enumerate() {
                for (dx, alpha) in row.iter().enumerate().filter(|(_, alpha)| **alpha > 0) {
                    self.blend(left.saturating_add(dx as i32), y.saturating_add(dy as i32), rgb, *alpha);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;

    #[test]
    fn text_stays_within_its_width_and_unknown_letters_are_left_out() {
        let white = [255; 3];
        assert_eq!(text_width("汽车 1", FontSize::Small), text_width(" 1", FontSize::Small));
        assert!(is_built_in("Größe 0.87") && !is_built_in("汽车"));
        for text in ["car 0.87", "Größe", "汽车 1"] {
            let width = text_width(text, FontSize::Small) as usize;
            let mut picture = Picture::filled(width + 20, 30, [0; 3]);
            picture.canvas().unwrap().text(10, 5, text, FontSize::Small, white);
            let inked = |x: usize| (0..30).any(|y| picture.pixel(x, y) != Some([0; 3]));
            assert!((10..10 + width).any(inked), "{text} is drawn");
            assert!(
                !(0..10).chain(10 + width..width + 20).any(inked),
                "{text} stays in its place"
            );
        }
    }
}
