//! Fake quantizers as QuantizeLinear/DequantizeLinear pairs, such that an engine computes what the simulation computed.
//!
//! * A weight becomes an integer constant and one DequantizeLinear: the rounding is done here, in the order of the
//!   simulation (`round_half_even(w * (1 / s)) + z`, clamped), so no engine can round it otherwise.
//! * An activation becomes one pair, shared by all its readers, with the range of the integer type. A narrower range
//!   (-127..127 of symmetric schemes, fewer bits) needs a Clip in front, which is left out where the value is known to
//!   stay inside: a SiLU output, for example, is never below -0.279.
//! * Biases stay float, as TensorRT wants them (onnxruntime quantizes them to 32 bits by itself).
//!
//! [`Profile::TensorRt`] writes exactly that: pairs at inputs, never behind an op. [`Profile::OpenVino`] does so with unsigned integers:
//! on signed activations behind a Concat OpenVINO 2026.4 computes something else, without a word. [`Profile::Ort`] also repeats a pair
//! behind ops that only move or select values (MaxPool, Resize, Concat, Slice, Reshape, Transpose): onnxruntime runs an op
//! on integers only when it finds a pair on both sides. Such a value lies on the grid already, so quantizing it again
//! changes nothing; a pair behind any other op would add an error that the simulation does not have, and is not written.
//! Nor is one repeated in front of a quantizer, whose own pair stands there: OpenVINO 2026.4 ends its process with a segmentation fault
//! on a Concat with two pairs in a row behind it.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use tch::Tensor;
use yolo_core::{
    Graph, Node, Op, Params, ValueId,
    graph::{Activation, Rewriter},
    quant::{BackendSpec, FakeQuantSpec, Method},
};

use super::{builder::int, lower::Lowering};
use crate::Result;

/// What a QDQ file is tuned for, or that it shall hold no quantizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Pairs at inputs only: TensorRT 8 and later.
    #[default]
    TensorRt,
    /// As [`Profile::TensorRt`] with unsigned activations: OpenVINO. A signed grid is written as the same grid of `u8`, 128 higher.
    OpenVino,
    /// Pairs also behind ops that move values: onnxruntime.
    Ort,
    /// Integer operators in the place of pairs ([`super::qlinear`]): TVM.
    QLinear,
    /// No pairs: a float network with its weights clipped to their ranges, for toolchains that take the scales in a file
    /// of their own.
    Strip,
}

/// What a grid of `i8` is moved by to be one of `u8`.
pub(crate) const UNSIGNED: i64 = 128;

/// The integer grid of a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grid {
    pub scale: f32,
    pub zero: i64,
    pub qmin: i64,
    pub qmax: i64,
}

/// Integer types of QuantizeLinear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    I8,
    U8,
    I16,
    U16,
}

impl Width {
    /// The narrowest type that holds a range.
    fn of(qmin: i64, qmax: i64) -> Option<Self> {
        [Self::I8, Self::U8, Self::I16, Self::U16]
            .into_iter()
            .find(|w| w.min() <= qmin && qmax <= w.max())
    }

    fn min(self) -> i64 {
        match self {
            Self::I8 => i8::MIN.into(),
            Self::I16 => i16::MIN.into(),
            Self::U8 | Self::U16 => 0,
        }
    }

    fn max(self) -> i64 {
        match self {
            Self::I8 => i8::MAX.into(),
            Self::U8 => u8::MAX.into(),
            Self::I16 => i16::MAX.into(),
            Self::U16 => u16::MAX.into(),
        }
    }
}

/// Quantizers on their way into a file.
#[derive(Debug)]
pub(crate) struct Quantizers {
    profile: Profile,
    /// Grid that a value is known to lie on.
    grids: Vec<Option<Grid>>,
    /// Bounds that a value is known to keep.
    bounds: Vec<(f64, f64)>,
    /// Whether a value has readers other than quantizers, which bring a pair of their own.
    unpaired: Vec<bool>,
    /// Names that values had before their pairs were repeated.
    unrepeated: HashMap<usize, String>,
}

