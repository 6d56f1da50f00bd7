//! Engines from the command line: what is there, what is not, and what crashes.

use std::path::{Path, PathBuf};

use yolo_export::checked::{Format, Request, write};
use yolo_export::deployed::Deployed;
use yolo_export::engine::{Engine as _, OpenVino, process};
use yolo_export::onnx::Profile;

use crate::support::{Said, command, random_weights, skip, small_data, tiny_model, yolo};

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

/// A folder with random weights of four classes.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = random_weights(&tiny_model(folder.path()), folder.path(), 4);
    (folder, weights)
}

fn export(folder: &Path, weights: &Path, format: &str, file: &str) -> Said {
    let weights = text(weights);
    yolo(
        folder,
        &[
            "export",
            "--weights",
            &weights,
            "--format",
            format,
            "--img",
            "64",
            "--out",
            file,
            "--no-check",
        ],
    )
    .ok()
}

/// Runs `yolo` on a machine that has none of the engines.
fn bare(folder: &Path, arguments: &[&str]) -> Said {
    let mut command = command(folder);
    command.env("ORT_DYLIB_PATH", folder.join("nothing.so"));
    command.env("YOLO_OPENVINO", folder.join("nothing"));
    command.env("YOLO_PYTHON", folder.join("no-python"));
    Said::from(command.args(arguments).output().expect("the binary starts"))
}

