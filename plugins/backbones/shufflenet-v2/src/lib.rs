//! ShuffleNet V2 (arXiv 1807.11164): units split their channels, work on one half and shuffle both.

use yolo_sdk::prelude::*;

/// Options of ShuffleNet V2.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct ShuffleNetV2 {
    /// The paper's widths for 0.5x, 1x, 1.5x or 2x (rounded up to a multiple of 8).
    pub width: Width,
    /// The paper's units or those of the published table.
    pub variant: Variant,
}

/// Table 5 of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Width {
    /// 48, 96, 192 channels.
    #[serde(rename = "0.5x")]
    Half,
    /// 116, 232, 464 channels.
    #[default]
    #[serde(rename = "1x")]
    One,
    /// 176, 352, 704 channels.
    #[serde(rename = "1.5x")]
    OneAndHalf,
    /// 244, 488, 976 channels.
    #[serde(rename = "2x")]
    Two,
}

/// Which units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// Depthwise convolutions without bias: the batch norm that follows has one.
    #[default]
    Paper,
    /// The published yolov5l-shufflenetv2: depthwise convolutions with bias.
    Published,
}

impl Width {
    fn stages(self) -> [i64; 3] {
        match self {
            Self::Half => [48, 96, 192],
            Self::One => [116, 232, 464],
            Self::OneAndHalf => [176, 352, 704],
            Self::Two => [244, 488, 976],
        }
    }
}

/// Channels of the stem.
const STEM: i64 = 24;
/// Units of stride 1 in each stage, after the one of stride 2.
const REPEATS: [i64; 3] = [3, 7, 3];

#[typetag::serde(name = "shufflenet-v2")]
impl Backbone for ShuffleNetV2 {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        let bias = self.variant == Variant::Published;
        let mut x = g.layer("Conv_maxpool", &[image], |g| stem(g, image.value, scale.channels(STEM)))?;
        let mut maps = vec![x];
        for (channels, repeats) in self.width.stages().into_iter().zip(REPEATS) {
            let channels = scale.channels(channels);
            const KIND: &str = "ShuffleNetV2_InvertedResidual";
            x = g.layer(KIND, &[x], |g| unit(g, x.value, channels, 2, bias))?;
            x = g.layer(KIND, &[x], |g| {
                let mut value = x.value;
                for index in 0..scale.repeats(repeats) {
                    value = g.scope(index.to_string(), |g| unit(g, value, channels, 1, bias))?;
                }
                Ok(value)
            })?;
            maps.push(x);
        }
        Ok(Features(maps))
    }
}

/// 3 x 3 convolution and max pool, both of stride 2.
fn stem(g: &mut GraphBuilder, x: ValueId, channels: i64) -> Result<ValueId> {
    let options = nn::ConvOptions {
        kernel: 3,
        stride: 2,
        ..nn::ConvOptions::default()
    };
    let x = nn::bare_conv_bn(g, ("conv.0", "conv.1"), x, channels, options)?;
    let act = Activation::Relu;
    let x = g.add("conv.2", Op::Act { act }, &[x])?;
    let pool = Op::MaxPool {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    g.add("maxpool", pool, &[x])
}

/// A unit (figure 3): with stride 1 one half of the channels passes through; with stride 2 both branches work on all.
fn unit(g: &mut GraphBuilder, x: ValueId, channels: i64, stride: i64, bias: bool) -> Result<ValueId> {
    let half = channels / 2;
    let width = g.channels(x);
    let fail = |reason: String| Error::Build {
        plugin: "shufflenet-v2".into(),
        reason,
    };
    if !(1..=2).contains(&stride) || channels % 2 != 0 || (stride == 1 && width != channels) {
        return Err(fail(format!(
            "a unit of stride {stride} can't turn {width} into {channels} channels"
        )));
    }
    let (pass, work) = if stride == 1 {
        let part = |start| Op::Slice {
            dim: 1,
            start,
            len: half,
        };
        (g.add("pass", part(0), &[x])?, g.add("work", part(half), &[x])?)
    } else {
        let side = g.scope("branch1", |g| {
            let y = depthwise(g, ("0", "1"), x, stride, bias)?;
            pointwise(g, ("2", "3", "4"), y, half)
        })?;
        (side, x)
    };
    let deep = g.scope("branch2", |g| {
        let y = pointwise(g, ("0", "1", "2"), work, half)?;
        let y = depthwise(g, ("3", "4"), y, stride, bias)?;
        pointwise(g, ("5", "6", "7"), y, half)
    })?;
    let joined = g.add("cat", Op::Concat { dim: 1 }, &[pass, deep])?;
    g.add("shuffle", Op::ChannelShuffle { groups: 2 }, &[joined])
}

fn pointwise(g: &mut GraphBuilder, names: (&str, &str, &str), x: ValueId, channels: i64) -> Result<ValueId> {
    let x = nn::bare_conv_bn(g, (names.0, names.1), x, channels, nn::ConvOptions::default())?;
    let act = Activation::Relu;
    g.add(names.2, Op::Act { act }, &[x])
}

fn depthwise(g: &mut GraphBuilder, names: (&str, &str), x: ValueId, stride: i64, bias: bool) -> Result<ValueId> {
    let width = g.channels(x);
    let x = g.add(names.0, Op::conv(width, width, 3, stride, 1, width, bias), &[x])?;
    nn::batch_norm(g, names.1, x)
}

yolo_sdk::plugin! {
    backbone ShuffleNetV2 = "shufflenet-v2" {
        summary: "Channel split and shuffle: cheap units guided by memory traffic",
        paper: ("ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", "https://arxiv.org/abs/1807.11164", 2018, "ShuffleNet V2 (ECCV 2018)"),
        example: { "type": "shufflenet-v2", "width": "1x" },
    }
}

/// The stem in a layer list.
fn stem_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    stem(g, call.input().value, call.channels)
}

/// A unit in a layer list: stride.
fn unit_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    unit(g, call.input().value, call.channels, call.needed_int(0)?, true)
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "Conv_maxpool", takes_channels: true, repeats_inside: false, ratio_after: None, build: stem_module }
}
yolo_sdk::inventory::submit! {
    LayerModule { name: "ShuffleNetV2_InvertedResidual", takes_channels: true, repeats_inside: false, ratio_after: None, build: unit_module }
}
