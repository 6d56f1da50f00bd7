//! `yolo train`.

mod resume;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use yolo_jobs::compute::{self, DeviceArgs};
use yolo_jobs::files::RunFolder;
use yolo_jobs::train::{Report, TrainSettings, Trained, Training};

use crate::error::{CliError, CliResult};
use crate::ranks::{self, Ranks};
use crate::{launch, ui};

/// Train a detector
///
/// Examples: yolo train --data bccd.yaml --weights yolov5n.pt --img 320 --epochs 15
///           yolo train --resume runs/train/exp
#[derive(Clone, clap::Args, Serialize, Deserialize)]
#[command(infer_long_args = true, args_override_self = true)]
#[serde(rename_all = "kebab-case")]
pub struct TrainArgs {
    /// Data set YAML
    #[arg(long, required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// Take all classes as one
    #[arg(long)]
    single_cls: bool,
    /// Leave this many images out of the training split: `yolo prune --hold-out` compares candidates on them
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[serde(default)]
    hold_out: usize,
    /// Model configuration (name or file)
    #[arg(long)]
    cfg: Option<String>,
    /// Change a value of the model configuration, `scale.width=0.5`
    #[arg(long, value_name = "KEY=VALUE")]
    #[serde(default)]
    set: Vec<String>,
    /// Checkpoint to start from (.pt or .safetensors)
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Start from --weights although less than half of the model is in them: a pretrained backbone, another architecture
    #[arg(long, requires = "weights")]
    #[serde(default)]
    partial_weights: bool,
    #[command(flatten)]
    #[serde(flatten)]
    settings: TrainSettings,
    /// Learning rate that falls along a line: the default, as YOLOv5 v6.0 spells it
    #[arg(long)]
    #[serde(skip)]
    linear_lr: bool,
    #[command(flatten)]
    #[serde(flatten)]
    device: DeviceArgs,
    /// Folder of runs
    #[arg(long, default_value = "runs/train")]
    project: PathBuf,
    /// Name of this run
    #[arg(long, default_value = "exp")]
    name: String,
    /// Write into an existing folder of that name
    #[arg(long)]
    exist_ok: bool,
    /// Continue an unfinished run: its folder or its weights/last.safetensors, or the latest in --project/--name
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    #[serde(skip)]
    resume: Option<Option<PathBuf>>,
    /// Draw nothing
    #[arg(long)]
    noplots: bool,
    /// Find better hyper-parameters: train N times for --epochs, each time with values that descend from the best so far
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "300")]
    #[serde(default)]
    evolve: Option<usize>,
    /// Processes to start on the CPU (for GPUs: --device 0,1)
    #[arg(long, value_name = "N")]
    #[serde(default)]
    processes: Option<usize>,
    /// Batch norm over the images of all processes (needs more than one)
    #[arg(long)]
    sync_bn: bool,
    /// Print nothing but the last line
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// What a command line asks for: its options, the folder of the run, and whether there is something to continue.
type Asked = (TrainArgs, PathBuf, bool);

/// Runs the command: here, or in processes that this one starts, or as one of several that somebody started.
pub fn run(args: &TrainArgs, given: &[String]) -> CliResult {
    let asked = resume::resumed(&placed(args), given);
    let Some(environment) = ranks::environment()? else {
        let asked = asked?;
        if let Some(count) = ranks::to_start(&asked.0.device, asked.0.processes)? {
            Training::check(&asked.0.settings, asked.0.evolve, count)?;
            return launch::run(count);
        }
        // A run of several may go on as one: its batch norms then see the whole batch anyway.
        if asked.0.sync_bn && !asked.2 {
            return Err(CliError::Usage("--sync-bn needs more than one device".into()));
        }
        let device = asked.0.device.one()?;
        let mut asked = asked;
        let _own = args.resume.is_none().then(|| resume::taken(&mut asked)).transpose()?;
        return train(asked, args.json, device, &Ranks::alone());
    };
    let named = asked.as_ref().map_or(&args.device, |asked| &asked.0.device);
    let device = ranks::own_device(named, &environment)?;
    let ranks = Ranks::meet(&environment, device)?;
    ranks.together(|| {
        let (asked, _own) = same_for_all(&ranks, asked, args.resume.is_none())?;
        train(asked, args.json, device, &ranks)
    })
}

