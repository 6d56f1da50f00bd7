//! Line charts as SVG: axes with round ticks, a legend, several charts on one sheet.

use crate::svg::{Anchor, Svg, estimated_width};

/// One line of a chart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Name in the legend; a series without a name is not in it.
    pub name: String,
    /// Points, by rising x. Values that are not finite break the line.
    pub points: Vec<(f64, f64)>,
    /// Drawn thick and dark: the mean of the others.
    pub strong: bool,
    /// Drawn as points that no line joins.
    pub dots: bool,
}

/// A chart with its axes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// Range of the horizontal axis; that of the points if absent.
    pub x_range: Option<(f64, f64)>,
    /// Range of the vertical axis; that of the points if absent.
    pub y_range: Option<(f64, f64)>,
    /// Lines.
    pub series: Vec<Series>,
}

/// Colours of lines on white paper.
const LINES: [&str; 10] = [
    "#1f77b4", "#e4572e", "#2a9d4a", "#8e44ad", "#c98a00", "#17a2b8", "#d6418f", "#6b4f2a", "#5a6b7b", "#9acd32",
];
const STRONG: &str = "#111111";
const GRID: &str = "#e4e4e4";
const INK: &str = "#444444";
const PLOT: (f64, f64) = (330.0, 220.0);
const LEFT: f64 = 62.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 50.0;
/// More lines than this in one chart are drawn without a legend for each.
const LEGEND: usize = 20;

/// Draws charts in rows of `columns`.
pub fn charts(charts: &[Chart], columns: usize) -> String {
    let columns = columns.clamp(1, charts.len().max(1));
    let legend = charts.iter().map(legend_width).fold(0.0, f64::max);
    let (width, height) = (LEFT + PLOT.0 + legend + 22.0, TOP + PLOT.1 + BOTTOM);
    let rows = charts.len().div_ceil(columns).max(1);
    let mut svg = Svg::new(width * columns as f64, height * rows as f64);
    for (index, chart) in charts.iter().enumerate() {
        let origin = (
            (index % columns) as f64 * width + LEFT,
            (index / columns) as f64 * height + TOP,
        );
        draw(&mut svg, chart, origin);
    }
    svg.finish()
}

fn in_legend(chart: &Chart) -> impl Iterator<Item = (usize, &Series)> {
    let many = chart.series.len() > LEGEND;
    chart
        .series
        .iter()
        .enumerate()
        .filter(move |(_, s)| !s.name.is_empty() && (s.strong || !many))
}

fn legend_width(chart: &Chart) -> f64 {
    in_legend(chart)
        .map(|(_, series)| estimated_width(&series.name, 11.0) + 32.0)
        .fold(0.0, f64::max)
}

fn line_color(chart: &Chart, index: usize) -> &'static str {
    if chart.series[index].strong {
        STRONG
    } else if chart.series.len() > LEGEND {
        "#b8c4d0"
    } else {
        LINES[index % LINES.len()]
    }
}

