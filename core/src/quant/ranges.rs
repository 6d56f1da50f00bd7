//! What a quantized network says about ranges: each quantizer with its tensor, each layer with what it reads. Backends write their files
//! from this and nothing else; formats of files stand in the plugins. Tensors are named as in our ONNX files: by the node that makes them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::spec::FakeQuantSpec;
use crate::graph::{Activation, Graph, Op};
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
    /// Its bias, where it is quantized.
    #[serde(default)]
    pub bias: Option<TensorRange>,
    /// The quantizer of its result; that behind a ReLU or ReLU6 where the result itself has none, since clipping changes no range.
    #[serde(default)]
    pub output: Option<TensorRange>,
    /// Values that each of its results is a sum of: weights per output channel; 1 where there are none.
    #[serde(default = "one")]
    pub fan_in: i64,
}

fn one() -> i64 {
    1
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
            let own = |tensor: &str, spec: &FakeQuantSpec| -> Result<TensorRange> {
                let key = format!("{}.{tensor}", node.name);
                let tensor: Tensor = params.require(&key)?.detach().to_kind(Kind::Double);
                Ok(TensorRange {
                    extremes: Some((f64::try_from(tensor.min())?, f64::try_from(tensor.max())?)),
                    ..range(&key, &format!("{key}_quant"), spec)?
                })
            };
            let (mut weight, mut bias) = (None, None);
            if let Op::Conv2d {
                weight_quant,
                bias_quant,
                ..
            }
            | Op::Linear {
                weight_quant,
                bias_quant,
                ..
            } = &node.op
            {
                weight = weight_quant.as_ref().map(|spec| own("weight", spec)).transpose()?;
                bias = bias_quant.as_ref().map(|spec| own("bias", spec)).transpose()?;
                all.weights.extend(weight.clone());
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
                bias,
                output: None,
                fan_in: match &node.op {
                    Op::Conv2d {
                        cin, groups, kernel, ..
                    } => cin / groups * kernel[0] * kernel[1],
                    Op::Linear { cin, .. } => *cin,
                    _ => 1,
                },
            });
        }
        for layer in &mut all.layers {
            let made_by = |name: &str| all.activations.iter().find(|range| range.tensor == name).cloned();
            layer.output = made_by(&layer.name).or_else(|| made_by(clipped(graph, &layer.name)?));
        }
        Ok(all)
    }
}

/// The ReLU or ReLU6 that alone reads what a node makes.
fn clipped<'a>(graph: &'a Graph, name: &str) -> Option<&'a str> {
    let at = graph.nodes.iter().position(|node| node.name == name)?;
    match graph.consumers()[at].as_slice() {
        [only] => {
            let node = graph.node(*only);
            let clips = matches!(
                node.op,
                Op::Act {
                    act: Activation::Relu | Activation::Relu6
                }
            );
            clips.then_some(node.name.as_str())
        }
        _ => None,
    }
}
