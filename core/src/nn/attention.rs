//! Tokens and multi-head attention (arXiv 1706.03762), shared by the transformer blocks.

use crate::graph::Dim;
use crate::{GraphBuilder, Op, Result, ValueId};

/// `[N, C, H, W]` to tokens `[N, H * W, C]`, row by row.
pub fn tokens(g: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
    let dims = vec![Dim::Keep(0), Dim::Keep(1), Dim::Infer];
    let x = g.add("flat", Op::Reshape { dims }, &[x])?;
    let dims = vec![0, 2, 1];
    g.add("tokens", Op::Permute { dims }, &[x])
}

/// Tokens `[N, H * W, C]` back to a map of the height and width of `like`.
pub fn map(g: &mut GraphBuilder, x: ValueId, like: ValueId) -> Result<ValueId> {
    let dims = vec![0, 2, 1];
    let x = g.add("untokens", Op::Permute { dims }, &[x])?;
    let dims = vec![Dim::Keep(0), Dim::Keep(1), Dim::Like(2), Dim::Like(3)];
    g.add("map", Op::Reshape { dims }, &[x, like])
}

/// Scaled dot-product attention over `heads` heads: softmax(q k^T / sqrt(d) + bias) v. `bias` may add to the scores
/// `[N, heads, T, T]`.
///
/// # Shapes
/// `q`, `k`, `v` and the result: `[N, T, C]` with C a multiple of `heads`.
pub fn attention(
    g: &mut GraphBuilder,
    (q, k, v): (ValueId, ValueId, ValueId),
    heads: i64,
    bias: impl FnOnce(&mut GraphBuilder, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let width = g.shape(q).last().copied().unwrap_or(1);
    let mut split = |name: &str, x: ValueId| {
        let dims = vec![Dim::Keep(0), Dim::Keep(1), Dim::Fixed(heads), Dim::Fixed(width / heads)];
        let x = g.add(&format!("{name}_split"), Op::Reshape { dims }, &[x])?;
        let dims = vec![0, 2, 1, 3];
        g.add(&format!("{name}_heads"), Op::Permute { dims }, &[x])
    };
    let (q, k, v) = (split("q", q)?, split("k", k)?, split("v", v)?);
    let mul = 1.0 / ((width / heads) as f64).sqrt();
    let q = g.add("q_scaled", Op::Affine { mul, add: 0.0 }, &[q])?;
    let scores = g.add("scores", Op::MatMul { transpose_b: true }, &[q, k])?;
    let scores = bias(g, scores)?;
    let weights = g.add("softmax", Op::Softmax { from_end: 1 }, &[scores])?;
    let y = g.add("mixed", Op::MatMul { transpose_b: false }, &[weights, v])?;
    let dims = vec![0, 2, 1, 3];
    let y = g.add("unheads", Op::Permute { dims }, &[y])?;
    let dims = vec![Dim::Keep(0), Dim::Keep(1), Dim::Fixed(width)];
    g.add("joined", Op::Reshape { dims }, &[y])
}

/// The three equal parts of the last axis of `[N, T, 3 C]`.
pub fn thirds(g: &mut GraphBuilder, x: ValueId) -> Result<(ValueId, ValueId, ValueId)> {
    let len = g.shape(x).last().copied().unwrap_or(3) / 3;
    let mut part = |name: &str, index: i64| {
        let op = Op::Slice {
            dim: 2,
            start: index * len,
            len,
        };
        g.add(name, op, &[x])
    };
    Ok((part("q", 0)?, part("k", 1)?, part("v", 2)?))
}
