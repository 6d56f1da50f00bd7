//! A quantized network as its tensors say it is.

use tch::Kind;
use yolo_core::graph::Activation;
use yolo_core::{Graph, Op, Params};

/// The grid of one tensor.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Name of the tensor: of the node that makes it, or key of the weight.
    pub tensor: String,
    /// Name of its quantizer.
    pub quantizer: String,
    /// Integers.
    pub range: [f64; 2],
    /// One or one per channel.
    pub scales: Vec<f64>,
    /// Likewise.
    pub zero_points: Vec<f64>,
}

impl Grid {
    fn of(params: &Params, tensor: &str, quantizer: &str, range: [i64; 2]) -> Self {
        let read = |end: &str| -> Vec<f64> {
            let tensor = params.get(&format!("{quantizer}.{end}")).expect(end);
            Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
        };
        Self {
            tensor: tensor.to_owned(),
            quantizer: quantizer.to_owned(),
            range: range.map(|limit| limit as f64),
            scales: read("scale"),
            zero_points: read("zero_point"),
        }
    }

    /// Values of its smallest and largest integer.
    pub fn limits(&self) -> [f64; 2] {
        self.range.map(|q| (q - self.zero_points[0]) * self.scales[0])
    }
}

/// A layer and the grids of what it reads.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Name of the node.
    pub name: String,
    /// Its op.
    pub op: Op,
    /// Of each input, if it has a quantizer.
    pub inputs: Vec<Option<Grid>>,
    /// Of the weight.
    pub weight: Option<Grid>,
    /// Of the bias.
    pub bias: Option<Grid>,
    /// Of its result, or of the ReLU's that alone reads it.
    pub output: Option<Grid>,
}

/// All of it.
#[derive(Debug)]
pub struct Network {
    /// Quantizers of activations.
    pub activations: Vec<Grid>,
    /// Quantizers of weights.
    pub weights: Vec<Grid>,
    /// All other nodes.
    pub layers: Vec<Layer>,
}

impl Network {
    /// Reads it off the tensors.
    pub fn of(graph: &Graph, params: &Params) -> Self {
        let grid_of = |node: &yolo_core::Node| match &node.op {
            Op::FakeQuant { quant } => {
                let from = &graph.node(node.inputs[0]).name;
                Some(Grid::of(params, from, &node.name, [quant.qmin, quant.qmax]))
            }
            _ => None,
        };
        let weight_of = |node: &yolo_core::Node| match &node.op {
            Op::Conv2d {
                weight_quant: Some(spec),
                ..
            }
            | Op::Linear {
                weight_quant: Some(spec),
                ..
            } => {
                let [key, quantizer] = ["weight", "weight_quant"].map(|end| format!("{}.{end}", node.name));
                Some(Grid::of(params, &key, &quantizer, [spec.qmin, spec.qmax]))
            }
            _ => None,
        };
        let bias_of = |node: &yolo_core::Node| match &node.op {
            Op::Conv2d {
                bias_quant: Some(spec), ..
            } => {
                let [key, quantizer] = ["bias", "bias_quant"].map(|end| format!("{}.{end}", node.name));
                Some(Grid::of(params, &key, &quantizer, [spec.qmin, spec.qmax]))
            }
            _ => None,
        };
        let readers = |name: &str| -> Vec<&yolo_core::Node> {
            let reads = |node: &&yolo_core::Node| node.inputs.iter().any(|value| graph.node(*value).name == name);
            graph.nodes.iter().filter(reads).collect()
        };
        let output_of = |node: &yolo_core::Node| {
            let own = |name: &str| readers(name).into_iter().find_map(grid_of);
            let behind = || match readers(&node.name).as_slice() {
                [only] => match &only.op {
                    Op::Act {
                        act: Activation::Relu | Activation::Relu6,
                    } => own(&only.name),
                    _ => None,
                },
                _ => None,
            };
            own(&node.name).or_else(behind)
        };
        let layers = graph.nodes.iter().filter(|node| grid_of(node).is_none());
        Self {
            activations: graph.nodes.iter().filter_map(grid_of).collect(),
            weights: graph.nodes.iter().filter_map(weight_of).collect(),
            layers: layers
                .map(|node| Layer {
                    name: node.name.clone(),
                    op: node.op.clone(),
                    inputs: node.inputs.iter().map(|value| grid_of(graph.node(*value))).collect(),
                    weight: weight_of(node),
                    bias: bias_of(node),
                    output: output_of(node),
                })
                .collect(),
        }
    }
}
