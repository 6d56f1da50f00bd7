//! Squeeze-and-excitation (arXiv 1709.01507): channels weigh themselves by their mean over the map.

use crate::graph::{Activation, ReduceKind};
use crate::{GraphBuilder, Op, Result, ValueId};

/// Multiplies each channel by `gate(FC2(relu(FC1(mean(x)))))`, with `hidden` channels between.
///
/// # Shapes
/// `[N, c, H, W]` to the same.
pub fn squeeze_excite(g: &mut GraphBuilder, x: ValueId, hidden: i64, gate: Activation) -> Result<ValueId> {
    let width = g.channels(x);
    let mean = Op::Reduce {
        kind: ReduceKind::Mean,
        dims: vec![2, 3],
    };
    let y = g.add("Squeeze", mean, &[x])?;
    let y = g.scope("Excitation", |g| {
        let y = g.add("FC1", Op::conv(width, hidden, 1, 1, 0, 1, true), &[y])?;
        let act = Activation::Relu;
        let y = g.add("ReLU", Op::Act { act }, &[y])?;
        let y = g.add("FC2", Op::conv(hidden, width, 1, 1, 0, 1, true), &[y])?;
        g.add("Gate", Op::Act { act: gate }, &[y])
    })?;
    g.add("scale", Op::Mul, &[x, y])
}
