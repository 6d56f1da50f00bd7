//! The ONNX form of each op, at a concrete image size. Batch stays open where the options ask for it: every other size is
//! a number in the file, so that engines plan memory ahead and window ops need no shape arithmetic. Quantizers and the
//! head stand in `qdq.rs` and `detect.rs`.
//!
//! Opset 13 is the base: it is the first with per-channel QuantizeLinear and what TensorRT 8, OpenVINO and onnxruntime of
//! the last five years read. What came later is composed from its ops (LayerNorm, HardSwish, GELU); only deformable
//! convolution raises it, to 16 (GridSample).

#![deny(clippy::wildcard_enum_match_arm)]

use tch::{Kind, Tensor};
use yolo_core::{
    Graph, Node, Op, Params, ValueId,
    graph::{Activation, ReduceKind, Shape},
};

use super::{
    builder::{Builder, Size, float, int, ints, text},
    qdq::Quantizers,
};
use crate::{Error, Result};

/// The oldest opset that is written.
pub(super) const OLDEST: i64 = 11;

/// Name of the open batch axis.
pub const BATCH: &str = "batch";

/// A graph on its way into a [`Builder`].
pub(super) struct Lowering<'a> {
    pub graph: &'a Graph,
    pub params: &'a Params,
    pub b: Builder,
    /// Shapes at the wanted batch (1 when it is open).
    pub shapes: Vec<Shape>,
    /// Shapes at batch 2, when it is open: an axis that differs from `shapes` grows with the batch.
    doubled: Option<Vec<Shape>>,
    /// ONNX name of each value of the graph.
    pub values: Vec<String>,
    pub quantizers: Quantizers,
    /// Lowest opset that knows every op used so far.
    pub opset: i64,
    /// Ops are written in the form that they had up to opset 12.
    pub old: bool,
}

impl<'a> Lowering<'a> {
    /// Starts a lowering of `graph` for images of this height and width: for any number of them where `batch` is absent, in the lowest
    /// opset that will do where `opset` is.
    ///
    /// # Errors
    /// [`Error::Core`] names the node whose inputs do not fit at this size.
    pub fn new(
        graph: &'a Graph,
        params: &'a Params,
        image: [i64; 2],
        batch: Option<i64>,
        quantizers: Quantizers,
        opset: Option<i64>,
    ) -> Result<Self> {
        let at = |n: i64| graph.shapes([n, graph.input_channels(), image[0], image[1]]);
        let shapes = at(batch.unwrap_or(1))?;
        let old = opset.is_some_and(|opset| opset < 13);
        let doubled = if batch.is_none() { Some(at(2)?) } else { None };
        Ok(Self {
            graph,
            params,
            b: Builder::new("yolo"),
            shapes,
            doubled,
            values: Vec::with_capacity(graph.nodes.len()),
            quantizers,
            opset: if old { OLDEST } else { 13 },
            old,
        })
    }

    /// Lowers every node; afterwards `values` names the result of each.
    ///
    /// # Errors
    /// [`Error::Node`] names a node that has no form in ONNX; [`Error::Core`] names a tensor that is absent.
    pub fn run(&mut self) -> Result<()> {
        let graph = self.graph;
        for value in graph.values() {
            let node = graph.node(value);
            let name = self.node(value, node)?;
            let name = self.repeat_pair(value, node, name);
            self.values.push(name);
        }
        Ok(())
    }

    /// Sizes of a value as they stand in an input or output.
    pub fn sizes(&self, value: ValueId) -> Vec<Size> {
        let shape = &self.shapes[value.index()];
        (0..shape.len())
            .map(|axis| match self.grows(value, axis) {
                true if shape[axis] == 1 => Size::Named(BATCH.to_owned()),
                true => Size::Named(format!("{BATCH}_{}", shape[axis])),
                false => Size::Fixed(shape[axis]),
            })
            .collect()
    }

