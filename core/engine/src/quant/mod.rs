//! Quantization with data: folds batch norms, watches activations on calibration images, inserts the fake quantizers of a
//! backend. The result is an ordinary checkpoint that is validated, trained (QAT: scales learn with the weights) and exported as
//! any other.
//!
//! What must not be here: schemes, placement and file formats of backends (plugins and `yolo_core::quant`).

mod analyse;
mod divergence;
mod mixed;
mod sample;
mod tune;

pub use analyse::{Analysis, Sensitivity, analyse};
pub use mixed::{Found, fewest};
pub use tune::{Tuned, tune};

use divergence::Divergence;
use tch::Tensor;
use yolo_core::quant::{self, Calibration, QuantLayer, Quantizer, Refinement};
use yolo_core::{Graph, Op, Params, Progress};
use yolo_data::{Hyp, Loader};

use crate::batch::image_tensor;
use crate::checkpoint::{Checkpoint, HistoryEntry};
use crate::{Error, Result};

/// Whether a graph has fake quantizers.
pub fn is_quantized(graph: &Graph) -> bool {
    (graph.nodes.iter()).any(|node| matches!(node.op, Op::FakeQuant { .. }) || node.op.weight_quant().is_some())
}

/// What is to be said of images before ranges are found on them: ranges of one image, or of images without a picture, fit no other.
pub fn weakness(images: &Loader) -> Option<String> {
    let lack = yolo_data::variety::lack(images.samples().iter().map(|sample| &sample.image))?;
    Some(format!("ranges are found on images that say little of others: {lack}"))
}

/// How a network is calibrated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibrationOptions {
    /// Batches of images that ranges are found on.
    pub batches: usize,
    /// What is done besides.
    pub refinement: Refinement,
}

impl CalibrationOptions {
    /// Ranges alone.
    pub fn ranges(batches: usize) -> Self {
        Self {
            batches,
            refinement: Refinement::default(),
        }
    }
}

/// A quantized model with the float tensors that it was made from.
#[derive(Debug)]
pub struct Calibrated {
    /// The quantized model.
    pub model: Checkpoint,
    /// The float tensors of the same nodes.
    float: Params,
}

impl Calibrated {
    /// Its quantized layers.
    pub fn layers(&self) -> Vec<QuantLayer> {
        quant::layers(&self.model.graph)
    }

    /// The graph and the tensors with some of the layers in float.
    ///
    /// # Errors
    /// [`Error::Core`] where a name is no layer's.
    pub fn network(&self, in_float: &[String]) -> Result<(Graph, Params)> {
        Ok(quant::in_float(
            &self.model.graph,
            &self.model.params,
            &self.float,
            in_float,
        )?)
    }

    /// The model with some of its layers in float, which its history says.
    ///
    /// # Errors
    /// Those of [`Calibrated::network`].
    pub fn with_float(mut self, in_float: &[String], why: &str) -> Result<Checkpoint> {
        if in_float.is_empty() {
            return Ok(self.model);
        }
        let (graph, params) = self.network(in_float)?;
        self.model.meta.history.push(HistoryEntry {
            kind: "float-layers".into(),
            summary: format!("{} of {} layers in float{why}", in_float.len(), self.layers().len()),
            settings: serde_json::to_value(in_float).map_err(yolo_core::Error::from)?,
        });
        Ok(Checkpoint::new(graph, params, self.model.meta))
    }
}

