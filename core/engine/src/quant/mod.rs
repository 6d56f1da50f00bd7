//! Quantization with data: folds batch norms, watches activations on calibration images, inserts the fake quantizers of a
//! backend. The result is an ordinary checkpoint that is validated, trained (QAT: scales learn with the weights) and exported as
//! any other.
//!
//! What must not be here: schemes, placement and file formats of backends (plugins and `yolo_core::quant`).

use tch::{Device, Tensor};
use yolo_core::quant::{self, Quantizer, Watch};
use yolo_core::{Graph, Mode, Op, Program, passes};
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

/// Post-training quantization: ranges from `batches` batches of `images`. `progress` hears finished batches; `false` stops.
pub fn calibrate(
    model: &Checkpoint,
    quantizer: &dyn Quantizer,
    images: &Loader,
    batches: usize,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Checkpoint> {
    if is_quantized(&model.graph) {
        return Err(Error::Settings(
            "the model is quantized already; start from the float model".into(),
        ));
    }
    let backend = quantizer.backend();
    let (graph, params) = passes::fuse(&model.graph, &model.params)?;
    let params = params.deep_clone();
    let values = backend.placement.values(&graph);
    let mut watches: Vec<Watch> = values
        .iter()
        .map(|_| Watch::new(backend.activation.observer, backend.activation.spec()))
        .collect();
    let program = Program::new(&graph, &params)?;
    let total = batches.clamp(1, images.batches());
    for (done, batch) in images.epoch(0).take(total).enumerate() {
        let batch = batch?;
        let image = image_tensor(&batch, Device::Cpu)?;
        tch::no_grad(|| {
            program.run_observed(&image, Mode::Eval, |value, tensor| {
                match values.iter().position(|wanted| *wanted == value) {
                    Some(at) => watches[at].see(tensor),
                    None => Ok(()),
                }
            })
        })?;
        if !progress(done + 1, total) {
            return Err(yolo_core::Error::Cancelled.into());
        }
    }
    let weight = |node: &yolo_core::Node| {
        quantizer
            .quantizes(node)
            .then(|| (backend.weight.spec(), backend.weight.observer))
    };
    let (graph, params) = quant::insert(&graph, &params, &values, &watches, &backend.activation.spec(), &weight)?;
    let params = params
        .iter()
        .map(|(key, tensor)| (key.to_owned(), own(tensor)))
        .collect();
    let mut meta = model.meta.clone();
    meta.metrics.clear();
    let described = serde_json::to_value(quantizer).map_err(yolo_core::Error::from)?;
    meta.history.push(Stage {
        kind: "quantize".into(),
        summary: format!("{} activation ranges from {total} batches", values.len()),
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
