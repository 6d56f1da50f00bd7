//! COCO files that say two things of one object, or that their objects are not to be used.

use serde_json::{Value, json};
use yolo_data::convert::{BoxSource, Converted, Format, Keep, Settings};

use crate::convert_coco::{coco, convert_coco};
use crate::convert_odd::{boxes, fatal, is_near, run};
use crate::{folder, put, put_picture};

/// Corners around which a polygon goes.
fn polygon([x1, y1, x2, y2]: [f64; 4]) -> Value {
    json!([[x1, y1, x2, y1, x2, y2, x1, y2]])
}

fn convert(file: &Value, boxes: Option<BoxSource>) -> (tempfile::TempDir, yolo_data::Result<Converted>) {
    let dir = folder();
    for number in 1..=3 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    put(dir.path(), "annotations/instances_train.json", file.to_string());
    let settings = Settings {
        boxes,
        ..Settings::new(Format::Coco, dir.path())
    };
    let made = run(&settings, &dir.path().join("out"));
    (dir, made)
}

#[test]
fn a_box_and_polygons_at_different_places_are_refused_until_one_is_chosen() {
    for (bbox, around, hint) in [
        (
            [4.0, 3.0, 12.0, 9.0],
            [4.0, 3.0, 12.0, 9.0],
            "as x1 y1 x2 y2 they would be the same",
        ),
        (
            [8.0, 6.0, 8.0, 6.0],
            [4.0, 3.0, 12.0, 9.0],
            "as centre and size they would be the same",
        ),
        ([0.0, 0.0, 36.0, 28.0], [20.0, 20.0, 30.0, 28.0], "different places"),
        ([30.0, 20.0, 8.0, 6.0], [4.0, 3.0, 12.0, 9.0], "different places"),
    ] {
        let mut file = coco();
        file["annotations"][1]["bbox"] = json!(bbox);
        file["annotations"][1]["segmentation"] = polygon(around);
        let (_dir, made) = convert(&file, None);
        let made = made.expect("the others are good");
        assert_eq!((made.images, made.boxes), (2, 2), "{bbox:?}");
        let said = fatal(&made);
        assert!(said.len() == 1 && said[0].contains("annotation 2"), "{said:?}");
        assert!(
            said[0].contains(hint) && said[0].contains("--boxes polygon"),
            "{said:?}"
        );
        for (source, [x1, y1, x2, y2]) in [
            (
                BoxSource::Bbox,
                [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]],
            ),
            (BoxSource::Polygon, around),
        ] {
            let (_dir, made) = convert(&file, Some(source));
            let made = made.expect("good");
            assert_eq!((made.images, made.boxes, fatal(&made)), (3, 3, vec![]), "{source:?}");
            let wanted = [(x1 + x2) / 80.0, (y1 + y2) / 60.0, (x2 - x1) / 40.0, (y2 - y1) / 30.0].map(|v| v as f32);
            let near = |label: &[f32; 5]| is_near(label, [label[0], wanted[0], wanted[1], wanted[2], wanted[3]]);
            assert!(boxes(&made).iter().any(near), "{source:?} {:?}", boxes(&made));
        }
    }
    // Rounding, cut corners and several parts are no contradiction.
    for segmentation in [
        polygon([4.4, 3.2, 11.8, 8.9]),
        json!([[4, 3, 6, 3, 6, 5], [9, 6, 12, 6, 12, 9]]),
        json!({"counts": [1, 2], "size": [30, 40]}),
        json!([]),
        Value::Null,
    ] {
        let mut file = coco();
        file["annotations"][1]["segmentation"] = segmentation.clone();
        let (_dir, made) = convert(&file, None);
        let made = made.expect("good");
        assert_eq!((made.boxes, fatal(&made)), (3, vec![]), "{segmentation}");
    }
}

