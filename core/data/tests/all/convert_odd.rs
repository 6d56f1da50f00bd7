//! Converters on what tools and people really write: odd values, encodings, names and turned photos. One bad record never stops the
//! others, and never makes background of an object.

use std::path::Path;

use serde_json::{Value, json};
use yolo_data::convert::{Converted, Format, Frame, Keep, Settings, convert};
use yolo_data::labels::Label;
use yolo_data::{Dataset, Policy, Split};

use crate::convert_coco::{coco, convert_coco};
use crate::silent::of_kind;
use crate::{folder, picture, put, put_picture};

pub fn run(settings: &Settings, out: &Path) -> yolo_data::Result<Converted> {
    convert(settings, out, &|_, _| {})
}

pub fn fatal(made: &Converted) -> Vec<String> {
    let fatal = made.problems.iter().filter(|problem| problem.fatal);
    fatal.map(ToString::to_string).collect()
}

/// Boxes of the training images, by path.
pub fn boxes(made: &Converted) -> Vec<Label> {
    let data = Dataset::open(&made.yaml).expect("our own file");
    let samples = data.samples(Split::Train, Policy::Strict).expect("our own labels");
    samples.items.into_iter().flat_map(|sample| sample.boxes).collect()
}

pub fn is_near(own: &Label, wanted: Label) -> bool {
    own.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1.1e-6)
}

pub fn voc(object: &str, size: &str) -> String {
    format!("<annotation><filename>x.png</filename>{size}\n<object><name>dog</name>{object}</object></annotation>")
}

pub const BOX: &str = "<bndbox><xmin>4</xmin><ymin>3</ymin><xmax>12</xmax><ymax>9</ymax></bndbox>";

#[test]
fn encodings_and_document_types_are_read_and_one_bad_file_is_named() {
    let dir = folder();
    let object = |name: &[u8]| -> Vec<u8> {
        [
            b"<annotation><object><name>",
            name,
            b"</name>",
            BOX.as_bytes(),
            b"</object></annotation>",
        ]
        .concat()
    };
    let with = |head: &str, name: &[u8]| [head.as_bytes(), &object(name)].concat();
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain("<?xml version=\"1.0\" encoding=\"utf-16\"?>".encode_utf16())
        .chain(String::from_utf8(object("鸟".as_bytes())).expect("text").encode_utf16())
        .flat_map(u16::to_be_bytes)
        .collect();
    for (name, bytes) in [
        ("gbk", with("<?xml version=\"1.0\" encoding=\"GBK\"?>\n", b"\xc4\xf1")),
        ("big5", with("<?xml version=\"1.0\" encoding=\"Big5\"?>\n", b"\xb3\xbe")),
        (
            "latin",
            with("<?xml version='1.0' encoding='ISO-8859-1'?>\n", b"K\xe4fer"),
        ),
        ("utf16", utf16),
        ("bom", with("\u{feff}<?xml version=\"1.0\"?>", "Käfer".as_bytes())),
        (
            "type",
            with(
                "<?xml version=\"1.0\"?>\n<!DOCTYPE annotation SYSTEM \"voc.dtd\">\n",
                b"dog",
            ),
        ),
        ("undeclared", with("<?xml version=\"1.0\"?>\n", b"\xc4\xf1")),
        ("entity", with("<!DOCTYPE a [\n<!ENTITY x \"dog\">]>", b"&x;")),
        ("unknown", with("<?xml version=\"1.0\" encoding=\"klingon\"?>", b"dog")),
        ("broken", b"<annotation>\n<object>".to_vec()),
    ] {
        put_picture(dir.path(), &format!("JPEGImages/{name}.png"), name.len() as u8);
        put(dir.path(), &format!("Annotations/{name}.xml"), bytes);
    }
    put(dir.path(), "Annotations/._gbk.xml", b"\0\x05\x16\x07");
    let settings = Settings {
        val_share: 0.0,
        ..Settings::new(Format::Voc, dir.path())
    };
    let made = run(&settings, &dir.path().join("out")).expect("the rest");
    assert_eq!(made.names, ["Käfer", "dog", "鳥", "鸟"]);
    assert_eq!((made.images, made.boxes), (6, 6), "{:?}", made.problems);
    let said = fatal(&made);
    for (name, words) in [
        ("undeclared.xml:2: ", "not UTF-8"),
        ("entity.xml:2: ", "<!ENTITY"),
        ("unknown.xml:1: ", "klingon"),
        ("broken.xml:", ""),
    ] {
        assert!(
            said.iter().any(|said| said.contains(name) && said.contains(words)),
            "{name}: {said:?}"
        );
    }
    assert_eq!(said.len(), 4, "{said:?}");
}

