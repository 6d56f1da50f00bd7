//! Compares a written ncnn network with the network it came from.

use tch::Tensor;
use yolo_core::{Graph, Mode, Params, Program};

use super::{model::Net, run};
use crate::{
    Error, Result,
    limits::Rounding,
    onnx::{Difference, difference as compare, larger, max_abs_diff, nearest},
};

/// Runs `image` `[1, C, H, W]` through the parsed files (on our interpreter of the ncnn layers, as ncnn itself is no part of
/// this program) and through the network, and compares raw maps, boxes and scores.
///
/// # Errors
/// Those of [`run()`]; [`Error::Unsupported`] names a blob `out0`, `out1`, ... that the files lack; [`Error::Core`] where the network can't
/// run `image`, or a blob has another size than its map.
pub fn check(net: &Net, graph: &Graph, params: &Params, image: &Tensor) -> Result<Difference> {
    let outputs = run(net, image)?;
    let maps = tch::no_grad(|| Program::new(graph, params)?.run(image, Mode::Eval))?;
    difference(&outputs, graph, &maps)
}

/// By how much the raw maps of the files leave what the rounding of single precision can make of the network's; boxes and scores follow
/// from raw maps.
pub(crate) fn beyond(net: &Net, graph: &Graph, rounding: &Rounding, image: &Tensor) -> Result<Difference> {
    let outputs = run(net, image)?;
    let [low, high] = rounding.ends()?;
    let mut beyond = Difference::default();
    for (level, (low, high)) in low.iter().zip(&high).enumerate() {
        let got = map_of(&outputs, graph, level, low)?;
        beyond.raw = larger(beyond.raw, max_abs_diff(&got, &nearest(&got, low, high)?)?);
    }
    Ok(beyond)
}

/// The blob of a level in the shape of the network's map.
fn map_of(outputs: &[(String, Tensor)], graph: &Graph, level: usize, like: &Tensor) -> Result<Tensor> {
    let name = format!("out{level}");
    let (_, blob) = outputs
        .iter()
        .find(|(blob, _)| *blob == name)
        .ok_or_else(|| Error::Unsupported(format!("the ncnn network has no blob `{name}`")))?;
    let Some(head) = &graph.head else {
        return Ok(blob.f_reshape(like.size().as_slice())?);
    };
    let (n, c, h, w) = like.size4()?;
    Ok(blob
        .f_reshape([n, head.anchors_per_level(), h * w, head.outputs_per_anchor()])?
        .f_permute([0, 1, 3, 2])?
        .f_reshape([n, c, h, w])?)
}

/// Compares the blobs that nobody reads with the maps of the network.
pub(super) fn difference(outputs: &[(String, Tensor)], graph: &Graph, maps: &[Tensor]) -> Result<Difference> {
    let mut difference = Difference::default();
    let mut theirs = Vec::new();
    for (level, want) in maps.iter().enumerate() {
        let got = map_of(outputs, graph, level, want)?;
        difference.raw = larger(difference.raw, max_abs_diff(&got, want)?);
        theirs.push(got);
    }
    let Some(head) = &graph.head else {
        return Ok(difference);
    };
    let (got, want) = (head.decode(&theirs)?, head.decode(maps)?);
    Ok(Difference {
        raw: difference.raw,
        ..compare(&got, &want)?
    })
}
