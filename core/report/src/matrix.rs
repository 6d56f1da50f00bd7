//! The confusion matrix as a heat map.

use crate::svg::{Anchor, Svg, estimated_width};
use crate::{Error, Result};

/// Draws counts of (predicted, true) pairs, row by row; the last row and column stand for "nothing there". Colours and shares are
/// those of each true class, so a column adds up to 1.
pub fn confusion_matrix(names: &[String], counts: &[u64]) -> Result<String> {
    let side = names.len() + 1;
    if counts.len() != side * side {
        let want = side * side;
        return Err(Error::Table(format!(
            "{} counts for {} classes, {want} expected",
            counts.len(),
            names.len()
        )));
    }
    let name = |index: usize| names.get(index).map_or("background", String::as_str);
    let widest = (0..side).map(|i| estimated_width(name(i), 12.0)).fold(60.0, f64::max);
    let numbers = side <= 25;
    let cell = if numbers { 46.0 } else { (900.0 / side as f64).max(6.0) };
    let (left, top) = (widest + 48.0, 44.0);
    let grid = cell * side as f64;
    let slanted = widest * 0.75 + 20.0;
    let mut svg = Svg::new(left + grid + 24.0, top + grid + slanted + 34.0);
    svg.text(
        (left + grid / 2.0, 24.0),
        "Confusion matrix (share of each true class)",
        14.0,
        Anchor::Middle,
        "#111111",
    );
    for truth in 0..side {
        let total: u64 = (0..side).map(|predicted| counts[predicted * side + truth]).sum();
        let x = left + truth as f64 * cell;
        for predicted in 0..side {
            let y = top + predicted as f64 * cell;
            let count = counts[predicted * side + truth];
            let share = if total == 0 { 0.0 } else { count as f64 / total as f64 };
            svg.rect(x, y, cell, cell, &blue(share), if numbers { "#dddddd" } else { "none" });
            if numbers && count > 0 {
                let ink = if share > 0.5 { "#ffffff" } else { "#222222" };
                svg.text(
                    (x + cell / 2.0, y + cell / 2.0 + 1.0),
                    &format!("{share:.2}"),
                    12.0,
                    Anchor::Middle,
                    ink,
                );
                svg.text(
                    (x + cell / 2.0, y + cell / 2.0 + 14.0),
                    &count.to_string(),
                    9.0,
                    Anchor::Middle,
                    ink,
                );
            }
        }
    }
    svg.rect(left, top, grid, grid, "none", "#888888");
    let every = (side as f64 * 14.0 / grid).ceil().max(1.0) as usize;
    for index in (0..side).filter(|index| index % every == 0 || *index == side - 1) {
        let middle = (index as f64 + 0.5) * cell;
        svg.text(
            (left - 8.0, top + middle + 4.0),
            name(index),
            12.0,
            Anchor::End,
            "#444444",
        );
        svg.turned_text(
            (left + middle + 4.0, top + grid + 14.0),
            -45.0,
            name(index),
            12.0,
            Anchor::End,
        );
    }
    svg.turned_text((18.0, top + grid / 2.0), -90.0, "predicted", 13.0, Anchor::Middle);
    svg.text(
        (left + grid / 2.0, top + grid + slanted + 22.0),
        "true",
        13.0,
        Anchor::Middle,
        "#444444",
    );
    Ok(svg.finish())
}

/// White to dark blue.
pub(crate) fn blue(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)).round() as u8;
    crate::color::hex([mix(255.0, 8.0), mix(255.0, 48.0), mix(255.0, 107.0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_true_class() {
        let names = ["car".to_owned(), "bus".to_owned()];
        // Of four cars three are found and one is taken for a bus; the bus is missed.
        let svg = confusion_matrix(&names, &[3, 0, 0, 1, 0, 0, 0, 1, 0]).unwrap();
        assert!(svg.contains(">0.75<") && svg.contains(">0.25<") && svg.contains(">1.00<"));
        assert!(svg.contains(">background<"));
        assert!(confusion_matrix(&names, &[0; 4]).is_err());
    }

    #[test]
    fn many_classes_fit() {
        let names: Vec<String> = (0..80).map(|i| format!("class {i}")).collect();
        let svg = confusion_matrix(&names, &vec![1; 81 * 81]).unwrap();
        assert_eq!(svg.matches("<rect").count(), 81 * 81 + 2);
        assert!(!svg.contains(">0.01<"), "no numbers in tiny cells");
    }
}
