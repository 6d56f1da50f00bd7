//! Batch norms that would see one value only: their variance is 0/0, so such a training is refused before it starts.
//!
//! What must not be here: how batches are made.

use yolo_core::{Graph, Op};
use yolo_data::{Loader, Shard};

use super::TrainOptions;
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Refuses a training in which a batch norm sees a single value of each channel: one image in a batch that is one cell large there.
///
/// # Errors
/// Names the batch norm, the batch and the image size, and what would do.
pub fn check(start: &Checkpoint, options: &TrainOptions, train: &Loader) -> Result<()> {
    if options.freeze_norm || train.images() == 0 {
        return Ok(());
    }
    let (graph, stride) = (&start.graph, start.max_stride());
    let images = smallest_part(options, train.images());
    let side = smallest_side(options, stride);
    let Some(norm) = one_value(graph, images, side)? else {
        return Ok(());
    };
    let (batch, size, total) = (options.batch, options.size, train.images());
    let place = if images < batch.min(total) {
        format!(
            "the last batch of {total} images at --batch-size {batch}{}",
            processes(options)
        )
    } else {
        format!("--batch-size {batch}{}", processes(options))
    };
    let mut ways = vec![format!("--img {}", at_least(graph, images, side, size, stride)?)];
    if let Some(better) = (2..=total.max(2)).find(|b| smallest_part(&with_batch(options, *b), total) > images) {
        ways.insert(0, format!("--batch-size {better}"));
    }
    Err(Error::Settings(format!(
        "batch norm `{norm}` would see one value of each channel ({place} holds {images} image, whose map there is 1 x 1 at {side} px): \
         such a variance is not a number\n  help: use {}",
        ways.join(" or ")
    )))
}

fn with_batch(options: &TrainOptions, batch: usize) -> TrainOptions {
    TrainOptions {
        batch,
        ..options.clone()
    }
}

fn processes(options: &TrainOptions) -> String {
    match options.world.size() {
        1 => String::new(),
        n => format!(" on {n} processes"),
    }
}

/// Images of the smallest part of a batch that a batch norm sees.
fn smallest_part(options: &TrainOptions, images: usize) -> usize {
    let full = options.batch.min(images);
    let smallest = match images % options.batch.max(1) {
        0 => full,
        rest => rest,
    };
    let ranks = if options.sync_bn { 1 } else { options.world.size() };
    let last = Shard { rank: ranks - 1, ranks };
    // One that gets nothing takes part with one image.
    last.of(smallest).len().max(1)
}

/// The smallest image that a batch can have.
fn smallest_side(options: &TrainOptions, stride: i64) -> i64 {
    let size = options.size as i64;
    if options.multi_scale {
        (size / stride / 2).max(1) * stride
    } else {
        size
    }
}

/// The first batch norm that sees one value a channel, if there is one.
fn one_value(graph: &Graph, images: usize, side: i64) -> Result<Option<String>> {
    let shapes = graph.shapes([images as i64, graph.input_channels(), side, side])?;
    let values = |shape: &[i64]| shape.iter().product::<i64>() / shape.get(1).copied().unwrap_or(1).max(1);
    let found = graph.nodes.iter().find(|node| {
        let seen = node.inputs.first().map(|input| values(&shapes[input.index()]));
        matches!(node.op, Op::BatchNorm { .. }) && seen == Some(1)
    });
    Ok(found.map(|node| node.name.clone()))
}

/// The smallest image size from which on no batch norm sees one value; the present one where none up to eight times it does.
fn at_least(graph: &Graph, images: usize, side: i64, size: usize, stride: i64) -> Result<i64> {
    let (size, shrink) = (size as i64, size as f64 / side as f64);
    for cells in 1..=8 * size / stride {
        let candidate = size + cells * stride;
        let smallest = ((candidate as f64 / shrink) as i64 / stride).max(1) * stride;
        if one_value(graph, images, smallest)?.is_none() {
            return Ok(candidate);
        }
    }
    Ok(size)
}
