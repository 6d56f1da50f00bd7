//! The charts of a training run and of a validation.

use crate::chart::{Chart, Series, charts};
use crate::{Error, Result};

/// What is drawn of one class; the curves have any number of points, evenly spread over 0..1.
#[derive(Debug, Clone, Copy)]
pub struct PrCurve<'a> {
    /// Name of the class.
    pub name: &'a str,
    /// Average precision at IoU 0.5.
    pub ap50: f64,
    /// Precision over recall.
    pub precision_at_recall: &'a [f64],
    /// Precision over confidence.
    pub precision: &'a [f64],
    /// Recall over confidence.
    pub recall: &'a [f64],
}

/// Points of a curve in a file; more can't be seen.
const POINTS: usize = 250;

fn unit_points(values: &[f64]) -> Vec<(f64, f64)> {
    let last = values.len().saturating_sub(1).max(1);
    let step = (values.len() / POINTS).max(1);
    values
        .iter()
        .enumerate()
        .filter(|(index, _)| index % step == 0 || *index == last)
        .map(|(index, value)| (index as f64 / last as f64, *value))
        .collect()
}

/// The mean of curves of equal length.
fn mean<'a>(curves: impl ExactSizeIterator<Item = &'a [f64]> + Clone) -> Vec<f64> {
    let points = curves.clone().map(<[f64]>::len).min().unwrap_or(0);
    let n = curves.len() as f64;
    (0..points)
        .map(|i| curves.clone().map(|curve| curve[i]).sum::<f64>() / n)
        .collect()
}

fn unit_chart(title: &str, x_label: &str, y_label: &str, series: Vec<Series>) -> Chart {
    Chart {
        title: title.into(),
        x_label: x_label.into(),
        y_label: y_label.into(),
        x_range: Some((0.0, 1.0)),
        y_range: Some((0.0, 1.0)),
        series,
    }
}