    fn grows(&self, value: ValueId, axis: usize) -> bool {
        self.doubled
            .as_ref()
            .is_some_and(|d| d[value.index()][axis] != self.shapes[value.index()][axis])
    }

    /// The target of a Reshape to the shape of `value`: the axis that grows with the batch is -1.
    fn target(&self, value: ValueId) -> Vec<i64> {
        let shape = &self.shapes[value.index()];
        (0..shape.len())
            .map(|axis| if self.grows(value, axis) { -1 } else { shape[axis] })
            .collect()
    }

    /// First size of a reshaped value: -1 when the batch is open.
    pub fn batch(&self, fixed: i64) -> i64 {
        if self.doubled.is_some() { -1 } else { fixed }
    }

    pub fn shape(&self, value: ValueId) -> &[i64] {
        &self.shapes[value.index()]
    }

    /// A parameter's values, row-major.
    ///
    /// # Errors
    /// [`Error::Core`] names a key that is absent.
    pub fn param(&self, key: &str) -> Result<Vec<f32>> {
        floats(self.params.require(key)?)
    }

    pub fn unsupported(node: &Node, reason: impl Into<String>) -> Error {
        Error::Node {
            node: node.name.clone(),
            op: node.op.name().to_owned(),
            format: "ONNX",
            reason: reason.into(),
        }
    }

    pub fn reshape(&mut self, name: &str, x: &str, target: &[i64]) -> String {
        let target = self.b.i64(target);
        self.b.node("Reshape", name, &[x, &target], vec![])
    }

    pub fn transpose(&mut self, name: &str, x: &str, order: &[i64]) -> String {
        self.b.node("Transpose", name, &[x], vec![ints("perm", order)])
    }

    /// `x[start..end]` along an axis.
    pub fn slice(&mut self, name: &str, x: &str, axis: i64, start: i64, end: i64) -> String {
        let (start, end, axis) = (self.b.i64(&[start]), self.b.i64(&[end]), self.b.i64(&[axis]));
        self.b.node("Slice", name, &[x, &start, &end, &axis], vec![])
    }

