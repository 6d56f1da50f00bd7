//! What stands there already, or is said twice: nothing of it is lost or passed over without a word.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{command, random_weights, small_data, tiny_model, yolo};

fn place() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64).display().to_string();
    random_weights(&tiny_model(dir.path()), dir.path(), 4);
    (dir, data)
}

/// `yolo quantize` into `out`, small enough for a test.
fn quantize<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = [
        "quantize",
        "--weights",
        "random.safetensors",
        "--data",
        data,
        "--img",
        "64",
        "--batch-size",
        "4",
    ];
    [
        &own,
        &["--calib-batches", "1", "--backend", "tensorrt", "--out", "out"][..],
        more,
    ]
    .concat()
}

#[test]
fn two_quantizations_never_write_into_one_folder() {
    let (dir, data) = place();
    let folder = dir.path().join("out");
    std::fs::create_dir(&folder).expect("a folder");
    let held = std::fs::File::open(&folder).expect("the folder");
    held.lock().expect("nobody has it");
    yolo(dir.path(), &quantize(&data, &[])).fails(2, &["out", "another process is at work"]);
    assert_eq!(std::fs::read_dir(&folder).expect("the folder").count(), 0);
    drop(held);
    yolo(dir.path(), &quantize(&data, &[])).ok();
    let again = yolo(dir.path(), &quantize(&data, &[])).ok();
    assert!(
        again
            .err
            .contains("quantized.safetensors is there and will be replaced"),
        "{}",
        again.err
    );
}

#[test]
fn epochs_of_a_qat_that_was_stopped_are_not_lost() {
    let (dir, data) = place();
    let long = quantize(&data, &["--qat-epochs", "400"]);
    let mut started = command(dir.path());
    started.args(&long).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = started.spawn().expect("yolo starts");
    let state = dir.path().join("out/qat/state.safetensors");
    let start = Instant::now();
    // The state is written behind the row.
    let rows = || std::fs::read_to_string(dir.path().join("out/qat/results.csv")).map_or(0, |csv| csv.lines().count());
    while rows() < 3 && start.elapsed() < Duration::from_secs(240) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .arg(&id)
            .status()
            .expect("kill")
            .success()
    );
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        said.contains("continue with the same command and --resume") && !said.contains("yolo train"),
        "{said}"
    );
    let kept = std::fs::read(&state).expect("the state");
    yolo(dir.path(), &quantize(&data, &["--qat-epochs", "1"])).fails(2, &["unfinished QAT", "--resume"]);
    assert!(kept == std::fs::read(&state).expect("the state"), "nothing is touched");
}

