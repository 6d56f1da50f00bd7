//! Letters beyond Latin-1: glyphs of the fonts of this system, joined and in the direction of their script. Nothing is read before the first
//! text that needs it; what no font has is kept for [`Letters::take_note`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cosmic_text::{Attrs, Buffer, Color, Family, FontSystem, Metrics, Shaping, SwashCache, fontdb};

use crate::text::{FontSize, is_built_in, text_width};
use crate::{Canvas, Error, Result};

/// Most texts that a note lists.
const LISTED: usize = 3;

/// Writes texts on canvases: the built-in letters where they do, else glyphs of the system's fonts.
#[derive(Debug)]
pub struct Letters {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fonts: Fonts,
    /// Texts as they were drawn, `None` where no font has all of their letters.
    drawn: HashMap<(String, FontSize), Option<Arc<Mask>>>,
    lacking: Vec<String>,
    said: bool,
}

enum Fonts {
    /// Those of this system, when they are needed.
    Unread,
    Missing,
    Ready(Box<(FontSystem, SwashCache)>),
}

impl std::fmt::Debug for Fonts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unread => "Unread",
            Self::Missing => "Missing",
            Self::Ready(_) => "Ready",
        })
    }
}

/// A line of text as shares of ink, row-major, 0 to 255.
#[derive(Debug)]
struct Mask {
    width: usize,
    height: usize,
    ink: Vec<u8>,
}

impl Default for Letters {
    fn default() -> Self {
        Self::of(Fonts::Unread)
    }
}

impl Letters {
    fn of(fonts: Fonts) -> Self {
        Self {
            state: Mutex::new(State {
                fonts,
                drawn: HashMap::new(),
                lacking: Vec::new(),
                said: false,
            }),
        }
    }

    /// The built-in letters alone, as on a system without fonts.
    pub fn built_in() -> Self {
        Self::of(Fonts::Missing)
    }

    /// Glyphs of one font, TrueType or OpenType.
    ///
    /// # Errors
    /// The bytes are no font.
    pub fn of_font(bytes: Vec<u8>) -> Result<Self> {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(bytes);
        match ready(fonts) {
            Fonts::Ready(fonts) => Ok(Self::of(Fonts::Ready(fonts))),
            _ => Err(Error::Font),
        }
    }

    /// Whether all letters of a text can be written; what can't is remembered.
    pub fn have(&self, text: &str) -> bool {
        is_built_in(text) || self.mask(text, FontSize::Small).is_some()
    }

    /// Width in pixels of a line; letters that can't be written take none.
    pub fn width(&self, text: &str, size: FontSize) -> i32 {
        match self.other(text, size) {
            Some(mask) => mask.width as i32,
            None => text_width(text, size),
        }
    }

    /// Writes a line with its upper left corner at `(x, y)`. Letters that can't be written are left out.
    pub fn write(&self, canvas: &mut Canvas<'_>, (x, y): (i32, i32), text: &str, size: FontSize, rgb: [u8; 3]) {
        let Some(mask) = self.other(text, size) else {
            return canvas.text(x, y, text, size, rgb);
        };
        for (row, ink) in mask.ink.chunks_exact(mask.width.max(1)).take(mask.height).enumerate() {
            for (column, ink) in ink.iter().enumerate().filter(|(_, ink)| **ink > 0) {
                let at = (x.saturating_add(column as i32), y.saturating_add(row as i32));
                canvas.blend(at.0, at.1, rgb, *ink);
            }
        }
    }

