//! `yolo doctor`: what this program found on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use yolo_export::engine::{self, Engine};
use yolo_registry::Entry;
use yolo_torch::install::choose::{self, By};
use yolo_torch::install::{build, find};
use yolo_torch::native::bn_act;

use crate::error::{CliError, CliResult};
use crate::{plugins, torch, ui};

/// Show what was found on this machine: libtorch, devices, threads, plugin folders, engines
///
/// Example: yolo doctor --json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DoctorArgs {
    /// Check this program's own CUDA kernels against libtorch's operators, and time both (takes GPU memory and some seconds)
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `--kernels`.
fn kernels(json: bool) -> CliResult {
    let device = tch::Device::cuda_if_available();
    if !device.is_cuda() {
        return Err(CliError::Usage(
            "--kernels: there is no CUDA device that this libtorch can use (see `yolo doctor`)".into(),
        ));
    }
    let obstacle = bn_act::obstacle(device).map_err(|error| CliError::Failed(format!("--kernels: {error}")))?;
    if let Some(reason) = obstacle {
        return Err(CliError::Failed(format!(
            "--kernels: they can't be used here: {reason}"
        )));
    }
    let checks = bn_act::self_check(device);
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if json {
        let rows: Vec<Value> = checks
            .iter()
            .map(|check| {
                let (measured, error) = match &check.measured {
                    Ok(m) => (
                        json!({"errors": m.errors, "repeatable": m.repeatable, "fused_ms": m.fused, "fused_forward_ms": m.fused_forward,
                               "composed_ms": m.composed, "composed_forward_ms": m.composed_forward, "gb_per_s": m.bandwidth}),
                        None,
                    ),
                    Err(error) => (Value::Null, Some(error)),
                };
                json!({"shape": check.shape, "kind": format!("{:?}", check.kind), "passed": check.passed(), "measured": measured,
                       "error": error})
            })
            .collect();
        ui::print_json(&json!({ "kernels": rows }))?;
    } else {
        for check in &checks {
            let verdict = if check.passed() { "ok" } else { "WRONG" };
            let result = match &check.measured {
                Ok(m) => format!(
                    "{:.3} ms against {:.3} ms, {:.0} GB/s, worst error {:.1e}",
                    m.fused,
                    m.composed,
                    m.bandwidth,
                    m.errors.iter().copied().fold(0.0, f64::max)
                ),
                Err(error) => error.clone(),
            };
            println!("{verdict:>5}  bn+act {:?} {:?}: {result}", check.shape, check.kind);
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} of {} kernels are wrong", checks.len()))),
    }
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> CliResult {
    yolo_torch::load().map_err(torch::unloadable)?;
    if args.kernels {
        return kernels(args.json);
    }
    let pytorch = PyTorch::of_this_process();
    let libtorch = pytorch.root.as_ref().map(|root| root.join("lib/libtorch_cpu.so"));
    let cuda = if tch::Cuda::is_available() {
        usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
    } else {
        0
    };
    let devices: Vec<Value> = std::iter::once(tch::Device::Cpu)
        .chain((0..cuda).map(tch::Device::Cuda))
        .map(torch::describe)
        .collect();
    let threads = yolo_torch::threads::prepare();
    let index = plugins::index()?;
    let folders: Vec<(PathBuf, usize)> = index
        .search()
        .paths()
        .map(|folder| {
            let inside = |entry: &&Entry| entry.path.as_ref().is_some_and(|path| path.starts_with(folder));
            (folder.to_owned(), index.entries().iter().filter(inside).count())
        })
        .collect();
    let broken = index.entries().iter().filter(|entry| entry.error().is_some()).count();
    let builtin = index.entries().iter().filter(|entry| entry.path.is_none()).count();
    if args.json {
        let folders: Vec<Value> = folders
            .iter()
            .map(|(path, plugins)| json!({"path": path, "exists": path.exists(), "plugins": plugins}))
            .collect();
        let torch = json!({"name": "torch", "available": true, "path": libtorch, "version": pytorch.version});
        let engines: Vec<Value> = std::iter::once(torch)
            .chain(engine::ALL.iter().map(|engine| engine_as_json(*engine)))
            .collect();
        return ui::print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "abi": yolo_registry::abi_version(),
            "libtorch": {
                "path": libtorch,
                "version": pytorch.version,
                "cuda": pytorch.cuda,
                "nccl": pytorch.nccl,
                "chosen_by": pytorch.by,
                "omitted": pytorch.omitted,
                "mkldnn": tch::utils::has_mkldnn(),
                "openmp": tch::utils::has_openmp(),
            },
            "devices": {"cpu": 1, "cuda": cuda, "list": devices},
            "threads": {
                "available": threads.available,
                "cores": threads.cores,
                "intra": tch::get_num_threads(),
                "inter": tch::get_num_interop_threads(),
                "environment": thread_variables(),
            },
            "cpu": cpu_features(),
            "builtin_plugins": builtin,
            "broken_plugins": broken,
            "plugin_folders": folders,
            "engines": engines,
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
    line("libtorch", pytorch.describe());
    line("", format!("chosen by: {}", pytorch.by));
    line("CUDA", pytorch.describe_cuda(cuda));
    for device in &devices {
        let text = |key: &str| device[key].as_str().unwrap_or_default();
        let capability = match text("capability") {
            "" => String::new(),
            number => format!(", compute capability {number}"),
        };
        line("device", format!("{}: {}{capability}", text("device"), text("name")));
    }
    line("cpu", cpu_features().join(" "));
    line(
        "threads",
        format!(
            "{} for one op, {} for ops side by side; {} processors on {} cores may be used",
            tch::get_num_threads(),
            tch::get_num_interop_threads(),
            threads.available,
            threads.cores
        ),
    );
    let chosen = [
        ("OMP_NUM_THREADS", threads.count),
        ("GOMP_SPINCOUNT", threads.spin_count),
    ];
    let variables = thread_variables();
    let said = variables.iter().map(|(name, value)| {
        let ours = chosen.iter().any(|(chosen, value)| chosen == name && value.is_some());
        format!("{name}={value}{}", if ours { "" } else { " (yours)" })
    });
    line("OpenMP", said.collect::<Vec<_>>().join(", "));
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
    for engine in engine::ALL {
        let name = format!("engine {}", engine.name());
        let reads = engine.endings().join(" and .");
        match engine.find() {
            Ok(found) => line(
                &name,
                format!("{}, {}; reads .{reads}", found.version, found.path.display()),
            ),
            Err(error) => line(&name, format!("{error}; reads .{reads}")),
        }
    }
    Ok(())
}

fn engine_as_json(engine: &dyn Engine) -> Value {
    let mut row = json!({"name": engine.name(), "reads": engine.endings()});
    match engine.find() {
        Ok(found) => {
            row["available"] = json!(true);
            row["version"] = json!(found.version);
            row["path"] = json!(found.path);
        }
        Err(error) => {
            row["available"] = json!(false);
            row["reason"] = json!(error.to_string());
            row["help"] = json!(engine.help());
        }
    }
    row
}

/// The variables that decide on threads, as libtorch sees them: the user's, and the program's defaults.
fn thread_variables() -> BTreeMap<&'static str, String> {
    [
        "GOMP_SPINCOUNT",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
    ]
    .into_iter()
    .filter_map(|name| Some((name, std::env::var(name).ok()?)))
    .collect()
}

/// The PyTorch that this process has loaded.
struct PyTorch {
    root: Option<PathBuf>,
    version: Option<String>,
    cuda: Option<String>,
    by: &'static str,
    nccl: bool,
    omitted: Vec<String>,
}

impl PyTorch {
    fn of_this_process() -> Self {
        let root = yolo_registry::dynamic::libtorch();
        let (version, cuda) = root.as_deref().and_then(find::version).unzip();
        let decision = choose::decision().and_then(|decision| decision.as_ref().ok());
        let built = decision.and_then(|decision| build::read(decision.library.as_deref()?.parent()?));
        Self {
            cuda: cuda.flatten().filter(|_| root.as_deref().is_some_and(find::is_cuda)),
            version,
            by: match decision.map(|decision| decision.by) {
                None | Some(By::Default) => "default (`yolo torch use` chooses another)",
                Some(By::Environment) => "the virtual environment that yolo lies in",
                Some(By::Variable) => "YOLO_TORCH",
                Some(By::User) => "yolo torch use",
            },
            nccl: find::has_nccl(),
            omitted: built.map(|built| built.omitted).unwrap_or_default(),
            root,
        }
    }

    fn describe(&self) -> String {
        let place = self
            .root
            .as_ref()
            .map_or("(place unknown)".to_owned(), |root| root.display().to_string());
        let version = self.version.as_deref().unwrap_or("version unknown");
        let omitted = match self.omitted.len() {
            0 => String::new(),
            count => format!(", without {count} operators that it has not"),
        };
        format!("{version}, {place}{omitted}")
    }

    fn describe_cuda(&self, devices: usize) -> String {
        let Some(cuda) = &self.cuda else {
            return "none: this PyTorch computes on the CPU".to_owned();
        };
        let nccl = if self.nccl { "NCCL is there" } else { "no NCCL" };
        match devices {
            0 => format!("{cuda}, {nccl}; no device that it can use (driver: {})", driver()),
            _ => format!("{cuda}, {nccl}, driver {}", driver()),
        }
    }
}

/// The version of NVIDIA's driver, as its module tells it.
fn driver() -> String {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let number = text
        .split_whitespace()
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
    number.unwrap_or("not there").to_owned()
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
