//! Which convolutions run on integers, and their scales as ncnn writes them.

use yolo_core::{
    Graph, Node, Op, Params,
    quant::{BackendSpec, FakeQuantSpec, Method, Scheme},
};

use crate::Result;
use crate::onnx::{floats, quantize_weight, scales};

/// Scales of an int8 convolution as ncnn writes them: the inverse of ours.
pub(super) struct Int8Scales {
    /// Per output channel, or per group of a depthwise convolution.
    pub weight: Vec<f32>,
    pub input: f32,
    /// The weight on its grid.
    pub integers: Vec<i8>,
}

/// Whether networks of this backend have convolutions that ncnn runs on integers: weights and inputs on symmetric int8 grids.
pub fn takes(backend: &BackendSpec) -> bool {
    let int8 = |scheme: &Scheme| is_int8(&scheme.spec()) && scheme.symmetric;
    int8(&backend.weight) && int8(&backend.activation)
}

/// A linear grid of 8 bits around 0.
fn is_int8(spec: &FakeQuantSpec) -> bool {
    spec.qmax == 127 && (spec.qmin == -127 || spec.qmin == -128) && spec.method != Method::Gfpq
}

/// The scales of a convolution whose weight and input have symmetric int8 quantizers.
pub(super) fn int8_scales(graph: &Graph, params: &Params, node: &Node) -> Result<Option<Int8Scales>> {
    let Op::Conv2d {
        cin,
        cout,
        groups,
        weight_quant: Some(spec),
        ..
    } = &node.op
    else {
        return Ok(None);
    };
    let Op::FakeQuant { quant } = &graph.node(node.inputs[0]).op else {
        return Ok(None);
    };
    let depthwise = groups == cin && groups == cout;
    if !is_int8(spec) || !is_int8(quant) || !(*groups == 1 || depthwise) {
        return Ok(None);
    }
    let (weight, weight_zero) = scales(node, params, &format!("{}.weight_quant", node.name), spec)?;
    let input_node = graph.node(node.inputs[0]);
    let (input, input_zero) = scales(input_node, params, &input_node.name, quant)?;
    if weight_zero.iter().chain(&input_zero).any(|z| *z != 0) {
        return Ok(None);
    }
    let values = floats(params.require(&format!("{}.weight", node.name))?)?;
    // ncnn's range has no -128.
    let spec = FakeQuantSpec {
        qmin: -127,
        ..spec.clone()
    };
    let integers = quantize_weight(&values, &weight, &weight_zero, &spec)
        .iter()
        .map(|&q| q as i8)
        .collect();
    let weight = if weight.len() == 1 {
        vec![weight[0]; *cout as usize]
    } else {
        weight
    };
    Ok(Some(Int8Scales {
        weight: weight.iter().map(|s| 1.0 / s).collect(),
        input: 1.0 / input[0],
        integers,
    }))
}
