//! `yolo report`: one page of what runs have left, and what is said of folders that are none.

use std::path::Path;

use crate::support::yolo;

const HEADER: &str = "epoch,train/box_loss,metrics/mAP_0.5,metrics/mAP_0.5:0.95,x/lr0";

fn training(folder: &Path, rows: &str) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("results.csv"), format!("{HEADER}\n{rows}")).expect("a file");
}

fn recipe(folder: &Path) {
    let stage = |name: &str, kind: &str, gflops: f64, map: f64, fps: f64| {
        format!(
            r#"{{"name": "{name}", "kind": "{kind}", "status": "done", "weights": "w", "params": 1767976, "gflops": {gflops}, "map50": 0.9,
                "map": {map}, "fps": {fps}, "size_bytes": 7170000, "epochs": 3}}"#
        )
    };
    std::fs::create_dir_all(folder).expect("a folder");
    let stages = [
        stage("1-train", "train", 1.03, 0.615, 240.0),
        stage("2-prune", "prune", 0.55, 0.597, 410.0),
    ]
    .join(", ");
    let text = format!(r#"{{"stages": [{stages}], "notes": ["compare with care: <b>3 epochs</b>"]}}"#);
    std::fs::write(folder.join("results.json"), text).expect("a file");
    training(&folder.join("1-train"), "0,0.1,0.5,0.25,0.01\n");
}

#[test]
fn runs_are_shown_on_one_page_that_needs_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    // The second epoch was not validated, the third is the best.
    training(
        &dir.path().join("a&b"),
        "0,0.10,0.30,0.10,0.01\n1,0.09,,,0.01\n2,0.08,0.70,0.40,0.01\n3,0.07,0.65,0.39,0.01\n",
    );
    std::fs::write(
        dir.path().join("a&b/options.json"),
        r#"{"epochs": 4, "data": "cells.yaml"}"#,
    )
    .expect("a file");
    let picture = yolo_report::png(&[200; 12], 2, 2).expect("a picture");
    std::fs::write(dir.path().join("a&b/confusion.png"), picture).expect("a file");
    recipe(&dir.path().join("small"));
    let told = yolo(dir.path(), &["report", "a&b", "small", "--out", "page.html", "--json"])
        .ok()
        .json();
    let runs = told["runs"].as_array().expect("runs");
    assert_eq!(
        (&runs[0]["kind"], &runs[1]["kind"]),
        (&"train".into(), &"compress".into())
    );
    assert_eq!((&runs[0]["epochs"], &runs[0]["best_epoch"]), (&4.into(), &2.into()));
    assert_eq!((&runs[0]["map50"], &runs[0]["map"]), (&0.7.into(), &0.4.into()));
    assert_eq!(runs[1]["map"], 0.597, "that of the last model");
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("the page");
    for part in [
        "a&amp;b",
        "4 epochs; the best, 3: mAP50 0.7000, mAP 0.4000",
        "<td>2-prune</td>",
        "1,767,976",
        "compare with care: &lt;b&gt;3 epochs&lt;/b&gt;",
        "confusion.png",
        "data:image/png;base64,",
        "&quot;epochs&quot;: 4",
        "<h3>1-train</h3>",
        "<td>cells.yaml</td>",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for fetched in ["http:", "https:", "<script", "<link", "file:"] {
        assert!(!page.contains(fetched), "{fetched}");
    }
}

#[test]
fn what_is_no_run_is_named_and_no_page_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    training(&dir.path().join("good"), "0,0.1,0.5,0.25,0.01\n");
    training(&dir.path().join("short"), "0,0.1,0.5,0.25,0.01\n1,0.1,0.5\n");
    training(&dir.path().join("words"), "0,0.1,high,0.25,0.01\n");
    std::fs::create_dir_all(dir.path().join("empty")).expect("a folder");
    std::fs::create_dir_all(dir.path().join("other")).expect("a folder");
    std::fs::write(dir.path().join("other/results.csv"), "a,b\n1,2\n").expect("a file");
    std::fs::create_dir_all(dir.path().join("broken")).expect("a folder");
    std::fs::write(dir.path().join("broken/results.json"), "{\"stages\": 3}").expect("a file");
    let report = |run: &str, out: &str| yolo(dir.path(), &["report", "good", run, "--out", out]);
    report("nowhere", "page.html").fails(2, &["nowhere", "no such folder"]);
    report("empty", "page.html").fails(2, &["empty", "this is no run", "yolo train"]);
    report("short", "page.html").fails(1, &["short/results.csv:3", "5 numbers"]);
    report("words", "page.html").fails(1, &["words/results.csv:2"]);
    report("other", "page.html").fails(1, &["other/results.csv:1", "`epoch` is missing"]);
    report("broken", "page.html").fails(1, &["broken/results.json", "not the table of a recipe"]);
    report("./good", "page.html").fails(2, &["./good", "named twice"]);
    report("good", "page.txt").fails(2, &["page.txt", ".html"]);
    assert!(!dir.path().join("page.html").exists() && !dir.path().join("page.txt").exists());
}
