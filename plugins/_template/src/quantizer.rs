//! Template title: symmetric int8, one scale per output channel of weights, one per activation; and a table of ranges as text.

use std::fmt::Write as _;

use yolo_sdk::prelude::quant::{Artifact, BackendSpec, Placement, Ranges, Scheme};
use yolo_sdk::prelude::*;

/// Options of the quantizer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// Bits of weights.
    pub weight_bits: u32,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { weight_bits: 8 }
    }
}

#[typetag::serde(name = "template-name")]
impl Quantizer for TemplateName {
    fn backend(&self) -> BackendSpec {
        BackendSpec {
            weight: Scheme { bits: self.weight_bits, per_channel: true, ..Scheme::INT8 },
            activation: Scheme::INT8,
            // The inputs of these ops are quantized.
            placement: Placement::inputs_of(&["conv2d", "add"]),
            linear: false,
            ..BackendSpec::default()
        }
    }

    /// What the toolchain reads besides the network itself.
    fn artifacts(&self, model: &str, ranges: &Ranges) -> Result<Vec<Artifact>> {
        let mut text = String::new();
        for range in &ranges.activations {
            let (low, high) = range.limits();
            let _ = writeln!(text, "{} {low} {high}", range.tensor);
        }
        Ok(vec![Artifact { name: format!("{model}_ranges.txt"), text }])
    }
}

yolo_sdk::plugin! {
    quantizer TemplateName = "template-name" {
        summary: "Int8 with a table of ranges as text",
    }
}
