//! The closed set of primitive ops, as it stands in files. What each op is to the passes stands in `ops`, one file per family: a new
//! variant makes the compiler name the table there, `name` and the exporters, and nothing else.

#![deny(clippy::wildcard_enum_match_arm)]

use serde::{Deserialize, Serialize};

use crate::ParamRole;
use crate::ops::CustomOp;
use crate::params::Init;
use crate::quant::FakeQuantSpec;

/// Point-wise non-linearities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// max(x, slope * x).
    LeakyRelu(f64),
    /// x * relu6(x + 3) / 6.
    Hardswish,
    /// relu6(x + 3) / 6.
    Hardsigmoid,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// x * Phi(x), exact (erf) form.
    Gelu,
    /// tanh(x).
    Tanh,
}

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReduceKind {
    /// Arithmetic mean.
    Mean,
    /// Maximum.
    Max,
    /// Sum.
    Sum,
}

/// One dimension of a reshape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dim {
    /// The same size as this axis of the input.
    Keep(usize),
    /// A fixed size.
    Fixed(i64),
    /// Whatever is left (once at most).
    Infer,
    /// The size of this axis of the second input, which gives its shape only.
    Like(usize),
}

/// A primitive op. Maps are `[N, C, H, W]`, token sequences `[N, T, C]`; batch, height and width stay symbolic.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// The image, `[N, channels, H, W]`, values in 0..1.
    Input {
        /// Channels of the image.
        channels: i64,
    },
    /// 2-D convolution. Parameters: `weight` `[cout, cin / groups, kh, kw]`, `bias`.
    Conv2d {
        /// Input channels.
        cin: i64,
        /// Output channels.
        cout: i64,
        /// Height and width of the kernel.
        kernel: [i64; 2],
        /// Vertical and horizontal stride.
        stride: [i64; 2],
        /// Zeros added at top/bottom and left/right.
        padding: [i64; 2],
        /// Dilation.
        dilation: [i64; 2],
        /// Groups; `cin` for a depthwise convolution.
        groups: i64,
        /// Whether there is a bias.
        bias: bool,
        /// Fake quantizer of the weight.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight_quant: Option<FakeQuantSpec>,
        /// Fake quantizer of the bias.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias_quant: Option<FakeQuantSpec>,
    },
    /// Modulated deformable convolution (DCNv2, arXiv 1811.11168). Inputs: map, offsets `[N, 2*kh*kw, H, W]` in (dy, dx)
    /// order, mask `[N, kh*kw, H, W]`. Parameters as `Conv2d`.
    DeformConv2d {
        /// Input channels.
        cin: i64,
        /// Output channels.
        cout: i64,
        /// Kernel.
        kernel: [i64; 2],
        /// Stride.
        stride: [i64; 2],
        /// Padding.
        padding: [i64; 2],
        /// Dilation.
        dilation: [i64; 2],
        /// Whether there is a bias.
        bias: bool,
    },
    /// Batch normalisation over axis 1. Parameters: `weight`, `bias`; buffers: `running_mean`, `running_var`,
    /// `num_batches_tracked`.
    BatchNorm {
        /// Channels.
        channels: i64,
        /// Added to the variance.
        eps: f64,
        /// Weight of the new batch in the running statistics.
        momentum: f64,
    },
    /// Layer normalisation over the last axis. Parameters: `weight`, `bias`.
    LayerNorm {
        /// Size of the last axis.
        channels: i64,
        /// Added to the variance.
        eps: f64,
    },
    /// Linear map of the last axis. Parameters: `weight` `[cout, cin]`, `bias`.
    Linear {
        /// Size of the last axis of the input.
        cin: i64,
        /// Size of the last axis of the output.
        cout: i64,
        /// Whether there is a bias.
        bias: bool,
        /// Fake quantizer of the weight.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight_quant: Option<FakeQuantSpec>,
        /// Fake quantizer of the bias.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias_quant: Option<FakeQuantSpec>,
    },
    /// Point-wise non-linearity.
    Act {
        /// Which.
        act: Activation,
    },
    /// Sum of two values with broadcasting.
    Add,
    /// Difference of two values with broadcasting.
    Sub,
    /// Product of two values with broadcasting.
    Mul,
    /// Quotient of two values with broadcasting.
    Div,
    /// `x * mul + add`.
    Affine {
        /// Factor.
        mul: f64,
        /// Summand.
        add: f64,
    },
    /// Joins values along an axis.
    Concat {
        /// Axis.
        dim: usize,
    },
    /// Part of an axis: `start..start + len`, every `step`-th element.
    Slice {
        /// Axis.
        dim: usize,
        /// First element.
        start: i64,
        /// Number of elements in the result.
        len: i64,
    },
    /// Interleaves `groups` groups of channels (ShuffleNet, arXiv 1707.01083): channel `g * n + i` goes to `i * groups + g`.
    ChannelShuffle {
        /// Number of groups.
        groups: i64,
    },
    /// 2 x 2 pixel blocks to channels, in the order of Ultralytics' Focus: (even, even), (odd, even), (even, odd), (odd, odd)
    /// as (row, column).
    SpaceToDepth,
    /// Maximum over windows.
    MaxPool {
        /// Window.
        kernel: i64,
        /// Stride.
        stride: i64,
        /// Padding (with minus infinity).
        padding: i64,
    },
    /// Mean over windows (padding counts as zeros).
    AvgPool {
        /// Window.
        kernel: i64,
        /// Stride.
        stride: i64,
        /// Padding.
        padding: i64,
    },
    /// Zeros around height and width.
    Pad {
        /// Rows above.
        top: i64,
        /// Rows below.
        bottom: i64,
        /// Columns to the left.
        left: i64,
        /// Columns to the right.
        right: i64,
    },
    /// Reduction over axes, which stay with size 1.
    Reduce {
        /// What.
        kind: ReduceKind,
        /// Axes.
        dims: Vec<usize>,
    },
    /// Nearest-neighbour enlargement of height and width.
    Upsample {
        /// Factor.
        scale: i64,
    },
    /// Bilinear enlargement of height and width: centres of pixels are half a pixel from the corner, and the border is repeated
    /// (`nn.Upsample(mode="bilinear", align_corners=False)`).
    Bilinear {
        /// Factor.
        scale: i64,
    },
    /// Matrix product of the last two axes, batched over the others.
    MatMul {
        /// Transpose the last two axes of the second input first.
        transpose_b: bool,
    },
    /// Softmax over an axis counted from the end (1 is the last).
    Softmax {
        /// Axis, counted from the end.
        from_end: usize,
    },
    /// Another view of the same elements in the same order.
    Reshape {
        /// The new shape.
        dims: Vec<Dim>,
    },
    /// Reorders axes.
    Permute {
        /// New order.
        dims: Vec<usize>,
    },
    /// `[N, C, H, W]` to `[N * windows, size * size, C]`: pads bottom and right to a multiple of `size` with zeros, rolls by
    /// `-shift` on both axes, cuts into windows, row-major.
    WindowPartition {
        /// Side of a window.
        size: i64,
        /// Cyclic shift.
        shift: i64,
        /// No shift where one window covers the map (Swin's rule).
        guard: bool,
    },
    /// The inverse of `WindowPartition`; the second input gives batch, height and width.
    WindowMerge {
        /// Side of a window.
        size: i64,
        /// Cyclic shift.
        shift: i64,
        /// As in the partition.
        guard: bool,
    },
    /// Attention mask `[windows, 1, size^2, size^2]` (0 or -100) for a shifted partition of the input map: tokens attend within
    /// their region only; with `mask_padding`, never to padded tokens.
    WindowMask {
        /// Side of a window.
        size: i64,
        /// Cyclic shift.
        shift: i64,
        /// As in the partition.
        guard: bool,
        /// Also mask padded tokens.
        mask_padding: bool,
    },
    /// Rows of a table by a fixed index: input 0 is `[rows, heads]`, the result `[1, heads, t, t]` for the relative positions of
    /// a `size` x `size` window (Swin, arXiv 2103.14030). Buffer: `relative_position_index`.
    RelativePositionBias {
        /// Side of a window.
        size: i64,
    },
    /// Adds a `[windows, 1, t, t]` mask to `[N * windows, heads, t, t]` scores.
    AddWindowMask,
    /// Zeros elements at random in training (inverted dropout).
    Dropout {
        /// Probability.
        p: f64,
    },
    /// Zeros whole samples at random in training (stochastic depth, arXiv 1603.09382).
    DropPath {
        /// Probability.
        p: f64,
    },
    /// A trained tensor; its key is the node's name.
    Parameter {
        /// Shape.
        shape: Vec<i64>,
        /// What it is to the optimizer.
        role: ParamRole,
        /// How it starts.
        init: Init,
    },
    /// A fixed tensor.
    Constant {
        /// Shape.
        shape: Vec<i64>,
        /// Values, row-major.
        values: Vec<f32>,
    },
    /// Fake quantizer of an activation. Parameters: `scale`, `zero_point`.
    FakeQuant {
        /// Bits, range, granularity, rounding.
        quant: FakeQuantSpec,
    },
    /// A plugin's own forward.
    Custom {
        /// The op.
        custom: Box<dyn CustomOp>,
    },
}

