//! `yolo detect` against the reference's boxes, its pictures, label files and refusals; the raw maps from lossless pictures.

use std::path::Path;

use serde_json::Value;
use tch::Tensor;
use yolo_data::Image;
use yolo_engine::eval::box_iou;

use crate::support::{self, files, read_json, shared, yolo};

fn numbers(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| v.as_f64().expect("a number") as f32)
        .collect()
}

fn corners(value: &Value) -> [f32; 4] {
    numbers(value).try_into().expect("four numbers")
}

/// The reference's detections of a picture at its minimal rectangle, best first.
fn golden(reference: &Value, image: &str) -> Vec<Value> {
    let runs = reference["models"]["yolov5n"]["runs"].as_array().expect("runs");
    let run = runs
        .iter()
        .find(|run| run["image"] == image && run["auto"] == true)
        .expect("a run");
    run["detections"].as_array().expect("detections").clone()
}

#[test]
fn both_pictures_have_the_boxes_of_the_reference() {
    let (Some(weights), Some(images), Some(reference)) = (
        shared("data/weights/yolov5n.pt"),
        shared("data/images"),
        shared("reference/golden_detect.json"),
    ) else {
        return;
    };
    let reference = read_json(&reference);
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, images) = (weights.display().to_string(), images.display().to_string());
    let arguments = [
        "detect",
        "--weights",
        &weights,
        "--source",
        &images,
        "--json",
        "--save-txt",
        "--save-conf",
        "--save-dir",
        "out",
    ];
    let found = yolo(folder.path(), &arguments).ok().json();
    assert_eq!(found["images"].as_array().map(Vec::len), Some(2));
    for (row, (name, [w, h])) in found["images"]
        .as_array()
        .expect("rows")
        .iter()
        .zip([("bus.jpg", [810, 1080]), ("zidane.jpg", [1280, 720])])
    {
        assert!(row["path"].as_str().is_some_and(|path| path.ends_with(name)));
        assert_eq!((row["width"].as_u64(), row["height"].as_u64()), (Some(w), Some(h)));
        let expected = golden(&reference, name);
        let detections = row["detections"].as_array().expect("detections");
        assert_eq!(detections.len(), expected.len(), "{name}: {detections:?}");
        for (got, want) in detections.iter().zip(&expected) {
            assert_eq!((&got["class"], &got["name"]), (&want["class"], &want["name"]), "{name}");
            let iou = box_iou(corners(&got["xyxy"]), corners(&want["xyxy"]));
            assert!(iou >= 0.99, "{name}: IoU {iou} of {got} and {want}");
            let difference = (got["conf"].as_f64().expect("a number") - want["conf"].as_f64().expect("a number")).abs();
            assert!(difference <= 0.01, "{name}: {got} {want}");
        }
        let picture = Image::open(&folder.path().join(row["saved"].as_str().expect("a path"))).expect("a picture");
        assert_eq!((picture.width as u64, picture.height as u64), (w, h));
    }
    assert_eq!(
        files(&folder.path().join("out")),
        ["bus.jpg", "labels/bus.txt", "labels/zidane.txt", "zidane.jpg"]
    );
    check_label_file(&folder.path().join("out/labels/bus.txt"), &found["images"][0]);
}

/// Rows `class cx cy w h conf` that say the same as the JSON.
fn check_label_file(path: &Path, row: &Value) {
    let text = std::fs::read_to_string(path).expect("a label file");
    let detections = row["detections"].as_array().expect("detections");
    assert_eq!(text.lines().count(), detections.len());
    for (line, detection) in text.lines().zip(detections) {
        let v: Vec<f32> = line.split(' ').map(|field| field.parse().expect("a number")).collect();
        assert_eq!(v[0], detection["class"].as_f64().expect("a number") as f32);
        let (w, h) = (
            row["width"].as_f64().expect("w") as f32,
            row["height"].as_f64().expect("h") as f32,
        );
        let back = [
            (v[1] - v[3] / 2.0) * w,
            (v[2] - v[4] / 2.0) * h,
            (v[1] + v[3] / 2.0) * w,
            (v[2] + v[4] / 2.0) * h,
        ];
        let far = back
            .iter()
            .zip(corners(&detection["xyxy"]))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        // Six decimals of a share of 1080 pixels.
        assert!(far < 0.01, "{line} {detection}");
        assert!((v[5] - detection["conf"].as_f64().expect("conf") as f32).abs() < 1e-5);
    }
}