fn draw(svg: &mut Svg, chart: &Chart, (left, top): (f64, f64)) {
    let points = || {
        chart
            .series
            .iter()
            .flat_map(|s| &s.points)
            .filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let empty = points().next().is_none();
    let (x_lo, x_hi) = chart.x_range.unwrap_or_else(|| range(points().map(|p| p.0), false));
    let (y_lo, y_hi) = chart.y_range.unwrap_or_else(|| range(points().map(|p| p.1), true));
    let (w, h) = PLOT;
    let place = |x: f64, y: f64| {
        let share = |v: f64, lo: f64, hi: f64| ((v - lo) / (hi - lo)).clamp(0.0, 1.0);
        (left + share(x, x_lo, x_hi) * w, top + h - share(y, y_lo, y_hi) * h)
    };
    svg.text(
        (left + w / 2.0, top - 12.0),
        &chart.title,
        14.0,
        Anchor::Middle,
        "#111111",
    );
    for tick in ticks(x_lo, x_hi) {
        let (x, _) = place(tick, y_lo);
        svg.line((x, top), (x, top + h), GRID, 1.0);
        svg.text(
            (x, top + h + 16.0),
            &tick_text(tick, x_hi - x_lo),
            11.0,
            Anchor::Middle,
            INK,
        );
    }
    for tick in ticks(y_lo, y_hi) {
        let (_, y) = place(x_lo, tick);
        svg.line((left, y), (left + w, y), GRID, 1.0);
        svg.text(
            (left - 6.0, y + 4.0),
            &tick_text(tick, y_hi - y_lo),
            11.0,
            Anchor::End,
            INK,
        );
    }
    svg.rect(left, top, w, h, "none", "#888888");
    svg.text(
        (left + w / 2.0, top + h + 36.0),
        &chart.x_label,
        12.0,
        Anchor::Middle,
        INK,
    );
    svg.turned_text(
        (left - 48.0, top + h / 2.0),
        -90.0,
        &chart.y_label,
        12.0,
        Anchor::Middle,
    );
    if empty {
        svg.text((left + w / 2.0, top + h / 2.0), "no data", 12.0, Anchor::Middle, INK);
        return;
    }
    // The mean goes on top of the others.
    let mut order: Vec<usize> = (0..chart.series.len()).collect();
    order.sort_by_key(|index| chart.series[*index].strong);
    for index in order {
        let series = &chart.series[index];
        let color = line_color(chart, index);
        let width = if series.strong { 2.6 } else { 1.6 };
        for run in series.points.split(|(x, y)| !x.is_finite() || !y.is_finite()) {
            let placed: Vec<(f64, f64)> = run.iter().map(|(x, y)| place(*x, *y)).collect();
            if series.dots {
                placed.into_iter().for_each(|point| svg.circle(point, 3.0, color));
                continue;
            }
            match placed[..] {
                [] => {}
                [only] => svg.circle(only, 2.5, color),
                _ => svg.polyline(&placed, color, width),
            }
        }
    }
    for (row, (index, series)) in in_legend(chart).enumerate() {
        let y = top + 8.0 + 16.0 * row as f64;
        svg.line(
            (left + w + 10.0, y),
            (left + w + 26.0, y),
            line_color(chart, index),
            2.6,
        );
        svg.text((left + w + 31.0, y + 4.0), &series.name, 11.0, Anchor::Start, INK);
    }
}

/// From the least to the greatest value; with `margin`, a little more, and from zero if zero is near.
fn range(values: impl Iterator<Item = f64>, margin: bool) -> (f64, f64) {
    let (lo, hi) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if lo > hi {
        return (0.0, 1.0);
    }
    if hi - lo < 1e-12 * hi.abs().max(1e-300) {
        let half = if lo == 0.0 { 0.5 } else { lo.abs() * 0.1 };
        return (lo - half, hi + half);
    }
    if !margin {
        return (lo, hi);
    }
    let pad = (hi - lo) * 0.06;
    let low = if lo >= 0.0 && lo < hi * 0.4 { 0.0 } else { lo - pad };
    (low, hi + pad)
}

/// Four to ten round numbers (1, 2 or 5 times a power of ten) within a range.
fn ticks(lo: f64, hi: f64) -> Vec<f64> {
    let step = tick_step(hi - lo);
    let first = (lo / step - 1e-9).ceil();
    (0..20)
        .map(|k| (first + f64::from(k)) * step)
        .take_while(|tick| *tick <= hi + step * 1e-9)
        .collect()
}

fn tick_step(span: f64) -> f64 {
    let rough = (span / 6.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|times| times * power >= rough * 0.999);
    times.unwrap_or(10.0) * power
}

/// A tick with as many decimals as its step needs.
fn tick_text(tick: f64, span: f64) -> String {
    let step = tick_step(span);
    let tick = if tick.abs() < step * 1e-6 { 0.0 } else { tick };
    let decimals = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
    if decimals > 4 || tick.abs() >= 1e6 {
        format!("{tick:.1e}")
    } else {
        format!("{tick:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let text = |lo, hi| {
            ticks(lo, hi)
                .into_iter()
                .map(|t| tick_text(t, hi - lo))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(text(0.0, 1.0), "0.0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(text(0.0, 29.0), "0 5 10 15 20 25");
        assert_eq!(text(0.013, 0.0521), "0.02 0.03 0.04 0.05");
        assert_eq!(text(-1.0, 1.0), "-1.0 -0.5 0.0 0.5 1.0");
        assert_eq!(text(0.0, 3e-6), "0.0e0 5.0e-7 1.0e-6 1.5e-6 2.0e-6 2.5e-6 3.0e-6");
    }

    #[test]
    fn lines_break_at_values_that_are_not_finite() {
        let series = Series {
            name: "a".into(),
            points: vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.5)],
            strong: false,
            ..Series::default()
        };
        let svg = charts(
            &[Chart {
                title: "t".into(),
                series: vec![series],
                ..Chart::default()
            }],
            3,
        );
        assert_eq!(svg.matches("<polyline").count(), 1);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn empty_flat_and_crowded_charts_are_drawn() {
        let flat = Series {
            name: "flat".into(),
            points: vec![(0.0, 0.5), (0.0, 0.5)],
            strong: false,
            ..Series::default()
        };
        let many: Vec<Series> = (0..80)
            .map(|i| Series {
                name: format!("class {i}"),
                points: vec![(0.0, 0.0), (1.0, 1.0)],
                strong: i == 0,
                ..Series::default()
            })
            .collect();
        let sheet = charts(
            &[
                Chart::default(),
                Chart {
                    series: vec![flat],
                    ..Chart::default()
                },
                Chart {
                    series: many,
                    ..Chart::default()
                },
            ],
            2,
        );
        assert!(sheet.contains("no data"));
        assert!(
            sheet.contains("class 0") && !sheet.contains("class 7<"),
            "only the mean is named"
        );
        assert!(!sheet.contains("NaN") && !sheet.contains("inf"));
    }
}
