//! The detection head as a layer: a 1 x 1 convolution per level.

use crate::graph::{DetectHead, Graph};
use crate::{Error, Feat, GraphBuilder, Op, Result, ValueId};

/// Appends the layer `Detect` on these maps (finest first); returns its raw maps and how they become boxes. Strides are
/// measured; anchors are in pixels, `[level][anchor]`.
pub fn detect(
    g: &mut GraphBuilder,
    inputs: &[Feat],
    classes: i64,
    anchors: &[Vec<[f64; 2]>],
) -> Result<(Vec<ValueId>, DetectHead)> {
    let fail = |reason: String| Error::Build {
        plugin: "detect".into(),
        reason,
    };
    if classes < 1 {
        return Err(fail(format!("a detector needs at least 1 class, not {classes}")));
    }
    if anchors.len() != inputs.len() {
        return Err(fail(format!(
            "there are anchors for {} levels, but the neck returns {}",
            anchors.len(),
            inputs.len()
        )));
    }
    let per_level = anchors.first().map_or(0, Vec::len);
    if per_level == 0 || anchors.iter().any(|level| level.len() != per_level) {
        return Err(fail("every level needs the same number of anchors, at least 1".into()));
    }
    let prefix = format!("model.{}", g.next_layer());
    let mut outputs = Vec::with_capacity(inputs.len());
    g.layer("Detect", inputs, |g| {
        for (level, feat) in inputs.iter().enumerate() {
            let cout = per_level as i64 * (classes + 5);
            let op = Op::conv(feat.channels, cout, 1, 1, 0, 1, true);
            outputs.push(g.add(&format!("m.{level}"), op, &[feat.value])?);
        }
        outputs
            .last()
            .copied()
            .ok_or_else(|| fail("the neck returns no map".into()))
    })?;
    let head = DetectHead {
        prefix,
        classes,
        anchors: anchors.to_vec(),
        strides: inputs.iter().map(|feat| feat.stride).collect(),
        unfitted: false,
    };
    Ok((outputs, head))
}

/// The same network with another number of classes: the convolutions of the head change their width. Weights of the head no
/// longer fit.
pub fn with_classes(graph: &Graph, classes: i64) -> Result<Graph> {
    let fail = |reason: String| Error::Build {
        plugin: "detect".into(),
        reason,
    };
    if classes < 1 {
        return Err(fail(format!("a detector needs at least 1 class, not {classes}")));
    }
    with_head(graph, |head| head.classes = classes)
}

/// The same network with `count` anchors a level that are to be fitted to the data. Weights of the head no longer fit.
pub fn with_anchor_count(graph: &Graph, count: usize) -> Result<Graph> {
    with_head(graph, |head| {
        head.anchors = DetectHead::stand_ins(&head.strides, count);
        head.unfitted = true;
    })
}

/// The network with another head: its convolutions get the width that the head now has.
fn with_head(graph: &Graph, change: impl FnOnce(&mut DetectHead)) -> Result<Graph> {
    let fail = |reason: String| Error::Build {
        plugin: "detect".into(),
        reason,
    };
    let mut graph = graph.clone();
    let Some(head) = &mut graph.head else {
        return Err(fail("the model has no head".into()));
    };
    change(head);
    let width = head.anchors_per_level() * head.outputs_per_anchor();
    for value in &graph.outputs {
        match &mut graph.nodes[value.index()].op {
            Op::Conv2d { cout, groups: 1, .. } => *cout = width,
            other => {
                let reason = format!("the head ends in `{}`, not in a convolution", other.name());
                return Err(fail(reason));
            }
        }
    }
    graph.validate()?;
    Ok(graph)
}

/// The COCO anchors of YOLOv5 for maps of strides 4 to 64.
pub fn default_anchors(stride: i64) -> Option<Vec<[f64; 2]>> {
    let flat: [f64; 6] = match stride {
        4 => [5., 6., 8., 14., 15., 11.],
        8 => [10., 13., 16., 30., 33., 23.],
        16 => [30., 61., 62., 45., 59., 119.],
        32 => [116., 90., 156., 198., 373., 326.],
        64 => [436., 615., 739., 380., 925., 792.],
        _ => return None,
    };
    Some(flat.chunks(2).map(|pair| [pair[0], pair[1]]).collect())
}
