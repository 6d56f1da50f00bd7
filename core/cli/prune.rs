//! `yolo prune`.

use std::path::PathBuf;

use serde_json::json;
use yolo_core::prune::{Budget, ChannelGroups, PrunePlan, Rounding};
use yolo_data::{Dataset, Hyp, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_engine::prune::{PruneData, PruneOptions, Pruned};
use yolo_engine::train::{Precision, TrainOptions};

use crate::device::{AmpArgs, DeviceArgs};
use crate::error::{CliError, CliResult, io_error};
use crate::{components, data_args, load, outputs, settings, ui};

/// Remove channels from a model
///
/// Examples: yolo prune --weights best.safetensors --data bccd.yaml --pruner slimming --flops 0.6 --out pruned.safetensors
///           yolo prune --weights best.safetensors --data bccd.yaml --pruner oneshot --metric fpgm --flops 0.5 --out pruned.safetensors
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PruneArgs {
    /// Checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// Data set YAML
    #[arg(long)]
    data: PathBuf,
    /// Pruner: its name, or `{type: NAME, option: value}` (`yolo list-plugins --kind pruner`)
    #[arg(long, default_value = "slimming")]
    pruner: String,
    /// Metric of a pruner that takes one: a name, `{type: NAME, ...}` or a .wasm file
    #[arg(long)]
    metric: Option<String>,
    /// Option of the pruner, `candidates=20`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Largest share of the FLOPs that may stay
    #[arg(long)]
    flops: Option<f64>,
    /// Largest share of the parameters that may stay
    #[arg(long)]
    params: Option<f64>,
    /// Widths become multiples of this
    #[arg(long, default_value_t = Rounding::default().multiple)]
    multiple: usize,
    /// No group of channels loses more than this share
    #[arg(long, default_value_t = Rounding::default().max_ratio)]
    max_ratio: f64,
    /// Replay a plan instead of searching
    #[arg(long, conflicts_with_all = ["pruner", "metric", "flops", "params"])]
    plan: Option<PathBuf>,
    /// Write the plan as JSON
    #[arg(long)]
    save_plan: Option<PathBuf>,
    /// Training batches for the statistics of batch norms
    #[arg(long, default_value_t = 50)]
    calib_batches: usize,
    /// Training images that candidates of a search are compared on
    #[arg(long, default_value_t = 256)]
    select_images: usize,
    /// Side of the images (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    img: Option<usize>,
    /// Images per step
    #[arg(long, visible_alias = "batch", default_value_t = 16)]
    batch_size: usize,
    /// Hyper-parameters (for pruners that train)
    #[arg(long)]
    hyp: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Don't measure mAP before and after
    #[arg(long)]
    noval: bool,
    /// The pruned checkpoint
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &PruneArgs) -> CliResult {
    if !load::is_safetensors(&args.out) {
        return Err(CliError::Usage(format!(
            "--out {}: the result is a .safetensors file",
            args.out.display()
        )));
    }
    outputs::not_the_input("--out ", &args.out, &args.weights)?;
    let value = components::with_metric(
        components::configuration(&args.pruner, &args.options)?,
        args.metric.as_deref(),
    )?;
    let device = args.device.one()?;
    let precision = args.amp.on(device)?;
    let model = load::checkpoint(&args.weights)?.to_device(device);
    let dataset = data_args::dataset(&args.data)?;
    data_args::same_classes(&args.weights, &model, &args.data, &dataset)?;
    let img = settings::image_size(args.img, &model)?;
    let job = Job {
        dataset: &dataset,
        img,
        batch: args.batch_size,
        workers: args.workers,
        hyp: data_args::hyp(args.hyp.as_ref(), &[])?,
        seed: args.seed,
        precision,
        budget: Budget {
            flops: args.flops,
            params: args.params,
        },
        rounding: Rounding {
            multiple: args.multiple.max(1),
            max_ratio: args.max_ratio,
        },
        calib_batches: args.calib_batches,
        select_images: args.select_images,
    };
    let before = if args.noval {
        None
    } else {
        Some(measure(&model, &dataset, &job, "val before")?)
    };
    let pruned = match &args.plan {
        Some(path) => job.replay(&model, path)?,
        None => {
            let place = if args.metric.is_some() {
                "--pruner with --metric"
            } else {
                "--pruner"
            };
            job.run(&model, place, &value)?
        }
    };
    let mut result = pruned.model;
    let after = if args.noval {
        None
    } else {
        Some(measure(&result, &dataset, &job, "val after")?)
    };
    if let Some([map50, map]) = after {
        result.meta.metrics.insert("map50".into(), map50);
        result.meta.metrics.insert("map".into(), map);
    }
    yolo_engine::checkpoint::save(&args.out, &result).map_err(load::failed)?;
    if let Some(path) = &args.save_plan {
        let text = pruned.plan.to_file(&ChannelGroups::of(&model.graph)?)?;
        load::write_file(path, text.as_bytes()).map_err(|error| io_error("can't write", path, &error))?;
    }
    let (old, new) = (model.graph.cost(img as i64)?, result.graph.cost(img as i64)?);
    if args.json {
        return ui::print_json(&json!({
            "params_before": old.params, "params": new.params,
            "gflops_before": old.gflops(), "gflops": new.gflops(),
            "map50_before": before.map(|m| m[0]), "map50": after.map(|m| m[0]), "map": after.map(|m| m[1]),
            "plan": pruned.plan, "out": args.out,
        }));
    }
    let share = |now: f64, then: f64| 100.0 * now / then;
    println!(
        "{:>8} {:>12} {:>10} {:>8} {:>8}",
        "", "params", "GFLOPs", "mAP50", "mAP"
    );
    for (name, cost, metrics) in [("before", &old, before), ("after", &new, after)] {
        let [map50, map] = metrics.map_or(["-".to_owned(), "-".to_owned()], |m| m.map(|v| format!("{v:.4}")));
        println!(
            "{name:>8} {:>12} {:>10.3} {map50:>8} {map:>8}",
            ui::thousands(cost.params),
            cost.gflops()
        );
    }
    println!(
        "{:.1} % of the parameters and {:.1} % of the FLOPs stay; fine-tune with `yolo train --weights {}`",
        share(new.params as f64, old.params as f64),
        share(new.gflops(), old.gflops()),
        args.out.display()
    );
    if let Some(flops) = args.flops.filter(|flops| new.gflops() / old.gflops() < flops - 0.02) {
        println!(
            "at most {:.1} % of the FLOPs were asked for; widths stay multiples of {} (--multiple), so the steps are coarse",
            100.0 * flops,
            job.rounding.multiple
        );
    }
    Ok(())
}

fn measure(model: &Checkpoint, dataset: &Dataset, job: &Job<'_>, label: &str) -> CliResult<[f64; 2]> {
    let loader = data_args::val_loader(dataset, Split::Val, model, job.img, job.batch, job.workers, false)?;
    validate(model, &loader, label)
}

/// mAP50 and mAP of a model on a loader, with a bar.
pub fn validate(model: &Checkpoint, loader: &Loader, label: &str) -> CliResult<[f64; 2]> {
    let mut bar = ui::Bar::new(label, loader.batches() as u64);
    ui::stop_flag();
    let mut progress = |done: usize, total: usize| {
        bar.set(done as u64, total as u64, "");
        if ui::stopped() {
            Err(yolo_core::Error::Cancelled.into())
        } else {
            Ok(())
        }
    };
    let report = yolo_engine::val::validate(
        &model.graph,
        &model.params,
        loader,
        &NmsOptions::validation(),
        &mut progress,
    );
    bar.finish();
    let metrics = report.map_err(load::failed)?.metrics;
    Ok([metrics.map50, metrics.map])
}

/// One pruning with progress on the terminal.
pub struct Job<'a> {
    /// Data.
    pub dataset: &'a Dataset,
    /// Side of the images.
    pub img: usize,
    /// Images per batch.
    pub batch: usize,
    /// Loader threads.
    pub workers: usize,
    /// For pruners that train.
    pub hyp: Hyp,
    /// Seed.
    pub seed: u64,
    /// Mixed precision of pruners that train.
    pub precision: Precision,
    /// What the result may cost.
    pub budget: Budget,
    /// How widths are rounded.
    pub rounding: Rounding,
    /// Batches for statistics.
    pub calib_batches: usize,
    /// Training images for comparing candidates.
    pub select_images: usize,
}

