//! Convolution, batch normalisation, activation.

use crate::graph::Activation;
use crate::{GraphBuilder, Op, Result, ValueId};

/// Epsilon of every batch norm of the YOLOv5 family.
pub const BN_EPS: f64 = 1e-3;
/// Momentum of every batch norm of the YOLOv5 family.
pub const BN_MOMENTUM: f64 = 0.03;

/// Options of [`conv_bn_act`].
#[derive(Debug, Clone, Copy)]
pub struct ConvOptions {
    /// Side of the kernel.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Padding; `None` is "same" (`kernel / 2`).
    pub padding: Option<i64>,
    /// Groups.
    pub groups: i64,
    /// Activation; `None` is the identity.
    pub act: Option<Activation>,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self {
            kernel: 1,
            stride: 1,
            padding: None,
            groups: 1,
            act: Some(Activation::Silu),
        }
    }
}

/// A batch norm called `name` with the family's constants.
pub fn batch_norm(g: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
    let channels = g.channels(x);
    g.add(
        name,
        Op::BatchNorm {
            channels,
            eps: BN_EPS,
            momentum: BN_MOMENTUM,
        },
        &[x],
    )
}

/// Ultralytics' `Conv` in the current scope: `conv` (no bias), `bn`, activation.
///
/// # Shapes
/// `[N, c, H, W]` to `[N, cout, H / stride, W / stride]`.
pub fn conv_bn_act(g: &mut GraphBuilder, x: ValueId, cout: i64, o: ConvOptions) -> Result<ValueId> {
    let padding = o.padding.unwrap_or(o.kernel / 2);
    let op = Op::conv(g.channels(x), cout, o.kernel, o.stride, padding, o.groups, false);
    let x = g.add("conv", op, &[x])?;
    let x = batch_norm(g, "bn", x)?;
    match o.act {
        Some(act) => g.add("act", Op::Act { act }, &[x]),
        None => Ok(x),
    }
}

/// `Conv` with SiLU in a scope of its own.
pub fn conv(g: &mut GraphBuilder, name: &str, x: ValueId, cout: i64, kernel: i64, stride: i64) -> Result<ValueId> {
    g.scope(name, |g| {
        conv_bn_act(
            g,
            x,
            cout,
            ConvOptions {
                kernel,
                stride,
                ..ConvOptions::default()
            },
        )
    })
}

/// Convolution and batch norm with names of their own and nothing after, as `nn.Sequential` numbers them.
pub fn bare_conv_bn(
    g: &mut GraphBuilder,
    names: (&str, &str),
    x: ValueId,
    cout: i64,
    o: ConvOptions,
) -> Result<ValueId> {
    let padding = o.padding.unwrap_or(o.kernel / 2);
    let x = g.add(
        names.0,
        Op::conv(g.channels(x), cout, o.kernel, o.stride, padding, o.groups, false),
        &[x],
    )?;
    batch_norm(g, names.1, x)
}

/// Focus: 2 x 2 pixel blocks become channels, then a convolution.
///
/// # Shapes
/// `[N, c, H, W]` to `[N, cout, H / 2 / stride, W / 2 / stride]`.
pub fn focus(g: &mut GraphBuilder, x: ValueId, cout: i64, o: ConvOptions) -> Result<ValueId> {
    let x = g.add("focus", Op::SpaceToDepth, &[x])?;
    g.scope("conv", |g| conv_bn_act(g, x, cout, o))
}
