//! What integration tests share: the binary, fixtures, the folder of shared data, small data sets made on the spot.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[path = "skip.rs"]
pub mod skip;

/// Root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A JSON file of tests/fixtures.
pub fn fixture(name: &str) -> Value {
    read_json(&root().join("tests/fixtures").join(name))
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file or folder of the shared data, or `None` with a printed reason.
pub fn shared(name: &str) -> Option<PathBuf> {
    let base = std::env::var_os("YOLO_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let path = base.join(name);
    if path.exists() {
        return Some(path);
    }
    let why = "is not here (set YOLO_SHARED to the folder of shared data)";
    skip::skipped(skip::SHARED, format!("{} {why}", path.display()));
    None
}

/// What the binary said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// What a finished process said.
    pub fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The JSON document on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in\n{}\n{}", self.out, self.err))
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }

    /// Fails the test unless the command ended with this code and an error that holds all of `texts`; no error of ours is a
    /// panic or a backtrace.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        for text in texts {
            assert!(self.err.contains(text), "`{text}` is missing in:\n{}", self.err);
        }
        for text in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!self.err.contains(text), "{}", self.err);
        }
        self
    }
}

/// The `yolo` binary in a folder. It gets one thread of libtorch, as tests run beside each other, and none of the engines that only some
/// machines have, so that it says the same everywhere.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yolo"));
    command
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .env("YOLO_OPENVINO", folder.join("no-openvino"))
        .env("YOLO_PYTHON", folder.join("no-python"));
    command
}

/// Runs `yolo` in a folder.
pub fn yolo<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S]) -> Said {
    Said::from(command(folder).args(arguments).output().expect("the binary starts"))
}

/// Files below a folder, as paths relative to it, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    fn walk(base: &Path, folder: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(base, &path, out);
            } else if let Ok(rest) = path.strip_prefix(base) {
                out.push(rest.to_string_lossy().into_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(folder, folder, &mut out);
    out.sort();
    out
}

/// A small synthetic data set in `folder/data`; its YAML.
pub fn small_data(folder: &Path, images: usize, size: usize) -> PathBuf {
    let settings = yolo_data::synth::Settings {
        images,
        size,
        ..Default::default()
    };
    let made = yolo_data::synth::write(&folder.join("data"), &settings, &|_| {}).expect("a data set");
    made.yaml
}

/// A configuration of a very small network (about 60 thousand parameters).
pub fn tiny_model(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.yaml");
    std::fs::write(&path, TINY).expect("a file");
    path
}

/// `yolov5n` at a quarter of its width.
pub const TINY: &str = "extends: yolov5n\nscale: {depth: 0.33, width: 0.0625}\n";

/// A checkpoint with random weights of a configuration, with classes `thing0`, `thing1`, ...
pub fn random_weights(config: &Path, folder: &Path, classes: usize) -> PathBuf {
    use yolo_engine::checkpoint::{self, Checkpoint, Meta};
    let text = std::fs::read_to_string(config).expect("a configuration");
    let located = yolo_core::config::Located::parse(&config.display().to_string(), &text).expect("YAML");
    let located = yolo_core::model::resolve_extends(located, &mut |_| Ok(None)).expect("its base");
    let graph = yolo_core::model::build(&located, Some(classes as i64)).expect("a graph");
    let params = yolo_core::testing::fill_params(&graph, 2.5);
    let names = (0..classes).map(|class| format!("thing{class}")).collect();
    let path = folder.join("random.safetensors");
    let model = Checkpoint::new(
        graph,
        params,
        Meta {
            names,
            image_size: 160,
            ..Meta::default()
        },
    );
    checkpoint::save(&path, &model).expect("a file");
    path
}
