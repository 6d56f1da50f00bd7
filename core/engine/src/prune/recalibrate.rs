//! Adaptive batch normalisation (EagleEye, arXiv 2007.02491, section 3.3): after channels are gone, the running statistics
//! belong to another network. They are measured anew, as plain averages over training images.

use tch::Tensor;
use yolo_core::{Graph, Mode, Op, Params, Program};
use yolo_data::Loader;

use crate::Result;
use crate::batch::image_tensor;

/// Replaces the running statistics in `params` (in place) by averages over `batches` batches of `images`. The old ones have no
/// weight. Nothing else changes.
///
/// # Errors
/// `Error::Core` names a tensor of a batch norm that is missing, or the node that can't be run. `Error::Data` names an image that can't be
/// read.
pub fn recalibrate(graph: &Graph, params: &Params, images: &Loader, batches: usize) -> Result<()> {
    let norms: Vec<&str> = graph
        .nodes
        .iter()
        .filter(|n| matches!(n.op, Op::BatchNorm { .. }))
        .map(|n| n.name.as_str())
        .collect();
    if norms.is_empty() || batches == 0 {
        return Ok(());
    }
    let statistics: Vec<&Tensor> = norms
        .iter()
        .flat_map(|name| ["running_mean", "running_var"].map(|key| params.require(&format!("{name}.{key}"))))
        .collect::<yolo_core::Result<_>>()?;
    let counters: Vec<&Tensor> = norms
        .iter()
        .map(|name| params.require(&format!("{name}.num_batches_tracked")))
        .collect::<yolo_core::Result<_>>()?;
    tch::no_grad(|| {
        let before: Vec<Tensor> = counters.iter().map(|counter| counter.copy()).collect();
        let program = Program::new(&batch_statistics(graph), params)?;
        let mut sums: Vec<Tensor> = statistics.iter().map(|t| t.zeros_like()).collect();
        let mut seen = 0.0;
        for batch in images.epoch(0).take(batches) {
            let batch = batch?;
            program.run(&image_tensor(&batch, program.device())?, Mode::Train)?;
            let weight = batch.len() as f64;
            seen += weight;
            for (sum, now) in sums.iter_mut().zip(&statistics) {
                let _ = sum.f_add_(&now.f_mul_scalar(weight)?)?;
            }
        }
        for (slot, sum) in statistics.iter().zip(&sums) {
            slot.shallow_clone().f_copy_(&sum.f_div_scalar(seen)?)?;
        }
        for (slot, value) in counters.iter().zip(&before) {
            slot.shallow_clone().f_copy_(value)?;
        }
        Ok(())
    })
}

/// The same network, where the running statistics are those of the last batch and nothing is dropped at random.
fn batch_statistics(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for node in &mut graph.nodes {
        if let Op::BatchNorm { momentum, .. } = &mut node.op {
            *momentum = 1.0;
        } else if node.op.only_trains() {
            node.op = Op::Dropout { p: 0.0 };
        }
    }
    graph
}
