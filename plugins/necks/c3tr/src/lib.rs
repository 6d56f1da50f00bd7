//! C3TR: C3 with a transformer encoder in place of the bottlenecks, the prediction block of TPH-YOLOv5 (arXiv 2108.11539).

use yolo_sdk::prelude::*;

/// Options of C3TR.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct C3Tr {
    /// Heads of the attention; the inner width is divided among them.
    pub heads: i64,
    /// Dropout in the feed-forward part.
    pub dropout: f64,
    /// A plain encoder or the one of the published TPH net.
    pub variant: Variant,
}

/// Which encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Variant {
    /// One projection each for query, key and value, GELU, and positions from a depthwise 3 x 3 convolution (conditional
    /// positional encoding, arXiv 2102.10882), which works for any image size.
    #[default]
    Encoder,
    /// The published TPH net: query, key and value projected twice, ReLU, and a linear map of each token in the place of its
    /// position (so the block does not see where a token stands).
    Published,
}

impl Default for C3Tr {
    fn default() -> Self {
        Self {
            heads: 4,
            dropout: 0.1,
            variant: Variant::Encoder,
        }
    }
}

/// Epsilon of the layer norms.
const EPS: f64 = 1e-5;
/// Width of the feed-forward part per input channel.
const EXPANSION: i64 = 4;

#[typetag::serde(name = "c3tr")]
impl NeckBlock for C3Tr {
    fn layer_name(&self) -> &str {
        "C3TR"
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        let hidden = request.channels / 2;
        self.check(hidden)?;
        nn::csp(g, inputs[0].value, request.channels, (hidden, hidden), |g, x| {
            self.encoder(g, x, request.repeats)
        })
    }
}

impl C3Tr {
    fn check(&self, width: i64) -> Result<()> {
        let fail = |reason: String| {
            Err(Error::Build {
                plugin: "c3tr".into(),
                reason,
            })
        };
        if self.heads < 1 || width % self.heads != 0 {
            return fail(format!(
                "{width} inner channels can't be divided among {} heads",
                self.heads
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail(format!("`dropout` must lie in 0..1, not {}", self.dropout));
        }
        Ok(())
    }

    /// Positions, then `layers` encoder layers on the tokens of the map.
    fn encoder(&self, g: &mut GraphBuilder, x: ValueId, layers: i64) -> Result<ValueId> {
        let width = g.channels(x);
        let mut y = match self.variant {
            Variant::Encoder => {
                let op = Op::conv(width, width, 3, 1, 1, width, true);
                let position = g.add("position", op, &[x])?;
                let y = g.add("placed", Op::Add, &[x, position])?;
                nn::tokens(g, y)?
            }
            Variant::Published => {
                let tokens = nn::tokens(g, x)?;
                let linear = g.add("linear", Op::linear(width, width, true), &[tokens])?;
                g.add("placed", Op::Add, &[tokens, linear])?
            }
        };
        for layer in 0..layers {
            y = g.scope(format!("tr.{layer}"), |g| self.layer(g, y))?;
        }
        nn::map(g, y, x)
    }

    /// Attention and feed-forward part, each with a layer norm before and a residual connection around.
    fn layer(&self, g: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let width = g.shape(x).last().copied().unwrap_or(1);
        let norm = Op::LayerNorm {
            channels: width,
            eps: EPS,
        };
        let y = g.add("layernorm1", norm.clone(), &[x])?;
        let y = match self.variant {
            Variant::Encoder => {
                let qkv = g.add("ma.qkv", Op::linear(width, 3 * width, true), &[y])?;
                g.scope("ma", |g| {
                    let parts = nn::thirds(g, qkv)?;
                    let y = nn::attention(g, parts, self.heads, |_, scores| Ok(scores))?;
                    g.add("proj", Op::linear(width, width, true), &[y])
                })?
            }
            Variant::Published => self.twice_projected(g, y, width)?,
        };
        let x = g.add("add1", Op::Add, &[y, x])?;
        let y = g.add("layernorm2", norm, &[x])?;
        let plain = self.variant == Variant::Encoder;
        let y = g.add("fc1", Op::linear(width, EXPANSION * width, plain), &[y])?;
        let act = if plain { Activation::Gelu } else { Activation::Relu };
        let y = g.add("act", Op::Act { act }, &[y])?;
        let drop = Op::Dropout { p: self.dropout };
        let y = g.add("dropout1", drop.clone(), &[y])?;
        let y = g.add("fc2", Op::linear(EXPANSION * width, width, plain), &[y])?;
        let y = g.add("dropout2", drop, &[y])?;
        g.add("add2", Op::Add, &[y, x])
    }

    /// Linear maps `q`, `k`, `v`, and then the attention's own projections, which share one tensor.
    fn twice_projected(&self, g: &mut GraphBuilder, x: ValueId, width: i64) -> Result<ValueId> {
        let mut first = [x; 3];
        for (name, slot) in ["q", "k", "v"].into_iter().zip(&mut first) {
            *slot = g.add(name, Op::linear(width, width, false), &[x])?;
        }
        g.scope("ma", |g| {
            let parameter = |shape: Vec<i64>, role, init| Op::Parameter { shape, role, init };
            let xavier = Init::Xavier {
                fan_in: width,
                fan_out: 3 * width,
            };
            let weight = parameter(vec![3 * width, width], ParamRole::Weight, xavier);
            let weight = g.add("in_proj_weight", weight, &[])?;
            let bias = parameter(vec![3 * width], ParamRole::Bias, Init::Const(0.0));
            let bias = g.add("in_proj_bias", bias, &[])?;
            let mut second = [x; 3];
            for (index, (name, slot)) in ["q", "k", "v"].into_iter().zip(&mut second).enumerate() {
                let part = Op::Slice {
                    dim: 0,
                    start: index as i64 * width,
                    len: width,
                };
                let w = g.add(&format!("{name}_weight"), part.clone(), &[weight])?;
                let b = g.add(&format!("{name}_bias"), part, &[bias])?;
                let matmul = Op::MatMul { transpose_b: true };
                let y = g.add(&format!("{name}_matmul"), matmul, &[first[index], w])?;
                *slot = g.add(name, Op::Add, &[y, b])?;
            }
            let parts = (second[0], second[1], second[2]);
            let y = nn::attention(g, parts, self.heads, |_, scores| Ok(scores))?;
            g.add("out_proj", Op::linear(width, width, true), &[y])
        })
    }
}

yolo_sdk::plugin! {
    neck_block C3Tr = "c3tr" {
        summary: "C3 with a transformer encoder inside, the prediction block of TPH-YOLOv5",
        paper: ("TPH-YOLOv5: Improved YOLOv5 Based on Transformer Prediction Head for Object Detection on Drone-captured Scenarios", "https://arxiv.org/abs/2108.11539", 2021, "TPH-YOLOv5 (ICCVW 2021)"),
        example: { "type": "c3tr", "heads": 4 },
    }
}

/// C3TR in a layer list: shortcut, groups (both without effect), inner width.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let block = C3Tr {
        variant: Variant::Published,
        ..C3Tr::default()
    };
    let hidden = (call.channels as f64 * call.float(2, 0.5)?) as i64;
    block.check(hidden)?;
    nn::csp(g, call.input().value, call.channels, (hidden, hidden), |g, x| {
        block.encoder(g, x, call.repeats)
    })
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "C3TR", takes_channels: true, repeats_inside: true, ratio_after: None, build: module }
}
