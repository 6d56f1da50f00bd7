//! Latency of models on the engines of this machine. Only the network is inside the clock, with the decoding of its maps; one engine
//! runs at a time, with a fixed number of threads.

mod engines;
mod step;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Device;
use yolo_core::{Graph, Mode, Params, Program, passes};
use yolo_engine::Checkpoint;
use yolo_engine::val::Detector;
use yolo_export::bench::{self, Latency, Plan};
use yolo_export::engine::{Array, Ncnn, OnnxRuntime, OpenVino};
use yolo_export::ncnn;
use yolo_export::onnx::{self, proto::ModelProto};
use yolo_export::ort;

use crate::error::{Error, Result, io_error, unknown};
use crate::{Session, limits, open};

pub use step::{StepBench, StepReport};

/// Settings of a measurement: flags of `yolo bench` and keys of a recipe's `bench` stage.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BenchSettings {
    /// `torch`, `ort`, `openvino`, `ncnn`, or `auto`: onnxruntime where it is installed, else libtorch (repeatable; default: all that are
    /// installed)
    #[arg(long)]
    #[serde(deserialize_with = "crate::lists::one_or_many")]
    pub engine: Vec<String>,
    /// Side of the image (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    pub img: Option<usize>,
    /// Threads (default: one per core)
    #[arg(long)]
    pub threads: Option<usize>,
    /// Timed runs per row
    #[arg(long, default_value_t = 50)]
    pub runs: usize,
    /// Images per run
    #[arg(long, visible_alias = "batch", default_value_t = 1)]
    pub batch_size: usize,
}

impl Default for BenchSettings {
    fn default() -> Self {
        Self {
            engine: Vec::new(),
            img: None,
            threads: None,
            runs: 50,
            batch_size: 1,
        }
    }
}

impl BenchSettings {
    /// Refuses numbers that can't be.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self) -> Result {
        for (name, value) in [
            ("--runs", self.runs),
            ("--batch-size", self.batch_size),
            ("--threads", self.threads.unwrap_or(1)),
        ] {
            limits::at_least_one(name, value)?;
        }
        Ok(())
    }

    /// The engines that were asked for, or all that are installed.
    ///
    /// # Errors
    /// A name that is none; an engine that is not installed.
    pub fn engines(&self, session: Session<'_>) -> Result<Vec<Engine>> {
        if self.engine.is_empty() {
            let there = |engine: &Engine| match (engine, engine.port()) {
                (_, None) => true,
                (Engine::Ort, _) => ort::available()
                    .map_err(|error| session.say(format!("without onnxruntime: {error}")))
                    .is_ok(),
                // Nobody misses what was not fetched (`yolo doctor` lists them).
                (_, Some(port)) => port.find().is_ok(),
            };
            return Ok(Engine::ALL.into_iter().filter(there).collect());
        }
        let mut engines = Vec::new();
        for name in &self.engine {
            let engine = Engine::named(name)?;
            if !engines.contains(&engine) {
                engines.push(engine);
            }
        }
        Ok(engines)
    }

    fn setup(&self, device: Device) -> Setup {
        Setup {
            side: self.img,
            threads: self.threads.unwrap_or_else(all_cores),
            batch: self.batch_size,
            plan: Plan {
                min_runs: self.runs,
                max_runs: self.runs,
                ..Plan::default()
            },
            device,
        }
    }
}

