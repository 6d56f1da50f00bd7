//! `yolo train`.

mod evolve;
mod job;
mod resume;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;
use yolo_data::{Dataset, Loader};
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_engine::train::{Decay, NOMINAL_BATCH, OptimizerKind, Outcome, Sampling, TrainOptions, anchors, norms};
use yolo_report::Letters;

use crate::batch_size::BatchSize;
use crate::device::{self, AmpArgs, CompileArgs, DeviceArgs};
use crate::error::{CliError, CliResult};
use crate::ranks::{self, Ranks};
use crate::{data_args, launch, load, plots, settings, ui, val};

pub use job::{Job, penalty};

/// Train a detector
///
/// Examples: yolo train --data bccd.yaml --weights yolov5n.pt --img 320 --epochs 15
///           yolo train --resume runs/train/exp
#[derive(Clone, clap::Args, Serialize, Deserialize)]
#[command(infer_long_args = true, args_override_self = true)]
pub struct TrainArgs {
    /// Data set YAML
    #[arg(long, required_unless_present = "resume")]
    data: Option<PathBuf>,
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
    #[arg(long)]
    #[serde(default)]
    partial_weights: bool,
    /// Hyper-parameters (Ultralytics' hyp YAML)
    #[arg(long)]
    hyp: Option<PathBuf>,
    /// Epochs
    #[arg(long, default_value_t = 100)]
    epochs: usize,
    /// Images per step, or `auto`: as many as fit into the memory of a GPU
    #[arg(long, visible_alias = "batch", default_value = "16", allow_hyphen_values = true)]
    batch_size: BatchSize,
    /// Images per update: gradients of smaller batches are added up
    #[arg(long, visible_alias = "nbs", default_value_t = NOMINAL_BATCH)]
    #[serde(default = "nominal_batch")]
    nominal_batch: usize,
    /// Side of the images
    #[arg(long, visible_aliases = ["imgsz", "img-size"], default_value_t = 640)]
    img: usize,
    /// `sgd`, `adam` or `adamw`
    #[arg(long, default_value = "sgd")]
    optimizer: String,
    /// One-cycle learning rate: it falls to lr0 * lrf along half a cosine instead of a line (the default of YOLOv5 v6.0)
    #[arg(long, visible_alias = "one-cycle", conflicts_with = "linear_lr")]
    cos_lr: bool,
    /// Learning rate that falls along a line: the default, as YOLOv5 v6.0 spells it
    #[arg(long)]
    #[serde(skip)]
    linear_lr: bool,
    /// Epochs without progress before stopping (0: never)
    #[arg(long, default_value_t = 100)]
    patience: usize,
    /// Freeze layers: `10` (the first ten) or `0 1 2`
    #[arg(long, num_args = 1..)]
    freeze: Vec<usize>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(flatten)]
    #[serde(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    amp: AmpArgs,
    #[command(flatten)]
    #[serde(flatten)]
    compile: CompileArgs,
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
    /// Validate after the last epoch only
    #[arg(long)]
    noval: bool,
    /// Keep the weights of every Nth epoch as weights/epochN.safetensors (0: only the best and the last)
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true, value_parser = period)]
    #[serde(default)]
    save_period: usize,
    /// Draw nothing
    #[arg(long)]
    noplots: bool,
    /// Keep the model's anchors, even where they reach less than 98 % of the boxes
    #[arg(long)]
    #[serde(default = "yes")]
    noautoanchor: bool,
    /// Each batch at a size of its own, from half to one and a half of --img
    #[arg(long)]
    multi_scale: bool,
    /// Draw images by weight: more of rare classes, and of those that the last validation found the model bad at
    #[arg(long)]
    #[serde(default)]
    image_weights: bool,
    /// Rectangular batches: images by aspect ratio, each batch as flat or tall as they are, without mosaics and shuffling
    #[arg(long)]
    #[serde(default)]
    rect: bool,
    /// Keep decoded training images: all in memory (`ram`), or the rest in a folder of the run (`disk`; default: up to 2 GB in memory)
    #[arg(long, value_name = "WHERE", value_enum, num_args = 0..=1, default_missing_value = "ram")]
    #[serde(default)]
    cache: Option<data_args::Cache>,
    /// Share of a class's target that is spread over all classes (default: that of --hyp)
    #[arg(long, value_name = "SHARE")]
    #[serde(default)]
    label_smoothing: Option<f64>,
    /// Find better hyper-parameters: train N times for --epochs, each time with values that descend from the best so far
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "300")]
    #[serde(default)]
    evolve: Option<usize>,
    /// Take all classes as one
    #[arg(long)]
    single_cls: bool,
    /// Processes to start on the CPU (for GPUs: --device 0,1)
    #[arg(long, value_name = "N")]
    #[serde(default)]
    processes: Option<usize>,
    /// Batch norm over the images of all processes (needs more than one)
    #[arg(long)]
    sync_bn: bool,
    /// A pruner whose penalty acts while training, `slimming` or `{type: slimming, sparse_rate: 0.001}`
    #[arg(long)]
    sparsify: Option<String>,
    /// Print nothing but the last line
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// Runs that were started before there was an option go on without fitted anchors.
fn yes() -> bool {
    true
}

