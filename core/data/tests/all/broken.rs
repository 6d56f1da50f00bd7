//! The collection of broken files against what Ultralytics' own loader does with each of them.

use serde_json::Value;
use yolo_data::labels::Label;
use yolo_data::{Dataset, Policy, Split, check};

/// Where we decide otherwise, on purpose, and why.
const OTHERWISE: [(&str, bool, &str); 7] = [
    (
        "img_gif_named_jpg.jpg",
        true,
        "a GIF is read for what it is, whatever its name says",
    ),
    ("lab_bom.jpg", true, "a byte order mark is no mistake of the user's"),
    (
        "img_trailing_garbage.jpg",
        true,
        "bytes behind the end harm nothing, and no file of the user's is rewritten",
    ),
    (
        "lab_class_range.jpg",
        false,
        "the reference notices in training only, by a failed assertion",
    ),
    ("lab_frac_class.jpg", false, "there is no class 1.7"),
    (
        "lab_zero_wh.jpg",
        true,
        "the box has no area, the image is fine; nothing fatal",
    ),
    ("img_corrupt_scan.jpg", true, "OpenCV decodes it with a warning"),
];

fn same(own: &[Label], theirs: &Value) -> bool {
    let theirs: Vec<Vec<f64>> = serde_json::from_value(theirs.clone()).unwrap_or_default();
    // The reference sorts its rows when it removes duplicates.
    let order = |rows: Vec<Vec<f64>>| {
        let mut rows = rows;
        rows.sort_by(|a, b| a.partial_cmp(b).expect("finite numbers"));
        rows
    };
    let own = order(
        own.iter()
            .map(|row| row.iter().map(|v| f64::from(*v)).collect())
            .collect(),
    );
    let theirs = order(theirs);
    own.len() == theirs.len()
        && own
            .iter()
            .flatten()
            .zip(theirs.iter().flatten())
            .all(|(a, b)| (a - b).abs() < 1e-6)
}

#[test]
fn every_broken_file_is_judged_as_by_the_reference_or_better() {
    let Some(folder) = crate::shared("data/broken") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("golden_verify.json")).expect("the golden file");
    let golden: Value = serde_json::from_str(&text.replace("NaN", "null")).expect("JSON");
    let data = Dataset::open(&folder.join("broken.yaml")).expect("a data set");
    let samples = data
        .samples(Split::Train, Policy::Skip)
        .expect("some of it can be used");
    let mut seen = 0;
    for case in golden["cases"].as_array().expect("cases") {
        let name = case["file"].as_str().expect("a name");
        let Some(verify) = case.get("verify").filter(|v| v.is_object()) else {
            continue;
        };
        let ends = |path: &str| path.ends_with(name);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let sample = samples
            .items
            .iter()
            .find(|sample| ends(&sample.image.to_string_lossy()));
        let fatal: Vec<_> = samples
            .problems
            .iter()
            .filter(|p| p.fatal && (ends(&p.file) || p.file.ends_with(&format!("/{stem}.txt"))))
            .collect();
        let accepted = sample.is_some() && fatal.is_empty();
        let other = OTHERWISE.iter().find(|(file, ..)| *file == name);
        let wanted = other.map_or(verify["accepted"] == true, |(_, accepted, _)| *accepted);
        assert_eq!(accepted, wanted, "{name}: {fatal:?}, reference: {}", verify["msg"]);
        for problem in &fatal {
            assert!(
                problem.kind.starts_with("image-") == (problem.line == 0),
                "{name}: {problem:?}"
            );
            assert!(
                !problem.message.is_empty() && !problem.message.contains(&problem.file),
                "{name}: {problem:?}"
            );
        }
        if let (Some(sample), true, true) = (sample, accepted, other.is_none()) {
            let [w, h] = sample.size;
            assert_eq!(serde_json::json!([w, h]), verify["shape_wh"], "{name}");
            // A row of five numbers beside a polygon is a box; the reference reads it as a polygon of two points.
            if name != "lab_mixed_poly_box.jpg" {
                assert!(
                    same(&sample.boxes, &verify["labels"]),
                    "{name}: {:?}, {}",
                    sample.boxes,
                    verify["labels"]
                );
            }
        }
        seen += 1;
    }
    assert!(seen >= 55, "{seen} cases");
}

#[test]
fn decoding_finds_what_headers_hide_and_files_without_partner_are_notes() {
    let Some(folder) = crate::shared("data/broken") else {
        return;
    };
    let data = Dataset::open(&folder.join("broken.yaml")).expect("a data set");
    let before: Vec<_> = std::fs::read_dir(folder.join("images/train"))
        .expect("images")
        .map(|entry| {
            entry
                .and_then(|e| Ok((e.file_name(), e.metadata()?.modified()?)))
                .expect("a file")
        })
        .collect();
    let report = check::check(&data, true, &|_, _| true).expect("a report");
    let kinds = |kind: &str| report.problems.iter().filter(|p| p.kind == kind).count();
    assert_eq!(kinds("label-orphan"), 2, "orphan_label.txt and img_missing.txt");
    assert_eq!(kinds("split-overlap"), 1, "train and val are the same folder");
    // One less than the reference refuses: the GIF that is called .jpg is read.
    assert!(kinds("image-unreadable") >= 7, "{:?}", report.problems);
    assert_eq!(kinds("image-small"), 2);
    assert!(
        report.images > 30 && report.boxes > 60,
        "{} images, {} boxes",
        report.images,
        report.boxes
    );
    // Looking changes nothing (the reference rewrites files).
    let after: Vec<_> = std::fs::read_dir(folder.join("images/train"))
        .expect("images")
        .map(|entry| {
            entry
                .and_then(|e| Ok((e.file_name(), e.metadata()?.modified()?)))
                .expect("a file")
        })
        .collect();
    assert_eq!(before, after);
}
