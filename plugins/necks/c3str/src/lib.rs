//! C3STR: C3 with Swin transformer layers (arXiv 2103.14030) in place of the bottlenecks: attention within windows, shifted by half
//! a window in every second layer.

use yolo_sdk::prelude::*;

/// Options of C3STR.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct C3Str {
    /// Side of a window.
    pub window: i64,
    /// Channels per head; the number of heads is the largest that divides the inner width into at least this many channels.
    pub head_width: i64,
    /// Stochastic depth of the layers (arXiv 1603.09382). Acts in training only.
    pub drop_path: f64,
    /// The paper's layers or those of the published Swin net.
    pub variant: Variant,
}

/// Which layers. They differ only on maps that are no multiple of the window, or smaller than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// Padded tokens are masked, and nothing is shifted where one window covers the map.
    #[default]
    Paper,
    /// The published Swin net: padded tokens take part like others, and the shift always acts.
    Published,
}

impl Default for C3Str {
    fn default() -> Self {
        Self {
            window: 8,
            head_width: 32,
            drop_path: 0.0,
            variant: Variant::Paper,
        }
    }
}

/// Epsilon of the layer norms.
const EPS: f64 = 1e-5;
/// Width of the feed-forward part per input channel.
const EXPANSION: i64 = 4;
/// Standard deviation at which the bias tables start.
const TABLE_STD: f64 = 0.02;

#[typetag::serde(name = "c3str")]
impl NeckBlock for C3Str {
    fn layer_name(&self) -> &str {
        "C3STR"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let hidden = request.channels / 2;
        self.check()?;
        nn::csp(g, inputs[0].value, request.channels, (hidden, hidden), |g, x| {
            self.layers(g, x, request.repeats)
        })
    }
}

impl C3Str {
    fn check(&self) -> Result<()> {
        if self.window < 1 || self.head_width < 1 || !(0.0..1.0).contains(&self.drop_path) {
            return Err(Error::Build {
                plugin: "c3str".into(),
                reason: "`window` and `head_width` must be positive, `drop_path` in 0..1".into(),
            });
        }
        Ok(())
    }

    fn layers(&self, g: &mut GraphBuilder, mut x: ValueId, layers: i64) -> Result<ValueId> {
        let width = g.channels(x);
        // The largest count of heads of at least `head_width` channels that divides the width; one head always does.
        let heads = (1..=(width / self.head_width).max(1))
            .rev()
            .find(|heads| width % heads == 0)
            .unwrap_or(1);
        for layer in 0..layers {
            let shift = if layer % 2 == 0 { 0 } else { self.window / 2 };
            x = g.scope(format!("blocks.{layer}"), |g| match self.variant {
                Variant::Paper => self.layer(g, x, heads, shift),
                Variant::Published => self.published_layer(g, x, heads, shift),
            })?;
        }
        Ok(x)
    }

    /// Window attention, then the feed-forward part on the tokens of the map.
    fn layer(&self, g: &mut GraphBuilder, x: ValueId, heads: i64, shift: i64) -> Result<ValueId> {
        let windows = g.add("windows", self.partition(shift), &[x])?;
        let y = self.attention(g, windows, x, heads, shift)?;
        let y = self.drop(g, "drop_path1", y)?;
        let y = g.add("merged", self.merge(shift), &[y, x])?;
        let x = g.add("add1", Op::Add, &[x, y])?;
        let tokens = nn::tokens(g, x)?;
        let y = feed_forward(g, tokens)?;
        let y = self.drop(g, "drop_path2", y)?;
        let y = g.add("add2", Op::Add, &[tokens, y])?;
        nn::map(g, y, x)
    }