    #[allow(clippy::too_many_lines)] // one match arm per op: splitting it would hide that it is complete
    fn node(&mut self, value: ValueId, node: &Node) -> Result<String> {
        let name = node.name.as_str();
        let inputs: Vec<String> = node.inputs.iter().map(|v| self.values[v.index()].clone()).collect();
        let refs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let input = |index: usize| -> Result<&str> {
            refs.get(index)
                .copied()
                .ok_or_else(|| Self::unsupported(node, format!("it lacks input {index}")))
        };
        let in_shape = |s: &Self, index: usize| s.shapes[node.inputs[index].index()].clone();
        Ok(match &node.op {
            Op::Input { .. } => {
                let sizes = self.sizes(value);
                self.b.input(name, super::proto::DataType::Float, &sizes)
            }
            Op::Conv2d {
                cout,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                bias,
                weight_quant,
                cin,
                ..
            } => {
                let dims = [*cout, cin / groups, kernel[0], kernel[1]];
                let weight = self.weight(node, &dims, 0, weight_quant.as_ref())?;
                let mut conv = vec![input(0)?, weight.as_str()];
                let bias = if *bias { Some(self.bias(node, *cout)?) } else { None };
                conv.extend(bias.as_deref());
                self.b.node(
                    "Conv",
                    name,
                    &conv,
                    vec![
                        ints("dilations", dilation),
                        int("group", *groups),
                        ints("kernel_shape", kernel),
                        ints("pads", &[padding[0], padding[1], padding[0], padding[1]]),
                        ints("strides", stride),
                    ],
                )
            }
            Op::DeformConv2d { .. } => super::deform::lower(self, value, node, &refs)?,
            Op::BatchNorm { eps, channels, .. } => {
                let mut args = vec![input(0)?.to_owned()];
                for key in ["weight", "bias", "running_mean", "running_var"] {
                    let key = format!("{name}.{key}");
                    let values = self.param(&key)?;
                    args.push(self.b.f32(&key, &[*channels], &values));
                }
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                self.b
                    .node("BatchNormalization", name, &args, vec![float("epsilon", *eps)])
            }
            Op::LayerNorm { channels, eps } => self.layer_norm(name, input(0)?, *channels, *eps)?,
            Op::Linear {
                cin,
                cout,
                bias,
                weight_quant,
                ..
            } => {
                let weight = self.weight(node, &[*cout, *cin], 0, weight_quant.as_ref())?;
                let weight = self.transpose(&format!("{name}.weight_t"), &weight, &[1, 0]);
                let product = if *bias {
                    format!("{name}.matmul")
                } else {
                    name.to_owned()
                };
                let y = self.b.node("MatMul", &product, &[input(0)?, &weight], vec![]);
                if *bias {
                    let bias = self.bias(node, *cout)?;
                    self.b.node("Add", name, &[&y, &bias], vec![])
                } else {
                    y
                }
            }
            Op::Act { act } => self.activation(name, input(0)?, *act),
            Op::Add => self.b.node("Add", name, &refs, vec![]),
            Op::Sub => self.b.node("Sub", name, &refs, vec![]),
            Op::Mul => self.b.node("Mul", name, &refs, vec![]),
            Op::Div => self.b.node("Div", name, &refs, vec![]),
            Op::Affine { mul, add } => {
                let (factor, summand) = (self.b.scalar(*mul as f32), self.b.scalar(*add as f32));
                let y = self
                    .b
                    .node("Mul", &format!("{name}.mul"), &[input(0)?, &factor], vec![]);
                self.b.node("Add", name, &[&y, &summand], vec![])
            }
            Op::Concat { dim } => self.b.node("Concat", name, &refs, vec![int("axis", *dim as i64)]),
            Op::Slice { dim, start, len } => self.slice(name, input(0)?, *dim as i64, *start, start + len),
            Op::ChannelShuffle { groups } => {
                let [_, c, h, w] = map_shape(node, self.shape(value))?;
                let n = self.batch(self.shape(value)[0]);
                let y = self.reshape(&format!("{name}.split"), input(0)?, &[n, *groups, c / groups, h, w]);
                let y = self.transpose(&format!("{name}.swap"), &y, &[0, 2, 1, 3, 4]);
                self.reshape(name, &y, &[n, c, h, w])
            }
            Op::SpaceToDepth => {
                let [n, c, h, w] = map_shape(node, self.shape(value))?;
                let n = self.batch(n);
                let y = self.reshape(&format!("{name}.cells"), input(0)?, &[n, c / 4, h, 2, w, 2]);
                // Block (column, row) first: (even, even), (odd, even), (even, odd), (odd, odd) as (row, column).
                let y = self.transpose(&format!("{name}.blocks"), &y, &[0, 5, 3, 1, 2, 4]);
                self.reshape(name, &y, &[n, c, h, w])
            }
            Op::MaxPool {
                kernel,
                stride,
                padding,
            } => self
                .b
                .node("MaxPool", name, &[input(0)?], pool(*kernel, *stride, *padding)),
            Op::AvgPool {
                kernel,
                stride,
                padding,
            } => {
                let mut attributes = pool(*kernel, *stride, *padding);
                attributes.push(int("count_include_pad", 1));
                self.b.node("AveragePool", name, &[input(0)?], attributes)
            }
            Op::Pad {
                top,
                bottom,
                left,
                right,
            } => {
                let pads = self.b.i64(&[0, 0, *top, *left, 0, 0, *bottom, *right]);
                self.b.node("Pad", name, &[input(0)?, &pads], vec![])
            }
            Op::Reduce { kind, dims } => {
                let axes: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                let global = axes == [2, 3] && in_shape(self, 0).len() == 4;
                match kind {
                    ReduceKind::Mean if global => self.b.node("GlobalAveragePool", name, &[input(0)?], vec![]),
                    ReduceKind::Max if global => self.b.node("GlobalMaxPool", name, &[input(0)?], vec![]),
                    ReduceKind::Mean => self.b.node("ReduceMean", name, &[input(0)?], vec![ints("axes", &axes)]),
                    ReduceKind::Max => self.b.node("ReduceMax", name, &[input(0)?], vec![ints("axes", &axes)]),
                    ReduceKind::Sum if self.old => {
                        self.b.node("ReduceSum", name, &[input(0)?], vec![ints("axes", &axes)])
                    }
                    ReduceKind::Sum => {
                        let axes = self.b.i64(&axes);
                        self.b.node("ReduceSum", name, &[input(0)?, &axes], vec![])
                    }
                }
            }
            Op::Upsample { scale } | Op::Bilinear { scale } => {
                let scales = self.b.f32(
                    &format!("{name}.scales"),
                    &[4],
                    &[1.0, 1.0, *scale as f32, *scale as f32],
                );
                let how = if matches!(node.op, Op::Bilinear { .. }) {
                    vec![
                        text("coordinate_transformation_mode", "half_pixel"),
                        text("mode", "linear"),
                    ]
                } else {
                    vec![
                        text("coordinate_transformation_mode", "asymmetric"),
                        text("mode", "nearest"),
                        text("nearest_mode", "floor"),
                    ]
                };
                // Up to opset 12 the region can't be left out, though it counts in other modes only.
                let region = match self.old {
                    true => self.b.f32(&format!("{name}.region"), &[0], &[]),
                    false => String::new(),
                };
                self.b.node("Resize", name, &[input(0)?, &region, &scales], how)
            }
            Op::MatMul { transpose_b } => {
                let b = if *transpose_b {
                    let rank = in_shape(self, 1).len() as i64;
                    let mut order: Vec<i64> = (0..rank).collect();
                    order.swap(rank as usize - 1, rank as usize - 2);
                    self.transpose(&format!("{name}.transposed"), input(1)?, &order)
                } else {
                    input(1)?.to_owned()
                };
                self.b.node("MatMul", name, &[input(0)?, &b], vec![])
            }
            Op::Softmax { from_end } => {
                if *from_end != 1 {
                    // Up to opset 12 everything from the axis on counts as one.
                    self.opset = self.opset.max(13);
                }
                self.b
                    .node("Softmax", name, &[input(0)?], vec![int("axis", -(*from_end as i64))])
            }
            Op::Reshape { .. } => {
                let target = self.target(value);
                self.reshape(name, input(0)?, &target)
            }
            Op::Permute { dims } => {
                let order: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                self.transpose(name, input(0)?, &order)
            }
            Op::WindowPartition { .. }
            | Op::WindowMerge { .. }
            | Op::WindowMask { .. }
            | Op::RelativePositionBias { .. }
            | Op::AddWindowMask => super::window::lower(self, value, node, &refs)?,
            // Both are switched off outside training.
            Op::Dropout { .. } | Op::DropPath { .. } => input(0)?.to_owned(),
            Op::Parameter { shape, .. } => {
                let values = self.param(name)?;
                self.b.f32(name, shape, &values)
            }
            Op::Constant { shape, values } => self.b.f32(name, shape, values),
            Op::FakeQuant { quant } => self.fake_quant(value, node, input(0)?, quant)?,
            Op::Custom { custom } => {
                return Err(Self::unsupported(
                    node,
                    format!(
                        "`{}` is an op of a plugin that has no form in primitive ops (`CustomOp::lower`)",
                        custom.name()
                    ),
                ));
            }
        })
    }

