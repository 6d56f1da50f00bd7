//! The table of results: one row per stage or model, for the terminal, as Markdown, and (through serde) as JSON.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// One row; what was not measured is left empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TableRow {
    /// Stage or model.
    pub stage: String,
    /// Epochs that it was trained for, with those of the models that it was made of.
    #[serde(default)]
    pub epochs: Option<u64>,
    /// Seconds that it took.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Parameters.
    pub params: Option<i64>,
    /// 1e9 floating point operations of an image (2 per multiply-add).
    pub gflops: Option<f64>,
    /// mAP at IoU 0.5.
    pub map50: Option<f64>,
    /// mAP over IoU 0.5:0.95.
    pub map: Option<f64>,
    /// Both on images that nothing was chosen by.
    #[serde(default)]
    pub test: Option<[f64; 2]>,
    /// Images per second.
    pub fps: Option<f64>,
    /// Bytes of the file.
    pub size_bytes: Option<u64>,
}

/// A column: its name, how a row fills it, and whether it stands there although no row does.
struct Column {
    name: &'static str,
    text: fn(&TableRow) -> Option<String>,
    always: bool,
}

const COLUMNS: [Column; 10] = [
    column("epochs", |row| row.epochs.map(|n| n.to_string()), false),
    column("min", |row| number(row.seconds.map(|s| s / 60.0), 1), false),
    column("params", |row| row.params.map(thousands), true),
    column("GFLOPs", |row| number(row.gflops, 2), true),
    column("mAP50", |row| number(row.map50, 3), true),
    column("mAP50-95", |row| number(row.map, 3), true),
    column("test mAP50", |row| number(row.test.map(|t| t[0]), 3), false),
    column("test mAP50-95", |row| number(row.test.map(|t| t[1]), 3), false),
    column("FPS", |row| number(row.fps, 1), true),
    column(
        "size",
        |row| number(row.size_bytes.map(|bytes| bytes as f64 / 1e6), 2).map(|mb| mb + " MB"),
        true,
    ),
];

const fn column(name: &'static str, text: fn(&TableRow) -> Option<String>, always: bool) -> Column {
    Column { name, text, always }
}

fn number(value: Option<f64>, decimals: usize) -> Option<String> {
    value.filter(|v| v.is_finite()).map(|v| format!("{v:.decimals$}"))
}

/// The header and the cells of every row: what [`terminal`] and [`markdown`] show.
pub fn cells(rows: &[TableRow]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let shown = |column: &&Column| column.always || rows.iter().any(|row| (column.text)(row).is_some());
    let columns: Vec<&Column> = COLUMNS.iter().filter(shown).collect();
    let header = std::iter::once("stage").chain(columns.iter().map(|column| column.name));
    let row = |row: &TableRow| {
        let values = columns
            .iter()
            .map(|column| (column.text)(row).unwrap_or_else(|| "-".to_owned()));
        std::iter::once(row.stage.clone()).chain(values).collect()
    };
    (header.collect(), rows.iter().map(row).collect())
}

/// `1234567` as `1,234,567`.
fn thousands(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::from(if n < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The table for a terminal, as wide as its content.
pub fn terminal(rows: &[TableRow]) -> String {
    let (header, rows) = cells(rows);
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    for row in rows {
        let alignment = |index| {
            if index == 0 {
                CellAlignment::Left
            } else {
                CellAlignment::Right
            }
        };
        let cells = row.into_iter().enumerate();
        table.add_row(cells.map(|(index, text)| Cell::new(text).set_alignment(alignment(index))));
    }
    table.to_string()
}

/// The table as Markdown.
pub fn markdown(rows: &[TableRow]) -> String {
    let (header, rows) = cells(rows);
    let mut out = format!(
        "| {} |\n|---|{}\n",
        header.join(" | "),
        "---:|".repeat(header.len() - 1)
    );
    for row in rows {
        let cells: Vec<String> = row.iter().map(|text| text.replace('|', "\\|")).collect();
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<TableRow> {
        let train = TableRow {
            stage: "train".into(),
            params: Some(1_765_270),
            gflops: Some(4.168),
            map50: Some(0.61234),
            map: Some(0.2889),
            fps: Some(28.44),
            size_bytes: Some(7_312_345),
            ..TableRow::default()
        };
        let export = TableRow {
            stage: "a|b".into(),
            map: Some(f64::NAN),
            ..TableRow::default()
        };
        vec![train, export]
    }

    #[test]
    fn markdown_is_exact() {
        let expected = "| stage | params | GFLOPs | mAP50 | mAP50-95 | FPS | size |\n\
                        |---|---:|---:|---:|---:|---:|---:|\n\
                        | train | 1,765,270 | 4.17 | 0.612 | 0.289 | 28.4 | 7.31 MB |\n\
                        | a\\|b | - | - | - | - | - | - |\n";
        assert_eq!(markdown(&rows()), expected);
    }

    #[test]
    fn columns_that_a_row_fills_are_shown() {
        let mut rows = rows();
        (rows[0].epochs, rows[0].seconds, rows[0].test) = (Some(30), Some(90.0), Some([0.5, 0.25]));
        let text = markdown(&rows);
        assert!(text.starts_with(
            "| stage | epochs | min | params | GFLOPs | mAP50 | mAP50-95 | test mAP50 | test mAP50-95 | FPS"
        ));
        assert!(
            text.contains("| train | 30 | 1.5 | 1,765,270 | 4.17 | 0.612 | 0.289 | 0.500 | 0.250 | 28.4"),
            "{text}"
        );
        assert!(text.contains("| a\\|b | - | - | -"), "{text}");
    }

    #[test]
    fn the_terminal_shows_every_field() {
        let text = terminal(&rows());
        for field in ["stage", "1,765,270", "0.289", "7.31 MB", "a|b"] {
            assert!(text.contains(field), "{field} in\n{text}");
        }
    }

    #[test]
    fn json_keeps_the_names_of_the_contract() {
        let value = serde_json::to_value(&rows()[0]).unwrap();
        for key in ["stage", "params", "gflops", "map50", "map", "fps", "size_bytes"] {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
