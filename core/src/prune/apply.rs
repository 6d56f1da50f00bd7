//! Removes channels: a smaller graph and smaller tensors. The result is an ordinary model.

use std::collections::HashSet;

use tch::Tensor;

use super::{ChannelGroups, PrunePlan};
use crate::graph::{Graph, Node, Op, ValueId};
use crate::{Error, Params, Result};

/// Applies a plan. Tensors that are not cut are shared with `params`.
pub fn apply(graph: &Graph, params: &Params, groups: &ChannelGroups, plan: &PrunePlan) -> Result<(Graph, Params)> {
    plan.check(groups)?;
    let mut gone = HashSet::new();
    for group in &groups.groups {
        let Some(keep) = plan.keep.get(&group.name) else {
            continue;
        };
        let keep: HashSet<usize> = keep.iter().copied().collect();
        gone.extend(
            group
                .atoms
                .iter()
                .enumerate()
                .filter(|(i, _)| !keep.contains(i))
                .map(|(_, atom)| *atom),
        );
    }
    let atoms = &groups.atoms;
    // Positions that stay along the channel axis of a value; None where nothing is cut.
    let kept = |value: ValueId| -> Option<Vec<i64>> {
        let own = atoms.of(value);
        if own.iter().all(|atom| !gone.contains(atom)) {
            return None;
        }
        Some(
            (0..own.len() as i64)
                .filter(|i| !gone.contains(&own[*i as usize]))
                .collect(),
        )
    };
    let count = |value: ValueId| kept(value).map_or(atoms.of(value).len(), |k| k.len()) as i64;

    let mut smaller = graph.clone();
    for (value, node) in graph.values().zip(&mut smaller.nodes) {
        shrink(node, value, &count, &kept, &|value| {
            atoms.values[value.index()].as_ref().map(|c| c.axis)
        })?;
    }
    let mut cut = params.shallow_clone();
    let mut done = HashSet::new();
    for (value, node) in graph.values().zip(&graph.nodes) {
        for spec in node.op.params(&node.name) {
            if !done.insert(spec.key.clone()) {
                continue;
            }
            let mut tensor = params.require(&spec.key)?.shallow_clone();
            let mut changed = false;
            for (axis, of_input) in super::groups::cut_axes(&node.op, &spec.key, spec.shape.len()) {
                if let Some(keep) = kept(if of_input { node.inputs[0] } else { value }) {
                    let index = Tensor::f_from_slice(&keep)?.to_device(tensor.device());
                    tensor = tch::no_grad(|| tensor.detach().f_index_select(axis as i64, &index))?;
                    changed = true;
                }
            }
            if changed {
                cut.insert(spec.key, tensor);
            }
        }
    }
    smaller.validate()?;
    cut.check(&smaller)?;
    Ok((smaller, cut))
}

/// New sizes of one node.
fn shrink(
    node: &mut Node,
    value: ValueId,
    count: &dyn Fn(ValueId) -> i64,
    kept: &dyn Fn(ValueId) -> Option<Vec<i64>>,
    axis: &dyn Fn(ValueId) -> Option<usize>,
) -> Result<()> {
    let input = node.inputs.first().copied();
    let from = |input: Option<ValueId>| input.map_or(0, count);
    match &mut node.op {
        Op::Conv2d { cin, cout, groups, .. } => {
            let depthwise = *groups > 1 && *groups == *cin;
            if depthwise {
                *cin = from(input);
                *groups = *cin;
                *cout = count(value);
            } else if *groups == 1 {
                *cin = from(input);
                *cout = count(value);
            }
        }
        Op::DeformConv2d { cin, cout, .. } => {
            *cin = from(input);
            *cout = count(value);
        }
        Op::Linear { cin, cout, .. } => {
            // A linear layer over an axis that has no channels keeps its size.
            if from(input) > 0 {
                *cin = from(input);
            }
            *cout = count(value);
        }
        Op::BatchNorm { channels, .. } => *channels = from(input),
        Op::Slice { start, len, dim } => {
            let Some(input) = input else { return Ok(()) };
            let Some(keep) = kept(input) else { return Ok(()) };
            // Slices of other axes see the same sizes as before.
            if axis(input) != Some(*dim) {
                return Ok(());
            }
            let end = *start + *len;
            let before = keep.iter().filter(|at| **at < *start).count() as i64;
            let inside = keep.iter().filter(|at| (*start..end).contains(*at)).count() as i64;
            if inside == 0 {
                return Err(Error::Impossible(format!(
                    "the plan leaves nothing of `{}`, a slice of channels {start}..{end}",
                    node.name
                )));
            }
            (*start, *len) = (before, inside);
        }
        _ => {}
    }
    Ok(())
}
