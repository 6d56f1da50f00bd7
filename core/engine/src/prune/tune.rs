//! A few optimizer steps, for searches that compare briefly tuned candidates (NetAdapt).

use tch::Device;
use yolo_core::{Graph, Mode, Params, Program};
use yolo_data::Loader;

use crate::batch::image_tensor;
use crate::train::{Optimizer, OptimizerKind, TrainOptions, loss_of, trainable};
use crate::{Error, Result};

/// `steps` steps of SGD at a tenth of the learning rate, one batch each; returns the tuned tensors.
pub(super) fn tune(
    graph: &Graph,
    params: &Params,
    images: &Loader,
    steps: usize,
    options: &TrainOptions,
) -> Result<Params> {
    let head = graph
        .head
        .as_ref()
        .ok_or_else(|| Error::Settings("the model has no detection head".into()))?;
    let hyp = &options.hyp;
    let loss = loss_of(head, hyp, images.options().size);
    let params = trainable(graph, params, &[]);
    let program = Program::new(graph, &params)?;
    let lr = 0.1 * hyp.lr0;
    let mut optimizer = Optimizer::new(
        OptimizerKind::Sgd,
        graph,
        &params,
        lr,
        hyp.momentum,
        hyp.weight_decay,
        &|_| false,
    )?;
    let epochs = steps.div_ceil(images.batches().max(1));
    let batches = (0..epochs).flat_map(|epoch| images.epoch(epoch));
    for batch in batches.take(steps) {
        let batch = batch?;
        optimizer.zero_grad();
        let maps = program.run(&image_tensor(&batch, Device::Cpu)?, Mode::Train)?;
        loss.compute(&maps, &batch.targets)?.total.f_backward()?;
        optimizer.clip_gradients(10.0)?;
        optimizer.step()?;
    }
    Ok(params.deep_clone())
}
