//! What would make background of labelled images, or use them twice, is said or refused.

use std::path::Path;

use serde_json::{Value, json};
use yolo_data::check::{Report, check};
use yolo_data::convert::{Converted, Format, Keep, Settings};
use yolo_data::labels::Problem;
use yolo_data::{Dataset, Policy, Split};

use crate::convert_coco::{coco, convert_coco};
use crate::convert_odd::{BOX, fatal, run};
use crate::{folder, put, put_picture};

const ROW: &str = "0 0.5 0.5 0.5 0.5";

pub fn of_kind<'a>(problems: &'a [Problem], kind: &str) -> Vec<&'a Problem> {
    problems.iter().filter(|problem| problem.kind == kind).collect()
}

fn texts(problems: &[Problem], kind: &str) -> Vec<String> {
    of_kind(problems, kind).iter().map(ToString::to_string).collect()
}

fn look(yaml: &Path) -> Report {
    check(&Dataset::open(yaml).expect("readable"), true, &|_, _| true).expect("a report")
}

#[test]
fn an_image_of_two_coco_files_is_refused_by_both_names() {
    let dir = folder();
    for number in 1..=4 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    put(dir.path(), "a.json", coco().to_string());
    put(dir.path(), "b.json", coco().to_string());
    let settings = Settings::new(Format::Coco, dir.path());
    let out = dir.path().join("out");
    let error = run(&settings, &out).expect_err("the same images").to_string();
    for words in ["a.json", "b.json", "3 images", "1.png", "convert one of"] {
        assert!(error.contains(words), "{error}");
    }
    assert!(!out.exists());
    // Files of other images go together.
    let mut other = coco();
    other["images"] = json!([{"id": 1, "file_name": "4.png"}]);
    other["annotations"] = json!([{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 3, 8, 6]}]);
    put(dir.path(), "b.json", other.to_string());
    let made = run(&settings, &out).expect("good");
    assert_eq!((made.images, made.boxes, fatal(&made)), (4, 4, vec![]));
}

/// Two images: a usual one, and one whose XML file holds `inside`.
fn convert_voc(inside: &str, incomplete: bool) -> Converted {
    let dir = folder();
    for (number, inside) in [
        (1, format!("<object><name>dog</name>{BOX}</object>")),
        (2, inside.to_owned()),
    ] {
        put_picture(dir.path(), &format!("JPEGImages/{number}.png"), number);
        let text = format!("<annotation>\n{inside}</annotation>");
        put(dir.path(), &format!("Annotations/{number}.xml"), text);
    }
    let mut settings = Settings::new(Format::Voc, dir.path());
    settings.keep.incomplete = incomplete;
    settings.val_share = 0.0;
    run(&settings, &dir.path().join("out")).expect("the first is good")
}

#[test]
fn objects_of_voc_are_found_or_their_tag_is_named() {
    let object = |tag: &str| format!("<{tag}><name>dog</name>{BOX}</{tag}>");
    for inside in [
        object("Object"),
        format!("<objects>{}</objects>", object("object")),
        format!("<Objects>{}</Objects>", object("OBJECT")),
        object("object")
            .replace("bndbox", "BndBox")
            .replace("name", "Name")
            .replace("xmin", "XMin"),
    ] {
        let made = convert_voc(&inside, false);
        assert_eq!((made.images, made.boxes, fatal(&made)), (2, 2, vec![]), "{inside}");
    }
    for (inside, tag) in [
        (object("item"), "<item>"),
        (format!("<objects>{}</objects>", object("thing")), "<thing>"),
        (format!("<items>{}</items>", object("object")), "<items>"),
    ] {
        let made = convert_voc(&inside, false);
        let said = fatal(&made);
        assert_eq!((made.images, made.boxes, said.len()), (1, 1, 1), "{inside}");
        assert!(said[0].contains("2.xml:2: ") && said[0].contains(tag), "{said:?}");
        assert_eq!(convert_voc(&inside, true).images, 2);
    }
    // The owner has a name and no box.
    let made = convert_voc("<owner><name>x</name></owner>", false);
    assert_eq!((made.images, made.boxes, fatal(&made)), (2, 1, vec![]));
}