#[test]
fn shapes_become_boxes_and_objects_without_one_take_their_image_out() {
    let size = "<size><width>40</width><height>30</height></size>";
    let points = "<pt><x>4</x><y>3</y></pt><pt><x>12</x><y>3</y></pt><pt><x>12</x><y>9</y></pt>";
    for (object, images, words) in [
        (BOX.to_owned(), 2, ""),
        (format!("<difficult>Unspecified</difficult>{BOX}"), 2, ""),
        (
            "<polygon><x1>4</x1><y1>3</y1><x2>12</x2><y2>3</y2><x3>12</x3><y3>9</y3></polygon>".to_owned(),
            2,
            "",
        ),
        (format!("<polygon>{points}</polygon>"), 2, ""),
        (
            "<robndbox><cx>8</cx><cy>6</cy><w>6</w><h>8</h><angle>1.5707963267948966</angle></robndbox>".to_owned(),
            2,
            "",
        ),
        ("<polygon><x1>4</x1><y1>3</y1></polygon>".to_owned(), 1, "three points"),
        (String::new(), 1, "no <bndbox>"),
        (format!("{BOX}{BOX}"), 1, "2 <bndbox>"),
        (BOX.replace("12", "1,5"), 1, "`1,5`"),
        (BOX.replace("12", "inf"), 1, "`inf`"),
        (BOX.replace("12", "2"), 1, "ends before it begins"),
        (format!("<difficult>perhaps</difficult>{BOX}"), 1, "`perhaps`"),
        (format!("<name>cat</name>{BOX}"), 1, "2 <name>"),
    ] {
        let dir = folder();
        for name in ["x", "y"] {
            put_picture(dir.path(), &format!("images/{name}.png"), name.len() as u8);
        }
        put(dir.path(), "Annotations/x.xml", voc(&object, size));
        put(dir.path(), "Annotations/y.xml", voc(BOX, size));
        let settings = Settings {
            val_share: 0.0,
            ..Settings::new(Format::Voc, dir.path())
        };
        let made = run(&settings, &dir.path().join("out")).expect("the rest");
        let said = fatal(&made);
        assert_eq!(
            (made.images, made.boxes, said.len()),
            (images, images, 2 - images),
            "{object}: {said:?}"
        );
        assert!(
            boxes(&made)
                .iter()
                .all(|label| is_near(label, [0.0, 0.2, 0.2, 0.2, 0.2])),
            "{object}"
        );
        assert!(
            said.iter()
                .all(|said| said.contains("x.xml:2: ") && said.contains(words)),
            "{object}: {said:?}"
        );
    }
    // An object without a name is no class without a name.
    let dir = folder();
    put_picture(dir.path(), "x.png", 1);
    put(dir.path(), "x.xml", voc(BOX, size).replace("<name>dog</name>", ""));
    let error = run(&Settings::new(Format::Voc, dir.path()), &dir.path().join("out"))
        .expect_err("nothing")
        .to_string();
    assert!(error.contains("x.xml:2: the object has no <name>"), "{error}");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn lists_of_voc_lose_no_image_without_a_word() {
    let dir = folder();
    for name in ["a", "b", "c", "d", "e"] {
        put_picture(dir.path(), &format!("JPEGImages/{name}.png"), name.as_bytes()[0]);
        if name != "e" {
            put(dir.path(), &format!("Annotations/{name}.xml"), voc(BOX, ""));
        }
    }
    put(dir.path(), "ImageSets/Main/train.txt", "a.png\nb\ngone\n");
    put(dir.path(), "ImageSets/Main/val.txt", "b\nc\n");
    let made = run(&Settings::new(Format::Voc, dir.path()), &dir.path().join("out")).expect("good");
    let found: Vec<(&str, bool, bool)> = made
        .problems
        .iter()
        .map(|p| {
            (
                p.kind,
                p.fatal,
                ["val.txt", "train.txt", "d.xml", "e.png"]
                    .iter()
                    .any(|name| p.file.ends_with(name)),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("name-clash", true, true),
            ("image-without-split", false, true),
            ("annotation-missing", true, true),
            ("annotation-missing", false, true),
        ],
        "{:?}",
        made.problems
    );
    assert_eq!((made.splits["train"], made.splits["val"]), (2, 1));
}

#[test]
fn the_list_of_both_splits_is_read() {
    let dir = folder();
    for name in ["a", "b", "c", "d"] {
        put_picture(dir.path(), &format!("JPEGImages/{name}.png"), name.as_bytes()[0]);
        put(dir.path(), &format!("Annotations/{name}.xml"), voc(BOX, ""));
    }
    let list = |name: &str, text: &str| put(dir.path(), &format!("ImageSets/Main/{name}.txt"), text);
    let splits =
        |out: &str| run(&Settings::new(Format::Voc, dir.path()), &dir.path().join(out)).map(|made| made.splits);
    list("trainval", "a\nb\nc\n");
    list("test", "d\n");
    // Three for training, and a validation that must be drawn by hand: said loudly.
    let made = run(&Settings::new(Format::Voc, dir.path()), &dir.path().join("one")).expect("a data set");
    assert_eq!(
        (made.splits.get("train"), made.splits.get("test")),
        (Some(&3), Some(&1))
    );
    assert!(
        fatal(&made).iter().any(|said| said.contains("val")),
        "{:?}",
        made.problems
    );
    assert!(of_kind(&made.problems, "image-without-split").is_empty());
    list("train", "a\nb\n");
    let all = splits("two").expect("a data set");
    assert_eq!(
        (all["train"], all["val"], all["test"]),
        (2, 1, 1),
        "the rest is for validation"
    );
}

/// A PNG that is stored lying down, turned by EXIF.
fn turned(width: usize, height: usize, orientation: u8) -> Vec<u8> {
    let jpeg = picture(1, width, height).to_jpeg(90).expect("a JPEG");
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = ((exif.len() + 2) as u16).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn boxes_turn_with_their_photo_and_only_once() {
    const STORED: Label = [0.0, 0.2, 0.2, 0.2, 0.2];
    for (orientation, declared, exif, wanted) in [
        (1, Some([40, 30]), None, Some(STORED)),
        (6, Some([40, 30]), None, Some([0.0, 0.8, 0.2, 0.2, 0.2])),
        (8, Some([40, 30]), None, Some([0.0, 0.2, 0.8, 0.2, 0.2])),
        (5, Some([40, 30]), None, Some([0.0, 0.2, 0.2, 0.2, 0.2])),
        (7, Some([40, 30]), None, Some([0.0, 0.8, 0.8, 0.2, 0.2])),
        // Drawn on the upright photo: 4,3 to 12,9 of 30 x 40.
        (6, Some([30, 40]), None, Some([0.0, 8.0 / 30.0, 0.15, 8.0 / 30.0, 0.15])),
        // Half the size, lying.
        (6, Some([20, 15]), None, Some([0.0, 0.6, 0.4, 0.4, 0.4])),
        // Their size does not tell.
        (3, Some([40, 30]), None, None),
        (3, Some([40, 30]), Some(Frame::Stored), Some([0.0, 0.8, 0.8, 0.2, 0.2])),
        (3, Some([40, 30]), Some(Frame::Upright), Some(STORED)),
        (6, None, None, None),
        (6, None, Some(Frame::Stored), Some([0.0, 0.8, 0.2, 0.2, 0.2])),
        (
            6,
            None,
            Some(Frame::Upright),
            Some([0.0, 8.0 / 30.0, 0.15, 8.0 / 30.0, 0.15]),
        ),
        // Another shape.
        (1, Some([30, 40]), None, None),
        (6, Some([64, 64]), Some(Frame::Stored), None),
    ] {
        let case = format!("{orientation} {declared:?} {exif:?}");
        let size = declared.map_or(String::new(), |[w, h]| {
            format!("<size><width>{w}</width><height>{h}</height></size>")
        });
        let [w, h] = declared.map_or([Value::Null, Value::Null], |size| size.map(Value::from));
        let coco = json!({
            "images": [{"id": 1, "file_name": "x.jpg", "width": w, "height": h}, {"id": 2, "file_name": "y.png"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 3, 8, 6]},
                {"id": 2, "image_id": 2, "category_id": 1, "bbox": [4, 3, 8, 6]}],
            "categories": [{"id": 1, "name": "dog"}],
        });
        let dir = folder();
        put(dir.path(), "images/x.jpg", turned(40, 30, orientation));
        put_picture(dir.path(), "images/y.png", 2);
        put(dir.path(), "voc/x.xml", voc(BOX, &size));
        put(dir.path(), "voc/y.xml", voc(BOX, ""));
        put(dir.path(), "coco/instances_train.json", coco.to_string());
        put(dir.path(), "train/annotations/x.txt", "4,3,8,6,1,1,0,0");
        put(dir.path(), "train/annotations/y.txt", "4,3,8,6,1,1,0,0");
        let formats = match declared {
            Some(_) => vec![(Format::Voc, "voc"), (Format::Coco, "coco")],
            None => vec![
                (Format::Voc, "voc"),
                (Format::Coco, "coco"),
                (Format::VisDrone, "train"),
            ],
        };
        for (format, source) in formats {
            let settings = Settings {
                images: Some(dir.path().join("images")),
                val_share: 0.0,
                exif,
                ..Settings::new(format, &dir.path().join(source))
            };
            let made = run(&settings, &dir.path().join(format!("out-{source}"))).expect("at least one");
            let own = boxes(&made);
            match wanted {
                Some(wanted) => {
                    assert_eq!((own.len(), fatal(&made)), (2, vec![]), "{case}");
                    assert!(is_near(&own[0], wanted), "{case} {source}: {own:?}");
                }
                None => {
                    let said = fatal(&made);
                    assert_eq!((own.len(), made.images, said.len()), (1, 1, 1), "{case}: {said:?}");
                    assert!(said[0].contains("x.jpg") && said[0].contains("left out"), "{said:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_left_out_on_purpose_is_said_and_can_be_kept() {
    let dir = folder();
    let mut file = coco();
    file["annotations"][1]["iscrowd"] = json!(1);
    let (_dir, made) = convert_coco(file.to_string(), Keep::default());
    let made = made.expect("good");
    assert_eq!(
        (made.images, made.boxes, made.dropped["crowd"], fatal(&made)),
        (3, 2, 1, vec![])
    );
    let note = made
        .problems
        .iter()
        .find(|p| p.kind == "only-left-out")
        .expect("a note");
    assert!(
        note.message.contains("2.png") && note.message.contains("--keep-crowd"),
        "{note}"
    );
    let crowd = Keep {
        crowd: true,
        ..Keep::default()
    };
    assert_eq!(convert_coco(file.to_string(), crowd).1.expect("good").boxes, 3);

    put_picture(dir.path(), "voc/x.png", 1);
    put_picture(dir.path(), "voc/y.png", 2);
    put(
        dir.path(),
        "voc/x.xml",
        voc(BOX, "").replace(BOX, &format!("<difficult>1</difficult>{BOX}")),
    );
    put(dir.path(), "voc/y.xml", voc(BOX, ""));
    put_picture(dir.path(), "set-train/images/x.png", 1);
    put_picture(dir.path(), "set-val/images/x.png", 1);
    put(
        dir.path(),
        "set-train/annotations/x.txt",
        "0,0,8,6,1,0,0,0\n4,3,8,6,0,4,0,0\n4,3,8,6,1,11,0,0\n4,4,8,6,1,1,0,0",
    );
    put(dir.path(), "set-val/annotations/x.txt", "0,0,8,6,1,0,0,0");
    for (format, source, keep, boxes, classes, kept, more) in [
        (
            Format::Voc,
            "voc",
            Keep {
                difficult: true,
                ..Keep::default()
            },
            1,
            1,
            2,
            0,
        ),
        (
            Format::VisDrone,
            "",
            Keep {
                ignored: true,
                ..Keep::default()
            },
            1,
            10,
            5,
            2,
        ),
    ] {
        let settings = Settings {
            val_share: 0.0,
            ..Settings::new(format, &dir.path().join(source))
        };
        let made = run(&settings, &dir.path().join(format!("out{source}"))).expect("good");
        assert_eq!((made.boxes, made.names.len()), (boxes, classes));
        // Validation of the second has nothing but an ignored region.
        let empty = made
            .problems
            .iter()
            .filter(|p| p.fatal && p.kind == "split-empty")
            .count();
        assert_eq!(empty, usize::from(format == Format::VisDrone), "{:?}", made.problems);
        let made = run(
            &Settings { keep, ..settings },
            &dir.path().join(format!("kept{source}")),
        )
        .expect("good");
        assert_eq!(
            (made.boxes, made.names.len(), fatal(&made)),
            (kept, classes + more, vec![])
        );
    }
}

#[test]
fn rows_of_visdrone_are_read_exactly_or_named() {
    for (row, words) in [
        ("4,3,8,6,1,1,0,0", ""),
        ("4.0, 3 ,8.00,6,1,1,0,0,", ""),
        ("4,3,8,6,1,1", ""),
        ("4 3 8 6 1 1 0 0", "1 fields"),
        ("7,1,4,3,8,6,1,1,0,0", "rows of videos"),
        ("4,3,8,6,0.5,1,0,0", "no whole number"),
        ("4,3,x,6,1,1,0,0", "`x`"),
        ("4,3,-8,6,1,1,0,0", "negative"),
        ("4,3,8,6,1,12,0,0", "category 12"),
        ("4,3,nan,6,1,1,0,0", "`nan`"),
    ] {
        let dir = folder();
        for name in ["x", "y"] {
            put_picture(dir.path(), &format!("train/images/{name}.png"), name.len() as u8);
        }
        put(dir.path(), "train/annotations/x.txt", format!("{row}\r\n"));
        put(dir.path(), "train/annotations/y.txt", "4,3,8,6,1,1,0,0");
        put(dir.path(), "train/annotations/Thumbs.db", "no text");
        let made = run(&Settings::new(Format::VisDrone, dir.path()), &dir.path().join("out")).expect("the rest");
        let said = fatal(&made);
        let count = if words.is_empty() { 2 } else { 1 };
        assert_eq!(
            (made.images, made.boxes, said.len()),
            (count, count, 2 - count),
            "{row}: {said:?}"
        );
        assert!(
            said.iter()
                .all(|said| said.contains("x.txt:1: ") && said.contains(words)),
            "{row}: {said:?}"
        );
        assert!(
            boxes(&made)
                .iter()
                .all(|label| is_near(label, [0.0, 0.2, 0.2, 0.2, 0.2])),
            "{row}"
        );
    }
}
