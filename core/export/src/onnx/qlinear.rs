//! Q/DQ pairs as integer operators, for importers that read those and no pairs (TVM, microTVM, older toolchains): what stands between the
//! DequantizeLinear of its inputs and the QuantizeLinear of its result becomes one operator on integers.
//!
//! | pattern | becomes | domain |
//! |---|---|---|
//! | `Conv`, with a `Relu` whose quantizer starts at 0 | `QLinearConv` | ONNX |
//! | `Add` | `QLinearAdd` | `com.microsoft` |
//! | `Mul` | `QLinearMul` | `com.microsoft` |
//! | `AveragePool` | `QLinearAveragePool` | `com.microsoft` |
//! | `GlobalAveragePool` | `QLinearGlobalAveragePool` | `com.microsoft` |
//!
//! Biases become 32-bit integers with the scale `input * weight`, as `QLinearConv` wants them. Everything else stays between a
//! DequantizeLinear and a QuantizeLinear. Works on a file: what a quantizer means stands in [`super::qdq`].

use std::collections::{HashMap, HashSet};

use super::builder::int;
use super::proto::{DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::{Error, Result};

/// Domain of the operators that ONNX itself does not have.
const MICROSOFT: &str = "com.microsoft";

/// The file with integer operators, and how many there are.
///
/// # Errors
/// [`Error::Node`] names a convolution whose bias does not fit into 32 bits.
pub fn operators(model: &ModelProto) -> Result<(ModelProto, usize)> {
    let mut model = model.clone();
    let Some(graph) = model.graph.take() else {
        return Ok((model, 0));
    };
    let (graph, count) = Rewrite::new(&graph).run(&graph)?;
    let foreign = graph.node.iter().any(|node| node.domain == MICROSOFT);
    if foreign && !model.opset_import.iter().any(|set| set.domain == MICROSOFT) {
        model.opset_import.push(OperatorSetIdProto {
            domain: MICROSOFT.to_owned(),
            version: 1,
        });
    }
    model.graph = Some(graph);
    Ok((model, count))
}

struct Rewrite<'a> {
    /// The node that makes each value.
    makers: HashMap<&'a str, &'a NodeProto>,
    constants: HashMap<&'a str, &'a TensorProto>,
    /// How often each value is read; outputs of the network once more.
    reads: HashMap<&'a str, usize>,
}

/// An operator in the place of others.
struct Fused {
    node: NodeProto,
    /// Its bias.
    constant: Option<TensorProto>,
    /// Values that nobody makes any more.
    gone: Vec<String>,
}