/// Times each file on each engine.
///
/// # Errors
/// A file that can't be read or run; nothing that could be measured; the listener's wish to stop.
pub fn run(session: Session<'_>, settings: &BenchSettings, weights: &[PathBuf], device: Device) -> Result<Vec<Timing>> {
    settings.check()?;
    let (engines, setup) = (settings.engines(session)?, settings.setup(device));
    let total = weights.len() * engines.len();
    let task = session.progress.task("bench", total);
    let mut rows = Vec::new();
    for weights in weights {
        for engine in &engines {
            task.ask()?;
            if *engine == Engine::Ncnn && setup.batch > 1 && settings.engine.is_empty() {
                session.say(format!(
                    "{}: not in ncnn: it runs one image at a time",
                    weights.display()
                ));
                continue;
            }
            rows.extend(measure(session, weights, *engine, !settings.engine.is_empty(), setup)?);
            task.step(rows.len(), total, "")?;
        }
    }
    drop(task);
    if rows.is_empty() {
        return Err(Error::Failed(
            "nothing was measured: .onnx files need onnxruntime (see `yolo doctor`)".into(),
        ));
    }
    Ok(rows)
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct Timing {
    /// The file.
    pub weights: PathBuf,
    /// What ran it.
    pub engine: &'static str,
    /// `f32`, `int8`, or `int8 (simulated)` where libtorch computes a quantized network in floats.
    pub precision: &'static str,
    /// Threads of the engine.
    pub threads: usize,
    /// Longer side of the image.
    pub img: i64,
    /// Its height and width.
    pub sides: [i64; 2],
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

/// What runs a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// libtorch.
    Torch,
    /// onnxruntime.
    Ort,
    /// OpenVINO.
    OpenVino,
    /// ncnn.
    Ncnn,
}

impl Engine {
    /// All of them, as they are tried where nobody names one.
    const ALL: [Self; 4] = [Self::Torch, Self::Ort, Self::OpenVino, Self::Ncnn];
    /// What `--engine` takes.
    const NAMES: [&str; 5] = ["auto", "torch", "ort", "openvino", "ncnn"];

    /// The port to it; libtorch needs none.
    fn port(self) -> Option<&'static dyn yolo_export::engine::Engine> {
        match self {
            Self::Torch => None,
            Self::Ort => Some(&OnnxRuntime),
            Self::OpenVino => Some(&OpenVino),
            Self::Ncnn => Some(&Ncnn),
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::Ort => "ort",
            Self::OpenVino => "openvino",
            Self::Ncnn => "ncnn",
        }
    }

    /// The engine of a name, whether or not it is installed: for tables of other machines.
    ///
    /// # Errors
    /// A name that is none.
    pub fn called(name: &str) -> Result<Self> {
        match name {
            "auto" | "onnxruntime" => Ok(Self::Ort),
            _ => (Self::ALL.into_iter())
                .find(|engine| engine.name() == name)
                .ok_or_else(|| unknown("engine", name, &Self::NAMES)),
        }
    }

    fn found(engine: Self) -> Result<Self> {
        if let Some(port) = engine.port() {
            port.find()?;
        }
        Ok(engine)
    }

    /// The engine of a name: `auto` is onnxruntime where it is installed, else libtorch.
    ///
    /// # Errors
    /// A name that is none; an engine that is not installed.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "auto" if ort::available().is_ok() => Ok(Self::Ort),
            "auto" | "torch" => Ok(Self::Torch),
            "ort" | "onnxruntime" => {
                ort::available()?;
                Ok(Self::Ort)
            }
            "openvino" => Self::found(Self::OpenVino),
            "ncnn" => Self::found(Self::Ncnn),
            other => Err(unknown("engine", other, &Self::NAMES)),
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

/// All cores of this machine.
pub fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// One row; none where an engine that nobody asked for can't run the file.
fn measure(session: Session<'_>, weights: &Path, engine: Engine, asked: bool, setup: Setup) -> Result<Option<Timing>> {
    let Setup {
        threads,
        batch,
        plan,
        device,
        ..
    } = setup;
    let is_onnx = weights.extension().is_some_and(|e| e == "onnx");
    let of_engines = yolo_export::engine::of_file(weights).is_some();
    let reads = match engine.port() {
        Some(port) if of_engines => yolo_export::engine::reads(port, weights),
        _ => !of_engines,
    };
    if !reads {
        return match asked {
            true => Err(Error::Usage(format!(
                "{}: {} runs no such files; use --engine {}",
                weights.display(),
                engine.name(),
                yolo_export::engine::of_file(weights).map_or("torch", |port| port.name())
            ))),
            false => Ok(None),
        };
    }
    if let Some(port) = engine.port().filter(|_| engine != Engine::Ort) {
        return match engines::measure(session, weights, (engine, port), setup) {
            Err(Error::Failed(reason)) if !asked => {
                session.say(format!("{}: not in {}: {reason}", weights.display(), port.title()));
                Ok(None)
            }
            other => other.map(Some),
        };
    }
    let mut size_bytes = file_size(weights)?;
    let (latency, precision, sides, gflops) = if is_onnx {
        let file = ModelProto::read(weights)?;
        let sides = sides_of(weights, &file, setup.side)?;
        let latency = bench::onnx_batch(weights, batch as i64, sides, threads, plan)?;
        (latency, if file.is_quantized() { "int8" } else { "f32" }, sides, None)
    } else {
        let model = open::checkpoint(session, weights)?;
        let img = open::image_size(session, setup.side, &model)? as i64;
        let quantized = onnx::is_quantized(&model.graph);
        let (latency, precision) = match engine {
            Engine::Torch => {
                let latency = torch_batch(&model.on(device), img, batch, threads, plan)?;
                (latency, if quantized { "int8 (simulated)" } else { "f32" })
            }
            Engine::Ort => {
                let file = temporary_onnx(&model, img, batch)?;
                size_bytes = file_size(file.path())?;
                let latency = bench::onnx_batch(file.path(), batch as i64, [img; 2], threads, plan)?;
                (latency, if quantized { "int8" } else { "f32" })
            }
            Engine::OpenVino | Engine::Ncnn => {
                return Err(Error::Failed(format!("bench: {} has a port of its own", engine.name())));
            }
        };
        (latency, precision, [img; 2], Some(batch as f64 * gflops(&model, img)?))
    };
    let Latency {
        ms_median, ms_p95, fps, ..
    } = latency;
    let (weights, engine) = (weights.to_owned(), engine.name());
    Ok(Some(Timing {
        weights,
        engine,
        precision,
        threads,
        img: sides[0].max(sides[1]),
        sides,
        ms_median,
        ms_p95,
        fps,
        size_bytes,
        gflops,
    }))
}

/// Height and width that an ONNX file takes; those asked for, or 640, where it leaves them open.
fn sides_of(path: &Path, file: &ModelProto, asked: Option<usize>) -> Result<[i64; 2]> {
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
        Some(side) if sides != [side as i64; 2] => Err(Error::Usage(format!(
            "--img {side}: {} is written for images of {} x {}; leave --img out",
            path.display(),
            sides[0],
            sides[1]
        ))),
        _ => Ok(sides),
    }
}

