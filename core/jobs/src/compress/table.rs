//! The table at the end: on screen, as Markdown and as JSON.

use std::path::Path;

use serde::{Deserialize, Serialize};
use yolo_report::{Chart, Series, charts, table as report};

use super::cache::Record;
use crate::error::Result;
use crate::files;

/// When a stage was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// By this run.
    Done,
    /// By an earlier one.
    Cached,
}

impl Status {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cached => "cached",
        }
    }
}

/// A row with the keys of the JSON output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageRow {
    /// Position and kind, `3-prune`.
    pub name: String,
    /// Kind of the stage.
    pub kind: String,
    /// Whether it was done by this run.
    pub status: Status,
    /// What it left.
    pub weights: std::path::PathBuf,
    /// Trainable parameters.
    pub params: i64,
    /// GFLOPs at the recipe's image size.
    pub gflops: f64,
    /// mAP at IoU 0.5 on the validation images.
    pub map50: f64,
    /// mAP at IoU 0.5:0.95.
    pub map: f64,
    /// mAP50 and mAP on the test images, where the data set has some.
    #[serde(default)]
    pub test: Option<[f64; 2]>,
    /// Epochs of training that went into the model, those of the stages before included.
    #[serde(default)]
    pub epochs: u64,
    /// Images per second on this CPU, where there is a bench stage.
    pub fps: Option<f64>,
    /// Bytes of the model, or of the exported file.
    pub size_bytes: u64,
    /// Seconds that the stage took.
    #[serde(default)]
    pub seconds: f64,
    /// The same in minutes.
    #[serde(default)]
    pub minutes: f64,
    /// Of a training: whether it had stopped getting better when its epochs ended.
    #[serde(default)]
    pub converged: Option<bool>,
    /// Anything else that the stage found out.
    #[serde(default)]
    pub details: serde_json::Value,
}

/// One row per stage; the bench stage gives the others their speed.
pub(super) fn rows(records: &[(Record, bool)]) -> Vec<StageRow> {
    let speeds = records
        .iter()
        .rev()
        .find(|(record, _)| record.kind == "bench")
        .map(|(record, _)| &record.details["fps"]);
    records
        .iter()
        .map(|(record, cached)| StageRow {
            name: record.name.clone(),
            kind: record.kind.clone(),
            status: if *cached { Status::Cached } else { Status::Done },
            weights: record.weights.clone(),
            params: record.params,
            gflops: record.gflops,
            map50: record.map50,
            map: record.map,
            test: record.test,
            epochs: record.epochs,
            fps: record
                .fps
                .or_else(|| speeds.and_then(|speeds| speeds[&record.name].as_f64())),
            size_bytes: record.size_bytes,
            seconds: record.seconds,
            minutes: record.seconds / 60.0,
            converged: record.details["converged"].as_bool(),
            details: record.details.clone(),
        })
        .collect()
}

fn report_rows(rows: &[StageRow]) -> Vec<report::TableRow> {
    rows.iter()
        .filter(|row| row.kind != "bench")
        .map(|row| report::TableRow {
            stage: row.name.clone(),
            epochs: Some(row.epochs).filter(|_| row.kind != "export"),
            seconds: Some(row.seconds),
            test: row.test,
            params: Some(row.params),
            gflops: Some(row.gflops),
            map50: Some(row.map50),
            map: Some(row.map),
            fps: row.fps,
            size_bytes: Some(row.size_bytes),
        })
        .collect()
}

/// The table for a terminal.
pub fn terminal(rows: &[StageRow]) -> String {
    report::terminal(&report_rows(rows))
}

/// Header and cells of the table.
pub(crate) fn cells(rows: &[StageRow]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    report::cells(&report_rows(rows))
}

/// Accuracy against latency, a point for each stage that was timed; nothing where fewer than two were.
fn picture(rows: &[StageRow]) -> Option<String> {
    let timed = rows.iter().filter(|row| row.kind != "bench");
    let series: Vec<Series> = timed
        .filter_map(|row| {
            let fps = row.fps.filter(|fps| *fps > 0.0)?;
            Some(Series {
                name: format!("{} ({:.2} MB)", row.name, row.size_bytes as f64 / 1e6),
                points: vec![(1e3 / fps, row.map50)],
                dots: true,
                ..Series::default()
            })
        })
        .collect();
    let slowest = series.iter().map(|series| series.points[0].0).fold(0.0, f64::max);
    (series.len() > 1).then(|| {
        charts(
            &[Chart {
                title: "stages".into(),
                x_label: "ms per picture on this CPU".into(),
                y_label: "mAP50".into(),
                x_range: Some((0.0, 1.1 * slowest)),
                y_range: Some((0.0, 1.0)),
                series,
            }],
            1,
        )
    })
}

