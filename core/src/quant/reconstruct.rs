//! Reconstruction of a quantized network layer by layer: float and quantized network run side by side on the same images, and each layer
//! is brought nearer to its float form before what follows it runs. Every layer so sees the errors that are left of those before it.
//!
//! What must not be here: ranges (observers), and how weights are rounded best ([`super::adaround`]).

use tch::{Kind, Tensor};

use super::adaround::{self, Moments};
use super::{Refinement, Rounding};
use crate::exec::bind;
use crate::graph::{Graph, Node, Op, ValueId};
use crate::ops::{Place, window::Masks};
use crate::{Params, Result};

/// Values of both networks at one place.
#[derive(Debug)]
struct Pair {
    float: Tensor,
    quantized: Tensor,
}

/// Changes weights and biases of the quantized network `graph` with `params`, whose float form has the tensors `float`, on `images`
/// `[N, C, H, W]`. `step` hears of finished layers and of their number.
///
/// # Errors
/// Those of the ops, and those of `step`.
pub(super) fn reconstruct(
    graph: &Graph,
    params: &mut Params,
    float: &Params,
    images: &Tensor,
    refinement: &Refinement,
    step: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let last = last_uses(graph);
    let total = graph.nodes.iter().filter(|node| weighted(&node.op)).count();
    let masks = Masks::default();
    let mut values: Vec<Option<Pair>> = Vec::with_capacity(graph.nodes.len());
    let mut done = 0;
    for (value, node) in graph.values().zip(&graph.nodes) {
        let pair = if value == ValueId::IMAGE {
            Pair {
                float: images.shallow_clone(),
                quantized: images.shallow_clone(),
            }
        } else {
            let inputs: Vec<&Pair> = node.inputs.iter().filter_map(|v| values[v.index()].as_ref()).collect();
            let run = Run { node, masks: &masks };
            let wanted = run.float(&inputs, float)?;
            if weighted(&node.op) {
                improve(&run, params, float, inputs[0], &wanted, refinement)?;
                done += 1;
                step(done, total)?;
            }
            Pair {
                quantized: run.quantized(&inputs, params)?,
                float: wanted,
            }
        };
        values.push(Some(pair));
        for (old, last) in last.iter().enumerate() {
            if *last == value.index() {
                values[old] = None;
            }
        }
    }
    Ok(())
}

fn weighted(op: &Op) -> bool {
    matches!(op, Op::Conv2d { .. } | Op::Linear { .. })
}

/// Index of the node that reads each value last; its own where nobody does.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last: Vec<usize> = (0..graph.nodes.len()).collect();
    for (index, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| last[input.index()] = index);
    }
    last
}

/// One node in both networks.
struct Run<'a> {
    node: &'a Node,
    masks: &'a Masks,
}

impl Run<'_> {
    fn place(&self) -> Place<'_> {
        Place {
            train: false,
            in_place: false,
            masks: self.masks,
            norm: None,
        }
    }

    fn float(&self, inputs: &[&Pair], params: &Params) -> Result<Tensor> {
        if let Op::FakeQuant { .. } = self.node.op {
            return Ok(inputs[0].float.shallow_clone());
        }
        let mut node = self.node.clone();
        if let Op::Conv2d { weight_quant, .. } | Op::Linear { weight_quant, .. } = &mut node.op {
            *weight_quant = None;
        }
        let x: Vec<&Tensor> = inputs.iter().map(|pair| &pair.float).collect();
        let tensors = bind(&node, params)?;
        tch::no_grad(|| node.op.with(|op| op.run(&x, &tensors, &self.place())))
    }

    fn quantized(&self, inputs: &[&Pair], params: &Params) -> Result<Tensor> {
        let x: Vec<&Tensor> = inputs.iter().map(|pair| &pair.quantized).collect();
        let tensors = bind(self.node, params)?;
        tch::no_grad(|| self.node.op.with(|op| op.run(&x, &tensors, &self.place())))
    }
}

/// Rounds the weight of a layer and corrects its bias.
fn improve(
    run: &Run<'_>,
    params: &mut Params,
    float: &Params,
    input: &Pair,
    wanted: &Tensor,
    refinement: &Refinement,
) -> Result<()> {
    let node = run.node;
    let (biased, spec, linear) = match &node.op {
        Op::Conv2d { bias, weight_quant, .. } => (*bias, weight_quant, false),
        Op::Linear { bias, weight_quant, .. } => (*bias, weight_quant, true),
        _ => return Ok(()),
    };
    let corrected = biased && refinement.bias_correction;
    if let (Rounding::AdaRound, Some(spec)) = (refinement.rounding, spec) {
        let key = format!("{}.weight", node.name);
        let moments = tch::no_grad(|| Moments::of(&node.op, &input.float, &input.quantized, corrected))?;
        let get = |name: &str| params.require(&format!("{}.weight_quant.{name}", node.name));
        let rounded = adaround::round(
            float.require(&key)?,
            spec,
            get("scale")?,
            get("zero_point")?,
            &moments,
        )?;
        params.insert(key, rounded);
    }
    if corrected {
        let found = run.quantized(&[input], params)?;
        let key = format!("{}.bias", node.name);
        let bias = tch::no_grad(|| -> Result<Tensor> {
            let old = params.require(&key)?;
            Ok(old.f_add(&mean_difference(wanted, &found, linear)?.f_to_kind(old.kind())?)?)
        })?;
        params.insert(key, bias);
    }
    Ok(())
}

/// By how much each output channel of `wanted` lies above that of `found` in the mean (Nagel et al., arXiv 1906.04721, section 4.2: the
/// error of a layer's result has a mean, which its bias can take away).
fn mean_difference(wanted: &Tensor, found: &Tensor, linear: bool) -> Result<Tensor> {
    let apart = wanted.f_to_kind(Kind::Double)?.f_sub(&found.f_to_kind(Kind::Double)?)?;
    let channels = if linear { apart.dim() as i64 - 1 } else { 1 };
    let others: Vec<i64> = (0..apart.dim() as i64).filter(|dim| *dim != channels).collect();
    Ok(apart.f_mean_dim(others, false, Kind::Double)?)
}
