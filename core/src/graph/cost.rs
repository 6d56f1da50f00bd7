//! Cost of a model: multiply-adds of convolutions, linear layers and matrix products at the real input size, counted op by
//! op. GFLOPs are 2 x multiply-adds / 1e9. Normalisations, activations and pooling count as zero, as in PyTorch's
//! FlopCounterMode.

use serde::Serialize;

use super::{Graph, Shape};
use crate::{ParamRole, ParamSpec, Result};

/// One row of the layer table.
#[derive(Debug, Clone, Serialize)]
pub struct LayerCost {
    /// Position of the layer.
    pub index: usize,
    /// `model.INDEX`.
    pub name: String,
    /// Name of the block.
    #[serde(rename = "type")]
    pub kind: String,
    /// Trainable scalars.
    pub params: i64,
    /// Multiply-adds at the measured size.
    pub macs: i64,
    /// Shape of its result.
    pub out_shape: Shape,
    /// Layers it reads; -1 is the image.
    pub from: Vec<i64>,
}

/// Parameters and multiply-adds of a model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelCost {
    /// Trainable scalars.
    pub params: i64,
    /// Multiply-adds for one image.
    pub macs: i64,
    /// By layer.
    pub layers: Vec<LayerCost>,
}

impl ModelCost {
    /// 2 x multiply-adds / 1e9.
    pub fn gflops(&self) -> f64 {
        2.0 * self.macs as f64 / 1e9
    }
}

pub(super) fn cost(graph: &Graph, size: i64) -> Result<ModelCost> {
    let shapes = graph.shapes([1, graph.input_channels(), size, size])?;
    let macs: Vec<i64> = graph
        .values()
        .map(|value| node_macs(graph, value.index(), &shapes))
        .collect();
    let mut counted = std::collections::HashSet::new();
    let layers = graph
        .layers
        .iter()
        .map(|layer| {
            let nodes = layer.nodes.0..layer.nodes.1;
            LayerCost {
                index: layer.index,
                name: format!("model.{}", layer.index),
                kind: layer.kind.clone(),
                params: graph.nodes[nodes.clone()]
                    .iter()
                    .flat_map(|node| node.op.params(&node.name))
                    .filter(|spec| spec.role.trainable() && spec.role != ParamRole::Quant)
                    .filter(|spec| counted.insert(spec.key.clone()))
                    .map(|spec| ParamSpec::numel(&spec))
                    .sum(),
                macs: total(&macs[nodes]),
                out_shape: shapes[layer.output.index()].clone(),
                from: layer
                    .from
                    .iter()
                    .map(|from| from.map_or(-1, |index| index as i64))
                    .collect(),
            }
        })
        .collect();
    Ok(ModelCost {
        params: graph.param_count(),
        macs: total(&macs),
        layers,
    })
}

/// A sum that ends at the largest number.
fn total(macs: &[i64]) -> i64 {
    macs.iter().fold(0, |sum, n| sum.saturating_add(*n))
}

fn node_macs(graph: &Graph, index: usize, shapes: &[Shape]) -> i64 {
    let node = &graph.nodes[index];
    let inputs: Vec<&[i64]> = node.inputs.iter().map(|v| shapes[v.index()].as_slice()).collect();
    node.op.work(&inputs, &shapes[index]).macs(&shapes[index])
}
