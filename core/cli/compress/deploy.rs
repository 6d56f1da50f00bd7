//! The stages after the last model: files for deployment, checked against the network, and the speed of every model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_data::{Loader, LoaderOptions, Split};
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_engine::val::{self, Detector};
use yolo_export::bench::{self, Latency, Plan};
use yolo_export::{onnx, ort};

use super::cache::Record;
use super::recipe::{BenchStage, ExportStage};
use super::stages::Context;
use crate::bench::{all_cores, on_ort, on_torch};
use crate::error::{CliError, CliResult, io_error};
use crate::quantize::export_failed;
use crate::{data_args, load, plots, ui};

/// Writes the formats of an export stage and holds each file against its network.
pub fn export(context: &Context<'_>, stage: &ExportStage, place: &Path) -> CliResult<Record> {
    let mut files = Vec::new();
    let mut record = Record::default();
    for format in &stage.formats {
        let (weights, quantized) = match format.as_str() {
            "onnx" => (&context.float, false),
            "onnx-qdq" => (&context.quantized, true),
            other => {
                let help = yolo_core::suggest::did_you_mean(other, ["onnx", "onnx-qdq"]).unwrap_or_default();
                return Err(CliError::Usage(format!(
                    "export: there is no format `{other}` ({help} onnx, onnx-qdq)"
                )));
            }
        };
        let Some(weights) = weights else {
            return Err(CliError::Usage(format!(
                "export: `{format}` needs a {} stage before it",
                if quantized { "quantize" } else { "train" }
            )));
        };
        let model = load::checkpoint(weights)?;
        let path = place.join(format!(
            "{}.onnx",
            if quantized {
                format!("{}-int8", context.recipe.name)
            } else {
                context.recipe.name.clone()
            }
        ));
        let file = write_checked(context, &model, &path, quantized)?;
        let cost = model.graph.cost(context.recipe.img)?;
        record = Record {
            weights: path.clone(),
            quantized,
            params: cost.params,
            gflops: cost.gflops(),
            map50: file["map50"].as_f64().unwrap_or_default(),
            map: file["map"].as_f64().unwrap_or_default(),
            size_bytes: file_size(&path)?,
            ..Record::default()
        };
        files.push(file);
    }
    record.details = json!({ "files": files });
    Ok(record)
}

/// Writes one ONNX file; where onnxruntime is installed, compares its outputs and its mAP with the network's.
fn write_checked(context: &Context<'_>, model: &Checkpoint, path: &Path, quantized: bool) -> CliResult<Value> {
    let img = context.recipe.img;
    let options = onnx::Options {
        image: [img; 2],
        batch: None,
        profile: onnx::Profile::Ort,
        names: model.meta.names.clone(),
        ..onnx::Options::default()
    };
    onnx::write(&model.graph, &model.params, &options, path).map_err(export_failed)?;
    let squares = square_loader(context)?;
    let network = validate_network(model, &squares)?;
    if let Err(reason) = ort::available() {
        ui::say(format!("{}: not checked: {reason}", path.display()));
        let check = format!(
            "mAP50 {:.4} (simulated); not run: onnxruntime is not installed",
            network[0]
        );
        return Ok(json!({"path": path, "map50": network[0], "map": network[1], "check": check}));
    }
    let mut session = ort::Session::open(path, all_cores()).map_err(export_failed)?;
    let mut plain = ort::Session::unoptimized(
        &std::fs::read(path).map_err(|e| io_error("can't read", path, &e))?,
        all_cores(),
    )
    .map_err(export_failed)?;
    let image = yolo_core::testing::input(1, model.graph.input_channels(), img, img);
    let difference = onnx::check(&mut plain, &model.graph, &model.params, &image).map_err(export_failed)?;
    let [map50, map] = validate_session(&mut session, model, &squares)?;
    let check = format!(
        "mAP50 {map50:.4} on onnxruntime, {:.4} in the network; boxes differ by {:.2e} px, scores by {:.2e}{}",
        network[0],
        difference.boxes,
        difference.scores,
        if quantized { " (int8: one step of a scale)" } else { "" }
    );
    Ok(json!({
        "path": path, "map50": map50, "map": map, "map50_network": network[0], "map_network": network[1],
        "max_abs_diff": {"boxes": difference.boxes, "scores": difference.scores}, "check": check,
    }))
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

/// Times every model of the stages before.
pub fn bench(context: &Context<'_>, stage: &BenchStage, before: &[(Record, bool)]) -> CliResult<Record> {
    let engine = match stage.engine.as_str() {
        "auto" => {
            if ort::available().is_ok() {
                "ort"
            } else {
                "torch"
            }
        }
        known @ ("torch" | "ort") => known,
        other => {
            return Err(CliError::Usage(format!(
                "bench: there is no engine `{other}`: auto, torch, ort"
            )));
        }
    };
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

fn file_size(path: &Path) -> CliResult<u64> {
    Ok(std::fs::metadata(path)
        .map_err(|error| io_error("can't look at", path, &error))?
        .len())
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
        plots::validation(&pictures, &model.meta.names, &report, &seen)?;
        Ok(pictures)
    }
}
