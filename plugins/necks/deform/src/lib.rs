//! Deformable convolution (DCNv2, arXiv 1811.11168) as a block: C3 whose 3 x 3 convolutions look where the map tells them to.

use yolo_sdk::prelude::*;

/// Options of the deformable block.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Deform {
    /// What is deformable.
    pub form: Form,
    /// Kernel (odd).
    pub kernel: i64,
    /// Residual connections inside, whatever the place asks for.
    pub shortcut: Option<bool>,
}

/// Shape of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", rename_all = "kebab-case")]
#[schemars(crate = "yolo_sdk::schemars")]
pub enum Form {
    /// C3 with deformable convolutions in its bottlenecks.
    #[default]
    C3,
    /// One deformable convolution with batch norm and SiLU.
    Conv,
}

impl Default for Deform {
    fn default() -> Self {
        Self {
            form: Form::C3,
            kernel: 3,
            shortcut: None,
        }
    }
}

#[typetag::serde(name = "deform")]
impl NeckBlock for Deform {
    fn layer_name(&self) -> &str {
        match self.form {
            Form::C3 => "C3Deform",
            Form::Conv => "DeformConv",
        }
    }

    fn build(&self, g: &mut GraphBuilder, inputs: &[Feat], request: BlockRequest) -> Result<ValueId> {
        if self.kernel < 1 || self.kernel % 2 != 1 {
            return Err(Error::Build {
                plugin: "deform".into(),
                reason: format!("`kernel` must be odd, not {}", self.kernel),
            });
        }
        let x = inputs[0].value;
        if self.form == Form::Conv {
            return self.conv(g, x, request.channels);
        }
        let hidden = request.channels / 2;
        let shortcut = self.shortcut.unwrap_or(request.shortcut);
        nn::csp(g, x, request.channels, (hidden, hidden), |g, mut x| {
            for index in 0..request.repeats {
                x = g.scope(index.to_string(), |g| {
                    let y = nn::conv(g, "cv1", x, hidden, 1, 1)?;
                    let y = g.scope("cv2", |g| self.conv(g, y, hidden))?;
                    if shortcut {
                        g.add("add", Op::Add, &[x, y])
                    } else {
                        Ok(y)
                    }
                })?;
            }
            Ok(x)
        })
    }
}

impl Deform {
    /// Equation 1: a plain convolution of the input gives offsets and modulation of every tap. Offsets pass a gain that starts
    /// at zero, so that training starts from a regular grid, as the paper's zero initialisation does.
    fn conv(&self, g: &mut GraphBuilder, x: ValueId, channels: i64) -> Result<ValueId> {
        let width = g.channels(x);
        let taps = self.kernel * self.kernel;
        let guide = Op::conv(width, 3 * taps, self.kernel, 1, self.kernel / 2, 1, true);
        let guide = g.add("guide", guide, &[x])?;
        let part = |start, len| Op::Slice { dim: 1, start, len };
        let offset = g.add("offset", part(0, 2 * taps), &[guide])?;
        let gain = Op::Parameter {
            shape: vec![1],
            role: ParamRole::Table,
            init: Init::Const(0.0),
        };
        let gain = g.add("offset_gain", gain, &[])?;
        let offset = g.add("moved", Op::Mul, &[offset, gain])?;
        let mask = g.add("modulation", part(2 * taps, taps), &[guide])?;
        let act = Activation::Sigmoid;
        let mask = g.add("mask", Op::Act { act }, &[mask])?;
        let op = Op::DeformConv2d {
            cin: width,
            cout: channels,
            kernel: [self.kernel; 2],
            stride: [1; 2],
            padding: [self.kernel / 2; 2],
            dilation: [1; 2],
            bias: false,
        };
        let y = g.add("conv", op, &[x, offset, mask])?;
        let y = nn::batch_norm(g, "bn", y)?;
        let act = Activation::Silu;
        g.add("act", Op::Act { act }, &[y])
    }
}

yolo_sdk::plugin! {
    neck_block Deform = "deform" {
        summary: "C3 with modulated deformable convolutions, for the last stages of a backbone and for necks",
        paper: ("Deformable ConvNets v2: More Deformable, Better Results", "https://arxiv.org/abs/1811.11168", 2019, "DCNv2 (CVPR 2019)"),
        example: { "type": "deform", "form": "c3" },
    }
}
