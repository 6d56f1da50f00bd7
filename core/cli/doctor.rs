//! `yolo doctor`: what this program found on this machine.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_export::ort;

use crate::error::CliResult;
use crate::{plugins, ui};

/// Show what was found on this machine: libtorch, devices, threads, plugin folders, engines
///
/// Example: yolo doctor --json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> CliResult {
    let root = yolo_registry::dynamic::libtorch();
    let version = root.as_deref().and_then(libtorch_version);
    let libtorch = root.map(|root| root.join("lib/libtorch_cpu.so"));
    let cuda = if tch::Cuda::is_available() {
        tch::Cuda::device_count()
    } else {
        0
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let index = plugins::index()?;
    let folders: Vec<(PathBuf, usize)> = index
        .search()
        .paths()
        .map(|folder| {
            let inside = |row: &&yolo_registry::Row| row.path.as_ref().is_some_and(|path| path.starts_with(folder));
            (folder.to_owned(), index.rows().iter().filter(inside).count())
        })
        .collect();
    let broken = index.rows().iter().filter(|row| row.error.is_some()).count();
    let builtin = index.rows().iter().filter(|row| row.path.is_none()).count();
    let engine = ort::available();
    if args.json {
        let folders: Vec<Value> = folders
            .iter()
            .map(|(path, plugins)| json!({"path": path, "exists": path.exists(), "plugins": plugins}))
            .collect();
        let ort = match &engine {
            Ok(path) => json!({"name": "ort", "available": true, "path": path}),
            Err(error) => json!({"name": "ort", "available": false, "reason": error.to_string()}),
        };
        return ui::print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "abi": yolo_registry::abi_version(),
            "libtorch": {"path": libtorch, "version": version, "mkldnn": tch::utils::has_mkldnn(), "openmp": tch::utils::has_openmp()},
            "devices": {"cpu": 1, "cuda": cuda},
            "threads": {"cores": cores, "intra": tch::get_num_threads(), "inter": tch::get_num_interop_threads()},
            "cpu": cpu_features(),
            "builtin_plugins": builtin,
            "broken_plugins": broken,
            "plugin_folders": folders,
            "engines": [{"name": "torch", "available": true, "path": libtorch}, ort],
        }));
    }
    let line = |name: &str, text: String| println!("{name:>15}  {text}");
    line(
        "yolo",
        format!(
            "{}, plugin ABI {}",
            env!("CARGO_PKG_VERSION"),
            yolo_registry::abi_version()
        ),
    );
    let unknown = || "(place unknown)".to_owned();
    line(
        "libtorch",
        format!(
            "{}, {}",
            version.as_deref().unwrap_or("version unknown"),
            libtorch.map_or_else(unknown, |p| p.display().to_string())
        ),
    );
    line(
        "devices",
        if cuda == 0 {
            "cpu".to_owned()
        } else {
            format!("cpu, {cuda} CUDA (this build computes on the CPU)")
        },
    );
    line("cpu", cpu_features().join(" "));
    line(
        "threads",
        format!(
            "{} for one op, {} for ops side by side, {cores} cores",
            tch::get_num_threads(),
            tch::get_num_interop_threads()
        ),
    );
    line(
        "plugins",
        format!("{builtin} components built in, {broken} unusable ones (`yolo list-plugins`)"),
    );
    for (folder, count) in folders {
        let state = if folder.exists() {
            format!("{count} components")
        } else {
            "not there".to_owned()
        };
        line("plugin folder", format!("{}: {state}", folder.display()));
    }
    line("engine torch", "found".to_owned());
    match engine {
        Ok(path) => line("engine ort", path.display().to_string()),
        Err(error) => line("engine ort", error.to_string()),
    }
    Ok(())
}

/// `build-version` beside its folder, as every distribution of libtorch has it; else the header.
fn libtorch_version(root: &Path) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(root.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let header = std::fs::read_to_string(root.join("include/torch/csrc/api/include/torch/version.h")).ok()?;
    let line = header
        .lines()
        .find_map(|line| line.strip_prefix("#define TORCH_VERSION \""))?;
    line.strip_suffix('"').map(str::to_owned)
}

/// What the processor has of the instructions that matter here.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
            ("avxvnni", std::arch::is_x86_feature_detected!("avxvnni")),
        ];
        known
            .into_iter()
            .filter(|(_, has)| *has)
            .map(|(name, _)| name)
            .collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![std::env::consts::ARCH]
}
