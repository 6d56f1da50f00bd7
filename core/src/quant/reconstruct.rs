//! Reconstruction of a quantized network layer by layer: float and quantized network run side by side on the same images, and each layer
//! is brought nearer to its float form before what follows it runs. Every layer so sees the errors that are left of those before it.
//!
//! What must not be here: ranges (observers), and how weights are rounded best ([`super::adaround`]).

use tch::{Kind, Tensor};

use super::adaround::{self, Moments};
use super::{FakeQuantSpec, Range, Refinement, Rounding, fake_quant, placement, qparams};
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
            if let (Op::FakeQuant { quant }, true) = (&node.op, refinement.fit_ranges) {
                let read_by = readers(graph, value).map(|node| Run { node, masks: &masks });
                fit(
                    &node.name,
                    quant,
                    &read_by.collect::<Vec<_>>(),
                    inputs[0],
                    params,
                    float,
                    refinement,
                )?;
            }
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

    fn is_linear(&self) -> bool {
        matches!(self.node.op, Op::Linear { .. })
    }

    fn float(&self, inputs: &[&Pair], params: &Params) -> Result<Tensor> {
        if let Op::FakeQuant { .. } = self.node.op {
            return Ok(inputs[0].float.shallow_clone());
        }
        let mut node = self.node.clone();
        node.op.unquantize();
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

/// Layers that read a value.
fn readers(graph: &Graph, value: ValueId) -> impl Iterator<Item = &Node> {
    (graph.nodes.iter()).filter(move |node| weighted(&node.op) && node.inputs.first() == Some(&value))
}

/// Shares of a range, around the one that was observed.
const SHARES: [f64; 12] = [1.0, 1.5, 1.25, 1.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2];

/// Finds the range of an activation's quantizer with which the layers that read it come nearest to their float results, with their weights
/// as they are (the activation's half of EasyQuant, arXiv 2006.16669, with squared errors).
fn fit(
    name: &str,
    spec: &FakeQuantSpec,
    readers: &[Run<'_>],
    input: &Pair,
    params: &mut Params,
    float: &Params,
    refinement: &Refinement,
) -> Result<()> {
    if readers.is_empty() || !spec.method.is_linear() || spec.per_channel {
        return Ok(());
    }
    tch::no_grad(|| {
        let wanted = readers
            .iter()
            .map(|reader| reader.float(&[input], float))
            .collect::<Result<Vec<_>>>()?;
        let get = |key: &str| -> Result<f64> { Ok(params.require(&format!("{name}.{key}"))?.f_double_value(&[0])?) };
        let (scale, zero) = (get("scale")?.abs(), get("zero_point")?.round());
        let ends = [spec.qmin, spec.qmax].map(|end| (end as f64 - zero) * scale);
        let error = |ends: [f64; 2]| -> Result<(f64, Tensor, Tensor)> {
            let (scale, zero) = of_ends(ends, spec, input.float.device())?;
            let quantized = fake_quant(&input.quantized, spec, &scale, &zero, false)?;
            let pair = Pair {
                float: input.float.shallow_clone(),
                quantized,
            };
            let mut sum = 0.0;
            for (reader, wanted) in readers.iter().zip(&wanted) {
                sum += share(
                    wanted,
                    &reader.quantized(&[&pair], params)?,
                    refinement.bias_correction,
                    reader.is_linear(),
                )?;
            }
            Ok((sum, scale, zero))
        };
        // Of a symmetric grid both ends go together; of the other first the upper one, then the lower.
        let turns: &[[bool; 2]] = if spec.symmetric {
            &[[true, true]]
        } else {
            &[[false, true], [true, false]]
        };
        let (mut best_ends, mut best) = (ends, error(ends)?);
        for moves in turns {
            let start = best_ends;
            for share in SHARES {
                let ends = [0, 1].map(|end| if moves[end] { start[end] * share } else { start[end] });
                let found = error(ends)?;
                if found.0 < best.0 {
                    (best_ends, best) = (ends, found);
                }
            }
        }
        params.insert(format!("{name}.scale"), best.1);
        params.insert(format!("{name}.zero_point"), best.2);
        Ok(())
    })
}

/// Scale and zero point of a range.
fn of_ends([low, high]: [f64; 2], spec: &FakeQuantSpec, device: tch::Device) -> Result<(Tensor, Tensor)> {
    let tensor = |end: f64| -> Result<Tensor> { Ok(Tensor::f_from_slice(&[end as f32])?.f_to_device(device)?) };
    let range = Range {
        min: tensor(low)?,
        max: tensor(high)?,
    };
    qparams(&range, spec)
}

/// Squared error as a share of the squared results; without the part that a bias can take away, where it will.
fn share(wanted: &Tensor, found: &Tensor, corrected: bool, linear: bool) -> Result<f64> {
    let mut apart = wanted.f_sub(found)?;
    if corrected {
        let channels = if linear { apart.dim() as i64 - 1 } else { 1 };
        let others: Vec<i64> = (0..apart.dim() as i64).filter(|dim| *dim != channels).collect();
        apart = apart.f_sub(&apart.f_mean_dim(others, true, Kind::Float)?)?;
    }
    let sum = |x: &Tensor| -> Result<f64> { Ok(x.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?) };
    Ok(sum(&apart)? / sum(wanted)?.max(f64::MIN_POSITIVE))
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
        let rounded = adaround::round(float.require(&key)?, spec, get("scale")?, get("zero_point")?, &moments)?;
        params.insert(key, rounded);
    }
    if corrected {
        let found = run.quantized(&[input], params)?;
        let key = format!("{}.bias", node.name);
        let bias = tch::no_grad(|| -> Result<Tensor> {
            let old = params.require(&key)?;
            Ok(old.f_add(&mean_difference(wanted, &found, linear)?.f_to_kind(old.kind())?)?)
        })?;
        if let Some(spec) = node.op.bias_quant() {
            // The bias has moved: so does its grid.
            let (scale, zero_point) = tch::no_grad(|| placement::grid_of_bias(&bias, spec))?;
            params.insert(format!("{key}_quant.scale"), scale);
            params.insert(format!("{key}_quant.zero_point"), zero_point);
        }
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