#[test]
fn the_last_of_two_sizes_counts() {
    let (dir, _) = place();
    let export = |more: &[&str]| {
        yolo(
            dir.path(),
            &[
                &["export", "--weights", "random.safetensors", "--out", "a.onnx", "--json"],
                more,
            ]
            .concat(),
        )
    };
    for given in [
        &["--img", "320", "--img", "64"][..],
        &["--img", "96", "64", "--img", "64"],
    ] {
        let told = export(given).ok().json();
        assert_eq!(told["img"], 64, "{told}");
    }
    export(&["--img", "64", "64", "64"]).fails(2, &[]);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_above_is_no_other_picture() {
    let (dir, _) = place();
    let pictures = dir.path().join("data/images/val");
    let count = std::fs::read_dir(&pictures).expect("pictures").count();
    std::os::unix::fs::symlink(&pictures, pictures.join("loop")).expect("a link");
    let line = [
        "detect",
        "--weights",
        "random.safetensors",
        "--source",
        "data/images/val/**/*",
        "--img",
        "64",
        "--nosave",
        "--json",
    ];
    let told = yolo(dir.path(), &line).ok();
    assert_eq!(told.json()["images"].as_array().map(Vec::len), Some(count));
    assert!(told.err.contains("files that are taken already"), "{}", told.err);
}

/// A description that was written for another file is said to be.
#[test]
fn a_description_of_another_file_is_said() {
    let (dir, _) = place();
    let export = |out: &str, more: &[&str]| {
        let line = ["export", "--weights", "random.safetensors", "--img", "64", "--out", out];
        yolo(dir.path(), &[&line, more].concat()).ok();
    };
    export("a.onnx", &[]);
    export("b.onnx", &["--opset", "17"]);
    if !engine_is_there(dir.path()) {
        return;
    }
    let detect = |file: &str| {
        yolo(
            dir.path(),
            &["detect", "--weights", file, "--source", "data/images/val", "--nosave"],
        )
    };
    assert!(!detect("a.onnx").ok().err.contains("written for another file"));
    std::fs::copy(dir.path().join("b.onnx.json"), dir.path().join("a.onnx.json")).expect("a copy");
    let told = detect("a.onnx").ok();
    assert!(
        told.err
            .contains("a.onnx.json was written for another file than a.onnx"),
        "{}",
        told.err
    );
    yolo(
        dir.path(),
        &["bench", "--weights", "a.onnx", "--batch-size", "4", "--runs", "1"],
    )
    .fails(1, &["batches of 1", "--batch-size"]);
}

fn engine_is_there(folder: &Path) -> bool {
    let told = yolo(folder, &["doctor", "--json"]).ok().json();
    let there = told["engines"].as_array().is_some_and(|engines| {
        engines
            .iter()
            .any(|engine| engine["name"] == "onnxruntime" && engine["available"] == true)
    });
    if !there {
        crate::support::skip::skipped("onnxruntime", "onnxruntime is not there");
    }
    there
}

/// Two answers to one question are refused before work starts.
#[test]
fn settings_that_contradict_each_other_are_refused() {
    let (dir, data) = place();
    let run = |command: &str, more: &[&str]| {
        let base = [
            command,
            "--weights",
            "random.safetensors",
            "--data",
            &data,
            "--img",
            "64",
            "--out",
            "x.safetensors",
        ];
        yolo(dir.path(), &[&base, more].concat())
    };
    let prune = |more: &[&str]| run("prune", more);
    let own = "{type: oneshot, metric: l2, ratio: 0.1}";
    prune(&["--pruner", own, "--flops", "0.5"]).fails(2, &["`ratio: 0.1`", "`flops: 0.5`", "give one of them"]);
    prune(&["--pruner", own, "--params", "0.5"]).fails(2, &["`params: 0.5`"]);
    let own = "{type: oneshot, metric: l2}";
    prune(&["--pruner", own, "--metric", "random", "--flops", "0.5"]).fails(2, &["two metrics are named"]);
    prune(&["--metric", "l1", "--set", "metric=l2", "--flops", "0.5"]).fails(2, &["two metrics are named"]);
    run("quantize", &["--max-drop", "0.5"]).fails(2, &["--max-drop 0.5", "--float-layers auto"]);
    assert!(!dir.path().join("x.safetensors").exists());
}

/// A training of fewer images than the nominal batch learns, and says how seldom.
#[test]
fn a_few_images_are_learned_from() {
    let (dir, data) = place();
    let train = |name: &str, more: &[&str]| {
        let base = [
            "train",
            "--weights",
            "random.safetensors",
            "--data",
            &data,
            "--img",
            "64",
            "--epochs",
            "3",
            "--noplots",
            "--noval",
        ];
        let place = ["--workers", "1", "--project", "runs", "--name", name];
        yolo(dir.path(), &[&base[..], &place, more].concat()).ok()
    };
    let said = train("few", &[]);
    assert!(
        said.err
            .contains("fewer than the nominal batch of 64: one update per epoch"),
        "{}",
        said.err
    );
    let weights = |path: &str| {
        yolo_engine::checkpoint::load(&dir.path().join(path))
            .expect("a checkpoint")
            .params
    };
    let (before, after) = (
        weights("random.safetensors"),
        weights("runs/few/weights/last.safetensors"),
    );
    let mut kernels = 0;
    for (key, value) in before.iter().filter(|(_, value)| value.dim() == 4) {
        let moved = (after.get(key).expect(key) - value).abs().max().double_value(&[]);
        assert!(moved > 0.0, "{key} has not moved");
        kernels += 1;
    }
    assert!(kernels > 3, "{kernels}");
    let said = train("enough", &["--nominal-batch", "4", "--batch-size", "4"]);
    assert!(!said.err.contains("nominal batch"), "{}", said.err);
}
