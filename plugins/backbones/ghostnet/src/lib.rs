//! GhostNet (arXiv 1911.11907): half of the maps of each layer are made from the other half by cheap depthwise convolutions.

mod blocks;

use blocks::{Ghost, bottleneck};
use yolo_sdk::prelude::*;

/// Options of GhostNet.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct GhostNet {
    /// The paper's network or the one of the published table.
    pub variant: Variant,
}

/// Which GhostNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// Kernels of 5 where the paper has them, its hidden widths, ReLU, hard-sigmoid gates.
    #[default]
    Paper,
    /// The published yolov5l-ghostnet: kernels of 3 everywhere, SiLU, sigmoid gates, some hidden widths changed.
    Published,
}

/// Kernel, hidden width, output width, squeeze-and-excitation, stride.
type Row = (i64, i64, i64, bool, i64);

/// Table 1 of the paper.
const PAPER: [Row; 16] = [
    (3, 16, 16, false, 1),
    (3, 48, 24, false, 2),
    (3, 72, 24, false, 1),
    (5, 72, 40, true, 2),
    (5, 120, 40, true, 1),
    (3, 240, 80, false, 2),
    (3, 200, 80, false, 1),
    (3, 184, 80, false, 1),
    (3, 184, 80, false, 1),
    (3, 480, 112, true, 1),
    (3, 672, 112, true, 1),
    (5, 672, 160, true, 2),
    (5, 960, 160, false, 1),
    (5, 960, 160, true, 1),
    (5, 960, 160, false, 1),
    (5, 960, 160, true, 1),
];
/// Width of the last convolution.
const LAST: i64 = 960;

impl GhostNet {
    /// Blocks in groups; a group is one layer.
    fn groups(&self) -> Vec<Vec<Row>> {
        match self.variant {
            Variant::Paper => PAPER.iter().map(|row| vec![*row]).collect(),
            Variant::Published => {
                let mut rows: Vec<Row> = PAPER.iter().map(|row| (3, row.1, row.2, row.3, row.4)).collect();
                rows[6].1 = 184;
                rows[10].1 = 480;
                let mut groups: Vec<Vec<Row>> = rows[..6].iter().map(|row| vec![*row]).collect();
                groups.push(rows[6..9].to_vec());
                groups.extend(rows[9..].iter().map(|row| vec![*row]));
                groups
            }
        }
    }
}

#[typetag::serde(name = "ghostnet")]
impl Backbone for GhostNet {
    fn build(&self, g: &mut GraphBuilder, image: Feat, scale: Scale) -> Result<Features> {
        let ghost = match self.variant {
            Variant::Paper => Ghost::PAPER,
            Variant::Published => Ghost::PUBLISHED,
        };
        let conv = |g: &mut GraphBuilder, x: Feat, cout: i64, kernel: i64, stride: i64| {
            g.layer("Conv", &[x], |g| {
                let options = nn::ConvOptions {
                    kernel,
                    stride,
                    act: Some(ghost.act),
                    ..nn::ConvOptions::default()
                };
                nn::conv_bn_act(g, x.value, scale.channels(cout), options)
            })
        };
        let mut x = conv(g, image, 16, 3, 2)?;
        let mut maps = Vec::new();
        for group in self.groups() {
            let repeats = if group.len() > 1 {
                scale.repeats(group.len() as i64) as usize
            } else {
                1
            };
            if group[0].4 == 2 {
                maps.push(x);
            }
            x = g.layer("GhostBottleneck", &[x], |g| {
                let mut value = x.value;
                for index in 0..repeats {
                    let (kernel, hidden, cout, squeeze, stride) = group[index.min(group.len() - 1)];
                    let block = blocks::Bottleneck {
                        channels: scale.channels(cout),
                        hidden: scale.channels(hidden),
                        kernel,
                        stride,
                        squeeze,
                    };
                    value = if group.len() > 1 {
                        g.scope(index.to_string(), |g| bottleneck(g, value, block, ghost))?
                    } else {
                        bottleneck(g, value, block, ghost)?
                    };
                }
                Ok(value)
            })?;
        }
        maps.push(conv(g, x, LAST, 1, 1)?);
        Ok(Features(maps))
    }
}

yolo_sdk::plugin! {
    backbone GhostNet = "ghostnet" {
        summary: "Half of the feature maps come from cheap depthwise convolutions of the others",
        paper: ("GhostNet: More Features from Cheap Operations", "https://arxiv.org/abs/1911.11907", 2020, "GhostNet (CVPR 2020)"),
        example: { "type": "ghostnet" },
    }
}
