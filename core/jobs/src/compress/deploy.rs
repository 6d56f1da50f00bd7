//! The stages after the last model: files for deployment, checked against the network, and the speed of every model.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_data::{Loader, LoaderOptions, Split};
use yolo_engine::Checkpoint;
use yolo_engine::eval::NmsOptions;
use yolo_export::bench::{self as timing, Latency, Plan};
use yolo_export::checked::{self, Format, Prepared, Request, Written};
use yolo_export::engine::{Engine, Ncnn, OnnxRuntime, OpenVino};
use yolo_export::onnx::Profile;

use super::cache::Record;
use super::stages::Context;
use crate::bench::{self, BenchSettings, Engine as Runner, all_cores};
use crate::error::{Error, Result};
use crate::export::{ExportSettings, Target};
use crate::{measure, open, plots};

/// Writes the formats of an export stage, each file held against its network before. No file is written unless all agree.
pub(super) fn export(context: &Context<'_>, settings: &ExportSettings, place: &Path) -> Result<Record> {
    let mut prepared = Vec::new();
    settings.say_unused(context.session)?;
    for target in settings.targets()? {
        let weights = if target.integers {
            context.quantized.clone()
        } else {
            context.float.clone().or_else(|| context.recipe.weights.clone())
        };
        let weights = weights.ok_or_else(|| {
            let needed = if target.integers { "quantize" } else { "train" };
            Error::Usage(format!("export: `{}` needs a {needed} stage before it", target.name()))
        })?;
        let model = open::checkpoint(context.session, &weights)?;
        target.fits(
            context.session,
            &weights,
            yolo_engine::quant::is_quantized(&model.graph),
        )?;
        let image = open::image_sides(context.session, &settings.img, &model)?.map(|side| side as i64);
        let request = Request {
            batch: batch(target.format, settings),
            ..settings.request(context.session, &model, target, image)?
        };
        let path = place.join(file_name(target, &context.recipe.name));
        let file = checked::prepare(&model.graph, &model.params, &request, &path)?;
        let measured = run_file(context, &model, &file, &request)?;
        prepared.push((target, model, file, measured));
    }
    let (mut files, mut record) = (Vec::new(), Record::default());
    for (target, model, file, measured) in prepared {
        let written = file.commit()?;
        let cost = model.graph.cost(context.recipe.img)?;
        record = Record {
            weights: written.files[0].clone(),
            quantized: target.integers,
            params: cost.params,
            gflops: cost.gflops(),
            map50: measured.file[0],
            map: measured.file[1],
            epochs: context.epochs,
            size_bytes: written.size_bytes,
            ..Record::default()
        };
        files.push(measured.describe(&written));
    }
    record.details = json!({ "files": files });
    Ok(record)
}

/// Images per run: ncnn has one at a time, and ONNX files of a recipe any number, so that validation can run them on whole batches.
fn batch(format: Format, settings: &ExportSettings) -> Option<i64> {
    match (format, settings.dynamic, settings.batch_size) {
        (Format::Ncnn, ..) => Some(1),
        (_, Some(true), _) | (_, None, 1) => None,
        (_, _, images) => Some(images),
    }
}

fn file_name(target: Target, recipe: &str) -> String {
    let ending = if target.format == Format::Ncnn { "param" } else { "onnx" };
    let int8 = if target.integers { "-int8" } else { "" };
    format!("{recipe}{int8}.{ending}")
}

/// mAP50 and mAP of a network and of its file; those of the network stand for a file that nothing here runs.
struct Measured {
    network: [f64; 2],
    file: [f64; 2],
    /// The engine that ran it, or why none did.
    by: Result<&'static str, String>,
}

impl Measured {
    fn describe(&self, written: &Written) -> Value {
        let [map50, map] = self.file;
        let said = match &self.by {
            Ok(engine) => format!("mAP50 {map50:.4} on {engine}, {:.4} in the network", self.network[0]),
            Err(reason) => format!("mAP50 {map50:.4} of the network; the file was not run: {reason}"),
        };
        json!({
            "path": written.files[0], "map50": map50, "map": map, "map50_network": self.network[0], "map_network": self.network[1],
            "engine": self.by.as_ref().ok(), "ran": written.ran, "max_abs_diff": written.difference, "steps": written.steps, "unchecked": written.unchecked,
            "check": format!("{said}; {}", written.summary()),
        })
    }
}

