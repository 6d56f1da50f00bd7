//! Repository tasks: `cargo xtask setup | demo | test | tidy | lint | bench | examples | gpu-pack`. Depends on nothing that needs libtorch, as it fetches it.

mod bench;
mod compress;
mod demo;
mod engines;
mod examples;
mod fps;
mod gpu;
mod guests;
mod installed;
mod light;
mod load;
mod quant;
mod seeds;
mod setup;
mod skipped;
mod tidy;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Result of a task; the text is for a person.
pub type Outcome<T = ()> = Result<T, String>;

/// A failure.
pub fn fail<T>(text: impl Into<String>) -> Outcome<T> {
    Err(text.into())
}

/// Root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs a command; a bad exit is a failure that names it.
pub fn run(command: &mut Command) -> Outcome {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| format!("can't run `{name}`: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        fail(format!("`{name}` failed ({status})"))
    }
}

/// `cargo` in the root of the repository.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Fast checks first, then every test of the workspace in one profile.
fn test(arguments: &[String]) -> Outcome {
    setup::setup()?;
    tidy::tidy()?;
    let path = guests::compilers()?;
    let mut cargo = cargo();
    cargo.args(["test", "--workspace"]).args(arguments).env("PATH", path);
    for (name, value) in TEST_ENVIRONMENT {
        if std::env::var_os(name).is_none() {
            cargo.env(name, value);
        }
    }
    let skipped = skipped::List::new(&root().join("target"))?;
    let outcome = run(cargo.env(skipped::VARIABLE, skipped.path()));
    println!("{}", skipped.closing_line()?);
    outcome
}

/// What tests run under, unless the caller's environment says otherwise.
///
/// One thread for each test: they run beside each other, which is faster than all of them waiting for each other's. And one
/// instruction set wherever they run, as trainings that round otherwise end elsewhere; `ATEN_CPU_CAPABILITY=avx512
/// ONEDNN_MAX_CPU_ISA=DEFAULT cargo xtask test` tests what the machine has.
const TEST_ENVIRONMENT: [(&str, &str); 3] = [
    ("OMP_NUM_THREADS", "1"),
    ("ATEN_CPU_CAPABILITY", "avx2"),
    ("ONEDNN_MAX_CPU_ISA", "AVX2"),
];

/// Formatting and clippy, warnings being errors.
fn lint() -> Outcome {
    setup::setup()?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

const USAGE: &str = "\
cargo xtask COMMAND

  setup [--cuda] [--engines]
                     fetch libtorch (with CUDA: 3 GB) and onnxruntime, with --engines OpenVINO and ncnn, too (pinned, hash-checked; does
                     nothing when they are there)
  demo               set up, build, make the synthetic data set and run the main job on it
  test [ARGS]        set up, with compilers for WebAssembly guests, check the repository, run all tests
  wheel [--dir D]    make a Python wheel of the release binary: `pip install` beside torch gives the command `yolo`
  tidy               check the repository: crate edges, forbidden words, sizes, plugin folders
  lint               rustfmt and clippy, as CI runs them
  bench NAME [ARGS]  slow measurements: bccd, compress, seeds, torch, light, load, quant, engines, kill, reference (see `cargo xtask bench`)
  examples --weights MODEL --source FOLDER [-DNAME=VALUE ...]
                     build the C++ hosts whose libraries are here and compare what they find with `yolo detect`
  gpu-pack [ARGS]    collect what xtask/gpu/check.sh needs on a machine with a GPU";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let result = match arguments.first().map(String::as_str) {
        Some("setup") => setup::command(rest),
        Some("demo") => demo::demo(),
        Some("test") => test(rest),
        Some("wheel") => wheel::wheel(rest),
        Some("tidy") => tidy::tidy(),
        Some("lint") => lint(),
        Some("bench") => bench::bench(rest),
        Some("examples") => examples::examples(rest),
        Some("gpu-pack") => gpu::pack(rest),
        _ => fail(USAGE),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
