//! `yolo bench`: latency of models on the engines of this machine, or the training step.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table};
use serde_json::json;
use tch::Device;
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::Meta;
use yolo_jobs::bench::{self, BenchSettings, StepBench, StepReport, Timing};
use yolo_jobs::compute::{self, AmpArgs, Compile, DeviceArgs};
use yolo_jobs::open;

use crate::error::{CliError, CliResult};
use crate::ui;

/// Measure latency and FPS of models on this machine
///
/// Examples: yolo bench --weights yolov5n.safetensors --img 640
///           yolo bench --weights float.safetensors int8.onnx --engine ort --threads 2 --json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct BenchArgs {
    /// Checkpoints (.safetensors, .pt) or .onnx files
    #[arg(long, num_args = 1.., required_unless_present = "cfg")]
    weights: Vec<PathBuf>,
    /// Measure the training step instead of inference, of one checkpoint or of `--cfg`
    #[arg(long)]
    train: bool,
    /// Model configuration (name or file) with random weights, for `--train`
    #[arg(long, requires = "train", conflicts_with = "weights")]
    cfg: Option<String>,
    /// Number of classes of `--cfg`
    #[arg(long, requires = "cfg")]
    nc: Option<i64>,
    /// Steps that are timed, for `--train`
    #[arg(long, requires = "train", default_value_t = 50)]
    steps: usize,
    /// Steps before, for `--train`
    #[arg(long, requires = "train", default_value_t = 10)]
    warmup: usize,
    /// On GPUs: launch the step as recorded CUDA graphs or kernel by kernel, for `--train`
    #[arg(long, value_enum, default_value_t, requires = "train")]
    compile: Compile,
    /// Without CUDA kernels of our own, for `--train`
    #[arg(long, requires = "train")]
    plain: bool,
    /// Write images, targets, maps, losses and gradients of the first step to a .safetensors file, for `--train`
    #[arg(long, requires = "train")]
    save_step: Option<PathBuf>,
    #[command(flatten)]
    settings: BenchSettings,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> CliResult {
    let device = args.device.one()?;
    if args.train {
        let report = train_step(args, device)?;
        if args.json {
            return ui::print_json(&json!({ "rows": [report] }));
        }
        println!(
            "training step on {}, {} images of {} px: {:.1} ms (p95 {:.1}), {:.0} images/s",
            report.device, report.batch, report.img, report.ms_median, report.ms_p95, report.images_per_second
        );
        return Ok(());
    }
    let rows = bench::run(ui::session()?, &args.settings, &args.weights, device)?;
    if args.json {
        return ui::print_json(&json!({"rows": rows}));
    }
    println!("{}", table(&rows));
    Ok(())
}

/// `--train`.
fn train_step(args: &BenchArgs, device: Device) -> CliResult<StepReport> {
    let session = ui::session()?;
    let model = match (&args.cfg, args.weights.as_slice()) {
        (Some(cfg), _) => {
            let graph = open::graph(session, cfg, args.nc)?;
            let params = yolo_core::Params::init(&graph, 0);
            Checkpoint::new(graph, params, Meta::default())
        }
        (None, [weights]) => open::checkpoint(session, weights)?,
        (None, _) => return Err(CliError::Usage("--train measures one model: give one --weights".into())),
    };
    if args.steps == 0 || args.settings.batch_size == 0 {
        return Err(CliError::Usage("--steps and --batch-size must be at least 1".into()));
    }
    let size = open::image_size(session, args.settings.img, &model)?;
    let params = model.params.to_device(device);
    let bench = StepBench {
        graph: &model.graph,
        params: &params,
        device,
        precision: compute::precision(args.amp.amp, device)?,
        size,
        batch: args.settings.batch_size,
        warmup: args.warmup,
        steps: args.steps,
        plain: args.plain,
        record: args.compile == Compile::Graph,
        save: args.save_step.as_deref(),
    };
    Ok(bench.run(session)?)
}

fn table(rows: &[Timing]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY)
        .set_header([
            "weights",
            "engine",
            "precision",
            "threads",
            "img",
            "median ms",
            "p95 ms",
            "FPS",
            "size",
        ]);
    for column in 3..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row([
            row.weights.display().to_string(),
            row.engine.to_owned(),
            row.precision.to_owned(),
            row.threads.to_string(),
            match row.sides {
                [height, width] if height != width => format!("{height}x{width}"),
                _ => row.img.to_string(),
            },
            format!("{:.2}", row.ms_median),
            format!("{:.2}", row.ms_p95),
            format!("{:.1}", row.fps),
            format!("{:.2} MB", row.size_bytes as f64 / 1e6),
        ]);
    }
    table
}