impl Quantizers {
    /// Looks at every node: what grid its value lies on, which bounds it keeps, who reads it.
    ///
    /// # Errors
    /// `Error::Node` names a quantizer whose scale is 0 or not finite, that has more than one, or whose grid ONNX does not have;
    /// `Error::Core` names a scale or zero point that is absent. Neither of [`Profile::Strip`].
    pub fn new(graph: &Graph, params: &Params, profile: Profile) -> Result<Self> {
        let mut this = Self {
            profile,
            grids: Vec::new(),
            bounds: Vec::new(),
            unpaired: vec![false; graph.nodes.len()],
            unrepeated: HashMap::new(),
        };
        for node in &graph.nodes {
            let (grid, bounds) = this.facts(node, params)?;
            this.grids.push(grid);
            this.bounds.push(bounds);
        }
        for output in &graph.outputs {
            this.unpaired[output.index()] = true;
        }
        for node in graph
            .nodes
            .iter()
            .filter(|node| !matches!(node.op, Op::FakeQuant { .. }))
        {
            for input in &node.inputs {
                this.unpaired[input.index()] = true;
            }
        }
        Ok(this)
    }

    /// What is known about the value of a node.
    fn facts(&self, node: &Node, params: &Params) -> Result<(Option<Grid>, (f64, f64))> {
        const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);
        let bound = |i: usize| node.inputs.get(i).map_or(ANY, |v| self.bounds[v.index()]);
        let hull = || {
            node.inputs
                .iter()
                .map(|v| self.bounds[v.index()])
                .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
                .unwrap_or(ANY)
        };
        let bounds = match &node.op {
            Op::Input { .. } => (0.0, 1.0),
            Op::Act { act } => match act {
                // The minima of x * sigmoid(x), of hard-swish and of GELU are -0.27847, -0.375 and -0.16997.
                Activation::Silu => (-0.2785, bound(0).1.max(0.0)),
                Activation::Hardswish => (-0.3751, bound(0).1.max(0.0)),
                Activation::Gelu => (-0.17, bound(0).1.max(0.0)),
                Activation::Relu => (0.0, bound(0).1.max(0.0)),
                Activation::Relu6 => (0.0, 6.0),
                Activation::Hardsigmoid | Activation::Sigmoid => (0.0, 1.0),
                Activation::Tanh => (-1.0, 1.0),
                Activation::LeakyRelu(_) => ANY,
            },
            Op::Add => (bound(0).0 + bound(1).0, bound(0).1 + bound(1).1),
            Op::FakeQuant { .. } if self.profile == Profile::Strip => bound(0),
            Op::FakeQuant { quant } => {
                let grid = grid(node, params, quant)?;
                let (low, high) = (grid.low(), grid.high());
                let (a, b) = bound(0);
                // Rounding moves a value by half a step at most.
                let half = f64::from(grid.scale) / 2.0;
                let bounds = ((a - half).max(low), (b + half).min(high));
                return Ok((Some(grid), bounds));
            }
            // Padding of an average is zeros; padding of windows, too.
            Op::AvgPool { .. } | Op::WindowPartition { .. } => (hull().0.min(0.0), hull().1.max(0.0)),
            Op::Concat { .. }
            | Op::Slice { .. }
            | Op::ChannelShuffle { .. }
            | Op::SpaceToDepth
            | Op::MaxPool { .. }
            | Op::Upsample { .. }
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Dropout { .. }
            | Op::DropPath { .. } => hull(),
            Op::Conv2d { .. }
            | Op::DeformConv2d { .. }
            | Op::BatchNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Linear { .. }
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Affine { .. }
            | Op::Bilinear { .. }
            | Op::Pad { .. }
            | Op::Reduce { .. }
            | Op::MatMul { .. }
            | Op::Softmax { .. }
            | Op::WindowMerge { .. }
            | Op::WindowMask { .. }
            | Op::RelativePositionBias { .. }
            | Op::AddWindowMask
            | Op::Parameter { .. }
            | Op::Constant { .. }
            | Op::Custom { .. } => ANY,
        };
        let grid = if node.op.moves_values() || matches!(node.op, Op::WindowPartition { .. }) {
            let first = node.inputs.first().and_then(|v| self.grids[v.index()].clone());
            let data = if matches!(node.op, Op::Concat { .. }) {
                node.inputs.len()
            } else {
                1
            };
            first.filter(|g| {
                node.inputs[..data]
                    .iter()
                    .all(|v| self.grids[v.index()].as_ref() == Some(g))
            })
        } else {
            None
        };
        Ok((grid, bounds))
    }
}

