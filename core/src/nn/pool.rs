//! Spatial pyramid pooling (arXiv 1406.4729) in the forms of the YOLOv5 family.

use super::conv::conv;
use crate::{GraphBuilder, Op, Result, ValueId};

fn same_max_pool(g: &mut GraphBuilder, name: &str, x: ValueId, kernel: i64) -> Result<ValueId> {
    let op = Op::MaxPool {
        kernel,
        stride: 1,
        padding: kernel / 2,
    };
    g.add(name, op, &[x])
}

/// SPP: the input and its maxima over windows of several sizes side by side, between two 1 x 1 convolutions.
///
/// # Shapes
/// `[N, c, H, W]` to `[N, cout, H, W]`; `hidden` channels are pooled.
pub fn spp(g: &mut GraphBuilder, x: ValueId, cout: i64, hidden: i64, kernels: &[i64]) -> Result<ValueId> {
    let x = conv(g, "cv1", x, hidden, 1, 1)?;
    let mut parts = vec![x];
    for (index, kernel) in kernels.iter().enumerate() {
        parts.push(same_max_pool(g, &format!("m.{index}"), x, *kernel)?);
    }
    let joined = g.add("cat", Op::Concat { dim: 1 }, &parts)?;
    conv(g, "cv2", joined, cout, 1, 1)
}

/// SPPF: three max pools in a row see the windows 5, 9 and 13 for `kernel` = 5 and equal [`spp`] with these.
///
/// # Shapes
/// `[N, c, H, W]` to `[N, cout, H, W]`; `hidden` channels are pooled.
pub fn sppf(g: &mut GraphBuilder, x: ValueId, cout: i64, hidden: i64, kernel: i64) -> Result<ValueId> {
    let x = conv(g, "cv1", x, hidden, 1, 1)?;
    let mut parts = vec![x];
    for index in 0..3 {
        let pooled = same_max_pool(g, &format!("m.{index}"), parts[index], kernel)?;
        parts.push(pooled);
    }
    let joined = g.add("cat", Op::Concat { dim: 1 }, &parts)?;
    conv(g, "cv2", joined, cout, 1, 1)
}
