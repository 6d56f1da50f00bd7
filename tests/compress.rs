//! The main job from end to end, on data made on the spot; killed and continued; changed and re-run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{command, files, small_data, tiny_model, yolo};

/// A recipe with every kind of stage, a few seconds long.
fn recipe(folder: &Path) -> PathBuf {
    let data = small_data(folder, 12, 96);
    tiny_model(folder);
    let text = format!(
        "name: small\ndata: {}\ncfg: tiny.yaml\nimg: 96\nbatch-size: 4\nworkers: 1\nout: out\n\
         hyp: {{lr0: 0.01, mosaic: 0.0, warmup_epochs: 0.0}}\nstages:\n\
         \x20 - train: {{epochs: 3}}\n\
         \x20 - sparsify: {{epochs: 1, pruner: {{type: slimming, sparse_rate: 0.001}}}}\n\
         \x20 - prune: {{pruner: {{type: slimming}}, flops: 0.7, multiple: 2, calib-batches: 2}}\n\
         \x20 - fine-tune: {{epochs: 1}}\n\
         \x20 - quantize: {{backend: {{type: tensorrt}}, qat-epochs: 1, calib-batches: 2}}\n\
         \x20 - export: {{}}\n\
         \x20 - bench: {{engine: torch, threads: 1, runs: 3}}\n",
        data.display()
    );
    let path = folder.join("recipe.yaml");
    std::fs::write(&path, text).expect("a file");
    path
}

fn status(result: &Value) -> Vec<(String, String)> {
    let text = |stage: &Value, key: &str| stage[key].as_str().expect("text").to_owned();
    result["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .map(|s| (text(s, "kind"), text(s, "status")))
        .collect()
}

#[test]
fn a_recipe_runs_is_killed_continues_and_is_cached() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = recipe(dir.path());
    let line = ["compress", recipe.to_str().expect("text"), "--resume", "--json"];
    // Killed in the middle of the first training, as by a power cut.
    let mut child = command(dir.path())
        .args(line)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let state = dir.path().join("out/1-train/results.csv");
    let start = Instant::now();
    while !state.exists() && child.try_wait().expect("a status").is_none() && start.elapsed() < Duration::from_secs(120)
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    assert!(state.exists(), "the first epoch was saved");
    let result = yolo(dir.path(), &line).ok();
    assert!(result.err.contains("1-train"), "{}", result.err);
    let document = result.json();
    let kinds = ["train", "sparsify", "prune", "fine-tune", "quantize", "export", "bench"];
    assert_eq!(
        status(&document)
            .iter()
            .map(|(kind, _)| kind.as_str())
            .collect::<Vec<_>>(),
        kinds
    );
    let stages = document["stages"].as_array().expect("stages");
    let flops = |i: usize| stages[i]["gflops"].as_f64().expect("a number");
    assert!(flops(2) <= 0.7 * flops(0), "pruned to {} of {}", flops(2), flops(0));
    assert_eq!(flops(3), flops(2), "fine-tuning keeps the size");
    for stage in stages {
        for key in ["params", "gflops", "map50", "map", "size_bytes"] {
            assert!(stage[key].is_number(), "{key} of {stage}");
        }
        let weights = dir.path().join(stage["weights"].as_str().expect("a path"));
        assert!(weights.exists(), "{}", weights.display());
        if stage["kind"] != "bench" {
            assert!(stage["fps"].as_f64().expect("a speed") > 0.0, "{stage}");
        }
    }
    let results = std::fs::read_to_string(dir.path().join("out/results.csv"));
    assert!(results.is_err(), "each training has its own results.csv");
    let csv = std::fs::read_to_string(dir.path().join("out/1-train/results.csv")).expect("results.csv");
    assert_eq!(csv.lines().count(), 4, "three epochs, none twice:\n{csv}");
    let table = std::fs::read_to_string(dir.path().join("out/results.md")).expect("the table");
    let rows = table.lines().filter(|line| line.starts_with('|')).count();
    assert!(rows == 8 && table.contains("compare with care"), "{table}");
    assert!(dir.path().join("out/pictures/val_pictures.jpg").exists());
    let picture =
        std::fs::read_to_string(dir.path().join("out/pictures/stages.svg")).expect("accuracy against latency");
    for stage in &stages[..6] {
        let name = stage["name"].as_str().expect("a name");
        assert!(picture.contains(&format!("{name} (")), "{name}: {picture}");
    }

    // The same recipe again: nothing to do. Another budget: only what depends on it runs.
    let again = yolo(dir.path(), &line).ok().json();
    assert!(status(&again).iter().all(|(_, status)| status == "cached"), "{again}");
    let changed = yolo(dir.path(), &[&line[..], &["--set", "seed=0"]].concat())
        .ok()
        .json();
    assert!(
        status(&changed).iter().all(|(_, status)| status == "cached"),
        "the same seed"
    );
    let text = std::fs::read_to_string(&recipe)
        .expect("the recipe")
        .replace("qat-epochs: 1", "qat-epochs: 0");
    std::fs::write(&recipe, text).expect("a file");
    let changed = yolo(dir.path(), &line).ok().json();
    let done: Vec<String> = status(&changed)
        .into_iter()
        .filter(|(_, s)| s == "done")
        .map(|(k, _)| k)
        .collect();
    assert_eq!(done, ["quantize", "export", "bench"]);
}