    /// The same on padded windows throughout: padding is cut off at the end only.
    fn published_layer(&self, g: &mut GraphBuilder, x: ValueId, heads: i64, shift: i64) -> Result<ValueId> {
        let windows = g.add("windows", self.partition(shift), &[x])?;
        let y = self.attention(g, windows, x, heads, shift)?;
        let y = self.drop(g, "drop_path1", y)?;
        let y = g.add("add1", Op::Add, &[windows, y])?;
        let z = feed_forward(g, y)?;
        let z = self.drop(g, "drop_path2", z)?;
        let y = g.add("add2", Op::Add, &[y, z])?;
        g.add("merged", self.merge(shift), &[y, x])
    }

    fn guard(&self) -> bool {
        self.variant == Variant::Paper
    }

    fn partition(&self, shift: i64) -> Op {
        Op::WindowPartition {
            size: self.window,
            shift,
            guard: self.guard(),
        }
    }

    fn merge(&self, shift: i64) -> Op {
        Op::WindowMerge {
            size: self.window,
            shift,
            guard: self.guard(),
        }
    }

    fn drop(&self, g: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
        if self.drop_path > 0.0 {
            g.add(name, Op::DropPath { p: self.drop_path }, &[x])
        } else {
            Ok(x)
        }
    }

    /// Attention within windows with relative position biases (equation 4).
    fn attention(
        &self,
        g: &mut GraphBuilder,
        windows: ValueId,
        map: ValueId,
        heads: i64,
        shift: i64,
    ) -> Result<ValueId> {
        let width = g.channels(map);
        let norm = Op::LayerNorm {
            channels: width,
            eps: EPS,
        };
        let y = g.add("norm1", norm, &[windows])?;
        let size = self.window;
        let table = Op::Parameter {
            shape: vec![(2 * size - 1) * (2 * size - 1), heads],
            role: ParamRole::Table,
            init: Init::TruncNormal(TABLE_STD),
        };
        let table = g.add("attn.relative_position_bias_table", table, &[])?;
        let bias = g.add("attn", Op::RelativePositionBias { size }, &[table])?;
        let masked = shift > 0 || self.guard();
        let mask = masked.then(|| Op::WindowMask {
            size,
            shift,
            guard: self.guard(),
            mask_padding: self.guard(),
        });
        g.scope("attn", |g| {
            let qkv = g.add("qkv", Op::linear(width, 3 * width, true), &[y])?;
            let parts = nn::thirds(g, qkv)?;
            let y = nn::attention(g, parts, heads, |g, scores| {
                let scores = g.add("biased", Op::Add, &[scores, bias])?;
                match mask {
                    Some(mask) => {
                        let mask = g.add("mask", mask, &[map])?;
                        g.add("masked", Op::AddWindowMask, &[scores, mask])
                    }
                    None => Ok(scores),
                }
            })?;
            g.add("proj", Op::linear(width, width, true), &[y])
        })
    }
}

fn feed_forward(g: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
    let width = g.shape(x).last().copied().unwrap_or(1);
    let norm = Op::LayerNorm {
        channels: width,
        eps: EPS,
    };
    let y = g.add("norm2", norm, &[x])?;
    let y = g.add("mlp.fc1", Op::linear(width, EXPANSION * width, true), &[y])?;
    let act = Activation::Gelu;
    let y = g.add("mlp.act", Op::Act { act }, &[y])?;
    g.add("mlp.fc2", Op::linear(EXPANSION * width, width, true), &[y])
}

yolo_sdk::plugin! {
    neck_block C3Str = "c3str" {
        summary: "C3 with Swin transformer layers inside: attention in shifted windows",
        paper: ("Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", "https://arxiv.org/abs/2103.14030", 2021, "Swin (ICCV 2021)"),
        example: { "type": "c3str", "window": 8 },
    }
}

/// C3STR in a layer list: shortcut, groups (both without effect), inner width.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let block = C3Str {
        variant: Variant::Published,
        ..C3Str::default()
    };
    let hidden = (call.channels as f64 * call.float(2, 0.5)?) as i64;
    nn::csp(g, call.input().value, call.channels, (hidden, hidden), |g, x| {
        block.layers(g, x, call.repeats)
    })
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "C3STR", takes_channels: true, repeats_inside: true, ratio_after: None, build: module }
}