/// Where nothing is said: recipes without the key, and runs that were started before there was an option.
pub fn nominal_batch() -> usize {
    NOMINAL_BATCH
}

/// What a command line asks for: its options, the folder of the run, and whether there is something to continue.
type Asked = (TrainArgs, PathBuf, bool);

/// Runs the command: here, or in processes that this one starts, or as one of several that somebody started.
pub fn run(args: &TrainArgs, given: &[String]) -> CliResult {
    let asked = resume::resumed(&placed(args), given);
    let Some(environment) = ranks::environment()? else {
        let asked = asked?;
        if let Some(count) = ranks::to_start(&asked.0.device, asked.0.processes)? {
            check(&asked.0, count)?;
            return launch::run(count);
        }
        // A run of several may go on as one: its batch norms then see the whole batch anyway.
        if asked.0.sync_bn && !asked.2 {
            return Err(CliError::Usage("--sync-bn needs more than one device".into()));
        }
        let device = asked.0.device.one()?;
        return train(asked, args.json, device, &Ranks::alone());
    };
    let named = asked.as_ref().map_or(&args.device, |asked| &asked.0.device);
    let device = ranks::own_device(named, &environment)?;
    let ranks = Ranks::meet(&environment, device)?;
    ranks.together(|| train(same_for_all(&ranks, asked)?, args.json, device, &ranks))
}

/// Evolutions have a folder of their own, as in YOLOv5, unless another is named.
fn placed(args: &TrainArgs) -> TrainArgs {
    let mut args = args.clone();
    if args.evolve.is_some() && args.project == Path::new("runs/train") {
        args.project = PathBuf::from("runs/evolve");
    }
    args
}

/// What rank 0 is asked for: the folder may be on its machine only.
fn same_for_all(ranks: &Ranks, asked: CliResult<Asked>) -> CliResult<Asked> {
    let own = if ranks.world.is_main() {
        serde_json::to_vec(&asked?)?
    } else {
        Vec::new()
    };
    Ok(serde_json::from_slice(&ranks.world.share(own).map_err(load::failed)?)?)
}

/// Refuses options that make no sense for so many processes.
fn check(args: &TrainArgs, processes: usize) -> CliResult {
    if args.epochs == 0 || args.nominal_batch == 0 {
        return Err(CliError::Usage(
            "--epochs and --nominal-batch must be at least 1".into(),
        ));
    }
    if args.evolve == Some(0) {
        return Err(CliError::Usage("--evolve needs at least 1 generation".into()));
    }
    if args.evolve.is_some() && processes > 1 {
        return Err(CliError::Usage(
            "--evolve trains on one device: leave out all but one of --device, and --processes".into(),
        ));
    }
    if args.rect && args.image_weights {
        return Err(CliError::Usage(
            "--rect and --image-weights don't go together: --rect shows every image once, in the order of their shapes; leave one of them \
             out"
            .into(),
        ));
    }
    let Some(batch) = args.batch_size.0 else {
        if processes > 1 {
            return Err(CliError::Usage(
                "--batch-size auto: with several processes give a number of images, all processes together".into(),
            ));
        }
        return Ok(());
    };
    if !batch.is_multiple_of(processes) {
        let less = batch / processes * processes;
        let near = if less == 0 {
            format!("{processes}")
        } else {
            format!("{less} or {}", less + processes)
        };
        return Err(CliError::Usage(format!(
            "--batch-size {batch}: {processes} processes can't share it equally; use {near}"
        )));
    }
    Ok(())
}

