//! YOLO label files: one `class cx cy w h` per line, normalised. A polygon row (`class x y x y ...`) becomes its bounding box; where
//! the data set says that it has key points, a row is a box with key points behind it.

use std::borrow::Cow;
use std::path::Path;

use crate::text;

/// A box of a label file: class, centre, size, all but the class as shares of the image.
pub type Label = [f32; 5];

/// What was found wrong in a data set.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line, from 1; 0 where it concerns the whole file.
    pub line: usize,
    /// A stable word. Of label files: `label-columns`, `label-number`, `label-class`, `label-range`, `label-encoding`,
    /// `label-empty-box`, `label-duplicate`, `label-near-duplicate`, `label-two-classes`, `label-polygon`, `label-keypoints`, `label-unreadable`, `label-orphan`, `label-second`,
    /// `label-shared`, `label-missing`, `box-cut`; of images: `image-unreadable`, `image-remark`, `image-small`, `image-duplicate`, `image-missing`,
    /// `image-listed-twice`, `image-left-out`; of the whole: `path-missing`, `split-unusable`, `split-overlap`, `class-empty`, `class-one-split`,
    /// `names-order`, `names-differ`, `names-unread`, `key-unused`, `images-alike`; of sources that are converted: `annotation-broken`,
    /// `annotation-missing`, `annotation-polygon`, `box-left-out`, `box-cut`, `image-left-out`, `image-without-split`, `size-mismatch`,
    /// `name-clash`, `name-changed`, `only-left-out`, `objects-unmarked`, `setting-unused`, `split-empty`.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether it is an error under [`Policy::Strict`](crate::Policy::Strict), not just a note.
    pub fatal: bool,
}

impl Problem {
    /// Something to know that stops nothing.
    pub fn note(file: String, line: usize, kind: &'static str, message: String) -> Self {
        Self {
            file,
            line,
            kind,
            message,
            fatal: false,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Makes all classes one. A box that several of them had is one box then.
pub fn merge(labels: &mut Vec<Label>) {
    let mut merged: Vec<Label> = Vec::with_capacity(labels.len());
    for label in labels.iter() {
        let label = [0.0, label[1], label[2], label[3], label[4]];
        if !merged.contains(&label) {
            merged.push(label);
        }
    }
    *labels = merged;
}

/// What rows mean.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Names of the classes.
    pub names: &'a [String],
    /// Key points of each object and numbers of each key point (`kpt_shape`): then rows are boxes with these behind them.
    pub keypoints: Option<[usize; 2]>,
}

/// Reads the text of a label file; rows that can't be used are left out and reported.
pub fn parse(path: &Path, text: &[u8], rows: Rows<'_>) -> (Vec<Label>, Vec<Problem>) {
    let mut labels: Vec<Label> = Vec::new();
    let mut problems = Vec::new();
    let mut report = |line: usize, kind: &'static str, fatal: bool, message: String| {
        problems.push(Problem {
            file: path.display().to_string(),
            line,
            kind,
            message,
            fatal,
        });
    };
    // Lines of other bytes are reported one by one, so only what is wholly something else is decoded as a whole.
    let text = match text.contains(&0) || text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        false => Cow::Borrowed(text),
        true => match text::decode(text) {
            Ok(text) => Cow::Owned(text.into_owned().into_bytes()),
            Err(error) => {
                let message = format!("{}; labels are lines of `class cx cy w h`", error.message);
                report(error.line, "label-encoding", true, message);
                return (labels, problems);
            }
        },
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut numbers: Vec<f64> = Vec::with_capacity(5);
    for (index, row) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let row = row.trim_ascii();
        if row.is_empty() {
            continue;
        }
        let row = match std::str::from_utf8(row) {
            Ok(row) => row,
            Err(_) => {
                report(
                    line,
                    "label-encoding",
                    true,
                    "the line is not UTF-8 text (GBK, Latin-1 or another older encoding?); remove it or save the file as UTF-8"
                        .into(),
                );
                continue;
            }
        };
        match parse_row(row, rows, &mut numbers) {
            Err((kind, message)) => report(line, kind, true, message),
            Ok(Row { label, polygon }) => {
                if polygon {
                    // A tracker's row has as many numbers as a polygon of three points.
                    let message = match numbers.len() {
                        7 => {
                            "a polygon of three points; the box around it is used (if it is a box with a confidence and an id, take those away)"
                        }
                        _ => "a polygon; the box around it is used",
                    };
                    report(line, "label-polygon", false, message.into());
                }
                if label[3] <= 0.0 || label[4] <= 0.0 {
                    report(
                        line,
                        "label-empty-box",
                        false,
                        "the box has no area; it is left out".into(),
                    );
                } else if labels.contains(&label) {
                    let message = "the same box stands in an earlier line; it is used once".into();
                    report(line, "label-duplicate", false, message);
                } else {
                    if beyond(&label) {
                        let message = "a good part of the box lies outside of the image; is it `class cx cy w h`, with the centre?".into();
                        report(line, "box-cut", false, message);
                    }
                    if let Some(other) = labels.iter().find(|other| other[1..] == label[1..]) {
                        let [one, two] = [other[0], label[0]].map(|class| &rows.names[class as usize]);
                        let message =
                            format!("the same box is `{one}` in an earlier line and `{two}` here; both are learned");
                        report(line, "label-two-classes", false, message);
                    }
                    if labels.iter().any(|other| nearly(other, &label)) {
                        let message = "nearly the same box stands in an earlier line; both count as objects".into();
                        report(line, "label-near-duplicate", false, message);
                    }
                    labels.push(label);
                }
            }
        }
    }
    (labels, problems)
}

