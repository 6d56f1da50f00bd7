//! Cross-stage partial blocks (CSPNet, arXiv 1911.11929) in the forms of the YOLOv5 family.

use super::conv::{ConvOptions, batch_norm, conv, conv_bn_act};
use crate::graph::Activation;
use crate::{GraphBuilder, Op, Result, ValueId};

/// Options of [`bottleneck`].
#[derive(Debug, Clone, Copy)]
pub struct BottleneckOptions {
    /// Add the input where the widths allow it.
    pub shortcut: bool,
    /// Groups of the 3 x 3 convolution.
    pub groups: i64,
    /// Hidden width as a part of the output width.
    pub expansion: f64,
}

impl Default for BottleneckOptions {
    fn default() -> Self {
        Self {
            shortcut: true,
            groups: 1,
            expansion: 0.5,
        }
    }
}

/// 1 x 1, then 3 x 3 convolution, with a residual connection where input and output are equally wide.
pub fn bottleneck(g: &mut GraphBuilder, x: ValueId, cout: i64, o: BottleneckOptions) -> Result<ValueId> {
    let hidden = (cout as f64 * o.expansion) as i64;
    let y = conv(g, "cv1", x, hidden, 1, 1)?;
    let y = g.scope("cv2", |g| {
        let options = ConvOptions {
            kernel: 3,
            groups: o.groups,
            ..ConvOptions::default()
        };
        conv_bn_act(g, y, cout, options)
    })?;
    if o.shortcut && g.channels(x) == cout {
        g.add("add", Op::Add, &[x, y])
    } else {
        Ok(y)
    }
}

/// The frame of the C3 blocks: `cv3(concat(body(cv1(x)), cv2(x)))`, where `hidden` are the widths of `cv1` and `cv2`. The body
/// runs in the scope `m`.
pub fn csp(
    g: &mut GraphBuilder,
    x: ValueId,
    cout: i64,
    hidden: (i64, i64),
    body: impl FnOnce(&mut GraphBuilder, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let deep = conv(g, "cv1", x, hidden.0, 1, 1)?;
    let deep = g.scope("m", |g| body(g, deep))?;
    let shallow = conv(g, "cv2", x, hidden.1, 1, 1)?;
    let joined = g.add("cat", Op::Concat { dim: 1 }, &[deep, shallow])?;
    conv(g, "cv3", joined, cout, 1, 1)
}

/// C3: [`csp`] around `repeats` bottlenecks, half as wide inside.
///
/// # Shapes
/// `[N, c, H, W]` to `[N, cout, H, W]`.
pub fn c3(g: &mut GraphBuilder, x: ValueId, cout: i64, repeats: i64, shortcut: bool) -> Result<ValueId> {
    let hidden = cout / 2;
    csp(g, x, cout, (hidden, hidden), |g, mut x| {
        for index in 0..repeats {
            let options = BottleneckOptions {
                shortcut,
                expansion: 1.0,
                ..BottleneckOptions::default()
            };
            x = g.scope(index.to_string(), |g| bottleneck(g, x, hidden, options))?;
        }
        Ok(x)
    })
}

/// The older CSP bottleneck with 4 convolutions: both branches end in a plain convolution, one batch norm and leaky ReLU follow
/// their concatenation.
pub fn bottleneck_csp(
    g: &mut GraphBuilder,
    x: ValueId,
    cout: i64,
    repeats: i64,
    o: BottleneckOptions,
) -> Result<ValueId> {
    let hidden = (cout as f64 * o.expansion) as i64;
    let mut deep = conv(g, "cv1", x, hidden, 1, 1)?;
    for index in 0..repeats {
        let options = BottleneckOptions { expansion: 1.0, ..o };
        deep = g.scope(format!("m.{index}"), |g| bottleneck(g, deep, hidden, options))?;
    }
    let deep = g.add("cv3", Op::conv(hidden, hidden, 1, 1, 0, 1, false), &[deep])?;
    let width = g.channels(x);
    let shallow = g.add("cv2", Op::conv(width, hidden, 1, 1, 0, 1, false), &[x])?;
    let joined = g.add("cat", Op::Concat { dim: 1 }, &[deep, shallow])?;
    let joined = batch_norm(g, "bn", joined)?;
    let act = Activation::LeakyRelu(0.1);
    let joined = g.add("act", Op::Act { act }, &[joined])?;
    conv(g, "cv4", joined, cout, 1, 1)
}
