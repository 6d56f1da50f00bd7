//! A plugin in plain C, compiled against the header, used through the program and directly.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use yolo_core::graph::CustomOp;
use yolo_core::prune::{GroupTensors, PruneMetric};
use yolo_core::testing;
use yolo_registry::{Package, dynamic};

use super::twin::succeed;
use crate::support::{read_json, root, small_data, yolo};

/// A folder with the manifest and the compiled library.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keep-half");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        compile(
            &root().join("tests/fixtures/plugins/keep_half.c"),
            &folder.join("libkeep_half.so"),
            &[],
        );
        std::fs::write(folder.join("yolo-plugin.toml"), MANIFEST).expect("a file");
        folder
    })
}

const MANIFEST: &str = r#"manifest = 1
name = "keep-half"
version = "1.0.0"
license = "MIT OR Apache-2.0"
description = "A plugin in plain C"

[library]
dynamic = "keep_half"
abi = "1.0"

[[provides]]
kind = "metric"
name = "c-peak"
summary = "Largest absolute weight, in C"

[[provides]]
kind = "op"
name = "c-twice"

[[provides]]
kind = "backbone"
name = "c-stages"

[[provides]]
kind = "neck-block"
name = "c-relu"

[[provides]]
kind = "pruner"
name = "c-half"

[[provides]]
kind = "quantizer"
name = "c-int8"
"#;

/// Compiles C into a shared library, with every warning an error.
pub fn compile(source: &Path, library: &Path, flags: &[&str]) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(compiler)
        .args([
            "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O2", "-I",
        ])
        .arg(root().join("core/abi/include"))
        .arg(source)
        .arg("-o")
        .arg(library)
        .arg("-lm")
        .args(flags)
        .output()
        .expect("a C compiler, as for torch-sys");
    succeed(&format!("cc {}", source.display()), &output);
}

fn component<T: serde::de::DeserializeOwned>(name: &str, options: Value) -> Result<T, String> {
    dynamic::load_package(&Package::at(&folder().join("libkeep_half.so"))).expect("a good library");
    let config = json!({"type": "@dynamic", "plugin": "keep-half", "name": name, "options": options});
    serde_json::from_value(config).map_err(|error| error.to_string())
}

#[test]
fn its_metric_and_op_compute() {
    let metric: Box<dyn PruneMetric> = component("c-peak", json!({"power": 2.0})).expect("a metric");
    let weight = testing::input(1, 1, 6, 50).reshape([6, 50]) - 0.7;
    let group = GroupTensors {
        name: "g".into(),
        channels: 6,
        weights: vec![weight.shallow_clone()],
        ..GroupTensors::default()
    };
    let wanted = Vec::<f32>::try_from(weight.abs().amax(1, false).square()).expect("floats");
    assert_eq!(metric.score(&group).expect("scores"), wanted);
    // Not contiguous, and in double precision: the host makes it plain.
    let turned = weight
        .to_kind(tch::Kind::Double)
        .transpose(0, 1)
        .contiguous()
        .transpose(0, 1);
    let group = GroupTensors {
        weights: vec![turned],
        ..group
    };
    assert_eq!(metric.score(&group).expect("scores"), wanted);

    let op: Box<dyn CustomOp> = component("c-twice", json!({})).expect("an op");
    let x = testing::input(2, 3, 4, 5);
    assert_eq!(op.shape(&[&[2, 3, 4, 5]]).expect("a shape"), [2, 3, 4, 5]);
    assert_eq!(op.forward(&[&x], &[], false).expect("a tensor"), &x * 2.0);
    let error = op.forward(&[&x, &x], &[], false).expect_err("two inputs").to_string();
    assert!(error.contains("`c-twice` gave up: it takes one input"), "{error}");
    let error = component::<Box<dyn PruneMetric>>("c-peak", json!({"pwr": 1})).expect_err("no such option");
    assert_eq!(error, "the only option of c-peak is `power`, a number");
}

#[test]
fn it_passes_the_checks_of_yolo_and_prunes_a_model() {
    let here = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c-plugin-{}", std::process::id()));
    std::fs::create_dir_all(&here).expect("a folder");
    let plugin = folder().to_str().expect("UTF-8");
    let checked = yolo(&here, &["plugin", "check", plugin, "--json"]).ok().json();
    assert_eq!(checked["plugins"].as_array().map(Vec::len), Some(6), "{checked}");
    for name in ["c-peak", "c-stages", "c-relu", "c-int8"] {
        yolo(&here, &["plugin", "test", plugin, "--name", name]).ok();
    }
    let config = "extends: yolov5n\nscale: {depth: 0.33, width: 0.25}\nbackbone: c-stages\nneck: {attention: c-relu}\n";
    std::fs::write(here.join("net.yaml"), config.replace("c-stages", "{type: c-stages}")).expect("a file");
    let data = small_data(&here, 24, 64);
    let data = data.to_str().expect("UTF-8");
    let common = [
        "--data",
        data,
        "--img",
        "64",
        "--batch-size",
        "8",
        "--workers",
        "1",
        "--plugin",
        plugin,
    ];
    let run = |words: &[&str]| yolo(&here, &[words, &common[..]].concat()).ok();
    run(&[
        "train",
        "--cfg",
        "net.yaml",
        "--epochs",
        "1",
        "--noplots",
        "--project",
        "runs",
        "--name",
        "c",
    ]);
    let weights = "runs/c/weights/last.safetensors";
    let prune = [
        "prune",
        "--weights",
        weights,
        "--pruner",
        "c-half",
        "--save-plan",
        "plan.json",
        "--noval",
        "--json",
    ];
    let pruned = run(&[&prune[..], &["--out", "half.safetensors", "--calib-batches", "1"]].concat()).json();
    let params = |key: &str| pruned[key].as_f64().expect("a number");
    assert!(params("params") < 0.5 * params("params_before"), "{pruned}");
    let plan = read_json(&here.join("plan.json"));
    assert!(
        plan["keep"]
            .as_object()
            .expect("groups")
            .values()
            .all(|keep| keep.as_array().is_some_and(|k| !k.is_empty()))
    );
    run(&[
        "quantize",
        "--weights",
        "half.safetensors",
        "--backend",
        "c-int8",
        "--out",
        "int8",
        "--calib-batches",
        "1",
    ]);
    let _ = std::fs::remove_dir_all(here);
}
