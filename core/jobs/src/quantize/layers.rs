//! Which layers lose accuracy, and which stay in float.

use serde::Serialize;
use tch::Tensor;
use yolo_core::{Quantizer, quant};
use yolo_data::{Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::batch::image_tensor;
use yolo_engine::eval::NmsOptions;
use yolo_engine::quant::{Analysis, Calibrated, analyse, fewest};
use yolo_engine::val;

use super::Quantization;
use crate::error::Result;
use crate::{measure, open};

/// Pixels of the images that raw maps are compared on.
const PIXELS: usize = 16 * 320 * 320;

/// What each layer does to a network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivities {
    /// Errors of the raw maps.
    #[serde(flatten)]
    pub analysis: Analysis,
    /// Training images that mAP was measured on.
    pub select_images: usize,
    /// mAP of the float model on them.
    pub map_float: f64,
    /// The same with all layers quantized.
    pub map: f64,
}

impl Quantization<'_> {
    /// Calibrates, and looks at each layer; the `count` that take most noise with them are also measured as mAP, each alone in float.
    ///
    /// # Errors
    /// Images that can't be read, values that are not finite, the listener's wish to stop.
    pub fn analyse(&self, model: &Checkpoint, quantizer: &dyn Quantizer, count: usize) -> Result<Sensitivities> {
        let calibrated = self.calibrate(model, quantizer)?;
        let mut analysis = self.sensitivities(model, &calibrated)?;
        let loader = self.select_loader(model)?;
        let map_float = measure::validate(self.session, model, &loader, "select float")?[1];
        let map = self.map(&calibrated, &[], &loader)?;
        for own in analysis.layers.iter_mut().take(count) {
            own.map = Some(self.map(&calibrated, std::slice::from_ref(&own.layer.name), &loader)?);
        }
        Ok(Sensitivities {
            analysis,
            select_images: loader.samples().len(),
            map_float,
            map,
        })
    }

    /// The layers that stay in float, and why, for the history.
    ///
    /// # Errors
    /// As for [`Quantization::analyse`]; a name that is no layer's.
    pub(super) fn float_layers(&self, model: &Checkpoint, calibrated: &Calibrated) -> Result<(Vec<String>, String)> {
        let s = self.settings;
        if !s.automatic() {
            return Ok((quant::named(&calibrated.layers(), &s.float_layers)?, String::new()));
        }
        let loader = self.select_loader(model)?;
        let float = measure::validate(self.session, model, &loader, "select float")?[1];
        let order = self.sensitivities(model, calibrated)?.order();
        let needed = float - s.max_drop / 100.0;
        let found = fewest(&order, needed, &mut |names| self.map(calibrated, names, &loader))?;
        let lost = 100.0 * (float - found.accuracy);
        let images = loader.samples().len();
        let said = format!(
            " ({lost:.2} points of mAP lost on {images} training images, {} allowed)",
            s.max_drop
        );
        self.session.say(format!(
            "{} of {} layers stay in float{said}; {} networks were measured",
            found.names.len(),
            order.len(),
            found.tried
        ));
        if found.accuracy < needed {
            self.session.say("warning: even with all of them in float more is lost");
        }
        Ok((found.names, said))
    }

    fn sensitivities(&self, model: &Checkpoint, calibrated: &Calibrated) -> Result<Analysis> {
        let count = (PIXELS / (self.img * self.img).max(1)).clamp(1, 64);
        let loader = self.still(model, count)?;
        let device = model.params.device();
        let images = loader.epoch(0).map(|batch| Ok(image_tensor(&batch?, device)?));
        let images = Tensor::f_cat(&images.collect::<Result<Vec<_>>>()?, 0)?;
        let task = self.session.progress.task("layers", calibrated.layers().len());
        Ok(analyse(model, calibrated, &images, &*task)?)
    }

    /// mAP with some layers in float.
    fn map(&self, calibrated: &Calibrated, in_float: &[String], loader: &Loader) -> Result<f64> {
        let (graph, params) = calibrated.network(in_float)?;
        let label = format!("{} in float", in_float.len());
        let task = self.session.progress.task(&label, loader.batches());
        let report = val::validate(&graph, &params, loader, &NmsOptions::validation(), &*task)?;
        Ok(report.metrics.map)
    }

    /// Training images to choose layers by; it is said where they are those that are reported.
    fn select_loader(&self, model: &Checkpoint) -> Result<Loader> {
        let loader = self.still(model, self.settings.select_images)?;
        let reported = open::samples(self.session, self.dataset, Split::Val, false)?.items;
        let reported: std::collections::HashSet<_> = reported.iter().map(|sample| &sample.image).collect();
        let both = loader
            .samples()
            .iter()
            .filter(|sample| reported.contains(&sample.image));
        match both.count() {
            0 => {}
            both => self.session.say(format!(
                "note: layers are compared on {} training images, of which {both} are in `val` too: what is reported on `val` is not \
                 independent of the choice",
                loader.samples().len()
            )),
        }
        Ok(loader)
    }
}
