//! The ncnn form of each op, at a concrete image size and batch 1. A blob is the value without its batch axis; inside
//! windowed attention, where windows stand in the batch axis, it is the value as it is.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use tch::Tensor;
use yolo_core::{
    Graph, Mode, Node, Op, Params, Program, ValueId,
    graph::{Activation, ReduceKind, Shape},
};

use super::{
    Options, Precision,
    int8::int8_scales,
    model::{Layer, Net, Value, Weight},
    shape::{order_type, pool_params, size_params, window_params},
};
use crate::{Error, Result, onnx::floats};

/// Where a value of the graph is.
enum Slot {
    /// In a blob.
    Blob {
        name: String,
        /// Without the batch axis.
        dropped: bool,
    },
    /// Known when the file is written.
    Constant(Tensor),
}

pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    params: &'a Params,
    precision: Precision,
    shapes: Vec<Shape>,
    readers: Vec<usize>,
    slots: Vec<Slot>,
    pub(super) layers: Vec<Layer>,
}

pub(super) fn lower(graph: &Graph, params: &Params, options: &Options) -> Result<Net> {
    let shapes = graph.shapes([1, graph.input_channels(), options.image[0], options.image[1]])?;
    let mut readers: Vec<usize> = graph.consumers().iter().map(Vec::len).collect();
    for output in &graph.outputs {
        readers[output.index()] += 1;
    }
    let mut constants = constants(graph, params, &shapes)?;
    let mut l = Lowering {
        graph,
        params,
        precision: options.precision,
        shapes,
        readers,
        slots: Vec::new(),
        layers: Vec::new(),
    };
    for (value, node) in graph.values().zip(&graph.nodes) {
        let slot = match constants.remove(&value) {
            Some(tensor) => Slot::Constant(tensor),
            None => l.node(value, node)?,
        };
        l.slots.push(slot);
    }
    l.outputs()?;
    let mut net = Net { layers: l.layers };
    net.share();
    Ok(net)
}

/// Values that do not depend on the image.
fn constants(graph: &Graph, params: &Params, shapes: &[Shape]) -> Result<HashMap<ValueId, Tensor>> {
    let mut fixed = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let of_fixed = !node.inputs.is_empty() && node.inputs.iter().all(|v| fixed[v.index()]);
        fixed[index] = node.op.is_fixed() || of_fixed;
    }
    let mut found = HashMap::new();
    if fixed.contains(&true) {
        let image = Tensor::f_zeros(shapes[0].as_slice(), (tch::Kind::Float, tch::Device::Cpu))?;
        tch::no_grad(|| {
            Program::new(graph, params)?.run_observed(&image, Mode::Eval, |value, tensor| {
                if fixed[value.index()] {
                    found.insert(value, tensor.copy());
                }
                Ok(())
            })
        })?;
    }
    Ok(found)
}

