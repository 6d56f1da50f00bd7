//! The inverted residual of MobileNetV3, and its names in layer lists.

use yolo_sdk::prelude::*;

/// What differs between the paper's and the published blocks.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Gate of the squeeze-and-excitation.
    pub gate: Activation,
    /// Its hidden width is a multiple of this.
    pub squeeze_multiple: i64,
    /// It stands before the activation of the depthwise convolution.
    pub squeeze_first: bool,
}

impl Style {
    /// As in the paper.
    pub const PAPER: Self = Self {
        gate: Activation::Hardsigmoid,
        squeeze_multiple: 8,
        squeeze_first: false,
    };
    /// As in the published table.
    pub const PUBLISHED: Self = Self {
        gate: Activation::Sigmoid,
        squeeze_multiple: 1,
        squeeze_first: true,
    };
}

/// One inverted residual.
#[derive(Debug, Clone, Copy)]
pub struct Residual {
    /// Output width.
    pub channels: i64,
    /// Width inside; without expansion equal to the input's.
    pub hidden: i64,
    /// Kernel of the depthwise convolution.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Squeeze-and-excitation.
    pub squeeze: bool,
    /// Hard-swish instead of ReLU.
    pub hard_swish: bool,
}

/// 3 x 3 convolution with hard-swish.
pub fn stem(g: &mut GraphBuilder, x: ValueId, channels: i64, stride: i64) -> Result<ValueId> {
    let options = nn::ConvOptions {
        kernel: 3,
        stride,
        act: Some(Activation::Hardswish),
        ..nn::ConvOptions::default()
    };
    nn::conv_bn_act(g, x, channels, options)
}

/// Expansion, depthwise convolution, squeeze-and-excitation, projection; added to the input where the shapes allow it.
pub fn residual(g: &mut GraphBuilder, x: ValueId, r: Residual, style: Style) -> Result<ValueId> {
    let width = g.channels(x);
    let act = if r.hard_swish {
        Activation::Hardswish
    } else {
        Activation::Relu
    };
    let y = g.scope("conv", |g| {
        let expands = width != r.hidden;
        let mut y = x;
        if expands {
            y = nn::bare_conv_bn(g, ("0", "1"), y, r.hidden, nn::ConvOptions::default())?;
            y = g.add("2", Op::Act { act }, &[y])?;
        }
        // Numbers of the parts that own weights, as the state dict has them.
        let [conv, norm, squeeze, project, last] = if expands {
            ["3", "4", "5", "7", "8"]
        } else {
            ["0", "1", "3", "4", "5"]
        };
        let depthwise = nn::ConvOptions {
            kernel: r.kernel,
            stride: r.stride,
            groups: r.hidden,
            ..nn::ConvOptions::default()
        };
        y = nn::bare_conv_bn(g, (conv, norm), y, r.hidden, depthwise)?;
        let late_act = expands && style.squeeze_first;
        if !late_act {
            y = g.add("act", Op::Act { act }, &[y])?;
        }
        if r.squeeze {
            let multiple = style.squeeze_multiple;
            let hidden = ((r.hidden / 4 + multiple / 2) / multiple * multiple).max(1);
            y = g.scope(squeeze, |g| nn::squeeze_excite(g, y, hidden, style.gate))?;
        }
        if late_act {
            y = g.add("act", Op::Act { act }, &[y])?;
        }
        nn::bare_conv_bn(g, (project, last), y, r.channels, nn::ConvOptions::default())
    })?;
    if r.stride == 1 && width == r.channels {
        g.add("add", Op::Add, &[x, y])
    } else {
        Ok(y)
    }
}

/// The stem in a layer list: stride.
fn stem_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    stem(g, call.input().value, call.channels, call.int(0, 2)?)
}

/// The block in a layer list: hidden width, kernel, stride, squeeze, hard-swish.
fn residual_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let block = Residual {
        channels: call.channels,
        hidden: call.needed_int(0)?,
        kernel: call.needed_int(1)?,
        stride: call.needed_int(2)?,
        squeeze: call.flag(3, false)?,
        hard_swish: call.flag(4, false)?,
    };
    residual(g, call.input().value, block, Style::PUBLISHED)
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "conv_bn_hswish", takes_channels: true, repeats_inside: false, ratio_after: None, build: stem_module }
}
yolo_sdk::inventory::submit! {
    LayerModule { name: "MobileNetV3_InvertedResidual", takes_channels: true, repeats_inside: false, ratio_after: None, build: residual_module }
}
