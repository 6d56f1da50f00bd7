//! The memory of a training step, measured.
//!
//! What must not live here: the decision, which is in [`super::batch_size`].

use yolo_data::{Batch, Origin};
use yolo_torch::native::device;

use super::batch_size::choose;
use super::{Schedule, StepOptions, Stepper, TrainOptions};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Boxes of an image in a measured step: more than usual, as targets take memory, too.
const BOXES: usize = 50;

/// The largest batch of a training of `start` that fits into the free memory of its device.
///
/// # Errors
/// Where the model is not on a GPU, or not even one image fits.
pub fn largest_batch(start: &Checkpoint, options: &TrainOptions) -> Result<usize> {
    let device = start.params.device();
    if !device.is_cuda() {
        return Err(Error::Settings("a batch size is measured on a GPU only".into()));
    }
    device::empty_cache()?;
    let (free, _) = device::memory_info(device)?;
    let chosen = choose(free, |images| {
        let peak = peak_of_a_step(start, options, images);
        device::empty_cache()?;
        peak
    });
    device::reset_memory(device)?;
    chosen
}

/// The most bytes that libtorch takes from the device for steps of so many images.
fn peak_of_a_step(start: &Checkpoint, options: &TrainOptions, images: usize) -> Result<i64> {
    let device = start.params.device();
    device::reset_memory(device)?;
    let (_, before) = device::peak_memory(device)?;
    let schedule = Schedule::of(options, 1);
    let decay = schedule.scaled_decay(options.hyp.weight_decay);
    let mut stepper = Stepper::new(&start.graph, &start.params, &StepOptions::of(options, decay))?
        .taught_by(options.distil.as_ref(), options.seed)?;
    let batch = grey(images, largest_side(options));
    let at = yolo_core::prune::Step {
        step: 0,
        total: 1,
        per_epoch: 1,
    };
    // The optimizer makes its state in the first update; the second step meets everything at once.
    for _ in 0..2 {
        let input = stepper.images(&batch)?;
        let _losses = stepper.accumulate(&input, &batch.targets, &mut [])?;
        stepper.update(&schedule.step(0, 0), at, &mut [])?;
    }
    let (_, after) = device::peak_memory(device)?;
    Ok(after - before)
}

fn largest_side(options: &TrainOptions) -> usize {
    if options.multi_scale {
        options.size * 3 / 2
    } else {
        options.size
    }
}

/// Grey images with boxes of one class all over them.
fn grey(images: usize, side: usize) -> Batch {
    let place = |index: usize| (index as f32 + 0.5) / BOXES as f32;
    let boxes = (0..images).flat_map(|image| (0..BOXES).map(move |index| (image, place(index))));
    Batch {
        pixels: vec![114; images * 3 * side * side],
        size: [side, side],
        targets: boxes.map(|(image, at)| [image as f32, 0.0, at, at, 0.1, 0.1]).collect(),
        images: vec![Origin::default(); images],
        idle: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_batch_is_well_formed_and_as_large_as_can_come() {
        let batch = grey(3, 64);
        assert_eq!((batch.len(), batch.targets.len()), (3, 3 * BOXES));
        assert_eq!(batch.pixels.len(), 3 * 3 * 64 * 64);
        assert!(batch.targets.iter().all(|t| t[0] < 3.0 && t[2] > 0.0 && t[2] < 1.0));
        let mut options = TrainOptions::new(1, 2, 64, yolo_data::Hyp::default());
        assert_eq!(largest_side(&options), 64);
        options.multi_scale = true;
        assert_eq!(largest_side(&options), 96);
    }
}
