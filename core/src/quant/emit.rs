//! The text files that hardware toolchains read. Formats as MQBench writes them (v0.0.2 and v0.0.7); tensors are named as in our ONNX
//! files: by the node that makes them.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::Artifact;
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
                zero_points: floats(&format!("{quantizer}.zero_point"))?,
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

fn json_file(name: String, value: &Value) -> Result<Artifact> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(Artifact {
        name,
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

fn map(entries: impl Iterator<Item = (String, Value)>) -> Value {
    Value::Object(entries.collect::<Map<_, _>>())
}

/// TensorRT's dynamic ranges: `{"tensorrt": {"blob_range": {tensor: amax}}}`, `amax = s * max(-qmin, qmax)`.
pub fn tensorrt(model: &str, ranges: &Ranges) -> Result<Artifact> {
    let blob = map(ranges.activations.iter().map(|r| {
        (
            r.tensor.clone(),
            json!(r.scales[0] * r.spec.qmax.max(-r.spec.qmin) as f64),
        )
    }));
    json_file(
        format!("{model}_clip_ranges.json"),
        &json!({"tensorrt": {"blob_range": blob}}),
    )
}

/// SNPE's overrides: activation encodings with bit width, min and max.
pub fn snpe(model: &str, ranges: &Ranges) -> Result<Artifact> {
    let encodings = map(ranges.activations.iter().map(|r| {
        let (min, max) = r.limits();
        (r.tensor.clone(), json!([{"bitwidth": bits(r), "min": min, "max": max}]))
    }));
    let value = json!({"activation_encodings": encodings, "param_encodings": {}});
    json_file(format!("{model}_clip_ranges.json"), &value)
}

fn bits(range: &TensorRange) -> u32 {
    ((range.spec.qmax - range.spec.qmin + 1) as f64).log2().round() as u32
}

/// PPL W8A16: step, zero point, limits and bits of activations and weights.
pub fn ppl(model: &str, ranges: &Ranges) -> Result<Artifact> {
    let entries = map(ranges.activations.iter().chain(&ranges.weights).map(|r| {
        let one_or_all = |values: &[f64]| {
            if values.len() == 1 {
                json!(values[0])
            } else {
                json!(values)
            }
        };
        let (min, max) = r.limits();
        let value = json!({
            "step": one_or_all(&r.scales), "zero_point": one_or_all(&r.zero_points), "min": min, "max": max,
            "bit": bits(r), "type": "biased",
        });
        (r.tensor.clone(), value)
    }));
    json_file(format!("{model}_clip_ranges.json"), &json!({"ppl": entries}))
}

/// PPL CUDA: one line `tensor: range` per activation.
pub fn ppl_cuda(model: &str, ranges: &Ranges) -> Artifact {
    let mut text = String::new();
    for range in &ranges.activations {
        let (min, max) = range.limits();
        let _ = writeln!(text, "{}: {}", range.tensor, max.max(-min));
    }
    Artifact {
        name: format!("{model}_clip_ranges.json"),
        text,
    }
}

/// NNIE: the clip values of the inputs of each layer that the chip quantizes.
pub fn nnie(model: &str, ranges: &Ranges) -> Result<Artifact> {
    let mut dict = Map::new();
    let mut upsamples = 0;
    for layer in &ranges.layers {
        // Skipped by the toolchain: element-wise and shape layers, grouped convolutions.
        let skipped =
            matches!(&*layer.op, "act" | "reshape" | "softmax" | "mul" | "reduce" | "permute") || layer.groups != 1;
        if skipped {
            continue;
        }
        let inputs = if layer.op == "upsample" {
            &layer.inputs[..1.min(layer.inputs.len())]
        } else {
            &layer.inputs[..]
        };
        let clips: Vec<f64> = inputs.iter().flatten().map(|range| range.scales[0]).collect();
        if clips.is_empty() {
            continue;
        }
        if layer.op == "upsample" {
            dict.insert(format!("{}_permute_{upsamples}", layer.name), json!(clips));
            upsamples += 1;
        }
        dict.insert(layer.name.clone(), json!(clips));
    }
    json_file(
        format!("{model}_gfpq_param_dict.json"),
        &json!({"nnie": {"gfpq_param_dict": dict}}),
    )
}

/// Vitis: `{"vitis": {tensor: {"scale": s}}}` for activations and weights; scales are powers of two.
pub fn vitis(model: &str, ranges: &Ranges) -> Result<Artifact> {
    let entries = map(ranges.activations.iter().chain(&ranges.weights).map(|r| {
        let scale = (-(1.0 / r.scales[0].max(1e-10)).log2().add_tiny().floor()).exp2();
        (r.tensor.clone(), json!({"scale": scale}))
    }));
    json_file(format!("{model}_clip_ranges.json"), &json!({"vitis": entries}))
}

/// Exact powers of two must not fall below themselves by a rounding error.
trait AddTiny {
    fn add_tiny(self) -> Self;
}

impl AddTiny for f64 {
    fn add_tiny(self) -> Self {
        self + 1e-6
    }
}

/// Tengine: lines `tensor scale zero_point`.
pub fn tengine(model: &str, ranges: &Ranges) -> Artifact {
    let mut text = String::new();
    for range in &ranges.activations {
        let _ = writeln!(
            text,
            "{} {} {}",
            range.tensor,
            range.scales[0],
            range.zero_points[0].round() as i64
        );
    }
    Artifact {
        name: format!("{model}_for_tengine.scale"),
        text,
    }
}

/// STPU: smallest and largest value of activations and weights, bias scale from weight and input ranges.
pub fn stpu(model: &str, ranges: &Ranges) -> Result<Artifact> {
    let symmetric = |r: &TensorRange| json!({"min": -127.0 * r.scales[0], "max": 127.0 * r.scales[0]});
    let mut entries: Map<String, Value> = ranges
        .activations
        .iter()
        .map(|r| (r.tensor.clone(), symmetric(r)))
        .collect();
    for layer in &ranges.layers {
        let (Some(weight), Some(Some(input))) = (&layer.weight, layer.inputs.first()) else {
            continue;
        };
        entries.insert(format!("{}_weights", layer.name), symmetric(weight));
        let span = |r: &TensorRange| 2.0 * 127.0 * r.scales[0] / 254.0;
        entries.insert(
            format!("{}_bias", layer.name),
            json!({"alpha": span(weight) * span(input), "zero_point": 0}),
        );
    }
    json_file(format!("{model}_stpu_minmax.json"), &Value::Object(entries))
}