/// Trains as one of `ranks`.
fn train((mut args, folder, resume): Asked, json: bool, device: tch::Device, ranks: &Ranks) -> CliResult {
    let world = &ranks.world;
    // Only set here.
    let _ = ranks.folder.set(folder.clone());
    check(&args, world.size())?;
    let precision = args.amp.on(device)?;
    let data = args
        .data
        .as_deref()
        .ok_or_else(|| CliError::Usage("--data is missing".into()))?;
    let mut dataset = data_args::dataset(data)?;
    if args.single_cls {
        dataset.merge_classes();
    }
    let (start, report) = load::for_training(
        load::Start {
            cfg: args.cfg.as_deref(),
            set: &args.set,
            weights: args.weights.as_deref(),
            partial: args.partial_weights,
            seed: args.seed,
        },
        dataset.names.len() as i64,
    )?;
    if let Some(report) = report.filter(|_| !resume) {
        ui::say(format!("weights: {}", report.summary()));
    } else if let Some(weights) = args.weights.as_deref().filter(|_| !resume) {
        data_args::other_names(weights, &start.meta.names, data, &dataset.names);
    }
    fits_pictures(&start)?;
    if yolo_engine::quant::is_quantized(&start.graph) && !resume && world.is_main() {
        ui::say("the weights are quantized: they are trained with their quantizers (QAT), and the result is quantized");
    }
    layers_exist(&args.freeze, &start)?;
    if !resume {
        other_class_count(&args, dataset.names.len())?;
    }
    let sparsify = args.sparsify.as_deref().map(plugin_value).transpose()?;
    let mut start = start.to_device(device);
    let mut options = TrainOptions {
        precision,
        record: args.compile.record(),
        sync_bn: args.sync_bn,
        world: world.clone(),
        // An unknown name is an error before anything is written.
        hooks: sparsify.iter().map(job::description).collect::<CliResult<_>>()?,
        save_period: args.save_period,
        ..options(&args, settings::multiple_of_stride(args.img, start.max_stride())?)?
    };
    options.batch = args.batch_size.resolve(&start, &options)?;
    args.batch_size = BatchSize(Some(options.batch));
    if options.hyp.anchors != 0.0 {
        start = anchors::with_count(start, options.hyp.anchors, args.seed).map_err(load::failed)?;
    }
    let mut job = Job {
        start,
        options,
        dataset: &dataset,
        workers: args.workers,
        cache: args.cache,
        folder: &folder,
        resume,
    };
    let (train, measured) = job.loaders()?;
    let anchors = job.fit_anchors(&train, !args.noautoanchor, world.is_main() && !resume)?;
    if let Some(generations) = args.evolve {
        return evolve::run(&job, &args, generations, sparsify.as_ref(), json);
    }
    if resume && world.is_main() {
        job.check_resume(&train, &measured)?;
        if let Some(epochs) = resume::finished(&folder) {
            ui::say(format!(
                "{}: all {epochs} epochs are done; to train on: `yolo train --weights {} ...`",
                folder.display(),
                folder.join("weights/last.safetensors").display()
            ));
        }
    }
    norms::check(&job.start, &job.options, &train).map_err(load::failed)?;
    if world.is_main() {
        resume::remember(&args, &folder)?;
    }
    if args.rect && world.is_main() && !resume {
        ui::say("--rect: batches of one shape each, without mosaics and always in the same order, as YOLOv5 does it");
    }
    let letters = Letters::default();
    if world.is_main() && !args.noplots && !resume {
        plots::training_data(&folder, &dataset, &letters, &train, job.options.sampling)?;
    }
    let started = Instant::now();
    let outcome = job.run_on(&train, &measured, "train", sparsify.as_ref())?;
    let (seconds, peak) = (started.elapsed().as_secs_f64(), settings::peak_memory());
    if !world.is_main() {
        return Ok(());
    }
    if !args.noplots {
        draw((&folder, &dataset, &letters), &outcome, &measured, device)?;
    }
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
            "best_possible_recall": anchors.best_possible_recall(),
            "seconds": seconds,
            "images_per_second": outcome.images_per_second,
            "peak_memory_bytes": peak,
            "peak_device_memory_bytes": device_memory(device),
            "device": device::name(device),
            "amp": precision,
            "world_size": world.size(),
            "backend": world.backend(),
        })
    );
    Ok(())
}

/// Most bytes that tensors have held at once on a GPU.
fn device_memory(device: tch::Device) -> Option<i64> {
    device.is_cuda().then(|| {
        yolo_torch::native::device::peak_memory(device)
            .ok()
            .map(|(held, _)| held)
    })?
}

