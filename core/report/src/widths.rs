//! Widths of layers before and after pruning, as bars.

use crate::svg::{Anchor, Svg, estimated_width};

/// A group of channels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Width {
    /// Its name.
    pub name: String,
    /// Channels before.
    pub before: usize,
    /// Channels that stay.
    pub after: usize,
}

const ROW: f64 = 18.0;
const BARS: f64 = 420.0;
const SIZE: f64 = 11.0;
const INK: &str = "#444444";
const GONE: &str = "#e3e8ee";
const KEPT: &str = "#1f77b4";

/// One bar per group: what stays in front of what was there, and the numbers.
pub fn widths_chart(title: &str, widths: &[Width]) -> String {
    let names = widths.iter().map(|width| estimated_width(&width.name, SIZE));
    let left = names.fold(60.0, f64::max) + 24.0;
    let top = 44.0;
    let most = widths.iter().map(|width| width.before).max().unwrap_or(1).max(1);
    let mut svg = Svg::new(left + BARS + 150.0, top + ROW * widths.len() as f64 + 20.0);
    svg.text((left, 24.0), title, 14.0, Anchor::Start, "#111111");
    for (row, width) in widths.iter().enumerate() {
        let y = top + ROW * row as f64;
        let bar = |channels: usize| BARS * channels as f64 / most as f64;
        svg.text((left - 8.0, y + 11.0), &width.name, SIZE, Anchor::End, INK);
        svg.rect(left, y, bar(width.before), ROW - 4.0, GONE, "none");
        svg.rect(left, y, bar(width.after), ROW - 4.0, KEPT, "none");
        let share = 100.0 * width.after as f64 / width.before.max(1) as f64;
        let text = format!("{} of {} ({share:.0} %)", width.after, width.before);
        svg.text(
            (left + bar(width.before) + 6.0, y + 11.0),
            &text,
            SIZE,
            Anchor::Start,
            INK,
        );
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_two_bars_and_its_numbers() {
        let width = |name: &str, before, after| Width {
            name: name.into(),
            before,
            after,
        };
        let svg = widths_chart("plan", &[width("model.0.conv", 16, 8), width("a<b", 64, 64)]);
        assert_eq!(svg.matches("<rect x").count(), 4);
        assert!(
            svg.contains(">8 of 16 (50 %)<") && svg.contains(">64 of 64 (100 %)<"),
            "{svg}"
        );
        assert!(svg.contains("a&lt;b"));
        // The narrower group's bar is a quarter as long, what stays of it an eighth.
        assert!(
            svg.contains(r#"width="105.0""#) && svg.contains(r#"width="52.5""#) && svg.contains(r#"width="420.0""#)
        );
        assert!(widths_chart("none", &[]).contains("</svg>"));
    }
}
