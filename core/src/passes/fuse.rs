//! Folds batch normalisation into the convolution before it, for inference, export and quantization.

use tch::Tensor;

use crate::graph::{Graph, Node, Op, Rewriter};
use crate::{Params, Result};

/// Folds every batch norm that follows a convolution which nobody else reads: `W' = W * gamma / sqrt(var + eps)`,
/// `b' = (b - mean) * gamma / sqrt(var + eps) + beta`. The convolution keeps its name. Dropout and stochastic depth, which do
/// nothing in eval, go too. New tensors share no storage with the old ones where values change.
pub fn fuse(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let consumers = graph.consumers();
    let mut folded = params.shallow_clone();
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.values().zip(&graph.nodes) {
        match &node.op {
            Op::Conv2d { weight_quant: None, .. } => {
                let mut node = node.clone();
                let follower = match consumers[id.index()].as_slice() {
                    [only] if !graph.outputs.contains(&id) => Some(graph.node(*only)),
                    _ => None,
                };
                if let Some(Node {
                    name,
                    op: Op::BatchNorm { eps, .. },
                    ..
                }) = follower
                {
                    fold(&mut folded, &mut node, name, *eps)?;
                }
                rewriter.replace(node);
            }
            Op::BatchNorm { .. } => {
                let conv = node.inputs[0];
                let foldable = matches!(graph.node(conv).op, Op::Conv2d { weight_quant: None, .. })
                    && consumers[conv.index()].len() == 1
                    && !graph.outputs.contains(&conv);
                if foldable {
                    rewriter.forward(rewriter.value(conv));
                } else {
                    rewriter.keep();
                }
            }
            op if op.only_trains() => rewriter.forward(rewriter.value(node.inputs[0])),
            _ => {
                rewriter.keep();
            }
        }
    }
    Ok((rewriter.finish()?, folded))
}

fn fold(params: &mut Params, conv: &mut Node, norm: &str, eps: f64) -> Result<()> {
    let Op::Conv2d { bias, .. } = &mut conv.op else {
        return Ok(());
    };
    let get = |params: &Params, name: &str, key: &str| -> Result<Tensor> {
        params.require(&format!("{name}.{key}")).map(Tensor::detach)
    };
    let weight = get(params, &conv.name, "weight")?;
    let kind = weight.kind();
    let double = tch::Kind::Double;
    let variance = get(params, norm, "running_var")?.to_kind(double);
    let factor = get(params, norm, "weight")?
        .to_kind(double)
        .f_div(&(variance + eps).f_sqrt()?)?;
    let mean = get(params, norm, "running_mean")?.to_kind(double);
    let mean = if *bias {
        mean.f_sub(&get(params, &conv.name, "bias")?.to_kind(double))?
    } else {
        mean
    };
    let shift = get(params, norm, "bias")?
        .to_kind(double)
        .f_sub(&mean.f_mul(&factor)?)?;
    let scaled = weight.to_kind(double).f_mul(&factor.f_reshape([-1, 1, 1, 1])?)?;
    params.insert(format!("{}.weight", conv.name), scaled.to_kind(kind));
    params.insert(format!("{}.bias", conv.name), shift.to_kind(kind));
    for key in ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"] {
        params.remove(&format!("{norm}.{key}"));
    }
    *bias = true;
    Ok(())
}