/// Pictures have three channels.
fn fits_pictures(start: &Checkpoint) -> CliResult {
    match start.graph.input_channels() {
        3 => Ok(()),
        n => Err(CliError::Usage(format!(
            "the model reads {n} channels, and pictures have 3\n  help: take `ch` (or `channels`) out of its configuration"
        ))),
    }
}

/// Layers to freeze must be there.
fn layers_exist(freeze: &[usize], start: &Checkpoint) -> CliResult {
    let layers = start.graph.layers.len();
    let absent = match freeze {
        // One number counts layers.
        [count] => (*count > layers).then_some(*count),
        several => several.iter().copied().find(|layer| *layer >= layers),
    };
    absent.map_or(Ok(()), |layer| {
        Err(CliError::Usage(format!(
            "--freeze {layer}: the model has {layers} layers, 0 to {}",
            layers.saturating_sub(1)
        )))
    })
}

/// Says that the classes of the data replace the number in the model's configuration.
fn other_class_count(args: &TrainArgs, classes: usize) -> CliResult {
    let Some(cfg) = args.cfg.as_deref().filter(|cfg| Path::new(cfg).is_file()) else {
        return Ok(());
    };
    let config = load::config_with(cfg, &args.set)?;
    if let Some(own) = config.value["nc"].as_u64().filter(|own| *own != classes as u64) {
        ui::say(format!("{cfg}: `nc: {own}` becomes {classes}, the classes of the data"));
    }
    Ok(())
}

/// The settings of the engine.
fn options(args: &TrainArgs, size: usize) -> CliResult<TrainOptions> {
    let mut hyp = data_args::hyp(args.hyp.as_ref(), &[])?;
    if let Some(share) = args.label_smoothing {
        if !(0.0..1.0).contains(&share) {
            return Err(CliError::Usage(format!(
                "--label-smoothing {share}: a number from 0 to 1 is needed"
            )));
        }
        hyp.label_smoothing = share;
    }
    Ok(TrainOptions {
        optimizer: match args.optimizer.to_lowercase().as_str() {
            "sgd" => OptimizerKind::Sgd,
            "adam" => OptimizerKind::Adam,
            "adamw" => OptimizerKind::AdamW,
            other => {
                return Err(CliError::Usage(format!(
                    "there is no optimizer `{other}`: sgd, adam, adamw"
                )));
            }
        },
        decay: if args.cos_lr { Decay::Cosine } else { Decay::Linear },
        patience: args.patience,
        seed: args.seed,
        freeze: freeze(&args.freeze),
        val_every: if args.noval { args.epochs } else { 1 },
        multi_scale: args.multi_scale,
        sampling: sampling(args),
        nominal_batch: args.nominal_batch,
        ..TrainOptions::new(args.epochs, args.batch_size.0.unwrap_or(1), size, hyp)
    })
}

fn sampling(args: &TrainArgs) -> Sampling {
    if args.rect {
        Sampling::Rect
    } else if args.image_weights {
        Sampling::Weighted
    } else {
        Sampling::Shuffled
    }
}

/// `--save-period`: -1 is YOLOv5's word for never.
fn period(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(0),
        number => number
            .parse()
            .map_err(|_| "a number of epochs, or 0 (or -1) for never".to_owned()),
    }
}

/// Curves of the training, and the best model looked at closely.
fn draw(
    (folder, dataset, letters): (&Path, &Dataset, &Letters),
    outcome: &Outcome,
    loader: &Loader,
    device: tch::Device,
) -> CliResult {
    plots::training(folder)?;
    let nms = NmsOptions::validation();
    let best = outcome.best.on(device);
    let (report, pictures) = val::measure(&best, loader, &nms, "best", &mut |_| Ok(()))?;
    plots::validation(folder, &dataset.names, letters, &report, &pictures)
}

/// `slimming` or YAML to a plugin configuration.
pub fn plugin_value(text: &str) -> CliResult<serde_json::Value> {
    let value = yolo_core::config::Located::parse("<option>", text)?.value;
    Ok(match value {
        serde_json::Value::String(name) => json!({ "type": name }),
        other => other,
    })
}

/// One number freezes so many layers, several freeze those.
fn freeze(layers: &[usize]) -> Vec<String> {
    let all: Vec<usize> = if let [count] = layers {
        (0..*count).collect()
    } else {
        layers.to_vec()
    };
    all.into_iter().map(|layer| format!("model.{layer}.")).collect()
}
