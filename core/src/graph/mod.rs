//! The model as data: nodes in topological order, no tensors, no device.
//!
//! Each node yields one value, so the index of a node is the id of its value; value 0 is the image. Layers name the
//! coarse steps of the network (the rows of Ultralytics' layer table). Outputs are the maps of the head, finest first.

mod builder;
mod cost;
mod edit;
mod fragment;
mod head;
mod limits;
mod op;
mod shape;
mod spec;

pub use builder::GraphBuilder;
pub(crate) use builder::PROBE;
pub use cost::{LayerCost, ModelCost};
pub use edit::Rewriter;
pub use fragment::Fragment;
pub use head::DetectHead;
pub use op::{Activation, CustomOp, Dim, Op, ReduceKind};
pub use shape::Shape;
pub(crate) use shape::windows as window_counts;

use serde::{Deserialize, Serialize};

use crate::{Error, ParamSpec, Result};

/// Version of the JSON form; raised when an old reader could misread a new graph.
pub const GRAPH_VERSION: u32 = 1;

/// A value of the graph: the output of the node with this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The image.
    pub const IMAGE: Self = Self(0);

    /// As an index into `Graph::nodes`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One primitive op with its inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Scoped name; parameters are `NAME.weight`, `NAME.bias`, ... (`model.4.m.0.cv1.conv`).
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Values it reads, all of earlier nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<ValueId>,
}

/// A coarse step of the network: one row of the layer table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Position; parameters of the layer start with `model.INDEX.`.
    pub index: usize,
    /// Name of the block (`Conv`, `C3`, `SPPF`, ...).
    pub kind: String,
    /// Layers it reads (`None` is the image).
    pub from: Vec<Option<usize>>,
    /// Its result.
    pub output: ValueId,
    /// Nodes that belong to it: `first..end` of `Graph::nodes`.
    pub nodes: (usize, usize),
}

/// A model without its weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Graph {
    /// [`GRAPH_VERSION`] of the writer.
    pub version: u32,
    /// Nodes in topological order; node 0 is the image.
    pub nodes: Vec<Node>,
    /// Values that the head returns, finest stride first.
    pub outputs: Vec<ValueId>,
    /// Rows of the layer table.
    pub layers: Vec<Layer>,
    /// How outputs become boxes; absent in a bare feature extractor.
    pub head: Option<DetectHead>,
}

impl Graph {
    /// The node that yields `value`.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.index()]
    }

    /// All value ids in order.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.nodes.len() as u32).map(ValueId)
    }

    /// Which nodes read each value (a node that reads a value twice is listed twice).
    pub fn consumers(&self) -> Vec<Vec<ValueId>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.values().zip(&self.nodes) {
            for input in &node.inputs {
                consumers[input.index()].push(id);
            }
        }
        consumers
    }

    /// Every tensor that the model needs, each once, in graph order (shared weights are listed at their first use).
    pub fn param_specs(&self) -> Vec<ParamSpec> {
        let mut seen = std::collections::HashSet::new();
        let mut specs = Vec::new();
        for node in &self.nodes {
            for spec in node.op.params(&node.name) {
                if seen.insert(spec.key.clone()) {
                    specs.push(spec);
                }
            }
        }
        specs
    }

    /// Number of trainable scalars (what Ultralytics prints as parameters). Scales of fake quantizers don't count.
    pub fn param_count(&self) -> i64 {
        self.param_specs()
            .iter()
            .filter(|spec| spec.role.trainable() && spec.role != crate::ParamRole::Quant)
            .map(ParamSpec::numel)
            .sum()
    }

    /// Checks everything a graph from outside could get wrong: version, order, ids, arity, shapes.
    pub fn validate(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::Graph(reason));
        if self.version > GRAPH_VERSION {
            return fail(format!(
                "it has format version {}, this program reads up to {GRAPH_VERSION}",
                self.version
            ));
        }
        if !matches!(self.nodes.first().map(|n| &n.op), Some(Op::Input { .. })) {
            return fail("its first node must be the image (`input`)".into());
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if index > 0 && matches!(node.op, Op::Input { .. }) {
                return fail(format!("node {index} `{}` is a second image", node.name));
            }
            if let Some(input) = node.inputs.iter().find(|input| input.index() >= index) {
                return fail(format!(
                    "node {index} `{}` reads value {}, which comes later",
                    node.name, input.0
                ));
            }
            node.op
                .check_limits()
                .map_err(|reason| Error::Graph(format!("node {index} `{}`: {reason}", node.name)))?;
        }
        if let Some(output) = self.outputs.iter().find(|output| output.index() >= self.nodes.len()) {
            return fail(format!("output {} does not exist", output.0));
        }
        if let Some(layer) = self
            .layers
            .iter()
            .find(|l| l.output.index() >= self.nodes.len() || l.nodes.0 > l.nodes.1 || l.nodes.1 > self.nodes.len())
        {
            return fail(format!("layer {} ends after the last node", layer.index));
        }
        self.shapes([1, self.input_channels(), 256, 256]).map(drop)
    }

    /// Channels of the image.
    pub fn input_channels(&self) -> i64 {
        match self.nodes.first().map(|n| &n.op) {
            Some(Op::Input { channels }) => *channels,
            _ => 3,
        }
    }

    /// Shape of every value for this image shape `[N, C, H, W]`.
    pub fn shapes(&self, image: [i64; 4]) -> Result<Vec<Shape>> {
        shape::infer(self, image)
    }

    /// Multiply-adds and parameters for a square image of `size` pixels and batch 1.
    pub fn cost(&self, size: i64) -> Result<ModelCost> {
        cost::cost(self, size)
    }

    /// Pixels per cell of each output, measured on a 256 x 256 image.
    pub fn strides(&self) -> Result<Vec<i64>> {
        let shapes = self.shapes([1, self.input_channels(), 256, 256])?;
        Ok(self
            .outputs
            .iter()
            .map(|value| 256 / shapes[value.index()][2].max(1))
            .collect())
    }
}
