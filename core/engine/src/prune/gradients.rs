//! Gradients for metrics that look at them (Taylor).

use yolo_core::Params;
use yolo_data::Loader;

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::train::{OptimizerKind, Precision, StepOptions, Stepper, TrainOptions};

/// Mean gradient of the loss over `batches` batches, under the keys of the tensors. The model is not changed.
pub(super) fn mean_gradients(
    model: &Checkpoint,
    images: &Loader,
    batches: usize,
    options: &TrainOptions,
) -> Result<Params> {
    let mut stepper = Stepper::new(
        &model.graph,
        &model.params,
        &StepOptions {
            hyp: options.hyp.clone(),
            size: images.options().size,
            optimizer: OptimizerKind::Sgd,
            decay: 0.0,
            precision: Precision::Off,
            freeze: Vec::new(),
            freeze_norm: false,
            fuse: true,
            record: false,
        },
    )?;
    let mut count = 0.0;
    for batch in images.epoch(0).take(batches.max(1)) {
        let batch = batch?;
        let _losses = stepper.accumulate(&stepper.images(&batch)?, &batch.targets, &mut [])?;
        count += 1.0;
    }
    tch::no_grad(|| {
        stepper
            .params
            .iter()
            .filter(|(_, tensor)| tensor.requires_grad())
            .map(|(key, tensor)| Ok((key.to_owned(), tensor.grad().f_div_scalar(count)?)))
            .collect::<Result<Vec<_>>>()
            .map(|pairs| pairs.into_iter().collect())
    })
}