/// Share of a side by which two boxes of one object differ that were rounded otherwise, and those of two objects do not.
const NEAR: f32 = 0.005;

/// Whether two boxes of one class are one, but for rounding.
fn nearly(one: &Label, other: &Label) -> bool {
    let close = |at: usize, side: f32| (one[at] - other[at]).abs() <= NEAR * side;
    one[0] == other[0] && close(1, one[3]) && close(3, one[3]) && close(2, one[4]) && close(4, one[4])
}

/// Share of a side of a box beyond the image that no rounding and no cut of an object explains.
const BEYOND: f32 = 0.1;

/// Whether a box reaches far out of the image.
fn beyond(label: &Label) -> bool {
    let [_, cx, cy, w, h] = *label;
    let far = |centre: f32, side: f32| (side / 2.0 - centre).max(centre + side / 2.0 - 1.0) > BEYOND * side;
    far(cx, w) || far(cy, h)
}

struct Row {
    label: Label,
    polygon: bool,
}

/// One row, or the kind of its mistake and what to do; `numbers` is a buffer.
fn parse_row(row: &str, rows: Rows<'_>, numbers: &mut Vec<f64>) -> Result<Row, (&'static str, String)> {
    let Rows { names, keypoints } = rows;
    if row.contains([',', ';']) {
        return Err((
            "label-columns",
            "the columns are separated by commas; write `class cx cy w h` with blanks".into(),
        ));
    }
    numbers.clear();
    for word in row.split_ascii_whitespace() {
        match word.parse::<f64>() {
            Ok(number) if number.is_finite() => numbers.push(number),
            Ok(_) => {
                return Err((
                    "label-number",
                    format!("`{word}` is not a finite number; remove or correct the row"),
                ));
            }
            Err(_) => {
                let hint = match names.iter().position(|name| name == word) {
                    Some(index) if numbers.is_empty() => format!("; write {index}, the number of this class"),
                    None if numbers.is_empty() => "; classes are given by number, from 0".into(),
                    _ => String::new(),
                };
                return Err(("label-number", format!("`{word}` is not a number{hint}")));
            }
        }
    }
    let polygon = columns(numbers, keypoints)?;
    let class = numbers[0];
    if class < 0.0 || class.fract() != 0.0 {
        return Err(("label-class", format!("the class {class} is not a whole number from 0")));
    }
    if class >= names.len() as f64 {
        let last = names.len().saturating_sub(1);
        let hint = if class == names.len() as f64 {
            "; do your labels count from 1?"
        } else {
            ""
        };
        let message = format!(
            "class {class}, but the data set has {} (0 to {last}){hint}",
            names.len()
        );
        return Err(("label-class", message));
    }
    // Key points stand behind the box, and may have a column for being visible.
    let coordinates = if polygon { &numbers[1..] } else { &numbers[1..5] };
    if let Some(value) = coordinates.iter().find(|v| **v < 0.0) {
        let message = format!("the coordinate {value} is negative; coordinates are shares of the image, 0 to 1");
        return Err(("label-range", message));
    }
    if let Some(value) = coordinates.iter().find(|v| **v > 1.0) {
        let hint = if *value > 2.0 {
            " (pixels? divide by width and height)"
        } else {
            " (clip it to 1)"
        };
        let message = format!("the coordinate {value} is above 1; coordinates are shares of the image{hint}");
        return Err(("label-range", message));
    }
    let [cx, cy, w, h] = if polygon {
        let bounds = |axis: usize| {
            let values = || coordinates.iter().skip(axis).step_by(2).copied();
            (
                values().fold(f64::INFINITY, f64::min),
                values().fold(f64::NEG_INFINITY, f64::max),
            )
        };
        let ((x0, x1), (y0, y1)) = (bounds(0), bounds(1));
        [(x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0]
    } else {
        [coordinates[0], coordinates[1], coordinates[2], coordinates[3]]
    };
    Ok(Row {
        label: [class as f32, cx as f32, cy as f32, w as f32, h as f32],
        polygon,
    })
}

/// Whether a row is a polygon, by the number of its columns.
fn columns(numbers: &[f64], keypoints: Option<[usize; 2]>) -> Result<bool, (&'static str, String)> {
    let count = numbers.len();
    if let Some([points, each]) = keypoints {
        let wanted = 5 + points * each;
        return if count == 5 || count == wanted {
            Ok(false)
        } else {
            let message = format!(
                "{count} columns; with `kpt_shape: [{points}, {each}]` in the data set a row has 5 (a box) or {wanted} (a box and \
                 its key points)"
            );
            Err(("label-keypoints", message))
        };
    }
    if count >= 5 && !count.is_multiple_of(2) {
        return Ok(count > 5);
    }
    let hint = match count {
        6 => "; if the sixth is a confidence, remove it".to_owned(),
        _ if count > 6 && (count - 5).is_multiple_of(3) => {
            let points = (count - 5) / 3;
            format!(
                "; if these are boxes with {points} key points, say `kpt_shape: [{points}, 3]` in the data set's YAML"
            )
        }
        _ => String::new(),
    };
    let message = format!("{count} columns; a box has 5 (`class cx cy w h`), a polygon an odd number from 7{hint}");
    Err(("label-columns", message))
}

/// The text of a label file.
pub fn to_text(labels: &[Label]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(labels.len() * 40);
    for [class, cx, cy, w, h] in labels {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{class} {cx:.6} {cy:.6} {w:.6} {h:.6}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["RBC", "WBC", "Platelets"].map(str::to_owned).to_vec()
    }

    fn read(text: &[u8]) -> (Vec<Label>, Vec<(usize, &'static str)>, String) {
        read_with(text, None)
    }

    fn read_with(text: &[u8], keypoints: Option<[usize; 2]>) -> (Vec<Label>, Vec<(usize, &'static str)>, String) {
        let rows = Rows {
            names: &names(),
            keypoints,
        };
        let (labels, problems) = parse(Path::new("a.txt"), text, rows);
        let message = problems.first().map(|p| p.message.clone()).unwrap_or_default();
        (labels, problems.iter().map(|p| (p.line, p.kind)).collect(), message)
    }

    const GOOD: Label = [0.0, 0.5, 0.5, 0.25, 0.25];

    #[test]
    fn good_rows_of_every_shape_are_read() {
        for text in [
            "0 0.5 0.5 0.25 0.25",
            "0 0.5 0.5 0.25 0.25\r\n",
            "\n\n0\t0.5  0.5 0.25\t.25 \n\n",
            "\u{feff}0 0.5 0.5 0.25 0.25",
            "0.0 5e-1 5.0E-1 2.5e-1 .25",
            "0 0.375 0.375 0.625 0.375 0.625 0.625 0.375 0.625",
        ] {
            let (labels, problems, _) = read(text.as_bytes());
            assert_eq!(labels, [GOOD], "{text:?}");
            assert!(
                problems.iter().all(|(_, kind)| *kind == "label-polygon"),
                "{text:?}: {problems:?}"
            );
        }
        assert_eq!(read(b""), (vec![], vec![], String::new()));
    }

    #[test]
    fn bad_rows_name_their_line_and_the_others_stay() {
        for (row, kind, words) in [
            ("0 0.5 0.5 0.2", "label-columns", "4 columns"),
            ("0 0.5 0.5 0.2 0.2 0.9", "label-columns", "confidence"),
            ("0,0.5,0.5,0.25,0.25", "label-columns", "commas"),
            ("3 0.5 0.5 0.25 0.25", "label-class", "count from 1"),
            ("7 0.5 0.5 0.25 0.25", "label-class", "0 to 2"),
            ("-1 0.5 0.5 0.25 0.25", "label-class", "-1"),
            ("1.7 0.5 0.5 0.25 0.25", "label-class", "whole"),
            ("RBC 0.5 0.5 0.25 0.25", "label-number", "write 0"),
            ("cell 0.5 0.5 0.25 0.25", "label-number", "by number"),
            ("0 nan 0.5 0.2 0.2", "label-number", "nan"),
            ("0 0.5 0.5 inf 0.2", "label-number", "inf"),
            ("0 -0.01 0.5 0.2 0.2", "label-range", "negative"),
            ("0 0.5 0.5 1.0005 1.0", "label-range", "clip"),
            ("0 80 60 40 30", "label-range", "pixels"),
            ("0 0.5 0.5 0 0", "label-empty-box", "no area"),
        ] {
            let text = format!("1 0.1 0.1 0.1 0.1\n{row}\n0 0.5 0.5 0.25 0.25\n");
            let (labels, problems, message) = read(text.as_bytes());
            assert_eq!(labels.len(), 2, "{row}");
            assert_eq!(problems, [(2, kind)], "{row}");
            assert!(message.contains(words), "{row}: {message}");
        }
    }

    #[test]
    fn duplicates_are_used_once_and_other_bytes_are_no_text() {
        let text = "0 0.5 0.5 0.25 0.25\n".repeat(3);
        let (labels, problems, _) = read(text.as_bytes());
        assert_eq!((labels.as_slice(), problems.len()), ([GOOD].as_slice(), 2));
        let (labels, problems, message) = read(b"0 0.5 0.5 0.25 0.25\n2 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.25 0.2\n");
        assert_eq!((labels.len(), problems), (3, vec![(2, "label-two-classes")]));
        assert!(
            message.contains("`RBC`") && message.contains("`Platelets`"),
            "{message}"
        );
        // The same box by another tool's rounding is said, a neighbour is not.
        let near = |row: &str| read(format!("0 0.5 0.5 0.25 0.25\n{row}\n").as_bytes());
        let (labels, problems, _) = near("0 0.500001 0.499999 0.250001 0.25");
        assert_eq!((labels.len(), problems), (2, vec![(2, "label-near-duplicate")]));
        for row in [
            "0 0.51 0.5 0.25 0.25",
            "0 0.5 0.5 0.25 0.26",
            "1 0.500001 0.5 0.25 0.25",
        ] {
            assert_eq!(near(row).1, [], "{row}");
        }
        assert_eq!(read(b"0 0.5 0.5 0.25 0.25\n\xcf\xb8\xb0\n").1, [(2, "label-encoding")]);
        assert_eq!(read(b"\x00\x01\x02").1, [(1, "label-encoding")]);
    }

    #[test]
    fn text_and_labels_agree() {
        let labels = [GOOD, [2.0, 0.125, 0.75, 0.0625, 0.5]];
        assert_eq!(read(to_text(&labels).as_bytes()).0, labels);
    }

    #[test]
    fn key_points_are_behind_the_box_where_the_data_set_has_them() {
        let row = |columns: usize| {
            let more: Vec<String> = (5..columns).map(|i| format!("{}", (i % 3) as f32)).collect();
            format!("0 0.5 0.5 0.25 0.25 {}", more.join(" "))
        };
        for (shape, columns) in [([8, 2], 21), ([17, 3], 56), ([1, 2], 7), ([5, 3], 20)] {
            let (labels, problems, _) = read_with(row(columns).as_bytes(), Some(shape));
            assert_eq!((labels, problems), (vec![GOOD], vec![]), "{shape:?}");
            let (labels, _, _) = read_with(b"0 0.5 0.5 0.25 0.25", Some(shape));
            assert_eq!(labels, [GOOD], "{shape:?}");
            for other in [columns - 1, columns + 1, columns + 2, 6] {
                if other == 5 {
                    continue;
                }
                let (labels, problems, message) = read_with(row(other).as_bytes(), Some(shape));
                assert_eq!(
                    (labels.len(), problems),
                    (0, vec![(1, "label-keypoints")]),
                    "{shape:?} {other}"
                );
                assert!(message.contains("kpt_shape"), "{message}");
            }
        }
        // The box is checked as ever.
        let (_, problems, _) = read_with(b"0 1.5 0.5 0.25 0.25 0.1 0.1", Some([1, 2]));
        assert_eq!(problems, [(1, "label-range")]);
        // Nobody said that these are key points: an even number of columns is refused with the way out.
        let (_, problems, message) = read(row(56).as_bytes());
        assert_eq!(problems, [(1, "label-columns")]);
        assert!(message.contains("kpt_shape: [17, 3]"), "{message}");
    }

    #[test]
    fn utf16_is_read_and_cut_utf16_is_named() {
        let text = "0 0.5 0.5 0.25 0.25\r\n";
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let mut bytes = order(0xfeff).to_vec();
            bytes.extend(text.encode_utf16().flat_map(order));
            assert_eq!(read(&bytes).0, [GOOD]);
            bytes.pop();
            assert_eq!(read(&bytes).1, [(1, "label-encoding")]);
        }
    }
}