#[test]
fn raw_maps_from_the_lossless_picture_equal_the_reference() {
    let (Some(weights), Some(folder)) = (shared("data/weights/yolov5n.pt"), shared("reference/raw_yolov5n")) else {
        return;
    };
    let picture = Image::open(&folder.join("zidane_letterbox_640x384.png")).expect("a picture");
    let pixels = Tensor::from_slice(&picture.data)
        .reshape([384, 640, 3])
        .permute([2, 0, 1])
        .unsqueeze(0);
    let work = tempfile::tempdir().expect("a folder");
    let (input, output) = (work.path().join("in.safetensors"), work.path().join("out.safetensors"));
    let images = pixels.to_kind(tch::Kind::Float) / 255.0;
    yolo_engine::checkpoint::write_tensors(&input, [("images", &images)], Default::default()).expect("a file");
    let weights = weights.display().to_string();
    let arguments = [
        "forward",
        "--weights",
        &weights,
        "--input",
        "in.safetensors",
        "--output",
        "out.safetensors",
    ];
    yolo(work.path(), &arguments).ok();
    let ours = yolo_engine::checkpoint::read_tensors(&output).expect("maps").tensors;
    let golden = yolo_engine::checkpoint::read_tensors(&folder.join("yolov5n_zidane_384x640_raw.safetensors"));
    let golden = golden.expect("maps").tensors;
    let far = |ours: &Tensor, golden: &Tensor| (ours - golden).abs().max().double_value(&[]);
    for level in 0..3 {
        let (got, want) = (&ours[&format!("raw.{level}")], &golden[&format!("map{level}")]);
        assert_eq!(got.size(), want.size());
        let difference = far(got, want);
        assert!(difference <= 1e-3, "level {level}: {difference}");
    }
    let (got, want) = (&ours["decoded"], &golden["pred"]);
    // Scores, and boxes in pixels relative to the picture's side.
    assert!(far(&got.narrow(2, 4, 81), &want.narrow(2, 4, 81)) <= 1e-3);
    assert!(far(&got.narrow(2, 0, 4), &want.narrow(2, 0, 4)) <= 0.64);
}

#[test]
fn the_letterbox_is_the_reference_s() {
    let (Some(images), Some(reference)) = (shared("data/images"), shared("reference/raw_yolov5n")) else {
        return;
    };
    for (name, golden, auto) in [
        ("bus.jpg", "bus_letterbox_480x640.png", true),
        ("bus.jpg", "bus_letterbox_640x640.png", false),
        ("zidane.jpg", "zidane_letterbox_640x384.png", true),
        ("zidane.jpg", "zidane_letterbox_640x640.png", false),
    ] {
        let image = Image::open(&images.join(name)).expect("a picture");
        let golden = Image::open(&reference.join(golden)).expect("a picture");
        let boxed = yolo_data::letterbox::letterbox(&image, &yolo_data::letterbox::Letterbox::square(640, auto, 32)).0;
        assert_eq!((boxed.width, boxed.height), (golden.width, golden.height));
        // Our JPEG decoder differs from the reference's by up to 4 levels in single pixels.
        let differences = boxed.data.iter().zip(&golden.data).map(|(a, b)| a.abs_diff(*b));
        let (worst, sum) = differences.fold((0, 0u64), |(worst, sum), d| (worst.max(d), sum + u64::from(d)));
        assert!(worst <= 4, "{name}: {worst}");
        assert!((sum as f64) < 0.5 * golden.data.len() as f64, "{name}: {sum}");
    }
}

/// A model with random weights and a picture.
fn random_model(folder: &Path) -> (String, String) {
    let config = support::tiny_model(folder);
    let weights = support::random_weights(&config, folder, 3);
    let image = folder.join("ground.png");
    yolo_data::synth::picture(160, 1, 0).0.save(&image).expect("a picture");
    (weights.display().to_string(), image.display().to_string())
}