/// `results.json`, `results.md` and `pictures/stages.svg`.
pub(super) fn write(folder: &Path, rows: &[StageRow], notes: &[String]) -> Result {
    if let Some(picture) = picture(rows) {
        let path = folder.join("pictures/stages.svg");
        yolo_report::save_text(&path, &picture)?;
    }
    let below: String = notes.iter().map(|note| format!("\n{note}\n")).collect();
    let texts = [
        (
            "results.json",
            serde_json::to_string_pretty(&serde_json::json!({ "stages": rows, "notes": notes }))?,
        ),
        ("results.md", report::markdown(&report_rows(rows)) + &below),
    ];
    for (name, text) in texts {
        let path = folder.join(name);
        files::write(&path, text.as_bytes())?;
    }
    Ok(())
}

/// What a person wants to know besides the numbers: how much went, how much stayed, whether files agree.
pub(super) fn notes(records: &[(Record, bool)]) -> Vec<String> {
    let find = |kind: &str| {
        records
            .iter()
            .map(|(record, _)| record)
            .find(|record| record.kind == kind)
    };
    let last = |kind: &str| {
        records
            .iter()
            .rev()
            .map(|(record, _)| record)
            .find(|record| record.kind == kind)
    };
    let mut lines = Vec::new();
    let base = find("reference").or(find("train"));
    if let (Some(base), Some(small)) = (base, pruned(records)) {
        let share = |now: f64, then: f64| 100.0 * now / then.max(1e-9);
        lines.push(format!(
            "pruned: {:.1} % of the FLOPs, {:.1} % of the parameters, {:.1} % of the mAP50 and {:.1} % of the mAP of the base ({}, {} epochs)",
            share(small.gflops, base.gflops),
            share(small.params as f64, base.params as f64),
            share(small.map50, base.map50),
            share(small.map, base.map),
            base.name,
            base.epochs
        ));
        if let (Some(of_base), Some(own)) = (base.test, small.test) {
            lines.push(format!(
                "on the test images: {:.1} % of its mAP50 and {:.1} % of its mAP",
                share(own[0], of_base[0]),
                share(own[1], of_base[1])
            ));
        }
        lines.extend(unfair(base, small));
    }
    let at = |kind: &str| records.iter().rposition(|(record, _)| record.kind == kind);
    if let Some(index) = at("quantize")
        && let Some(float) = records[..index]
            .iter()
            .rev()
            .map(|(record, _)| record)
            .find(|record| is_model(record))
    {
        lines.push(format!(
            "int8: mAP50 {:+.4} against its float parent ({})",
            records[index].0.map50 - float.map50,
            float.name
        ));
    }
    if let Some(export) = last("export") {
        for file in export.details["files"].as_array().into_iter().flatten() {
            lines.push(format!(
                "{}: {}",
                file["path"].as_str().unwrap_or_default(),
                file["check"].as_str().unwrap_or_default()
            ));
        }
    }
    lines
}

/// Whether the stage left the model that the next one starts from.
fn is_model(record: &Record) -> bool {
    !matches!(record.kind.as_str(), "reference" | "export" | "bench")
}

/// The last float model after the last pruning; none without a pruning.
fn pruned(records: &[(Record, bool)]) -> Option<&Record> {
    let cut = records.iter().rposition(|(record, _)| record.kind == "prune")?;
    let mut after = records[cut..].iter().map(|(record, _)| record);
    after.rfind(|record| is_model(record) && !record.quantized)
}

/// What must be said where a model is compared with a base that had fewer epochs, or was still getting better.
fn unfair(base: &Record, small: &Record) -> Option<String> {
    let rising = base.details["converged"] == false;
    let help = if base.kind == "reference" {
        ""
    } else {
        " (`- reference: {}` trains one)"
    };
    match (small.epochs > base.epochs, rising) {
        (false, false) => None,
        (false, true) => Some("compare with care: the base was still getting better when its epochs ended".to_owned()),
        (true, rising) => Some(format!(
            "compare with care: the base was trained for {} epochs, the pruned model for {} in all{}; a base of as many epochs may be \
             better{help}",
            base.epochs,
            small.epochs,
            if rising {
                ", and the base was still getting better"
            } else {
                ""
            }
        )),
    }
}