impl<'a> Rewrite<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut reads: HashMap<&str, usize> = HashMap::new();
        let outputs = graph.output.iter().map(|output| &output.name);
        for name in graph.node.iter().flat_map(|node| &node.input).chain(outputs) {
            *reads.entry(name).or_default() += 1;
        }
        Self {
            makers: (graph.node.iter())
                .flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)))
                .collect(),
            constants: (graph.initializer.iter())
                .map(|tensor| (tensor.name.as_str(), tensor))
                .collect(),
            reads,
        }
    }

    fn run(&self, graph: &GraphProto) -> Result<(GraphProto, usize)> {
        let mut made = graph.clone();
        let mut gone: HashSet<String> = HashSet::new();
        let mut count = 0;
        for node in made.node.iter_mut().filter(|node| node.op_type == "QuantizeLinear") {
            if let Some(fused) = self.fused(node)? {
                gone.extend(fused.gone);
                made.initializer.extend(fused.constant);
                *node = fused.node;
                count += 1;
            }
        }
        made.node
            .retain(|node| !node.output.iter().all(|name| gone.contains(name)));
        drop_unread(&mut made);
        Ok((made, count))
    }

    /// The operator that ends in a QuantizeLinear, if there is one.
    fn fused(&self, quantize: &NodeProto) -> Result<Option<Fused>> {
        let [x, scale, zero] = quantize.input.as_slice() else {
            return Ok(None);
        };
        let Some((mut node, mut gone)) = self.only_read_here(x).map(|node| (node, vec![x.clone()])) else {
            return Ok(None);
        };
        if node.op_type == "Relu" && self.is_zero(zero) {
            match self.only_read_here(&node.input[0]) {
                Some(before) if before.op_type == "Conv" => {
                    gone.push(node.input[0].clone());
                    node = before;
                }
                _ => return Ok(None),
            }
        }
        let reads = |index: usize| node.input.get(index).and_then(|name| self.integers(name));
        let with = |op: &str, domain: &str, input: Vec<String>| NodeProto {
            input,
            output: quantize.output.clone(),
            name: quantize.name.clone(),
            op_type: op.to_owned(),
            attribute: node.attribute.clone(),
            domain: domain.to_owned(),
        };
        let whole = |parts: &[&[String]]| parts.iter().flat_map(|part| part.iter().cloned()).collect::<Vec<_>>();
        let result = [scale.clone(), zero.clone()];
        let mut constant = None;
        let node = match (node.op_type.as_str(), reads(0), reads(1)) {
            ("Conv", Some(a), Some(weight)) => {
                let mut input = whole(&[a, weight, &result]);
                if let Some(bias) = node.input.get(2) {
                    let Some(integers) = self.bias(node, bias, [&a[1], &weight[1]])? else {
                        return Ok(None);
                    };
                    input.push(integers.name.clone());
                    constant = Some(integers);
                }
                with("QLinearConv", "", input)
            }
            ("Add" | "Mul", Some(a), Some(b)) => {
                with(&format!("QLinear{}", node.op_type), MICROSOFT, whole(&[a, b, &result]))
            }
            (op @ ("AveragePool" | "GlobalAveragePool"), Some(a), None) => {
                let mut pool = with(&format!("QLinear{op}"), MICROSOFT, whole(&[a, &result]));
                pool.attribute.push(int("channels_last", 0));
                pool
            }
            _ => return Ok(None),
        };
        Ok(Some(Fused { node, constant, gone }))
    }

    /// The node that makes a value which is read once.
    fn only_read_here(&self, value: &str) -> Option<&'a NodeProto> {
        let node = self.makers.get(value)?;
        (self.reads.get(value) == Some(&1)).then_some(*node)
    }

    /// Integers, scale and zero point of a value that comes from them.
    fn integers(&self, value: &str) -> Option<&'a [String]> {
        let node = self.makers.get(value)?;
        (node.op_type == "DequantizeLinear" && node.input.len() == 3).then_some(node.input.as_slice())
    }

    fn is_zero(&self, zero: &str) -> bool {
        (self.constants.get(zero)).is_some_and(|tensor| tensor.raw_data.iter().all(|byte| *byte == 0))
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.constants.get(name)?;
        let float = tensor.data_type == i32::from(DataType::Float);
        let value = |bytes: &[u8]| bytes.try_into().map(f32::from_le_bytes).ok();
        float.then(|| tensor.raw_data.chunks(4).filter_map(value).collect())
    }

    /// A bias in units of `scale of the input * scale of the weight`.
    fn bias(&self, node: &NodeProto, name: &str, [input, weight]: [&String; 2]) -> Result<Option<TensorProto>> {
        let (Some(values), Some(input), Some(weight)) = (self.floats(name), self.floats(input), self.floats(weight))
        else {
            return Ok(None);
        };
        let step =
            |channel: usize| f64::from(input[0]) * f64::from(weight[if weight.len() == 1 { 0 } else { channel }]);
        let mut raw_data = Vec::with_capacity(4 * values.len());
        for (channel, value) in values.iter().enumerate() {
            let steps = (f64::from(*value) / step(channel)).round_ties_even();
            if steps.abs() > f64::from(i32::MAX) {
                return Err(Error::Node {
                    node: node.name.clone(),
                    op: "conv2d".into(),
                    format: "ONNX with integer operators",
                    reason: format!(
                        "its bias {value} is more steps of its grid than 32 bits hold; use `onnx-qdq` instead"
                    ),
                });
            }
            raw_data.extend((steps as i32).to_le_bytes());
        }
        Ok(Some(TensorProto {
            dims: vec![values.len() as i64],
            data_type: DataType::Int32.into(),
            name: format!("{name}.q"),
            raw_data,
            ..TensorProto::default()
        }))
    }
}

/// Takes away nodes and constants that nothing reads.
fn drop_unread(graph: &mut GraphProto) {
    loop {
        let read: HashSet<String> = (graph.node.iter().flat_map(|node| node.input.iter().cloned()))
            .chain(graph.output.iter().map(|output| output.name.clone()))
            .collect();
        let nodes = graph.node.len();
        graph
            .node
            .retain(|node| node.output.iter().any(|name| read.contains(name)));
        graph.initializer.retain(|tensor| read.contains(&tensor.name));
        if graph.node.len() == nodes {
            return;
        }
    }
}