/// Precision over recall at IoU 0.5, a line for each class and one for their mean.
pub fn pr_curves(classes: &[PrCurve<'_>]) -> String {
    let mut series: Vec<Series> = classes
        .iter()
        .map(|class| Series {
            name: format!("{} {:.3}", class.name, class.ap50),
            points: unit_points(class.precision_at_recall),
            strong: false,
            ..Series::default()
        })
        .collect();
    let map50 = classes.iter().map(|class| class.ap50).sum::<f64>() / classes.len().max(1) as f64;
    series.push(Series {
        name: format!("all classes {map50:.3} mAP@0.5"),
        points: unit_points(&mean(classes.iter().map(|class| class.precision_at_recall))),
        strong: true,
        ..Series::default()
    });
    charts(&[unit_chart("Precision over recall", "recall", "precision", series)], 1)
}

/// F1, precision and recall over confidence at IoU 0.5.
pub fn confidence_curves(classes: &[PrCurve<'_>]) -> String {
    let f1: Vec<Vec<f64>> = classes
        .iter()
        .map(|class| {
            let both = class.precision.iter().zip(class.recall);
            both.map(|(p, r)| 2.0 * p * r / (p + r + 1e-16)).collect()
        })
        .collect();
    let chart = |title: &str, curves: Vec<&[f64]>| {
        let mut series: Vec<Series> = classes
            .iter()
            .zip(&curves)
            .map(|(class, curve)| Series {
                name: class.name.into(),
                points: unit_points(curve),
                strong: false,
                ..Series::default()
            })
            .collect();
        let average = mean(curves.iter().copied());
        let best = average.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let name = match best {
            Some((at, best)) => {
                format!(
                    "all classes {best:.2} at {:.3}",
                    at as f64 / (average.len() - 1).max(1) as f64
                )
            }
            None => "all classes".into(),
        };
        series.push(Series {
            name,
            points: unit_points(&average),
            strong: true,
            ..Series::default()
        });
        unit_chart(title, "confidence", &title.to_lowercase(), series)
    };
    let sheet = [
        chart("F1", f1.iter().map(Vec::as_slice).collect()),
        chart("Precision", classes.iter().map(|class| class.precision).collect()),
        chart("Recall", classes.iter().map(|class| class.recall).collect()),
    ];
    charts(&sheet, 3)
}

/// Every column of a `results.csv` over its first column, the epoch. Columns that differ in their first part only (`train/box_loss`,
/// `val/box_loss`) share a chart, as do learning rates.
pub fn training_curves(csv: &str) -> Result<String> {
    let mut lines = csv.lines().filter(|line| !line.trim().is_empty());
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    if header.len() < 2 {
        return Err(Error::Table(
            "results.csv has no header with an epoch and something to draw".into(),
        ));
    }
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for (index, line) in lines.enumerate() {
        // An epoch without a value (no validation) leaves its field empty.
        let values: Vec<f64> = line
            .split(',')
            .map(|field| field.trim().parse().unwrap_or(f64::NAN))
            .collect();
        if values.len() != header.len() {
            let (got, want) = (values.len(), header.len());
            return Err(Error::Table(format!(
                "results.csv:{}: {got} fields, the header has {want}",
                index + 2
            )));
        }
        rows.push(values);
    }
    let mut sheet: Vec<Chart> = Vec::new();
    for (column, name) in header.iter().enumerate().skip(1) {
        let (group, title) = name.split_once('/').unwrap_or(("", name));
        let title = if group == "x" { "learning rate" } else { title };
        let series = Series {
            name: if group == "x" {
                name[2..].to_owned()
            } else {
                group.to_owned()
            },
            points: rows.iter().map(|row| (row[0], row[column])).collect(),
            strong: false,
            ..Series::default()
        };
        match sheet.iter_mut().find(|chart| chart.title == title) {
            Some(chart) => chart.series.push(series),
            None => sheet.push(Chart {
                title: title.into(),
                x_label: header[0].into(),
                series: vec![series],
                ..Chart::default()
            }),
        }
    }
    // A legend tells lines apart; where there is one line, the title says it all.
    for chart in sheet.iter_mut().filter(|chart| chart.series.len() == 1) {
        chart.series[0].name.clear();
    }
    Ok(charts(&sheet, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_training_and_validation_share_a_chart() {
        let csv = "epoch,train/box_loss,metrics/mAP_0.5,val/box_loss,x/lr0,x/lr1\n\
                   0,0.10,0.2,0.11,0.1,0.01\n1,0.08,,0.09,0.09,0.02\n";
        let svg = training_curves(csv).unwrap();
        assert_eq!(svg.matches(">box_loss<").count(), 1);
        assert_eq!(svg.matches(">learning rate<").count(), 1);
        assert!(svg.contains(">train<") && svg.contains(">val<") && svg.contains(">lr1<"));
        assert!(!svg.contains(">metrics<"), "a chart of one line has no legend");
    }

    #[test]
    fn a_broken_table_is_an_error_with_its_line() {
        let error = training_curves("epoch,a\n0,1\n1\n").unwrap_err().to_string();
        assert!(error.contains("results.csv:3"), "{error}");
        assert!(training_curves("").is_err());
        assert!(training_curves("epoch,a\n").is_ok_and(|svg| svg.contains("no data")));
    }

    #[test]
    fn the_mean_curve_is_named_with_its_map() {
        let falling: Vec<f64> = (0..1000).map(|i| 1.0 - f64::from(i) / 999.0).collect();
        let rising: Vec<f64> = falling.iter().rev().copied().collect();
        let class = |name, ap50| PrCurve {
            name,
            ap50,
            precision_at_recall: &falling,
            precision: &rising,
            recall: &falling,
        };
        let classes = [class("car", 0.5), class("<bus>", 0.7)];
        let svg = pr_curves(&classes);
        assert!(svg.contains("all classes 0.600 mAP@0.5") && svg.contains("&lt;bus&gt; 0.700"));
        // F1 of p = c, r = 1 - c is greatest at c = 0.5: 2 * 0.25 / 1 = 0.5.
        assert!(confidence_curves(&classes).contains("all classes 0.50 at 0.5"));
        assert!(confidence_curves(&[]).contains("no data"));
    }
}
