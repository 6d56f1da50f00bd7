//! `yolo quantize`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde_json::json;
use yolo_core::Quantizer;
use yolo_core::quant;
use yolo_data::{Dataset, Hyp, Split};
use yolo_engine::Checkpoint;
use yolo_engine::train::{Precision, TrainOptions};
use yolo_export::Error;
use yolo_export::checked::{self, Format, Prepared, Request, Written};
use yolo_export::onnx::{Difference, Profile};
use yolo_export::steps::Steps;

use crate::device::{AmpArgs, DeviceArgs};
use crate::error::{CliError, CliResult, io_error};
use crate::prune::validate;
use crate::{components, data_args, load, settings, train, ui};

/// Quantize a model: calibrate (PTQ), train quantized (QAT) if asked to, write what the backend's toolchain reads
///
/// Example: yolo quantize --weights best.safetensors --data bccd.yaml --backend tensorrt --qat-epochs 3 --out int8
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct QuantizeArgs {
    /// Float checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// Data set YAML
    #[arg(long)]
    data: PathBuf,
    /// Backend: its name, or `{type: NAME, option: value}` (`yolo list-plugins --kind quantizer`)
    #[arg(long, default_value = "tensorrt")]
    backend: String,
    /// Option of the backend, `observer=min-max`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Epochs of quantization-aware training (0: calibration only)
    #[arg(long, default_value_t = 0)]
    qat_epochs: usize,
    /// Calibration batches, of training images
    #[arg(long, default_value_t = 16)]
    calib_batches: usize,
    /// Side of the images (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    img: Option<usize>,
    /// Images per step
    #[arg(long, visible_alias = "batch", default_value_t = 16)]
    batch_size: usize,
    /// Hyper-parameters; QAT uses a tenth of lr0 and no warm-up
    #[arg(long)]
    hyp: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Folder of everything that is written
    #[arg(long)]
    out: PathBuf,
    /// Continue an interrupted QAT in --out
    #[arg(long)]
    resume: bool,
    /// Gradients of QAT are accumulated to this many images
    #[arg(long, visible_alias = "nbs", default_value = "64")]
    nominal_batch: NonZeroUsize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs) -> CliResult {
    if args.calib_batches == 0 {
        return Err(CliError::Usage(
            "--calib-batches 0: ranges are found on images, at least 1 batch is needed".into(),
        ));
    }
    let value = components::configuration(&args.backend, &args.options)?;
    let quantizer = components::quantizer("--backend", &value)?;
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
        hyp: yolo_engine::quant::qat_hyp(&data_args::hyp(args.hyp.as_ref(), &[])?),
        seed: args.seed,
        nominal_batch: args.nominal_batch.get(),
        calib_batches: args.calib_batches,
        qat_epochs: args.qat_epochs,
        precision,
        folder: &args.out,
        resume: args.resume,
    };
    let loader = data_args::val_loader(&dataset, Split::Val, &model, img, args.batch_size, args.workers, true)?;
    let [map50_float, map_float] = validate(&model, &loader, "val float")?;
    let result = job.run(&model, quantizer.as_ref())?;
    let stem = args.weights.file_stem().and_then(|s| s.to_str()).unwrap_or("model");
    // Everything that can fail is done before the first file is written.
    let files = Artifacts::prepare(&args.out, stem, &result.model, quantizer.as_ref(), img as i64)?;
    let path = args.out.join("quantized.safetensors");
    yolo_engine::checkpoint::save(&path, &result.model).map_err(load::failed)?;
    let (own, checks) = files.commit()?;
    let artifacts: Vec<PathBuf> = std::iter::once(path).chain(own).collect();
    let [map50_quant, map_quant] = result.metrics;
    if args.json {
        return ui::print_json(&json!({
            "map50_float": map50_float, "map_float": map_float, "map50_ptq": result.ptq[0],
            "map50_quant": map50_quant, "map_quant": map_quant, "artifacts": artifacts, "checks": checks,
        }));
    }
    println!("{:>10} {:>8} {:>8}", "", "mAP50", "mAP");
    println!("{:>10} {map50_float:>8.4} {map_float:>8.4}", "float");
    println!("{:>10} {:>8.4} {:>8.4}", "PTQ", result.ptq[0], result.ptq[1]);
    if args.qat_epochs > 0 {
        println!("{:>10} {map50_quant:>8.4} {map_quant:>8.4}", "QAT");
    }
    for artifact in &artifacts {
        println!("{}", artifact.display());
    }
    for check in &checks {
        println!("{}: {}", check.path.display(), check.said);
    }
    Ok(())
}

