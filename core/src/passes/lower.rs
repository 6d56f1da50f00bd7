//! Replaces ops of plugins by the primitive ops that they supply, for export.

use crate::graph::{Graph, GraphBuilder, Op, ValueId};
use crate::{Params, Result};

/// Lowers every op of a plugin that can say itself in primitive ops ([`crate::graph::CustomOp::lower`]); the others stay. Parameters
/// stay as they are: an op names its nodes relative to itself, so they keep their keys. Rows of the layer table are lost where
/// something is lowered.
pub fn lower_custom(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let params = params.shallow_clone();
    if !graph.nodes.iter().any(|node| matches!(node.op, Op::Custom { .. })) {
        return Ok((graph.clone(), params));
    }
    let mut g = GraphBuilder::new(graph.input_channels());
    let mut map = vec![ValueId::IMAGE];
    for node in &graph.nodes[1..] {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|v| map[v.index()]).collect();
        let lowered = if let Op::Custom { custom } = &node.op {
            g.scope(node.name.clone(), |g| custom.lower(g, &inputs).transpose())?
        } else {
            None
        };
        map.push(match lowered {
            Some(value) => value,
            None => g.add(&node.name, node.op.clone(), &inputs)?,
        });
    }
    let outputs = graph.outputs.iter().map(|v| map[v.index()]).collect();
    Ok((g.finish(outputs, graph.head.clone())?, params))
}
