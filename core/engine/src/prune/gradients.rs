//! Gradients for metrics that look at them (Taylor, OBD).

use tch::Tensor;
use yolo_core::Params;
use yolo_data::Loader;

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::train::{OptimizerKind, Precision, StepOptions, Stepper, TrainOptions};

/// Gradients of the loss over batches, under the keys of the tensors.
#[derive(Debug)]
pub(super) struct Gradients {
    /// Their means.
    pub mean: Params,
    /// The means of their squares.
    pub square: Params,
}

/// Looks at `batches` batches, one after the other. The model is not changed.
///
/// # Errors
/// `Error::Core` names a tensor that is missing or a node that can't be run. `Error::Data` names an image that can't be read.
pub(super) fn gradients(
    model: &Checkpoint,
    images: &Loader,
    batches: usize,
    options: &TrainOptions,
) -> Result<Gradients> {
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
    let trained: Vec<(String, Tensor)> = stepper
        .params
        .iter()
        .filter(|(_, tensor)| tensor.requires_grad())
        .map(|(key, tensor)| (key.to_owned(), tensor.shallow_clone()))
        .collect();
    let zeros = || -> Result<Vec<Tensor>> {
        let each = trained.iter().map(|(_, tensor)| Ok(tensor.f_zeros_like()?));
        tch::no_grad(|| each.collect())
    };
    let (mut sums, mut squares, mut count) = (zeros()?, zeros()?, 0.0);
    for batch in images.epoch(0).take(batches.max(1)) {
        let batch = batch?;
        let _losses = stepper.accumulate(&stepper.images(&batch)?, &batch.targets, &mut [])?;
        count += 1.0;
        tch::no_grad(|| -> Result<()> {
            for (((_, tensor), sum), square) in trained.iter().zip(&mut sums).zip(&mut squares) {
                let mut grad = tensor.grad();
                if grad.defined() {
                    let _ = sum.f_add_(&grad)?;
                    let _ = square.f_addcmul_(&grad, &grad)?;
                    let _ = grad.f_zero_()?;
                }
            }
            Ok(())
        })?;
    }
    let mean = |sums: Vec<Tensor>| -> Result<Params> {
        let each = trained.iter().zip(sums);
        let divided = each.map(|((key, _), sum)| Ok((key.clone(), sum.f_div_scalar(count)?)));
        Ok(divided.collect::<Result<Vec<_>>>()?.into_iter().collect())
    };
    tch::no_grad(|| {
        Ok(Gradients {
            mean: mean(sums)?,
            square: mean(squares)?,
        })
    })
}
