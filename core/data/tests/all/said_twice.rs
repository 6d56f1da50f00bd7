//! What a data set says twice must be the same: names beside labels and in the YAML file, keys of other tools and the labels. And what
//! is no set of pictures is said to be none.

use std::path::{Path, PathBuf};

use yolo_data::check::{Report, check};
use yolo_data::labels::Problem;
use yolo_data::{Dataset, Image, Policy, Split};

use crate::{folder, put, put_picture};

/// Two splits of two images with a box of each class, and this end of the YAML file.
fn data_set(dir: &Path, more: &str) -> PathBuf {
    for (number, split) in [(1, "train"), (2, "train"), (3, "val"), (4, "val")] {
        put_picture(dir, &format!("images/{split}/{number}.png"), number);
        let rows = "0 0.3 0.3 0.2 0.2\n1 0.6 0.6 0.2 0.2\n";
        put(dir, &format!("labels/{split}/{number}.txt"), rows);
    }
    let yaml = format!("train: images/train\nval: images/val\nnames: [cat, dog]\n{more}");
    put(dir, "data.yaml", yaml)
}

fn look(yaml: &Path) -> Report {
    check(&Dataset::open(yaml).expect("readable"), true, &|_, _| true).expect("a report")
}

fn of_names(problems: &[Problem]) -> Vec<(&'static str, usize)> {
    let own = problems.iter().filter(|problem| problem.kind.starts_with("names-"));
    own.map(|problem| (problem.kind, problem.line)).collect()
}

#[test]
fn names_in_another_order_stop_every_reader_and_say_where() {
    for (name, list, line) in [
        ("labels/train/classes.txt", "dog\ncat\n", 1),
        ("labels/classes.txt", "person\ncat\ndog\n", 2),
        ("classes.txt", "\u{feff}DOG\r\nCat\r\n", 1),
        ("obj.names", "dog\ncat", 1),
        ("labels/_darknet.labels", "dog\ncat\nbird\n", 1),
    ] {
        let dir = folder();
        let yaml = data_set(dir.path(), "");
        put(dir.path(), name, list);
        let data = Dataset::open(&yaml).expect("the file itself is right");
        for policy in [Policy::Strict, Policy::Skip] {
            let error = data.samples(Split::Train, policy).expect_err(name).to_string();
            for words in [
                name,
                &format!(":{line}: class {}", line - 1),
                "data.yaml",
                "wrong names",
                "remove this list",
            ] {
                assert!(error.contains(words), "{name}: {error}");
            }
        }
        let report = look(&yaml);
        assert_eq!(
            of_names(&report.problems),
            [("names-order", line)],
            "{name}: {:?}",
            report.problems
        );
        assert!(report.fatal() == 1);
        // All as one class: their names are no matter.
        let mut merged = data.clone();
        merged.merge_classes();
        assert_eq!(
            merged
                .samples(Split::Train, Policy::Strict)
                .expect("one class")
                .items
                .len(),
            2
        );
    }
}

#[test]
fn names_that_can_be_meant_are_notes_and_equal_ones_nothing() {
    for (name, list, kinds) in [
        ("labels/train/classes.txt", "cat\ndog\n", &[][..]),
        ("labels/val/classes.txt", "cat\ndog\n\n", &[]),
        ("classes.txt", "Katze\nHund\n", &[("names-differ", 1)]),
        ("classes.txt", "cat\nHund\n", &[("names-differ", 2)]),
        ("labels/classes.txt", "cat\ndog\nbird\n", &[("names-differ", 2)]),
        ("labels/classes.txt", "cat\n", &[("names-differ", 1)]),
        ("labels/classes.txt", "\u{0}\u{1}", &[("names-unread", 0)]),
        // Nobody's list of these labels.
        ("other/classes.txt", "dog\ncat\n", &[]),
    ] {
        let dir = folder();
        let yaml = data_set(dir.path(), "");
        put(dir.path(), name, list);
        let report = look(&yaml);
        assert_eq!(of_names(&report.problems), kinds, "{name} {list:?}");
        assert_eq!(report.fatal(), 0, "{:?}", report.problems);
        let data = Dataset::open(&yaml).expect("readable");
        for split in [Split::Train, Split::Val] {
            assert_eq!(
                data.samples(split, Policy::Strict).expect("usable").items.len(),
                2,
                "{name}"
            );
        }
    }
}

#[test]
fn splits_that_count_in_different_orders_are_found() {
    let dir = folder();
    let yaml = data_set(dir.path(), "");
    put(dir.path(), "labels/train/classes.txt", "cat\ndog\n");
    put(dir.path(), "labels/val/classes.txt", "dog\ncat\n");
    let data = Dataset::open(&yaml).expect("readable");
    assert!(data.samples(Split::Train, Policy::Strict).is_ok());
    let error = data
        .samples(Split::Val, Policy::Skip)
        .expect_err("the other order")
        .to_string();
    assert!(error.contains("labels/val/classes.txt:1"), "{error}");
}