impl Job<'_> {
    fn calib(&self, model: &Checkpoint) -> CliResult<Loader> {
        data_args::calib_loader(
            self.dataset,
            model,
            self.img,
            self.batch,
            self.calib_batches.max(1) * self.batch,
            self.workers,
        )
    }

    /// Lets the pruner of `value` decide and cuts.
    pub fn run(&self, model: &Checkpoint, place: &str, value: &serde_json::Value) -> CliResult<Pruned> {
        let pruner = components::pruner(place, value)?;
        let train = data_args::train_loader(
            self.dataset,
            model,
            self.img,
            self.batch,
            &self.hyp,
            self.seed,
            self.workers,
        )?;
        let calib = self.calib(model)?;
        let select = data_args::calib_loader(
            self.dataset,
            model,
            self.img,
            self.batch,
            self.select_images,
            self.workers,
        )?;
        let options = PruneOptions {
            budget: self.budget,
            rounding: self.rounding,
            seed: self.seed,
            calib_batches: self.calib_batches,
            train: TrainOptions {
                seed: self.seed,
                precision: self.precision,
                ..TrainOptions::new(1, self.batch, self.img, self.hyp.clone())
            },
        };
        let mut bar = ui::Bar::new("prune", 0);
        ui::stop_flag();
        let mut progress = |done: usize, total: usize, note: &str| {
            // Without a total it only asks whether to go on.
            if total > 0 {
                bar.set(done as u64, total as u64, note);
            }
            !ui::stopped()
        };
        let data = PruneData {
            train: &train,
            calib: &calib,
            select: &select,
        };
        let result = yolo_engine::prune::prune(model, pruner.as_ref(), data, &options, &mut progress);
        bar.finish();
        result.map_err(load::failed)
    }

    /// Cuts by a plan that was saved.
    fn replay(&self, model: &Checkpoint, path: &PathBuf) -> CliResult<Pruned> {
        let text = std::fs::read_to_string(path).map_err(|error| io_error("can't read the plan", path, &error))?;
        let plan = PrunePlan::of_file(&text, &ChannelGroups::of(&model.graph)?)
            .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
        let settings = json!({ "plan": path });
        let model = yolo_engine::prune::apply_plan(model, &plan, &self.calib(model)?, self.calib_batches, settings)
            .map_err(load::failed)?;
        Ok(Pruned { model, plan })
    }
}
