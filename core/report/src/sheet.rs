//! A contact sheet: what the labels say beside what the model says, picture by picture.

use image::imageops::FilterType;
use image::{ImageBuffer, Rgb};

use crate::marks::{Mark, MarkStyle, draw_marks};
use crate::text::FontSize;
use crate::{Error, Letters, Picture, Result};

/// One picture of a sheet.
#[derive(Debug, Clone, Copy)]
pub struct Cell<'a> {
    /// RGB bytes.
    pub pixels: &'a [u8],
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What stands below it.
    pub title: &'a str,
    /// The data set's boxes, in pixels of the picture.
    pub labels: &'a [Mark],
    /// The model's boxes, in pixels of the picture.
    pub predictions: &'a [Mark],
}

const PAPER: [u8; 3] = [250; 3];
const INK: [u8; 3] = [40; 3];
const GAP: usize = 8;

/// Every cell as a pair of tiles, labels on the left and predictions on the right; `columns` pairs side by side. `tile` is the
/// side of a tile in pixels; pictures keep their shape.
pub fn contact_sheet(
    cells: &[Cell<'_>],
    names: &[String],
    letters: &Letters,
    tile: usize,
    columns: usize,
) -> Result<Picture> {
    let tile = tile.max(64);
    let caption = FontSize::Small.height() as usize + 4;
    let (pair_width, pair_height) = (2 * tile + GAP, tile + caption);
    let columns = columns.clamp(1, cells.len().max(1));
    let rows = cells.len().div_ceil(columns).max(1);
    let top = caption + GAP;
    let width = columns * pair_width + (columns + 1) * 2 * GAP;
    let mut sheet = Picture::filled(width, top + rows * (pair_height + GAP) + GAP, PAPER);
    for column in 0..columns {
        let x = (2 * GAP + column * (pair_width + 2 * GAP)) as i32;
        let mut canvas = sheet.canvas()?;
        canvas.text(x, GAP as i32 / 2, "labels", FontSize::Small, INK);
        canvas.text(
            x + (tile + GAP) as i32,
            GAP as i32 / 2,
            "predictions",
            FontSize::Small,
            INK,
        );
    }
    for (index, cell) in cells.iter().enumerate() {
        let x = 2 * GAP + index % columns * (pair_width + 2 * GAP);
        let y = top + index / columns * (pair_height + GAP);
        let (small, scale) = fit(cell, tile)?;
        for (marks, left) in [(cell.labels, x), (cell.predictions, x + tile + GAP)] {
            let mut picture = small.clone();
            let scaled: Vec<Mark> = marks.iter().map(|mark| scaled(mark, scale)).collect();
            draw_marks(&mut picture.canvas()?, &scaled, names, letters, MarkStyle::default());
            sheet.canvas()?.paste(
                &picture,
                left + (tile - picture.width) / 2,
                y + (tile - picture.height) / 2,
            );
        }
        let title = caption_of(cell.title, index, letters, pair_width as i32);
        let below = (x as i32, (y + tile + 2) as i32);
        letters.write(&mut sheet.canvas()?, below, &title, FontSize::Small, INK);
    }
    Ok(sheet)
}

/// Cells in rows of `columns`, each with its labels and, where there are any, its predictions: a batch as the network sees it.
pub fn grid_sheet(
    cells: &[Cell<'_>],
    names: &[String],
    letters: &Letters,
    tile: usize,
    columns: usize,
) -> Result<Picture> {
    let tile = tile.max(64);
    let caption = FontSize::Small.height() as usize + 4;
    let columns = columns.clamp(1, cells.len().max(1));
    let rows = cells.len().div_ceil(columns).max(1);
    let (wide, high) = (tile + GAP, tile + caption + GAP);
    let mut sheet = Picture::filled(columns * wide + GAP, rows * high + GAP, PAPER);
    for (index, cell) in cells.iter().enumerate() {
        let (x, y) = (GAP + index % columns * wide, GAP + index / columns * high);
        let (mut picture, scale) = fit(cell, tile)?;
        let marks: Vec<Mark> = cell
            .labels
            .iter()
            .chain(cell.predictions)
            .map(|mark| scaled(mark, scale))
            .collect();
        draw_marks(&mut picture.canvas()?, &marks, names, letters, MarkStyle::default());
        sheet.canvas()?.paste(
            &picture,
            x + (tile - picture.width) / 2,
            y + (tile - picture.height) / 2,
        );
        let title = caption_of(cell.title, index, letters, tile as i32);
        let below = (x as i32, (y + tile + 2) as i32);
        letters.write(&mut sheet.canvas()?, below, &title, FontSize::Small, INK);
    }
    Ok(sheet)
}

fn scaled(mark: &Mark, scale: f32) -> Mark {
    Mark {
        xyxy: mark.xyxy.map(|v| v * scale),
        ..*mark
    }
}

/// A picture scaled into a square tile, and the factor.
fn fit(cell: &Cell<'_>, tile: usize) -> Result<(Picture, f32)> {
    let error = || Error::Size {
        bytes: cell.pixels.len(),
        width: cell.width,
        height: cell.height,
    };
    let side = |side: usize| u32::try_from(side).map_err(|_| error());
    let view: ImageBuffer<Rgb<u8>, &[u8]> =
        ImageBuffer::from_raw(side(cell.width)?, side(cell.height)?, cell.pixels).ok_or_else(error)?;
    let longest = cell.width.max(cell.height);
    if cell.width.min(cell.height) == 0 {
        return Err(error());
    }
    let scale = tile as f32 / longest as f32;
    let scaled = |side: usize| ((side as f32 * scale).round() as usize).clamp(1, tile);
    let (width, height) = (scaled(cell.width), scaled(cell.height));
    let small = image::imageops::resize(&view, side(width)?, side(height)?, FilterType::Triangle);
    Ok((
        Picture {
            width,
            height,
            data: small.into_raw(),
        },
        scale,
    ))
}

/// The name of a picture, or its number where no font has the letters. Of a name that is too long the end, which tells files apart.
fn caption_of(title: &str, index: usize, letters: &Letters, width: i32) -> String {
    if !letters.have(title) {
        return format!("picture {}", index + 1);
    }
    let fits = |text: &str| letters.width(text, FontSize::Small) <= width;
    if fits(title) {
        return title.to_owned();
    }
    let starts = title.char_indices().map(|(at, _)| at).skip(1);
    let shorter = starts.map(|at| format!("...{}", &title[at..])).find(|text| fits(text));
    shorter.unwrap_or_else(|| format!("picture {}", index + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class_color;

    #[test]
    fn a_sheet_shows_labels_left_and_predictions_right() {
        let photo = Picture::filled(100, 50, [0, 0, 99]);
        let mark = |class| Mark {
            class,
            conf: None,
            xyxy: [20.0, 10.0, 80.0, 40.0],
        };
        let cell = Cell {
            pixels: &photo.data,
            width: 100,
            height: 50,
            title: "a.jpg",
            labels: &[mark(0)],
            predictions: &[mark(1)],
        };
        let sheet = contact_sheet(&[cell, cell, cell], &[], &Letters::built_in(), 200, 2).unwrap();
        let pair = 2 * 200 + GAP;
        assert_eq!(sheet.width, 2 * pair + 6 * GAP);
        // The photo is 200 x 100 in its tile, 50 pixels below its top; the box's lower right corner at (160, 80).
        let (x, y) = (2 * GAP, 20 + GAP + 50);
        assert_eq!(sheet.pixel(x + 158, y + 78), Some(class_color(0)));
        assert_eq!(sheet.pixel(x + 200 + GAP + 158, y + 78), Some(class_color(1)));
        assert_eq!(sheet.pixel(x + 100, y + 60), Some([0, 0, 99]));
    }

    #[test]
    fn a_grid_shows_each_picture_with_its_labels() {
        let photo = Picture::filled(64, 64, [0, 0, 99]);
        let label = Mark {
            class: 2,
            conf: None,
            xyxy: [0.0, 30.0, 64.0, 64.0],
        };
        let cell = Cell {
            pixels: &photo.data,
            width: 64,
            height: 64,
            title: "b.jpg",
            labels: &[label],
            predictions: &[],
        };
        let sheet = grid_sheet(&[cell; 5], &[], &Letters::built_in(), 128, 3).unwrap();
        assert_eq!(sheet.width, 3 * (128 + GAP) + GAP);
        // The lower edge of the label in the second picture of the second row.
        let (x, y) = (GAP + 128 + GAP + 64, GAP + 128 + 20 + GAP + 126);
        assert_eq!(sheet.pixel(x, y), Some(class_color(2)));
    }

    #[test]
    fn long_names_keep_their_end() {
        let letters = Letters::built_in();
        assert_eq!(caption_of("short.jpg", 0, &letters, 400), "short.jpg");
        let long = caption_of(&format!("{}7.jpg", "x".repeat(200)), 0, &letters, 100);
        assert!(long.starts_with("...") && long.ends_with("7.jpg"), "{long}");
        assert!(letters.width(&long, FontSize::Small) <= 100);
        assert_eq!(caption_of("图片.jpg", 4, &letters, 400), "picture 5");
    }

    #[test]
    fn an_empty_sheet_and_a_wrong_size_are_handled() {
        assert!(contact_sheet(&[], &[], &Letters::built_in(), 100, 3).is_ok());
        let cell = Cell {
            pixels: &[0; 5],
            width: 9,
            height: 9,
            title: "",
            labels: &[],
            predictions: &[],
        };
        assert!(contact_sheet(&[cell], &[], &Letters::built_in(), 100, 1).is_err());
    }
}