#[test]
fn shares_of_the_image_are_no_pixels() {
    for bbox in [
        [0.1, 0.1, 0.4, 0.3],
        [0.0, 0.0, 1.0, 1.0],
        [0.5, 0.25, 0.5, 0.75],
        [0.001, 0.2, 0.01, 0.02],
    ] {
        let mut file = coco();
        file["annotations"][1]["bbox"] = json!(bbox);
        let (_dir, made) = convert(&file, None);
        let made = made.expect("the others are good");
        let said = fatal(&made);
        assert_eq!((made.images, made.boxes, said.len()), (2, 2, 1), "{bbox:?}");
        assert!(
            said[0].contains("annotation 2") && said[0].contains("shares of the image"),
            "{said:?}"
        );
        // All of them: nothing is left, and the first says why.
        for row in 0..3 {
            file["annotations"][row]["bbox"] = json!(bbox);
        }
        let (_dir, made) = convert(&file, None);
        let error = made.expect_err("nothing is left").to_string();
        assert!(
            error.contains("no image can be used") && error.contains("shares of the image"),
            "{error}"
        );
    }
    // Small, and pixels all the same.
    for bbox in [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.5, 1.0], [38.5, 29.0, 0.9, 0.8]] {
        let mut file = coco();
        file["annotations"][1]["bbox"] = json!(bbox);
        let (_dir, made) = convert(&file, None);
        let made = made.expect("good");
        assert_eq!((made.boxes, fatal(&made)), (3, vec![]), "{bbox:?}");
    }
}

#[test]
fn objects_to_ignore_are_left_out_counted_and_can_be_kept() {
    for mark in [json!(1), json!(true), json!("1"), json!(1.0)] {
        let mut file = coco();
        file["annotations"][1]["ignore"] = mark.clone();
        let (_dir, made) = convert_coco(file.to_string(), Keep::default());
        let made = made.expect("good");
        assert_eq!(
            (made.images, made.boxes, made.dropped.get("ignored")),
            (3, 2, Some(&1)),
            "{mark}"
        );
        let bare = made.problems.iter().find(|problem| problem.kind == "only-left-out");
        assert!(
            bare.is_some_and(|note| note.message.contains("--keep-ignored")),
            "{:?}",
            made.problems
        );
        let keep = Keep {
            ignored: true,
            ..Keep::default()
        };
        let (_dir, made) = convert_coco(file.to_string(), keep);
        assert_eq!(made.expect("good").boxes, 3, "{mark}");
    }
    for none in [json!(0), json!(false), Value::Null] {
        let mut file = coco();
        file["annotations"][1]["ignore"] = none;
        let (_dir, made) = convert_coco(file.to_string(), Keep::default());
        assert_eq!(made.expect("good").boxes, 3);
    }
    let mut file = coco();
    file["annotations"][1]["ignore"] = json!("perhaps");
    let (_dir, made) = convert_coco(file.to_string(), Keep::default());
    let made = made.expect("the others are good");
    assert!(
        made.images == 2 && fatal(&made)[0].contains("`ignore`"),
        "{:?}",
        fatal(&made)
    );
}

