//! `cargo xtask examples`: builds the hosts of `examples/cpp` whose libraries are here, and holds what they find against `yolo detect`.

use std::path::Path;
use std::process::Command;

use crate::bench::{option, yolo};
use crate::{Outcome, fail, root, run};

/// Builds with CMake (`-D...` arguments are passed on) and compares on pictures of `--source`.
pub fn examples(arguments: &[String]) -> Outcome {
    let (weights, source) = match (option(arguments, "--weights"), option(arguments, "--source")) {
        (Some(weights), Some(source)) => (absolute(weights)?, absolute(source)?),
        _ => return fail("examples needs --weights MODEL and --source FOLDER of pictures; -DNAME=VALUE go to CMake"),
    };
    let yolo = yolo()?;
    let place = root().join("target/examples");
    let defined = arguments.iter().filter(|argument| argument.starts_with("-D"));
    run(Command::new("cmake")
        .arg("-S")
        .arg(root().join("examples/cpp"))
        .arg("-B")
        .arg(&place)
        .args(defined))?;
    run(Command::new("cmake").arg("--build").arg(&place))?;
    let mut pictures: Vec<_> = std::fs::read_dir(&source)
        .map_err(|error| format!("{}: {error}", source.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ["jpg", "png"].iter().any(|known| ending == *known))
        })
        .collect();
    pictures.sort();
    let mut built = 0;
    for (program, format, file) in [("onnxruntime", "onnx", "best.onnx"), ("ncnn", "ncnn", "best.param")] {
        let program = place.join(program);
        if !program.exists() {
            continue;
        }
        built += 1;
        let file = place.join(file);
        run(yolo()
            .args(["export", "--format", format])
            .arg("--weights")
            .arg(&weights)
            .arg("--out")
            .arg(&file))?;
        let check = root().join("examples/cpp/check.py");
        let mut compared = Command::new("python3");
        compared
            .arg(check)
            .arg(program)
            .arg(&file)
            .args(&pictures)
            .arg("--yolo")
            .arg(yolo().get_program());
        run(&mut compared)?;
    }
    match built {
        0 => fail("no example was built: CMake says above which libraries it lacks"),
        _ => Ok(()),
    }
}

fn absolute(path: &str) -> Outcome<std::path::PathBuf> {
    std::path::absolute(Path::new(path)).map_err(|error| format!("{path}: {error}"))
}
