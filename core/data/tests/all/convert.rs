//! Converters, on small sources of our own and on real ones where they are present.

use std::collections::BTreeMap;
use std::path::Path;

use yolo_data::convert::{Converted, Format, Keep, Settings, convert};
use yolo_data::labels::Label;
use yolo_data::{Dataset, Error, Policy, Split};

use crate::{folder, put, put_picture};

const KEEP_INCOMPLETE: Keep = Keep {
    incomplete: true,
    crowd: false,
    difficult: false,
    ignored: false,
};

fn run(settings: &Settings, out: &Path) -> yolo_data::Result<Converted> {
    convert(settings, out, &|_, _| {})
}

/// Boxes by the stem of their image.
fn boxes(made: &Converted, split: Split) -> BTreeMap<String, Vec<Label>> {
    let data = Dataset::open(&made.yaml).expect("our own file");
    let samples = data.samples(split, Policy::Strict).expect("our own labels");
    let stem = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    samples
        .items
        .into_iter()
        .map(|sample| (stem(&sample.image), sample.boxes))
        .collect()
}

fn close(own: &[Label], wanted: &[[f32; 5]]) {
    assert_eq!(own.len(), wanted.len(), "{own:?} {wanted:?}");
    for (a, b) in own.iter().flatten().zip(wanted.iter().flatten()) {
        // Label files have six decimals.
        assert!((a - b).abs() < 1.1e-6, "{own:?} {wanted:?}");
    }
}

/// A folder with a name that is known.
struct Inner(std::path::PathBuf);

impl Inner {
    fn path(&self) -> &Path {
        &self.0
    }
}

fn found(made: &Converted) -> Vec<(String, usize, &'static str)> {
    let name = |file: &str| {
        Path::new(file)
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    };
    made.problems.iter().map(|p| (name(&p.file), p.line, p.kind)).collect()
}

#[test]
fn visdrone_rows_become_boxes_and_ignored_ones_do_not() {
    let dir = folder();
    for part in ["VisDrone2019-DET-train", "VisDrone2019-DET-val"] {
        put_picture(dir.path(), &format!("{part}/images/a.png"), part.len() as u8);
    }
    put_picture(dir.path(), "VisDrone2019-DET-train/images/unlabelled.png", 3);
    let rows = "\
10,15,20,6,1,4,0,0
0,0,40,30,0,0,0,0
1,1,5,5,0,11,0,0
2,2,5,5,0,4,0,1
30,20,20,20,1,10,1,2,
5,5,4,0,1,4,0,0
10,15,20,6,1,4,0,0
3,3,5,5,1,12,0,0
three,3,5,5,1,1,0,0
";
    put(dir.path(), "VisDrone2019-DET-train/annotations/a.txt", rows);
    put(
        dir.path(),
        "VisDrone2019-DET-train/annotations/gone.txt",
        "1,1,2,2,1,1,0,0\n",
    );
    put(
        dir.path(),
        "VisDrone2019-DET-val/annotations/a.txt",
        "0,0,40,30,1,1,0,0\r\n\r\n",
    );
    let settings = Settings {
        keep: KEEP_INCOMPLETE,
        ..Settings::new(Format::VisDrone, dir.path())
    };
    let made = run(&settings, &dir.path().join("out")).expect("a data set");
    // 40 x 30 pixels; the second box hangs over the edge and is cut.
    close(
        &boxes(&made, Split::Train)["a"],
        &[[3.0, 0.5, 0.6, 0.5, 0.2], [9.0, 0.875, 5.0 / 6.0, 0.25, 1.0 / 3.0]],
    );
    close(&boxes(&made, Split::Val)["a"], &[[0.0, 0.5, 0.5, 1.0, 1.0]]);
    assert_eq!((made.images, made.boxes, made.names.len()), (2, 3, 10));
    assert_eq!(made.names[8], "bus");
    assert_eq!(
        made.dropped,
        BTreeMap::from([("duplicate", 1), ("empty", 1), ("ignored", 3)])
    );
    let source = dir.path().file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(
        found(&made),
        [
            ("a.txt".to_owned(), 6, "box-left-out"),
            ("a.txt".to_owned(), 8, "label-class"),
            ("a.txt".to_owned(), 9, "annotation-broken"),
            ("gone.txt".to_owned(), 0, "image-missing"),
            ("unlabelled.png".to_owned(), 0, "annotation-missing"),
            (source.clone(), 0, "class-one-split"),
            (source, 0, "class-one-split"),
            ("a.txt".to_owned(), 5, "box-cut"),
        ]
    );
    // What is there is not overwritten.
    let again = run(&Settings::new(Format::VisDrone, dir.path()), &dir.path().join("out")).expect_err("it is there");
    assert!(again.to_string().contains("there is a data set already"), "{again}");
}

