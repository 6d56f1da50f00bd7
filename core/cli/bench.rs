//! `yolo bench`: latency of models on the engines of this machine. Only the network is inside the clock, with the decoding of its
//! maps; one engine runs at a time, with a fixed number of threads.

mod step;

use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::json;
use tch::Device;
use yolo_core::passes;
use yolo_engine::Checkpoint;
use yolo_engine::val::Detector;
use yolo_export::bench::{self, Latency, Plan};
use yolo_export::onnx::{self, proto::ModelProto};
use yolo_export::ort;

use crate::device::{AmpArgs, CompileArgs, DeviceArgs};
use crate::error::{CliError, CliResult, io_error};
use crate::export::unknown;
use crate::quantize::export_failed;
use crate::{load, settings, ui};

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
    #[command(flatten)]
    compile: CompileArgs,
    /// Without CUDA kernels of our own, for `--train`
    #[arg(long, requires = "train")]
    plain: bool,
    /// Write images, targets, maps, losses and gradients of the first step to a .safetensors file, for `--train`
    #[arg(long, requires = "train")]
    save_step: Option<PathBuf>,
    /// `torch`, `ort` (repeatable; default: all that are installed)
    #[arg(long)]
    engine: Vec<String>,
    /// Side of the image (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    img: Option<usize>,
    /// Threads (default: one per core)
    #[arg(long)]
    threads: Option<usize>,
    /// Timed runs per row
    #[arg(long, default_value_t = 50)]
    runs: usize,
    /// Images per run
    #[arg(long, visible_alias = "batch", default_value_t = 1)]
    batch_size: usize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The file.
    pub weights: PathBuf,
    /// What ran it.
    pub engine: &'static str,
    /// `f32`, `int8`, or `int8 (simulated)` where libtorch computes a quantized network in floats.
    pub precision: &'static str,
    /// Threads of the engine.
    pub threads: usize,
    /// Side of the image.
    pub img: i64,
    /// Median of a run in milliseconds.
    pub ms_median: f64,
    /// 95th percentile in milliseconds.
    pub ms_p95: f64,
    /// Images per second at the median.
    pub fps: f64,
    /// Bytes of the file that the engine ran.
    pub size_bytes: u64,
    /// Billions of operations of a run, after the passes that every engine gets; unknown for ONNX files.
    pub gflops: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Torch,
    Ort,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::Ort => "ort",
        }
    }
}