/// One quantization with progress on the terminal.
pub struct Job<'a> {
    /// Data.
    pub dataset: &'a Dataset,
    /// Side of the images.
    pub img: usize,
    /// Images per batch.
    pub batch: usize,
    /// Loader threads.
    pub workers: usize,
    /// Hyper-parameters of QAT, as they are.
    pub hyp: Hyp,
    /// Seed.
    pub seed: u64,
    /// Images per step of QAT.
    pub nominal_batch: usize,
    /// Calibration batches.
    pub calib_batches: usize,
    /// Epochs of QAT.
    pub qat_epochs: usize,
    /// Mixed precision of QAT.
    pub precision: Precision,
    /// Where it writes.
    pub folder: &'a Path,
    /// Continue an interrupted QAT.
    pub resume: bool,
}

/// What came out.
pub struct Quantized {
    /// The better one of PTQ and QAT.
    pub model: Checkpoint,
    /// Its mAP50 and mAP, measured quantized.
    pub metrics: [f64; 2],
    /// Those after calibration alone.
    pub ptq: [f64; 2],
}

impl Job<'_> {
    /// Calibrates, then trains if epochs are asked for. The result is on the CPU, as what writes files wants it.
    pub fn run(&self, model: &Checkpoint, quantizer: &dyn Quantizer) -> CliResult<Quantized> {
        let count = self.calib_batches.max(1) * self.batch;
        let calib = data_args::calib_loader(self.dataset, model, self.img, self.batch, count, self.workers)?;
        let mut bar = ui::Bar::new("calibrate", calib.batches() as u64);
        ui::stop_flag();
        let mut progress = |done: usize, total: usize| {
            bar.set(done as u64, total as u64, "");
            !ui::stopped()
        };
        let calibrated = yolo_engine::quant::calibrate(model, quantizer, &calib, self.calib_batches, &mut progress);
        bar.finish();
        let mut calibrated = calibrated.map_err(load::failed)?;
        let loader = data_args::val_loader(
            self.dataset,
            Split::Val,
            model,
            self.img,
            self.batch,
            self.workers,
            true,
        )?;
        let ptq = validate(&calibrated, &loader, "val PTQ")?;
        note_metrics(&mut calibrated, ptq);
        if self.qat_epochs == 0 {
            return Ok(Quantized {
                model: calibrated.to_device(tch::Device::Cpu),
                metrics: ptq,
                ptq,
            });
        }
        let options = TrainOptions {
            patience: 0,
            seed: self.seed,
            nominal_batch: self.nominal_batch,
            precision: self.precision,
            ..TrainOptions::new(self.qat_epochs, self.batch, self.img, self.hyp.clone())
        };
        let qat = train::Job {
            start: calibrated.deep_clone(),
            options,
            dataset: self.dataset,
            workers: self.workers,
            cache: None,
            folder: &self.folder.join("qat"),
            resume: self.resume,
        };
        let outcome = qat.run("qat", None)?;
        let metrics = [outcome.metrics.map50, outcome.metrics.map];
        if metrics[0] + 9.0 * metrics[1] >= ptq[0] + 9.0 * ptq[1] {
            return Ok(Quantized {
                model: outcome.best,
                metrics,
                ptq,
            });
        }
        ui::say("QAT did not improve on calibration alone: the calibrated model is kept");
        Ok(Quantized {
            model: calibrated.to_device(tch::Device::Cpu),
            metrics: ptq,
            ptq,
        })
    }
}

