//! SPPF: spatial pyramid pooling (arXiv 1406.4729) as three max pools in a row, equal to windows of 5, 9 and 13 for a third of
//! the work.

use yolo_sdk::prelude::*;

/// Options of SPPF.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Sppf {
    /// Window of each pool (odd).
    pub kernel: i64,
    /// Pooled channels as a part of the input's.
    pub expansion: f64,
}

impl Default for Sppf {
    fn default() -> Self {
        Self {
            kernel: 5,
            expansion: 0.5,
        }
    }
}

#[typetag::serde(name = "sppf")]
impl NeckBlock for Sppf {
    fn layer_name(&self) -> &str {
        "SPPF"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let hidden = (inputs[0].channels as f64 * self.expansion) as i64;
        nn::sppf(g, inputs[0].value, request.channels, hidden, self.kernel)
    }
}

yolo_sdk::plugin! {
    neck_block Sppf = "sppf" {
        summary: "Spatial pyramid pooling, fast: three max pools in a row",
        paper: ("Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", "https://arxiv.org/abs/1406.4729", 2014, "SPP (ECCV 2014)"),
        example: { "type": "sppf", "kernel": 5 },
    }
}

/// SPPF in a layer list: kernel, pooled channels as a part of the input's.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    call.at_most(2)?;
    let x = call.input();
    let hidden = (x.channels as f64 * call.shares(1, &[0.5])?.first().copied().unwrap_or(0.5)) as i64;
    nn::sppf(g, x.value, call.channels, hidden, call.int(0, 5)?)
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "SPPF", takes_channels: true, repeats_inside: false, ratio_after: None, build: module }
}
