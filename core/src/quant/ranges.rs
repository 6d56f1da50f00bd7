//! What a quantized network says about ranges: each quantizer with its tensor, each layer with what it reads. Backends write their files
//! from this and nothing else; formats of files stand in the plugins. Tensors are named as in our ONNX files: by the node that makes them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::spec::FakeQuantSpec;
use crate::graph::{Graph, Op};
use crate::{Params, Result};

/// Quantizer of one tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TensorRange {
    /// Name of the tensor.
    pub tensor: String,
    /// Its quantizer.
    pub spec: FakeQuantSpec,
    /// Scales, one or one per channel.
    pub scales: Vec<f64>,
    /// Zero points, likewise.
    pub zero_points: Vec<f64>,
    /// For weights: smallest and largest value.
    pub extremes: Option<(f64, f64)>,
}

impl TensorRange {
    /// Smallest and largest representable value of the first scale.
    pub fn limits(&self) -> (f64, f64) {
        let (s, z) = (self.scales[0], self.zero_points[0]);
        (s * (self.spec.qmin as f64 - z), s * (self.spec.qmax as f64 - z))
    }

    /// Bits of its integers (-127..127 are 8).
    pub fn bits(&self) -> u32 {
        ((self.spec.qmax - self.spec.qmin + 1) as f64).log2().round() as u32
    }
}

/// A layer with quantized inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRange {
    /// Name of the node.
    pub name: String,
    /// Name of its op.
    pub op: Cow<'static, str>,
    /// Groups of a convolution, 1 elsewhere.
    pub groups: i64,
    /// Tensors that it reads, with a quantizer where there is one.
    pub inputs: Vec<Option<TensorRange>>,
    /// Its weight, where it is quantized.
    pub weight: Option<TensorRange>,
}

/// All quantizers of a network.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ranges {
    /// Activations.
    pub activations: Vec<TensorRange>,
    /// Weights.
    pub weights: Vec<TensorRange>,
    /// Layers in order.
    pub layers: Vec<LayerRange>,
}

impl Ranges {
    /// Reads them off a quantized graph.
    pub fn of(graph: &Graph, params: &Params) -> Result<Self> {
        let floats = |key: &str| -> Result<Vec<f64>> {
            let tensor = params.require(key)?.detach().to_kind(Kind::Double).reshape([-1]);
            Ok(Vec::<f64>::try_from(tensor)?)
        };
        let range = |tensor: &str, quantizer: &str, spec: &FakeQuantSpec| -> Result<TensorRange> {
            Ok(TensorRange {
                tensor: tensor.to_owned(),
                spec: spec.clone(),
                scales: floats(&format!("{quantizer}.scale"))?
                    .into_iter()
                    .map(f64::abs)
                    .collect(),
                // As the simulation uses them: training leaves fractions.
                zero_points: floats(&format!("{quantizer}.zero_point"))?
                    .into_iter()
                    .map(|zero| zero.round_ties_even().clamp(spec.qmin as f64, spec.qmax as f64))
                    .collect(),
                extremes: None,
            })
        };
        let mut all = Self::default();
        let mut by_value: Vec<Option<TensorRange>> = vec![None; graph.nodes.len()];
        for (value, node) in graph.values().zip(&graph.nodes) {
            if let Op::FakeQuant { quant } = &node.op {
                let producer = graph.node(node.inputs[0]);
                let own = range(&producer.name, &node.name, quant)?;
                by_value[value.index()] = Some(own.clone());
                all.activations.push(own);
                continue;
            }
            let mut weight = None;
            if let Op::Conv2d {
                weight_quant: Some(spec),
                ..
            }
            | Op::Linear {
                weight_quant: Some(spec),
                ..
            } = &node.op
            {
                let key = format!("{}.weight", node.name);
                let mut own = range(&key, &format!("{}.weight_quant", node.name), spec)?;
                let tensor: Tensor = params.require(&key)?.detach().to_kind(Kind::Double);
                own.extremes = Some((f64::try_from(tensor.min())?, f64::try_from(tensor.max())?));
                all.weights.push(own.clone());
                weight = Some(own);
            }
            let groups = if let Op::Conv2d { groups, .. } = node.op {
                groups
            } else {
                1
            };
            all.layers.push(LayerRange {
                name: node.name.clone(),
                op: node.op.name().into(),
                groups,
                inputs: node
                    .inputs
                    .iter()
                    .map(|input| by_value[input.index()].clone())
                    .collect(),
                weight,
            });
        }
        Ok(all)
    }
}
