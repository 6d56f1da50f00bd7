//! The model as data: nodes in topological order, no tensors, no device.
//!
//! Each node yields one value, so the index of a node is the id of its value; value 0 is the image. Layers name the
//! coarse steps of the network (the rows of Ultralytics' layer table). Outputs are the maps of the head, finest first.

mod builder;
mod cost;
mod edit;
mod fragment;
mod head;
pub(crate) mod limits;
mod op;
mod shape;

pub use builder::GraphBuilder;
pub(crate) use builder::PROBE;
pub use cost::{LayerCost, ModelCost};
pub use edit::Rewriter;
pub use fragment::Fragment;
pub use head::DetectHead;
pub use op::{Activation, Dim, Op, ReduceKind};
pub use shape::Shape;

pub use crate::ops::CustomOp;

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

    /// What sides of images must be multiples of, in pixels: the largest stride anywhere in the network, not only at its outputs. A neck
    /// that goes down to stride 64 and up again needs multiples of 64 although its head ends at stride 32.
    ///
    /// Found by trying: a step fits if images of several multiples of it, flat and tall ones among them, go through, and the outputs
    /// divide them evenly.
    ///
    /// # Errors
    /// Where no step up to the 256 pixels that the graph was built on fits.
    pub fn size_step(&self) -> Result<i64> {
        let strides = self.strides()?;
        let mut step = strides.iter().copied().max().unwrap_or(1).max(1);
        loop {
            let fits = [[1, 3], [5, 2], [7, 11]].into_iter().try_for_each(|[rows, columns]| {
                let [h, w] = [rows * step, columns * step];
                let shapes = self.shapes([1, self.input_channels(), h, w])?;
                let even = |(value, stride): (&ValueId, &i64)| match shapes[value.index()][..] {
                    [_, _, y, x] => y * stride == h && x * stride == w,
                    _ => true,
                };
                match self.outputs.iter().zip(&strides).all(even) {
                    true => Ok(()),
                    false => Err(Error::Graph(format!("its outputs don't divide an image of {h} x {w}"))),
                }
            });
            match fits {
                Ok(()) => return Ok(step),
                Err(error) if step >= builder::PROBE => return Err(error),
                Err(_) => step *= 2,
            }
        }
    }

    /// Pixels per cell of each output, measured on a 256 x 256 image.
    pub fn strides(&self) -> Result<Vec<i64>> {
        let shapes = self.shapes([1, self.input_channels(), builder::PROBE, builder::PROBE])?;
        Ok(self
            .outputs
            .iter()
            .map(|value| builder::PROBE / shapes[value.index()].get(2).copied().unwrap_or(1).max(1))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` convolutions of stride 2, then a way up by `back` of them and joins with what is there.
    fn hourglass(count: usize, back: usize, join: &Op) -> Graph {
        let mut g = GraphBuilder::new(3);
        let mut path = vec![ValueId::IMAGE];
        for level in 0..count {
            let channels = if level == 0 { 3 } else { 4 };
            let x = *path.last().expect("a value");
            path.push(
                g.add(&format!("down{level}"), Op::conv(channels, 4, 3, 2, 1, 1, false), &[x])
                    .expect("a node"),
            );
        }
        let mut x = *path.last().expect("a value");
        for level in 0..back {
            let up = g
                .add(&format!("up{level}"), Op::Upsample { scale: 2 }, &[x])
                .expect("a node");
            x = g
                .add(&format!("join{level}"), join.clone(), &[up, path[count - 1 - level]])
                .expect("a node");
            if matches!(join, Op::Concat { .. }) {
                x = g
                    .add(&format!("thin{level}"), Op::conv(8, 4, 1, 1, 0, 1, false), &[x])
                    .expect("a node");
            }
        }
        g.finish(vec![x], None).expect("a graph")
    }

    #[test]
    fn the_step_is_the_largest_stride_on_the_way_not_at_the_end() {
        for join in [Op::Concat { dim: 1 }, Op::Add] {
            assert_eq!(hourglass(3, 0, &join).size_step().expect("a step"), 8);
            let deep = hourglass(6, 3, &join);
            assert_eq!(
                (deep.strides().expect("strides"), deep.size_step().expect("a step")),
                (vec![8], 64),
                "{join:?}"
            );
            assert_eq!(hourglass(5, 1, &join).size_step().expect("a step"), 32);
        }
    }

    #[test]
    fn halving_without_padding_needs_even_sides_all_the_way() {
        let mut g = GraphBuilder::new(3);
        let x = g.add("a", Op::SpaceToDepth, &[ValueId::IMAGE]).expect("a node");
        let x = g.add("b", Op::SpaceToDepth, &[x]).expect("a node");
        let x = g.add("c", Op::Upsample { scale: 4 }, &[x]).expect("a node");
        let graph = g.finish(vec![x], None).expect("a graph");
        assert_eq!(
            (graph.strides().expect("strides"), graph.size_step().expect("a step")),
            (vec![1], 4)
        );
        assert!(graph.shapes([1, 3, 6, 8]).is_err());
    }
}
