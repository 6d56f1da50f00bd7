//! Quantization: calibration, training with quantizers, and the files of the backend.

mod artifacts;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yolo_core::Quantizer;
use yolo_data::{Dataset, Split};
use yolo_engine::Checkpoint;
use yolo_engine::train::{Distillation, NOMINAL_BATCH, Precision, TrainOptions};

use crate::error::Result;
use crate::train::{self, Job};
use crate::{Session, files, limits, measure, open};

pub use artifacts::{Artifacts, Checked, profile_of};

/// Settings of a quantization: flags of `yolo quantize` and keys of a recipe's `quantize` stage.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuantizeSettings {
    /// Backend: its name, or `{type: NAME, option: value}` (`yolo list-plugins --kind quantizer`)
    #[arg(long, default_value = "tensorrt", value_parser = open::component)]
    pub backend: Value,
    /// Epochs of quantization-aware training (0: calibration only)
    #[arg(long, default_value_t = 0)]
    pub qat_epochs: usize,
    /// Calibration batches, of training images
    #[arg(long, default_value_t = 16)]
    pub calib_batches: usize,
    /// Side of the images (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    pub img: Option<usize>,
    /// Images per step
    #[arg(long, visible_alias = "batch", default_value_t = 16)]
    pub batch_size: usize,
    /// Hyper-parameters; QAT uses a tenth of lr0 and no warm-up
    #[arg(long, value_name = "FILE", value_parser = open::text)]
    pub hyp: Option<Value>,
    /// Hyper-parameters of QAT as they are: nothing is taken off (recipes)
    #[arg(skip)]
    pub qat_hyp: Option<Value>,
    /// Gradients of QAT are accumulated to this many images
    #[arg(long, visible_alias = "nbs", default_value_t = NOMINAL_BATCH)]
    pub nominal_batch: usize,
    /// QAT learns from a teacher besides the labels: a checkpoint of the same classes, or `float`, the model that is quantized
    #[arg(long, value_name = "WEIGHTS")]
    pub teacher: Option<String>,
    /// How: a distiller by name or `{type: NAME, option: value}` (default: logits)
    #[arg(long, value_parser = open::component, requires = "teacher")]
    pub distiller: Option<Value>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
}

impl Default for QuantizeSettings {
    fn default() -> Self {
        Self {
            backend: json!({ "type": "tensorrt" }),
            qat_epochs: 0,
            calib_batches: 16,
            img: None,
            batch_size: 16,
            hyp: None,
            qat_hyp: None,
            nominal_batch: NOMINAL_BATCH,
            teacher: None,
            distiller: None,
            seed: 0,
            workers: 2,
        }
    }
}

impl QuantizeSettings {
    /// The backend's configuration.
    ///
    /// # Errors
    /// A text that is none.
    pub fn component(&self) -> Result<Value> {
        open::written(&self.backend)
    }

    /// What the result depends on.
    ///
    /// # Errors
    /// A teacher that can't be read.
    pub fn key(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Some(teacher) = self.teacher.as_deref().map(Path::new).filter(|file| file.is_file()) {
            value["teacher"] = json!(files::hash(teacher)?);
        }
        Ok(value)
    }

    /// The backend; `place` is where it stands, for messages. Everything else that is named is read, too.
    ///
    /// # Errors
    /// A plugin or an option that is not there, a number that can't be, hyper-parameters out of their ranges.
    pub fn open(&self, session: Session<'_>, place: &str) -> Result<Box<dyn Quantizer>> {
        if self.calib_batches == 0 {
            return Err(crate::Error::Usage(
                "--calib-batches 0: ranges are found on images, at least 1 batch is needed".into(),
            ));
        }
        for (name, value) in [
            ("--batch-size", self.batch_size),
            ("--nominal-batch", self.nominal_batch),
        ] {
            limits::at_least_one(name, value)?;
        }
        self.hyp()?;
        if self.distiller.is_some() && self.teacher.is_none() {
            return Err(crate::Error::Usage("--distiller needs a --teacher".into()));
        }
        if self.teacher.is_some() && self.qat_epochs == 0 {
            return Err(crate::Error::Usage(
                "--teacher: calibration learns nothing; give --qat-epochs".into(),
            ));
        }
        if self.teacher.is_some() {
            open::distiller(session, "--distiller", self.distiller.as_ref())?;
        }
        open::quantizer(session, place, &self.component()?)
    }

