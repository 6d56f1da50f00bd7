//! `yolo train`: what it leaves, exact continuation after a kill, options, refusals.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tch::Tensor;

use crate::support::{command, files, read_json, small_data, tiny_model, yolo};

/// A folder with a data set of 24 pictures and a tiny model.
pub struct Place {
    folder: tempfile::TempDir,
    data: String,
    model: String,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = small_data(folder.path(), 24, 96).display().to_string();
        let model = tiny_model(folder.path()).display().to_string();
        Self { folder, data, model }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Options of a short training into `runs/NAME`.
    pub fn arguments(&self, name: &str, epochs: usize, more: &[&str]) -> Vec<String> {
        let fixed = [
            "train",
            "--data",
            &self.data,
            "--cfg",
            &self.model,
            "--img",
            "64",
            "--batch-size",
            "8",
        ];
        let own = ["--project", "runs", "--name", name, "--epochs", &epochs.to_string()].map(str::to_owned);
        fixed
            .iter()
            .map(|s| (*s).to_owned())
            .chain(own)
            .chain(more.iter().map(|s| (*s).to_owned()))
            .collect()
    }

    fn weights(&self, name: &str, file: &str) -> PathBuf {
        self.path()
            .join("runs")
            .join(name)
            .join("weights")
            .join(format!("{file}.safetensors"))
    }
}

pub fn rows(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .skip(1)
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

/// Tensors of a checkpoint.
fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    yolo_engine::checkpoint::read_tensors(path)
        .expect("a checkpoint")
        .tensors
        .into_iter()
        .collect()
}

#[test]
fn a_training_leaves_weights_table_drawings_and_events() {
    let place = Place::new();
    let said = yolo(place.path(), &place.arguments("a", 2, &[])).ok();
    let last: Value = serde_json::from_str(said.out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["run_dir"], "runs/a");
    assert!(last["map50"].is_f64() && last["map"].is_f64() && last["best_epoch"].as_u64().is_some_and(|e| e < 2));

    let run = place.path().join("runs/a");
    let (events, others): (Vec<String>, Vec<String>) = files(&run)
        .into_iter()
        .partition(|file| file.starts_with("events.out.tfevents."));
    assert_eq!(
        others,
        [
            "confidence_curves.svg",
            "confusion_matrix.svg",
            "labels.svg",
            "options.json",
            "pr_curve.svg",
            "results.csv",
            "results.svg",
            "state.safetensors",
            "train_batch.jpg",
            "val_pictures.jpg",
            "weights/best.safetensors",
            "weights/last.safetensors"
        ]
    );
    assert_eq!(events.len(), 1);
    // The version and two records with the names of all columns.
    let bytes = std::fs::read(run.join(&events[0])).expect("events");
    let count = |text: &str| {
        bytes
            .windows(text.len())
            .filter(|window| *window == text.as_bytes())
            .count()
    };
    assert_eq!(
        (
            count("brain.Event:2"),
            count("train/box_loss"),
            count("metrics/mAP_0.5:0.95")
        ),
        (1, 2, 2)
    );

    let rows = rows(&run.join("results.csv"));
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["0", "1"]);
    assert!(
        rows.iter()
            .all(|row| row.len() == 14 && row.iter().all(|field| field.parse::<f64>().is_ok()))
    );
    for picture in ["train_batch.jpg", "val_pictures.jpg"] {
        assert!(
            yolo_data::Image::open(&run.join(picture)).is_ok_and(|image| image.width > 600),
            "{picture}"
        );
    }

    // The best model describes itself: measuring it again gives its numbers.
    let weights = place.weights("a", "best").display().to_string();
    let again = yolo(
        place.path(),
        &[
            "val",
            "--weights",
            &weights,
            "--data",
            &place.data,
            "--batch-size",
            "8",
            "--json",
        ],
    );
    let again = again.ok().json();
    let close = |a: &Value, b: &Value| (a.as_f64().expect("a number") - b.as_f64().expect("a number")).abs() < 1e-6;
    assert!(
        close(&again["map50"], &last["map50"]) && close(&again["map"], &last["map"]),
        "{again} {last}"
    );
    assert_eq!(read_json(&run.join("options.json"))["epochs"], 2);
}

