//! CSP-Darknet, the backbone of YOLOv5: a stem, then stages of one stride-2 convolution and one C3 block.

use yolo_sdk::prelude::*;

/// Options of CSP-Darknet.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct CspDarknet {
    /// What halves the image first.
    pub stem: Stem,
    /// Channels of the stem and of each stage, before scaling by width. Four stages end at stride 32, five at 64.
    pub channels: Vec<i64>,
    /// Repeats of each stage's block, before scaling by depth; 0 leaves the block out.
    pub repeats: Vec<i64>,
    /// The block of every stage; without it C3.
    pub block: Option<Block>,
    /// The block of the last stages, for example `c3tr` or `deform`; without it that of the others.
    pub last_block: Option<Block>,
    /// How many of the stages `last_block` takes, counted from the end.
    pub last_stages: usize,
}

/// What halves the image first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Stem {
    /// 6 x 6 convolution with stride 2 (v6.0).
    #[default]
    Conv,
    /// 2 x 2 pixel blocks become channels, then a 3 x 3 convolution (before v6.0).
    Focus,
}

impl Default for CspDarknet {
    fn default() -> Self {
        Self {
            stem: Stem::Conv,
            channels: vec![64, 128, 256, 512, 1024],
            repeats: vec![3, 6, 9, 3],
            block: None,
            last_block: None,
            last_stages: 1,
        }
    }
}

#[typetag::serde(name = "csp-darknet")]
impl Backbone for CspDarknet {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        let stages = self.repeats.len();
        if stages == 0 || self.channels.len() != stages + 1 {
            return Err(Error::Build {
                plugin: "csp-darknet".into(),
                reason: format!(
                    "`channels` needs one more entry (the stem) than `repeats`: {} and {stages}",
                    self.channels.len()
                ),
            });
        }
        let mut x = self.stem(g, image, scale.channels(self.channels[0]))?;
        let mut maps = vec![x];
        for (stage, repeats) in self.repeats.iter().enumerate() {
            let channels = scale.channels(self.channels[stage + 1]);
            x = g.layer("Conv", &[x], |g| {
                let options = nn::ConvOptions {
                    kernel: 3,
                    stride: 2,
                    ..nn::ConvOptions::default()
                };
                nn::conv_bn_act(g, x.value, channels, options)
            })?;
            if *repeats > 0 {
                let request = BlockRequest {
                    channels,
                    repeats: scale.repeats(*repeats),
                    shortcut: true,
                };
                let last = self.last_block.as_ref().filter(|_| stage + self.last_stages >= stages);
                x = match last.or(self.block.as_ref()) {
                    Some(block) => g.layer(block.layer_name(), &[x], |g| block.build(g, &[x], request))?,
                    None => g.layer("C3", &[x], |g| nn::c3(g, x.value, channels, request.repeats, true))?,
                };
            }
            maps.push(x);
        }
        Ok(Features(maps))
    }
}

impl CspDarknet {
    fn stem(&self, g: &mut GraphBuilder, image: Feat, channels: i64) -> Result<Feat> {
        match self.stem {
            Stem::Conv => g.layer("Conv", &[image], |g| {
                let options = nn::ConvOptions {
                    kernel: 6,
                    stride: 2,
                    padding: Some(2),
                    ..nn::ConvOptions::default()
                };
                nn::conv_bn_act(g, image.value, channels, options)
            }),
            Stem::Focus => g.layer("Focus", &[image], |g| {
                let options = nn::ConvOptions {
                    kernel: 3,
                    ..nn::ConvOptions::default()
                };
                nn::focus(g, image.value, channels, options)
            }),
        }
    }
}

yolo_sdk::plugin! {
    backbone CspDarknet = "csp-darknet" {
        summary: "The backbone of YOLOv5: strided convolutions and C3 blocks",
        paper: ("CSPNet: A New Backbone that can Enhance Learning Capability of CNN", "https://arxiv.org/abs/1911.11929", 2020, "CSPNet (CVPRW 2020)"),
        example: { "type": "csp-darknet", "channels": [64, 128, 256, 512, 1024], "repeats": [3, 6, 9, 3] },
    }
}
