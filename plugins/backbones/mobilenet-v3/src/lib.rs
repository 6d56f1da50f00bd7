//! MobileNetV3 (arXiv 1905.02244), small and large: inverted residuals with squeeze-and-excitation and hard-swish, found by
//! architecture search.

mod blocks;

use blocks::{Residual, Style, residual, stem};
use yolo_sdk::prelude::*;

/// Options of MobileNetV3-Small.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct MobileNetV3Small {
    /// The paper's blocks or those of the published table.
    pub variant: Variant,
}

/// Options of MobileNetV3-Large.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct MobileNetV3Large {
    /// The paper's blocks or those of the published table.
    pub variant: Variant,
}

/// Which blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// Squeeze-and-excitation after the activation, hard-sigmoid gates, hidden widths in multiples of 8.
    #[default]
    Paper,
    /// The published yolov5l-mobilenetv3-small: squeeze-and-excitation before the activation, sigmoid gates.
    Published,
}

/// Kernel, hidden width, output width, squeeze-and-excitation, hard-swish instead of ReLU, stride.
type Row = (i64, i64, i64, bool, bool, i64);

/// Table 2 of the paper.
const SMALL: [Row; 11] = [
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

/// Table 1 of the paper.
const LARGE: [Row; 15] = [
    (3, 16, 16, false, false, 1),
    (3, 64, 24, false, false, 2),
    (3, 72, 24, false, false, 1),
    (5, 72, 40, true, false, 2),
    (5, 120, 40, true, false, 1),
    (5, 120, 40, true, false, 1),
    (3, 240, 80, false, true, 2),
    (3, 200, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 480, 112, true, true, 1),
    (3, 672, 112, true, true, 1),
    (5, 672, 160, true, true, 2),
    (5, 960, 160, true, true, 1),
    (5, 960, 160, true, true, 1),
];

fn build(g: &mut GraphBuilder, image: Feat, scale: Scale, rows: &[Row], variant: Variant) -> Result<Features> {
    let style = match variant {
        Variant::Paper => Style::PAPER,
        Variant::Published => Style::PUBLISHED,
    };
    let mut x = g.layer("conv_bn_hswish", &[image], |g| {
        stem(g, image.value, scale.channels(16), 2)
    })?;
    let mut maps = Vec::new();
    for (kernel, hidden, channels, squeeze, hard_swish, stride) in rows.iter().copied() {
        if stride == 2 {
            maps.push(x);
        }
        let block = Residual {
            channels: scale.channels(channels),
            hidden: scale.channels(hidden),
            kernel,
            stride,
            squeeze,
            hard_swish,
        };
        x = g.layer("MobileNetV3_InvertedResidual", &[x], |g| {
            residual(g, x.value, block, style)
        })?;
    }
    maps.push(x);
    Ok(Features(maps))
}

#[typetag::serde(name = "mobilenet-v3-small")]
impl Backbone for MobileNetV3Small {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        build(g, image, scale, &SMALL, self.variant)
    }
}

#[typetag::serde(name = "mobilenet-v3-large")]
impl Backbone for MobileNetV3Large {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        build(g, image, scale, &LARGE, self.variant)
    }
}

yolo_sdk::plugin! {
    backbone MobileNetV3Small = "mobilenet-v3-small" {
        summary: "Inverted residuals with squeeze-and-excitation and hard-swish, small",
        paper: ("Searching for MobileNetV3", "https://arxiv.org/abs/1905.02244", 2019, "MobileNetV3 (ICCV 2019)"),
        aliases: ["mobilenet-v3"],
        example: { "type": "mobilenet-v3-small" },
    }
    backbone MobileNetV3Large = "mobilenet-v3-large" {
        summary: "Inverted residuals with squeeze-and-excitation and hard-swish, large",
        paper: ("Searching for MobileNetV3", "https://arxiv.org/abs/1905.02244", 2019, "MobileNetV3 (ICCV 2019)"),
        example: { "type": "mobilenet-v3-large" },
    }
}