#[test]
fn mistakes_in_recipes_are_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = std::fs::read_to_string(recipe(dir.path())).expect("the recipe");
    let run = |text: &str| {
        std::fs::write(dir.path().join("bad.yaml"), text).expect("a file");
        yolo(dir.path(), &["compress", "bad.yaml"])
    };
    let before = files(dir.path()).len() + 1;
    run(&good.replace("- prune:", "- prunes:")).fails(
        2,
        &["bad.yaml:12:5", "there is no stage `prunes`", "did you mean `prune`"],
    );
    run(&good.replace("flops: 0.7", "flop: 0.7")).fails(2, &["bad.yaml:12:", "`flop`", "did you mean `flops`"]);
    run(&good.replace("batch-size", "batch_size")).fails(2, &["bad.yaml:5:1", "batch_size"]);
    run(&good.replace("batch-size: 4", "batch-size: 4\nnominal-batch: 0"))
        .fails(2, &["bad.yaml:6:16", "nominal-batch must be at least 1"]);
    run(&good.replace("lr0: 0.01", "lr: 0.01")).fails(2, &["bad.yaml:8:", "`lr`", "did you mean `lr0`"]);
    run(&good.replace("lr0: 0.01", "lr0: -1")).fails(2, &["bad.yaml:8:12", "lr0"]);
    run(&good.replace("- train: {epochs: 3}", "- train: {epochs: 3, hyp: {bogus: 1}}"))
        .fails(2, &["bad.yaml:10:", "`bogus`"]);
    run(&good.replace("stages:", "stage:")).fails(2, &["stages"]);
    run(&good.replace("cfg: tiny.yaml", "cfg: tinny")).fails(2, &["tinny"]);
    run(&good.replace("cfg: tiny.yaml\n", "")).fails(2, &["`cfg`, `weights`"]);
    run(&good.replace("data: ", "data: no/such")).fails(2, &["bad.yaml:2:", "does not exist"]);
    run("stages: [").fails(2, &["bad.yaml:", "YAML"]);
    yolo(dir.path(), &["compress", "absent.yaml"]).fails(1, &["absent.yaml"]);
    std::fs::write(dir.path().join("file"), "").expect("a file");
    run(&good.replace("out: out", "out: file/out")).fails(1, &["file/out"]);
    std::fs::remove_file(dir.path().join("file")).expect("the file");
    assert_eq!(
        files(dir.path()).len(),
        before,
        "nothing was written: {:?}",
        files(dir.path())
    );
}