impl Op {
    /// What [`Op::name`] may give, in the order of the enum, for what is named by people.
    pub const NAMES: [&str; 37] = [
        "input",
        "conv2d",
        "deform-conv2d",
        "batch-norm",
        "layer-norm",
        "linear",
        "act",
        "add",
        "sub",
        "mul",
        "div",
        "affine",
        "concat",
        "slice",
        "channel-shuffle",
        "space-to-depth",
        "max-pool",
        "avg-pool",
        "pad",
        "reduce",
        "upsample",
        "bilinear",
        "matmul",
        "softmax",
        "reshape",
        "permute",
        "window-partition",
        "window-merge",
        "window-mask",
        "relative-position-bias",
        "add-window-mask",
        "dropout",
        "drop-path",
        "parameter",
        "constant",
        "fake-quant",
        "custom",
    ];

    /// Name in tables and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv2d { .. } => "conv2d",
            Self::DeformConv2d { .. } => "deform-conv2d",
            Self::BatchNorm { .. } => "batch-norm",
            Self::LayerNorm { .. } => "layer-norm",
            Self::Linear { .. } => "linear",
            Self::Act { .. } => "act",
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Affine { .. } => "affine",
            Self::Concat { .. } => "concat",
            Self::Slice { .. } => "slice",
            Self::ChannelShuffle { .. } => "channel-shuffle",
            Self::SpaceToDepth => "space-to-depth",
            Self::MaxPool { .. } => "max-pool",
            Self::AvgPool { .. } => "avg-pool",
            Self::Pad { .. } => "pad",
            Self::Reduce { .. } => "reduce",
            Self::Upsample { .. } => "upsample",
            Self::Bilinear { .. } => "bilinear",
            Self::MatMul { .. } => "matmul",
            Self::Softmax { .. } => "softmax",
            Self::Reshape { .. } => "reshape",
            Self::Permute { .. } => "permute",
            Self::WindowPartition { .. } => "window-partition",
            Self::WindowMerge { .. } => "window-merge",
            Self::WindowMask { .. } => "window-mask",
            Self::RelativePositionBias { .. } => "relative-position-bias",
            Self::AddWindowMask => "add-window-mask",
            Self::Dropout { .. } => "dropout",
            Self::DropPath { .. } => "drop-path",
            Self::Parameter { .. } => "parameter",
            Self::Constant { .. } => "constant",
            Self::FakeQuant { .. } => "fake-quant",
            Self::Custom { .. } => "custom",
        }
    }

    /// Whether it has a weight that backends quantize.
    pub fn is_weighted(&self) -> bool {
        matches!(self, Self::Conv2d { .. } | Self::Linear { .. })
    }

    /// The fake quantizer of its weight.
    pub fn weight_quant(&self) -> Option<&FakeQuantSpec> {
        if let Self::Conv2d { weight_quant, .. } | Self::Linear { weight_quant, .. } = self {
            weight_quant.as_ref()
        } else {
            None
        }
    }

    /// The fake quantizer of its bias.
    pub fn bias_quant(&self) -> Option<&FakeQuantSpec> {
        if let Self::Conv2d { bias_quant, .. } | Self::Linear { bias_quant, .. } = self {
            bias_quant.as_ref()
        } else {
            None
        }
    }

    /// Takes the fake quantizers of its own tensors away.
    pub fn unquantize(&mut self) {
        if let Self::Conv2d {
            weight_quant,
            bias_quant,
            ..
        }
        | Self::Linear {
            weight_quant,
            bias_quant,
            ..
        } = self
        {
            (*weight_quant, *bias_quant) = (None, None);
        }
    }

    /// A plain convolution: bias and quantizer off, dilation 1.
    pub fn conv(cin: i64, cout: i64, kernel: i64, stride: i64, padding: i64, groups: i64, bias: bool) -> Self {
        Self::Conv2d {
            cin,
            cout,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [1; 2],
            groups,
            bias,
            weight_quant: None,
            bias_quant: None,
        }
    }

    /// A linear layer.
    pub fn linear(cin: i64, cout: i64, bias: bool) -> Self {
        Self::Linear {
            cin,
            cout,
            bias,
            weight_quant: None,
            bias_quant: None,
        }
    }
}
