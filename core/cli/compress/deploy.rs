//! The stages after the last model: files for deployment, checked against the network, and the speed of every model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_data::{Loader, LoaderOptions, Split};
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_engine::val::{self, Detector};
use yolo_export::bench::{self, Latency, Plan};
use yolo_export::checked::{self, Format, Prepared, Request, Written};
use yolo_export::onnx::Profile;
use yolo_export::{onnx, ort};

use super::cache::Record;
use super::recipe::{BenchStage, ExportStage};
use super::stages::Context;
use crate::bench::{all_cores, on_ort, on_torch};
use crate::error::{CliError, CliResult};
use crate::export::unknown;
use crate::quantize::{export_failed, profile_of};
use crate::{components, data_args, load, plots, ui};

/// A format of an export stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    format: Format,
    /// Made of the last quantized model, not of the last float one.
    quantized: bool,
}

impl Target {
    /// Names of all of them.
    pub const NAMES: [&str; 4] = ["onnx", "onnx-qdq", "ncnn", "ncnn-int8"];

    /// The format of a name.
    pub fn parse(name: &str) -> Option<Self> {
        let (format, quantized) = match name {
            "onnx" => (Format::Onnx, false),
            "onnx-qdq" => (Format::OnnxQdq, true),
            "ncnn" => (Format::Ncnn, false),
            "ncnn-int8" => (Format::Ncnn, true),
            _ => return None,
        };
        Some(Self { format, quantized })
    }

    /// Whether it is made of a quantized model.
    pub fn quantized(self) -> bool {
        self.quantized
    }

    fn file(self, recipe: &str) -> String {
        let ending = if self.format == Format::Ncnn { "param" } else { "onnx" };
        let int8 = if self.quantized { "-int8" } else { "" };
        format!("{recipe}{int8}.{ending}")
    }
}

/// Writes the formats of an export stage, each file held against its network before. No file is written unless all agree.
pub fn export(context: &Context<'_>, stage: &ExportStage, place: &Path) -> CliResult<Record> {
    let mut prepared = Vec::new();
    let squares = square_loader(context)?;
    for name in &stage.formats {
        let target = Target::parse(name).ok_or_else(|| unknown("format", name, &Target::NAMES))?;
        let weights = if target.quantized {
            &context.quantized
        } else {
            &context.float
        };
        let weights = weights.as_ref().ok_or_else(|| {
            let needed = if target.quantized { "quantize" } else { "train" };
            CliError::Usage(format!("export: `{name}` needs a {needed} stage before it"))
        })?;
        let model = load::checkpoint(weights)?;
        let file = prepare(context, &model, target, place)?;
        let measured = measure(&model, &file, &squares)?;
        prepared.push((target, model, file, measured));
    }
    let (mut files, mut record) = (Vec::new(), Record::default());
    for (target, model, file, measured) in prepared {
        let written = file.commit().map_err(export_failed)?;
        let cost = model.graph.cost(context.recipe.img)?;
        record = Record {
            weights: written.files[0].clone(),
            quantized: target.quantized,
            params: cost.params,
            gflops: cost.gflops(),
            map50: measured.file[0],
            map: measured.file[1],
            size_bytes: written.size_bytes,
            ..Record::default()
        };
        files.push(measured.describe(&written));
    }
    record.details = json!({ "files": files });
    Ok(record)
}

/// A file that agrees with its network; the form of its quantizers is that of the backend.
fn prepare(context: &Context<'_>, model: &Checkpoint, target: Target, place: &Path) -> CliResult<Prepared> {
    let profile = match &model.meta.quantizer {
        Some(value) => profile_of(components::quantizer("quantize.backend", value)?.as_ref()),
        None => Profile::Ort,
    };
    let request = Request {
        batch: if target.format == Format::Ncnn { Some(1) } else { None },
        profile,
        names: model.meta.names.clone(),
        ..Request::new(target.format, [context.recipe.img; 2])
    };
    let path = place.join(target.file(&context.recipe.name));
    checked::prepare(&model.graph, &model.params, &request, &path).map_err(export_failed)
}

/// mAP50 and mAP of a network and of its file; those of the network stand for a file that nothing here runs.
struct Measured {
    network: [f64; 2],
    file: [f64; 2],
    engine: Option<&'static str>,
}

impl Measured {
    fn describe(&self, written: &Written) -> Value {
        let [map50, map] = self.file;
        let said = match self.engine {
            Some(engine) => format!("mAP50 {map50:.4} on {engine}, {:.4} in the network", self.network[0]),
            None => format!("mAP50 {map50:.4} (of the network; no engine ran the file)"),
        };
        json!({
            "path": written.files[0], "map50": map50, "map": map, "map50_network": self.network[0], "map_network": self.network[1],
            "max_abs_diff": written.difference, "steps": written.steps, "unchecked": written.unchecked,
            "check": format!("{said}; {}", written.summary()),
        })
    }
}

fn measure(model: &Checkpoint, file: &Prepared, squares: &Loader) -> CliResult<Measured> {
    let network = validate_network(model, squares)?;
    let written = file.written();
    if written.engine != "onnxruntime" || written.unchecked.is_some() {
        if let Some(reason) = &written.unchecked {
            ui::say(format!("{}: not checked: {reason}", written.files[0].display()));
        }
        return Ok(Measured {
            network,
            file: network,
            engine: None,
        });
    }
    let mut session = ort::Session::from_bytes(file.bytes(), all_cores()).map_err(export_failed)?;
    Ok(Measured {
        network,
        file: validate_session(&mut session, model, squares)?,
        engine: Some("onnxruntime"),
    })
}

