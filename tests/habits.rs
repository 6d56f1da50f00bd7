//! What people type who come from YOLOv5's scripts.

use std::path::Path;

use serde_json::Value;

use crate::support::{Said, files, random_weights, small_data, tiny_model, yolo};

fn place() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    small_data(folder.path(), 12, 64);
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4);
    (folder, weights.display().to_string())
}

fn train(folder: &Path, more: &[&str]) -> Said {
    let base = [
        "train",
        "--cfg",
        "tiny.yaml",
        "--data",
        "data/data.yaml",
        "--noplots",
        "--epochs",
        "1",
    ];
    yolo(folder, &[&base, more].concat())
}

fn last_line(said: &Said) -> Value {
    serde_json::from_str(said.out.lines().last().unwrap_or_default()).expect("JSON")
}

#[test]
fn train_takes_the_words_of_train_py() {
    let (folder, _) = place();
    let said = train(
        folder.path(),
        &[
            "--weights",
            "",
            "--img-size",
            "64",
            "--batch",
            "4",
            "--device",
            "",
            "--cache",
            "--save_period",
            "1",
            "--label-smoothing",
            "0.1",
            "--nosave",
            "--adam",
            "--local_rank",
            "-1",
            "--bucket",
            "",
            "--name",
            "a",
        ],
    )
    .ok();
    assert!(
        said.err.contains("--nosave:"),
        "a flag that changes nothing is said to: {}",
        said.err
    );
    let written = files(&folder.path().join("runs/train/a"));
    assert!(
        written.contains(&"weights/epoch1.safetensors".to_owned()),
        "{written:?}"
    );
    let options = crate::support::read_json(&folder.path().join("runs/train/a/options.json"));
    assert_eq!(
        (&options["optimizer"], &options["cache"], &options["label_smoothing"]),
        (&"adam".into(), &"ram".into(), &0.1.into())
    );
    assert_eq!(options["weights"], Value::Null);
    // Abbreviations as argparse takes them, and of what is said twice the last.
    train(
        folder.path(),
        &[
            "--imgsz",
            "64",
            "--batch-size",
            "4",
            "--batch",
            "-1",
            "--save-period",
            "-1",
            "--work",
            "1",
            "--rect",
            "--exist_ok",
            "--name",
            "b",
        ],
    )
    .ok();
    let auto = train(
        folder.path(),
        &["--img", "64", "--batch-size", "auto", "--image-weights", "--name", "c"],
    )
    .ok();
    assert!(auto.err.contains("on the CPU it is 16"), "{}", auto.err);
}

#[test]
fn train_says_what_to_do_in_place_of_what_is_not_there() {
    let (folder, _) = place();
    for (more, texts) in [
        (&["--quad"][..], &["--quad", "--img 1280"][..]),
        (&["--label-smoothing", "1.5"], &["--label-smoothing 1.5", "from 0 to 1"]),
        (&["--cache", "gpu"], &["--cache", "ram", "disk"]),
        (&["--resume_evolve", "x"], &["--evolve N --resume"]),
        (&["--save-period", "often"], &["--save-period", "often"]),
    ] {
        train(folder.path(), more).fails(2, texts);
    }
    assert!(!folder.path().join("runs").exists(), "nothing is written");
}

#[test]
fn caches_change_the_speed_and_nothing_else() {
    let (folder, _) = place();
    let map = |name: &str, more: &[&str]| {
        let base = [
            "--img",
            "64",
            "--batch-size",
            "4",
            "--epochs",
            "2",
            "--name",
            name,
            "--seed",
            "3",
        ];
        let base: Vec<&str> = base.iter().chain(more).copied().collect();
        let said = train(folder.path(), &base[..]);
        assert_eq!(said.code, 0, "{}", said.err);
        let run = folder.path().join("runs/train").join(name);
        let rows = std::fs::read_to_string(run.join("results.csv")).expect("results");
        let line = last_line(&said);
        // The name of the events holds the time.
        let files: Vec<String> = files(&run)
            .into_iter()
            .filter(|file| !file.starts_with("events."))
            .collect();
        (rows, line["map"].clone(), files)
    };
    let plain = map("plain", &[]);
    for (name, more) in [("ram", &["--cache", "ram"]), ("disk", &["--cache", "disk"])] {
        let cached = map(name, more);
        assert_eq!(
            (&plain.0, &plain.1, &plain.2),
            (&cached.0, &cached.1, &cached.2),
            "{name}"
        );
    }
}

#[test]
fn val_and_detect_take_the_words_of_their_scripts() {
    let (folder, weights) = place();
    let val = |more: &[&str]| {
        yolo(
            folder.path(),
            &[&["val", "--weights", &weights, "--data", "data/data.yaml"], more].concat(),
        )
    };
    let said = val(&[
        "--img-size",
        "64",
        "--batch",
        "4",
        "--conf",
        "0.01",
        "--iou",
        "0.5",
        "--half",
        "--verbose",
        "--json",
    ])
    .ok();
    assert!(said.err.contains("--half: ") && said.json()["images"].is_number());
    val(&["--augment"]).fails(2, &["--augment", "test-time"]);
    val(&["--task", "speed"]).fails(2, &["--task speed", "yolo bench"]);
    val(&["--save-hybrid"]).fails(2, &["--save-txt"]);
    let detect = |more: &[&str]| {
        yolo(
            folder.path(),
            &[&["detect", "--weights", &weights, "--source", "data/images/val"], more].concat(),
        )
    };
    let said = detect(&[
        "--img",
        "64",
        "64",
        "--conf",
        "0.9",
        "--view-img",
        "--data",
        "x.yaml",
        "--line-thickness",
        "1",
        "--hide-labels",
    ])
    .ok();
    assert!(
        said.err.contains("--view-img: ") && said.err.contains("--data: "),
        "{}",
        said.err
    );
    detect(&["--visualize"]).fails(2, &["--visualize", "--graph"]);
    yolo(
        folder.path(),
        &["detect", "--weights", &weights, "b.pt", "--source", "0"],
    )
    .fails(2, &["`b.pt` is a second one"]);
}

