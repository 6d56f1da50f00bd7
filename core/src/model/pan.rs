//! The path aggregation neck (PANet, arXiv 1803.01534) over any number of levels, made of neck blocks: a top-down path from the
//! coarsest map to the finest, then a bottom-up path back. Knows no block: what fuses, transforms and attends is given.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plugin::BlockRequest;
use crate::{Block, Error, Feat, Features, GraphBuilder, Op, Result, Scale, nn};

/// Options of the neck.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pan {
    /// `pan`.
    #[serde(rename = "type")]
    pub kind: PanKind,
    /// Blocks on the coarsest map of the backbone, for example `[sppf]`.
    #[serde(default)]
    pub top: Vec<Block>,
    /// Levels of the head, finest first; the last one is the coarsest map.
    pub levels: Vec<Level>,
    /// How many of the levels are coarser than the backbone's last map; stride-2 convolutions make them (P6, P7).
    #[serde(default)]
    pub extra_levels: usize,
    /// The block after each fusion.
    pub block: Block,
    /// How often it repeats, before scaling by depth.
    #[serde(default = "three")]
    pub repeats: i64,
    /// How maps are joined; without it they are concatenated. A block that takes three inputs also gets the backbone's map on
    /// the inner levels of the way up (BiFPN, arXiv 1911.09070).
    #[serde(default)]
    pub fuse: Option<Block>,
    /// A block after each block of an output, for example `cbam`.
    #[serde(default)]
    pub attention: Option<Block>,
    /// Attention also on the inner levels of the way down.
    #[serde(default)]
    pub attention_inside: bool,
    /// What the head reads where there is attention.
    #[serde(default)]
    pub head_reads: Reads,
}

/// Name of this neck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PanKind {
    /// `pan`.
    #[serde(rename = "pan")]
    Pan,
}

/// What the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// The result of the attention.
    #[default]
    Attention,
    /// The block before it.
    Block,
}

/// What the way up takes over from the way down at the same level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// The 1 x 1 convolution that starts the step to the next finer level.
    #[default]
    Lateral,
    /// The fused block.
    Block,
    /// The attention after it.
    Attention,
}

/// One level of the neck; what is not given is the neck's own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Channels, before scaling by width.
    pub channels: i64,
    /// A block between fusion and block of the output, for example `spp`.
    #[serde(default)]
    pub before: Option<Block>,
    /// The block of the output, instead of the neck's.
    #[serde(default)]
    pub block: Option<Block>,
    /// Whether the neck's attention acts here.
    #[serde(default = "yes")]
    pub attention: bool,
    /// What the way up takes over.
    #[serde(default)]
    pub skip: Skip,
}

fn three() -> i64 {
    3
}

fn yes() -> bool {
    true
}

/// What one level of the way down leaves behind.
#[derive(Clone, Copy)]
struct Down {
    lateral: Option<Feat>,
    block: Feat,
    attended: Feat,
}

impl Pan {
    /// Appends the layers of the neck; returns the maps that the head reads.
    pub fn build(&self, g: &mut GraphBuilder, backbone: &Features, scale: Scale) -> Result<Features> {
        let fail = |reason: String| Error::Build {
            plugin: "pan".into(),
            reason,
        };
        let n = self.levels.len();
        if n == 0 {
            return Err(fail("it needs at least one level".into()));
        }
        if let Some(level) = self.levels.iter().find(|level| level.channels < 1) {
            return Err(fail(format!("a level can't have {} channels", level.channels)));
        }
        let maps = self.inputs(g, backbone, scale)?;
        let width = |level: usize| scale.channels(self.levels[level].channels);

        // Down: from the coarsest level to the finest.
        let top = maps[n - 1];
        let mut down = vec![
            Down {
                lateral: None,
                block: top,
                attended: top,
            };
            n
        ];
        for level in (0..n - 1).rev() {
            let above = down[level + 1].attended;
            let lateral = g.layer("Conv", &[above], |g| conv(g, above, width(level), 1, 1))?;
            down[level + 1].lateral = Some(lateral);
            let up = g.layer("Upsample", &[lateral], |g| {
                g.add("", Op::Upsample { scale: 2 }, &[lateral.value])
            })?;
            let fused = self.fuse(g, &[up, maps[level]], width(level))?;
            down[level] = if level == 0 {
                self.output(g, fused, level, scale)?
            } else {
                let block = self.apply(g, &self.block, fused, width(level), scale)?;
                let attends = self.attention_inside && self.levels[level].attention;
                Down {
                    lateral: None,
                    block,
                    attended: self.attend(g, block, attends)?,
                }
            };
        }

        // Up: each level meets the one below, halved.
        let mut results = vec![down[0]];
        for level in 1..n {
            let below = results[level - 1].attended;
            let half = g.layer("Conv", &[below], |g| conv(g, below, width(level - 1), 3, 2))?;
            let side = match self.levels[level].skip {
                Skip::Lateral => down[level].lateral.unwrap_or(down[level].block),
                Skip::Block => down[level].block,
                Skip::Attention => down[level].attended,
            };
            let mut joined = vec![half, side];
            let takes = self.fuse.as_ref().map_or(2, |fuse| fuse.arity().max);
            if takes > 2 && level < n - 1 {
                joined.push(maps[level]);
            }
            let fused = self.fuse(g, &joined, width(level))?;
            results.push(self.output(g, fused, level, scale)?);
        }
        Ok(Features(
            results
                .into_iter()
                .map(|result| match self.head_reads {
                    Reads::Attention => result.attended,
                    Reads::Block => result.block,
                })
                .collect(),
        ))
    }

