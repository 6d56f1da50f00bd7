//! `cargo xtask bench engines`: how long a picture takes, for each model whole, pruned and on integers, in each engine that is here. Weights
//! are random: times do not hang on them, so nothing is said of accuracy.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::light::{numbers, output};
use crate::{Outcome, root};

/// What is measured.
pub struct Protocol<'a> {
    /// Configurations.
    pub models: Vec<&'a str>,
    /// Engines.
    pub engines: Vec<&'a str>,
    /// Side of the image.
    pub img: &'a str,
    /// Threads.
    pub threads: &'a str,
    /// Timed runs per number.
    pub runs: &'a str,
}

/// The models of the README's table.
pub const MODELS: &str = "yolov5n,yolov5s,yolov5m,yolov5l,yolov5x,yolov5l-ghostnet,yolov5l-shufflenetv2,yolov5l-mobilenetv3-small,\
                          yolov5l-efficientlite0,yolov5l-pplcnet,yolov5x-p2,yolov5x-p2-cbam,yolov5x-tph,yolov5x-swin";

/// Of the synthetic data.
const CLASSES: &str = "4";

/// The backend whose integers an engine runs; libtorch has none.
fn backend(engine: &str) -> Option<&'static str> {
    match engine {
        "ort" => Some("onnxruntime"),
        "openvino" => Some("openvino"),
        "ncnn" => Some("tensorrt"),
        _ => None,
    }
}

/// Runs all of it and prints one table.
pub fn engines(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>) -> Outcome {
    let folder = root().join("runs/engines");
    let data = folder.join("data");
    if !data.join("data.yaml").exists() {
        output(
            yolo()
                .args(["data", "synth", "--images", "10", "--img", protocol.img, "--out"])
                .arg(&data),
        )?;
    }
    println!(
        "milliseconds of one picture, median of {} ({} px, {} threads, {CLASSES} classes, random weights); 60 %: pruned by one-shot L1 to 60 % of the FLOPs; times \
         as fast as the same engine's f32 in brackets\n\n| model | engine | f32 | FPS | 60 % | int8 | 60 %, int8 |\n|---|---|---:|---:|---:|---:|---:|",
        protocol.runs, protocol.img, protocol.threads
    );
    for model in &protocol.models {
        let case = Case {
            yolo,
            protocol,
            data: data.join("data.yaml"),
            folder: folder.join(model),
        };
        case.rows(model)?;
    }
    Ok(())
}

struct Case<'a> {
    yolo: &'a dyn Fn() -> Command,
    protocol: &'a Protocol<'a>,
    data: PathBuf,
    folder: PathBuf,
}

impl Case<'_> {
    fn rows(&self, model: &str) -> Outcome {
        let [base, pruned] = ["base", "pruned"].map(|name| self.folder.join(format!("{name}.safetensors")));
        std::fs::create_dir_all(&self.folder).map_err(|error| format!("{}: {error}", self.folder.display()))?;
        if !base.exists() {
            output(
                (self.yolo)()
                    .args(["model", model, "--nc", CLASSES, "--init-weights"])
                    .arg(&base),
            )?;
        }
        if !pruned.exists() {
            let line = "--pruner oneshot --metric l1 --flops 0.6 --noval --calib-batches 1";
            self.made("prune", line, &base, &pruned)?;
        }
        for engine in &self.protocol.engines {
            let whole = self.milliseconds(engine, &base)?;
            let mut cells = vec![self.faster(whole, self.milliseconds(engine, &pruned)?)];
            for weights in [&base, &pruned] {
                cells.push(match backend(engine) {
                    None => "-".to_owned(),
                    Some(backend) => self.faster(whole, self.on_integers(engine, backend, weights)?),
                });
            }
            println!(
                "| {model} | {engine} | {whole:.1} | {:.1} | {} |",
                1000.0 / whole,
                cells.join(" | ")
            );
        }
        Ok(())
    }

    /// A command that makes a model of another.
    fn made(&self, command: &str, line: &str, weights: &Path, out: &Path) -> Outcome {
        let mut yolo = (self.yolo)();
        yolo.arg(command)
            .args(line.split(' '))
            .arg("--weights")
            .arg(weights)
            .arg("--out")
            .arg(out);
        yolo.arg("--data")
            .arg(&self.data)
            .args(["--img", self.protocol.img, "--batch-size", "1", "--workers", "1"]);
        output(&mut yolo).map(drop)
    }

    fn on_integers(&self, engine: &str, backend: &str, weights: &Path) -> Outcome<f64> {
        let out = weights.with_extension(backend);
        let model = out.join("quantized.safetensors");
        if !model.exists() {
            // Random weights agree with nothing closely: that a file is right is tested elsewhere.
            let line = format!("--backend {backend} --calib-batches 1 --select-images 1 --force");
            self.made("quantize", &line, weights, &out)?;
        }
        self.milliseconds(engine, &model)
    }

    fn milliseconds(&self, engine: &str, weights: &Path) -> Outcome<f64> {
        let Protocol { img, threads, runs, .. } = self.protocol;
        let mut bench = (self.yolo)();
        bench.args([
            "bench",
            "--json",
            "--engine",
            engine,
            "--img",
            img,
            "--threads",
            threads,
            "--runs",
            runs,
        ]);
        let said = output(bench.arg("--weights").arg(weights))?;
        let median = numbers(&said, "ms_median").first().copied();
        median.ok_or_else(|| format!("`ms_median` is missing in what `yolo bench` said: {said}"))
    }

    fn faster(&self, whole: f64, part: f64) -> String {
        format!("{part:.1} ({:.2})", whole / part)
    }
}
