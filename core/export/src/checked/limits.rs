//! How far a file may be from its network.

use std::path::Path;

use tch::{Kind, Tensor};
use yolo_core::{Graph, Mode, Params, Program};

use crate::onnx::{self, Difference};
use crate::{Error, Result};

/// What a float file may differ by without a closer look; ten times what is usual, a tenth of what one layer with weights of 1 % more makes.
const FLOAT: Difference = Difference {
    boxes: 2e-3,
    scores: 2e-5,
    raw: 2e-4,
};

/// What a file may differ by from the last quantizers on: the rounding of single precision in what is left of the network.
pub(super) fn last_limit(graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    let maps = run(graph, params, images)?;
    let largest = |tensor: &Tensor| -> Result<f64> { Ok(tensor.f_abs()?.f_max()?.f_double_value(&[])?) };
    let mut limit = FLOAT;
    for map in &maps {
        limit.raw = limit.raw.max(1e-5 * largest(map)?);
    }
    if let Some(head) = &graph.head {
        limit.boxes = limit.boxes.max(1e-5 * largest(&head.decode(&maps)?)?);
    }
    Ok(limit)
}

/// How far the simulation is from the float network.
pub(super) fn noise(graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    let (plain, plain_params) = onnx::strip(graph, params)?;
    let (float, simulated) = (run(&plain, &plain_params, images)?, run(graph, params, images)?);
    let mut noise = Difference::default();
    for (a, b) in float.iter().zip(&simulated) {
        noise.raw = noise.raw.max(onnx::max_abs_diff(a, b)?);
    }
    if let Some(head) = &graph.head {
        let ends = onnx::difference(&head.decode(&float)?, &head.decode(&simulated)?)?;
        (noise.boxes, noise.scores) = (ends.boxes, ends.scores);
    }
    Ok(noise)
}

/// Deep networks and large boxes may make more of the rounding of single precision than [`FLOAT`]: where that is exceeded, ten times
/// what the network itself loses against double precision is allowed.
pub(super) fn float_limit(found: Difference, graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    if within(found, FLOAT) {
        return Ok(FLOAT);
    }
    let exact = run(
        graph,
        &params.to(tch::Device::Cpu, Kind::Double),
        &images.f_to_kind(Kind::Double)?,
    )?;
    let exact = exact
        .iter()
        .map(|map| Ok(map.f_to_kind(Kind::Float)?))
        .collect::<Result<Vec<_>>>()?;
    between(graph, &exact, &run(graph, params, images)?, 10.0)
}

pub(super) fn run(graph: &Graph, params: &Params, images: &Tensor) -> Result<Vec<Tensor>> {
    Ok(tch::no_grad(|| Program::new(graph, params)?.run(images, Mode::Eval))?)
}

/// `factor` times the difference of two results of a network, and at least [`FLOAT`].
fn between(graph: &Graph, a: &[Tensor], b: &[Tensor], factor: f64) -> Result<Difference> {
    let mut limit = FLOAT;
    for (a, b) in a.iter().zip(b) {
        limit.raw = limit.raw.max(factor * onnx::max_abs_diff(a, b)?);
    }
    if let Some(head) = &graph.head {
        let noise = onnx::difference(&head.decode(a)?, &head.decode(b)?)?;
        limit.boxes = limit.boxes.max(factor * noise.boxes);
        limit.scores = limit.scores.max(factor * noise.scores);
    }
    Ok(limit)
}

/// NaN is within nothing.
fn within(found: Difference, limit: Difference) -> bool {
    found.boxes <= limit.boxes && found.scores <= limit.scores && found.raw <= limit.raw
}

pub(super) fn agree(path: &Path, found: Difference, limit: Difference) -> Result<()> {
    if within(found, limit) {
        return Ok(());
    }
    Err(Error::Disagrees(format!(
        "{}: the file would not compute what the network computes: boxes differ by up to {:.3} px, scores by {:.5}, raw values by \
             {:.5} (at most {:.3}, {:.5} and {:.5} are allowed)",
        path.display(),
        found.boxes,
        found.scores,
        found.raw,
        limit.boxes,
        limit.scores,
        limit.raw
    )))
}