/// Starts a training and kills it, without a warning, once `rows` epochs are in its table.
pub fn kill_after(place: &Place, name: &str, epochs: usize, wanted: usize, more: &[&str]) {
    let arguments = place.arguments(name, epochs, &[&["--noplots"][..], more].concat());
    let mut child = command(place.path())
        .args(&arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    let table = place.path().join("runs").join(name).join("results.csv");
    let start = Instant::now();
    while rows(&table).len() < wanted {
        assert!(start.elapsed() < Duration::from_secs(120), "no epoch in two minutes");
        assert!(
            child.try_wait().expect("a status").is_none(),
            "it ended before it was killed"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
}

#[test]
fn a_killed_training_goes_on_as_if_nothing_had_happened() {
    let place = Place::new();
    yolo(place.path(), &place.arguments("whole", 5, &["--noplots"])).ok();
    kill_after(&place, "killed", 5, 2, &[]);
    let before = rows(&place.path().join("runs/killed/results.csv")).len();
    assert!(before < 5, "killed in the middle");
    let said = yolo(place.path(), &["train", "--resume", "runs/killed"]).ok();
    assert!(said.out.contains("\"best_epoch\""), "{}", said.out);

    let table = |name: &str| rows(&place.path().join("runs").join(name).join("results.csv"));
    assert_eq!(table("killed"), table("whole"));
    for file in ["last", "best"] {
        let (whole, killed) = (
            tensors(&place.weights("whole", file)),
            tensors(&place.weights("killed", file)),
        );
        assert_eq!(whole.len(), killed.len());
        for ((key, a), (other, b)) in whole.iter().zip(&killed) {
            assert_eq!(key, other);
            assert!(
                a.equal(b),
                "{file}: {key} differs by {}",
                (a - b).abs().max().double_value(&[])
            );
        }
    }
    assert!(
        files(place.path())
            .iter()
            .all(|file| !file.contains(".writing-") || file.contains("killed")),
        "only a killed process leaves a temporary file"
    );
}

#[test]
fn a_finished_run_is_not_trained_again_and_the_latest_is_found() {
    let place = Place::new();
    yolo(place.path(), &place.arguments("x", 1, &["--noplots"])).ok();
    yolo(place.path(), &place.arguments("x", 1, &["--noplots", "--seed", "5"])).ok();
    let before = std::fs::read(place.weights("x2", "last")).expect("weights");
    let said = yolo(
        place.path(),
        &["train", "--resume", "--project", "runs", "--name", "x", "--json"],
    )
    .ok();
    assert_eq!(said.json()["run_dir"], "runs/x2");
    assert_eq!(std::fs::read(place.weights("x2", "last")).expect("weights"), before);

    // Other options than those of the unfinished run are refused, not mixed, and what is there stays.
    let options = std::fs::read(place.path().join("runs/x/options.json")).expect("options");
    let other = place.arguments(
        "x",
        1,
        &["--noplots", "--resume", "runs/x", "--seed", "9", "--one-cycle"],
    );
    yolo(place.path(), &other).fails(
        2,
        &[
            "runs/x",
            "other settings",
            "--seed is 9 here, 0 there",
            "--cos-lr is true here",
        ],
    );
    yolo(place.path(), &["train", "--resume", "runs/x", "--epochs", "4"]).fails(
        2,
        &[
            "--epochs is 4 here, 1 there",
            "--weights runs/x/weights/last.safetensors",
        ],
    );
    assert_eq!(
        std::fs::read(place.path().join("runs/x/options.json")).expect("options"),
        options
    );
    // Any file of the run stands for it; options that change no weight may change.
    for file in ["runs/x/weights/last.safetensors", "runs/x/state.safetensors"] {
        let said = yolo(
            place.path(),
            &["train", "--resume", file, "--workers", "1", "--noplots", "--json"],
        )
        .ok();
        assert_eq!(said.json()["run_dir"], "runs/x");
    }
    assert_eq!(read_json(&place.path().join("runs/x/options.json"))["workers"], 1);
}

#[test]
fn a_run_does_not_go_on_with_other_data_weights_or_hyper_parameters() {
    let place = Place::new();
    std::fs::write(place.path().join("hyp.yaml"), "lr0: 0.01\n").expect("a file");
    let start = ["--noplots", "--hyp", "hyp.yaml", "--save-period", "2"];
    yolo(place.path(), &place.arguments("a", 5, &start)).ok();
    let weights: Vec<String> = files(&place.path().join("runs/a/weights"));
    assert_eq!(
        weights,
        [
            "best.safetensors",
            "epoch2.safetensors",
            "epoch4.safetensors",
            "last.safetensors"
        ]
    );
    let state =
        |name: &str| std::fs::read(place.path().join("runs").join(name).join("state.safetensors")).expect("a state");
    let before = state("a");
    let refused = |texts: &[&str]| {
        yolo(place.path(), &["train", "--resume", "runs/a"]).fails(2, &[&["runs/a"][..], texts].concat());
        assert!(state("a") == before, "nothing was written");
    };
    let labels = place.path().join("data/labels/train");
    let label = labels.join(&files(&labels)[0]);
    let old = std::fs::read_to_string(&label).expect("labels");
    std::fs::write(&label, format!("{old}0 0.5 0.5 0.25 0.25\n")).expect("a file");
    refused(&["boxes in the training labels here"]);
    std::fs::write(&label, &old).expect("a file");

    let images = place.path().join("data/images/val");
    let image = images.join(&files(&images)[0]);
    std::fs::rename(&image, place.path().join("away")).expect("a move");
    refused(&["validation images here"]);
    std::fs::rename(place.path().join("away"), &image).expect("a move");

    std::fs::write(place.path().join("hyp.yaml"), "lr0: 0.02\n").expect("a file");
    refused(&["other settings", "hyp.lr0 is 0.02 here, 0.01 there"]);
    std::fs::write(place.path().join("hyp.yaml"), "lr0: 0.01\n").expect("a file");
    yolo(place.path(), &["train", "--resume", "runs/a"]).ok();

    // A start from weights that are others now, and a penalty that is another.
    let own = place.weights("a", "epoch2").display().to_string();
    std::fs::copy(&own, place.path().join("start.safetensors")).expect("a copy");
    let more = [
        "--noplots",
        "--weights",
        "start.safetensors",
        "--sparsify",
        "{type: slimming, sparse_rate: 0.001}",
    ];
    yolo(place.path(), &place.arguments("b", 1, &more)).ok();
    let said = yolo(place.path(), &["train", "--resume", "runs/b", "--sparsify", "slimming"]);
    said.fails(2, &["--sparsify"]);
    std::fs::copy(place.weights("a", "last"), place.path().join("start.safetensors")).expect("a copy");
    yolo(place.path(), &["train", "--resume", "runs/b"]).fails(2, &["the weights to start from are others"]);
}

/// The checksum of a part of a PNG.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes
        .iter()
        .fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

#[test]
fn what_ends_a_training_leaves_its_state_and_says_how_to_go_on() {
    let place = Place::new();
    yolo(place.path(), &place.arguments("whole", 2, &["--noplots"])).ok();
    // A picture whose compressed pixels are none: what is looked at before the start, its size and the checksums of its parts, is whole.
    let images = place.path().join("data/images/train");
    let image = images.join(&files(&images)[3]);
    let bytes = std::fs::read(&image).expect("an image");
    let mut broken = yolo_data::Image::open(&image)
        .expect("a picture")
        .to_png()
        .expect("a PNG");
    let part = broken.windows(4).position(|four| four == b"IDAT").expect("pixels");
    let length = u32::from_be_bytes([broken[part - 4], broken[part - 3], broken[part - 2], broken[part - 1]]) as usize;
    broken[part + 4..part + 4 + length].fill(0xff);
    let sum = crc32(&broken[part..part + 4 + length]).to_be_bytes();
    broken[part + 4 + length..part + 8 + length].copy_from_slice(&sum);
    std::fs::write(&image, broken).expect("a file");
    let name = image.file_name().expect("a name").to_string_lossy().into_owned();
    let said = yolo(place.path(), &place.arguments("a", 2, &["--noplots"]));
    said.fails(1, &[&name, "yolo train --resume runs/a"]);
    std::fs::write(&image, &bytes).expect("a file");
    yolo(place.path(), &["train", "--resume", "runs/a"]).ok();
    for file in ["last", "best"] {
        let read = |run: &str| std::fs::read(place.weights(run, file)).expect("weights");
        assert!(
            read("a") == read("whole"),
            "{file}: as if the file had never been broken"
        );
    }

    std::fs::write(
        place.path().join("hyp.yaml"),
        "lr0: 10.0\nbox: 1.0e+38\nwarmup_epochs: 0.0\n",
    )
    .expect("a file");
    let said = yolo(
        place.path(),
        // A step after each batch, so that the next one meets the weights.
        &place.arguments("b", 2, &["--noplots", "--hyp", "hyp.yaml", "--nbs", "8"]),
    );
    said.fails(
        1,
        &[
            "the loss is not finite",
            "lr0",
            "no epoch is finished yet",
            "other settings",
        ],
    );
    // Nothing may be advised that is not there.
    assert!(!place.path().join("runs/b/weights/last.safetensors").exists());
    assert!(
        rows(&place.path().join("runs/b/results.csv")).is_empty(),
        "no epoch of it is kept"
    );
}

#[test]
fn an_automatic_batch_says_what_it_is() {
    let place = Place::new();
    for (name, word) in [("a", "auto"), ("b", "-1")] {
        let mut arguments = place.arguments(name, 1, &["--noplots", "--device", "cpu"]);
        let at = arguments.iter().position(|a| a == "--batch-size").expect("the option");
        arguments[at + 1] = word.to_owned();
        let said = yolo(place.path(), &arguments).ok();
        assert!(
            said.err.contains("--batch-size auto") && said.err.contains("on the CPU it is 16"),
            "{}",
            said.err
        );
        assert_eq!(
            read_json(&place.path().join("runs").join(name).join("options.json"))["batch_size"],
            16
        );
    }
}

#[test]
fn frozen_layers_stay_and_the_others_move() {
    let place = Place::new();
    yolo(place.path(), &place.arguments("a", 1, &["--noplots", "--noval"])).ok();
    let start = place.weights("a", "last").display().to_string();
    // Without warm-up: the first steps of one hardly move anything.
    std::fs::write(place.path().join("hyp.yaml"), "warmup_epochs: 0.0\n").expect("a file");
    // An epoch that is not measured is none without progress: patience does not end this.
    let more = [
        "--noplots",
        "--noval",
        "--patience",
        "1",
        "--weights",
        &start,
        "--freeze",
        "10",
        "--hyp",
        "hyp.yaml",
    ];
    yolo(place.path(), &place.arguments("b", 4, &more)).ok();
    let (a, b) = (
        tensors(&place.weights("a", "last")),
        tensors(&place.weights("b", "last")),
    );
    let (mut same, mut moved) = (0, 0);
    for ((key, a), (_, b)) in a
        .iter()
        .zip(&b)
        .filter(|((key, _), _)| key.ends_with("weight") || key.ends_with("bias"))
    {
        let layer: usize = key.split('.').nth(1).and_then(|n| n.parse().ok()).expect("a layer");
        assert_eq!(a.equal(b), layer < 10, "{key}");
        if layer < 10 { same += 1 } else { moved += 1 }
    }
    assert!(same > 20 && moved > 20, "{same} {moved}");
    let measured = |row: &Vec<String>| !row[6].is_empty();
    let table = rows(&place.path().join("runs/b/results.csv"));
    assert_eq!(
        table.iter().map(measured).collect::<Vec<_>>(),
        [false, false, false, true],
        "--noval measures the last epoch only"
    );
}

#[test]
fn one_class_and_many_sizes() {
    let place = Place::new();
    let said = yolo(
        place.path(),
        &place.arguments("a", 1, &["--single-cls", "--multi-scale", "--optimizer", "AdamW"]),
    )
    .ok();
    assert!(said.err.contains("mAP50"), "{}", said.err);
    let weights = place.weights("a", "best").display().to_string();
    let model = yolo(place.path(), &["model", &weights, "--json"]).ok().json();
    assert_eq!(model["nc"], 1);
    let arguments = [
        "val",
        "--weights",
        &weights,
        "--data",
        &place.data,
        "--single-cls",
        "--json",
    ];
    let measured = yolo(place.path(), &arguments).ok().json();
    assert_eq!(measured["per_class"].as_array().map(Vec::len), Some(1));
    assert_eq!(measured["per_class"][0]["name"], "object");
    // Without the option the classes don't fit.
    yolo(place.path(), &arguments[..5]).fails(2, &["1 classes", "--single-cls"]);
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_written() {
    let place = Place::new();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--optimizer", "sdg"], &["no optimizer `sdg`", "sgd"]),
        (&["--device", "0"], &["--device 0", "cpu"]),
        (&["--sync-bn"], &["--sync-bn", "more than one device"]),
        (&["--batch-size", "0"], &["--batch-size", "at least 1"]),
        (&["--sparsify", "sliming"], &["sliming", "slimming"]),
        (&["--hyp", "none.yaml"], &["none.yaml"]),
        (&["--img", "99999"], &["--img 99999"]),
    ];
    for (more, texts) in cases {
        let mut arguments = place.arguments("a", 1, &[]);
        if more[0] == "--batch-size" || more[0] == "--img" {
            let at = arguments.iter().position(|a| a == more[0]).expect("the option");
            arguments[at + 1] = more[1].to_owned();
        } else {
            arguments.extend(more.iter().map(|s| (*s).to_owned()));
        }
        let code = if more[0] == "--hyp" { 1 } else { 2 };
        yolo(place.path(), &arguments).fails(code, texts);
    }
    let hyp = place.path().join("hyp.yaml");
    std::fs::write(&hyp, "lr0: 0.01\nmomentun: 0.9\n").expect("a file");
    yolo(place.path(), &place.arguments("a", 1, &["--hyp", "hyp.yaml"]))
        .fails(2, &["hyp.yaml:2:1", "momentun", "did you mean `momentum`"]);
    yolo(place.path(), &["train", "--resume", "runs/none"]).fails(2, &["runs/none", "no unfinished run"]);
    yolo(place.path(), &["train", "--cfg", "yolov5n"]).fails(2, &["--data"]);
    assert!(!place.path().join("runs").exists(), "nothing was written");
}