#[test]
fn keys_that_mean_other_labels_or_another_model_are_refused_with_the_way_out() {
    for (more, words) in [
        ("channels: 1\n", "gray pictures are read as RGB"),
        ("channels: 4\n", "three channels"),
        ("channels: rgb\n", "leave it out"),
        ("flip_idx: [1, 0]\n", "kpt_shape"),
        ("kpt_names: {0: [nose, tail]}\n", "kpt_shape"),
        ("skeleton: [[0, 1]]\n", "kpt_shape"),
        ("task: pose\n", "kpt_shape"),
        ("task: keypoints\n", "read as polygons"),
        ("task: classify\n", "no boxes"),
        ("num_classes: 3\n", "2 names"),
    ] {
        let dir = folder();
        let yaml = data_set(dir.path(), more);
        let error = Dataset::open(&yaml).expect_err(more).to_string();
        assert!(
            error.contains("data.yaml:4:") && error.contains(words),
            "{more}: {error}"
        );
        assert!(error.contains("help:"), "{error}");
    }
}

#[test]
fn keys_that_change_nothing_are_notes_once() {
    for (more, words) in [
        ("channels: 3\n", None),
        ("task: detect\nnum_classes: 2\n", None),
        ("flip_idx: [1, 0]\nkpt_shape: [2, 3]\ntask: pose\n", None),
        ("roboflow: {workspace: a, version: 1}\n", None),
        ("task: segment\n", Some("boxes around them")),
        ("task: obb\n", Some("upright boxes")),
        ("obb: true\n", Some("upright boxes")),
        ("task: depth\n", Some("used for nothing")),
        ("remap: {0: 1}\nsampler: x\n", Some("`remap`, `sampler`")),
    ] {
        let dir = folder();
        let report = look(&data_set(dir.path(), more));
        let own: Vec<&Problem> = report
            .problems
            .iter()
            .filter(|problem| problem.kind == "key-unused")
            .collect();
        assert_eq!(own.len(), usize::from(words.is_some()), "{more}: {own:?}");
        for problem in own {
            assert!(problem.line == 4 && !problem.fatal, "{problem}");
            assert!(words.is_some_and(|words| problem.message.contains(words)), "{problem}");
        }
    }
}

#[test]
fn sets_that_are_no_pictures_are_said_to_be_none() {
    let dir = folder();
    let yaml = data_set(dir.path(), "");
    let alike = |problems: &[Problem]| -> Vec<String> {
        let own = problems.iter().filter(|problem| problem.kind == "images-alike");
        own.map(|problem| problem.message.clone()).collect()
    };
    let of = |split| {
        Dataset::open(&yaml)
            .expect("readable")
            .samples(split, Policy::Skip)
            .expect("usable")
            .problems
    };
    assert!(alike(&of(Split::Train)).is_empty() && alike(&look(&yaml).problems).is_empty());
    for number in [3, 4] {
        let path = dir.path().join(format!("images/val/{number}.png"));
        Image::filled(40, 30, [0; 3]).save(&path).expect("written");
    }
    put_picture(dir.path(), "images/train/2.png", 1);
    for (split, words) in [
        (Split::Train, "all 2 images are the same picture"),
        (Split::Val, "all 2 images are black"),
    ] {
        let said = alike(&of(split));
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
        assert!(alike(&look(&yaml).problems).contains(&said[0]));
    }
    std::fs::remove_file(dir.path().join("images/val/4.png")).expect("removed");
    std::fs::remove_file(dir.path().join("labels/val/4.txt")).expect("removed");
    let said = alike(&of(Split::Val));
    assert!(said[0].contains("only one image, and it is black"), "{said:?}");
}

#[test]
fn a_split_whose_boxes_have_no_area_says_so() {
    for (split, other) in [("train", Split::Train), ("val", Split::Val)] {
        let dir = folder();
        let yaml = data_set(dir.path(), "");
        for number in [1, 2, 3, 4] {
            let path = dir.path().join(format!("labels/{split}/{number}.txt"));
            if path.exists() {
                std::fs::write(&path, "0 0.5 0.5 0 0.2\n1 0.5 0.5 0.2 0\n").expect("written");
            }
        }
        let data = Dataset::open(&yaml).expect("readable");
        let error = data.samples(other, Policy::Strict).expect_err(split).to_string();
        assert!(error.contains("no image of") && error.contains("no area"), "{error}");
        let report = look(&yaml);
        let fatal: Vec<String> = report
            .problems
            .iter()
            .filter(|p| p.fatal)
            .map(ToString::to_string)
            .collect();
        assert!(fatal.len() == 1 && fatal[0].contains("no area"), "{fatal:?}");
    }
}
