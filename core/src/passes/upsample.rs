//! Moves upsampling behind the pointwise convolutions that read it, for inference and export.
//!
//! A neck upsamples a map, concatenates it with a finer one and reads both with 1 x 1 convolutions. Such a convolution is a sum over
//! its inputs, and it commutes with the repetition of pixels: `W [up(x); y] + b = up(W_x x) + (W_y y + b)`. The first product then
//! costs a quarter, and the wide map is never put together.

use std::collections::HashMap;

use tch::Tensor;

use crate::graph::{Graph, Node, Op, PROBE, Rewriter, Shape, ValueId};
use crate::{Error, Params, Result};

/// Applies the rule to every concatenation whose readers are all 1 x 1 convolutions with float weights. The sum keeps the name of
/// the convolution; its parts are called `NAME.part0`, .... Outputs change by rounding only.
pub fn upsample_late(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let consumers = graph.consumers();
    let wide: Vec<bool> = graph.values().map(|id| is_wide(graph, &consumers, id)).collect();
    let mut split = params.shallow_clone();
    if !wide.contains(&true) {
        return Ok((graph.clone(), split));
    }
    let shapes = graph.shapes([1, graph.input_channels(), PROBE, PROBE])?;
    let mut rewriter = Rewriter::new(graph);
    // What is left of each wide concatenation: a new value.
    let mut fine: HashMap<ValueId, Option<ValueId>> = HashMap::new();
    for (id, node) in graph.values().zip(&graph.nodes) {
        let coarse = matches!(node.op, Op::Upsample { .. }) && consumers[id.index()].iter().any(|c| wide[c.index()]);
        if coarse {
            rewriter.forward(rewriter.value(node.inputs[0]));
        } else if wide[id.index()] {
            let rest: Vec<ValueId> = (node.inputs.iter())
                .filter(|&&input| !matches!(graph.node(input).op, Op::Upsample { .. }))
                .map(|&input| rewriter.value(input))
                .collect();
            let rest = match rest[..] {
                [] => None,
                [only] => Some(only),
                _ => Some(rewriter.insert(Node {
                    inputs: rest,
                    ..node.clone()
                })),
            };
            fine.insert(id, rest);
            // Nobody reads it any more.
            rewriter.forward(rest.unwrap_or(ValueId::IMAGE));
        } else if let Some(&rest) = node.inputs.first().and_then(|input| fine.get(input)) {
            let sum = split_conv(graph, &shapes, node, rest, &mut rewriter, &mut split)?;
            rewriter.forward(sum);
        } else {
            rewriter.keep();
        }
    }
    Ok((rewriter.finish()?, split))
}

/// Whether this is a concatenation of channels with an upsampled part, and only pointwise convolutions read it.
fn is_wide(graph: &Graph, consumers: &[Vec<ValueId>], id: ValueId) -> bool {
    let node = graph.node(id);
    let readers = &consumers[id.index()];
    // A map that others read too has to be upsampled in any case.
    let own = |input: &ValueId| consumers[input.index()].len() == 1 && !graph.outputs.contains(input);
    let mut ups = (node.inputs.iter())
        .filter(|&&input| matches!(graph.node(input).op, Op::Upsample { .. }))
        .peekable();
    matches!(node.op, Op::Concat { dim: 1 })
        && ups.peek().is_some()
        && ups.all(own)
        && !graph.outputs.contains(&id)
        && !readers.is_empty()
        && readers.iter().all(|&reader| is_pointwise(&graph.node(reader).op))
}

fn is_pointwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Conv2d {
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0, 0],
            groups: 1,
            weight_quant: None,
            bias_quant: None,
            ..
        }
    )
}

/// Puts a convolution for each part of the concatenation into the graph, and its slice of the weight into `params`; returns their sum.
fn split_conv(
    graph: &Graph,
    shapes: &[Shape],
    conv: &Node,
    rest: Option<ValueId>,
    rewriter: &mut Rewriter<'_>,
    params: &mut Params,
) -> Result<ValueId> {
    let name = &conv.name;
    let key = format!("{name}.weight");
    let weight = params.require(&key)?.detach();
    params.remove(&key);
    let mut bias = params.remove(&format!("{name}.bias"));

    // Source, factor of its upsampling and slice of the weight of each part; all that is not upsampled is one part, the first.
    let (mut parts, mut fine, mut start) = (Vec::new(), Vec::new(), 0);
    for &input in &graph.node(conv.inputs[0]).inputs {
        let channels = shapes[input.index()][1];
        let slice = weight.f_narrow(1, start, channels)?;
        start += channels;
        match graph.node(input).op {
            Op::Upsample { scale } => parts.push((rewriter.value(input), Some(scale), slice)),
            _ => fine.push(slice),
        }
    }
    if let Some(rest) = rest {
        parts.insert(0, (rest, None, Tensor::f_cat(&fine, 1)?));
    }

    let last = parts.len() - 1;
    let mut sum = None;
    for (index, (source, scale, weight)) in parts.into_iter().enumerate() {
        let mut node = Node {
            name: format!("{name}.part{index}"),
            inputs: vec![source],
            ..conv.clone()
        };
        // The first part adds the bias.
        let bias = bias.take();
        if let Op::Conv2d { cin, bias: biased, .. } = &mut node.op {
            *cin = weight.size()[1];
            *biased = bias.is_some();
        }
        params.insert(format!("{}.weight", node.name), weight.f_contiguous()?);
        if let Some(bias) = bias {
            params.insert(format!("{}.bias", node.name), bias);
        }
        let mut value = rewriter.insert(node);
        if let Some(scale) = scale {
            let name = format!("{name}.part{index}.up");
            value = rewriter.insert(Node {
                name,
                op: Op::Upsample { scale },
                inputs: vec![value],
            });
        }
        sum = Some(match sum {
            None => value,
            Some(sum) => {
                let name = if index == last {
                    name.clone()
                } else {
                    format!("{name}.sum{index}")
                };
                rewriter.insert(Node {
                    name,
                    op: Op::Add,
                    inputs: vec![sum, value],
                })
            }
        });
    }
    sum.ok_or_else(|| Error::Params(format!("`{name}` reads a concatenation of nothing")))
}