#[test]
fn an_image_whose_objects_are_lost_is_no_background() {
    // Four numbers that the file itself says are something else.
    let mut file = coco();
    file["annotations"][0]["bbox_mode"] = json!(1);
    file["annotations"][1]["bbox_mode"] = json!(0);
    let made = convert_coco(file.to_string(), Keep::default()).1.expect("good");
    assert_eq!(made.images, 2);
    assert!(
        fatal(&made).iter().any(|said| said.contains("`bbox_mode` is 0")),
        "{:?}",
        fatal(&made)
    );
    for bbox in [json!([4, 3, 0, 0]), json!([100, 3, 8, 6])] {
        for (incomplete, images) in [(false, 2), (true, 3)] {
            let mut file = coco();
            file["annotations"][1]["bbox"] = bbox.clone();
            let keep = Keep {
                incomplete,
                ..Keep::default()
            };
            let made = convert_coco(file.to_string(), keep).1.expect("good");
            assert_eq!((made.images, made.boxes, fatal(&made)), (images, 2, vec![]), "{bbox}");
            let left: Vec<&Problem> = of_kind(&made.problems, "image-left-out");
            assert_eq!(left.len(), 3 - images);
            assert!(left.iter().all(|note| note.message.contains("2.png")), "{left:?}");
        }
        // With another object it stays.
        let mut file = coco();
        let rows = file["annotations"].as_array_mut().expect("a list");
        rows.push(json!({"id": 9, "image_id": 2, "category_id": 1, "bbox": bbox}));
        let made = convert_coco(file.to_string(), Keep::default()).1.expect("good");
        assert_eq!((made.images, made.boxes), (3, 3));
    }
}

#[test]
fn classes_of_one_split_are_named() {
    let dir = folder();
    for (number, class) in [(1, 0), (2, 1), (3, 2)] {
        for split in ["train", "val"] {
            put_picture(dir.path(), &format!("images/{split}/{number}.png"), number);
            // `b` is in `val` alone, `c` in `train` alone.
            let there = class == 0 || (class == 1) == (split == "val");
            let row = if there {
                format!("{class} 0.5 0.5 0.5 0.5\n")
            } else {
                String::new()
            };
            put(dir.path(), &format!("labels/{split}/{number}.txt"), row);
        }
    }
    let text = "path: .\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n";
    let said = texts(&look(&put(dir.path(), "data.yaml", text)).problems, "class-one-split");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("none in `train`: `b`;") && said[1].contains("none in `val`: `c`;"),
        "{said:?}"
    );
    // Both splits from one folder have the same classes.
    let text = "path: .\ntrain: images/train\nval: images/train\nnames: [a, b, c]\n";
    assert!(texts(&look(&put(dir.path(), "data.yaml", text)).problems, "class-one-split").is_empty());
}

