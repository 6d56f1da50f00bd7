//! Compares a written ncnn network with the network it came from.

use tch::Tensor;
use yolo_core::{Graph, Mode, Params, Program};

use super::{model::Net, run};
use crate::{
    Error, Result,
    onnx::{Difference, difference as compare, larger, max_abs_diff},
};

/// Runs `image` `[1, C, H, W]` through the parsed files (on our interpreter of the ncnn layers, as ncnn itself is no part of
/// this program) and through the network, and compares raw maps, boxes and scores.
pub fn check(net: &Net, graph: &Graph, params: &Params, image: &Tensor) -> Result<Difference> {
    let outputs = run(net, image)?;
    let maps = tch::no_grad(|| Program::new(graph, params)?.run(image, Mode::Eval))?;
    difference(&outputs, graph, &maps)
}

/// Compares the blobs that nobody reads with the maps of the network.
pub(super) fn difference(outputs: &[(String, Tensor)], graph: &Graph, maps: &[Tensor]) -> Result<Difference> {
    let find = |level: usize| {
        let name = format!("out{level}");
        outputs
            .iter()
            .find(|(blob, _)| *blob == name)
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| Error::Unsupported(format!("the ncnn network has no blob `{name}`")))
    };
    let mut difference = Difference::default();
    let Some(head) = &graph.head else {
        for (level, want) in maps.iter().enumerate() {
            let got = find(level)?.f_reshape(want.size().as_slice())?;
            difference.raw = larger(difference.raw, max_abs_diff(&got, want)?);
        }
        return Ok(difference);
    };
    let mut theirs = Vec::new();
    for (level, want) in maps.iter().enumerate() {
        let (n, c, h, w) = want.size4()?;
        let got = find(level)?
            .f_reshape([n, head.anchors_per_level(), h * w, head.outputs_per_anchor()])?
            .f_permute([0, 1, 3, 2])?
            .f_reshape([n, c, h, w])?;
        difference.raw = larger(difference.raw, max_abs_diff(&got, want)?);
        theirs.push(got);
    }
    let (got, want) = (head.decode(&theirs)?, head.decode(maps)?);
    Ok(Difference {
        raw: difference.raw,
        ..compare(&got, &want)?
    })
}
