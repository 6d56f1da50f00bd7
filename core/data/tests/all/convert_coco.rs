//! COCO files as tools and people really write them.

use std::path::Path;

use serde_json::{Value, json};
use yolo_data::convert::{Converted, Format, Keep, Settings};
use yolo_data::{Dataset, Policy, Split};

use crate::convert_odd::{boxes, fatal, is_near, run};
use crate::{folder, put, put_picture};

/// Three images with a box each; the second annotation is changed.
pub fn coco() -> Value {
    let images: Vec<Value> = (1..=3)
        .map(|id| json!({"id": id, "file_name": format!("{id}.png"), "width": 40, "height": 30}))
        .collect();
    let annotations: Vec<Value> = (1..=3)
        .map(|id| json!({"id": id, "image_id": id, "category_id": 1 + id % 2, "bbox": [4, 3, 8, 6], "iscrowd": 0}))
        .collect();
    json!({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]})
}

/// Converts a COCO file; with what it says.
pub fn convert_coco(text: impl AsRef<[u8]>, keep: Keep) -> (tempfile::TempDir, yolo_data::Result<Converted>) {
    let dir = folder();
    for number in 1..=3 {
        put_picture(dir.path(), &format!("images/{number}.png"), number);
    }
    put(dir.path(), "annotations/instances_train.json", text);
    let settings = Settings {
        keep,
        ..Settings::new(Format::Coco, dir.path())
    };
    let made = run(&settings, &dir.path().join("out"));
    (dir, made)
}

#[test]
fn values_of_other_types_mean_what_they_say() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 10] = [
        ("text for numbers", |file| {
            file["annotations"][1]["bbox"] = json!(["4", "3.0", " 8 ", "6"])
        }),
        ("ids as text", |file| file["images"][1]["id"] = json!("2")),
        ("ids as floats", |file| file["annotations"][1]["image_id"] = json!(2.0)),
        ("a truth value", |file| file["annotations"][1]["iscrowd"] = json!(false)),
        ("null", |file| file["annotations"][1]["iscrowd"] = Value::Null),
        ("no size", |file| file["images"][1]["width"] = Value::Null),
        ("a size of 0", |file| file["images"][1]["height"] = json!(0)),
        ("a path of Windows", |file| {
            file["images"][1]["file_name"] = json!("D:\\shots\\images\\2.png")
        }),
        ("a path of Unix", |file| {
            file["images"][1]["file_name"] = json!("/home/x/images/2.png")
        }),
        ("no id", |file| {
            drop(file["annotations"][1].as_object_mut().and_then(|row| row.remove("id")))
        }),
    ];
    for (name, change) in changes {
        let mut file = coco();
        change(&mut file);
        let (_dir, made) = convert_coco(file.to_string(), Keep::default());
        let made = made.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((made.images, made.boxes, fatal(&made)), (3, 3, vec![]), "{name}");
        assert!(
            boxes(&made)
                .iter()
                .all(|label| is_near(label, [label[0], 0.2, 0.2, 0.2, 0.2])),
            "{name}"
        );
    }
    for text in [format!("\u{feff}{}", coco()).into_bytes(), {
        let units = [0xfeff]
            .into_iter()
            .chain(coco().to_string().encode_utf16().collect::<Vec<_>>());
        units.flat_map(u16::to_le_bytes).collect()
    }] {
        assert_eq!(convert_coco(text, Keep::default()).1.expect("good").boxes, 3);
    }
}