/// Post-training quantization: ranges from batches of `images`, and what the options ask for besides. `progress` hears of finished batches
/// and may end it.
///
/// # Errors
/// [`Error::Settings`] where the model is quantized already. [`Error::Core`] names an option of the backend that can't be, the layer whose
/// values are not finite, or is [`yolo_core::Error::Cancelled`]. [`Error::Data`] names an image that can't be read.
pub fn calibrate(
    model: &Checkpoint,
    quantizer: &dyn Quantizer,
    images: &Loader,
    options: &CalibrationOptions,
    progress: &dyn Progress,
) -> Result<Calibrated> {
    if is_quantized(&model.graph) {
        return Err(Error::Settings(
            "the model is quantized already; start from the float model".into(),
        ));
    }
    let weakness = weakness(images);
    if let Some(weakness) = &weakness {
        progress.say(&format!("warning: {weakness}"));
    }
    let refinement = options.refinement;
    let mut calibration = Calibration::refined(quantizer, &model.graph, &model.params, refinement)?;
    let total = options.batches.clamp(1, images.batches());
    let mut sample = Vec::new();
    for (done, batch) in images.epoch(0).take(total).enumerate() {
        let batch = batch?;
        let seen = image_tensor(&batch, model.params.device())?;
        calibration.see(&seen)?;
        if refinement.reconstructs() {
            let count = sample::per_batch(total);
            sample.push(sample::windows(&seen, &batch, count, model.max_stride() as usize)?);
        }
        progress.step(done + 1, total, "")?;
    }
    let activations = calibration.activations();
    let sample = match sample.is_empty() {
        true => Tensor::f_empty([0], (tch::Kind::Float, model.params.device()))?,
        false => Tensor::f_cat(&sample, 0)?,
    };
    let mut step = |done: usize, total: usize| progress.step(done, total, "layers");
    let made = calibration.finish_on(&sample, &mut step)?;
    let params = |params: Params| {
        params
            .iter()
            .map(|(key, tensor)| (key.to_owned(), own(tensor)))
            .collect()
    };
    let weakness = weakness.map_or(String::new(), |weakness| format!(" ({weakness})"));
    let mut meta = model.meta.clone();
    meta.metrics.clear();
    let described = serde_json::to_value(quantizer).map_err(yolo_core::Error::from)?;
    meta.history.push(HistoryEntry {
        kind: "quantize".into(),
        summary: format!("{activations} activation ranges from {total} batches{weakness}"),
        settings: serde_json::json!({"backend": &described, "refinement": refinement}),
    });
    meta.quantizer = Some(described);
    Ok(Calibrated {
        model: Checkpoint::new(made.graph, params(made.params), meta),
        float: params(made.float),
    })
}

/// Contiguous, detached: what a file can hold.
fn own(tensor: &Tensor) -> Tensor {
    tensor.detach().contiguous()
}

/// Hyper-parameters of quantization-aware training from those of training: the weights are trained already, so the learning
/// rate is a tenth and nothing warms up.
pub fn qat_hyp(hyp: &Hyp) -> Hyp {
    Hyp {
        lr0: 0.1 * hyp.lr0,
        lrf: hyp.lrf.max(0.1),
        warmup_epochs: 0.0,
        ..hyp.clone()
    }
}

#[cfg(test)]
mod tests {
    use yolo_data::{Image, LoaderOptions, Sample};

    use super::*;

    #[test]
    fn images_that_say_little_are_named_before_ranges_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let sample = |name: &str, image: &Image| {
            let path = dir.path().join(name);
            image.save(&path).expect("written");
            Sample {
                label: path.with_extension("txt"),
                image: path,
                boxes: Vec::new(),
                size: [image.width, image.height],
            }
        };
        let mut picture = Image::filled(32, 32, [90, 20, 200]);
        picture.data[..600].fill(255);
        let (one, two) = (sample("a.png", &picture), sample("b.png", &picture));
        let black = sample("c.png", &Image::filled(32, 32, [0; 3]));
        let said = |samples: Vec<Sample>| weakness(&Loader::new(samples, LoaderOptions::val(32, 2)).expect("a loader"));
        for (samples, words) in [
            (vec![one.clone()], Some("only one image")),
            (vec![one.clone(), two], Some("the same picture")),
            (vec![black.clone()], Some("black")),
            (vec![one, black], None),
        ] {
            let found = said(samples);
            assert_eq!(found.is_some(), words.is_some(), "{found:?}");
            assert!(found.is_none_or(|text| words.is_some_and(|words| text.contains(words))));
        }
    }
}