/// CVAT writes a turned box as it was before it was turned.
#[test]
fn turned_boxes_become_the_upright_ones_around_them() {
    // Of 8 x 6 pixels at 4, 3: the same centre, 8, 6.
    for (rotation, half) in [
        (json!(0.0), [4.0, 3.0]),
        (json!(180), [4.0, 3.0]),
        (json!(90), [3.0, 4.0]),
        (json!("270.0"), [3.0, 4.0]),
        (json!(45.0), [4.949_747, 4.949_747]),
        (json!(330), [4.964_102, 4.598_076]),
    ] {
        let wanted = [8.0 / 40.0, 6.0 / 30.0, 2.0 * half[0] / 40.0, 2.0 * half[1] / 30.0];
        let turned = half != [4.0, 3.0];
        let mut file = coco();
        file["annotations"][1]["attributes"] = json!({"occluded": false, "rotation": rotation});
        let (_dir, made) = convert(&file, None);
        let voc = folder();
        put_picture(voc.path(), "JPEGImages/x.png", 2);
        let attribute = format!(
            "<attributes><attribute><name>rotation</name><value>{}</value></attribute></attributes>",
            rotation.to_string().replace('"', "")
        );
        put(
            voc.path(),
            "Annotations/x.xml",
            crate::convert_odd::voc(&format!("{}{attribute}", crate::convert_odd::BOX), ""),
        );
        let settings = Settings {
            val_share: 0.0,
            ..Settings::new(Format::Voc, voc.path())
        };
        for made in [made, run(&settings, &voc.path().join("out"))] {
            let made = made.expect("good");
            assert_eq!(fatal(&made), Vec::<String>::new());
            let near = |label: &[f32; 5]| (1..5).all(|at| (f64::from(label[at]) - wanted[at - 1]).abs() < 1e-5);
            assert!(boxes(&made).iter().any(near), "{rotation}: {:?}", boxes(&made));
            let notes = made
                .problems
                .iter()
                .filter(|problem| problem.message.contains("turned"));
            assert_eq!(notes.count(), usize::from(turned), "{:?}", made.problems);
        }
    }
    let mut file = coco();
    file["annotations"][1]["attributes"] = json!({"rotation": "left"});
    let (_dir, made) = convert(&file, None);
    assert!(fatal(&made.expect("the others are good"))[0].contains("`rotation` is \"left\""));
}

#[test]
fn images_of_which_not_all_is_marked_are_counted() {
    let mut file = coco();
    for row in 0..2 {
        file["images"][row]["not_exhaustive_category_ids"] = json!([1]);
    }
    file["images"][2]["not_exhaustive_category_ids"] = json!([]);
    let (_dir, made) = convert_coco(file.to_string(), Keep::default());
    let made = made.expect("good");
    let own: Vec<&str> = (made
        .problems
        .iter()
        .filter(|problem| problem.kind == "objects-unmarked"))
    .map(|problem| problem.message.as_str())
    .collect();
    assert!(own.len() == 1 && own[0].starts_with("2 images"), "{own:?}");
    assert_eq!(made.boxes, 3);
}

#[test]
fn a_source_without_a_usable_box_says_why_and_makes_nothing() {
    for bbox in [json!([4, 3, 0, 0]), json!([4, 3, 8, 0]), json!([400, 300, 8, 6])] {
        let mut file = coco();
        for row in 0..3 {
            file["annotations"][row]["bbox"] = bbox.clone();
        }
        let (dir, made) = convert_coco(file.to_string(), Keep::default());
        let error = made.expect_err("nothing is left").to_string();
        assert!(
            error.contains("no image can be used: ") && error.contains("annotation 1"),
            "{error}"
        );
        assert!(!dir.path().join("out").exists());
    }
}

#[test]
fn a_share_for_validation_where_the_source_has_splits_is_said_to_change_nothing() {
    let dir = folder();
    for number in 1..=3 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    for (name, share, noted) in [
        ("instances_train", 0.4, true),
        ("instances_val", 0.0, true),
        ("instances_train", Settings::VAL_SHARE, false),
        ("objects", 0.4, false),
        ("objects", 0.0, false),
    ] {
        let file = put(dir.path(), &format!("annotations/{name}.json"), coco().to_string());
        let settings = Settings {
            val_share: share,
            ..Settings::new(Format::Coco, &file)
        };
        let out = folder();
        let made = run(&settings, &out.path().join("out")).expect("good");
        let own = made.problems.iter().filter(|problem| problem.kind == "setting-unused");
        assert_eq!(own.count(), usize::from(noted), "{name} {share}: {:?}", made.problems);
    }
}

