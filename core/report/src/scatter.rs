//! Small panels of points: what came out against what was tried.

use crate::text::{FontSize, text_width};
use crate::{Canvas, Picture, Rect, Result};

/// Points of one quantity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panel {
    /// Heading.
    pub title: String,
    /// `(x, y)` in the order in which they were found; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Index of the point that is marked.
    pub best: Option<usize>,
}

const PAPER: [u8; 3] = [255; 3];
const INK: [u8; 3] = [60; 3];
const FRAME: [u8; 3] = [150; 3];
const MARK: [u8; 3] = [228, 87, 46];
/// First and last points.
const EARLY: [u8; 3] = [176, 208, 236];
const LATE: [u8; 3] = [20, 70, 130];
/// Width and height of a panel's plot.
const PLOT: (i32, i32) = (200, 130);
const GAP: i32 = 14;

/// Draws panels in rows of `columns`. Later points are darker and lie on top, the best is a cross.
pub fn scatter_panels(panels: &[Panel], columns: usize) -> Result<Picture> {
    let columns = columns.clamp(1, panels.len().max(1));
    let rows = panels.len().div_ceil(columns).max(1);
    let line = FontSize::Small.height();
    let (width, height) = (PLOT.0 + 2 * GAP, PLOT.1 + 2 * line + 2 * GAP);
    let mut sheet = Picture::filled(columns * width as usize, rows * height as usize, PAPER);
    let mut canvas = sheet.canvas()?;
    for (index, panel) in panels.iter().enumerate() {
        let left = (index % columns) as i32 * width + GAP;
        let top = (index / columns) as i32 * height + GAP + line;
        draw(&mut canvas, panel, (left, top));
    }
    Ok(sheet)
}

fn draw(canvas: &mut Canvas<'_>, panel: &Panel, (left, top): (i32, i32)) {
    let size = FontSize::Small;
    let centred = |canvas: &mut Canvas<'_>, text: &str, y: i32| {
        canvas.text(left + (PLOT.0 - text_width(text, size)) / 2, y, text, size, INK);
    };
    centred(canvas, &panel.title, top - size.height() - 2);
    canvas.frame(Rect::new(left, top, PLOT.0, PLOT.1), 1, FRAME);
    let finite = |(_, (x, y)): &(usize, &(f64, f64))| x.is_finite() && y.is_finite();
    let points: Vec<(usize, (f64, f64))> = panel
        .points
        .iter()
        .enumerate()
        .filter(finite)
        .map(|(i, p)| (i, *p))
        .collect();
    if points.is_empty() {
        return centred(canvas, "no data", top + PLOT.1 / 2);
    }
    let (x_lo, x_hi) = range(points.iter().map(|(_, p)| p.0));
    let (y_lo, y_hi) = range(points.iter().map(|(_, p)| p.1));
    let place = |(x, y): (f64, f64)| {
        // A margin keeps marks off the frame.
        let along = |share: f64, length: i32| 6 + (share * f64::from(length - 12)).round() as i32;
        (
            left + along((x - x_lo) / (x_hi - x_lo), PLOT.0),
            top + along((y_hi - y) / (y_hi - y_lo), PLOT.1),
        )
    };
    let last = panel.points.len().saturating_sub(1).max(1);
    for (index, point) in &points {
        let (x, y) = place(*point);
        let late = *index as f64 / last as f64;
        let mix = |channel: usize| (f64::from(EARLY[channel]) * (1.0 - late) + f64::from(LATE[channel]) * late) as u8;
        canvas.fill(Rect::new(x - 2, y - 2, 5, 5), [mix(0), mix(1), mix(2)]);
    }
    let best = panel
        .best
        .and_then(|best| points.iter().find(|(index, _)| *index == best));
    if let Some((_, point)) = best {
        let (x, y) = place(*point);
        canvas.fill(Rect::new(x - 5, y - 1, 11, 3), MARK);
        canvas.fill(Rect::new(x - 1, y - 5, 3, 11), MARK);
    }
    let below = top + PLOT.1 + 2;
    let (low, high) = (short(x_lo), short(x_hi));
    canvas.text(left, below, &low, size, INK);
    canvas.text(left + PLOT.0 - text_width(&high, size), below, &high, size, INK);
}

/// From the least to the greatest value, or around the only one.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if hi > lo {
        return (lo, hi);
    }
    let half = if lo == 0.0 { 0.5 } else { lo.abs() * 0.1 };
    (lo - half, hi + half)
}

/// A number in few letters.
fn short(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e5) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(picture: &Picture, color: [u8; 3], columns: std::ops::Range<usize>) -> usize {
        let pixels = columns.flat_map(|x| (0..picture.height).map(move |y| (x, y)));
        pixels.filter(|(x, y)| picture.pixel(*x, *y) == Some(color)).count()
    }

    #[test]
    fn the_best_point_is_marked_where_it_lies() {
        let panel = Panel {
            title: "lr0 = 0.02".into(),
            points: vec![(0.01, 0.1), (0.02, 0.9), (f64::NAN, 0.5), (0.03, 0.3)],
            best: Some(1),
        };
        let sheet = scatter_panels(&[panel, Panel::default()], 2).unwrap();
        let half = sheet.width / 2;
        // A cross of two bars of 3 x 11 pixels, in the middle at the top.
        assert_eq!(count(&sheet, MARK, 0..sheet.width), 2 * 33 - 9);
        assert_eq!(count(&sheet, MARK, half / 2 - 6..half / 2 + 6), 2 * 33 - 9);
        let top = GAP as usize + FontSize::Small.height() as usize;
        assert_eq!(sheet.pixel(half / 2, top + 6), Some(MARK));
        // The last point is the darkest, at the right; the first the lightest, at the left.
        assert_eq!(count(&sheet, LATE, half / 2..half), 25);
        assert_eq!(count(&sheet, EARLY, 0..half / 2), 25);
    }

    #[test]
    fn numbers_are_short_and_flat_ranges_have_a_width() {
        assert_eq!(
            [0.0, 0.01, 0.00036, 3.0, 0.9375].map(short),
            ["0", "0.01", "3.6e-4", "3", "0.9375"]
        );
        assert_eq!(range([2.0, 2.0].into_iter()), (1.8, 2.2));
        assert_eq!(range([0.0].into_iter()), (-0.5, 0.5));
    }
}