    /// The backbone's maps for the levels, with the blocks of `top` applied to the coarsest.
    fn inputs(&self, g: &mut GraphBuilder, backbone: &Features, scale: Scale) -> Result<Vec<Feat>> {
        let n = self.levels.len();
        let mut maps = backbone.0.clone();
        for level in n.saturating_sub(self.extra_levels)..n {
            let channels = scale.channels(self.levels[level].channels);
            let last = maps.last().copied().ok_or_else(|| Error::Build {
                plugin: "pan".into(),
                reason: "the backbone returns no map".into(),
            })?;
            let half = g.layer("Conv", &[last], |g| conv(g, last, channels, 3, 2))?;
            maps.push(self.apply(g, &self.block, half, channels, scale)?);
        }
        if maps.len() < n {
            return Err(Error::Build {
                plugin: "pan".into(),
                reason: format!(
                    "it has {n} levels, but the backbone returns {} maps (strides {:?})",
                    maps.len(),
                    maps.iter().map(|feat| feat.stride).collect::<Vec<_>>()
                ),
            });
        }
        let mut maps = maps.split_off(maps.len() - n);
        let channels = scale.channels(self.levels[n - 1].channels);
        for block in &self.top {
            let last = maps[n - 1];
            maps[n - 1] = self.apply(g, block, last, channels, scale)?;
        }
        Ok(maps)
    }

    fn fuse(&self, g: &mut GraphBuilder, inputs: &[Feat], channels: i64) -> Result<Feat> {
        match &self.fuse {
            Some(fuse) => {
                let request = BlockRequest {
                    channels,
                    repeats: 1,
                    shortcut: false,
                };
                g.layer(fuse.layer_name(), inputs, |g| fuse.build(g, inputs, request))
            }
            None => g.layer("Concat", inputs, |g| {
                let values: Vec<_> = inputs.iter().map(|feat| feat.value).collect();
                g.add("", Op::Concat { dim: 1 }, &values)
            }),
        }
    }

    /// Block and attention of an output.
    fn output(&self, g: &mut GraphBuilder, fused: Feat, level: usize, scale: Scale) -> Result<Down> {
        let options = &self.levels[level];
        let channels = scale.channels(options.channels);
        let fused = match &options.before {
            Some(before) => self.apply(g, before, fused, channels, scale)?,
            None => fused,
        };
        let block = options.block.as_ref().unwrap_or(&self.block);
        let block = self.apply(g, block, fused, channels, scale)?;
        Ok(Down {
            lateral: None,
            block,
            attended: self.attend(g, block, options.attention)?,
        })
    }

    fn attend(&self, g: &mut GraphBuilder, x: Feat, here: bool) -> Result<Feat> {
        match self.attention.as_ref().filter(|_| here) {
            Some(attention) => {
                let request = BlockRequest {
                    channels: x.channels,
                    repeats: 1,
                    shortcut: false,
                };
                g.layer(attention.layer_name(), &[x], |g| attention.build(g, &[x], request))
            }
            None => Ok(x),
        }
    }

    fn apply(&self, g: &mut GraphBuilder, block: &Block, x: Feat, channels: i64, scale: Scale) -> Result<Feat> {
        let request = BlockRequest {
            channels,
            repeats: scale.repeats(self.repeats),
            shortcut: false,
        };
        g.layer(block.layer_name(), &[x], |g| block.build(g, &[x], request))
    }
}

/// `Conv` in the layer's own scope.
fn conv(g: &mut GraphBuilder, x: Feat, channels: i64, kernel: i64, stride: i64) -> Result<crate::ValueId> {
    let options = nn::ConvOptions {
        kernel,
        stride,
        ..nn::ConvOptions::default()
    };
    nn::conv_bn_act(g, x.value, channels, options)
}