/// Billions of operations for one image, counted as everywhere else: on the network as it is trained.
fn gflops(model: &Checkpoint, img: i64) -> Result<f64> {
    Ok(model.graph.cost(img)?.gflops())
}

/// One image at a time of `img` pixels, in an engine; a checkpoint goes there through a file that is gone afterwards.
pub(crate) fn latency(
    session: Session<'_>,
    weights: &Path,
    engine: Engine,
    (img, threads, plan): (i64, usize, Plan),
) -> Result<Latency> {
    if engine == Engine::Torch {
        return torch_batch(&open::checkpoint(session, weights)?, img, 1, threads, plan);
    }
    if engine == Engine::Ort {
        let file = temporary_onnx(&open::checkpoint(session, weights)?, img, 1)?;
        return Ok(bench::onnx(file.path(), [img; 2], threads, plan)?);
    }
    let setup = Setup {
        side: usize::try_from(img).ok(),
        threads,
        batch: 1,
        plan,
        device: Device::Cpu,
    };
    let port = engine
        .port()
        .ok_or_else(|| Error::Failed(format!("bench: {} has no port", engine.name())))?;
    engines::measured(session, weights, (engine, port), setup)
}

/// Batch norm folded, channels last, a fixed number of threads.
/// Milliseconds of the fastest run of a network that may have no head, on one image of this height and width.
///
/// # Errors
/// A network that the engine has no form for; what the engine says.
pub(crate) fn fastest(
    engine: Engine,
    graph: &Graph,
    params: &Params,
    (sides, threads, plan): ([i64; 2], usize, Plan),
) -> Result<f64> {
    let image = yolo_core::testing::input(1, graph.input_channels(), sides[0], sides[1]);
    let Some(port) = engine.port() else {
        return fastest_on_torch(graph, params, &image, (threads, plan));
    };
    let folder = tempfile::tempdir().map_err(|error| io_error("can't make a folder", &std::env::temp_dir(), &error))?;
    let path = match engine {
        Engine::Ncnn => {
            let path = folder.path().join("network.param");
            let options = ncnn::Options {
                image: sides,
                ..ncnn::Options::default()
            };
            ncnn::write(graph, params, &options, &path)?;
            path
        }
        _ => {
            let path = folder.path().join("network.onnx");
            let options = onnx::Options {
                image: sides,
                outputs: onnx::Outputs::Raw,
                ..onnx::Options::default()
            };
            onnx::write(graph, params, &options, &path)?;
            path
        }
    };
    let mut network = port.open(&path, threads)?;
    let input = match network.inputs() {
        [input] => Array::of(&input.name, &image)?,
        other => return Err(Error::Failed(format!("bench: {} inputs", other.len()))),
    };
    let mut least = f64::INFINITY;
    bench::time(plan, || {
        network.run(std::slice::from_ref(&input))?;
        least = least.min(network.milliseconds());
        Ok::<(), Error>(())
    })?;
    Ok(least)
}

