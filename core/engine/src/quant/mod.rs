//! Quantization with data: folds batch norms, watches activations on calibration images, inserts the fake quantizers of a
//! backend. The result is an ordinary checkpoint that is validated, trained (QAT: scales learn with the weights) and exported as
//! any other.
//!
//! What must not be here: schemes, placement and file formats of backends (plugins and `yolo_core::quant`).

use tch::Tensor;
use yolo_core::quant::{Calibration, Quantizer};
use yolo_core::{Graph, Op, Progress};
use yolo_data::{Hyp, Loader};

use crate::batch::image_tensor;
use crate::checkpoint::{Checkpoint, Stage};
use crate::{Error, Result};

/// Whether a graph has fake quantizers.
pub fn is_quantized(graph: &Graph) -> bool {
    graph.nodes.iter().any(|node| {
        matches!(
            node.op,
            Op::FakeQuant { .. }
                | Op::Conv2d {
                    weight_quant: Some(_),
                    ..
                }
                | Op::Linear {
                    weight_quant: Some(_),
                    ..
                }
        )
    })
}

/// Post-training quantization: ranges from `batches` batches of `images`. `progress` hears of finished batches and may end it.
pub fn calibrate(
    model: &Checkpoint,
    quantizer: &dyn Quantizer,
    images: &Loader,
    batches: usize,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    if is_quantized(&model.graph) {
        return Err(Error::Settings(
            "the model is quantized already; start from the float model".into(),
        ));
    }
    let mut calibration = Calibration::new(quantizer, &model.graph, &model.params)?;
    let total = batches.clamp(1, images.batches());
    for (done, batch) in images.epoch(0).take(total).enumerate() {
        calibration.see(&image_tensor(&batch?, model.params.device())?)?;
        progress.step(done + 1, total, "")?;
    }
    let activations = calibration.activations();
    let (graph, params) = calibration.finish()?;
    let params = params
        .iter()
        .map(|(key, tensor)| (key.to_owned(), own(tensor)))
        .collect();
    let mut meta = model.meta.clone();
    meta.metrics.clear();
    let described = serde_json::to_value(quantizer).map_err(yolo_core::Error::from)?;
    meta.history.push(Stage {
        kind: "quantize".into(),
        summary: format!("{activations} activation ranges from {total} batches"),
        settings: described.clone(),
    });
    meta.quantizer = Some(described);
    Ok(Checkpoint::new(graph, params, meta))
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