    fn bias(&mut self, node: &Node, cout: i64) -> Result<String> {
        let key = format!("{}.bias", node.name);
        let values = self.param(&key)?;
        Ok(self.b.f32(&key, &[cout], &values))
    }

    fn layer_norm(&mut self, name: &str, x: &str, channels: i64, eps: f64) -> Result<String> {
        let part = |s: &str| format!("{name}.{s}");
        let mean = self
            .b
            .node("ReduceMean", &part("mean"), &[x], vec![ints("axes", &[-1])]);
        let centred = self.b.node("Sub", &part("centred"), &[x, &mean], vec![]);
        // Pow and not Mul: the form that engines recognise and fuse into one kernel.
        let two = self.b.scalar(2.0);
        let squared = self.b.node("Pow", &part("squared"), &[&centred, &two], vec![]);
        let variance = self
            .b
            .node("ReduceMean", &part("variance"), &[&squared], vec![ints("axes", &[-1])]);
        let eps = self.b.scalar(eps as f32);
        let shifted = self.b.node("Add", &part("shifted"), &[&variance, &eps], vec![]);
        let deviation = self.b.node("Sqrt", &part("deviation"), &[&shifted], vec![]);
        let normal = self.b.node("Div", &part("normal"), &[&centred, &deviation], vec![]);
        let (weight, bias) = (part("weight"), part("bias"));
        let (gamma, beta) = (self.param(&weight)?, self.param(&bias)?);
        let (gamma, beta) = (
            self.b.f32(&weight, &[channels], &gamma),
            self.b.f32(&bias, &[channels], &beta),
        );
        let scaled = self.b.node("Mul", &part("scaled"), &[&normal, &gamma], vec![]);
        Ok(self.b.node("Add", name, &[&scaled, &beta], vec![]))
    }

