//! What the labels of a data set are like: how many of each class, where, how large.

use crate::svg::{Anchor, Svg, estimated_width};

/// Cells per side of a heat map.
const CELLS: usize = 40;
const MAP: f64 = 280.0;
const BAR: f64 = 16.0;
/// More classes than this share the height of so many.
const BARS: usize = 40;
const INK: &str = "#444444";

/// Bars of the number of objects per class, a map of their centres and a map of their sizes. A box is class, centre x, centre y,
/// width, height, as shares of its picture.
pub fn label_plots(names: &[String], boxes: &[[f32; 5]]) -> String {
    let mut counts = vec![0u64; names.len()];
    for class in boxes.iter().map(|b| b[0] as usize) {
        if let Some(count) = counts.get_mut(class) {
            *count += 1;
        }
    }
    let widest = names
        .iter()
        .map(|name| estimated_width(name, 12.0))
        .fold(40.0, f64::max)
        .min(220.0);
    let bar = BAR * (BARS as f64 / names.len().max(1) as f64).min(1.0);
    let bars_height = bar * names.len() as f64;
    let left = widest + 20.0;
    let (bars, gap, top) = (260.0, 70.0, 44.0);
    let width = left + bars + 2.0 * (gap + MAP) + 30.0;
    let mut svg = Svg::new(width, top + bars_height.max(MAP) + 50.0);

    svg.text(
        (left + bars / 2.0, 24.0),
        &format!("{} objects", boxes.len()),
        14.0,
        Anchor::Middle,
        "#111111",
    );
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    for (index, (name, count)) in names.iter().zip(&counts).enumerate() {
        let y = top + index as f64 * bar;
        let length = bars * *count as f64 / most;
        svg.rect(left, y, length, (bar - 2.0).max(1.0), "#1f77b4", "none");
        if bar >= 10.0 {
            svg.text((left - 6.0, y + bar - 5.0), name, 12.0, Anchor::End, INK);
            let inside = length > bars - 60.0;
            let (x, anchor, ink) = if inside {
                (left + length - 4.0, Anchor::End, "#ffffff")
            } else {
                (left + length + 4.0, Anchor::Start, INK)
            };
            svg.text((x, y + bar - 5.0), &count.to_string(), 11.0, anchor, ink);
        }
    }
    let first = left + bars + gap;
    heat_map(
        &mut svg,
        (first, top),
        "Centres",
        ["x", "y"],
        boxes.iter().map(|b| [b[1], b[2]]),
    );
    // Most objects are small: the map of sizes ends where 99 of 100 do.
    let limit = size_limit(boxes);
    let sizes = boxes.iter().map(|b| [b[3] / limit, 1.0 - b[4] / limit]);
    let axis = |side: &str| format!("{side} (0 to {limit:.2})");
    heat_map(
        &mut svg,
        (first + MAP + gap, top),
        "Sizes",
        [&axis("width"), &axis("height")],
        sizes,
    );
    svg.finish()
}

fn size_limit(boxes: &[[f32; 5]]) -> f32 {
    let mut sides: Vec<f32> = boxes
        .iter()
        .map(|b| b[3].max(b[4]))
        .filter(|side| side.is_finite())
        .collect();
    sides.sort_by(f32::total_cmp);
    let at = (sides.len() * 99 / 100).min(sides.len().saturating_sub(1));
    (sides.get(at).copied().unwrap_or(1.0) * 20.0).ceil().clamp(1.0, 20.0) / 20.0
}

fn heat_map(
    svg: &mut Svg,
    (left, top): (f64, f64),
    title: &str,
    [x_label, y_label]: [&str; 2],
    points: impl Iterator<Item = [f32; 2]>,
) {
    let mut counts = vec![0u32; CELLS * CELLS];
    for [x, y] in points.filter(|p| p.iter().all(|v| v.is_finite())) {
        let cell = |v: f32| ((v * CELLS as f32) as usize).min(CELLS - 1);
        counts[cell(y) * CELLS + cell(x)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let side = MAP / CELLS as f64;
    svg.text((left + MAP / 2.0, top - 20.0), title, 14.0, Anchor::Middle, "#111111");
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        // The root shows rare places, too.
        let share = (f64::from(*count) / most).sqrt();
        let (x, y) = ((index % CELLS) as f64 * side, (index / CELLS) as f64 * side);
        svg.rect(left + x, top + y, side, side, &crate::matrix::blue(share), "none");
    }
    svg.rect(left, top, MAP, MAP, "none", "#888888");
    svg.text((left + MAP / 2.0, top + MAP + 18.0), x_label, 12.0, Anchor::Middle, INK);
    svg.turned_text((left - 10.0, top + MAP / 2.0), -90.0, y_label, 12.0, Anchor::Middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_places_and_sizes_are_drawn() {
        let names = vec!["car".to_owned(), "<bus>".to_owned()];
        let boxes = [
            [0.0, 0.5, 0.5, 0.1, 0.1],
            [0.0, 0.5, 0.5, 0.1, 0.1],
            [1.0, 0.99, 0.01, 0.2, 0.1],
        ];
        let svg = label_plots(&names, &boxes);
        assert!(
            svg.contains(">3 objects<") && svg.contains("&lt;bus&gt;") && svg.contains(">2<"),
            "{svg}"
        );
        // Two bars, two used cells in each map, two frames, the paper.
        assert_eq!(svg.matches("<rect").count(), 2 + 2 * 2 + 2 + 1);
        assert!(svg.contains("width (0 to 0.20)"), "{svg}");
    }

    #[test]
    fn nothing_and_nonsense_are_drawn_too() {
        assert!(label_plots(&[], &[]).contains(">0 objects<"));
        let svg = label_plots(&["a".into()], &[[9.0, f32::NAN, 2.0, -1.0, f32::INFINITY]]);
        assert!(svg.contains(">1 objects<"));
    }
}
