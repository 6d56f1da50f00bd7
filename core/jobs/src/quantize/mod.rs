//! Quantization: calibration, training with quantizers, and the files of the backend.

mod agree;
mod artifacts;
mod layers;
mod settings;

use std::path::Path;
use std::time::SystemTime;

use yolo_core::Quantizer;
use yolo_data::{Dataset, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::quant::{Calibrated, CalibrationOptions};
use yolo_engine::train::{Distillation, Precision, TrainOptions};

use crate::error::Result;
use crate::train::{self, Job};
use crate::{Session, measure, open};

pub use agree::Agreement;
pub use artifacts::{Artifacts, Checked, profile_of};
pub use layers::Sensitivities;
pub use settings::{QuantizeSettings, RoundingName};

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
    /// Layers that stay in float.
    pub float_layers: Vec<String>,
}

impl Quantization<'_> {
    /// Calibrates, then trains if epochs are asked for. The result is on the CPU, as what writes files wants it.
    ///
    /// # Errors
    /// Images that can't be read, values that are not finite, the listener's wish to stop.
    pub fn run(&self, model: &Checkpoint, quantizer: &dyn Quantizer) -> Result<Quantized> {
        let s = self.settings;
        let calibrated = self.calibrate(model, quantizer)?;
        let (float_layers, why) = self.float_layers(model, &calibrated)?;
        let mut calibrated = calibrated.with_float(&float_layers, &why)?;
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
                    float_layers,
                });
            }
            self.session
                .say("QAT did not improve on calibration alone: the calibrated model is kept");
        }
        Ok(Quantized {
            model: calibrated.to_device(tch::Device::Cpu),
            metrics: ptq,
            ptq,
            float_layers,
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

    fn calibrate(&self, model: &Checkpoint, quantizer: &dyn Quantizer) -> Result<Calibrated> {
        let s = self.settings;
        let calib = self.still(model, s.calib_batches.max(1).saturating_mul(s.batch_size))?;
        let (wanted, there) = (s.calib_batches.saturating_mul(s.batch_size), calib.samples().len());
        if there < wanted && s.calib_batches != QuantizeSettings::default().calib_batches {
            self.session.say(format!(
                "note: --calib-batches {} of {} images are {wanted}, `train` has {there}: all are used",
                s.calib_batches, s.batch_size
            ));
        }
        let task = self.session.progress.task("calibrate", calib.batches());
        let options = CalibrationOptions {
            batches: s.calib_batches,
            refinement: s.refinement(&quantizer.backend()),
        };
        let mut calibrated = yolo_engine::quant::calibrate(model, quantizer, &calib, &options, &*task)?;
        if s.tune > 0 {
            drop(task);
            let task = self.session.progress.task("tune", calib.batches());
            let tuned = yolo_engine::quant::tune(&mut calibrated, model, &calib, s.tune, &*task)?;
            drop(task);
            self.session.say(tuned.said());
        }
        Ok(calibrated)
    }

    /// Training images as validation sees them.
    fn still(&self, model: &Checkpoint, count: usize) -> Result<Loader> {
        open::calib_loader(self.session, self.dataset, model, self.batching(), count)
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
            began: SystemTime::now(),
        };
        // A training of its own it is not: it goes on with what it is a part of.
        let again = format!("`yolo train --resume {}`", qat.folder.display());
        qat.run("qat", None)
            .map_err(|error| error.map(|text| text.replace(&again, "the same command and --resume")))
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