#[test]
fn a_drawn_split_that_ends_with_nothing_is_an_error() {
    let dir = folder();
    for number in 1..=3 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    for bbox in [json!([4, 3, 0, 0]), json!([400, 300, 8, 6]), json!([4, 3])] {
        let mut file = coco();
        for row in 1..3 {
            file["annotations"][row]["bbox"] = bbox.clone();
        }
        put(dir.path(), "objects.json", file.to_string());
        for (share, told) in [(Settings::VAL_SHARE, true), (0.0, false)] {
            let settings = Settings {
                val_share: share,
                ..Settings::new(Format::Coco, &dir.path().join("objects.json"))
            };
            let out = folder();
            let made = run(&settings, &out.path().join("out")).expect("one is left");
            let own = made
                .problems
                .iter()
                .filter(|problem| problem.kind == "split-empty" && problem.fatal);
            assert_eq!(
                (made.images, own.count()),
                (1, usize::from(told)),
                "{bbox} {share}: {:?}",
                made.problems
            );
        }
    }
}

#[test]
fn classes_that_are_asked_for_in_vain_are_named() {
    let dir = folder();
    for number in 1..=3 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    let mut file = coco();
    file["categories"] = json!([{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}]);
    put(dir.path(), "annotations/instances_train.json", file.to_string());
    for (names, said) in [
        (&["cell", "platelet"][..], &[][..]),
        (&["platelet", "cell", "revolved"], &["`revolved`"]),
        (
            &["cell", "platlet"],
            &["`platlet`, which was asked for; did you mean `platelet`?"],
        ),
        (&["x", "cell", "y", "platelet"], &["`x`", "`y`"]),
    ] {
        let settings = Settings {
            names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            ..Settings::new(Format::Coco, dir.path())
        };
        let out = folder();
        let made = run(&settings, &out.path().join("out")).expect("some are there");
        let own: Vec<&str> = (made.problems.iter().filter(|problem| problem.kind == "class-empty"))
            .map(|problem| problem.message.as_str())
            .collect();
        assert_eq!(own.len(), said.len(), "{names:?}: {own:?}");
        assert!(own.iter().zip(said).all(|(own, said)| own.contains(said)), "{own:?}");
    }
}

#[test]
fn what_a_coco_file_says_beside_the_format_is_said_to_be_unread() {
    let notes = |file: &Value, kind: &str| -> Vec<String> {
        let made = convert_coco(file.to_string(), Keep::default()).1.expect("good");
        assert!(fatal(&made).is_empty(), "{:?}", made.problems);
        let of_kind = made.problems.iter().filter(|problem| problem.kind == kind);
        of_kind.map(ToString::to_string).collect()
    };
    // The second picture of three is in no record.
    let mut file = coco();
    file["images"].as_array_mut().expect("images").remove(1);
    file["annotations"].as_array_mut().expect("objects").remove(1);
    let said = notes(&file, "annotation-missing");
    assert!(
        said.len() == 1 && said[0].contains("2.png: 1 images are in no file"),
        "{said:?}"
    );
    assert_eq!(notes(&coco(), "annotation-missing"), [""; 0]);
    // Corners, which `area` shows.
    let mut file = coco();
    for object in file["annotations"].as_array_mut().expect("objects") {
        object["area"] = json!((8 - 4) * (6 - 3));
    }
    let said = notes(&file, "size-mismatch");
    assert!(said.len() == 1 && said[0].contains("x1 y1 x2 y2"), "{said:?}");
    for object in file["annotations"].as_array_mut().expect("objects") {
        object["area"] = json!(8 * 6);
    }
    assert_eq!(notes(&file, "size-mismatch"), [""; 0]);
}

#[test]
fn splits_inside_of_coco_records_are_said_to_be_unread() {
    let dir = folder();
    for number in 1..=3 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    let mut file = coco();
    file["images"][0]["split"] = json!("val");
    put(dir.path(), "all.json", file.to_string());
    let made = run(&Settings::new(Format::Coco, dir.path()), &dir.path().join("out")).expect("good");
    let said: Vec<String> = made.problems.iter().map(ToString::to_string).collect();
    assert!(
        said.iter()
            .any(|text| text.contains("1 images say what they are for (`split`)")),
        "{said:?}"
    );
}