#[test]
fn the_doctor_lists_engines_and_how_to_get_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let found = bare(folder.path(), &["doctor", "--json"]).ok().json();
    let names: Vec<&str> = found["engines"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|e| e["name"].as_str())
        .collect();
    assert_eq!(names, ["torch", "onnxruntime", "openvino", "ncnn"]);
    for engine in &found["engines"].as_array().expect("a list")[1..] {
        assert_eq!(engine["available"], false, "{engine}");
        let reason = engine["reason"].as_str().expect("a reason");
        assert!(reason.contains("cargo xtask setup"), "{reason}");
    }
    let said = bare(folder.path(), &["doctor"]).ok().out;
    for part in [
        "engine onnxruntime",
        "engine openvino",
        "engine ncnn",
        "nothing",
        "no-python",
        "setup --engines",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_missing_engine_is_one_error_with_the_way_out() {
    let (folder, weights) = place();
    let data = text(&small_data(folder.path(), 10, 64));
    export(folder.path(), &weights, "onnx", "a.onnx");
    export(folder.path(), &weights, "ncnn", "a.param");
    let val = |file: &str, more: &[&str]| {
        bare(
            folder.path(),
            &[&["val", "--weights", file, "--data", &data], more].concat(),
        )
    };
    val("a.onnx", &[]).fails(
        1,
        &["onnxruntime is not available", "cargo xtask setup", "ORT_DYLIB_PATH"],
    );
    val("a.onnx", &["--engine", "openvino"])
        .fails(1, &["OpenVINO is not available", "setup --engines", "YOLO_OPENVINO"]);
    val("a.param", &[]).fails(1, &["ncnn is not available", "setup --engines", "YOLO_PYTHON"]);
    val("a.param", &["--engine", "openvino"]).fails(2, &["OpenVINO reads .xml and .onnx", "a.param"]);
    val("a.onnx", &["--engine", "openvin"]).fails(2, &["no engine `openvin`", "did you mean `openvino`"]);
    val("a.onnx", &["--engine", "openvino", "--device", "0"]).fails(2, &["--device 0", "on the CPU"]);
    val(&text(&weights), &["--engine", "openvino"]).fails(2, &["--engine openvino", "yolo export"]);
    bare(
        folder.path(),
        &["detect", "--weights", "a.param", "--source", "data/images/val"],
    )
    .fails(1, &["ncnn is not available"]);
}

/// What the engine did not run is said, and the file is written all the same.
#[test]
fn an_export_says_which_engine_did_not_run_it() {
    let (folder, weights) = place();
    let weights = text(&weights);
    let said = bare(
        folder.path(),
        &[
            "export",
            "--weights",
            &weights,
            "--format",
            "ncnn",
            "--img",
            "64",
            "--out",
            "a.param",
        ],
    )
    .ok();
    assert!(
        said.out.contains("not run by ncnn: ") && said.out.contains("setup --engines"),
        "{}",
        said.out
    );
    for file in ["a.param", "a.bin", "a.param.json"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

/// An engine that ends its process on a file, as OpenVINO does on some: one error, which names both, and no more.
#[cfg(unix)]
#[test]
fn a_crash_of_an_engine_is_an_error_of_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, weights) = place();
    export(folder.path(), &weights, "ncnn", "a.param");
    let answer = r#"{"version":"1"}"#;
    // Says its version when it is looked for, and crashes when it is to open a file.
    let script = format!(
        "#!/bin/sh\nif [ -e asked ]; then echo compiling >&2; kill -SEGV $$; fi\n: > asked\nprintf '\\{:03o}\\000\\000\\000%s' '{answer}'\ncat \
         > /dev/null\n",
        answer.len()
    );
    let python = folder.path().join("python");
    std::fs::write(&python, script).expect("a file");
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let data = text(&small_data(folder.path(), 10, 64));
    let mut command = command(folder.path());
    command.env("YOLO_PYTHON", &python);
    let said = Said::from(
        command
            .args(["val", "--weights", "a.param", "--data", &data])
            .output()
            .expect("it starts"),
    );
    said.fails(
        1,
        &["ncnn crashed on a.param", "segmentation fault", "it said: compiling"],
    );
}

#[test]
fn a_file_is_measured_and_detects_as_its_network() {
    let (folder, weights) = place();
    let data = text(&small_data(folder.path(), 10, 64));
    if let Err(reason) = yolo_export::ort::available() {
        skip::skipped("onnxruntime", reason);
        return;
    }
    export(folder.path(), &weights, "onnx", "a.onnx");
    let val = |weights: &str, more: &[&str]| {
        let fixed = [
            "val",
            "--weights",
            weights,
            "--data",
            &data,
            "--conf-thres",
            "0.0001",
            "--save-txt",
            "--save-conf",
            "--json",
        ];
        yolo(folder.path(), &[&fixed[..], more].concat())
    };
    let found = val("a.onnx", &["--save-dir", "file"]).ok().json();
    assert_eq!(found["engine"], "onnxruntime");
    assert!(
        found["instances"].as_u64() > Some(0) && found["speed_ms"]["inference"].as_f64() > Some(0.0),
        "{found}"
    );
    assert!(folder.path().join("file/labels").is_dir());
    val("a.onnx", &["--img", "96"]).fails(2, &["--img 96", "a.onnx takes 64 only", "export the model again"]);
    // Pictures that are squares of the file's size: both see the same pixels.
    let detect = |weights: &str| {
        let fixed = [
            "detect",
            "--weights",
            weights,
            "--source",
            "data/images/val",
            "--conf-thres",
            "0.0001",
            "--img",
            "64",
        ];
        yolo(folder.path(), &[&fixed[..], &["--nosave", "--json"]].concat())
            .ok()
            .json()
    };
    let (file, network) = (detect("a.onnx"), detect(&text(&weights)));
    let of = |found: &serde_json::Value| -> Vec<(String, f64, Vec<f64>)> {
        let images = found["images"].as_array().expect("images");
        let all = images
            .iter()
            .flat_map(|image| image["detections"].as_array().expect("detections"));
        all.map(|d| {
            let xyxy = d["xyxy"]
                .as_array()
                .expect("four")
                .iter()
                .filter_map(serde_json::Value::as_f64);
            (
                d["name"].to_string(),
                d["conf"].as_f64().expect("a score"),
                xyxy.collect(),
            )
        })
        .collect()
    };
    let (file, network) = (of(&file), of(&network));
    assert!(
        !file.is_empty() && file.len() == network.len(),
        "{} {}",
        file.len(),
        network.len()
    );
    for ((name, conf, xyxy), (same, score, corners)) in file.iter().zip(&network) {
        assert_eq!(name, same);
        assert!((conf - score).abs() < 1e-4, "{conf} {score}");
        assert!(
            xyxy.iter().zip(corners).all(|(a, b)| (a - b).abs() < 0.05),
            "{xyxy:?} {corners:?}"
        );
    }
}

/// OpenVINO itself, in a process of the program: float and integer files, also the one that it used to crash on.
#[test]
fn openvino_computes_what_the_network_computes() {
    process::started_by(env!("CARGO_BIN_EXE_yolo").into(), &["engine-worker"]);
    if let Err(reason) = OpenVino.find() {
        skip::skipped("OpenVINO (cargo xtask setup --engines)", reason);
        return;
    }
    let (folder, weights) = place();
    let model = yolo_engine::checkpoint::load(&weights).expect("the checkpoint");
    let request = Request {
        profile: Profile::OpenVino,
        batch: None,
        ..Request::new(Format::Onnx, [64; 2])
    };
    let path = folder.path().join("a.onnx");
    let written = write(&model.graph, &model.params, &request, &path).expect("a file");
    let ran = written.ran.expect("it was asked for");
    let found = ran.difference.unwrap_or_else(|| panic!("{:?}", ran.not_run));
    assert!(
        ran.engine == "OpenVINO" && found.boxes < 0.01 && found.scores < 1e-4,
        "{found:?}"
    );
    let data = text(&small_data(folder.path(), 10, 64));
    for backend in ["onnxruntime", "openvino", "tensorrt"] {
        let out = folder.path().join(backend);
        yolo(
            folder.path(),
            &[
                "quantize",
                "--weights",
                &text(&weights),
                "--data",
                &data,
                "--backend",
                backend,
                "--calib-batches",
                "2",
                "--batch-size",
                "2",
                "--workers",
                "1",
                "--img",
                "64",
                "--out",
                &text(&out),
            ],
        )
        .ok();
        // The form for onnxruntime opens, too.
        let file = out.join("random_qdq.onnx");
        let mut int8 = Deployed::open(&file, &OpenVino, 1).unwrap_or_else(|error| panic!("{backend}: {error}"));
        let boxes = int8.predict(&yolo_core::testing::input(1, 3, 64, 64)).expect("boxes");
        assert_eq!(boxes.size(), [1, 252, 9], "{backend}");
        // The others are for other engines.
        if backend != "openvino" {
            continue;
        }
        let quantized = yolo_engine::checkpoint::load(&out.join("quantized.safetensors")).expect("it");
        let request = Request {
            profile: Profile::OpenVino,
            ..Request::new(Format::OnnxQdq, [64; 2])
        };
        let written = write(&quantized.graph, &quantized.params, &request, &out.join("b.onnx")).expect("a file");
        let ran = written.ran.expect("it was asked for");
        assert!(ran.grid_errors.is_some(), "{backend}: {ran:?}");
    }
    // Images per second are those of the file's batch.
    let name = text(&weights);
    let export = [
        "export",
        "--weights",
        &name,
        "--img",
        "64",
        "--batch-size",
        "3",
        "--out",
        "b3.onnx",
    ];
    yolo(folder.path(), &export).ok();
    let bench = [
        "bench",
        "--weights",
        "b3.onnx",
        "--engine",
        "openvino",
        "--runs",
        "3",
        "--json",
    ];
    // With the engine that is installed, which the tests' own command hides.
    let mut line = command(folder.path());
    line.args(bench).env_remove("YOLO_OPENVINO");
    let rows = Said::from(line.output().expect("it starts")).ok().json();
    let number = |key: &str| rows["rows"][0][key].as_f64().expect("a number");
    assert!((number("fps") * number("ms_median") - 3000.0).abs() < 1e-6, "{rows}");
    // What it refuses is an error with its reason.
    std::fs::write(
        folder.path().join("c.xml"),
        "<net name=\"x\" version=\"11\"><layers></layers></net>",
    )
    .expect("a file");
    let error = Deployed::open(&folder.path().join("c.xml"), &OpenVino, 1)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("c.xml"), "{error}");
}

/// What TensorRT alone can run is said to be so, where another engine is given it.
#[test]
fn a_file_for_tensorrt_alone_is_named_as_such() {
    if let Err(reason) = yolo_export::ort::available() {
        skip::skipped("onnxruntime", reason);
        return;
    }
    let (folder, weights) = place();
    let weights = text(&weights);
    let export = [
        "export",
        "--weights",
        &weights,
        "--img",
        "64",
        "--nms",
        "tensorrt",
        "--out",
        "a.onnx",
    ];
    yolo(folder.path(), &export).ok();
    yolo_data::Image::filled(64, 64, [90; 3])
        .save(&folder.path().join("a.png"))
        .expect("a picture");
    let said = yolo(folder.path(), &["detect", "--weights", "a.onnx", "--source", "a.png"]);
    said.fails(
        1,
        &["a.onnx", "EfficientNMS_TRT, which only TensorRT runs", "--nms standard"],
    );
}
