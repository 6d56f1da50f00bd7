//! `yolo data`: from the command line, and what it says to wrong input.

use std::path::Path;

use crate::support::{files, small_data, yolo};

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    std::fs::write(path, text).expect("a file");
}

fn picture(folder: &Path, name: &str, index: u64) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    yolo_data::synth::picture(64, 3, index)
        .0
        .save(&path)
        .expect("a picture");
}

#[test]
fn a_synthetic_set_is_the_same_for_a_seed_and_passes_the_check() {
    let dir = tempfile::tempdir().expect("a folder");
    let make = |out: &str, more: &[&str]| {
        let arguments = [
            &["data", "synth", "--out", out, "--images", "20", "--img", "64", "--json"],
            more,
        ]
        .concat();
        yolo(dir.path(), &arguments).ok().json()
    };
    let made = make("one", &[]);
    assert_eq!(
        (made["images"].as_u64(), made["names"].as_array().map(Vec::len)),
        (Some(20), Some(4))
    );
    assert!(made["problems"].as_array().is_some_and(Vec::is_empty));
    make("two", &[]);
    make("three", &["--seed", "5", "--classes", "2"]);
    let content = |set: &str, file: &str| std::fs::read(dir.path().join(set).join(file)).expect("a file");
    let all = files(&dir.path().join("one"));
    assert_eq!(all.len(), 41, "{all:?}");
    for file in &all {
        assert!(content("one", file) == content("two", file), "{file}");
    }
    assert!(content("one", "images/val/000015.jpg") != content("three", "images/val/000015.jpg"));
    let checked = yolo(dir.path(), &["data", "check", "one/data.yaml", "--json"])
        .ok()
        .json();
    assert_eq!(
        (&checked["images"], &checked["boxes"]),
        (&made["images"], &made["boxes"])
    );
    assert!(
        checked["problems"]
            .as_array()
            .is_some_and(|p| p.iter().all(|p| p["fatal"] == false)),
        "{}",
        checked["problems"]
    );
    let text = yolo(dir.path(), &["data", "check", "three/data.yaml"]).ok().out;
    assert!(
        text.contains("train: 14 images") && text.contains("vehicle") && !text.contains("plane"),
        "{text}"
    );

    yolo(dir.path(), &["data", "synth", "--out", "one"]).fails(1, &["one/data.yaml", "already"]);
    yolo(dir.path(), &["data", "synth", "--out", "four", "--images", "2"]).fails(2, &["2 images"]);
    yolo(dir.path(), &["data", "synth", "--out", "four", "--img", "7"]).fails(2, &["7 pixels"]);
    yolo(dir.path(), &["data", "synth", "--out", "four", "--classes", "12"]).fails(2, &["12", "vehicle"]);
    write(dir.path(), "file", "no folder");
    yolo(dir.path(), &["data", "synth", "--out", "file/set"]).fails(1, &["file/set"]);
    assert!(!dir.path().join("four").exists());
}

#[test]
fn a_check_names_file_line_and_kind_of_everything_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    for index in 0..4 {
        picture(dir.path(), &format!("images/train/{index}.jpg"), index);
    }
    let cut = std::fs::read(dir.path().join("images/train/3.jpg")).expect("a picture");
    std::fs::write(dir.path().join("images/train/3.jpg"), &cut[..cut.len() / 2]).expect("a file");
    std::fs::create_dir(dir.path().join("images/none")).expect("a folder");
    write(
        dir.path(),
        "labels/train/0.txt",
        "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n",
    );
    write(
        dir.path(),
        "labels/train/1.txt",
        "0 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n0 0.5 x 0.1 0.1\n0 0.5 0.5 1.4 0.1\n",
    );
    write(
        dir.path(),
        "data.yaml",
        "train: images/train\nval: images/none\nnames: [a, b]\n",
    );
    let said = yolo(dir.path(), &["data", "check", "data.yaml", "--json"]);
    assert_eq!(said.code, 1, "{}", said.err);
    let found = said.json();
    let rows: Vec<(String, u64, String)> = found["problems"]
        .as_array()
        .expect("problems")
        .iter()
        .map(|p| {
            let text = |key: &str| p[key].as_str().expect(key).to_owned();
            (text("file"), p["line"].as_u64().expect("a line"), text("kind"))
        })
        .collect();
    for (file, line, kind) in [
        ("data.yaml", 2, "split-unusable"),
        ("labels/train/0.txt", 2, "label-duplicate"),
        ("labels/train/1.txt", 2, "label-class"),
        ("labels/train/1.txt", 3, "label-columns"),
        ("labels/train/1.txt", 4, "label-number"),
        ("labels/train/1.txt", 5, "label-range"),
        ("images/train/3.jpg", 0, "image-unreadable"),
        ("data.yaml", 0, "class-empty"),
    ] {
        assert!(
            rows.iter()
                .any(|(f, l, k)| f.ends_with(file) && *l == line && k == kind),
            "{file}:{line} {kind}: {rows:?}"
        );
    }
    // Image 1 has rows that can't be read: with a part of its boxes it would teach that there are no others.
    assert_eq!((found["images"].as_u64(), found["boxes"].as_u64()), (Some(2), Some(1)));
    let said = yolo(dir.path(), &["data", "check", "data.yaml"]);
    assert_eq!(said.code, 1);
    assert!(
        said.out.contains("labels/train/1.txt:2: ") && said.out.contains("6 errors"),
        "{}",
        said.out
    );
}

