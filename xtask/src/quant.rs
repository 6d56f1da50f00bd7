//! `cargo xtask bench quant`: what post-training quantization loses, per backend and option, beside other tools' files, all measured by
//! `yolo val`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::light::{numbers, output};
use crate::{Outcome, fail, root, run};

/// What is measured.
pub struct Protocol<'a> {
    /// Data sets: name, YAML, float weights.
    pub sets: Vec<[&'a str; 3]>,
    /// Sides of the images.
    pub sizes: Vec<&'a str>,
    /// Backends.
    pub backends: Vec<&'a str>,
    /// Python with `onnxruntime`, `onnx` and, if it shall be measured, `nncf`; no peers without.
    pub python: Option<&'a str>,
}

/// Options of `yolo quantize` with their names in the table.
const OPTIONS: [(&str, &[&str]); 7] = [
    ("ranges alone", &["--bias-correction", "false", "--rounding", "nearest"]),
    (
        "`--tune 4`",
        &["--tune", "4", "--batch-size", "4", "--calib-batches", "32"],
    ),
    (
        "bias correction",
        &["--bias-correction", "true", "--rounding", "nearest"],
    ),
    ("AdaRound", &["--bias-correction", "false", "--rounding", "adaround"]),
    ("both", &["--bias-correction", "true", "--rounding", "adaround"]),
    ("`--float-layers auto`", &["--float-layers", "auto"]),
    (
        "`--tune 4 --float-layers auto`",
        &[
            "--tune",
            "4",
            "--batch-size",
            "4",
            "--calib-batches",
            "32",
            "--float-layers",
            "auto",
        ],
    ),
];

/// Whether data and weights are there.
pub fn is_there(protocol: &Protocol<'_>) -> Outcome {
    for [name, data, weights] in &protocol.sets {
        for (what, file) in [("data", data), ("weights", weights)] {
            if !root().join(file).exists() {
                return fail(format!(
                    "{file} is not here: bench quant measures on {name}; say --set NAME={data},{weights} with a data set's YAML and float \
                     weights of yours ({what} is what is missing)"
                ));
            }
        }
    }
    Ok(())
}

/// Runs all of it and prints one table.
pub fn quant(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>) -> Outcome {
    println!(
        "| images | size | made by | mAP float | mAP int8 | lost, points | in float |\n|---|---:|---|---:|---:|---:|---:|"
    );
    for [name, data, weights] in &protocol.sets {
        for size in &protocol.sizes {
            let folder = root().join("runs/quant").join(name).join(size);
            let case = Case {
                yolo,
                name,
                data,
                weights,
                size,
                folder,
            };
            let mut float = 0.0;
            for backend in &protocol.backends {
                for (option, flags) in OPTIONS {
                    float = case.ours(backend, option, flags)?;
                }
            }
            if let Some(python) = protocol.python {
                case.peers(python, float)?;
            }
        }
    }
    Ok(())
}

/// One data set at one size.
struct Case<'a> {
    yolo: &'a dyn Fn() -> Command,
    name: &'a str,
    data: &'a str,
    weights: &'a str,
    size: &'a str,
    folder: PathBuf,
}

impl Case<'_> {
    fn row(&self, by: &str, float: f64, int8: f64, in_float: &str) {
        println!(
            "| {} | {} | {by} | {float:.4} | {int8:.4} | {:+.2} | {in_float} |",
            self.name,
            self.size,
            100.0 * (float - int8)
        );
    }

    /// A quantization of ours; mAP of the float model.
    fn ours(&self, backend: &str, option: &str, flags: &[&str]) -> Outcome<f64> {
        let mut quantize = (self.yolo)();
        quantize
            .args([
                "quantize",
                "--weights",
                self.weights,
                "--data",
                self.data,
                "--backend",
                backend,
            ])
            .args(["--img", self.size, "--json", "--out"])
            .arg(self.folder.join(backend))
            .args(flags);
        let said = output(&mut quantize)?;
        let number = |key: &str| {
            let found = numbers(&said, key).first().copied();
            found.ok_or_else(|| format!("`{key}` is missing in what `yolo quantize` said: {said}"))
        };
        let (float, int8) = (number("map_float")?, number("map_quant")?);
        let layers = said
            .split("\"float_layers\":")
            .nth(1)
            .and_then(|rest| rest.split(']').next());
        let count = layers.map_or(0, |list| list.matches('"').count() / 2);
        self.row(&format!("`{backend}`, {option}"), float, int8, &count.to_string());
        Ok(float)
    }

    /// Files of other tools in the engines that they are for.
    fn peers(&self, python: &str, float: f64) -> Outcome {
        let raw = self.folder.join("raw.onnx");
        let mut export = (self.yolo)();
        export
            .args([
                "export",
                "--weights",
                self.weights,
                "--img",
                self.size,
                "--format",
                "onnx",
                "--raw",
                "--out",
            ])
            .arg(&raw);
        run(&mut export)?;
        for (tool, engine) in [("onnxruntime", "onnxruntime"), ("nncf", "openvino")] {
            let out = self.folder.join(format!("{tool}.onnx"));
            let mut quantize = Command::new(python);
            quantize
                .current_dir(root())
                .args(["xtask/quant/peer.py", tool])
                .args([&raw, &out])
                .arg("--images")
                .arg(images(&root().join(self.data))?)
                .args(["--size", self.size]);
            if let Err(reason) = run(&mut quantize) {
                eprintln!("{tool} is left out: {reason}");
                continue;
            }
            let mut val = (self.yolo)();
            val.args(["val", "--data", self.data, "--engine", engine, "--json", "--weights"])
                .arg(&out);
            let said = output(&mut val)?;
            let int8 = numbers(&said, "map").first().copied();
            let int8 = int8.ok_or_else(|| format!("`map` is missing in what `yolo val` said: {said}"))?;
            self.row(&format!("{tool}'s own, read by {engine}"), float, int8, "-");
        }
        Ok(())
    }
}

/// The folder of the training images: the `train` of the YAML.
fn images(yaml: &Path) -> Outcome<PathBuf> {
    let text = std::fs::read_to_string(yaml).map_err(|error| format!("{}: {error}", yaml.display()))?;
    let train = text.lines().find_map(|line| line.strip_prefix("train:"));
    let train = train.ok_or_else(|| format!("{}: it has no line `train: FOLDER`", yaml.display()))?;
    let folder = yaml.parent().unwrap_or(Path::new("")).join(train.trim());
    match folder.is_dir() {
        true => Ok(folder),
        false => fail(format!(
            "{}: its training images are in no folder {}",
            yaml.display(),
            folder.display()
        )),
    }
}