/// Evolutions have a folder of their own, as in YOLOv5, unless another is named.
fn placed(args: &TrainArgs) -> TrainArgs {
    let mut args = args.clone();
    if args.evolve.is_some() && args.project == Path::new("runs/train") {
        args.project = PathBuf::from("runs/evolve");
    }
    args
}

/// What rank 0 is asked for: the folder may be on its machine only, and is taken there.
fn same_for_all(ranks: &Ranks, asked: CliResult<Asked>, new: bool) -> CliResult<(Asked, Option<RunFolder>)> {
    let (told, own) = if ranks.world.is_main() {
        let mut asked = asked?;
        let own = new.then(|| resume::taken(&mut asked)).transpose()?;
        (serde_json::to_vec(&asked)?, own)
    } else {
        (Vec::new(), None)
    };
    Ok((serde_json::from_slice(&ranks.world.share(told)?)?, own))
}

/// Trains as one of `ranks`.
fn train((args, folder, resume): Asked, json: bool, device: tch::Device, ranks: &Ranks) -> CliResult {
    // Only set here.
    let _ = ranks.folder.set(folder.clone());
    let data = args
        .data
        .as_deref()
        .ok_or_else(|| CliError::Usage("--data is missing".into()))?;
    let training = Training {
        data,
        single_cls: args.single_cls,
        hold_out: args.hold_out,
        cfg: args.cfg.as_deref(),
        set: &args.set,
        weights: args.weights.as_deref(),
        partial_weights: args.partial_weights,
        settings: args.settings.clone(),
        folder: &folder,
        resume,
        device,
        world: ranks.world.clone(),
        sync_bn: args.sync_bn,
        evolve: args.evolve,
        plots: !args.noplots,
        remember: resume::written(&args)?,
    };
    match training.run(ui::session()?)? {
        Trained::Run(report) => report_run(&report, &folder, json, device, ranks),
        Trained::Evolution(evolved) => {
            let best = &evolved.generations[evolved.best];
            let [_, _, map50, map] = best.metrics;
            if !json {
                println!(
                    "best generation {}: mAP50 {map50:.4}, mAP {map:.4}\n{}",
                    evolved.best + 1,
                    evolved.hyp.display()
                );
            }
            println!(
                "{}",
                json!({
                    "run_dir": folder,
                    "generations": evolved.generations.len(),
                    "best_generation": evolved.best,
                    "fitness": best.fitness(),
                    "map50": map50,
                    "map": map,
                    "hyp": evolved.hyp,
                })
            );
        }
        Trained::Elsewhere => {}
    }
    Ok(())
}

fn report_run(report: &Report, folder: &Path, json: bool, device: tch::Device, ranks: &Ranks) {
    let (outcome, world) = (&report.outcome, &ranks.world);
    let m = &outcome.metrics;
    if !json {
        println!(
            "best epoch {}: mAP50 {:.4}, mAP {:.4}\n{}",
            outcome.best_epoch + 1,
            m.map50,
            m.map,
            folder.join("weights/best.safetensors").display()
        );
    }
    println!(
        "{}",
        json!({
            "run_dir": folder,
            "map50": m.map50,
            "map": m.map,
            "best_epoch": outcome.best_epoch,
            "best_possible_recall": report.anchors.best_possible_recall(),
            "seconds": report.seconds,
            "images_per_second": outcome.images_per_second,
            "peak_memory_bytes": report.peak_memory,
            "peak_device_memory_bytes": report.peak_device_memory,
            "device": compute::name(device),
            "amp": report.precision,
            "world_size": world.size(),
            "backend": world.backend(),
        })
    );
}
