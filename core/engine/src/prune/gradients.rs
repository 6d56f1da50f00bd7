//! Gradients for metrics that look at them (Taylor).

use tch::Device;
use yolo_core::{Mode, Params, Program};
use yolo_data::Loader;

use crate::batch::image_tensor;
use crate::checkpoint::Checkpoint;
use crate::train::{TrainOptions, loss_of, trainable};
use crate::{Error, Result};

/// Mean gradient of the loss over `batches` batches, under the keys of the tensors. The model is not changed.
pub(super) fn mean_gradients(
    model: &Checkpoint,
    images: &Loader,
    batches: usize,
    options: &TrainOptions,
) -> Result<Params> {
    let head = model
        .graph
        .head
        .as_ref()
        .ok_or_else(|| Error::Settings("the model has no detection head".into()))?;
    let loss = loss_of(head, &options.hyp, images.options().size);
    let params = trainable(&model.graph, &model.params, &[]);
    let program = Program::new(&model.graph, &params)?;
    let mut count = 0.0;
    for batch in images.epoch(0).take(batches.max(1)) {
        let batch = batch?;
        let maps = program.run(&image_tensor(&batch, Device::Cpu)?, Mode::Train)?;
        loss.compute(&maps, &batch.targets)?.total.f_backward()?;
        count += 1.0;
    }
    tch::no_grad(|| {
        params
            .iter()
            .filter(|(_, tensor)| tensor.requires_grad())
            .map(|(key, tensor)| {
                let grad = tensor.grad();
                let grad = if grad.defined() {
                    grad.f_div_scalar(count)?
                } else {
                    tensor.f_zeros_like()?
                };
                Ok((key.to_owned(), grad))
            })
            .collect::<Result<Vec<_>>>()
            .map(|pairs| pairs.into_iter().collect())
    })
}