#[test]
fn one_visdrone_folder_is_split_by_share_unless_its_name_says_what_it_is() {
    for (name, val) in [("set", true), ("VisDrone2019-DET-train", false)] {
        let dir = folder();
        for image in 0..6 {
            put_picture(dir.path(), &format!("{name}/images/{image}.png"), image);
            put(
                dir.path(),
                &format!("{name}/annotations/{image}.txt"),
                "4,3,8,6,1,4,0,0\n",
            );
        }
        let settings = Settings {
            val_share: 0.4,
            ..Settings::new(Format::VisDrone, &dir.path().join(name))
        };
        let made = run(&settings, &dir.path().join("out")).expect("a data set");
        let data = Dataset::open(&made.yaml).expect("readable");
        assert_eq!(data.has(Split::Val), val, "{name}");
        assert_eq!(
            made.problems.iter().any(|note| note.kind == "setting-unused"),
            !val,
            "{name}"
        );
    }
}

const XML: &str = "<annotation>
  <filename>b.png</filename>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  <object><name>dog</name><difficult>0</difficult>
    <bndbox><xmin>4</xmin><ymin>3</ymin><xmax>12</xmax><ymax>9.0</ymax></bndbox></object>
  <object><name>cat &amp; mouse</name>
    <bndbox><xmin>30</xmin><ymin>20</ymin><xmax>50</xmax><ymax>30</ymax></bndbox></object>
  <object><name>dog</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>
  <object><name>dog</name><bndbox><xmin>7</xmin><ymin>7</ymin><xmax>7</xmax><ymax>7</ymax></bndbox></object>
  <object><name>dog</name><bndbox><xmin>wide</xmin><ymin>7</ymin><xmax>7</xmax><ymax>7</ymax></bndbox></object>
</annotation>";

#[test]
fn voc_objects_become_boxes_and_splits_are_kept() {
    let above = folder();
    let dir = Inner(above.path().join("VOC"));
    for (number, name) in ["b", "c", "d"].into_iter().enumerate() {
        put_picture(dir.path(), &format!("JPEGImages/{name}.png"), number as u8);
    }
    put(dir.path(), "Annotations/b.xml", XML);
    let empty = "<annotation><size><width>80</width><height>60</height></size></annotation>";
    put(dir.path(), "Annotations/c.xml", empty);
    put(dir.path(), "Annotations/d.xml", "<annotation>\n<object>\n</annotation>");
    put(dir.path(), "ImageSets/Main/train.txt", "b\n");
    put(dir.path(), "ImageSets/Main/val.txt", "c  1\n");
    put(dir.path(), "ImageSets/Main/trainval.txt", "b\nc\n");
    let settings = Settings {
        keep: KEEP_INCOMPLETE,
        ..Settings::new(Format::Voc, dir.path())
    };
    let made = run(&settings, &dir.path().join("out")).expect("a data set");
    assert_eq!(made.names, ["cat & mouse", "dog"]);
    close(
        &boxes(&made, Split::Train)["b"],
        &[[1.0, 0.2, 0.2, 0.2, 0.2], [0.0, 0.875, 5.0 / 6.0, 0.25, 1.0 / 3.0]],
    );
    assert_eq!(
        made.splits,
        BTreeMap::from([("train".to_owned(), 1), ("val".to_owned(), 1)])
    );
    assert_eq!(made.dropped, BTreeMap::from([("difficult", 1), ("empty", 1)]));
    assert_eq!(
        found(&made),
        [
            ("d.xml".to_owned(), 3, "annotation-broken"),
            ("b.xml".to_owned(), 10, "box-left-out"),
            ("b.xml".to_owned(), 11, "annotation-broken"),
            ("c.xml".to_owned(), 0, "size-mismatch"),
            ("b.xml".to_owned(), 6, "box-cut"),
            // A validation without a box measures nothing.
            ("VOC".to_owned(), 0, "split-empty"),
        ]
    );
    // Chosen classes in a chosen order, objects of others are counted; images are copied, not linked.
    let only = Settings {
        names: Some(vec!["dog".into()]),
        copy: true,
        keep: KEEP_INCOMPLETE,
        ..Settings::new(Format::Voc, dir.path())
    };
    let made = run(&only, &dir.path().join("dogs")).expect("a data set");
    close(&boxes(&made, Split::Train)["b"], &[[0.0, 0.2, 0.2, 0.2, 0.2]]);
    assert!(
        found(&made).contains(&("VOC".to_owned(), 0, "class-left-out")) && made.dropped["not in --names"] > 0,
        "{:?}",
        made.problems
    );
    let image = dir.path().join("dogs/images/train/b.png");
    assert!(!image.symlink_metadata().expect("a file").is_symlink());
}

