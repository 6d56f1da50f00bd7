//! Collects what `xtask/gpu/check.sh` needs on a machine with a GPU but without Rust, network or this checkout's history: one
//! folder small enough to copy anywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::option;
use crate::{Outcome, cargo, fail, root, run, setup};

/// Largest folder: with the tracked files it stays under the 64 MiB that a borrowed machine may take at a time.
const LIMIT: u64 = 58 << 20;

const USAGE: &str = "\
cargo xtask gpu-pack [--data FOLDER] [--weights PT] [--debug]

Fills .gpu for xtask/gpu/check.sh: the stripped release binary (with --debug the one of `cargo build`, to try the check), a small
data set in YOLO's layout (FOLDER/data.yaml or another .yaml, images/{train,val}, labels/{train,val}) and weights to start from.";

/// Fills `.gpu`.
pub fn pack(arguments: &[String]) -> Outcome {
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        println!("{USAGE}");
        return Ok(());
    }
    let data = given(arguments, "--data", "../shared/data/bccd")?;
    let weights = given(arguments, "--weights", "../shared/data/weights/yolov5n.pt")?;
    let yaml = description(&data)?;
    let debug = arguments.iter().any(|argument| argument == "--debug");
    let binary = build(debug)?;

    let folder = root().join(".gpu");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("can't empty {}: {e}", folder.display()))?;
    }
    make(&folder.join("bccd"))?;
    copy(&binary, &folder.join("yolo"))?;
    strip(&folder.join("yolo"))?;
    copy(&weights, &folder.join("yolov5n.pt"))?;
    for part in ["images/train", "images/val", "labels/train", "labels/val"] {
        copy_folder(&data.join(part), &folder.join("bccd").join(part))?;
    }
    let path = folder.join("bccd/data.yaml");
    fs::write(&path, without_test(&yaml)).map_err(|e| format!("can't write {}: {e}", path.display()))?;
    report(&folder)
}

/// The path after `name`, or the usual one, seen from the root; it must be there.
fn given(arguments: &[String], name: &str, usual: &str) -> Outcome<PathBuf> {
    let path = option(arguments, name).map_or_else(|| root().join(usual), PathBuf::from);
    if path.exists() {
        return Ok(path);
    }
    fail(format!("{}: not there; give {name}\n\n{USAGE}", path.display()))
}

/// Text of the YAML file of a data set.
fn description(data: &Path) -> Outcome<String> {
    let entries = fs::read_dir(data).map_err(|e| format!("can't read {}: {e}", data.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    match files.first() {
        Some(path) => fs::read_to_string(path).map_err(|e| format!("can't read {}: {e}", path.display())),
        None => fail(format!(
            "{}: there is no .yaml in it that names its classes",
            data.display()
        )),
    }
}

/// The description without the test images, which stay behind.
fn without_test(yaml: &str) -> String {
    yaml.lines()
        .filter(|line| !line.starts_with("test:"))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Builds the program; returns its path.
fn build(debug: bool) -> Outcome<PathBuf> {
    setup::setup()?;
    let mut cargo = cargo();
    cargo.arg("build");
    if !debug {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    let profile = if debug { "debug" } else { "release" };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(profile).join("yolo"))
}

/// Symbols are half of the binary; without the tool it is only larger.
fn strip(binary: &Path) -> Outcome {
    let there = Command::new("strip")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if there.is_ok_and(|status| status.success()) {
        return run(Command::new("strip").arg(binary));
    }
    eprintln!("gpu-pack: there is no `strip`; the binary keeps its symbols");
    Ok(())
}

fn make(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|e| format!("can't make {}: {e}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(|e| format!("can't copy {} to {}: {e}", from.display(), to.display()))
}

/// The files of a folder; subfolders stay behind.
fn copy_folder(from: &Path, to: &Path) -> Outcome {
    make(to)?;
    for entry in fs::read_dir(from).map_err(|e| format!("can't read {}: {e}", from.display()))? {
        let path = entry.map_err(|e| format!("can't read {}: {e}", from.display()))?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Bytes of the files below a folder.
fn size(path: &Path) -> Outcome<u64> {
    if !path.is_dir() {
        return Ok(path
            .metadata()
            .map_err(|e| format!("can't read {}: {e}", path.display()))?
            .len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path).map_err(|e| format!("can't read {}: {e}", path.display()))? {
        sum += size(&entry.map_err(|e| format!("can't read {}: {e}", path.display()))?.path())?;
    }
    Ok(sum)
}

/// Prints what is in the folder; too much is a failure, and nothing stays.
fn report(folder: &Path) -> Outcome {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for name in ["yolo", "yolov5n.pt", "bccd"] {
        println!("{name:>12} {:7.1} MiB", mib(size(&folder.join(name))?));
    }
    let all = size(folder)?;
    println!("{:>12} {:7.1} MiB in {}", "all", mib(all), folder.display());
    if all > LIMIT {
        fs::remove_dir_all(folder).map_err(|e| format!("can't remove {}: {e}", folder.display()))?;
        return fail(format!(
            "gpu-pack: {:.1} MiB are more than {:.0}; give a smaller --data",
            mib(all),
            mib(LIMIT)
        ));
    }
    println!("next, on a machine with a GPU: bash xtask/gpu/check.sh");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_loses_its_test_images() {
        let yaml = "path: .\ntrain: images/train\ntest: images/test\nnames:\n  0: test\n";
        assert_eq!(without_test(yaml), "path: .\ntrain: images/train\nnames:\n  0: test\n");
    }

    #[test]
    fn the_size_is_that_of_all_files_below() {
        let folder = std::env::temp_dir().join(format!("xtask-gpu-{}", std::process::id()));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/one"), [0; 10]).unwrap();
        fs::write(folder.join("a/b/two"), [0; 5]).unwrap();
        assert_eq!(size(&folder), Ok(15));
        copy_folder(&folder.join("a"), &folder.join("c")).unwrap();
        assert!(folder.join("c/one").exists() && !folder.join("c/b").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_not_there_is_named() {
        let arguments = ["--data".to_owned(), "no/such/folder".to_owned()];
        let error = given(&arguments, "--data", "x").unwrap_err();
        assert!(error.contains("no/such/folder") && error.contains("--data"), "{error}");
    }
}
