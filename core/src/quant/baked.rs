//! A quantized network with its own tensors as an engine holds them: what quantizers make of a weight before it is rounded is done, and biases
//! lie on their grid.

use super::{FakeQuantSpec, Method, fake_quant, fake_quant::squashed};
use crate::graph::{Graph, Op};
use crate::{Params, Result};

/// Weights of [`Method::Dorefa`] become those of [`Method::Fixed`], quantized biases plain ones. The network computes what it did.
///
/// # Errors
/// Names a tensor that is absent.
pub fn baked(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let (mut graph, mut params) = (graph.clone(), params.shallow_clone());
    for node in &mut graph.nodes {
        let name = &node.name;
        let (Op::Conv2d {
            weight_quant,
            bias_quant,
            ..
        }
        | Op::Linear {
            weight_quant,
            bias_quant,
            ..
        }) = &mut node.op
        else {
            continue;
        };
        if let Some(FakeQuantSpec { method, .. }) = weight_quant
            && *method == Method::Dorefa
        {
            let key = format!("{name}.weight");
            let weight = tch::no_grad(|| squashed(params.require(&key)?).map_err(crate::Error::from))?;
            params.insert(key, weight);
            *method = Method::Fixed;
        }
        if let Some(spec) = bias_quant.take() {
            let key = format!("{name}.bias");
            let own = |end: &str| format!("{name}.bias_quant.{end}");
            let (scale, zero) = (params.require(&own("scale"))?, params.require(&own("zero_point"))?);
            let bias = tch::no_grad(|| fake_quant(params.require(&key)?, &spec, scale, zero, false))?;
            params.insert(key, bias);
            params.remove(&own("scale"));
            params.remove(&own("zero_point"));
        }
    }
    Ok((graph, params))
}
