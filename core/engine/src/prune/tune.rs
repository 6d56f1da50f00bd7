//! A few optimizer steps, for searches that compare briefly tuned candidates (NetAdapt).

use yolo_core::prune::Step as HookStep;
use yolo_core::{Graph, Params};
use yolo_data::Loader;

use crate::Result;
use crate::train::{OptimizerKind, StepOptions, StepRates, Stepper, TrainOptions};

/// `steps` steps of SGD at a tenth of the learning rate, one batch each; returns the tuned tensors.
pub(super) fn tune(
    graph: &Graph,
    params: &Params,
    images: &Loader,
    steps: usize,
    options: &TrainOptions,
) -> Result<Params> {
    let hyp = &options.hyp;
    let mut stepper = Stepper::new(
        graph,
        params,
        &StepOptions {
            hyp: hyp.clone(),
            size: images.options().size,
            optimizer: OptimizerKind::Sgd,
            decay: hyp.weight_decay,
            precision: options.precision,
            freeze: Vec::new(),
            freeze_norm: false,
            fuse: true,
            record: false,
        },
    )?
    .taught_by(options.distil.as_ref(), options.seed)?;
    let lr = 0.1 * hyp.lr0;
    let step = StepRates {
        lr,
        bias_lr: lr,
        momentum: hyp.momentum,
        accumulate: 1,
    };
    let epochs = steps.div_ceil(images.batches().max(1));
    let batches = (0..epochs).flat_map(|epoch| images.epoch(epoch));
    for (done, batch) in batches.take(steps).enumerate() {
        let batch = batch?;
        let _losses = stepper.accumulate(&stepper.images(&batch)?, &batch.targets, &mut [])?;
        let at = HookStep {
            step: done,
            total: steps,
            per_epoch: images.batches().max(1),
        };
        stepper.update(&step, at, &mut [])?;
    }
    Ok(stepper.params.deep_clone())
}
