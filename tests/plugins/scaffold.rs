//! `yolo new-plugin`: every kind, linked and loaded, built, checked, listed, and used in training, pruning and quantization.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use yolo_core::Kind;

use super::twin::{linked, loaded, succeed, twin};
use crate::support::{files, small_data, yolo};

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scaffold-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

#[test]
fn every_crate_passes_its_own_tests() {
    let twin = twin();
    let mut words = vec!["test".to_owned(), "--test".into(), "conformance".into()];
    for kind in Kind::ALL {
        words.extend([
            "-p".into(),
            format!("yolo-plugin-{}", linked(kind)),
            "-p".into(),
            loaded(kind),
        ]);
    }
    words.extend(["-p".into(), "yolo-plugin-star".into(), "-p".into(), "keep-best".into()]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let start = Instant::now();
    let output = twin.cargo(&twin.root, &words).output().expect("cargo starts");
    succeed("cargo test", &output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        text.matches("test it_keeps_the_rules ... ok").count(),
        2 * Kind::ALL.len() + 2,
        "{text}"
    );
    eprintln!(
        "{} crates tested in {:.0} s",
        2 * Kind::ALL.len() + 2,
        start.elapsed().as_secs_f64()
    );
}

#[test]
fn they_are_listed_with_no_further_edit() {
    let twin = twin();
    let list = |program: &Path, words: &[&str]| -> Vec<Value> {
        let output = Command::new(program)
            .current_dir(&twin.root)
            .args(words)
            .output()
            .expect("yolo starts");
        succeed("yolo list-plugins", &output);
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json["plugins"].as_array().expect("a list").clone()
    };
    let row = |rows: &[Value], kind: Kind, name: &str| -> Value {
        let fits = |row: &&Value| row["kind"] == kind.name() && row["name"] == name;
        rows.iter()
            .find(fits)
            .unwrap_or_else(|| panic!("no {} `{name}`", kind.name()))
            .clone()
    };
    let builtin = list(&twin.yolo(), &["list-plugins", "--json"]);
    let plugins = twin.plugins();
    let plugins = plugins.to_str().expect("UTF-8");
    let program = Path::new(env!("CARGO_BIN_EXE_yolo"));
    let unverified = list(program, &["list-plugins", "--json", "--plugin", plugins]);
    let verified = list(program, &["list-plugins", "--json", "--verify", "--plugin", plugins]);
    for kind in Kind::ALL {
        assert_eq!(row(&builtin, kind, &linked(kind))["source"], "builtin");
        let before = row(&unverified, kind, &loaded(kind));
        assert_eq!(
            (&before["source"], &before["status"]),
            (&json!("dynamic"), &json!("unverified"))
        );
        let after = row(&verified, kind, &loaded(kind));
        assert_eq!(after["status"], "ok", "{after}");
    }
    // The block that comes with the op.
    row(&builtin, Kind::NeckBlock, &linked(Kind::Op));
    row(&unverified, Kind::NeckBlock, &loaded(Kind::Op));
}

/// Train a step, prune, quantize and export with one way's plugins; the plan and the ranges file.
fn use_them(
    program: &Path,
    flags: &[String],
    name: fn(Kind) -> String,
    folder: &Path,
    data: &Path,
) -> (Value, String, Value) {
    let run = |words: &[&str]| -> Value {
        let output = Command::new(program)
            .current_dir(folder)
            .args(words)
            .args(flags)
            .output()
            .expect("yolo starts");
        succeed(&format!("yolo {}", words.join(" ")), &output);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.trim().lines().last().unwrap_or_default();
        serde_json::from_str(&text)
            .or_else(|_| serde_json::from_str(last))
            .unwrap_or(Value::Null)
    };
    let config = format!(
        "extends: yolov5n\nscale: {{depth: 0.33, width: 0.25}}\nbackbone: {{type: {}, channels: 32}}\n\
         neck:\n  block: {}\n  attention: {{type: {}}}\n",
        name(Kind::Backbone),
        name(Kind::NeckBlock),
        name(Kind::Op)
    );
    std::fs::write(folder.join("net.yaml"), config).expect("a file");
    let data = data.to_str().expect("UTF-8");
    let common = ["--data", data, "--img", "64", "--batch-size", "8", "--workers", "1"];
    let train = [
        "train",
        "--cfg",
        "net.yaml",
        "--epochs",
        "1",
        "--noplots",
        "--project",
        "runs",
        "--name",
        "one",
    ];
    run(&[&train[..], &common[..]].concat());
    let pruner = format!(
        "{{type: {}, metric: {{type: {}, power: 2.0}}, measure: true}}",
        name(Kind::Pruner),
        name(Kind::Metric)
    );
    let weights = "runs/one/weights/last.safetensors";
    let prune = [
        "prune",
        "--weights",
        weights,
        "--pruner",
        &pruner,
        "--flops",
        "0.7",
        "--save-plan",
        "plan.json",
        "--noval",
    ];
    let pruned = run(&[
        &prune[..],
        &[
            "--out",
            "pruned.safetensors",
            "--calib-batches",
            "1",
            "--select-images",
            "4",
            "--json",
        ],
        &common[..],
    ]
    .concat());
    let share = pruned["gflops"].as_f64().expect("a number") / pruned["gflops_before"].as_f64().expect("a number");
    assert!((0.5..=0.7001).contains(&share), "{pruned}");
    let quantize = [
        "quantize",
        "--weights",
        "pruned.safetensors",
        "--out",
        "int8",
        "--calib-batches",
        "1",
        "--json",
    ];
    let backend = name(Kind::Quantizer);
    run(&[&quantize[..], &["--backend", &backend], &common[..]].concat());
    let ranges = files(&folder.join("int8"))
        .into_iter()
        .find(|file| file.ends_with("_ranges.txt"))
        .expect("the ranges");
    let ranges = std::fs::read_to_string(folder.join("int8").join(ranges)).expect("a file");
    let plan = crate::support::read_json(&folder.join("plan.json"));
    (plan, ranges, pruned["params"].clone())
}

/// The same sources, linked and loaded, do the same to the last bit.
#[test]
fn each_is_used_in_training_pruning_and_quantization() {
    let twin = twin();
    let here = folder("use");
    let data = small_data(&here, 24, 64);
    let (a, b) = (here.join("linked"), here.join("loaded"));
    std::fs::create_dir_all(&a).expect("a folder");
    std::fs::create_dir_all(&b).expect("a folder");
    let flags = ["--plugin".to_owned(), twin.plugins().display().to_string()];
    let by_linked = use_them(&twin.yolo(), &[], linked, &a, &data);
    let by_loaded = use_them(Path::new(env!("CARGO_BIN_EXE_yolo")), &flags, loaded, &b, &data);
    assert!(
        by_linked.0["keep"].as_object().is_some_and(|keep| keep.len() > 5),
        "{}",
        by_linked.0
    );
    for part in ["network", "keep", "scores"] {
        assert_eq!(by_linked.0[part], by_loaded.0[part], "the plans");
    }
    assert_eq!(by_linked.1, by_loaded.1, "the ranges");
    assert_eq!(by_linked.2, by_loaded.2, "the widths");
    // Without its libraries the checkpoint can't be read, and that is said.
    let said = yolo(
        &b,
        &[
            "val",
            "--weights",
            "pruned.safetensors",
            "--data",
            data.to_str().expect("UTF-8"),
        ],
    );
    said.fails(1, &["loaded-op", "--plugin"]);
    let _ = std::fs::remove_dir_all(here);
}

#[test]
fn a_module_in_text_form_needs_no_compiler() {
    let here = folder("wat");
    yolo(&here, &["new-plugin", "metric", "by-hand", "--wasm", "--lang", "wat"]).ok();
    assert_eq!(
        files(&here.join("by-hand")),
        [".gitignore", "README.md", "by_hand.wat", "yolo-plugin.toml"]
    );
    let rows = yolo(
        &here,
        &["list-plugins", "by-hand", "--json", "--verify", "--plugin", "by-hand"],
    )
    .ok()
    .json();
    assert_eq!(
        (&rows["plugins"][0]["source"], &rows["plugins"][0]["status"]),
        (&json!("wasm"), &json!("ok")),
        "{rows}"
    );
    yolo(&here, &["plugin", "test", "by-hand"]).ok();
    for language in ["c", "rust"] {
        let name = format!("in-{language}");
        yolo(&here, &["new-plugin", "metric", &name, "--wasm", "--lang", language]).ok();
        assert!(here.join(&name).join("yolo-plugin.toml").is_file());
    }
    let _ = std::fs::remove_dir_all(here);
}

#[test]
fn mistakes_leave_nothing_behind() {
    let here = folder("mistakes");
    let fails = |words: &[&str], texts: &[&str]| {
        yolo(&here, words).fails(2, texts);
        assert!(files(&here).is_empty(), "{words:?} left {:?}", files(&here));
    };
    fails(
        &["new-plugin", "toaster", "x"],
        &["there is no kind `toaster`", "backbone"],
    );
    fails(
        &["new-plugin", "pruner", "My Pruner"],
        &["can't be the name of a plugin"],
    );
    fails(&["new-plugin", "pruner", "../up"], &["can't be the name of a plugin"]);
    fails(
        &["new-plugin", "pruner", "slimming"],
        &["there is a pruner `slimming` already"],
    );
    fails(
        &["new-plugin", "backbone", "x", "--wasm"],
        &["only a metric", "--dynamic"],
    );
    fails(&["new-plugin", "metric", "x", "--wasm", "--static"], &["--static"]);
    fails(
        &["new-plugin", "metric", "x", "--dynamic", "--sdk", "nowhere"],
        &["yolo-sdk is not there"],
    );
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .ancestors()
        .last()
        .expect("a root");
    let said = Command::new(env!("CARGO_BIN_EXE_yolo"))
        .current_dir(out)
        .args(["new-plugin", "metric", "x-y", "--static"])
        .output();
    let said = said.expect("yolo starts");
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("not in a checkout of yolo"));
    std::fs::create_dir_all(here.join("full")).expect("a folder");
    std::fs::write(here.join("full/mine.txt"), "mine").expect("a file");
    yolo(&here, &["new-plugin", "metric", "x-y", "--dir", "full"]).fails(2, &["exists already"]);
    assert_eq!(files(&here), ["full/mine.txt"]);
    let _ = std::fs::remove_dir_all(here);
}