#[test]
fn export_takes_rectangles_formats_and_opsets() {
    let (folder, weights) = place();
    let export = |more: &[&str]| {
        yolo(
            folder.path(),
            &[&["export", "--weights", &weights, "--json"], more].concat(),
        )
    };
    let said = export(&[
        "--include",
        "onnx",
        "--img",
        "96",
        "160",
        "--opset",
        "12",
        "--simplify",
        "--out",
        "rect.onnx",
    ])
    .ok()
    .json();
    assert_eq!(said["img"], serde_json::json!([96, 160]));
    let model = yolo_export::onnx::proto::ModelProto::read(&folder.path().join("rect.onnx")).expect("a file");
    assert_eq!(model.opset_import[0].version, 12);
    assert_eq!(model.graph.expect("a graph").input[0].dims(), [1, 3, 96, 160].map(Some));
    for opset in [11, 13, 17] {
        let name = format!("o{opset}.onnx");
        let said = export(&["--img", "64", "--opset", &opset.to_string(), "--out", &name])
            .ok()
            .json();
        if yolo_export::ort::available().is_ok() {
            assert!(said["max_abs_diff"].is_number(), "opset {opset} is run: {said}");
        }
    }
    export(&["--img", "64", "--opset", "9", "--out", "o.onnx"]).fails(1, &["opset 9", "11 to"]);
    // Several formats, into a folder; without one, beside the weights.
    let both = export(&["--include", "onnx", "ncnn", "--img", "64", "--out", "both/"])
        .ok()
        .json();
    assert_eq!(both["exports"].as_array().map(Vec::len), Some(2), "{both}");
    assert_eq!(
        files(&folder.path().join("both")),
        [
            "random.bin",
            "random.onnx",
            "random.onnx.json",
            "random.param",
            "random.param.json"
        ]
    );
    export(&["--img", "64", "--out", "both"]).ok();
    export(&["--include", "onnx,ncnn", "--img", "64", "--out", "one.onnx"])
        .fails(2, &["several formats go into a folder"]);
    export(&["--img", "64", "--nms", "--agnostic-nms", "--dynamic"]).ok();
    assert!(folder.path().join("random.onnx").is_file());
    for (more, texts) in [
        (&["--include", "engine"][..], &["engine", "trtexec"][..]),
        (&["--include", "torchscript"], &["torchscript", "--format onnx"]),
        (&["--include", "onxx"], &["onxx", "did you mean `onnx`"]),
        (&["--int8"], &["yolo quantize"]),
        (&["--half"], &["--half"]),
        (&["--img", "64", "96", "128"], &["128"]),
    ] {
        export(more).fails(2, texts);
    }
}

/// The system's fonts decide which names can be drawn; what they can't is noted once, and every picture is written.
#[test]
fn names_in_other_scripts_are_drawn_or_noted_once() {
    let (folder, weights) = place();
    let names = ["红细胞", "쌀밥", "ڕوبەڕوو", "клетка"];
    let mut model = yolo_engine::checkpoint::load(Path::new(&weights)).expect("a model");
    model.meta.names = names.map(str::to_owned).to_vec();
    yolo_engine::checkpoint::save(Path::new(&weights), &model).expect("a file");
    let yaml = format!(
        "path: data\ntrain: images/train\nval: images/val\nnames: [{}]\n",
        names.join(", ")
    );
    std::fs::write(folder.path().join("names.yaml"), yaml).expect("a file");

    let all = ["--conf-thres", "0", "--max-det", "40", "--img", "64"];
    let detect = [
        "detect",
        "--weights",
        &weights,
        "--source",
        "data/images/val",
        "--save-dir",
        "d",
    ];
    let said = yolo(folder.path(), &[&detect[..], &all].concat()).ok();
    let notes = said.err.matches("no font here has the letters of").count();
    let letters = yolo_report::Letters::default();
    let lacking = names
        .iter()
        .filter(|name| said.out.contains(*name) && !letters.have(name))
        .count();
    assert_eq!(notes, usize::from(lacking > 0), "{}", said.err);
    assert!(!files(&folder.path().join("d")).is_empty());

    let train = [
        "train",
        "--weights",
        &weights,
        "--data",
        "names.yaml",
        "--epochs",
        "1",
        "--img",
        "64",
        "--batch-size",
        "4",
    ];
    let said = yolo(folder.path(), &train).ok();
    assert!(said.err.matches("no font here").count() <= 1, "{}", said.err);
    let written = files(&folder.path().join("runs/train/exp"));
    assert!(written.iter().any(|file| file == "val_pictures.jpg"), "{written:?}");
}
