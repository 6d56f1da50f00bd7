//! Rows of bars as SVG: several numbers of many things, side by side.

use crate::svg::{Anchor, Svg, estimated_width};

/// A column of bars, one per row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarColumn {
    /// Heading.
    pub title: String,
    /// A number per row; one that is not finite, or absent, has no bar.
    pub values: Vec<f64>,
    /// Colour of the bars.
    pub color: &'static str,
}

const ROW: f64 = 17.0;
const TOP: f64 = 62.0;
const WIDTH: f64 = 230.0;
/// For the number behind a bar.
const NUMBER: f64 = 52.0;
const INK: &str = "#444444";

/// Draws `names`, each with a bar in every column. Bars of a column begin at 0, or at its least value where that is below.
pub fn bars(title: &str, names: &[String], columns: &[BarColumn]) -> String {
    let widest = names
        .iter()
        .map(|name| estimated_width(name, 11.0))
        .fold(40.0, f64::max);
    let left = widest + 20.0;
    let height = TOP + ROW * names.len() as f64 + 14.0;
    let mut svg = Svg::new(left + (WIDTH + NUMBER) * columns.len() as f64 + 10.0, height);
    svg.text((12.0, 24.0), title, 14.0, Anchor::Start, "#111111");
    for (row, name) in names.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        if row % 2 == 1 {
            svg.rect(
                0.0,
                y,
                left + (WIDTH + NUMBER) * columns.len() as f64,
                ROW,
                "#f5f5f5",
                "none",
            );
        }
        svg.text((left - 8.0, y + 12.5), name, 11.0, Anchor::End, INK);
    }
    for (index, column) in columns.iter().enumerate() {
        let x = left + (WIDTH + NUMBER) * index as f64;
        svg.text((x, TOP - 10.0), &column.title, 12.0, Anchor::Start, INK);
        let finite = || column.values.iter().copied().filter(|value| value.is_finite());
        let low = finite().fold(0.0, f64::min);
        let span = (finite().fold(low, f64::max) - low).max(f64::MIN_POSITIVE);
        for (row, value) in column.values.iter().enumerate().take(names.len()) {
            if !value.is_finite() {
                continue;
            }
            let y = TOP + ROW * row as f64;
            let length = (value - low) / span * (WIDTH - 10.0);
            svg.rect(x, y + 3.0, length, ROW - 6.0, column.color, "none");
            svg.text(
                (x + length + 4.0, y + 12.5),
                &format!("{value:.2}"),
                10.0,
                Anchor::Start,
                INK,
            );
        }
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_bar_of_its_length() {
        let names = ["a".to_owned(), "b<c".to_owned(), "d".to_owned()];
        let column = |values: &[f64]| BarColumn {
            title: "dB".into(),
            values: values.to_vec(),
            color: "#1f77b4",
        };
        let svg = bars(
            "layers",
            &names,
            &[column(&[10.0, 5.0, f64::NAN]), column(&[-1.0, 1.0, 0.0])],
        );
        assert!(svg.contains("b&lt;c") && !svg.contains("NaN"));
        let widths: Vec<&str> = (svg.lines().filter(|line| line.contains("#1f77b4")))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(widths, ["220.0", "110.0", "0.0", "220.0", "110.0"]);
        assert!(!bars("none", &[], &[column(&[])]).contains("inf"));
    }
}
