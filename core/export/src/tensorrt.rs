//! The calibration cache of TensorRT's implicit int8 mode (up to TensorRT 10): a text with one scale per tensor. Load it
//! with the float file of [`Profile::Strip`](crate::onnx::Profile::Strip), for example `trtexec --onnx=M.onnx --int8
//! --calib=M.cache`. The QDQ file needs no cache.

use yolo_core::Op;

use crate::{
    Error, Result,
    onnx::{Exported, activation_scales},
};

/// The cache for an exported network. `version` is the number that TensorRT prints and expects (8501 is 8.5.1); it refuses
/// a cache of another version.
///
/// Each line is `name: %08x`, the bits of the `f32` scale `amax / 127` as a big-endian hexadecimal number.
pub fn calibration_cache(exported: &Exported, version: &str) -> Result<String> {
    if version.is_empty() || !version.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::Unsupported(format!(
            "`{version}` is no TensorRT version number; write it without dots, for example 8501 for 8.5.1"
        )));
    }
    for node in &exported.graph.nodes {
        if let Op::FakeQuant { quant } = &node.op
            && (quant.qmax != 127 || quant.qmin < -128 || quant.qmin > -127)
        {
            return Err(Error::Node {
                node: node.name.clone(),
                op: node.op.name().to_owned(),
                format: "a TensorRT calibration cache",
                reason: format!("it quantizes to {}..{}, TensorRT to int8 only", quant.qmin, quant.qmax),
            });
        }
    }
    let scales = activation_scales(&exported.graph, &exported.params, &exported.names)?;
    if scales.is_empty() {
        return Err(Error::Unsupported(
            "the network has no quantizers; calibrate it first".to_owned(),
        ));
    }
    let mut text = format!("TRT-{version}-EntropyCalibration2\n");
    for (name, scale) in scales {
        text.push_str(&format!("{name}: {:08x}\n", scale.to_bits()));
    }
    Ok(text)
}
