//! `yolo torch`: which PyTorch the program runs on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use yolo_torch::install::choose::{self, Remembered};
use yolo_torch::install::{Problem, build, find, sources};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Show or choose the PyTorch that computes: one that is installed is used where it is
///
/// Example: yolo torch use ~/venv
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct TorchCommand {
    #[command(subcommand)]
    command: Torch,
}

#[derive(clap::Subcommand)]
enum Torch {
    /// List each PyTorch that is found, and whether it can be used
    ///
    /// Example: yolo torch list --json
    #[command(verbatim_doc_comment)]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Build for a PyTorch (>= 2.11), try it out and use it from now on; YOLO_TORCH=PATH does so for one command
    ///
    /// Example: yolo torch use ~/venv
    #[command(verbatim_doc_comment)]
    Use {
        /// Folder of a PyTorch (.../site-packages/torch), virtual environment, python executable; or `default`
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Load the PyTorch of this process, compute something, describe its devices as JSON
    #[command(hide = true)]
    Probe,
}

/// Runs the command.
pub fn run(args: &TorchCommand) -> CliResult {
    match &args.command {
        Torch::List { json } => list(*json),
        Torch::Use { path, json } if path == Path::new("default") => forget(*json),
        Torch::Use { path, json } => take(path, *json),
        Torch::Probe => probe(),
    }
}

fn usage(problem: Problem) -> CliError {
    CliError::Usage(problem.to_string())
}

fn failed(problem: Problem) -> CliError {
    CliError::Failed(problem.to_string())
}

/// The error of a command that needs a libtorch which can't be loaded.
pub fn unloadable(problem: Problem) -> CliError {
    CliError::Failed(format!("libtorch: {problem}"))
}

fn env(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// The folder that the next command uses, as far as it can be told without building.
fn active(built_with: Option<&Path>) -> Option<PathBuf> {
    let said = env(choose::VARIABLE).filter(|said| !said.is_empty());
    if let Some(said) = said.as_deref().filter(|said| *said != "default") {
        return find::locate(Path::new(said)).ok();
    }
    if said.is_none()
        && let Ok(Some(choice)) = choose::remembered(&env)
    {
        return Some(choice.torch);
    }
    match choose::default_library() {
        Some(_) => built_with.map(|path| path.canonicalize().unwrap_or(path.to_owned())),
        None => find::of_executable(),
    }
}

fn list(as_json: bool) -> CliResult {
    let built_with = choose::built_with().filter(|_| choose::default_library().is_some());
    let mut places = find::places(built_with.clone(), &env);
    let active = active(built_with.as_deref());
    if let Some(path) = active
        .clone()
        .filter(|path| places.iter().all(|place| place.path != *path))
    {
        places.insert(0, find::Place { path, source: "chosen" });
    }
    let rows: Vec<Value> = places
        .iter()
        .map(|place| {
            let own = place.source == "built with";
            let (version, cuda) = find::version(&place.path).unzip();
            // The program's own needs no headers and no compiler: its library is there.
            let checked = if own {
                Ok(())
            } else {
                find::check(&place.path).map(drop)
            };
            json!({
                "path": place.path.display().to_string(),
                "version": version,
                "cuda": cuda.flatten(),
                "usable": checked.is_ok(),
                "reason": checked.err().map(|problem| problem.what),
                "source": place.source,
                "active": active.as_ref() == Some(&place.path),
            })
        })
        .collect();
    if as_json {
        return ui::print_json(&json!({"torch": rows}));
    }
    if rows.is_empty() {
        println!("no PyTorch was found: `yolo torch use PATH` takes one by its place");
        return Ok(());
    }
    for row in rows {
        let text = |key: &str, missing: &str| row[key].as_str().unwrap_or(missing).to_owned();
        let mark = if row["active"] == true { '*' } else { ' ' };
        let cuda = row["cuda"]
            .as_str()
            .map_or("cpu".to_owned(), |cuda| format!("CUDA {cuda}"));
        println!(
            "{mark} {:<14} {cuda:<10} {:<12} {}",
            text("version", "?"),
            text("source", ""),
            text("path", "")
        );
        if let Some(reason) = row["reason"].as_str() {
            println!("    not usable: {reason}");
        }
    }
    Ok(())
}

fn forget(as_json: bool) -> CliResult {
    let file = choose::remember(&env, None).map_err(failed)?;
    if as_json {
        return ui::print_json(&json!({"torch": null}));
    }
    println!("using the default from now on ({} is removed)", file.display());
    Ok(())
}

fn take(said: &Path, as_json: bool) -> CliResult {
    let path = find::locate(said).map_err(usage)?;
    let torch = find::check(&path).map_err(usage)?;
    let built = build::build(&torch, &env, &|line| ui::say(line)).map_err(failed)?;
    let found = try_out(&torch.path)?;
    let choice = Remembered {
        torch: torch.path,
        version: torch.version,
        sources: sources::hash(),
        library: built.library,
    };
    choose::remember(&env, Some(&choice)).map_err(failed)?;
    if as_json {
        return ui::print_json(&json!({
            "torch": choice.torch.display().to_string(),
            "version": choice.version,
            "cuda": torch.cuda,
            "devices": found["devices"],
            "nccl": built.nccl,
            "omitted": built.omitted,
            "seconds": built.seconds,
        }));
    }
    let cuda = torch.cuda.map_or("for CPUs".to_owned(), |cuda| format!("CUDA {cuda}"));
    println!(
        "PyTorch {} ({cuda}) in {} computes from now on",
        choice.version,
        choice.torch.display()
    );
    for device in found["devices"].as_array().into_iter().flatten() {
        println!(
            "  {}: {}",
            device["device"].as_str().unwrap_or("?"),
            device["name"].as_str().unwrap_or("?")
        );
    }
    if std::env::var_os(choose::VARIABLE).is_some() {
        println!("note: {} is set and comes first in this shell", choose::VARIABLE);
    }
    Ok(())
}

/// Loads a PyTorch in a process of its own: where its libraries are broken, this one says so.
fn try_out(torch: &Path) -> CliResult<Value> {
    let program = std::env::current_exe().map_err(|error| CliError::Failed(format!("this program: {error}")))?;
    let out = Command::new(&program)
        .args(["torch", "probe"])
        .env(choose::VARIABLE, torch)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| CliError::Failed(format!("{}: can't run it: {error}", program.display())))?;
    if out.status.success() {
        return Ok(serde_json::from_slice(&out.stdout)?);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let said = said.trim().trim_start_matches("error: ").replace('\n', "\n    ");
    Err(CliError::Failed(format!(
        "{}: what was built for it doesn't run ({}), so it is not used\n    {said}\n  help: libraries of this PyTorch may be missing: \
         `python3 -c 'import torch'` with its interpreter says more",
        torch.display(),
        out.status
    )))
}

fn probe() -> CliResult {
    yolo_torch::load().map_err(unloadable)?;
    let compute = |device: tch::Device| -> Result<f64, tch::TchError> {
        let x = tch::Tensor::f_arange(6, (tch::Kind::Float, device))?.f_view([2, 3])?;
        x.f_matmul(&x.f_transpose(0, 1)?)?
            .f_sum(tch::Kind::Float)?
            .f_double_value(&[])
    };
    let mut devices = Vec::new();
    let cuda = tch::Cuda::device_count().max(0) as usize;
    for device in std::iter::once(tch::Device::Cpu).chain((0..cuda).map(tch::Device::Cuda)) {
        let sum = compute(device)?;
        if (sum - 83.0).abs() > 1e-3 {
            return Err(CliError::Failed(format!(
                "{device:?}: a product of matrices sums to {sum}, not 83"
            )));
        }
        devices.push(describe(device));
    }
    ui::print_json(&json!({"devices": devices}))
}

/// A device by its name, as JSON: `device`, `name`, `capability`.
pub fn describe(device: tch::Device) -> Value {
    match device {
        tch::Device::Cuda(index) => match yolo_torch::native::device::properties(index) {
            Ok(found) => json!({
                "device": yolo_jobs::compute::name(device),
                "name": found.name,
                "capability": format!("{}.{}", found.capability.0, found.capability.1),
            }),
            Err(error) => json!({"device": yolo_jobs::compute::name(device), "name": format!("unknown ({error})")}),
        },
        _ => json!({"device": "cpu", "name": cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned())}),
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
