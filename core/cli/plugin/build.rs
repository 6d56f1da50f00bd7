//! `yolo plugin build`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use yolo_jobs::files;
use yolo_registry::{Code, MANIFEST_FILE, Manifest, Packing, PluginError};

use super::look;
use crate::error::{CliError, CliResult, io_error};
use crate::ui;

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// Build a plugin and put its library or module beside its manifest, where yolo finds it
///
/// Example: yolo plugin build ./my-pruner
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct BuildArgs {
    /// Folder with the yolo-plugin.toml
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Build without optimisation
    #[arg(long)]
    debug: bool,
}

/// Runs the command.
pub fn run(args: &BuildArgs) -> CliResult {
    let file = args.folder.join(MANIFEST_FILE);
    if !file.is_file() {
        let message = format!("there is no {MANIFEST_FILE} in `{}`", args.folder.display());
        let error = PluginError::new(Code::NotFound, message);
        return Err(error.help("`yolo new-plugin KIND NAME` writes a whole plugin").into());
    }
    let manifest = Manifest::read(&file)?;
    let target = match &manifest.library.packing {
        Packing::Dynamic(_) => None,
        Packing::Wasm(_) => Some(WASM_TARGET),
    };
    let has = |name: &str| args.folder.join(name).is_file();
    if has("Cargo.toml") {
        let built = cargo(&args.folder, args.debug, target)?;
        place(&built, &manifest.code_target())?;
    } else if has("Makefile") {
        make(&args.folder)?;
    } else if manifest.code_file().is_err() {
        let message = format!("`{}` has neither a Cargo.toml nor a Makefile", args.folder.display());
        return Err(PluginError::new(Code::BuildFailed, message)
            .help("build the library yourself and put it beside the manifest")
            .into());
    }
    look::check_path(&args.folder)
}

/// Runs cargo; the library or module that it made.
fn cargo(folder: &Path, debug: bool, target: Option<&str>) -> CliResult<PathBuf> {
    let mut words = vec!["build", "--message-format=json-render-diagnostics"];
    if !debug {
        words.push("--release");
    }
    words.extend(target.into_iter().flat_map(|target| ["--target", target]));
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&program)
        .args(&words)
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            CliError::Failed(format!(
                "can't run cargo: {error}\n  help: install Rust, https://rustup.rs"
            ))
        })?;
    let failed = |message: String| PluginError::new(Code::BuildFailed, message);
    let what = format!(
        "`cargo {}` in {}",
        words
            .iter()
            .filter(|w| !w.contains("json"))
            .copied()
            .collect::<Vec<_>>()
            .join(" "),
        folder.display()
    );
    if !output.status.success() {
        let error = failed(format!(
            "{what} failed (exit code {})",
            output.status.code().unwrap_or(-1)
        ));
        return Err(match target {
            Some(target) => error.help(format!("if the target is missing: `rustup target add {target}`")),
            None => {
                error.help("what the compiler said stands above; `yolo doctor` prints the libtorch to build against")
            }
        }
        .into());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let made = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| library(&line))
        .next_back();
    made.ok_or_else(|| {
        failed(format!("{what} made no library"))
            .help("Cargo.toml needs  [lib] crate-type = [\"cdylib\", \"rlib\"]")
            .into()
    })
}

/// The library of a message of cargo about a finished `cdylib`.
fn library(message: &Value) -> Option<PathBuf> {
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    message["target"]["kind"]
        .as_array()?
        .iter()
        .find(|kind| *kind == "cdylib")?;
    let files = message["filenames"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .map(PathBuf::from);
    let suffix = std::env::consts::DLL_EXTENSION;
    files
        .into_iter()
        .find(|file| file.extension().is_some_and(|e| e == suffix || e == "wasm"))
}

fn make(folder: &Path) -> CliResult {
    let status = Command::new("make").current_dir(folder).stdout(Stdio::null()).status();
    let status = status.map_err(|error| CliError::Failed(format!("can't run make: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let message = format!(
        "`make` in {} failed (exit code {})",
        folder.display(),
        status.code().unwrap_or(-1)
    );
    Err(PluginError::new(Code::BuildFailed, message)
        .help("what it said stands above; a module in C needs clang with lld, or zig")
        .into())
}

/// Copies the library beside its manifest, whole or not at all: a yolo that runs may have the old one mapped.
fn place(built: &Path, target: &Path) -> CliResult {
    let bytes = std::fs::read(built).map_err(|error| io_error("can't read", built, &error))?;
    files::write(target, &bytes)?;
    ui::say(format!("wrote {}", target.display()));
    Ok(())
}