#[test]
fn an_object_that_can_t_be_read_takes_its_image_out_and_nothing_else() {
    let text = coco().to_string();
    let second = r#"{"id":2,"image_id":2,"category_id":1,"bbox":[4,3,8,6],"iscrowd":0}"#;
    assert!(text.contains(second), "{text}");
    for (row, words) in [
        (
            r#"{"id":2,"image_id":2,"category_id":1,"bbox":[4,NaN,8,6]}"#,
            "annotation 2 (2.png): `bbox`",
        ),
        (
            r#"{"id":2,"image_id":2,"category_id":1,"bbox":[4,3,-Infinity,6]}"#,
            "annotation 2 (2.png): `bbox`",
        ),
        (
            r#"{"id":2,"image_id":2,"category_id":1,"bbox":[4,3,8]}"#,
            "`bbox` is not four numbers but [4,3,8]",
        ),
        (r#"{"id":2,"image_id":2,"category_id":1,"bbox":{"x":4}}"#, "`bbox`"),
        (r#"{"id":2,"image_id":2,"category_id":1}"#, "no `bbox`"),
        (
            r#"{"id":2,"image_id":2,"category_id":1,"bbox":null,"segmentation":{"counts":"x"}}"#,
            "no list of polygons",
        ),
        (r#"{"id":2,"image_id":2,"category_id":1,"bbox":[4,3,-8,6]}"#, "negative"),
        (
            r#"{"id":2,"image_id":2,"category_id":-1,"bbox":[4,3,8,6]}"#,
            "`category_id` -1",
        ),
        (r#"{"id":2,"image_id":2,"bbox":[4,3,8,6]}"#, "`category_id` null"),
        (
            r#"{"id":2,"image_id":2,"category_id":1,"bbox":[4,3,8,6],"iscrowd":"?"}"#,
            "`iscrowd`",
        ),
    ] {
        let odd = text.replace(second, row);
        let (_dir, made) = convert_coco(&odd, Keep::default());
        let made = made.unwrap_or_else(|error| panic!("{row}: {error}"));
        let said = fatal(&made);
        assert_eq!((made.images, made.boxes, said.len()), (2, 2, 1), "{row}: {said:?}");
        assert!(
            said[0].contains("instances_train.json: ") && said[0].contains(words),
            "{row}: {said:?}"
        );
        assert!(
            made.problems
                .iter()
                .any(|p| p.kind == "image-left-out" && p.message.contains("2.png")),
            "{row}"
        );
        // Kept on purpose, as background.
        let keep = Keep {
            incomplete: true,
            ..Keep::default()
        };
        let kept = convert_coco(&odd, keep).1.expect("good");
        assert_eq!((kept.images, kept.boxes, fatal(&kept).len()), (3, 2, 1), "{row}");
    }
    // Records that are none.
    for (from, to) in [
        (second, "7"),
        (second, "null"),
        (r#"{"id":2,"file_name":"2.png","width":40,"height":30}"#, "[]"),
        (r#""file_name":"2.png""#, r#""file_name":null"#),
        (r#""file_name":"2.png""#, r#""file_name":"gone.png""#),
        (r#""id":2,"image_id":2"#, r#""id":2,"image_id":null"#),
    ] {
        let odd = text.replace(from, to);
        assert_ne!(odd, text);
        let made = convert_coco(&odd, Keep::default())
            .1
            .unwrap_or_else(|error| panic!("{to}: {error}"));
        assert!(!fatal(&made).is_empty() && made.boxes == 2, "{to}: {:?}", made.problems);
    }
}

#[test]
fn polygons_give_boxes_where_there_are_none() {
    let mut file = coco();
    for row in file["annotations"].as_array_mut().expect("rows") {
        let row = row.as_object_mut().expect("a row");
        row.remove("bbox");
        row.insert("segmentation".into(), json!([[4, 3, 12, 3, 12, 9], [6, 4, 7, 4, 7, 5]]));
    }
    let (_dir, made) = convert_coco(file.to_string(), Keep::default());
    let made = made.expect("good");
    assert_eq!((made.boxes, fatal(&made)), (3, vec![]));
    assert!(
        boxes(&made)
            .iter()
            .all(|label| is_near(label, [label[0], 0.2, 0.2, 0.2, 0.2]))
    );
    assert_eq!(
        made.problems.iter().filter(|p| p.kind == "annotation-polygon").count(),
        3
    );
}

#[test]
fn what_claims_one_name_is_named_with_both() {
    for (categories, words) in [
        (
            json!([{"id": 1, "name": "cell"}, {"id": 2, "name": "cell"}]),
            &["`cell`", "1 and 2"][..],
        ),
        (
            json!([{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]),
            &["id 1", "`a` and `b`"],
        ),
    ] {
        let mut file = coco();
        file["categories"] = categories;
        let (dir, made) = convert_coco(file.to_string(), Keep::default());
        let error = made.expect_err("a clash").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!dir.path().join("out").exists());
    }
    for (index, key, value, words) in [
        (1, "id", json!(1), ["1.png", "2.png"]),
        (1, "file_name", json!("1.png"), ["id 1", "and 2"]),
    ] {
        let mut file = coco();
        file["images"][index][key] = value;
        let made = convert_coco(file.to_string(), Keep::default()).1.expect("the rest");
        let said = fatal(&made);
        assert!(words.iter().all(|word| said[0].contains(word)), "{said:?}");
        assert_eq!((made.images, made.boxes), (1, 1), "{said:?}");
    }
}

#[test]
fn a_file_that_is_not_whole_says_what_is_missing() {
    for (key, words) in [
        ("annotations", "it has no `annotations` (a list of images for a test?"),
        ("images", "it has no `images`"),
        ("categories", "it has no `categories`"),
    ] {
        let mut file = coco();
        file.as_object_mut().expect("a file").remove(key);
        let error = convert_coco(file.to_string(), Keep::default())
            .1
            .expect_err(key)
            .to_string();
        assert!(
            error.contains("instances_train.json") && error.contains(words),
            "{error}"
        );
    }
    // What a detector found is a list.
    let found = r#"[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]"#;
    for text in [found.to_owned(), format!("\n {found}"), "[]".to_owned()] {
        let error = convert_coco(text, Keep::default()).1.expect_err("a list").to_string();
        assert!(
            error.contains("instances_train.json") && error.contains("--save-json"),
            "{error}"
        );
    }
    // Beside good ones it is one problem.
    let (dir, made) = convert_coco(coco().to_string(), Keep::default());
    made.expect("good");
    put(dir.path(), "annotations/instances_val.json", "{\"images\": []}");
    let made = run(&Settings::new(Format::Coco, dir.path()), &dir.path().join("two")).expect("the rest");
    assert_eq!((made.boxes, fatal(&made).len()), (3, 1), "{:?}", made.problems);
}

#[test]
fn files_of_a_split_may_number_their_categories_differently() {
    let dir = folder();
    for (split, first, second) in [("train", "a", "b"), ("valid", "b", "a"), ("test", "c", "b")] {
        put_picture(dir.path(), &format!("{split}/1.png"), 1);
        let file = json!({
            "images": [{"id": 0, "file_name": "1.png", "width": 40, "height": 30}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [4, 3, 8, 6]}],
            "categories": [{"id": 1, "name": first}, {"id": 2, "name": second}],
        });
        put(dir.path(), &format!("{split}/_annotations.coco.json"), file.to_string());
    }
    let made = run(&Settings::new(Format::Coco, dir.path()), &dir.path().join("out")).expect("good");
    assert_eq!(made.names, ["c", "a", "b"]);
    let data = Dataset::open(&made.yaml).expect("ours");
    for (split, name) in [(Split::Train, "a"), (Split::Val, "b"), (Split::Test, "c")] {
        let samples = data.samples(split, Policy::Strict).expect("good");
        assert_eq!(data.names[samples.items[0].boxes[0][0] as usize], name);
    }
}

#[test]
fn images_of_one_name_are_told_apart() {
    let dir = folder();
    let names = ["cam1/a.png", "cam2/a.png", "x/cam2/a.png", "b.png", "b.jpg", "B.png"];
    for (number, name) in names.iter().enumerate() {
        put_picture(dir.path(), &format!("images/{name}"), number as u8);
    }
    let images: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(id, name)| json!({"id": id, "file_name": name}))
        .collect();
    let annotations: Vec<Value> = (0..names.len())
        .map(|id| json!({"id": id, "image_id": id, "category_id": 0, "bbox": [id, 0, 8, 6]}))
        .collect();
    let file = json!({"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "a"}]});
    put(dir.path(), "annotations/instances_train.json", file.to_string());
    let made = run(&Settings::new(Format::Coco, dir.path()), &dir.path().join("out")).expect("good");
    assert_eq!((made.images, made.boxes, fatal(&made)), (6, 6, vec![]));
    let data = Dataset::open(&made.yaml).expect("ours");
    let samples = data.samples(Split::Train, Policy::Strict).expect("good");
    for sample in &samples.items {
        let image = sample.image.canonicalize().expect("a link");
        let id = names
            .iter()
            .position(|name| image.ends_with(Path::new("images").join(name)))
            .expect("one of ours");
        assert!(
            (sample.boxes[0][1] - (id as f32 + 4.0) / 40.0).abs() < 1e-6,
            "{}",
            sample.image.display()
        );
    }
    assert_eq!(samples.items.len(), 6);
    assert!(
        made.problems
            .iter()
            .any(|p| p.kind == "name-changed" && p.message.starts_with("4 images")),
        "{:?}",
        made.problems
    );
}

#[test]
fn names_that_are_asked_for_are_checked() {
    let (dir, made) = convert_coco(coco().to_string(), Keep::default());
    made.expect("good");
    for (names, words) in [(vec!["a", "a"], "named twice"), (vec!["a", ""], "no name")] {
        let settings = Settings {
            names: Some(names.into_iter().map(str::to_owned).collect()),
            ..Settings::new(Format::Coco, dir.path())
        };
        let error = run(&settings, &dir.path().join("two")).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
    // A choice of classes: objects of others are counted by class, their images stay.
    let settings = Settings {
        names: Some(vec!["b".into()]),
        ..Settings::new(Format::Coco, dir.path())
    };
    let made = run(&settings, &dir.path().join("two")).expect("good");
    assert_eq!(
        (made.images, made.boxes, fatal(&made).len()),
        (3, 2, 0),
        "{:?}",
        made.problems
    );
    let said = made.problems.iter().find(|problem| problem.kind == "class-left-out");
    assert!(
        said.is_some_and(|said| said.message.contains("`a` (1)")),
        "{:?}",
        made.problems
    );
}
