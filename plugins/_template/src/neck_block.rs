//! Template title: a convolution, then a second one whose result is added to the first.
//!
//! # Shapes
//! `[N, c, H, W]` to `[N, channels, H, W]`.

use yolo_sdk::prelude::*;

/// Options of the block.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// Side of the second kernel.
    pub kernel: i64,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { kernel: 3 }
    }
}

#[typetag::serde(name = "template-name")]
impl NeckBlock for TemplateName {
    fn layer_name(&self) -> &str {
        "TemplateName"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let x = nn::conv(g, "cv1", inputs[0].value, request.channels, 1, 1)?;
        let y = nn::conv(g, "cv2", x, request.channels, self.kernel, 1)?;
        g.add("add", Op::Add, &[x, y])
    }
}

yolo_sdk::plugin! {
    neck_block TemplateName = "template-name" {
        summary: "Two convolutions with a residual sum",
    }
}
