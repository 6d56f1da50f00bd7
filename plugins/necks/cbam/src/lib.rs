//! CBAM (arXiv 1807.06521): channels weigh themselves by their mean and maximum over the map, then cells by the mean and maximum
//! over channels.

use yolo_sdk::prelude::*;

/// Options of CBAM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Cbam {
    /// Channels per hidden channel of the channel attention.
    pub ratio: i64,
    /// Kernel of the spatial attention (odd).
    pub kernel: i64,
}

impl Default for Cbam {
    fn default() -> Self {
        Self { ratio: 16, kernel: 7 }
    }
}

#[typetag::serde(name = "cbam")]
impl NeckBlock for Cbam {
    fn layer_name(&self) -> &str {
        "CBAM"
    }

    /// Keeps the width of its input, whatever is asked for.
    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], _: BlockRequest) -> Result<ValueId> {
        if self.ratio < 1 || self.kernel % 2 != 1 {
            return Err(Error::Build {
                plugin: "cbam".into(),
                reason: format!(
                    "`ratio` must be at least 1 and `kernel` odd, not {} and {}",
                    self.ratio, self.kernel
                ),
            });
        }
        let x = self.channels(g, inputs[0])?;
        self.cells(g, x)
    }
}

impl Cbam {
    /// Equation 2: one small network on mean and maximum, the sum through a sigmoid. Its weights are shared: both passes have
    /// the same names.
    fn channels(&self, g: &mut GraphBuilder, x: Feat) -> Result<ValueId> {
        let hidden = (x.channels / self.ratio).max(1);
        let gate = g.scope("channel_attention", |g| {
            let mut sides = Vec::new();
            for (name, kind) in [("avg_pool", ReduceKind::Mean), ("max_pool", ReduceKind::Max)] {
                let dims = vec![2, 3];
                let y = g.add(name, Op::Reduce { kind, dims }, &[x.value])?;
                let squeeze = Op::conv(x.channels, hidden, 1, 1, 0, 1, false);
                let y = g.add("fc1", squeeze, &[y])?;
                let act = Activation::Relu;
                let y = g.add("relu1", Op::Act { act }, &[y])?;
                let excite = Op::conv(hidden, x.channels, 1, 1, 0, 1, false);
                sides.push(g.add("fc2", excite, &[y])?);
            }
            let sum = g.add("sum", Op::Add, &sides)?;
            let act = Activation::Sigmoid;
            g.add("sigmoid", Op::Act { act }, &[sum])
        })?;
        g.add("channels", Op::Mul, &[gate, x.value])
    }

    /// Equation 3: mean and maximum over channels, convolved to one map.
    fn cells(&self, g: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let gate = g.scope("spatial_attention", |g| {
            let mut sides = Vec::new();
            for (name, kind) in [("mean", ReduceKind::Mean), ("max", ReduceKind::Max)] {
                let dims = vec![1];
                sides.push(g.add(name, Op::Reduce { kind, dims }, &[x])?);
            }
            let y = g.add("cat", Op::Concat { dim: 1 }, &sides)?;
            let op = Op::conv(2, 1, self.kernel, 1, self.kernel / 2, 1, false);
            let y = g.add("conv1", op, &[y])?;
            let act = Activation::Sigmoid;
            g.add("sigmoid", Op::Act { act }, &[y])
        })?;
        g.add("cells", Op::Mul, &[gate, x])
    }
}

yolo_sdk::plugin! {
    neck_block Cbam = "cbam" {
        summary: "Channel attention, then spatial attention",
        paper: ("CBAM: Convolutional Block Attention Module", "https://arxiv.org/abs/1807.06521", 2018, "CBAM (ECCV 2018)"),
        example: { "type": "cbam", "ratio": 16, "kernel": 7 },
    }
}

/// CBAM in a layer list.
fn module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let request = BlockRequest {
        channels: call.channels,
        repeats: 1,
        shortcut: false,
    };
    Cbam::default().build(g, &[call.input()], request)
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "CBAM", takes_channels: true, repeats_inside: false, ratio_after: None, build: module }
}
