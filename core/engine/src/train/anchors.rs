//! Anchors held against the boxes of a training before it starts, and fitted to them where they are far off: YOLOv5's autoanchor.
//!
//! What must not be here: the search itself, which is in [`yolo_data::anchors`].

use serde::Serialize;
use yolo_core::{Params, model};
use yolo_data::Sample;
use yolo_data::anchors::{self, Fit, Size};

use crate::checkpoint::{self, Checkpoint};
use crate::{Error, Result};

/// Steps of the search.
const GENERATIONS: usize = 1000;

/// How the anchors of a training fit its boxes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnchorReport {
    /// Boxes.
    pub boxes: usize,
    /// Boxes with a side below two pixels.
    pub too_small: usize,
    /// Side of the images in pixels.
    pub image: usize,
    /// How the model's own anchors fit; nothing where its configuration gives only their number.
    pub own: Option<Fit>,
    /// How the fitted ones do, where they were taken.
    pub fitted: Option<Fit>,
    /// The anchors of the training in pixels, smallest first.
    pub anchors: Vec<Size>,
    /// Why they fit badly and were still kept.
    pub warning: Option<String>,
}

impl AnchorReport {
    /// One line for a person.
    pub fn summary(&self) -> String {
        let percent = |fit: &Fit| format!("{:.2} %", 100.0 * fit.best_possible_recall);
        let place = format!("of {} boxes at {} px", self.boxes, self.image);
        let list = || {
            let sizes: Vec<String> = self.anchors.iter().map(|[w, h]| format!("{w:.0}x{h:.0}")).collect();
            sizes.join(" ")
        };
        match (&self.own, &self.fitted) {
            (Some(own), Some(fitted)) => format!(
                "anchors: best possible recall {} {place}; fitted to the data: {} ({}); --noautoanchor keeps the model's",
                percent(own),
                percent(fitted),
                list()
            ),
            (None, Some(fitted)) => {
                format!(
                    "anchors: fitted to the data, best possible recall {} {place} ({})",
                    percent(fitted),
                    list()
                )
            }
            (Some(own), None) => format!("anchors: best possible recall {} {place}", percent(own)),
            (None, None) => "anchors: not fitted".to_owned(),
        }
    }

    /// Best possible recall of the anchors that the training has.
    pub fn best_possible_recall(&self) -> f64 {
        (self.fitted.or(self.own)).map_or(0.0, |fit| fit.best_possible_recall)
    }
}

/// Holds the anchors of `model` against the boxes of `samples` at an image size; with `fit`, puts better ones in their place where less
/// than [`anchors::ENOUGH`] of the boxes can be reached. `threshold` is the hyper-parameter `anchor_t`. The same data and seed give the
/// same anchors.
///
/// # Errors
/// Where the model leaves its anchors to the data, and the data gives none.
pub fn check(
    model: &mut Checkpoint,
    samples: &[Sample],
    image: usize,
    threshold: f64,
    fit: bool,
    seed: u64,
) -> Result<AnchorReport> {
    let stride = usize::try_from(model.max_stride()).unwrap_or(32).max(1);
    let head = (model.graph.head.as_mut()).ok_or_else(|| Error::Settings("the model has no detection head".into()))?;
    let own: Vec<Size> = head.anchors.iter().flatten().copied().collect();
    let boxes = anchors::box_sizes(samples, image);
    let visible = |size: &&Size| size.iter().all(|side| *side >= anchors::LEAST_SIDE);
    let too_small = boxes.len() - boxes.iter().filter(visible).count();
    let before = (!head.unfitted).then(|| anchors::fit(&own, &boxes, threshold));
    let mut report = AnchorReport {
        boxes: boxes.len(),
        too_small,
        image,
        own: before,
        fitted: None,
        anchors: own.clone(),
        warning: None,
    };
    let good = before.is_some_and(|fit| fit.best_possible_recall >= anchors::ENOUGH);
    if boxes.is_empty() && before.is_some() || good {
        return Ok(report);
    }
    if !fit && head.unfitted {
        return Err(Error::Settings(
            "the model's configuration gives the number of its anchors only: they must be fitted to the data (leave --noautoanchor out), or \
             written into it (`yolo data anchors` finds some)"
                .into(),
        ));
    }
    let found = if fit {
        anchors::find(&boxes, own.len(), threshold, GENERATIONS, seed).map_err(|error| error.to_string())
    } else {
        Err("--noautoanchor keeps the anchors".to_owned())
    };
    match found {
        Ok(found) => {
            let after = anchors::fit(&found, &boxes, threshold);
            if before.is_none_or(|before| after.best_possible_recall > before.best_possible_recall) {
                head.set_anchors(&found)?;
                let (key, tensor) = (head.anchors_key(), head.anchors_in_cells());
                let device = model.params.device();
                model.params.insert(key, tensor.to_device(device));
                report.fitted = Some(after);
                report.anchors = found;
            }
        }
        Err(reason) if head.unfitted => {
            return Err(Error::Settings(format!(
                "no anchors can be fitted at {image} px: {reason}\n  help: write anchors into the model's configuration, or give more and \
                 larger boxes (--img)"
            )));
        }
        Err(reason) => report.warning = Some(reason),
    }
    if report.best_possible_recall() < anchors::ENOUGH {
        report.warning = Some(warning(&report, &boxes, threshold, stride));
    }
    Ok(report)
}

/// What boxes without an anchor mean, and the image size that would do.
fn warning(report: &AnchorReport, boxes: &[Size], threshold: f64, stride: usize) -> String {
    let recall = report.best_possible_recall();
    let lost = if recall == 0.0 {
        "no box matches an anchor: nothing can be learned".to_owned()
    } else {
        format!(
            "{:.1} % of the boxes match no anchor and can't be learned",
            100.0 * (1.0 - recall)
        )
    };
    let small = match report.too_small {
        0 => String::new(),
        n => format!(
            "; {n} of {} boxes are smaller than 2 px at --img {}",
            report.boxes, report.image
        ),
    };
    // That all are too small was said already.
    let why = report
        .warning
        .as_ref()
        .filter(|_| report.too_small < report.boxes)
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let way = match anchors::size_that_fits(&report.anchors, boxes, threshold, report.image, stride) {
        Some(size) => format!("; --img {size} would do"),
        None => String::new(),
    };
    format!("{lost}{small}{why}{way}")
}

/// The model with `count` anchors a level, to be fitted (the hyper-parameter `anchors`). What is not of the head keeps its weights.
///
/// # Errors
/// A count that is no whole number from 1 to 100.
pub fn with_count(model: Checkpoint, count: f64, seed: u64) -> Result<Checkpoint> {
    if count.fract() != 0.0 || !(1.0..=100.0).contains(&count) {
        return Err(Error::Settings(format!(
            "hyp: `anchors: {count}` is the number of anchors a level: a whole one, 1 to 100 (0 keeps the model's)"
        )));
    }
    let count = count as usize;
    let graph = model::with_anchor_count(&model.graph, count)?;
    let device = model.params.device();
    let params: Params = Params::init(&graph, seed);
    let key = graph.head.as_ref().map(yolo_core::graph::DetectHead::anchors_key);
    checkpoint::transfer(&params, model.params.iter(), &|name| Some(name) == key.as_deref())?;
    Ok(Checkpoint::new(graph, params, model.meta).to_device(device))
}