#[test]
fn boxes_that_reach_far_out_are_counted() {
    let cut = |change: fn(&mut Value)| {
        let mut file = coco();
        change(&mut file);
        let made = convert_coco(file.to_string(), Keep::default()).1.expect("good");
        assert_eq!((made.images, made.boxes, fatal(&made)), (3, 3, vec![]));
        let notes = of_kind(&made.problems, "box-cut");
        notes.iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    // Rounding, and a box that was drawn a little over the edge.
    assert_eq!(
        cut(|file| file["annotations"][1]["bbox"] = json!([-2, 3, 44, 6])),
        [""; 0]
    );
    // Corners where a width and a height are meant.
    let said = cut(|file| {
        file["annotations"][1]["bbox"] = json!([20, 15, 38, 28]);
        file["annotations"][2]["bbox"] = json!([10, 15, 38, 28]);
    });
    let [note] = &said[..] else { panic!("{said:?}") };
    for words in [
        "instances_train.json: 2 boxes",
        "annotation 2",
        "20,15 to 58,43",
        "40 x 30",
        "x1 y1 x2 y2",
    ] {
        assert!(note.contains(words), "{note}");
    }
}

#[test]
fn a_path_that_is_not_there_is_said() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    put(dir.path(), "labels/1.txt", ROW);
    for (path, words) in [
        ("nothere", "`path` nothere does not exist; `train` is taken from"),
        ("/no/such/place", "`path` /no/such/place does not exist"),
        ("~/nothere", "`~` is not replaced"),
        ("C:\\data", "`path` C:\\data does not exist"),
        (".", ""),
    ] {
        let text = format!("path: {path}\ntrain: images\nval: images\nnames: [a]\n");
        let yaml = put(dir.path(), "data.yaml", text);
        let samples = Dataset::open(&yaml)
            .and_then(|data| data.samples(Split::Train, Policy::Strict))
            .expect("good");
        let report = look(&yaml);
        let notes = [
            of_kind(&samples.problems, "path-missing"),
            of_kind(&report.problems, "path-missing"),
        ];
        let counts = notes.each_ref().map(Vec::len);
        assert_eq!(
            (counts, report.fatal()),
            (if words.is_empty() { [0, 0] } else { [1, 2] }, 0),
            "{path}"
        );
        for note in notes.into_iter().flatten() {
            assert!(note.file.ends_with("data.yaml") && note.line == 1, "{note}");
            assert!(note.message.contains(words.split(';').next().expect("words")), "{note}");
            assert!(
                note.message.contains(&dir.path().join("images").display().to_string()),
                "{note}"
            );
        }
    }
    // An absolute place needs no `path`.
    let images = dir.path().join("images");
    let text = format!("path: nothere\ntrain: {0}\nval: {0}\nnames: [a]\n", images.display());
    assert!(of_kind(&look(&put(dir.path(), "data.yaml", text)).problems, "path-missing").is_empty());
}

#[test]
fn images_without_a_label_file_are_counted_and_strays_named() {
    // The image without labels, the file that may be meant, and whether it is named.
    for (image, stray, named) in [
        ("images/b.png", "labels/b.TXT", true),
        ("images/b.png", "labels/B.txt", true),
        ("images/sub/b.png", "labels/b.txt", true),
        ("images/b\u{e9}.png", "labels/be\u{301}.txt", true),
        ("images/b.png", "images/b.json", true),
        ("images/b.png", "labels/b.xml", true),
        ("images/b.png", "images/b.txt", true),
        ("images/b.png", "labels/classes.txt", false),
        ("images/b.png", "images/list.txt", false),
    ] {
        let dir = folder();
        put_picture(dir.path(), "images/a.png", 1);
        put(dir.path(), "labels/a.txt", ROW);
        // An empty file says that there is nothing.
        put_picture(dir.path(), "images/c.png", 2);
        put(dir.path(), "labels/c.txt", "");
        put_picture(dir.path(), image, 3);
        let stray = put(dir.path(), stray, ROW);
        let yaml = put(dir.path(), "data.yaml", "train: images\nval: images\nnames: [a]\n");
        let samples = Dataset::open(&yaml)
            .and_then(|data| data.samples(Split::Train, Policy::Strict))
            .expect("good");
        let report = look(&yaml);
        let notes = of_kind(&report.problems, "label-missing");
        assert_eq!((notes.len(), report.fatal()), (2, 0), "{:?}", report.problems);
        for orphan in of_kind(&report.problems, "label-orphan") {
            let capitals = orphan.file.ends_with("TXT");
            assert_eq!(orphan.message.contains("small letters"), capitals, "{orphan}");
        }
        let [note] = of_kind(&samples.problems, "label-missing")[..] else {
            panic!("{:?}", samples.problems);
        };
        assert!(notes.contains(&note) && note.line == 1, "{note}");
        assert!(
            note.message.starts_with("1 of 3 images of `train` have no label file"),
            "{note}"
        );
        assert!(note.message.contains(image), "{note}");
        assert_eq!(note.message.contains(&stray.display().to_string()), named, "{note}");
    }
}

#[test]
fn the_check_refuses_a_data_set_without_validation() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    put(dir.path(), "labels/1.txt", ROW);
    for (there, missing) in [("train", "val"), ("val", "train")] {
        let yaml = put(dir.path(), "data.yaml", format!("{there}: images\nnames: [a]\n"));
        let report = look(&yaml);
        let refused: Vec<&Problem> = report.problems.iter().filter(|problem| problem.fatal).collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0].message.contains(&format!("names no `{missing}` images")),
            "{refused:?}"
        );
    }
}

