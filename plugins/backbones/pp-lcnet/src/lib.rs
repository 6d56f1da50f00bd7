//! PP-LCNet (arXiv 2109.15099): depthwise separable convolutions with hard-swish, made for CPUs with MKLDNN.

use yolo_sdk::prelude::*;

/// Options of PP-LCNet.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct PpLcNet {
    /// Width: the paper has 0.25, 0.35, 0.5, 0.75, 1, 1.5, 2 and 2.5.
    pub width: f64,
    /// The paper's blocks or those of the published table.
    pub variant: Variant,
}

/// Which blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// Hard-swish in the stem, squeeze-and-excitation with a quarter of the channels and hard-sigmoid gates.
    #[default]
    Paper,
    /// The published yolov5l-pplcnet: SiLU in the stem, squeeze-and-excitation with a sixteenth of the channels and sigmoid gates.
    Published,
}

impl Default for PpLcNet {
    fn default() -> Self {
        Self {
            width: 1.0,
            variant: Variant::Paper,
        }
    }
}

/// Kernel, channels, stride, squeeze-and-excitation, repeats (table 1 of the paper).
const BLOCKS: [(i64, i64, i64, bool, i64); 9] = [
    (3, 32, 1, false, 1),
    (3, 64, 2, false, 1),
    (3, 64, 1, false, 1),
    (3, 128, 2, false, 1),
    (3, 128, 1, false, 1),
    (3, 256, 2, false, 1),
    (5, 256, 1, false, 5),
    (5, 512, 2, true, 1),
    (5, 512, 1, true, 1),
];

/// Squeeze-and-excitation: channels per hidden channel, gate.
type Squeeze = (i64, Activation);

const PUBLISHED: Squeeze = (16, Activation::Sigmoid);

#[typetag::serde(name = "pp-lcnet")]
impl Backbone for PpLcNet {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        if !(0.05..=8.0).contains(&self.width) {
            return Err(Error::Build {
                plugin: "pp-lcnet".into(),
                reason: format!("`width` must lie between 0.05 and 8, not {}", self.width),
            });
        }
        let scale = Scale {
            width: scale.width * self.width,
            ..scale
        };
        let (act, squeeze) = match self.variant {
            Variant::Paper => (Activation::Hardswish, (4, Activation::Hardsigmoid)),
            Variant::Published => (Activation::Silu, PUBLISHED),
        };
        let mut x = g.layer("Conv", &[image], |g| {
            let options = nn::ConvOptions {
                kernel: 3,
                stride: 2,
                act: Some(act),
                ..nn::ConvOptions::default()
            };
            nn::conv_bn_act(g, image.value, scale.channels(16), options)
        })?;
        let mut maps = Vec::new();
        for (kernel, channels, stride, squeezes, repeats) in BLOCKS {
            if stride == 2 {
                maps.push(x);
            }
            let channels = scale.channels(channels);
            let squeeze = squeezes.then_some(squeeze);
            x = g.layer("DepthSepConv", &[x], |g| {
                if repeats == 1 {
                    return separable(g, x.value, channels, kernel, stride, squeeze);
                }
                let mut value = x.value;
                for index in 0..scale.repeats(repeats) {
                    value = g.scope(index.to_string(), |g| {
                        separable(g, value, channels, kernel, stride, squeeze)
                    })?;
                }
                Ok(value)
            })?;
        }
        maps.push(x);
        Ok(Features(maps))
    }
}

/// Depthwise convolution, (squeeze-and-excitation,) 1 x 1 convolution, each with hard-swish.
fn separable(
    g: &mut GraphBuilder,
    x: ValueId,
    channels: i64,
    kernel: i64,
    stride: i64,
    squeeze: Option<Squeeze>,
) -> Result<ValueId> {
    let act = Op::Act {
        act: Activation::Hardswish,
    };
    g.scope("dw_sp", |g| {
        let width = g.channels(x);
        let depthwise = nn::ConvOptions {
            kernel,
            stride,
            groups: width,
            ..nn::ConvOptions::default()
        };
        let mut y = nn::bare_conv_bn(g, ("0", "1"), x, width, depthwise)?;
        y = g.add("2", act.clone(), &[y])?;
        if let Some((part, gate)) = squeeze {
            y = g.scope("3", |g| nn::squeeze_excite(g, y, (width / part).max(1), gate))?;
        }
        y = nn::bare_conv_bn(g, ("4", "5"), y, channels, nn::ConvOptions::default())?;
        g.add("6", act, &[y])
    })
}

yolo_sdk::plugin! {
    backbone PpLcNet = "pp-lcnet" {
        summary: "Depthwise separable convolutions with hard-swish, made for CPUs",
        paper: ("PP-LCNet: A Lightweight CPU Convolutional Neural Network", "https://arxiv.org/abs/2109.15099", 2021, "PP-LCNet (arXiv 2021)"),
        example: { "type": "pp-lcnet", "width": 1.0 },
    }
}

/// The block in a layer list: kernel, stride, squeeze.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let squeeze = call.flag(2, false)?.then_some(PUBLISHED);
    let (kernel, stride) = (call.needed_int(0)?, call.needed_int(1)?);
    separable(g, call.input().value, call.channels, kernel, stride, squeeze)
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "DepthSepConv", takes_channels: true, repeats_inside: false, ratio_after: None, build: module }
}