fn run_file(context: &Context<'_>, model: &Checkpoint, file: &Prepared, request: &Request) -> Result<Measured> {
    let squares = square_loader(context, request)?;
    let network = measure::validate(context.session, model, &squares, "val network")?;
    let written = file.written();
    if let Some(reason) = &written.unchecked {
        context
            .session
            .say(format!("{}: not checked: {reason}", written.files[0].display()));
    }
    // Files that find boxes on squares can be measured; with suppression inside it is another question.
    let square = request.image[0] == request.image[1];
    let engine = engine_for(request);
    let missing = engine.find().err();
    let not_run = match missing {
        Some(reason) => Some(reason.to_string().replace("\n  ", "; ")),
        None if written.unchecked.is_some() => Some("it was not checked".to_owned()),
        None if request.nms.is_some() || !square => Some("only boxes of all places on squares are measured".to_owned()),
        None => None,
    };
    if let Some(reason) = not_run {
        return Ok(Measured {
            network,
            file: network,
            by: Err(reason),
        });
    }
    let (mut deployed, _folder) = file.open(engine, all_cores())?;
    let nms = NmsOptions::validation();
    let (report, _) = measure::deployed(context.session, &mut deployed, &squares, &nms, "val file", &mut |_| {
        Ok(())
    })?;
    Ok(Measured {
        network,
        file: [report.metrics.map50, report.metrics.map],
        by: Ok(engine.title()),
    })
}

/// The engine that a file is for, where there is one here; onnxruntime reads all ONNX.
fn engine_for(request: &Request) -> &'static dyn Engine {
    match (request.format, request.profile) {
        (Format::Ncnn, _) => &Ncnn,
        (Format::OnnxQdq, Profile::OpenVino) => &OpenVino,
        _ => &OnnxRuntime,
    }
}

/// The validation images as squares: the shape that files are written for.
fn square_loader(context: &Context<'_>, request: &Request) -> Result<Loader> {
    let samples = open::samples(context.session, context.dataset, Split::Val, false)?;
    let r = context.recipe;
    let size = usize::try_from(request.image[0]).unwrap_or_else(|_| context.size());
    let batch = match request.batch {
        Some(1) => 1,
        _ => r.batch_size,
    };
    let options = LoaderOptions {
        workers: r.workers,
        rect: false,
        pad: 0.0,
        ..LoaderOptions::val(size, batch)
    };
    Ok(Loader::new(samples.items, options)?)
}

/// Times every model of the stages before.
pub(super) fn speeds(context: &Context<'_>, settings: &BenchSettings, before: &[(Record, bool)]) -> Result<Record> {
    let engines = settings.engines(context.session)?;
    let plan = Plan {
        min_runs: settings.runs,
        max_runs: settings.runs.max(100),
        ..Plan::default()
    };
    let threads = settings.threads.unwrap_or_else(all_cores);
    let task = context.session.progress.task("bench", before.len() * engines.len());
    let mut speeds: Vec<(Runner, serde_json::Map<String, Value>)> = Vec::new();
    for engine in engines {
        let mut own = serde_json::Map::new();
        for (record, _) in before {
            let latency = time(context, record, engine, (settings.img, threads, plan))?;
            own.insert(record.name.clone(), json!(latency.fps));
            let done = speeds.len() * before.len() + own.len();
            task.step(done, before.len(), &record.name)?;
        }
        speeds.push((engine, own));
    }
    let all: serde_json::Map<String, Value> = speeds
        .iter()
        .map(|(engine, own)| (engine.name().to_owned(), json!(own)))
        .collect();
    let (engine, first) = speeds
        .into_iter()
        .next()
        .ok_or_else(|| Error::Failed("bench: no engine".into()))?;
    let last = before.last().map(|(record, _)| record.clone()).unwrap_or_default();
    Ok(Record {
        fps: first.values().next_back().and_then(Value::as_f64),
        details: json!({"engine": engine.name(), "threads": threads, "fps": first, "engines": all}),
        ..last
    })
}

fn time(
    context: &Context<'_>,
    record: &Record,
    engine: Runner,
    (side, threads, plan): (Option<usize>, usize, Plan),
) -> Result<Latency> {
    let own = context.recipe.img;
    let img = side.map_or(own, |side| side as i64);
    let of_engines = yolo_export::engine::of_file(&record.weights).is_some();
    // A file has the size of the recipe.
    if record.weights.extension().is_some_and(|e| e == "onnx") && engine == Runner::Ort && img == own {
        return Ok(timing::onnx(&record.weights, [img; 2], threads, plan)?);
    }
    // What runs no files of others gets the network that the file was written from.
    let weights = match (of_engines, record.quantized) {
        (false, _) => record.weights.clone(),
        (true, true) => context.quantized.clone().unwrap_or_default(),
        (true, false) => (context.float.clone())
            .or_else(|| context.recipe.weights.clone())
            .unwrap_or_default(),
    };
    bench::latency(context.session, &weights, engine, (img, threads, plan))
}

impl Context<'_> {
    /// Validation images with what the last model finds, beside what is there.
    pub(super) fn pictures(&self, folder: &Path) -> Result<PathBuf> {
        let pictures = folder.join("pictures");
        let Some(weights) = self.current.as_deref() else {
            return Ok(pictures);
        };
        let model = open::checkpoint(self.session, weights)?;
        let loader = self.val_loader(&model)?;
        let nms = NmsOptions::validation();
        let (report, seen) = measure::closely(self.session, &model, &loader, &nms, "pictures", &mut |_| Ok(()))?;
        plots::validation(
            self.session,
            &pictures,
            &model.meta.names,
            &yolo_report::Letters::default(),
            &report,
            &seen,
        )?;
        Ok(pictures)
    }
}
