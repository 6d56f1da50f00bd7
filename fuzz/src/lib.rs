//! What strangers hand to `yolo` is read without a panic: manifests, graphs, descriptions in WASM modules, `.pt` checkpoints, model
//! configurations, prune plans.
//!
//! Each function takes any bytes. It may find that they are wrong, and must say so with an error; whatever it accepts must hold what the
//! rest of the program relies on.
//!
//! Two ways to run them:
//!
//! * `cargo test -p yolo --test all mutations` mutates the files of `fuzz/corpus` in a fixed order for a few seconds. This is part of
//!   every test run and needs nothing but stable Rust. `YOLO_MUTATIONS=1000000` makes it go on for as many rounds.
//! * `cargo +nightly fuzz run TARGET target/fuzz/TARGET fuzz/corpus/TARGET` (TARGET: a folder of the corpus;
//!   `cargo install cargo-fuzz` and `mkdir -p target/fuzz/TARGET` once) lets libFuzzer look for inputs that reach new code, for as
//!   long as you like. From the root of the repository, after `cargo xtask setup`.
//!
//! An input that was found goes into `fuzz/corpus/TARGET`, under a name that says what it is, and is tested from then on.

use std::io::Write as _;
use std::path::Path;

use yolo_core::config::Located;
use yolo_core::graph::Graph;
use yolo_core::prune::{ChannelGroups, PlanFile, apply};
use yolo_core::{Params, model as models};
use yolo_registry::wasm::{self, section};
use yolo_registry::{Code, Manifest};

/// `yolo-plugin.toml`.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Manifest::parse(Path::new("yolo-plugin.toml"), text) {
        Ok(manifest) => {
            assert!(!manifest.provides.is_empty());
            let target = manifest.code_target();
            assert!(
                target.is_relative() && target.components().count() >= 1,
                "{}",
                target.display()
            );
            assert!(
                !target.components().any(|part| part == std::path::Component::ParentDir),
                "{}",
                target.display()
            );
        }
        Err(error) => {
            assert_eq!(error.code, Code::BadManifest);
            assert!(error.message.starts_with("yolo-plugin.toml"), "{error}");
            assert!(!error.message.chars().any(char::is_control), "{:?}", error.message);
        }
    }
}

/// A graph as JSON, from a file or from a plugin.
pub fn graph(bytes: &[u8]) {
    let Ok(graph) = serde_json::from_slice::<Graph>(bytes) else {
        return;
    };
    if graph.validate().is_err() {
        return;
    }
    // What is valid can be looked at in every way that builds no tensors.
    let side = 64;
    let _ = graph.shapes([1, graph.input_channels(), side, side]);
    let _ = graph.cost(side);
    let _ = graph.strides();
    let _ = graph.param_specs();
    let _ = ChannelGroups::of(&graph);
    let again = serde_json::to_vec(&graph).map(|text| serde_json::from_slice::<Graph>(&text));
    assert!(again.is_ok_and(|again| again.is_ok_and(|again| again.validate().is_ok())));
}

/// A WASM module, of which nothing is run.
pub fn module(bytes: &[u8]) {
    if let Ok(Some(content)) = section::find(bytes, wasm::SECTION) {
        match wasm::parse(Path::new("m.wasm"), content) {
            Ok(about) => assert!(about.complaint().is_none()),
            Err(error) => assert_eq!(error.code, Code::WasmMetadata),
        }
    }
    if let Ok(described) = section::replace(bytes, wasm::SECTION, b"{}") {
        assert_eq!(section::find(&described, wasm::SECTION), Ok(Some(b"{}".as_slice())));
    }
    // The content alone, without a module around it.
    let _ = wasm::parse(Path::new("m.wasm"), bytes);
}

/// A `.pt` checkpoint.
pub fn pt(bytes: &[u8]) {
    let written = tempfile::Builder::new().suffix(".pt").tempfile().and_then(|mut file| {
        file.write_all(bytes)?;
        file.flush()?;
        Ok(file)
    });
    let Ok(file) = written else { return };
    if let Ok(model) = yolo_engine::pt::read(file.path()) {
        if let Ok(Some((graph, _))) = model.graph(file.path()) {
            assert!(graph.validate().is_ok());
            // Its tensors are those of the file, under the same names.
            for spec in graph.param_specs() {
                if let Some(tensor) = model.state.get(&spec.key) {
                    let shape: Vec<i64> = tensor.shape.iter().map(|side| *side as i64).collect();
                    assert_eq!(shape, spec.shape, "{}", spec.key);
                }
            }
        }
        let _ = model.scalars();
        for tensor in model.state.values() {
            assert!(tensor.shape.iter().all(|side| *side < 1 << 40));
        }
    }
}

/// A model configuration, ours or Ultralytics'.
pub fn model(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = Located::parse("m.yaml", text) else {
        return;
    };
    let Ok(config) = models::resolve_extends(config, &mut |_| Ok(None)) else {
        return;
    };
    if let Ok(graph) = models::build(&config, Some(2)) {
        assert!(graph.validate().is_ok());
        let head = graph.head.as_ref().expect("a detector has a head");
        let anchors = head.anchors.iter().flatten().flatten();
        assert!(
            anchors.clone().count() > 0 && anchors.copied().all(|side| side.is_finite() && side > 0.0),
            "{head:?}"
        );
    }
}

/// A prune plan, for a small network.
pub fn plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let graph: Graph = serde_json::from_str(include_str!("../corpus/graph/three-layers.json")).expect("a graph");
    let groups = ChannelGroups::of(&graph).expect("groups");
    if let Ok(plan) = PlanFile::read(text).and_then(|file| file.for_groups(&groups)) {
        let kept: usize = groups.groups.iter().map(|group| plan.kept(group)).sum();
        assert!(kept <= groups.groups.iter().map(|group| group.len()).sum());
        let params = Params::init(&graph, 0);
        assert!(apply(&graph, &params, &groups, &plan).is_ok());
    }
}