/// The validation images as squares: the shape that files are written for.
fn square_loader(context: &Context<'_>) -> CliResult<Loader> {
    let samples = data_args::samples(context.dataset, Split::Val, false)?;
    let r = context.recipe;
    let options = LoaderOptions {
        workers: r.workers,
        rect: false,
        pad: 0.0,
        ..LoaderOptions::val(context.size(), r.batch_size)
    };
    Loader::new(samples.items, options).map_err(data_args::failed)
}

fn validate_network(model: &Checkpoint, loader: &Loader) -> CliResult<[f64; 2]> {
    crate::prune::validate(model, loader, "val network")
}

fn validate_session(session: &mut ort::Session, model: &Checkpoint, loader: &Loader) -> CliResult<[f64; 2]> {
    let classes = model.graph.head.as_ref().map_or(0, |head| head.classes as usize);
    let (input, output) = (session.inputs()[0].0.clone(), onnx::OUTPUT);
    let mut bar = ui::Bar::new("val file", loader.batches() as u64);
    let mut run = |images: &tch::Tensor| {
        let results = session
            .run(&[(&input, images)])
            .map_err(|error| yolo_engine::Error::Settings(error.to_string()))?;
        let found = results.into_iter().find(|(name, _)| name == output);
        found
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| yolo_engine::Error::Settings("the file gives no boxes".into()))
    };
    let mut progress = |done: usize, total: usize| {
        bar.set(done as u64, total as u64, "");
        if ui::stopped() {
            Err(yolo_core::Error::Cancelled.into())
        } else {
            Ok(())
        }
    };
    let metrics = val::validate_engine(&mut run, classes, loader, &NmsOptions::validation(), &mut progress);
    bar.finish();
    let metrics = metrics.map_err(load::failed)?;
    Ok([metrics.map50, metrics.map])
}

/// The engine of a name: `auto` is onnxruntime where it is installed, else libtorch.
pub fn engine(name: &str) -> CliResult<&'static str> {
    match name {
        "auto" if ort::available().is_ok() => Ok("ort"),
        "auto" | "torch" => Ok("torch"),
        "ort" => ort::available().map(|_| "ort").map_err(export_failed),
        other => Err(unknown("engine", other, &["auto", "torch", "ort"])),
    }
}

/// Times every model of the stages before.
pub fn bench(context: &Context<'_>, stage: &BenchStage, before: &[(Record, bool)]) -> CliResult<Record> {
    let engine = engine(&stage.engine)?;
    let plan = Plan {
        min_runs: stage.runs,
        max_runs: stage.runs.max(100),
        ..Plan::default()
    };
    let mut speeds = serde_json::Map::new();
    let mut bar = ui::Bar::new("bench", before.len() as u64);
    for (done, (record, _)) in before.iter().enumerate() {
        let latency = time(context, record, engine, stage.threads, plan)?;
        bar.set(done as u64 + 1, before.len() as u64, &record.name);
        speeds.insert(record.name.clone(), json!(latency.fps));
    }
    bar.finish();
    let last = before.last().map(|(record, _)| record.clone()).unwrap_or_default();
    Ok(Record {
        fps: speeds.values().next_back().and_then(Value::as_f64),
        details: json!({"engine": engine, "threads": stage.threads, "fps": speeds}),
        ..last
    })
}

fn time(context: &Context<'_>, record: &Record, engine: &str, threads: usize, plan: Plan) -> CliResult<Latency> {
    let size = [context.recipe.img; 2];
    if record.weights.extension().is_some_and(|e| e == "onnx") && engine == "ort" {
        return bench::onnx(&record.weights, size, threads, plan).map_err(export_failed);
    }
    let weights = if record.weights.extension().is_some_and(|e| e == "onnx") {
        // libtorch runs no ONNX: the network that the file was written from.
        if record.quantized {
            context.quantized.clone()
        } else {
            context.float.clone()
        }
        .unwrap_or_default()
    } else {
        record.weights.clone()
    };
    let model = load::checkpoint(&weights)?;
    let img = context.recipe.img;
    if engine == "ort" {
        on_ort(&model, img, threads, plan)
    } else {
        on_torch(&model, img, threads, plan)
    }
}

impl Context<'_> {
    /// Validation images with what the last model finds, beside what is there.
    pub fn pictures(&self, folder: &Path) -> CliResult<PathBuf> {
        let pictures = folder.join("pictures");
        let Some(weights) = self.current.as_deref() else {
            return Ok(pictures);
        };
        let model = load::checkpoint(weights)?;
        let loader = self.val_loader(&model)?;
        let detector = Detector::new(&model.graph, &model.params).map_err(load::failed)?;
        let mut seen = plots::Pictures::of(loader.images());
        let report = val::measure(
            &detector,
            &mut loader.epoch(0),
            loader.batches(),
            &NmsOptions::validation(),
            None,
            &mut |image| {
                seen.see(&image);
                Ok(())
            },
            &mut |_, _| Ok(()),
        )
        .map_err(load::failed)?;
        plots::validation(
            &pictures,
            &model.meta.names,
            &yolo_report::Letters::default(),
            &report,
            &seen,
        )?;
        Ok(pictures)
    }
}
