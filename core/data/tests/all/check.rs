//! `check`: what it counts and what it finds.

use std::sync::atomic::{AtomicUsize, Ordering};

use yolo_data::check::{Report, check};
use yolo_data::{Dataset, Error, Split, synth};

use crate::{folder, put, put_picture};

fn look(yaml: &std::path::Path) -> Report {
    check(&Dataset::open(yaml).expect("readable"), true, &|_, _| true).expect("a report")
}

fn kinds(report: &Report) -> Vec<(&'static str, bool)> {
    report
        .problems
        .iter()
        .map(|problem| (problem.kind, problem.fatal))
        .collect()
}

#[test]
fn our_own_data_set_is_clean_and_counted() {
    let dir = folder();
    let settings = synth::Settings {
        images: 20,
        size: 64,
        ..synth::Settings::default()
    };
    let made = synth::write(dir.path(), &settings, &|_| {}).expect("a data set");
    let seen = AtomicUsize::new(0);
    let data = Dataset::open(&made.yaml).expect("readable");
    let report = check(&data, true, &|done, total| {
        seen.fetch_max(done, Ordering::Relaxed);
        total == 20
    })
    .expect("a report");
    assert!(
        report.problems.iter().all(|problem| problem.kind == "class-empty"),
        "{:?}",
        report.problems
    );
    assert_eq!((report.images, report.boxes, seen.into_inner()), (20, made.boxes, 20));
    assert_eq!(report.per_class, made.per_class);
    assert_eq!(
        report
            .splits
            .iter()
            .map(|part| (part.split, part.images))
            .collect::<Vec<_>>(),
        [("train", 14), ("val", 4), ("test", 2)]
    );
    assert_eq!(report.splits.iter().map(|part| part.boxes).sum::<usize>(), made.boxes);
    let stopped = check(&data, true, &|_, _| false).expect_err("it was stopped");
    assert!(matches!(stopped, Error::Stopped));
}

#[test]
fn each_problem_is_one_row_with_file_line_and_kind() {
    let dir = folder();
    for (number, name) in ["train/a", "train/b", "train/c", "val/d"].into_iter().enumerate() {
        put_picture(dir.path(), &format!("images/{name}.png"), number as u8);
    }
    // The same picture under another name, in both splits.
    put_picture(dir.path(), "images/val/e.png", 0);
    put(
        dir.path(),
        "images/train/cut.jpg",
        &crate::picture(9, 40, 30).to_jpeg(90).expect("a JPEG")[..300],
    );
    put(
        dir.path(),
        "labels/train/a.txt",
        "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n",
    );
    put(
        dir.path(),
        "labels/train/b.txt",
        "0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2\n",
    );
    put(dir.path(), "labels/train/orphan.txt", "0 0.5 0.5 0.2 0.2\n");
    put(dir.path(), "labels/train/classes.txt", "a\nb\n");
    let yaml = put(
        dir.path(),
        "data.yaml",
        "path: .\ntrain: images/train\nval: images/val\ntest: images/none\nnames: [a, b]\n",
    );
    let report = look(&yaml);
    assert_eq!(
        kinds(&report),
        [
            ("split-unusable", true),
            ("label-duplicate", false),
            ("label-class", true),
            ("image-unreadable", true),
            // No image of `val` has labels, which training refuses.
            ("split-unusable", true),
            ("label-missing", false),
            ("label-orphan", false),
            ("image-duplicate", false),
            ("split-overlap", false),
            ("class-empty", false),
        ],
        "{:#?}",
        report.problems
    );
    let at = |kind: &str| {
        report
            .problems
            .iter()
            .find(|p| p.kind == kind)
            .map(|p| (p.file.clone(), p.line))
            .expect(kind)
    };
    assert!(at("split-unusable").0.ends_with("data.yaml") && at("split-unusable").1 == 4);
    assert!(at("label-class").0.ends_with("labels/train/b.txt") && at("label-class").1 == 2);
    assert!(at("image-unreadable").0.ends_with("cut.jpg") && at("image-unreadable").1 == 0);
    assert!(at("split-overlap").0.ends_with("data.yaml") && at("split-overlap").1 == 3);
    assert_eq!(
        (report.images, report.boxes, report.per_class.clone(), report.fatal()),
        (4, 1, vec![1, 0], 4)
    );
    let json = serde_json::to_value(&report).expect("JSON");
    for key in ["images", "boxes", "problems"] {
        assert!(!json[key].is_null(), "{key}");
    }
    assert!(json["problems"][0]["file"].is_string() && json["problems"][0]["line"].is_u64());
}

#[test]
fn the_same_folder_for_two_splits_is_counted_once() {
    let dir = folder();
    put_picture(dir.path(), "images/a.png", 1);
    put(dir.path(), "labels/a.txt", "0 0.5 0.5 0.2 0.2\n");
    let yaml = put(dir.path(), "data.yaml", "train: images\nval: images\nnames: [a]\n");
    let report = look(&yaml);
    assert_eq!((report.images, report.boxes, report.splits.len()), (1, 1, 2));
    assert_eq!(kinds(&report), [("split-overlap", false)]);
    assert!(Dataset::open(&yaml).expect("readable").has(Split::Val));
}

#[test]
fn the_numbers_of_the_blood_cells_are_those_of_their_authors() {
    let Some(yaml) = crate::shared("data/bccd/bccd.yaml") else {
        return;
    };
    let report = look(&yaml);
    assert_eq!((report.images, report.boxes), (364, 4886));
    assert_eq!(report.per_class, [4153, 372, 361]);
    assert_eq!(
        report
            .splits
            .iter()
            .map(|part| (part.images, part.boxes))
            .collect::<Vec<_>>(),
        [(205, 2804), (87, 1137), (72, 945)]
    );
    assert_eq!(report.fatal(), 0, "{:?}", report.problems);
}
