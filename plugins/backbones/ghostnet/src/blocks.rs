//! Ghost convolution and ghost bottleneck, and their names in layer lists.

use yolo_sdk::prelude::*;

/// What differs between the paper's and the published blocks.
#[derive(Debug, Clone, Copy)]
pub struct Ghost {
    /// Activation.
    pub act: Activation,
    /// Gate of the squeeze-and-excitation.
    pub gate: Activation,
    /// Its hidden width is a multiple of this.
    pub squeeze_multiple: i64,
}

impl Ghost {
    /// As in the paper's code.
    pub const PAPER: Self = Self {
        act: Activation::Relu,
        gate: Activation::Hardsigmoid,
        squeeze_multiple: 4,
    };
    /// As in the published table.
    pub const PUBLISHED: Self = Self {
        act: Activation::Silu,
        gate: Activation::Sigmoid,
        squeeze_multiple: 1,
    };
}

/// One ghost bottleneck.
#[derive(Debug, Clone, Copy)]
pub struct Bottleneck {
    /// Output width.
    pub channels: i64,
    /// Width between the two ghost modules (even).
    pub hidden: i64,
    /// Kernel of the depthwise convolutions.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Squeeze-and-excitation between the ghost modules.
    pub squeeze: bool,
}

/// Ghost module (equation 2): a convolution makes half of the maps, a depthwise 3 x 3 convolution of these the rest.
pub fn ghost_conv(g: &mut GraphBuilder, x: ValueId, cout: i64, options: nn::ConvOptions) -> Result<ValueId> {
    if cout % 2 != 0 {
        return Err(Error::Build {
            plugin: "ghostnet".into(),
            reason: format!("a ghost module needs an even width, not {cout}"),
        });
    }
    let primary = g.scope("primary_conv", |g| nn::conv_bn_act(g, x, cout / 2, options))?;
    let cheap = g.scope("cheap_operation", |g| {
        let options = nn::ConvOptions {
            kernel: 3,
            groups: cout / 2,
            act: options.act,
            ..nn::ConvOptions::default()
        };
        nn::conv_bn_act(g, primary, cout / 2, options)
    })?;
    g.add("cat", Op::Concat { dim: 1 }, &[primary, cheap])
}

/// Ghost bottleneck (figure 3): two ghost modules, with a strided depthwise convolution and squeeze-and-excitation between, and a
/// shortcut.
pub fn bottleneck(g: &mut GraphBuilder, x: ValueId, b: Bottleneck, ghost: Ghost) -> Result<ValueId> {
    let width = g.channels(x);
    let plain = |act| nn::ConvOptions {
        act,
        ..nn::ConvOptions::default()
    };
    let depthwise = |groups| nn::ConvOptions {
        kernel: b.kernel,
        stride: b.stride,
        groups,
        act: None,
        ..nn::ConvOptions::default()
    };
    let mut y = g.scope("conv.0", |g| ghost_conv(g, x, b.hidden, plain(Some(ghost.act))))?;
    if b.stride == 2 {
        y = g.scope("conv.1", |g| nn::conv_bn_act(g, y, b.hidden, depthwise(b.hidden)))?;
    }
    if b.squeeze {
        let multiple = ghost.squeeze_multiple;
        let hidden = (b.hidden / 4 + multiple / 2) / multiple * multiple;
        y = g.scope("conv.2", |g| nn::squeeze_excite(g, y, hidden.max(1), ghost.gate))?;
    }
    let y = g.scope("conv.3", |g| ghost_conv(g, y, b.channels, plain(None)))?;
    let shortcut = if b.stride == 1 && width == b.channels {
        x
    } else {
        let side = g.scope("shortcut.0", |g| nn::conv_bn_act(g, x, width, depthwise(width)))?;
        g.scope("shortcut.1", |g| nn::conv_bn_act(g, side, b.channels, plain(None)))?
    };
    g.add("add", Op::Add, &[y, shortcut])
}

/// `GhostBottleneck` in a layer list: hidden width, kernel (which the published nets ignore), stride, squeeze.
fn bottleneck_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let block = Bottleneck {
        channels: call.channels,
        hidden: call.needed_int(0)?,
        kernel: 3,
        stride: call.int(2, 1)?,
        squeeze: call.flag(3, false)?,
    };
    bottleneck(g, call.input().value, block, Ghost::PUBLISHED)
}

/// `GhostConv` in a layer list: kernel, stride, groups, activation.
fn conv_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let options = nn::ConvOptions {
        kernel: call.int(0, 1)?,
        stride: call.int(1, 1)?,
        padding: None,
        groups: call.int(2, 1)?,
        act: call.flag(3, true)?.then_some(Activation::Silu),
    };
    ghost_conv(g, call.input().value, call.channels, options)
}

/// `C3Ghost` in a layer list: C3 with ghost bottlenecks.
fn csp_module(g: &mut GraphBuilder, call: &Call<'_>) -> Result<ValueId> {
    let hidden = (call.channels as f64 * call.float(2, 0.5)?) as i64;
    nn::csp(g, call.input().value, call.channels, (hidden, hidden), |g, mut x| {
        for index in 0..call.repeats {
            let block = Bottleneck {
                channels: hidden,
                hidden,
                kernel: 3,
                stride: 1,
                squeeze: false,
            };
            x = g.scope(index.to_string(), |g| bottleneck(g, x, block, Ghost::PUBLISHED))?;
        }
        Ok(x)
    })
}

yolo_sdk::inventory::submit! {
    LayerModule { name: "GhostBottleneck", takes_channels: true, repeats_inside: false, ratio_after: None, build: bottleneck_module }
}
yolo_sdk::inventory::submit! {
    LayerModule { name: "GhostConv", takes_channels: true, repeats_inside: false, ratio_after: None, build: conv_module }
}
yolo_sdk::inventory::submit! {
    LayerModule { name: "C3Ghost", takes_channels: true, repeats_inside: true, ratio_after: None, build: csp_module }
}