    /// What could not be written so far and which font to install; `None` if everything could, and once it was said.
    pub fn take_note(&self) -> Option<String> {
        let mut state = self.lock();
        let said = state.said;
        state.said = said || !state.lacking.is_empty();
        let first = state.lacking.first().filter(|_| !said)?;
        let mut listed: Vec<&str> = state.lacking.iter().take(LISTED).map(String::as_str).collect();
        if state.lacking.len() > LISTED {
            listed.push("...");
        }
        let wide = |c: char| matches!(c, '\u{1100}'..='\u{11ff}' | '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7ff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
        let (debian, fedora) = match first.chars().any(wide) {
            true => ("fonts-noto-cjk", "google-noto-sans-cjk-fonts"),
            false => ("fonts-noto-core", "google-noto-sans-fonts"),
        };
        Some(format!(
            "pictures: no font here has the letters of {}: numbers stand for them (class 0, ...); install a font that has them, for example \
             the package {debian} (Debian, Ubuntu) or {fedora} (Fedora)",
            listed.join(", ")
        ))
    }

    /// The drawn line of a text that has other letters than the built-in ones.
    fn other(&self, text: &str, size: FontSize) -> Option<Arc<Mask>> {
        (!is_built_in(text)).then(|| self.mask(text, size))?
    }

    fn mask(&self, text: &str, size: FontSize) -> Option<Arc<Mask>> {
        let mut state = self.lock();
        let key = (text.to_owned(), size);
        if let Some(known) = state.drawn.get(&key) {
            return known.clone();
        }
        if matches!(state.fonts, Fonts::Unread) {
            let mut fonts = fontdb::Database::new();
            fonts.load_system_fonts();
            state.fonts = ready(fonts);
        }
        let mask = match &mut state.fonts {
            Fonts::Ready(fonts) => draw(&mut fonts.0, &mut fonts.1, text, size).map(Arc::new),
            _ => None,
        };
        if mask.is_none() && !state.lacking.contains(&key.0) {
            state.lacking.push(key.0.clone());
        }
        state.drawn.insert(key, mask.clone());
        mask
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fonts that can be shaped with: at least one of them can be read.
fn ready(fonts: fontdb::Database) -> Fonts {
    // The language chooses between forms of the same Chinese sign; names of classes don't say theirs.
    let mut system = FontSystem::new_with_locale_and_db("en-US".to_owned(), fonts);
    let faces: Vec<(fontdb::ID, fontdb::Weight)> = system.db().faces().map(|face| (face.id, face.weight)).collect();
    let readable = faces
        .into_iter()
        .any(|(id, weight)| system.get_font(id, weight).is_some());
    match readable {
        true => Fonts::Ready(Box::new((system, SwashCache::new()))),
        false => Fonts::Missing,
    }
}

/// A line of text; `None` if a letter of it is in no font.
fn draw(fonts: &mut FontSystem, cache: &mut SwashCache, text: &str, size: FontSize) -> Option<Mask> {
    let line = text.replace(char::is_control, " ");
    let height = size.height();
    let mut buffer = Buffer::new(fonts, Metrics::new(0.8 * height as f32, height as f32));
    buffer.set_size(None, None);
    let attributes = Attrs::new().family(Family::SansSerif);
    buffer.set_text(&line, &attributes, Shaping::Advanced, None);
    buffer.shape_until_scroll(fonts, false);
    let mut width = 0.0f32;
    for run in buffer.layout_runs() {
        // Glyph 0 is the box of a font for letters that it does not have.
        let lacks = |glyph: &cosmic_text::LayoutGlyph| {
            glyph.glyph_id == 0 && !run.text[glyph.start..glyph.end].chars().all(char::is_whitespace)
        };
        if run.glyphs.iter().any(lacks) {
            return None;
        }
        width = width.max(run.line_w);
    }
    let (width, height) = ((width.ceil() as usize).max(1), height as usize);
    let mut ink = vec![0u8; width * height];
    // Colours of emoji are not kept: a line has one.
    buffer.draw(fonts, cache, Color::rgb(255, 255, 255), |x, y, w, h, color| {
        for (x, y) in (0..w as i32).flat_map(|dx| (0..h as i32).map(move |dy| (x + dx, y + dy))) {
            let place = usize::try_from(x).ok().zip(usize::try_from(y).ok());
            if let Some((x, y)) = place.filter(|(x, y)| *x < width && *y < height) {
                let pixel = &mut ink[y * width + x];
                *pixel = (*pixel).max(color.a());
            }
        }
    });
    Some(Mask { width, height, ink })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;

    const NAMES: [&str; 4] = ["红细胞", "쌀밥", "ڕوبەڕوو", "клетка"];

    #[test]
    fn without_fonts_every_other_script_is_refused_and_noted_once() {
        let letters = Letters::built_in();
        for name in NAMES {
            assert!(!letters.have(name) && !letters.have(name), "{name}");
        }
        assert!(letters.have("Größe 0.87"), "Latin needs no font");
        let note = letters.take_note().expect("a note");
        assert!(note.contains("红细胞") && note.contains("fonts-noto-cjk"), "{note}");
        assert_eq!(note.matches("红细胞").count(), 1, "{note}");
        assert_eq!(letters.take_note(), None, "it is said once");
        let arabic = Letters::built_in();
        assert!(!arabic.have("چۆنی"));
        assert!(arabic.take_note().is_some_and(|note| note.contains("fonts-noto-core")));
        assert_eq!(Letters::built_in().take_note(), None);
        assert!(Letters::of_font(b"no font".to_vec()).is_err());
    }

    #[test]
    fn glyphs_of_the_system_are_drawn_within_their_width() {
        let letters = Letters::default();
        let mut shown = 0;
        for name in NAMES {
            if !letters.have(name) {
                eprintln!("skipped: no font of this system has the letters of {name}");
                continue;
            }
            shown += 1;
            for size in [FontSize::Small, FontSize::Huge] {
                let (width, height) = (letters.width(name, size) as usize, size.height() as usize);
                assert!(width > 8, "{name}: {width}");
                let mut picture = Picture::filled(width + 20, height + 20, [0; 3]);
                letters.write(&mut picture.canvas().unwrap(), (10, 10), name, size, [255; 3]);
                let inked = |x: usize, y: usize| picture.pixel(x, y) != Some([0; 3]);
                let columns = (10..10 + width)
                    .filter(|x| (10..10 + height).any(|y| inked(*x, y)))
                    .count();
                assert!(columns > width / 3, "{name}: {columns} of {width} columns have ink");
                let outside = (0..width + 20)
                    .flat_map(|x| (0..height + 20).map(move |y| (x, y)))
                    .filter(|(x, y)| !(10..10 + width).contains(x) || !(10..10 + height).contains(y));
                assert!(
                    outside.into_iter().all(|(x, y)| !inked(x, y)),
                    "{name} stays in its place"
                );
            }
        }
        let lacking = NAMES.len() - shown;
        assert_eq!(letters.take_note().is_some(), lacking > 0);
    }
}
