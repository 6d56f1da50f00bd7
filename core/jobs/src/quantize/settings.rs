//! Settings of a quantization.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yolo_core::quant::{BackendSpec, Refinement, Rounding};
use yolo_core::{Graph, Quantizer};
use yolo_engine::train::NOMINAL_BATCH;

use crate::error::Result;
use crate::{Session, files, limits, open};

/// Layers in float are searched for.
const AUTO: &str = "auto";

/// How weights come to their grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoundingName {
    /// To the nearest point.
    Nearest,
    /// Up or down, as the results of the layer want it (AdaRound); minutes.
    Adaround,
}

impl From<RoundingName> for Rounding {
    fn from(name: RoundingName) -> Self {
        match name {
            RoundingName::Nearest => Self::Nearest,
            RoundingName::Adaround => Self::AdaRound,
        }
    }
}

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
    /// Layers that stay in float: `auto` keeps the fewest that --max-drop asks for; or names (`model.24`, `model.0.conv`)
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', visible_alias = "keep-float")]
    #[serde(alias = "keep-float", deserialize_with = "crate::lists::one_or_many")]
    pub float_layers: Vec<String>,
    /// Points of mAP (of 100) that may be lost with `--float-layers auto`, on training images
    #[arg(long, default_value_t = 0.3)]
    pub max_drop: f64,
    /// Training images that mAP is measured on to choose or to compare layers, and to compare a file with the network
    #[arg(long, default_value_t = 128)]
    pub select_images: usize,
    /// Take the mean error of each layer's results off its bias (default: as the backend likes it)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub bias_correction: Option<bool>,
    /// Fit ranges of activations to the results of the layers that read them (default: as the backend likes it)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub fit_ranges: Option<bool>,
    /// How weights come to their grid (default: as the backend likes it)
    #[arg(long, value_enum)]
    pub rounding: Option<RoundingName>,
    /// Epochs over the calibration images in which ranges and biases learn to give the float network's predictions; no labels (0: none)
    #[arg(long, value_name = "EPOCHS", default_value_t = 0)]
    pub tune: usize,
    /// Make the ranges of weights alike from layer to layer, where ReLU, leaky ReLU or nothing stands between
    #[arg(long)]
    pub equalize: bool,
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
    /// Write files that don't compute what the network computes, too, each with a report beside it
    #[arg(long)]
    pub force: bool,
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
            float_layers: Vec::new(),
            max_drop: 0.3,
            select_images: 128,
            bias_correction: None,
            fit_ranges: None,
            rounding: None,
            tune: 0,
            equalize: false,
            img: None,
            batch_size: 16,
            hyp: None,
            qat_hyp: None,
            nominal_batch: NOMINAL_BATCH,
            teacher: None,
            distiller: None,
            force: false,
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
            ("--select-images", self.select_images),
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
        self.check_float_layers()?;
        let component = self.component()?;
        let quantizer = open::quantizer(session, place, &component)?;
        let (backend, name) = (quantizer.backend(), component["type"].as_str().unwrap_or(place));
        if !self.float_layers.is_empty() && backend.integers_only {
            return Err(crate::Error::Usage(format!(
                "--float-layers: the toolchain of `{name}` runs every layer on integers; its table of ranges can't say that one stays in \
                 float. Leave it out, or train quantized: --qat-epochs"
            )));
        }
        if self.rounding == Some(RoundingName::Adaround) && !backend.weight.method.is_linear() {
            return Err(crate::Error::Usage(format!(
                "--rounding adaround: weights of `{name}` lie on no linear grid ({:?}), whose two neighbours it chooses between",
                backend.weight.method
            )));
        }
        Ok(quantizer)
    }

    fn check_float_layers(&self) -> Result<()> {
        if !(self.max_drop.is_finite() && (0.0..=100.0).contains(&self.max_drop)) {
            return Err(crate::Error::Usage(format!(
                "--max-drop {}: points of mAP are 0 to 100",
                self.max_drop
            )));
        }
        if self.max_drop != Self::default().max_drop && !self.automatic() {
            return Err(crate::Error::Usage(format!(
                "--max-drop {}: nothing bounds the loss but a search for layers that stay in float; give --float-layers auto, too",
                self.max_drop
            )));
        }
        if self.float_layers.len() > 1 && self.automatic() {
            return Err(crate::Error::Usage(
                "--float-layers: `auto` chooses by itself; give it alone, or names alone".into(),
            ));
        }
        Ok(())
    }

    /// Refuses names of layers of which the network has none; which of them are quantized is known once it is.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] names the first.
    pub fn check_against(&self, network: &Graph) -> Result<()> {
        let is_there = |wanted: &str| {
            let means =
                |name: &str| name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
            network.nodes.iter().any(|node| means(&node.name))
        };
        match self.float_layers.iter().find(|name| *name != AUTO && !is_there(name)) {
            None => Ok(()),
            Some(name) => Err(crate::Error::Usage(format!(
                "--float-layers: no layer is called `{name}`, and none begins with it; `yolo quantize --analyse` lists all"
            ))),
        }
    }

    /// Whether layers that stay in float are searched for.
    pub fn automatic(&self) -> bool {
        self.float_layers.iter().any(|name| name == AUTO)
    }

    /// What calibration does besides finding ranges: as asked for, else as the backend likes it.
    pub fn refinement(&self, backend: &BackendSpec) -> Refinement {
        let usual = backend.refinement;
        Refinement {
            equalize: self.equalize || usual.equalize,
            fit_ranges: self.fit_ranges.unwrap_or(usual.fit_ranges),
            bias_correction: self.bias_correction.unwrap_or(usual.bias_correction),
            rounding: self.rounding.map_or(usual.rounding, Rounding::from),
        }
    }

    /// Hyper-parameters of QAT.
    pub(super) fn hyp(&self) -> Result<yolo_data::Hyp> {
        let hyp = yolo_engine::quant::qat_hyp(&open::hyp(self.hyp.as_ref())?);
        let Some(top) = &self.qat_hyp else { return Ok(hyp) };
        let mut value = serde_json::to_value(&hyp)?;
        yolo_core::config::merge(&mut value, top.clone());
        open::sensible(&yolo_core::config::Located::from_value("quantize.hyp", value))
    }
}
