//! `yolo quantize --analyse`: what each layer loses, as a table, JSON and a picture.

use comfy_table::{CellAlignment, Table};
use yolo_core::Quantizer;
use yolo_engine::Checkpoint;
use yolo_engine::quant::Sensitivity;
use yolo_jobs::quantize::{Quantization, Sensitivities};
use yolo_report::{BarColumn, bars, save_text};

use crate::error::CliResult;
use crate::ui;

/// Layers whose mAP is measured, each alone in float.
const MEASURED: usize = 8;

/// Rows of the table on a terminal; the files have all.
const ROWS: usize = 25;

/// Runs the analysis.
pub fn run(quantization: &Quantization<'_>, model: &Checkpoint, quantizer: &dyn Quantizer, json: bool) -> CliResult {
    let found = quantization.analyse(model, quantizer, MEASURED)?;
    let [text, picture] = ["sensitivity.json", "sensitivity.svg"].map(|name| quantization.folder.join(name));
    let mut document = serde_json::to_value(&found)?;
    document["files"] = serde_json::json!([&text, &picture]);
    save_text(&picture, &drawn(&found))?;
    save_text(&text, &(serde_json::to_string_pretty(&document)? + "\n"))?;
    if json {
        return ui::print_json(&document);
    }
    let all = &found.analysis;
    let levels: Vec<String> = all.levels.iter().map(|level| format!("{level:.1}")).collect();
    println!("{}", table(&found));
    if all.layers.len() > ROWS {
        println!(
            "... and {} more layers (sensitivity.json has all)",
            all.layers.len() - ROWS
        );
    }
    println!(
        "all quantized: predictions diverge by {:.3}, {:.1} dB on {} images (maps: {}), mAP {:.4} on {} training images, float {:.4}",
        all.divergence,
        all.snr,
        all.images,
        levels.join(", "),
        found.map,
        found.select_images,
        found.map_float
    );
    println!("{}\n{}", text.display(), picture.display());
    Ok(())
}

fn table(found: &Sensitivities) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY)
        .set_header([
            "layer",
            "op",
            "alone quantized",
            "alone in float",
            "divergence taken away",
            "mAP in float",
        ]);
    let all = found.analysis.divergence;
    for own in found.analysis.layers.iter().take(ROWS) {
        table.add_row([
            own.layer.name.clone(),
            own.layer.op.to_owned(),
            format!("{:.1} dB", own.alone),
            format!("{:.1} dB", own.without),
            format!(
                "{:.3} ({:.0} %)",
                gain(found, own),
                100.0 * gain(found, own) / all.max(f64::MIN_POSITIVE)
            ),
            own.map.map_or(String::new(), |map| format!("{map:.4}")),
        ]);
    }
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What a layer takes of the divergence where it alone is in float.
fn gain(found: &Sensitivities, own: &Sensitivity) -> f64 {
    found.analysis.divergence - own.diverges_without
}

fn drawn(found: &Sensitivities) -> String {
    let all = &found.analysis;
    let names: Vec<String> = all.layers.iter().map(|own| own.layer.name.clone()).collect();
    let column = |title: &str, color, value: &dyn Fn(&Sensitivity) -> f64| BarColumn {
        title: title.to_owned(),
        values: all.layers.iter().map(value).collect(),
        color,
    };
    bars(
        &format!(
            "What layers do to predictions; all quantized: they diverge by {:.3} an image, {:.1} dB",
            all.divergence, all.snr
        ),
        &names,
        &[
            column("divergence taken away where it alone is in float", "#e4572e", &|own| {
                gain(found, own)
            }),
            column(
                "noise where it alone is quantized, dB below the signal",
                "#1f77b4",
                &|own| own.alone,
            ),
        ],
    )
}