impl Grid {
    fn low(&self) -> f64 {
        (self.qmin - self.zero) as f64 * f64::from(self.scale)
    }

    fn high(&self) -> f64 {
        (self.qmax - self.zero) as f64 * f64::from(self.scale)
    }
}

/// Whether a graph holds fake quantizers.
pub fn is_quantized(graph: &Graph) -> bool {
    (graph.nodes.iter()).any(|node| matches!(node.op, Op::FakeQuant { .. }) || node.op.weight_quant().is_some())
}

/// Whether networks of this backend have a form in ONNX's quantizers: linear grids that round halves to even numbers.
pub fn takes(backend: &BackendSpec) -> bool {
    let (weight, activation) = (backend.weight.method, backend.activation.method);
    weight != Method::Gfpq && activation != Method::Gfpq && !activation.rounds_up()
}

/// The grid of an activation quantizer.
pub(crate) fn grid(node: &Node, params: &Params, spec: &FakeQuantSpec) -> Result<Grid> {
    if spec.method.rounds_up() {
        // Sums and joins of values on grids of powers of two lie half way between two steps all the time.
        let reason = "it rounds halves up, ONNX rounds them to even numbers; use the files of its backend";
        return Err(Lowering::unsupported(node, reason));
    }
    let (scales, zeros) = scales(node, params, &node.name, spec)?;
    match (scales.as_slice(), zeros.as_slice()) {
        (&[scale], &[zero]) => Ok(Grid {
            scale,
            zero,
            qmin: spec.qmin,
            qmax: spec.qmax,
        }),
        _ => Err(Lowering::unsupported(
            node,
            "activations have one scale per tensor in every engine",
        )),
    }
}

/// Scales and zero points stored under `prefix`.
pub(crate) fn scales(node: &Node, params: &Params, prefix: &str, spec: &FakeQuantSpec) -> Result<(Vec<f32>, Vec<i64>)> {
    let mut scale = super::lower::floats(params.require(&format!("{prefix}.scale"))?)?;
    let zero = super::lower::floats(params.require(&format!("{prefix}.zero_point"))?)?;
    if let Some(bad) = scale.iter().find(|s| !s.is_finite() || **s == 0.0) {
        return Err(Lowering::unsupported(
            node,
            format!("its scale is {bad}; calibrate the network first"),
        ));
    }
    for s in &mut scale {
        // As the simulation reads them: a learned scale may have gone below zero.
        *s = match spec.method {
            Method::Fixed | Method::Learnable | Method::Pact | Method::Dsq | Method::Dorefa => {
                s.abs().max(f32::EPSILON)
            }
            Method::PowerOfTwo | Method::PowerOfTwoUp | Method::Tqt | Method::TqtUp => power_of_two(*s),
            Method::Gfpq => {
                let reason = "its grid is logarithmic, which no integer type has; use the files of its backend";
                return Err(Lowering::unsupported(node, reason));
            }
        };
    }
    let zero = zero
        .iter()
        .map(|z| (z.round_ties_even() as i64).clamp(spec.qmin, spec.qmax))
        .collect();
    Ok((scale, zero))
}

/// The power of two that stands for a scale: the exponent rounded up, but for a millionth.
fn power_of_two(scale: f32) -> f32 {
    let inverse = f64::from(scale.abs().max(2f32.powi(-15))).recip();
    2f64.powf(-(inverse.log2() + 1e-6).floor()) as f32
}

/// Weights on their integer grid, channel by channel (one scale, or one per row of axis 0).
pub(crate) fn quantize_weight(weight: &[f32], scale: &[f32], zero: &[i64], spec: &FakeQuantSpec) -> Vec<i64> {
    let per_channel = weight.len() / scale.len().max(1);
    weight
        .chunks(per_channel.max(1))
        .zip(scale.iter().zip(zero))
        .flat_map(|(row, (scale, zero))| {
            let inverse = 1.0 / scale;
            row.iter()
                .map(move |w| ((w * inverse).round_ties_even() as i64 + zero).clamp(spec.qmin, spec.qmax))
        })
        .collect()
}

