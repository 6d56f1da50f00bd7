//! `cargo xtask bench light`: light backbones from scratch at equal epochs, as the table of docs/backbones.md.

use std::process::{Command, Stdio};

use crate::{Outcome, fail, root};

/// Model file and what the table calls it.
const MODELS: [(&str, &str); 7] = [
    ("yolov5n", "yolov5n"),
    ("yolov5s", "yolov5s"),
    ("yolov5l-ghostnet", "GhostNet"),
    ("yolov5l-shufflenetv2", "ShuffleNet V2 1x"),
    ("yolov5l-mobilenetv3-small", "MobileNetV3-Small"),
    ("yolov5l-efficientlite0", "EfficientNet-Lite0"),
    ("yolov5l-pplcnet", "PP-LCNet 1x"),
];

/// Image side of training and timing.
const SIDE: &str = "320";

/// Trains each model unless its run is there already, quantizes it for onnxruntime, times all of them one after the other, prints the
/// table.
pub fn light(yolo: &dyn Fn() -> Command, data: &str, epochs: &str, batch: &str) -> Outcome {
    let folder = root().join("runs/light");
    let mut trained = Vec::new();
    for (model, _) in MODELS {
        let record = folder.join(model).join(format!("outcome-{epochs}x{batch}.json"));
        if !record.exists() {
            let text = train(yolo, model, data, epochs, batch)?;
            std::fs::write(&record, text).map_err(|e| format!("{}: {e}", record.display()))?;
        }
        trained.push(std::fs::read_to_string(&record).map_err(|e| format!("{}: {e}", record.display()))?);
    }
    let quantized = MODELS
        .iter()
        .map(|(model, _)| quantize(yolo, model, data))
        .collect::<Outcome<Vec<String>>>()?;
    let torch = speeds(yolo, "torch", "weights/best.safetensors")?;
    let ort = speeds(yolo, "ort", "weights/best.safetensors")?;
    let int8 = speeds(yolo, "ort", "int8/quantized.safetensors")?;
    println!(
        "| model | parameters | GFLOPs at 640 | mAP50 | mAP | int8 mAP50 | int8 mAP | FPS int8 onnxruntime | FPS onnxruntime | \
         FPS libtorch | peak memory | seconds per epoch |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    for (index, ((model, label), outcome)) in MODELS.iter().zip(&trained).enumerate() {
        let about = output(yolo().args(["model", model, "--nc", "3", "--json"]))?;
        let number = |text: &str, key: &str| {
            numbers(text, key)
                .first()
                .copied()
                .ok_or_else(|| format!("`{key}` is missing in {text}"))
        };
        let epochs: f64 = epochs.parse().map_err(|_| format!("--epochs {epochs} is no number"))?;
        println!(
            "| {label} | {:.2} M | {:.2} | {:.3} | {:.3} | {:.3} | {:.3} | {:.1} | {:.1} | {:.1} | {:.2} GB | {:.0} |",
            // The sum is the largest of the numbers by layer.
            numbers(&about, "params").into_iter().fold(0.0, f64::max) / 1e6,
            number(&about, "gflops")?,
            number(outcome, "map50")?,
            number(outcome, "map")?,
            number(&quantized[index], "map50_quant")?,
            number(&quantized[index], "map_quant")?,
            int8[index],
            ort[index],
            torch[index],
            number(outcome, "peak_memory_bytes")? / 1e9,
            number(outcome, "seconds")? / epochs,
        );
    }
    Ok(())
}

/// Trains one model; returns the JSON document that describes the outcome.
fn train(yolo: &dyn Fn() -> Command, model: &str, data: &str, epochs: &str, batch: &str) -> Outcome<String> {
    let hyp = root().join("configs/hyp/short.yaml");
    let mut command = yolo();
    command
        .args([
            "train", "--cfg", model, "--data", data, "--img", SIDE, "--epochs", epochs,
        ])
        .args([
            "--batch-size",
            batch,
            "--nominal-batch",
            batch,
            "--optimizer",
            "adamw",
            "--noplots",
            "--json",
        ])
        .arg("--hyp")
        .arg(hyp)
        .args(["--project", "runs/light", "--name", model, "--exist-ok"]);
    let said = output(&mut command)?;
    said.lines()
        .last()
        .map(str::to_owned)
        .ok_or_else(|| format!("`yolo train --cfg {model}` said nothing"))
}

/// Calibrates a trained model for onnxruntime; returns the JSON document that describes the outcome.
fn quantize(yolo: &dyn Fn() -> Command, model: &str, data: &str) -> Outcome<String> {
    let run = format!("runs/light/{model}");
    output(
        yolo()
            .args(["quantize", "--weights", &format!("{run}/weights/best.safetensors")])
            .args(["--data", data, "--img", SIDE, "--backend", "onnxruntime", "--json"])
            .args(["--out", &format!("{run}/int8")]),
    )
}

/// Images per second on an engine, per model.
fn speeds(yolo: &dyn Fn() -> Command, engine: &str, file: &str) -> Outcome<Vec<f64>> {
    let weights = MODELS.map(|(model, _)| format!("runs/light/{model}/{file}"));
    let mut command = yolo();
    command.arg("bench").arg("--weights").args(weights);
    command.args(["--img", SIDE, "--engine", engine, "--json"]);
    let fps = numbers(&output(&mut command)?, "fps");
    if fps.len() != MODELS.len() {
        return fail(format!(
            "`yolo bench` gave {} rows instead of {}",
            fps.len(),
            MODELS.len()
        ));
    }
    Ok(fps)
}

/// Standard output of a command that must succeed; its progress is shown.
pub fn output(command: &mut Command) -> Outcome<String> {
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("can't run `yolo`: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        fail(format!("{command:?} failed ({})", out.status))
    }
}

/// All numbers that follow `"key":` in JSON.
pub fn numbers(text: &str, key: &str) -> Vec<f64> {
    text.split(&format!("\"{key}\":"))
        .skip(1)
        .filter_map(|rest| {
            let rest = rest.trim_start();
            let end = rest.find([',', '}', ']', '\n']).unwrap_or(rest.len());
            rest[..end].trim().parse().ok()
        })
        .collect()
}