#[test]
fn without_splits_a_share_is_for_validation_and_always_the_same() {
    let dir = folder();
    for number in 0..40 {
        put_picture(dir.path(), &format!("{number}.png"), number);
        let xml = "<annotation><object><name>x</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>";
        put(dir.path(), &format!("{number}.xml"), xml);
    }
    let settings = Settings {
        val_share: 0.25,
        ..Settings::new(Format::Voc, dir.path())
    };
    let made = run(&settings, &dir.path().join("one")).expect("a data set");
    let again = run(&settings, &dir.path().join("two")).expect("a data set");
    assert_eq!(made.splits, again.splits);
    assert!(
        (4..=16).contains(&made.splits["val"]) && made.splits["train"] + made.splits["val"] == 40,
        "{:?}",
        made.splits
    );
    let error = run(
        &Settings {
            val_share: 1.0,
            ..settings
        },
        &dir.path().join("three"),
    )
    .expect_err("nothing to learn");
    assert!(matches!(error, Error::Settings(_)), "{error}");
}

const COCO: &str = r#"{
  "info": {"year": 2024},
  "images": [
    {"id": 7, "file_name": "b.png", "width": 40, "height": 30},
    {"id": 8, "file_name": "sub/c.png", "height": 30, "width": 40},
    {"id": 9, "file_name": "gone.png", "width": 40, "height": 30}
  ],
  "annotations": [
    {"id": 1, "image_id": 7, "category_id": 90, "bbox": [4, 3, 8, 6], "iscrowd": 0, "segmentation": [[1, 2, 3]]},
    {"id": 2, "image_id": 7, "category_id": 3, "bbox": [30.0, 20.0, 20.0, 10.0]},
    {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
    {"id": 4, "image_id": 7, "category_id": 5, "bbox": [0, 0, 4, 3]},
    {"id": 5, "image_id": 7, "category_id": 3, "bbox": [0, 0, 4]},
    {"id": 6, "image_id": 99, "category_id": 3, "bbox": [0, 0, 4, 3]},
    {"id": 7, "image_id": 7, "category_id": 3, "bbox": [50, 40, 4, 3]}
  ],
  "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}]
}"#;

#[test]
fn coco_annotations_become_boxes_with_gapless_classes() {
    let dir = folder();
    put_picture(dir.path(), "train2017/b.png", 1);
    put_picture(dir.path(), "train2017/sub/c.png", 2);
    let json = put(dir.path(), "annotations/instances_train2017.json", COCO);
    put(
        dir.path(),
        "annotations/captions_train2017.json",
        r#"{"other": "things"}"#,
    );
    for (source, out) in [(dir.path().to_owned(), "one"), (json, "two")] {
        let settings = Settings {
            keep: KEEP_INCOMPLETE,
            ..Settings::new(Format::Coco, &source)
        };
        let made = run(&settings, &dir.path().join(out)).expect("a data set");
        assert_eq!(made.names, ["car", "toothbrush"]);
        assert_eq!(made.splits, BTreeMap::from([("train".to_owned(), 2)]));
        let found_boxes = boxes(&made, Split::Train);
        close(
            &found_boxes["b"],
            &[[1.0, 0.2, 0.2, 0.2, 0.2], [0.0, 0.875, 5.0 / 6.0, 0.25, 1.0 / 3.0]],
        );
        assert!(found_boxes["c"].is_empty());
        assert_eq!(made.dropped, BTreeMap::from([("crowd", 1), ("outside", 1)]));
        let kinds: Vec<&str> = made.problems.iter().map(|p| p.kind).collect();
        assert_eq!(
            kinds,
            [
                "image-missing",
                "label-class",
                "annotation-broken",
                "box-left-out",
                "annotation-broken",
                "box-cut"
            ],
            "{:?}",
            made.problems
        );
    }
}

#[test]
fn sources_that_are_none_are_errors_and_make_nothing() {
    let dir = folder();
    let out = dir.path().join("out");
    put(dir.path(), "empty/readme.md", "nothing");
    put(
        dir.path(),
        "odd/annotations/instances.json",
        "{\n\"images\": [],\n\"annotations\": 7}",
    );
    put(dir.path(), "gone/annotations/a.txt", "1,1,2,2,1,1,0,0");
    put(dir.path(), "nowhere/set/annotations/a.txt", "1,1,2,2,1,1,0,0");
    put(dir.path(), "sizes/annotations/a.txt", "1,1,2,2,1,1,0,0");
    put(dir.path(), "sizes/images/a.png", "no picture");
    for (format, source, words) in [
        (Format::VisDrone, "none", "no such file or folder"),
        (Format::VisDrone, "empty", "no folder `annotations`"),
        (Format::VisDrone, "gone", "the folder of the images does not exist"),
        (Format::VisDrone, "nowhere", "which split is this?"),
        (Format::VisDrone, "sizes", "a.png"),
        (Format::Voc, "empty", "no XML files"),
        (Format::Coco, "empty", "no JSON files"),
        (Format::Coco, "odd", "instances.json:3: "),
    ] {
        let error = run(&Settings::new(format, &dir.path().join(source)), &out)
            .expect_err(source)
            .to_string();
        assert!(error.contains(source) && error.contains(words), "{source}: {error}");
        assert!(!out.exists(), "{source}");
    }
}

