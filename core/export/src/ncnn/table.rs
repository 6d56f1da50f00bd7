//! The int8 calibration table of ncnn: the text that `ncnn2int8` reads beside a float network.
//!
//! One line `LAYER_param_0 s s ..` per convolution with the scales of its output channels (groups, if it is depthwise) and
//! one line `LAYER s` with the scale of its input. ncnn's scale is the inverse of ours: `q = round(x * s)`, `s = 127 / amax`.
//! A layer without lines stays float.

use std::fmt::Write as _;

use yolo_core::{Graph, Params};

use super::int8::int8_scales;
use crate::{Error, Result};

/// The table of a graph with fake quantizers.
pub fn calibration_table(graph: &Graph, params: &Params) -> Result<String> {
    let (graph, params) = crate::onnx::prepare(graph, params)?;
    let (mut weights, mut inputs) = (String::new(), String::new());
    for node in &graph.nodes {
        if let Some(scales) = int8_scales(&graph, &params, node)? {
            let _ = write!(weights, "{}_param_0", node.name);
            for scale in &scales.weight {
                let _ = write!(weights, " {scale}");
            }
            weights.push('\n');
            let _ = writeln!(inputs, "{} {}", node.name, scales.input);
        }
    }
    if weights.is_empty() {
        return Err(Error::Unsupported(
            "the network has no symmetric int8 quantizers; calibrate it first".to_owned(),
        ));
    }
    Ok(weights + &inputs)
}
