//! The table of results: one row per stage or model, for the terminal, as Markdown, and (through serde) as JSON.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// One row; what was not measured is left empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Row {
    /// Stage or model.
    pub stage: String,
    /// Parameters.
    pub params: Option<i64>,
    /// 1e9 floating point operations of an image (2 per multiply-add).
    pub gflops: Option<f64>,
    /// mAP at IoU 0.5.
    pub map50: Option<f64>,
    /// mAP over IoU 0.5:0.95.
    pub map: Option<f64>,
    /// Images per second.
    pub fps: Option<f64>,
    /// Bytes of the file.
    pub size_bytes: Option<u64>,
}

const HEADER: [&str; 7] = ["stage", "params", "GFLOPs", "mAP50", "mAP50-95", "FPS", "size"];

fn fields(row: &Row) -> [String; 7] {
    let number = |value: Option<f64>, decimals: usize| {
        value
            .filter(|v| v.is_finite())
            .map_or_else(|| "-".to_owned(), |v| format!("{v:.decimals$}"))
    };
    let size = row.size_bytes.map(|bytes| bytes as f64 / 1e6);
    [
        row.stage.clone(),
        row.params.map_or_else(|| "-".to_owned(), thousands),
        number(row.gflops, 2),
        number(row.map50, 3),
        number(row.map, 3),
        number(row.fps, 1),
        size.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.2} MB")),
    ]
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
pub fn terminal(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(HEADER);
    for row in rows {
        let [stage, numbers @ ..] = fields(row);
        let numbers = numbers.map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(stage)).chain(numbers));
    }
    table.to_string()
}

/// The table as Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = format!(
        "| {} |\n|---|{}\n",
        HEADER.join(" | "),
        "---:|".repeat(HEADER.len() - 1)
    );
    for row in rows {
        let cells = fields(row).map(|text| text.replace('|', "\\|"));
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let train = Row {
            stage: "train".into(),
            params: Some(1_765_270),
            gflops: Some(4.168),
            map50: Some(0.61234),
            map: Some(0.2889),
            fps: Some(28.44),
            size_bytes: Some(7_312_345),
        };
        let export = Row {
            stage: "a|b".into(),
            map: Some(f64::NAN),
            ..Row::default()
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