fn note_metrics(model: &mut Checkpoint, [map50, map]: [f64; 2]) {
    model.meta.metrics.insert("map50".into(), map50);
    model.meta.metrics.insert("map".into(), map);
}

/// The files of a backend, held against the quantized network and not written yet: its text files with the float network that they belong
/// to, and the QDQ network where the scheme has one.
pub struct Artifacts {
    networks: Vec<Prepared>,
    texts: Vec<(PathBuf, String)>,
}

/// What a network file was compared with, and how it came out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// Largest differences end to end.
    pub diff: Option<Difference>,
    /// Its quantizers, each on its own.
    pub steps: Option<Steps>,
    /// Why it was not run.
    pub unchecked: Option<String>,
    /// All of it for a person.
    pub said: String,
}

impl From<&Written> for Checked {
    fn from(written: &Written) -> Self {
        Self {
            path: written.files[0].clone(),
            diff: written.difference,
            steps: written.steps,
            unchecked: written.unchecked.clone(),
            said: written.summary(),
        }
    }
}

impl Artifacts {
    /// Makes and checks them for images of `img` pixels; they will stand in `folder`, named after `stem`.
    ///
    /// # Errors
    /// Where a file does not compute what the network computes, or the backend has neither files nor a QDQ network.
    pub fn prepare(
        folder: &Path,
        stem: &str,
        model: &Checkpoint,
        quantizer: &dyn Quantizer,
        img: i64,
    ) -> CliResult<Self> {
        let ranges = quant::Ranges::of(&model.graph, &model.params)?;
        let texts = quantizer.artifacts(stem, &ranges)?;
        let prepare = |format, name: String| {
            let request = Request {
                profile: profile_of(quantizer),
                names: model.meta.names.clone(),
                ..Request::new(format, [img; 2])
            };
            checked::prepare(&model.graph, &model.params, &request, &folder.join(name))
        };
        let mut networks = Vec::new();
        if !texts.is_empty() {
            networks.push(prepare(Format::Onnx, format!("{stem}_deploy_model.onnx")).map_err(export_failed)?);
        }
        match prepare(Format::OnnxQdq, format!("{stem}_qdq.onnx")) {
            Ok(file) => networks.push(file),
            // A logarithmic or power-of-two grid with odd rounding has no QDQ form; the backend's own files are all there is.
            Err(error @ (Error::Node { .. } | Error::Unsupported(_))) if !networks.is_empty() => {
                ui::say(format!("no QDQ file: {error}"));
            }
            Err(error) => return Err(export_failed(error)),
        }
        Ok(Self {
            networks,
            texts: texts
                .into_iter()
                .map(|file| (folder.join(&file.name), file.text))
                .collect(),
        })
    }

    /// Writes them; the files, and what each network was compared with.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(self) -> CliResult<(Vec<PathBuf>, Vec<Checked>)> {
        let (mut files, mut checks) = (Vec::new(), Vec::new());
        for (path, text) in self.texts {
            load::write_file(&path, text.as_bytes()).map_err(|error| io_error("can't write", &path, &error))?;
            files.push(path);
        }
        for network in self.networks {
            let written = network.commit().map_err(export_failed)?;
            checks.push(Checked::from(&written));
            files.extend(written.files);
        }
        Ok((files, checks))
    }
}

/// The form of QDQ files that a backend's engine reads best.
pub fn profile_of(quantizer: &dyn Quantizer) -> Profile {
    if quantizer.backend().integer_ops {
        Profile::Ort
    } else {
        Profile::TensorRt
    }
}

/// An export error as a failed command.
pub fn export_failed(error: yolo_export::Error) -> CliError {
    CliError::Failed(error.to_string())
}