impl Lowering<'_> {
    /// The weight of a node: float, or on its grid when it has a quantizer.
    pub(super) fn weight(
        &mut self,
        node: &Node,
        dims: &[i64],
        axis: i64,
        quant: Option<&FakeQuantSpec>,
    ) -> Result<String> {
        let key = format!("{}.weight", node.name);
        let values = self.param(&key)?;
        let Some(spec) = quant else {
            return Ok(self.b.f32(&key, dims, &values));
        };
        if self.quantizers.profile == Profile::Strip {
            let clipped = clip_weight(node, self.params, spec)?;
            return Ok(self.b.f32(&key, dims, &super::lower::floats(&clipped)?));
        }
        let (scale, zero) = scales(node, self.params, &format!("{}.weight_quant", node.name), spec)?;
        let integers = quantize_weight(&values, &scale, &zero, spec);
        let width = self.width(node, spec)?;
        let q = self.integers(&format!("{key}.q"), dims, &integers, width);
        let shape: &[i64] = if spec.per_channel { &[scale.len() as i64] } else { &[] };
        let s = self.b.f32(&format!("{key}.scale"), shape, &scale);
        let z = self.integers(&format!("{key}.zero_point"), shape, &zero, width);
        let attributes = if spec.per_channel {
            vec![int("axis", axis)]
        } else {
            vec![]
        };
        Ok(self.b.node("DequantizeLinear", &key, &[&q, &s, &z], attributes))
    }

    /// The pair of an activation quantizer.
    pub(super) fn fake_quant(
        &mut self,
        value: ValueId,
        node: &Node,
        input: &str,
        spec: &FakeQuantSpec,
    ) -> Result<String> {
        if self.quantizers.profile == Profile::Strip {
            return Ok(input.to_owned());
        }
        let Some(grid) = self.quantizers.grids[value.index()].clone() else {
            return Err(Self::unsupported(node, "it has no grid"));
        };
        let width = self.width(node, spec)?;
        let (low, high) = self.quantizers.bounds[node.inputs[0].index()];
        // A value less than half a step outside the range is rounded to its end by the integer type, too.
        let half = f64::from(grid.scale) / 2.0;
        let clip_low = width.min() < grid.qmin && low <= grid.low() - half;
        let clip_high = width.max() > grid.qmax && high >= grid.high() + half;
        let before = self.quantizers.unrepeated.get(&node.inputs[0].index());
        let mut x = before.cloned().unwrap_or_else(|| input.to_owned());
        if clip_low || clip_high {
            let low = if clip_low {
                self.b.scalar(grid.low() as f32)
            } else {
                String::new()
            };
            let high = if clip_high {
                self.b.scalar(grid.high() as f32)
            } else {
                String::new()
            };
            x = self
                .b
                .node("Clip", &format!("{}.clip", node.name), &[&x, &low, &high], vec![]);
        }
        Ok(self.pair(&node.name, &x, &grid, width))
    }

    /// In the onnxruntime profile, repeats the pair behind an op that moved values of one grid.
    pub(super) fn repeat_pair(&mut self, value: ValueId, node: &Node, name: String) -> String {
        let repeats = self.quantizers.profile == Profile::Ort
            && (node.op.moves_values() || matches!(node.op, Op::WindowPartition { .. }))
            && !node.op.only_trains()
            && self.quantizers.unpaired[value.index()];
        let Some(grid) = self.quantizers.grids[value.index()].clone().filter(|_| repeats) else {
            return name;
        };
        match Width::of(grid.qmin, grid.qmax) {
            Some(width) => {
                self.quantizers.unrepeated.insert(value.index(), name.clone());
                self.pair(&format!("{}.again", node.name), &name, &grid, width)
            }
            None => name,
        }
    }

    fn pair(&mut self, name: &str, x: &str, grid: &Grid, width: Width) -> String {
        let scale = self.b.scalar(grid.scale);
        let (zero, width) = match (self.quantizers.profile, width) {
            (Profile::OpenVino, Width::I8) => (grid.zero + UNSIGNED, Width::U8),
            _ => (grid.zero, width),
        };
        let zero = self.integers(&format!("{name}.zero_point"), &[], &[zero], width);
        let q = self
            .b
            .node("QuantizeLinear", &format!("{name}.q"), &[x, &scale, &zero], vec![]);
        self.b.node("DequantizeLinear", name, &[&q, &scale, &zero], vec![])
    }

    fn width(&mut self, node: &Node, spec: &FakeQuantSpec) -> Result<Width> {
        let width = Width::of(spec.qmin, spec.qmax).ok_or_else(|| {
            Self::unsupported(
                node,
                format!("no integer type of ONNX holds {}..{}", spec.qmin, spec.qmax),
            )
        })?;
        if matches!(width, Width::I16 | Width::U16) {
            // QuantizeLinear takes 16 bits since opset 21.
            self.opset = self.opset.max(21);
        }
        Ok(width)
    }

    fn integers(&mut self, name: &str, dims: &[i64], values: &[i64], width: Width) -> String {
        match width {
            Width::I8 => self
                .b
                .i8(name, dims, &values.iter().map(|&v| v as i8).collect::<Vec<_>>()),
            Width::U8 => self
                .b
                .u8(name, dims, &values.iter().map(|&v| v as u8).collect::<Vec<_>>()),
            Width::I16 => self
                .b
                .i16(name, dims, &values.iter().map(|&v| v as i16).collect::<Vec<_>>()),
            Width::U16 => self
                .b
                .u16(name, dims, &values.iter().map(|&v| v as u16).collect::<Vec<_>>()),
        }
    }
}

