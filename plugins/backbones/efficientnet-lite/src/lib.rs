//! EfficientNet-Lite 0 to 4: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, for integer hardware.

use yolo_sdk::prelude::*;

/// Options of EfficientNet-Lite.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct EfficientNetLite {
    /// Which one, 0 to 4.
    pub lite: u8,
    /// Stochastic depth of the last block (arXiv 1603.09382); it grows linearly with depth. Acts in training only.
    pub drop_connect: f64,
    /// The family's blocks or those of the published table.
    pub variant: Variant,
}

/// Which blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// No squeeze-and-excitation.
    #[default]
    Lite,
    /// The published yolov5l-efficientlite0: squeeze-and-excitation in the first block of stride 2.
    Published,
}

impl Default for EfficientNetLite {
    fn default() -> Self {
        Self {
            lite: 0,
            drop_connect: 0.2,
            variant: Variant::Lite,
        }
    }
}

/// Expansion, channels, repeats, stride, kernel of each stage of lite0.
const STAGES: [(i64, i64, i64, i64, i64); 7] = [
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
];
/// Channels of the stem, whatever the size.
const STEM: i64 = 32;

/// One MBConv block.
#[derive(Debug, Clone, Copy)]
struct MbConv {
    channels: i64,
    kernel: i64,
    stride: i64,
    expansion: i64,
    drop: f64,
    squeeze: bool,
}

impl EfficientNetLite {
    /// Width and depth multipliers.
    fn multipliers(&self) -> Result<(f64, f64)> {
        match self.lite {
            0 => Ok((1.0, 1.0)),
            1 => Ok((1.0, 1.1)),
            2 => Ok((1.1, 1.2)),
            3 => Ok((1.2, 1.4)),
            4 => Ok((1.4, 1.8)),
            other => Err(Error::Build {
                plugin: "efficientnet-lite0".into(),
                reason: format!("`lite` goes from 0 to 4, not {other}"),
            }),
        }
    }

    /// Blocks in order; the family scales neither the depth of the first and last stage nor the stem.
    fn blocks(&self, scale: Scale) -> Result<Vec<MbConv>> {
        let (width, depth) = self.multipliers()?;
        let mut blocks = Vec::new();
        for (index, (expansion, channels, repeats, stride, kernel)) in STAGES.into_iter().enumerate() {
            let ends = index == 0 || index == STAGES.len() - 1;
            let repeats = if ends {
                repeats
            } else {
                scale.repeats((repeats as f64 * depth).ceil() as i64)
            };
            let channels = scale.channels(round8(channels as f64 * width));
            for repeat in 0..repeats {
                blocks.push(MbConv {
                    channels,
                    kernel,
                    stride: if repeat == 0 { stride } else { 1 },
                    expansion,
                    drop: 0.0,
                    squeeze: false,
                });
            }
        }
        let last = (blocks.len() - 1).max(1) as f64;
        for (index, block) in blocks.iter_mut().enumerate() {
            block.drop = self.drop_connect * index as f64 / last;
        }
        if self.variant == Variant::Published
            && let Some(block) = blocks.iter_mut().find(|block| block.stride == 2)
        {
            block.squeeze = true;
        }
        Ok(blocks)
    }
}

/// The nearest multiple of 8, but at least 90 % (the family's rule).
fn round8(channels: f64) -> i64 {
    let rounded = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * channels {
        rounded + 8
    } else {
        rounded
    }
}

#[typetag::serde(name = "efficientnet-lite0")]
impl Backbone for EfficientNetLite {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        if !(0.0..1.0).contains(&self.drop_connect) {
            return Err(Error::Build {
                plugin: "efficientnet-lite0".into(),
                reason: format!("`drop_connect` must lie in 0..1, not {}", self.drop_connect),
            });
        }
        let mut x = g.layer("stem", &[image], |g| stem(g, image.value, scale.channels(STEM)))?;
        let mut maps = Vec::new();
        for block in self.blocks(scale)? {
            if block.stride == 2 {
                maps.push(x);
            }
            x = g.layer("MBConvBlock", &[x], |g| mb_conv(g, x.value, block))?;
        }
        maps.push(x);
        Ok(Features(maps))
    }
}

fn stem(g: &mut GraphBuilder, x: ValueId, channels: i64) -> Result<ValueId> {
    let options = nn::ConvOptions {
        kernel: 3,
        stride: 2,
        act: Some(Activation::Relu6),
        ..nn::ConvOptions::default()
    };
    nn::conv_bn_act(g, x, channels, options)
}

/// Expansion, depthwise convolution, (squeeze-and-excitation,) projection; added to the input where the shapes allow it, in
/// training with stochastic depth.
fn mb_conv(g: &mut GraphBuilder, x: ValueId, b: MbConv) -> Result<ValueId> {
    let width = g.channels(x);
    let hidden = width * b.expansion;
    let act = Op::Act { act: Activation::Relu6 };
    let mut y = x;
    if b.expansion != 1 {
        let options = nn::ConvOptions::default();
        y = nn::bare_conv_bn(g, ("_expand_conv", "_bn0"), y, hidden, options)?;
        y = g.add("_act0", act.clone(), &[y])?;
    }
    let depthwise = nn::ConvOptions {
        kernel: b.kernel,
        stride: b.stride,
        groups: hidden,
        ..nn::ConvOptions::default()
    };
    y = nn::bare_conv_bn(g, ("_depthwise_conv", "_bn1"), y, hidden, depthwise)?;
    y = g.add("_act1", act, &[y])?;
    if b.squeeze {
        let gate = Activation::Sigmoid;
        y = g.scope("se", |g| nn::squeeze_excite(g, y, (hidden / 4).max(1), gate))?;
    }
    let options = nn::ConvOptions::default();
    y = nn::bare_conv_bn(g, ("_project_conv", "_bn2"), y, b.channels, options)?;
    if b.stride != 1 || width != b.channels {
        return Ok(y);
    }
    if b.drop > 0.0 {
        y = g.add("drop_connect", Op::DropPath { p: b.drop }, &[y])?;
    }
    g.add("add", Op::Add, &[y, x])
}

yolo_sdk::plugin! {
    backbone EfficientNetLite = "efficientnet-lite0" {
        summary: "EfficientNet for integer hardware: ReLU6, no squeeze-and-excitation; lite0 to lite4",
        paper: ("EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", "https://arxiv.org/abs/1905.11946", 2019, "EfficientNet (ICML 2019)"),
        aliases: ["efficientnet-lite"],
        example: { "type": "efficientnet-lite0", "lite": 0 },
    }
}

/// The stem in a layer list.
fn stem_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    stem(g, call.input().value, call.channels)
}

/// The block in a layer list: kernel, stride, expansion, stochastic depth, squeeze.
fn block_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let block = MbConv {
        channels: call.channels,
        kernel: call.needed_int(0)?,
        stride: call.needed_int(1)?,
        expansion: call.needed_int(2)?,
        drop: call.float(3, 0.0)?,
        squeeze: call.flag(4, false)?,
    };
    mb_conv(g, call.input().value, block)
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "stem", takes_channels: true, repeats_inside: false, ratio_after: None, build: stem_module }
}
yolo_sdk::inventory::submit! {
    LayerModule { name: "MBConvBlock", takes_channels: true, repeats_inside: false, ratio_after: None, build: block_module }
}