fn fastest_on_torch(
    graph: &Graph,
    params: &Params,
    image: &tch::Tensor,
    (threads, plan): (usize, Plan),
) -> Result<f64> {
    let (graph, params) = passes::for_inference(graph, params)?;
    let program = Program::new(&graph, &params)?;
    let image = yolo_core::exec::channels_last(&image.to_device(program.device()));
    let before = tch::get_num_threads();
    tch::set_num_threads(threads as i32);
    let times = bench::time(plan, || tch::no_grad(|| program.run(&image, Mode::Eval)).map(drop));
    tch::set_num_threads(before);
    let least = times?
        .into_iter()
        .min()
        .ok_or_else(|| Error::Failed("bench: no run was timed".into()))?;
    Ok(least.as_secs_f64() * 1e3)
}

fn torch_batch(model: &Checkpoint, img: i64, batch: usize, threads: usize, plan: Plan) -> Result<Latency> {
    let before = tch::get_num_threads();
    tch::set_num_threads(threads as i32);
    let detector = Detector::new(&model.graph, &model.params)?;
    let image = yolo_core::testing::input(batch as i64, model.graph.input_channels(), img, img);
    let image = yolo_core::exec::channels_last(&image.to_device(detector.device()));
    let times = bench::time(plan, || detector.predict(&image).map(drop));
    tch::set_num_threads(before);
    Latency::of(times?, batch as i64).ok_or_else(|| Error::Failed("bench: no run was timed".into()))
}

/// The model as an ONNX file that lives as long as the result.
fn temporary_onnx(model: &Checkpoint, img: i64, batch: usize) -> Result<tempfile::NamedTempFile> {
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
    onnx::write(&model.graph, &model.params, &options, file.path())?;
    Ok(file)
}

/// Bytes of a file, and of the weights beside it where it is but the network (ncnn's `.param`, OpenVINO's `.xml`).
fn file_size(path: &Path) -> Result<u64> {
    let size = |path: &Path| match std::fs::metadata(path) {
        Ok(data) => Ok(data.len()),
        Err(error) => Err(io_error("can't look at", path, &error)),
    };
    let parted = path
        .extension()
        .is_some_and(|ending| ending == "param" || ending == "xml");
    let weights = parted.then(|| size(&path.with_extension("bin"))).transpose()?;
    Ok(size(path)? + weights.unwrap_or(0))
}