/// The weight of a node within the range of its quantizer.
fn clip_weight(node: &Node, params: &Params, spec: &FakeQuantSpec) -> Result<Tensor> {
    let weight = params.require(&format!("{}.weight", node.name))?.detach();
    let prefix = format!("{}.weight_quant", node.name);
    let (low, high) = if spec.method == Method::Gfpq {
        let largest = params.require(&format!("{prefix}.scale"))?.detach().f_abs()?;
        (largest.f_neg()?, largest)
    } else {
        let (scale, zero) = scales(node, params, &prefix, spec)?;
        let ends = |q: i64| {
            scale
                .iter()
                .zip(&zero)
                .map(|(s, z)| (q - z) as f32 * s)
                .collect::<Vec<f32>>()
        };
        (
            Tensor::f_from_slice(&ends(spec.qmin))?,
            Tensor::f_from_slice(&ends(spec.qmax))?,
        )
    };
    let mut per_row = vec![1; weight.dim()];
    per_row[0] = -1;
    let (low, high) = (low.f_reshape(&per_row)?, high.f_reshape(&per_row)?);
    Ok(weight.f_clamp_tensor(Some(low), Some(high))?)
}

/// The float network that [`Profile::Strip`] writes: no quantizers, weights within their ranges.
///
/// # Errors
/// `Error::Node` names a layer whose weight quantizer has a scale of 0 or one that is not finite; `Error::Core` names a weight, scale or
/// zero point that is absent.
pub fn strip(graph: &Graph, params: &Params) -> Result<(Graph, Params)> {
    let (graph, params) = &yolo_core::quant::baked(graph, params)?;
    let mut stripped = params.shallow_clone();
    let mut rewriter = Rewriter::new(graph);
    for node in &graph.nodes {
        if matches!(node.op, Op::FakeQuant { .. }) {
            let instead = rewriter.value(node.inputs[0]);
            rewriter.forward(instead);
            continue;
        }
        let mut plain = node.clone();
        if let Op::Conv2d { weight_quant, .. } | Op::Linear { weight_quant, .. } = &mut plain.op
            && let Some(spec) = weight_quant.take()
        {
            stripped.insert(format!("{}.weight", node.name), clip_weight(node, params, &spec)?);
        }
        rewriter.replace(plain);
    }
    Ok((rewriter.finish()?, stripped))
}
