//! Shape inference: the shape of every value for a concrete image.

use super::{Graph, Node, limits};
use crate::{Error, Result};

/// Shape of a value.
pub type Shape = Vec<i64>;

pub(super) fn infer(graph: &Graph, image: [i64; 4]) -> Result<Vec<Shape>> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let inputs: Vec<&[i64]> = node
            .inputs
            .iter()
            .map(|value| shapes.get(value.index()).map(Vec::as_slice))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::Graph(format!("`{}` reads a value that comes later", node.name)))?;
        shapes.push(node_shape(node, &inputs, &image)?);
    }
    Ok(shapes)
}

/// Shape of the value of `node` given the shapes of its inputs.
pub(super) fn node_shape(node: &Node, inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape> {
    let shape = node
        .op
        .with(|op| op.shape(inputs, image))
        .map_err(|reason| Error::Shape {
            node: node.name.clone(),
            op: node.op.name(),
            reason,
        })?;
    limits::check_shape(&shape).map_err(|reason| Error::Shape {
        node: node.name.clone(),
        op: node.op.name(),
        reason,
    })?;
    Ok(shape)
}