#[test]
fn options_choose_what_is_found_and_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, image) = random_model(folder.path());
    let run = |more: &[&str]| {
        let base = [
            "detect",
            "--weights",
            &weights,
            "--source",
            &image,
            "--img",
            "160",
            "--json",
        ];
        yolo(folder.path(), &[&base, more].concat())
    };
    let all = run(&["--conf-thres", "0", "--nosave", "--agnostic-nms"]).ok().json();
    let all = all["images"][0]["detections"].as_array().expect("detections").clone();
    assert!(all.len() > 3, "random weights see something everywhere: {}", all.len());
    assert!(!folder.path().join("runs").exists(), "--nosave writes nothing");

    let two = run(&["--conf-thres", "0", "--nosave", "--agnostic-nms", "--max-det", "2"])
        .ok()
        .json();
    assert_eq!(
        two["images"][0]["detections"].as_array().expect("detections")[..],
        all[..2]
    );
    let one_class = run(&["--conf-thres", "0", "--nosave", "--classes", "thing1"])
        .ok()
        .json();
    assert!(
        one_class["images"][0]["detections"]
            .as_array()
            .expect("detections")
            .iter()
            .all(|d| d["class"] == 1)
    );

    // A number is a class's number, also where another class is called by it, which is said.
    let path = folder.path().join("numbered.safetensors");
    let mut model = yolo_engine::checkpoint::load(weights.as_ref()).expect("the checkpoint");
    model.meta.names = (0..model.meta.names.len())
        .map(|class| ((class + 1) % 3).to_string())
        .collect();
    yolo_engine::checkpoint::save(&path, &model).expect("a file");
    let numbered = path.display().to_string();
    let line = [
        "detect",
        "--weights",
        &numbered,
        "--source",
        &image,
        "--img",
        "160",
        "--json",
        "--conf-thres",
        "0",
        "--nosave",
    ];
    let said = yolo(folder.path(), &[&line[..], &["--classes", "1"]].concat()).ok();
    assert!(
        said.err
            .contains("--classes 1 is class 1, `2`; the class that is called `1` is class 0"),
        "{}",
        said.err
    );
    let found = said.json()["images"][0]["detections"]
        .as_array()
        .expect("detections")
        .clone();
    assert!(!found.is_empty() && found.iter().all(|d| d["class"] == 1), "{found:?}");

    // A second run gets a folder of its own.
    for wanted in ["runs/detect/exp/ground.png", "runs/detect/exp2/ground.png"] {
        assert_eq!(run(&["--conf-thres", "0"]).ok().json()["images"][0]["saved"], wanted);
    }
}

#[test]
fn pictures_of_one_name_keep_apart_and_unreadable_ones_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, image) = random_model(folder.path());
    for sub in ["a", "b"] {
        std::fs::create_dir(folder.path().join(sub)).expect("a folder");
        std::fs::copy(&image, folder.path().join(sub).join("x.png")).expect("a copy");
    }
    std::fs::write(folder.path().join("b/torn.jpg"), b"\xff\xd8\xff\xe0torn").expect("a file");
    let arguments = [
        "detect",
        "--weights",
        &weights,
        "--source",
        "*/*.[pj][np]g",
        "--img",
        "160",
        "--save-dir",
        "out",
        "--save-txt",
    ];
    let said = yolo(folder.path(), &arguments).fails(1, &["b/torn.jpg", "1 of 3 pictures can't be read"]);
    assert_eq!(
        said.out.lines().filter(|line| line.contains("x.png")).count(),
        2,
        "{}",
        said.out
    );
    assert_eq!(
        files(&folder.path().join("out")),
        ["labels/x-2.txt", "labels/x.txt", "x-2.png", "x.png"],
        "what can be read is done"
    );
}

#[test]
fn wrong_sources_and_options_are_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let (weights, image) = random_model(folder.path());
    std::fs::create_dir(folder.path().join("empty")).expect("a folder");
    std::fs::write(folder.path().join("notes.txt"), "x").expect("a file");
    let run = |source: &str, more: &[&str]| {
        yolo(
            folder.path(),
            &[&["detect", "--weights", &weights, "--source", source], more].concat(),
        )
    };
    run("nowhere.jpg", &[]).fails(1, &["nowhere.jpg", "no such file"]);
    run("empty", &[]).fails(1, &["empty", "no pictures"]);
    run("*.gif", &[]).fails(1, &["*.gif", "no pictures"]);
    run("notes.txt", &[]).fails(1, &["notes.txt:1", "x is not there"]);
    std::fs::write(folder.path().join("notes.md"), "x").expect("a file");
    run("notes.md", &[]).fails(2, &["notes.md", "no picture", "jpg"]);
    run(&image, &["--classes", "thing9"]).fails(2, &["no class `thing9`", "did you mean `thing"]);
    run(&image, &["--classes", "7"]).fails(2, &["classes 0 to 2"]);
    run(&image, &["--conf-thres", "25"]).fails(2, &["--conf-thres 25", "0 to 1"]);
    run(&image, &["--img", "0"]).fails(2, &["--img 0"]);
    run(&image, &["--device", "cuda"]).fails(2, &["--device cuda", "cpu"]);
    run(&image, &["--save-dir", "notes.txt"]).fails(1, &["notes.txt"]);
    assert!(!folder.path().join("runs").exists());
}
