//! What a start of the program costs: libtorch is loaded at the first call into it, not before.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::root;

const YOLO: &str = env!("CARGO_BIN_EXE_yolo");

fn run(program: &Path, arguments: &[&str], trace: bool) -> Output {
    let mut command = Command::new(program);
    if trace {
        // The dynamic linker writes each file that it loads to standard error.
        command.env("LD_DEBUG", "files");
    }
    command.args(arguments).output().expect("the program starts")
}

fn loads_libtorch(arguments: &[&str]) -> bool {
    let out = run(Path::new(YOLO), arguments, true);
    let trace = String::from_utf8_lossy(&out.stderr);
    assert!(trace.contains("libc.so"), "no trace of the dynamic linker: {trace}");
    trace.contains("libtorch_cpu.so")
}

#[test]
fn only_commands_with_tensors_load_libtorch() {
    for arguments in [
        &["--help"][..],
        &["list-plugins"],
        &["inspect", "ghostnet"],
        &["model", "yolov5n", "--nc", "10"],
        &["explain", "yolo::plugin::torch"],
        &["list-plugin"],
    ] {
        assert!(!loads_libtorch(arguments), "{arguments:?} loads libtorch");
    }
    assert!(loads_libtorch(&["doctor"]));
}

/// An executable looks beside itself first; what lies there is no library.
#[test]
fn a_libtorch_that_cant_be_loaded_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("yolo");
    std::fs::copy(YOLO, &program).unwrap();
    // Named after the version of torch-sys.
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = manifest
        .split_once("torch-sys = \"=")
        .unwrap()
        .1
        .split_once('"')
        .unwrap()
        .0;
    let library = format!("libyolo_tch_{version}.so");
    std::fs::write(folder.path().join(&library), "not a library").unwrap();

    let listing = run(&program, &["list-plugins"], false);
    assert!(listing.status.success(), "{listing:?}");

    let out = run(&program, &["doctor"], false);
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(error.starts_with("error: libtorch: can't be loaded: "), "{error}");
    assert!(error.contains(&library) && error.contains("help: "), "{error}");
}
