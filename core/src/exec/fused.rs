//! Batch norm and the activation behind it as one step of training, and the counters that all batch norms raise together.

use tch::Tensor;
use yolo_torch::native::bn_act::{self, Act, BatchNorm};

use crate::graph::{Activation, Graph, Op, ValueId};
use crate::ops::norm::incomplete;
use crate::{Params, Result};

/// What a node computes when norms are fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fused {
    /// What it says.
    Nothing,
    /// Batch norm with the activation of its reader.
    Norm(Act),
    /// Nothing: its input has the activation already.
    Done,
}

/// Which nodes go together: a batch norm, and an activation that is its only reader. `drop_after` says where each value is read last.
pub(super) fn pairs(graph: &Graph, drop_after: &[Vec<ValueId>]) -> Vec<Fused> {
    let mut readers = vec![0usize; graph.nodes.len()];
    for input in graph.nodes.iter().flat_map(|node| &node.inputs) {
        readers[input.index()] += 1;
    }
    let mut fused = vec![Fused::Nothing; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        match &node.op {
            Op::BatchNorm { .. } => fused[index] = Fused::Norm(Act::None),
            Op::Act { act } => {
                let input = node.inputs[0];
                let alone = readers[input.index()] == 1 && drop_after[index].contains(&input);
                if let (Some(act), Fused::Norm(Act::None), true) = (kernel(*act), fused[input.index()], alone) {
                    fused[input.index()] = Fused::Norm(act);
                    fused[index] = Fused::Done;
                }
            }
            _ => {}
        }
    }
    fused
}

/// A batch norm whose activation is a node of its own.
pub(super) fn alone() -> Fused {
    Fused::Norm(Act::None)
}

fn kernel(act: Activation) -> Option<Act> {
    match act {
        Activation::Silu => Some(Act::Silu),
        Activation::Relu => Some(Act::Relu),
        Activation::Hardswish => Some(Act::Hardswish),
        _ => None,
    }
}

/// Batch norm in training with an activation.
pub(super) fn norm(op: &Op, x: &Tensor, params: &[Tensor], act: Act) -> Result<Tensor> {
    let (Op::BatchNorm { eps, momentum, .. }, [weight, bias, running_mean, running_var, _]) = (op, params) else {
        return Err(incomplete());
    };
    let norm = BatchNorm {
        weight,
        bias,
        running_mean,
        running_var,
        momentum: *momentum,
        eps: *eps,
    };
    Ok(bn_act::train(x, norm, act)?)
}

/// The counters `num_batches_tracked` of all batch norms.
pub(super) fn counters(graph: &Graph, params: &Params) -> Result<Vec<Tensor>> {
    let norms = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::BatchNorm { .. }));
    norms
        .map(|node| {
            params
                .require(&format!("{}.num_batches_tracked", node.name))
                .map(Tensor::shallow_clone)
        })
        .collect()
}