#[test]
fn images_of_two_places_of_a_split_are_said() {
    let dir = folder();
    put_picture(dir.path(), "images/1.png", 1);
    put(dir.path(), "labels/1.txt", ROW);
    let said = |train: &str| {
        let yaml = put(dir.path(), "data.yaml", format!("train: {train}\nnames: [a]\n"));
        let samples = Dataset::open(&yaml)
            .and_then(|data| data.samples(Split::Train, Policy::Strict))
            .expect("good");
        let notes = of_kind(&samples.problems, "image-listed-twice");
        assert_eq!(samples.items.len(), 1 + notes.len());
        notes.iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    assert!(said("images").is_empty());
    let twice = said("[images, images]");
    assert!(
        twice.len() == 1 && twice[0].contains("data.yaml:1: 1 image is listed more than once"),
        "{twice:?}"
    );
}

#[test]
fn objects_that_were_deleted_in_labelme_are_not_taught() {
    let object = |name: &str, mark: &str| format!("<object><name>{name}</name><deleted>{mark}</deleted>{BOX}</object>");
    let kept = convert_voc(&object("cell", "0"), false);
    assert_eq!((kept.boxes, kept.names.len()), (2, 2));
    for mark in ["1", "true"] {
        let made = convert_voc(
            &(object("dog", "0") + &object("mistake", mark) + &object("dog", mark)),
            false,
        );
        assert_eq!((made.images, made.boxes, fatal(&made)), (2, 2, vec![]));
        assert_eq!(made.names, ["dog"], "what only a deleted object had is no class");
        let said: Vec<&Problem> = of_kind(&made.problems, "object-deleted");
        assert!(said.len() == 1 && said[0].to_string().contains("2 objects"), "{said:?}");
    }
}

#[test]
fn names_that_differ_in_capitals_alone_are_said() {
    let object = |name: &str| format!("<object><name>{name}</name>{BOX}</object>");
    for (name, said) in [("Dog", 1), ("DOG", 1), ("dog", 0), ("dogs", 0)] {
        let made = convert_voc(&object(name), false);
        let notes: Vec<&Problem> = of_kind(&made.problems, "names-alike");
        assert_eq!(notes.len(), said, "{name}: {:?}", made.problems);
    }
}

#[test]
fn what_voc_says_twice_in_different_ways_is_said() {
    let dir = folder();
    for number in 1..=6 {
        put_picture(dir.path(), &format!("JPEGImages/{number}.png"), number);
        // The first two are swapped; the third is called as another machine called it.
        let named = ["2.png", "1.png", "IMG_7.JPG"]
            .get(usize::from(number) - 1)
            .map_or(format!("{number}.png"), |name| (*name).to_owned());
        let text =
            format!("<annotation>\n<filename>{named}</filename><object><name>dog</name>{BOX}</object></annotation>");
        put(dir.path(), &format!("Annotations/{number}.xml"), text);
    }
    put(dir.path(), "ImageSets/Main/dog_train.txt", "1 1\n2 -1\n");
    let made = run(&Settings::new(Format::Voc, dir.path()), &dir.path().join("out")).expect("good");
    let clashes = texts(&made.problems, "name-clash");
    assert!(
        clashes.len() == 2 && clashes[0].contains("1.xml: its <filename> is that of another image that is there, `2`"),
        "{clashes:?}"
    );
    let drawn = texts(&made.problems, "image-without-split");
    assert!(
        drawn.len() == 1 && drawn[0].contains("dog_train.txt: lists of single classes are not read"),
        "{drawn:?}"
    );
}

#[test]
fn labels_with_corners_for_centres_are_said() {
    let dir = folder();
    for (number, row) in [(1, ROW), (2, "0 0.9 0.5 0.9 0.9"), (3, "0 0.97 0.5 0.061 0.2")] {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
        put(dir.path(), &format!("labels/{number}.txt"), row);
    }
    let yaml = put(dir.path(), "data.yaml", "names: [a]\ntrain: images\nval: images\n");
    let report = look(&yaml);
    let said = texts(&report.problems, "box-cut");
    assert!(
        !said.is_empty() && said.iter().all(|text| text.contains("2.txt:1: a good part of the box")),
        "{said:?}"
    );
}