    fn activation(&mut self, name: &str, x: &str, act: Activation) -> String {
        let part = |s: &str| format!("{name}.{s}");
        let hard = || vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
        match act {
            Activation::Silu => {
                let gate = self.b.node("Sigmoid", &part("sigmoid"), &[x], vec![]);
                self.b.node("Mul", name, &[x, &gate], vec![])
            }
            Activation::Relu => self.b.node("Relu", name, &[x], vec![]),
            Activation::Relu6 => {
                let (low, high) = (self.b.scalar(0.0), self.b.scalar(6.0));
                self.b.node("Clip", name, &[x, &low, &high], vec![])
            }
            Activation::LeakyRelu(slope) => self.b.node("LeakyRelu", name, &[x], vec![float("alpha", slope)]),
            Activation::Hardswish => {
                let gate = self.b.node("HardSigmoid", &part("gate"), &[x], hard());
                self.b.node("Mul", name, &[x, &gate], vec![])
            }
            Activation::Hardsigmoid => self.b.node("HardSigmoid", name, &[x], hard()),
            Activation::Sigmoid => self.b.node("Sigmoid", name, &[x], vec![]),
            Activation::Gelu => {
                let root = self.b.scalar(std::f32::consts::SQRT_2);
                let (one, half) = (self.b.scalar(1.0), self.b.scalar(0.5));
                let y = self.b.node("Div", &part("div"), &[x, &root], vec![]);
                let y = self.b.node("Erf", &part("erf"), &[&y], vec![]);
                let y = self.b.node("Add", &part("add"), &[&y, &one], vec![]);
                let y = self.b.node("Mul", &part("mul"), &[x, &y], vec![]);
                self.b.node("Mul", name, &[&y, &half], vec![])
            }
            Activation::Tanh => self.b.node("Tanh", name, &[x], vec![]),
        }
    }
}

fn pool(kernel: i64, stride: i64, padding: i64) -> Vec<super::proto::AttributeProto> {
    vec![
        ints("kernel_shape", &[kernel; 2]),
        ints("pads", &[padding; 4]),
        ints("strides", &[stride; 2]),
    ]
}

pub(super) fn map_shape(node: &Node, shape: &[i64]) -> Result<[i64; 4]> {
    shape
        .try_into()
        .map_err(|_| Lowering::unsupported(node, format!("it takes a map [N, C, H, W], not {shape:?}")))
}

/// The elements of a tensor as `f32`, row-major.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor
        .detach()
        .f_to_device(tch::Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_view([-1])?;
    Ok(Vec::<f32>::try_from(&flat)?)
}
