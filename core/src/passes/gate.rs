//! Writes SiLU as the product that it is, `x * sigmoid(x)`: engines that run on integers have kernels for the two ops, none for
//! their union, and each of the two can be quantized.

use crate::Result;
use crate::graph::{Activation, Graph, Node, Op, Rewriter};

/// Replaces every SiLU by a sigmoid, called `NAME.gate`, and a product, which keeps the name. Parameters stay as they are, and so
/// do outputs, but for rounding.
pub fn split_silu(graph: &Graph) -> Result<Graph> {
    let mut rewriter = Rewriter::new(graph);
    for node in &graph.nodes {
        if !matches!(node.op, Op::Act { act: Activation::Silu }) {
            rewriter.keep();
            continue;
        }
        let x = rewriter.value(node.inputs[0]);
        let gate = rewriter.insert(Node {
            name: format!("{}.gate", node.name),
            op: Op::Act {
                act: Activation::Sigmoid,
            },
            inputs: vec![x],
        });
        let product = rewriter.insert(Node {
            name: node.name.clone(),
            op: Op::Mul,
            inputs: vec![x, gate],
        });
        rewriter.forward(product);
    }
    rewriter.finish()
}
