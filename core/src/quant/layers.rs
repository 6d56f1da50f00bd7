//! The layers of a quantized network, and how single ones go back to float: what mixed precision and the search for sensitive layers
//! work with.
//!
//! A layer is a step that engines run as one: a convolution or linear layer with the activation behind it, or another computing op (a
//! sum, a product, a mean). What only moves values belongs to none.

use serde::Serialize;

use crate::graph::{Graph, Op, Rewriter, ValueId};
use crate::{Error, Params, Result};

/// A layer of a quantized network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuantLayer {
    /// Name of its first node.
    pub name: String,
    /// Op of its first node.
    pub op: &'static str,
    /// Its nodes, in graph order.
    #[serde(skip)]
    pub nodes: Vec<ValueId>,
}

/// The layers that have a quantizer: on their weight, or directly before one of their nodes. In graph order.
pub fn layers(graph: &Graph) -> Vec<QuantLayer> {
    let mut of: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    let mut all: Vec<QuantLayer> = Vec::new();
    for (value, node) in graph.values().zip(&graph.nodes) {
        if node.inputs.is_empty() || matches!(node.op, Op::FakeQuant { .. }) || node.op.moves_values() {
            continue;
        }
        let mut sources = node.inputs.iter().map(|input| of[unquantized(graph, *input).index()]);
        let first = sources.next().flatten();
        let follows = matches!(node.op, Op::Act { .. } | Op::Mul) && sources.all(|source| source == first);
        let at = first.filter(|_| follows).unwrap_or_else(|| {
            all.push(QuantLayer {
                name: node.name.clone(),
                op: node.op.name(),
                nodes: Vec::new(),
            });
            all.len() - 1
        });
        all[at].nodes.push(value);
        of[value.index()] = Some(at);
    }
    all.retain(|layer| layer.nodes.iter().any(|value| is_quantized(graph, *value)));
    all
}

/// The layers that names mean: each is the name of a layer, or what such names begin with up to a dot (`model.24`).
///
/// # Errors
/// [`Error::Impossible`] names the first that means none, and the layer that was probably meant.
pub fn named(layers: &[QuantLayer], names: &[String]) -> Result<Vec<String>> {
    let mut found = vec![false; layers.len()];
    for wanted in names {
        let means = |name: &str| name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
        let mut any = false;
        for (is, _) in found.iter_mut().zip(layers).filter(|(_, layer)| means(&layer.name)) {
            (*is, any) = (true, true);
        }
        if !any {
            let names = layers.iter().map(|layer| layer.name.as_str());
            let hint = crate::suggest::did_you_mean(wanted, names)
                .unwrap_or_else(|| "`yolo quantize --analyse` lists all".to_owned());
            return Err(Error::Impossible(format!(
                "no quantized layer is called `{wanted}`, and none begins with it; {hint}"
            )));
        }
    }
    Ok(layers
        .iter()
        .zip(found)
        .filter(|(_, is)| *is)
        .map(|(layer, _)| layer.name.clone())
        .collect())
}

/// The network with the layers called `names` in float: their weights and biases are those of `float` again, and they read values as they
/// are before the quantizers directly in front of them. A quantizer that nobody reads any more goes.
///
/// # Errors
/// [`Error::Impossible`] where a name is no layer's; [`Error::Params`] where `float` lacks a tensor.
pub fn in_float(graph: &Graph, params: &Params, float: &Params, names: &[String]) -> Result<(Graph, Params)> {
    let layers = layers(graph);
    let mut is_float = vec![false; graph.nodes.len()];
    for name in names {
        let layer = layers.iter().find(|layer| layer.name == *name);
        let layer = layer.ok_or_else(|| Error::Impossible(format!("`{name}` is no quantized layer")))?;
        layer.nodes.iter().for_each(|value| is_float[value.index()] = true);
    }
    let consumers = graph.consumers();
    let mut params = params.shallow_clone();
    let mut rewriter = Rewriter::new(graph);
    for (value, node) in graph.values().zip(&graph.nodes) {
        if let Op::FakeQuant { .. } = node.op {
            let readers = &consumers[value.index()];
            // Those of the network's results are read by nobody in the graph.
            let unread = match readers.is_empty() {
                true => is_float[node.inputs[0].index()],
                false => readers.iter().all(|reader| is_float[reader.index()]),
            };
            if unread && !graph.outputs.contains(&value) {
                ["scale", "zero_point"]
                    .iter()
                    .for_each(|key| drop(params.remove(&format!("{}.{key}", node.name))));
                rewriter.forward(rewriter.value(node.inputs[0]));
            } else {
                rewriter.keep();
            }
            continue;
        }
        let mut node = node.clone();
        if is_float[value.index()] {
            for input in &mut node.inputs {
                *input = unquantized(graph, *input);
            }
            if node.op.is_weighted() {
                node.op.unquantize();
                for spec in node.op.params(&node.name) {
                    params.insert(spec.key.clone(), float.require(&spec.key)?.shallow_clone());
                }
                for quantizer in ["weight_quant", "bias_quant"] {
                    for key in ["scale", "zero_point"] {
                        params.remove(&format!("{}.{quantizer}.{key}", node.name));
                    }
                }
            }
        }
        rewriter.replace(node);
    }
    let graph = rewriter.finish()?;
    params.check(&graph)?;
    Ok((graph, params))
}

/// The value behind which a quantizer stands, or the value itself.
fn unquantized(graph: &Graph, value: ValueId) -> ValueId {
    match graph.node(value) {
        node if matches!(node.op, Op::FakeQuant { .. }) => node.inputs[0],
        _ => value,
    }
}

fn is_quantized(graph: &Graph, value: ValueId) -> bool {
    let node = graph.node(value);
    node.op.weight_quant().is_some() || node.inputs.iter().any(|input| unquantized(graph, *input) != *input)
}