#[test]
fn a_data_file_that_is_wrong_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    picture(dir.path(), "images/a.jpg", 0);
    for (yaml, code, texts) in [
        ("train: images\n", 2, &["data.yaml", "no `names`"][..]),
        ("names: [a]\n", 2, &["data.yaml", "neither `train` nor `val`"]),
        ("train: images\nnc: 4\nnames: [a]\n", 2, &["data.yaml:2:", "nc is 4"]),
        (
            "tarin: images\nval: images\nnames: [a]\n",
            2,
            &["data.yaml:1:1", "did you mean `train`"],
        ),
        ("train: [\n", 2, &["data.yaml:"]),
    ] {
        write(dir.path(), "data.yaml", yaml);
        yolo(dir.path(), &["data", "check", "data.yaml"]).fails(code, texts);
    }
    yolo(dir.path(), &["data", "check", "nowhere.yaml"]).fails(1, &["nowhere.yaml", "can't read the data set"]);
    // Commands that use the data say the same.
    write(dir.path(), "data.yaml", "train: nowhere\nval: images\nnames: [a]\n");
    yolo(
        dir.path(),
        &[
            "train",
            "--cfg",
            "yolov5n",
            "--data",
            "data.yaml",
            "--img",
            "64",
            "--epochs",
            "1",
        ],
    )
    .fails(1, &["data.yaml:1: ", "nowhere", "does not exist"]);
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn other_formats_are_converted_and_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    for (split, index) in [("train", 0), ("val", 1)] {
        picture(
            dir.path(),
            &format!("src/VisDrone2019-DET-{split}/images/{index}.jpg"),
            index,
        );
        write(
            dir.path(),
            &format!("src/VisDrone2019-DET-{split}/annotations/{index}.txt"),
            "8,8,16,16,1,4,0,0\n0,0,9,9,0,0,0,0\n",
        );
    }
    let arguments = [
        "data", "convert", "--format", "visdrone", "src", "--out", "made", "--json",
    ];
    let made = yolo(dir.path(), &arguments).ok().json();
    assert_eq!((made["images"].as_u64(), made["boxes"].as_u64()), (Some(2), Some(2)));
    assert_eq!(made["dropped"]["ignored"], 2);
    let label = std::fs::read_to_string(dir.path().join("made/labels/train/0.txt")).expect("labels");
    assert_eq!(label, "3 0.250000 0.250000 0.250000 0.250000\n");
    let checked = yolo(dir.path(), &["data", "check", "made/data.yaml", "--json"])
        .ok()
        .json();
    assert_eq!(checked["boxes"], 2);

    yolo(dir.path(), &arguments).fails(1, &["made/data.yaml", "already"]);
    yolo(
        dir.path(),
        &["data", "convert", "--format", "visdorne", "src", "--out", "x"],
    )
    .fails(2, &["visdorne", "did you mean `visdrone`"]);
    yolo(dir.path(), &["data", "convert", "--format", "voc", "src", "--out", "x"]).fails(1, &["src", "no XML files"]);
    yolo(
        dir.path(),
        &["data", "convert", "--format", "coco", "gone", "--out", "x"],
    )
    .fails(1, &["gone", "no such file or folder"]);
    // A row that can't be read is named, the rest is made, and the exit code tells.
    write(
        dir.path(),
        "src/VisDrone2019-DET-val/annotations/1.txt",
        "8,8,16,16,1,4,0,0\nnonsense\n",
    );
    let said = yolo(
        dir.path(),
        &["data", "convert", "--format", "visdrone", "src", "--out", "again"],
    );
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.out.contains("annotations/1.txt:2: "), "{}", said.out);
    assert!(dir.path().join("again/data.yaml").is_file());
    assert!(!dir.path().join("x").exists());
}

