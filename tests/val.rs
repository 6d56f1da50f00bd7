//! `yolo val`: the reference's numbers on coco128, the files it writes, refusals.

use serde_json::Value;

use crate::support::{self, files, read_json, shared, small_data, tiny_model, yolo};

/// What YOLOv5's `val.py` gives here in single precision (v7.0-549, batch 8, `half=False`, images of one shape in the order of their
/// names). The golden file has 0.3657 for mAP: it was made by calling `val.run`, which computes in half precision unless it is told not to.
const SINGLE_PRECISION: [(&str, f64); 4] = [
    ("precision", 0.622_708),
    ("recall", 0.494_406),
    ("map50", 0.558_479),
    ("map", 0.363_452),
];

#[test]
fn coco128_gives_the_official_map() {
    let (Some(weights), Some(data), Some(golden)) = (
        shared("data/weights/yolov5n.pt"),
        shared("data/coco128/coco128.yaml"),
        shared("reference/golden_val_coco128.json"),
    ) else {
        return;
    };
    let golden = &read_json(&golden)["runs"]["yolov5n/train2017_first128"];
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, data) = (weights.display().to_string(), data.display().to_string());
    let arguments = [
        "val",
        "--weights",
        &weights,
        "--data",
        &data,
        "--img",
        "640",
        "--batch-size",
        "8",
        "--json",
        "--save-json",
    ];
    let found = yolo(folder.path(), &arguments).ok().json();
    assert_eq!(
        (found["images"].as_u64(), found["instances"].as_u64()),
        (Some(128), Some(929))
    );
    for (key, theirs) in SINGLE_PRECISION {
        let ours = found[key].as_f64().expect("a number");
        assert!((ours - theirs).abs() <= 5e-4, "{key}: {ours} {theirs}");
    }
    // Classes with enough objects have their official precision, too; those with a few objects hang on single boxes.
    let classes = golden["per_class"].as_array().expect("classes");
    assert_eq!(found["per_class"].as_array().map(Vec::len), Some(classes.len()));
    let person = |list: &Value, key: &str| list[0][key].as_f64().expect("a number");
    assert!((person(&found["per_class"], "map") - person(&golden["per_class"], "AP50_95")).abs() < 0.004);

    // COCO's own rule on the same boxes is near: it interpolates a little differently.
    let coco = found["coco"]["AP"].as_f64().expect("a number");
    assert!((coco - found["map"].as_f64().expect("a number")).abs() < 0.02, "{coco}");
    let saved = folder
        .path()
        .join(found["save_dir"].as_str().expect("a folder"))
        .join("predictions.json");
    let rows = read_json(&saved);
    let row = &rows[0];
    assert!(
        row["image_id"].is_u64() && row["bbox"].as_array().is_some_and(|b| b.len() == 4),
        "{row}"
    );
    // COCO has 80 categories among the numbers 1 to 90.
    let category = |row: &Value| row["category_id"].as_u64().expect("a number");
    assert!(
        rows.as_array()
            .expect("rows")
            .iter()
            .map(category)
            .all(|id| (1..=90).contains(&id) && id != 12)
    );
}

#[test]
fn a_validation_writes_what_it_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 20, 96).display().to_string();
    let weights = support::random_weights(&tiny_model(folder.path()), folder.path(), 4)
        .display()
        .to_string();
    let base = ["val", "--weights", &weights, "--data", &data, "--img", "96"];
    let run = |more: &[&str]| yolo(folder.path(), &[&base, more].concat());

    let plain = run(&["--json"]).ok().json();
    assert_eq!(plain["images"], 4);
    for key in ["precision", "recall", "map50", "map"] {
        assert!(plain[key].is_f64(), "{key}");
    }
    for key in ["preprocess", "inference", "nms"] {
        assert!(plain["speed_ms"][key].as_f64().is_some_and(|ms| ms > 0.0), "{key}");
    }
    assert!(!folder.path().join("runs").exists(), "nothing is written unasked");

    let all = [
        "--plots",
        "--save-txt",
        "--save-conf",
        "--save-json",
        "--save-dir",
        "out",
    ];
    let table = run(&all).ok().out;
    assert!(table.contains("instances") && table.contains("COCO: AP"), "{table}");
    let written = files(&folder.path().join("out"));
    assert_eq!(written.iter().filter(|file| file.starts_with("labels/")).count(), 4);
    assert_eq!(
        written
            .iter()
            .filter(|file| !file.starts_with("labels/"))
            .collect::<Vec<_>>(),
        [
            "confidence_curves.svg",
            "confusion_matrix.svg",
            "pr_curve.svg",
            "predictions.json",
            "val_pictures.jpg"
        ]
    );
    let label = std::fs::read_to_string(folder.path().join("out").join(&written[2])).unwrap_or_default();
    assert!(
        written.iter().any(|file| file.ends_with(".txt")) && label.lines().all(|line| line.split(' ').count() == 6)
    );

    // One class: its matrix has two rows.
    run(&["--single-cls", "--plots", "--save-dir", "one"]).ok();
    let matrix = std::fs::read_to_string(folder.path().join("one/confusion_matrix.svg")).expect("a drawing");
    assert_eq!(matrix.matches("<rect").count(), 2 * 2 + 2, "cells, frame, paper");

    // The other splits of the data set.
    assert_eq!(run(&["--task", "train", "--json"]).ok().json()["images"], 14);
    assert_eq!(run(&["--task", "test", "--json"]).ok().json()["images"], 2);
    run(&["--task", "all"]).fails(2, &["--task all", "train, val or test"]);
    run(&["--iou-thres", "2"]).fails(2, &["--iou-thres 2"]);
}