/// How to measure.
#[derive(Debug, Clone, Copy)]
struct Setup {
    side: Option<usize>,
    threads: usize,
    batch: usize,
    plan: Plan,
    device: Device,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> CliResult {
    let device = args.device.one()?;
    if args.train {
        return train_step(args, device);
    }
    for (name, value) in [
        ("--runs", args.runs),
        ("--batch-size", args.batch_size),
        ("--threads", args.threads.unwrap_or(1)),
    ] {
        if value == 0 {
            return Err(CliError::Usage(format!("{name} 0: 1 or more is needed")));
        }
    }
    let plan = Plan {
        min_runs: args.runs,
        max_runs: args.runs,
        ..Plan::default()
    };
    let setup = Setup {
        side: args.img,
        threads: args.threads.unwrap_or_else(all_cores),
        batch: args.batch_size,
        plan,
        device,
    };
    let engines = engines(&args.engine)?;
    let mut bar = ui::Bar::new("bench", (args.weights.len() * engines.len()) as u64);
    ui::stop_flag();
    let mut rows = Vec::new();
    for weights in &args.weights {
        for engine in &engines {
            if ui::stopped() {
                return Err(CliError::Interrupted("stopped".into()));
            }
            rows.extend(measure(weights, *engine, !args.engine.is_empty(), setup)?);
            bar.set(rows.len() as u64, (args.weights.len() * engines.len()) as u64, "");
        }
    }
    bar.finish();
    if rows.is_empty() {
        return Err(CliError::Failed(
            "nothing was measured: .onnx files need onnxruntime (see `yolo doctor`)".into(),
        ));
    }
    if args.json {
        return ui::print_json(&json!({"rows": rows}));
    }
    println!("{}", table(&rows));
    Ok(())
}

/// `--train`.
fn train_step(args: &BenchArgs, device: Device) -> CliResult {
    let model = match (&args.cfg, args.weights.as_slice()) {
        (Some(cfg), _) => {
            let graph = load::graph(cfg, args.nc)?;
            let params = yolo_core::Params::init(&graph, 0);
            Checkpoint::new(graph, params, yolo_engine::checkpoint::Meta::default())
        }
        (None, [weights]) => load::checkpoint(weights)?,
        (None, _) => return Err(CliError::Usage("--train measures one model: give one --weights".into())),
    };
    if args.steps == 0 || args.batch_size == 0 {
        return Err(CliError::Usage("--steps and --batch-size must be at least 1".into()));
    }
    let size = settings::image_size(args.img, &model)?;
    let params = model.params.to_device(device);
    step::StepBench {
        graph: &model.graph,
        params: &params,
        device,
        precision: args.amp.on(device)?,
        size,
        batch: args.batch_size,
        warmup: args.warmup,
        steps: args.steps,
        plain: args.plain,
        record: args.compile.record(),
        save: args.save_step.as_deref(),
    }
    .run(args.json)
}

/// The engines that were asked for, or all that are installed.
fn engines(names: &[String]) -> CliResult<Vec<Engine>> {
    if names.is_empty() {
        let ort = ort::available()
            .map_err(|error| ui::say(format!("without onnxruntime: {error}")))
            .is_ok();
        return Ok(if ort {
            vec![Engine::Torch, Engine::Ort]
        } else {
            vec![Engine::Torch]
        });
    }
    let mut engines = Vec::new();
    for name in names {
        let engine = match name.as_str() {
            "torch" => Engine::Torch,
            "ort" | "onnxruntime" => {
                ort::available().map_err(export_failed)?;
                Engine::Ort
            }
            other => return Err(unknown("engine", other, &["torch", "ort"])),
        };
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    Ok(engines)
}

/// All cores of this machine.
pub fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// One row; none where an engine that nobody asked for can't run the file.
fn measure(weights: &Path, engine: Engine, asked: bool, setup: Setup) -> CliResult<Option<Row>> {
    let Setup {
        threads,
        batch,
        plan,
        device,
        ..
    } = setup;
    let is_onnx = weights.extension().is_some_and(|e| e == "onnx");
    if engine == Engine::Torch && is_onnx {
        return match asked {
            true => Err(CliError::Usage(format!(
                "{}: libtorch runs no ONNX files; use --engine ort",
                weights.display()
            ))),
            false => Ok(None),
        };
    }
    let mut size_bytes = file_size(weights)?;
    let (latency, precision, img, gflops) = if is_onnx {
        let file = ModelProto::read(weights).map_err(export_failed)?;
        let sides = sides_of(weights, &file, setup.side)?;
        let img = sides[0].max(sides[1]);
        let latency = bench::onnx_batch(weights, batch as i64, sides, threads, plan).map_err(export_failed)?;
        (latency, if file.is_quantized() { "int8" } else { "f32" }, img, None)
    } else {
        let model = load::checkpoint(weights)?;
        let img = settings::image_size(setup.side, &model)? as i64;
        let quantized = onnx::is_quantized(&model.graph);
        let (latency, precision) = match engine {
            Engine::Torch => {
                let latency = torch_batch(&model.on(device), img, batch, threads, plan)?;
                (latency, if quantized { "int8 (simulated)" } else { "f32" })
            }
            Engine::Ort => {
                let file = temporary_onnx(&model, img, batch)?;
                size_bytes = file_size(file.path())?;
                let latency =
                    bench::onnx_batch(file.path(), batch as i64, [img; 2], threads, plan).map_err(export_failed)?;
                (latency, if quantized { "int8" } else { "f32" })
            }
        };
        (latency, precision, img, Some(batch as f64 * gflops(&model, img)?))
    };
    let Latency {
        ms_median, ms_p95, fps, ..
    } = latency;
    let (weights, engine) = (weights.to_owned(), engine.name());
    Ok(Some(Row {
        weights,
        engine,
        precision,
        threads,
        img,
        ms_median,
        ms_p95,
        fps,
        size_bytes,
        gflops,
    }))
}

/// Height and width that an ONNX file takes; those asked for, or 640, where it leaves them open.
fn sides_of(path: &Path, file: &ModelProto, asked: Option<usize>) -> CliResult<[i64; 2]> {
    let dims = file
        .graph
        .iter()
        .flat_map(|graph| &graph.input)
        .map(|input| input.dims())
        .next();
    let own = |axis: usize| {
        dims.as_ref()
            .and_then(|dims| dims.get(axis).copied().flatten())
            .filter(|side| *side > 0)
    };
    let open = asked.unwrap_or(640) as i64;
    let sides = [own(2).unwrap_or(open), own(3).unwrap_or(open)];
    match asked {
        Some(side) if sides != [side as i64; 2] => Err(CliError::Usage(format!(
            "--img {side}: {} is written for images of {} x {}; leave --img out",
            path.display(),
            sides[0],
            sides[1]
        ))),
        _ => Ok(sides),
    }
}

/// Billions of operations for one image in the form that engines run.
fn gflops(model: &Checkpoint, img: i64) -> CliResult<f64> {
    let (graph, _) = passes::for_inference(&model.graph, &model.params)?;
    Ok(graph.cost(img)?.gflops())
}

/// The fused network on libtorch, one image at a time.
pub fn on_torch(model: &Checkpoint, img: i64, threads: usize, plan: Plan) -> CliResult<Latency> {
    torch_batch(model, img, 1, threads, plan)
}

/// The network on onnxruntime through a file that is gone afterwards, one image at a time.
pub fn on_ort(model: &Checkpoint, img: i64, threads: usize, plan: Plan) -> CliResult<Latency> {
    let file = temporary_onnx(model, img, 1)?;
    bench::onnx(file.path(), [img; 2], threads, plan).map_err(export_failed)
}

/// Batch norm folded, channels last, a fixed number of threads.
fn torch_batch(model: &Checkpoint, img: i64, batch: usize, threads: usize, plan: Plan) -> CliResult<Latency> {
    let before = tch::get_num_threads();
    tch::set_num_threads(threads as i32);
    let detector = Detector::new(&model.graph, &model.params).map_err(load::failed)?;
    let image = yolo_core::testing::input(batch as i64, model.graph.input_channels(), img, img);
    let image = yolo_core::exec::channels_last(&image.to_device(detector.device()));
    let times = bench::time(plan, || detector.predict(&image).map(drop)).map_err(load::failed);
    tch::set_num_threads(before);
    Latency::of(times?, batch as i64).ok_or_else(|| CliError::Failed("bench: no run was timed".into()))
}

/// The model as an ONNX file that lives as long as the result.
fn temporary_onnx(model: &Checkpoint, img: i64, batch: usize) -> CliResult<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new()
        .suffix(".onnx")
        .tempfile()
        .map_err(|error| io_error("can't make a file", &std::env::temp_dir(), &error))?;
    let options = onnx::Options {
        image: [img; 2],
        batch: Some(batch as i64),
        profile: onnx::Profile::Ort,
        ..onnx::Options::default()
    };
    onnx::write(&model.graph, &model.params, &options, file.path()).map_err(export_failed)?;
    Ok(file)
}

fn file_size(path: &Path) -> CliResult<u64> {
    Ok(std::fs::metadata(path)
        .map_err(|error| io_error("can't look at", path, &error))?
        .len())
}

fn table(rows: &[Row]) -> Table {
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
            row.img.to_string(),
            format!("{:.2}", row.ms_median),
            format!("{:.2}", row.ms_p95),
            format!("{:.1}", row.fps),
            format!("{:.2} MB", row.size_bytes as f64 / 1e6),
        ]);
    }
    table
}
