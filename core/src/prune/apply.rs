//! Removes channels: a smaller graph and smaller tensors. The result is an ordinary model.

use std::collections::HashSet;

use tch::Tensor;

use super::{ChannelGroups, PrunePlan};
use crate::graph::{Graph, ValueId};
use crate::ops::{Follows, Left, OwnTensor};
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
        let input = node.inputs.first().copied();
        let positions = input.and_then(&kept);
        let axis = input.and_then(|input| atoms.values[input.index()].as_ref().map(|c| c.axis));
        let left = Left {
            inputs: input.map_or(0, &count),
            outputs: count(value),
            kept: axis.zip(positions.as_deref()),
        };
        let (full, name) = (graph.node(value), &node.name);
        full.op
            .with(|op| op.resize(&mut node.op, &left))
            .map_err(|part| Error::Impossible(format!("the plan leaves nothing of `{name}`, {part}")))?;
    }
    let mut cut = params.shallow_clone();
    let mut done = HashSet::new();
    for (value, node) in graph.values().zip(&graph.nodes) {
        for OwnTensor { spec, axes } in node.op.tensors(&node.name) {
            if !done.insert(spec.key.clone()) {
                continue;
            }
            let mut tensor = params.require(&spec.key)?.shallow_clone();
            let mut changed = false;
            for (axis, follows) in axes {
                let source = match follows {
                    Follows::Input => node.inputs[0],
                    Follows::Output => value,
                };
                if let Some(keep) = kept(source) {
                    let index = Tensor::f_from_slice(&keep)?.to_device(tensor.device());
                    tensor = tch::no_grad(|| tensor.detach().f_index_select(*axis as i64, &index))?;
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