impl Lowering<'_> {
    pub(super) fn unsupported(node: &Node, reason: impl Into<String>) -> Error {
        Error::Node {
            node: node.name.clone(),
            op: node.op.name().to_owned(),
            format: "ncnn",
            reason: reason.into(),
        }
    }

    /// Adds a layer with one result, which gets the layer's name. Layers that share weights have one name; their blobs must not,
    /// since ncnn finds blobs by name.
    pub(super) fn layer(&mut self, kind: &str, name: &str, inputs: &[&str], params: Vec<(i64, Value)>) -> String {
        let taken = |blob: &str| {
            self.layers
                .iter()
                .any(|layer| layer.outputs.iter().any(|output| output == blob))
        };
        let more = (2..).map(|nth| format!("{name}_{nth}"));
        let blob = std::iter::once(name.to_owned())
            .chain(more)
            .find(|blob| !taken(blob))
            .unwrap_or_else(|| name.to_owned());
        self.layers.push(Layer {
            kind: kind.to_owned(),
            name: name.to_owned(),
            inputs: inputs.iter().map(|&blob| blob.to_owned()).collect(),
            outputs: vec![blob.clone()],
            params,
            weights: Vec::new(),
        });
        blob
    }

    /// Sizes of the blob of a value, outermost first.
    pub(super) fn dims(&self, value: ValueId) -> Vec<i64> {
        let shape = &self.shapes[value.index()];
        match &self.slots[value.index()] {
            Slot::Blob { dropped: true, .. } => shape[1..].to_vec(),
            Slot::Blob { dropped: false, .. } | Slot::Constant(_) => shape.clone(),
        }
    }

    pub(super) fn shape(&self, value: ValueId) -> &[i64] {
        &self.shapes[value.index()]
    }

    fn dropped(&self, value: ValueId) -> bool {
        matches!(&self.slots[value.index()], Slot::Blob { dropped: true, .. })
    }

    /// The blob of a value; a constant gets the rank that is asked for, by leading ones.
    pub(super) fn blob(&mut self, node: &Node, input: usize, rank: usize) -> Result<String> {
        let value = *node
            .inputs
            .get(input)
            .ok_or_else(|| Self::unsupported(node, "an input is absent"))?;
        let tensor = match &self.slots[value.index()] {
            Slot::Blob { name, .. } => return Ok(name.clone()),
            Slot::Constant(tensor) => tensor,
        };
        let mut dims = tensor.size();
        while dims.len() > rank && dims[0] == 1 {
            dims.remove(0);
        }
        while dims.len() < rank {
            dims.insert(0, 1);
        }
        let name = format!("{}.constant{input}", node.name);
        let values = floats(tensor)?;
        let params = size_params(node, &dims)?;
        self.layer("MemoryData", &name, &[], params);
        self.weigh(vec![Weight::Plain(values)]);
        Ok(name)
    }

    /// Gives the last layer its tensors.
    fn weigh(&mut self, weights: Vec<Weight>) {
        if let Some(layer) = self.layers.last_mut() {
            layer.weights = weights;
        }
    }

    pub(super) fn reshape(&mut self, node: &Node, name: &str, x: &str, dims: &[i64]) -> Result<String> {
        let params = size_params(node, dims)?;
        Ok(self.layer("Reshape", name, &[x], params))
    }

    /// Reorders axes (outermost first, as in a permutation of the blob's sizes).
    pub(super) fn permute(&mut self, node: &Node, name: &str, x: &str, order: &[usize]) -> Result<String> {
        let kind =
            order_type(order).ok_or_else(|| Self::unsupported(node, format!("the order {order:?} is unknown")))?;
        Ok(self.layer("Permute", name, &[x], vec![(0, Value::Int(kind))]))
    }

    pub(super) fn crop(&mut self, name: &str, x: &str, axis: i64, start: i64, end: i64) -> String {
        let one = |v: i64| Value::Ints(vec![v]);
        self.layer(
            "Crop",
            name,
            &[x],
            vec![(9, one(start)), (10, one(end)), (11, one(axis))],
        )
    }

    #[allow(clippy::too_many_lines)] // one match arm per op: splitting it would hide that it is complete
    fn node(&mut self, value: ValueId, node: &Node) -> Result<Slot> {
        let name = node.name.as_str();
        let first_dims = node.inputs.first().map(|v| self.dims(*v)).unwrap_or_default();
        let rank = first_dims.len();
        let mut dropped = node.inputs.first().is_none_or(|v| self.dropped(*v));
        // An axis of the graph as an axis of the blob.
        let axis = |dim: usize| -> Result<i64> {
            match (dropped, dim) {
                (true, 0) => Err(Self::unsupported(node, "blobs of ncnn have no batch axis")),
                (true, dim) => Ok(dim as i64 - 1),
                (false, dim) => Ok(dim as i64),
            }
        };
        let blob = match &node.op {
            Op::Input { .. } => {
                let params = size_params(node, &self.shapes[value.index()][1..])?;
                self.layer("Input", name, &[], params)
            }
            Op::Conv2d {
                cout,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                bias,
                ..
            } => {
                let x = self.blob(node, 0, 3)?;
                let mut params = window_params(*cout, *kernel, *stride, *padding, *dilation);
                params.push((5, Value::Int((*bias).into())));
                self.convolution(node, &x, *groups, params, *bias)?
            }
            Op::DeformConv2d {
                cout,
                kernel,
                stride,
                padding,
                dilation,
                bias,
                ..
            } => {
                let inputs = [self.blob(node, 0, 3)?, self.blob(node, 1, 3)?, self.blob(node, 2, 3)?];
                let weight = floats(self.params.require(&format!("{name}.weight"))?)?;
                let mut params = window_params(*cout, *kernel, *stride, *padding, *dilation);
                params.extend([(5, Value::Int((*bias).into())), (6, Value::Int(weight.len() as i64))]);
                let refs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let blob = self.layer("DeformableConv2D", name, &refs, params);
                let mut weights = vec![Weight::Tagged(weight)];
                weights.extend(self.bias(node, *bias)?);
                self.weigh(weights);
                blob
            }
            Op::BatchNorm { channels, eps, .. } => {
                let x = self.blob(node, 0, 3)?;
                let params = vec![(0, Value::Int(*channels)), (1, Value::Float(*eps as f32))];
                let blob = self.layer("BatchNorm", name, &[&x], params);
                let weights = self.plain(node, &["weight", "running_mean", "running_var", "bias"])?;
                self.weigh(weights);
                blob
            }
            Op::LayerNorm { channels, eps } => {
                let x = self.blob(node, 0, rank)?;
                let params = vec![
                    (0, Value::Int(*channels)),
                    (1, Value::Float(*eps as f32)),
                    (2, Value::Int(1)),
                ];
                let blob = self.layer("LayerNorm", name, &[&x], params);
                let weights = self.plain(node, &["weight", "bias"])?;
                self.weigh(weights);
                blob
            }
            Op::Linear { cin, cout, bias, .. } => self.linear(node, &first_dims, *cin, *cout, *bias)?,
            Op::Act { act } => self.activation(node, *act, rank)?,
            Op::Add => self.binary(node, 0)?,
            Op::Sub => self.binary(node, 1)?,
            Op::Mul => self.binary(node, 2)?,
            Op::Div => self.binary(node, 3)?,
            Op::Affine { mul, add } => {
                let x = self.blob(node, 0, rank)?;
                let scalar =
                    |kind: i64, v: f64| vec![(0, Value::Int(kind)), (1, Value::Int(1)), (2, Value::Float(v as f32))];
                let y = self.layer("BinaryOp", &format!("{name}.mul"), &[&x], scalar(2, *mul));
                self.layer("BinaryOp", name, &[&y], scalar(0, *add))
            }
            Op::Concat { dim } => {
                let axis = axis(*dim)?;
                let blobs = (0..node.inputs.len())
                    .map(|i| self.blob(node, i, rank))
                    .collect::<Result<Vec<_>>>()?;
                let refs: Vec<&str> = blobs.iter().map(String::as_str).collect();
                self.layer("Concat", name, &refs, vec![(0, Value::Int(axis))])
            }
            Op::Slice { dim, start, len } => {
                let axis = axis(*dim)?;
                let x = self.blob(node, 0, rank)?;
                self.crop(name, &x, axis, *start, start + len)
            }
            Op::ChannelShuffle { groups } => {
                let x = self.blob(node, 0, rank)?;
                self.layer("ShuffleChannel", name, &[&x], vec![(0, Value::Int(*groups))])
            }
            Op::SpaceToDepth => self.space_to_depth(node, first_dims[0])?,
            Op::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                let x = self.blob(node, 0, rank)?;
                self.layer("Pooling", name, &[&x], pool_params(0, *kernel, *stride, *padding))
            }
            Op::AvgPool {
                kernel,
                stride,
                padding,
            } => {
                let x = self.blob(node, 0, rank)?;
                let mut params = pool_params(1, *kernel, *stride, *padding);
                params.push((6, Value::Int(1)));
                self.layer("Pooling", name, &[&x], params)
            }
            Op::Pad {
                top,
                bottom,
                left,
                right,
            } => {
                let x = self.blob(node, 0, rank)?;
                let sides = [(0, top), (1, bottom), (2, left), (3, right)];
                let params = sides.map(|(id, side)| (id, Value::Int(*side)));
                self.layer("Padding", name, &[&x], params.into())
            }
            Op::Reduce { kind, dims } => {
                let axes = dims.iter().map(|d| axis(*d)).collect::<Result<Vec<_>>>()?;
                let x = self.blob(node, 0, rank)?;
                let operation = match kind {
                    ReduceKind::Sum => 0,
                    ReduceKind::Mean => 3,
                    ReduceKind::Max => 4,
                };
                let params = vec![
                    (0, Value::Int(operation)),
                    (1, Value::Int(0)),
                    (3, Value::Ints(axes)),
                    (4, Value::Int(1)),
                    (5, Value::Int(1)),
                ];
                self.layer("Reduction", name, &[&x], params)
            }
            Op::Upsample { scale } | Op::Bilinear { scale } => {
                let x = self.blob(node, 0, rank)?;
                let kind = if matches!(node.op, Op::Bilinear { .. }) { 2 } else { 1 };
                let scale = Value::Float(*scale as f32);
                self.layer(
                    "Interp",
                    name,
                    &[&x],
                    vec![(0, Value::Int(kind)), (1, scale.clone()), (2, scale)],
                )
            }
            Op::MatMul { transpose_b } => {
                let (a, b) = (self.blob(node, 0, rank)?, self.blob(node, 1, rank)?);
                self.layer("MatMul", name, &[&a, &b], vec![(0, Value::Int((*transpose_b).into()))])
            }
            Op::Softmax { from_end } => {
                let x = self.blob(node, 0, rank)?;
                let softmax = |axis: usize| vec![(0, Value::Int(axis as i64)), (1, Value::Int(1))];
                if *from_end == 1 && rank > 2 {
                    let last = first_dims[rank - 1];
                    let rows = first_dims.iter().product::<i64>() / last;
                    let y = self.reshape(node, &format!("{name}.rows"), &x, &[rows, last])?;
                    let y = self.layer("Softmax", &format!("{name}.softmax"), &[&y], softmax(1));
                    self.reshape(node, name, &y, &first_dims)?
                } else {
                    self.layer("Softmax", name, &[&x], softmax(rank - from_end))
                }
            }
            Op::Reshape { .. } => {
                let x = self.blob(node, 0, rank)?;
                let shape = self.shapes[value.index()].clone();
                // Windows leave the batch axis when a reshape gives it its size of one back, and only then.
                dropped = dropped && shape[0] == 1;
                let dims = if dropped { &shape[1..] } else { &shape[..] };
                self.reshape(node, name, &x, dims)?
            }
            Op::Permute { dims } => {
                if dropped && dims[0] != 0 {
                    return Err(Self::unsupported(node, "blobs of ncnn have no batch axis"));
                }
                let order: Vec<usize> = if dropped {
                    dims[1..].iter().map(|d| d - 1).collect()
                } else {
                    dims.clone()
                };
                let x = self.blob(node, 0, rank)?;
                self.permute(node, name, &x, &order)?
            }
            Op::WindowPartition { .. } => {
                dropped = false;
                super::window::partition(self, value, node)?
            }
            Op::WindowMerge { .. } => {
                dropped = true;
                super::window::merge(self, value, node)?
            }
            Op::AddWindowMask => {
                let (a, b) = (self.blob(node, 0, rank)?, self.blob(node, 1, rank)?);
                self.layer("BinaryOp", name, &[&a, &b], vec![(0, Value::Int(0))])
            }
            // Quantizers of the values between live in the scales of the convolutions that read them.
            Op::FakeQuant { .. } | Op::Dropout { .. } | Op::DropPath { .. } => self.blob(node, 0, rank)?,
            Op::Custom { custom } => {
                return Err(Self::unsupported(
                    node,
                    format!(
                        "`{}` is an op of a plugin that has no form in primitive ops (`CustomOp::lower`)",
                        custom.name()
                    ),
                ));
            }
            // They don't depend on the image: `constants` has computed them.
            Op::Parameter { .. } | Op::Constant { .. } | Op::WindowMask { .. } | Op::RelativePositionBias { .. } => {
                return Err(Self::unsupported(
                    node,
                    "its value is not known when the file is written",
                ));
            }
        };
        Ok(Slot::Blob { name: blob, dropped })
    }

    fn convolution(
        &mut self,
        node: &Node,
        x: &str,
        groups: i64,
        mut params: Vec<(i64, Value)>,
        bias: bool,
    ) -> Result<String> {
        let weight = floats(self.params.require(&format!("{}.weight", node.name))?)?;
        params.push((6, Value::Int(weight.len() as i64)));
        if groups > 1 {
            params.push((7, Value::Int(groups)));
        }
        let int8 = match self.precision {
            Precision::Int8 => int8_scales(self.graph, self.params, node)?,
            Precision::F32 | Precision::F16 => None,
        };
        let mut weights = Vec::new();
        if let Some(scales) = int8 {
            // Depthwise: 1 says that there is one scale per group. Else any of 1 and 2 says per output channel.
            params.push((8, Value::Int(if groups > 1 { 1 } else { 2 })));
            weights.push(Weight::Int8(scales.integers));
            weights.extend(self.bias(node, bias)?);
            weights.extend([Weight::Plain(scales.weight), Weight::Plain(vec![scales.input])]);
        } else {
            weights.push(self.main_weight(weight));
            weights.extend(self.bias(node, bias)?);
        }
        let kind = if groups > 1 {
            "ConvolutionDepthWise"
        } else {
            "Convolution"
        };
        let blob = self.layer(kind, &node.name, &[x], params);
        self.weigh(weights);
        Ok(blob)
    }

    fn main_weight(&self, values: Vec<f32>) -> Weight {
        match self.precision {
            Precision::F16 => Weight::Half(values.into_iter().map(half::f16::from_f32).collect()),
            Precision::F32 | Precision::Int8 => Weight::Tagged(values),
        }
    }

    fn bias(&self, node: &Node, bias: bool) -> Result<Option<Weight>> {
        if !bias {
            return Ok(None);
        }
        Ok(self.plain(node, &["bias"])?.pop())
    }

    fn plain(&self, node: &Node, keys: &[&str]) -> Result<Vec<Weight>> {
        keys.iter()
            .map(|key| {
                Ok(Weight::Plain(floats(
                    self.params.require(&format!("{}.{key}", node.name))?,
                )?))
            })
            .collect()
    }

    fn linear(&mut self, node: &Node, dims: &[i64], cin: i64, cout: i64, bias: bool) -> Result<String> {
        let name = node.name.as_str();
        let mut x = self.blob(node, 0, dims.len())?;
        let rows = dims.iter().product::<i64>() / cin;
        let matrix = dims.len() == 2;
        if !matrix {
            x = self.reshape(node, &format!("{name}.rows"), &x, &[rows, cin])?;
        }
        let own = if matrix {
            name.to_owned()
        } else {
            format!("{name}.product")
        };
        let params = vec![
            (0, Value::Int(cout)),
            (1, Value::Int(bias.into())),
            (2, Value::Int(cin * cout)),
        ];
        let weight = floats(self.params.require(&format!("{name}.weight"))?)?;
        let y = self.layer("InnerProduct", &own, &[&x], params);
        let mut weights = vec![self.main_weight(weight)];
        weights.extend(self.bias(node, bias)?);
        self.weigh(weights);
        if matrix {
            return Ok(y);
        }
        let mut dims = dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = cout;
        }
        self.reshape(node, name, &y, &dims)
    }

    fn activation(&mut self, node: &Node, act: Activation, rank: usize) -> Result<String> {
        let x = self.blob(node, 0, rank)?;
        let slope = |v: f64| Value::Floats(vec![v as f32]);
        // The kinds that ncnn computes inside a convolution; SiLU is not among them.
        let inside = match act {
            Activation::Relu => Some((1, None)),
            Activation::LeakyRelu(s) => Some((2, Some(slope(s)))),
            Activation::Relu6 => Some((3, Some(Value::Floats(vec![0.0, 6.0])))),
            Activation::Sigmoid => Some((4, None)),
            Activation::Hardswish => Some((6, Some(Value::Floats(vec![1.0 / 6.0, 0.5])))),
            Activation::Silu | Activation::Hardsigmoid | Activation::Gelu | Activation::Tanh => None,
        };
        let producer = node.inputs[0];
        let alone = matches!(self.graph.node(producer).op, Op::Conv2d { .. }) && self.readers[producer.index()] == 1;
        if let (Some((kind, arguments)), true) = (inside, alone)
            && let Some(conv) = self.layers.iter_mut().rev().find(|layer| layer.outputs == [x.as_str()])
        {
            conv.params.push((9, Value::Int(kind)));
            conv.params.extend(arguments.map(|arguments| (10, arguments)));
            return Ok(x);
        }
        let hard = || vec![(0, Value::Float(1.0 / 6.0)), (1, Value::Float(0.5))];
        let (kind, params) = match act {
            Activation::Silu => ("Swish", vec![]),
            Activation::Relu => ("ReLU", vec![]),
            Activation::Relu6 => ("Clip", vec![(0, Value::Float(0.0)), (1, Value::Float(6.0))]),
            Activation::LeakyRelu(s) => ("ReLU", vec![(0, Value::Float(s as f32))]),
            Activation::Hardswish => ("HardSwish", hard()),
            Activation::Hardsigmoid => ("HardSigmoid", hard()),
            Activation::Sigmoid => ("Sigmoid", vec![]),
            Activation::Gelu => ("GELU", vec![]),
            Activation::Tanh => ("TanH", vec![]),
        };
        Ok(self.layer(kind, &node.name, &[&x], params))
    }

    fn binary(&mut self, node: &Node, kind: i64) -> Result<String> {
        let scalar = |slot: &Slot| match slot {
            Slot::Constant(tensor) if tensor.numel() == 1 => floats(tensor).ok().and_then(|v| v.first().copied()),
            Slot::Constant(_) | Slot::Blob { .. } => None,
        };
        let [a, b] = node.inputs[..] else {
            return Err(Self::unsupported(node, "it takes two inputs"));
        };
        let rank = self
            .dims(if matches!(self.slots[a.index()], Slot::Constant(_)) {
                b
            } else {
                a
            })
            .len();
        let by = |kind: i64, v: f32| vec![(0, Value::Int(kind)), (1, Value::Int(1)), (2, Value::Float(v))];
        if let Some(v) = scalar(&self.slots[b.index()]) {
            let x = self.blob(node, 0, rank)?;
            return Ok(self.layer("BinaryOp", &node.name, &[&x], by(kind, v)));
        }
        if let Some(v) = scalar(&self.slots[a.index()]) {
            let x = self.blob(node, 1, rank)?;
            // With the scalar in front, difference and quotient are the reversed ones.
            let kind = match kind {
                1 => 7,
                3 => 8,
                other => other,
            };
            return Ok(self.layer("BinaryOp", &node.name, &[&x], by(kind, v)));
        }
        let (x, y) = (self.blob(node, 0, rank)?, self.blob(node, 1, rank)?);
        Ok(self.layer("BinaryOp", &node.name, &[&x, &y], vec![(0, Value::Int(kind))]))
    }

    /// Reorg gives (even, even), (even, odd), (odd, even), (odd, odd) as (row, column); the graph has the middle two swapped.
    fn space_to_depth(&mut self, node: &Node, channels: i64) -> Result<String> {
        let name = node.name.as_str();
        let x = self.blob(node, 0, 3)?;
        let params = vec![(0, Value::Int(2)), (1, Value::Int(1))];
        let blocks = self.layer("Reorg", &format!("{name}.blocks"), &[&x], params);
        let parts: Vec<String> = [0, 2, 1, 3]
            .into_iter()
            .map(|i| {
                self.crop(
                    &format!("{name}.block{i}"),
                    &blocks,
                    0,
                    i * channels,
                    (i + 1) * channels,
                )
            })
            .collect();
        let refs: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.layer("Concat", name, &refs, vec![(0, Value::Int(0))]))
    }

    /// Names the results `out0`, `out1`, ...; with a head each is `[anchors, h * w, 5 + classes]`.
    fn outputs(&mut self) -> Result<()> {
        let graph = self.graph;
        for (level, &value) in graph.outputs.iter().enumerate() {
            let node = graph.node(value);
            let dims = self.dims(value);
            let Slot::Blob { name, .. } = &self.slots[value.index()] else {
                return Err(Self::unsupported(node, "an output does not depend on the image"));
            };
            let (x, out) = (name.clone(), format!("out{level}"));
            match (&graph.head, dims.as_slice()) {
                (Some(head), [_, h, w]) => {
                    let split = [head.anchors_per_level(), head.outputs_per_anchor(), h * w];
                    let y = self.reshape(node, &format!("{out}.split"), &x, &split)?;
                    self.permute(node, &out, &y, &[0, 2, 1])?;
                }
                _ => {
                    self.reshape(node, &out, &x, &dims)?;
                }
            }
        }
        Ok(())
    }
}