#[test]
fn losses_of_a_conversion_are_named_and_can_be_chosen() {
    let dir = tempfile::tempdir().expect("a folder");
    for index in 0..2 {
        picture(dir.path(), &format!("src/images/{index}.jpg"), index);
    }
    let file = serde_json::json!({
        "images": [{"id": 0, "file_name": "0.jpg"}, {"id": 1, "file_name": "1.jpg"}],
        "annotations": [
            {"id": 10, "image_id": 0, "category_id": 1, "bbox": [8, 8, 16, 16]},
            {"id": 11, "image_id": 1, "category_id": 1, "bbox": [8, 8, 16]},
            {"id": 12, "image_id": 1, "category_id": 1, "bbox": [8, 8, 16, 16], "iscrowd": true},
        ],
        "categories": [{"id": 1, "name": "a"}],
    });
    write(dir.path(), "src/annotations/instances_train.json", &file.to_string());
    let convert = |out: &str, more: &[&str]| {
        let base = ["data", "convert", "--format", "coco", "src", "--out", out, "--json"];
        yolo(dir.path(), &[&base[..], more].concat())
    };
    for (out, more, images, boxes) in [
        ("a", &[] as &[&str], 1, 1),
        ("b", &["--keep-incomplete"], 2, 1),
        ("c", &["--keep-incomplete", "--keep-crowd"], 2, 2),
    ] {
        let said = convert(out, more);
        assert_eq!(said.code, 1, "{}", said.err);
        let made = said.json();
        assert_eq!(
            (made["images"].as_u64(), made["boxes"].as_u64()),
            (Some(images), Some(boxes)),
            "{out}"
        );
        // The source has no split for validation, and training would refuse that.
        let said = yolo(dir.path(), &["data", "check", &format!("{out}/data.yaml"), "--json"]);
        assert_eq!(said.code, 1, "{}", said.err);
        let said = said.json();
        assert_eq!(
            (said["images"].as_u64(), said["boxes"].as_u64()),
            (Some(images), Some(boxes)),
            "{out}"
        );
    }
    let said = yolo(
        dir.path(),
        &["data", "convert", "--format", "coco", "src", "--out", "d"],
    );
    assert!(
        said.code == 1 && said.out.contains("annotation 11 (1.jpg): `bbox`"),
        "{}",
        said.out
    );
    assert!(said.out.contains("--keep-incomplete"), "the way out: {}", said.out);
    convert("e", &["--exif", "uprihgt"]).fails(2, &["uprihgt", "did you mean `upright`"]);
    assert!(!dir.path().join("e").exists());
}

#[test]
fn data_sets_of_other_systems_are_checked_from_the_working_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    picture(dir.path(), "mine/Images/0.jpg", 0);
    write(dir.path(), "mine/Images/._0.jpg", "Mac OS X");
    write(dir.path(), "mine/Images/Thumbs.db", "thumbs");
    write(dir.path(), "mine/Images/1.heic", "another picture");
    write(dir.path(), "mine/Labels/0.txt", "0.0\t0.5 0.5 0.25 0.25\r\n");
    write(
        dir.path(),
        "data/mine.yaml",
        "train: mine/Images\r\nval: mine\\Images\r\nnames: [1.10]\r\n",
    );
    let said = yolo(dir.path(), &["data", "check", "data/mine.yaml", "--json"])
        .ok()
        .json();
    assert_eq!(
        (said["images"].as_u64(), said["boxes"].as_u64()),
        (Some(1), Some(1)),
        "{said}"
    );
    assert_eq!(said["names"][0], "1.10");
    let kinds: Vec<&str> = said["problems"]
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|p| p["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["image-left-out", "split-overlap"], "{said}");
    std::fs::create_dir(dir.path().join("elsewhere")).expect("a folder");
    yolo(&dir.path().join("elsewhere"), &["data", "anchors", "../data/mine.yaml"]).fails(
        1,
        &["mine.yaml:1: ", "looked at", "../data/mine/Images", " mine/Images"],
    );
}

#[test]
fn anchors_fit_the_boxes_better_than_the_usual_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    yolo(
        dir.path(),
        &["data", "synth", "--out", "set", "--images", "20", "--img", "64"],
    )
    .ok();
    let arguments = [
        "data",
        "anchors",
        "set/data.yaml",
        "--img",
        "64",
        "--count",
        "6",
        "--generations",
        "100",
    ];
    let found = yolo(dir.path(), &[&arguments[..], &["--json"]].concat()).ok().json();
    let fitness = |name: &str| found[name]["fitness"].as_f64().expect("a number");
    assert!(fitness("fit") > fitness("usual"), "{found}");
    assert_eq!(found["anchors"].as_array().map(Vec::len), Some(6));
    let said = yolo(dir.path(), &arguments).ok().out;
    assert!(
        said.contains("best possible recall") && said.contains("  anchors:\n    - ["),
        "{said}"
    );
    yolo(dir.path(), &["data", "anchors", "set/data.yaml", "--count", "99999"]).fails(2, &["too few"]);
    // A head has no level with fewer anchors than the others.
    let count = |more: &[&str]| {
        yolo(
            dir.path(),
            &[&["data", "anchors", "set/data.yaml", "--count"], more].concat(),
        )
    };
    count(&["10"]).fails(2, &["--count 10", "multiple of 3", "--levels"]);
    count(&["10", "--levels", "4"]).fails(2, &["--count 10", "multiple of 4"]);
    let said = count(&["8", "--levels", "4", "--generations", "10"]).ok().out;
    assert_eq!(said.matches("    - [").count(), 4, "{said}");
}

#[cfg(unix)]
#[test]
fn a_pipe_among_the_images_ends_nothing_and_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let pipe = dir.path().join("data/images/val/pipe.jpg");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .expect("mkfifo");
    assert!(made.success());
    let data = data.display().to_string();
    let said = yolo(dir.path(), &["data", "check", &data]).fails(1, &[]).out;
    assert!(said.contains("pipe.jpg") && said.contains("a pipe"), "{said}");
}