    /// Hyper-parameters of QAT.
    fn hyp(&self) -> Result<yolo_data::Hyp> {
        let hyp = yolo_engine::quant::qat_hyp(&open::hyp(self.hyp.as_ref())?);
        let Some(top) = &self.qat_hyp else { return Ok(hyp) };
        let mut value = serde_json::to_value(&hyp)?;
        yolo_core::config::merge(&mut value, top.clone());
        open::sensible(&yolo_core::config::Located::from_value("quantize.hyp", value))
    }
}

/// One quantization.
pub struct Quantization<'a> {
    /// Plugins and listener.
    pub session: Session<'a>,
    /// Data.
    pub dataset: &'a Dataset,
    /// Side of the images.
    pub img: usize,
    /// Settings.
    pub settings: &'a QuantizeSettings,
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

impl Quantization<'_> {
    /// Calibrates, then trains if epochs are asked for. The result is on the CPU, as what writes files wants it.
    ///
    /// # Errors
    /// Images that can't be read, values that are not finite, the listener's wish to stop.
    pub fn run(&self, model: &Checkpoint, quantizer: &dyn Quantizer) -> Result<Quantized> {
        let s = self.settings;
        let mut calibrated = self.calibrate(model, quantizer)?;
        let loader = open::val_loader(self.session, self.dataset, Split::Val, model, self.batching(), true)?;
        let ptq = measure::validate(self.session, &calibrated, &loader, "val PTQ")?;
        note_metrics(&mut calibrated, ptq);
        if s.qat_epochs > 0 {
            let outcome = self.train(model, &calibrated)?;
            let metrics = [outcome.metrics.map50, outcome.metrics.map];
            if metrics[0] + 9.0 * metrics[1] >= ptq[0] + 9.0 * ptq[1] {
                return Ok(Quantized {
                    model: outcome.best,
                    metrics,
                    ptq,
                });
            }
            self.session
                .say("QAT did not improve on calibration alone: the calibrated model is kept");
        }
        Ok(Quantized {
            model: calibrated.to_device(tch::Device::Cpu),
            metrics: ptq,
            ptq,
        })
    }

    /// How images come in batches.
    fn batching(&self) -> open::Batching {
        open::Batching {
            size: self.img,
            batch: self.settings.batch_size,
            workers: self.settings.workers,
        }
    }

    fn calibrate(&self, model: &Checkpoint, quantizer: &dyn Quantizer) -> Result<Checkpoint> {
        let s = self.settings;
        let calib = open::calib_loader(
            self.session,
            self.dataset,
            model,
            self.batching(),
            s.calib_batches.max(1) * s.batch_size,
        )?;
        let task = self.session.progress.task("calibrate", calib.batches());
        Ok(yolo_engine::quant::calibrate(
            model,
            quantizer,
            &calib,
            s.calib_batches,
            &*task,
        )?)
    }

    fn train(&self, float: &Checkpoint, calibrated: &Checkpoint) -> Result<yolo_engine::train::Outcome> {
        let s = self.settings;
        let distil = s.teacher.as_deref().map(|name| self.teacher(name, float, calibrated));
        let options = TrainOptions {
            distil: distil.transpose()?,
            patience: 0,
            seed: s.seed,
            nominal_batch: s.nominal_batch,
            precision: self.precision,
            ..TrainOptions::new(s.qat_epochs, s.batch_size, self.img, s.hyp()?)
        };
        let qat = Job {
            session: self.session,
            start: calibrated.deep_clone(),
            options,
            dataset: self.dataset,
            workers: s.workers,
            cache: None,
            folder: self.folder.join("qat"),
            resume: self.resume,
        };
        qat.run("qat", None)
    }
}

impl Quantization<'_> {
    /// The teacher of QAT: the float model itself, or that of a file.
    fn teacher(&self, name: &str, float: &Checkpoint, student: &Checkpoint) -> Result<Distillation> {
        let names = &self.dataset.names;
        if name == "float" {
            let distiller = open::distiller(self.session, "--distiller", self.settings.distiller.as_ref())?;
            return Ok(Distillation::new(distiller, float)?);
        }
        let distiller = ("--distiller", self.settings.distiller.as_ref());
        train::teacher(self.session, Path::new(name), distiller, (student, names), self.img)
    }
}

fn note_metrics(model: &mut Checkpoint, [map50, map]: [f64; 2]) {
    model.meta.metrics.insert("map50".into(), map50);
    model.meta.metrics.insert("map".into(), map);
}