#[test]
fn real_visdrone_annotations_give_the_published_labels() {
    let Some(source) = crate::shared("data/visdrone") else {
        return;
    };
    let dir = folder();
    let made = run(&Settings::new(Format::VisDrone, &source), dir.path()).expect("a data set");
    let files = walkdir::WalkDir::new(&source)
        .into_iter()
        .map(|entry| entry.expect("a folder"));
    let images = files
        .filter(|entry| entry.path().parent().is_some_and(|folder| folder.ends_with("images")))
        .count();
    assert!(images > 0);
    assert_eq!(made.images, images);
    assert!(
        made.problems.iter().all(|problem| !problem.fatal),
        "{:?}",
        made.problems
    );
    let mut compared = 0;
    let mut found = 0;
    for (part, split) in [("train", Split::Train), ("val", Split::Val), ("test-dev", Split::Test)] {
        if !made.splits.contains_key(split.name()) {
            continue;
        }
        for (stem, own) in boxes(&made, split) {
            let path = source.join(format!("VisDrone2019-DET-{part}/labels_expected/{stem}.txt"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let wanted: Vec<[f64; 5]> = text
                .lines()
                .map(|line| {
                    let row: Vec<f64> = line.split_whitespace().map(|v| v.parse().expect("a number")).collect();
                    // Ours end at the edges of the image.
                    let [x1, x2] = [row[1] - row[3] / 2.0, row[1] + row[3] / 2.0].map(|v| v.clamp(0.0, 1.0));
                    let [y1, y2] = [row[2] - row[4] / 2.0, row[2] + row[4] / 2.0].map(|v| v.clamp(0.0, 1.0));
                    [row[0], (x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1]
                })
                .collect();
            assert_eq!(own.len(), wanted.len(), "{stem}");
            for (a, b) in own.iter().flatten().zip(wanted.iter().flatten()) {
                assert!((f64::from(*a) - b).abs() < 3e-6, "{stem}: {a} {b}");
            }
            compared += 1;
            found += own.len();
        }
    }
    assert!(
        compared == images && found > images,
        "{found} boxes in {compared} images"
    );
}

#[test]
fn the_blood_cells_from_their_xml_are_their_labels() {
    let Some(source) = crate::shared("data/bccd") else {
        return;
    };
    let dir = folder();
    let archive = source.join("voc_original_annotations.tar.xz");
    let unpacked = std::process::Command::new("tar")
        .arg("xf")
        .arg(&archive)
        .arg("-C")
        .arg(dir.path())
        .status();
    if !unpacked.is_ok_and(|status| status.success()) {
        crate::skip::skipped("tar", format!("it can't unpack {}", archive.display()));
        return;
    }
    // The pictures lie in folders by split.
    let images = dir.path().join("BCCD/JPEGImages");
    std::fs::create_dir(&images).expect("a folder");
    for split in ["train", "val", "test"] {
        for entry in std::fs::read_dir(source.join("images").join(split)).expect("images") {
            let path = entry.expect("an image").path();
            yolo_data::files::link(&path, &images.join(path.file_name().expect("a name"))).expect("a link");
        }
    }
    let names = ["RBC", "WBC", "Platelets"].map(str::to_owned).to_vec();
    let settings = Settings {
        names: Some(names),
        ..Settings::new(Format::Voc, &dir.path().join("BCCD"))
    };
    let made = run(&settings, &dir.path().join("out")).expect("a data set");
    assert_eq!(
        (made.images, made.boxes, made.problems.len()),
        (364, 4886, 2),
        "{:?}",
        made.problems
    );
    assert!(
        made.problems
            .iter()
            .all(|p| p.kind == "box-left-out" && !p.fatal && p.line > 0)
    );
    assert_eq!(made.dropped, BTreeMap::from([("empty", 2)]));
    assert_eq!(
        made.splits,
        BTreeMap::from([
            ("test".to_owned(), 72),
            ("train".to_owned(), 205),
            ("val".to_owned(), 87)
        ])
    );
    let published = Dataset::open(&source.join("bccd.yaml")).expect("readable");
    for split in [Split::Train, Split::Val, Split::Test] {
        let own = boxes(&made, split);
        for sample in published.samples(split, Policy::Strict).expect("good").items {
            let stem = sample.image.file_stem().expect("a name").to_string_lossy().into_owned();
            close(&own[&stem], &sample.boxes);
        }
    }
}
