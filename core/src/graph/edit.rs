//! Rewriting: copies a graph node by node while passes replace, drop or insert nodes, keeping layers and outputs right.

use super::{Graph, Layer, Node, ValueId};
use crate::Result;

/// Builds a new graph from an old one. Visit the old nodes in order with [`Rewriter::keep`], [`Rewriter::replace`] or
/// [`Rewriter::forward`], add new ones with [`Rewriter::insert`], then [`Rewriter::finish`].
#[derive(Debug)]
pub struct Rewriter<'a> {
    old: &'a Graph,
    nodes: Vec<Node>,
    map: Vec<ValueId>,
    starts: Vec<usize>,
}

impl<'a> Rewriter<'a> {
    /// Starts with nothing copied.
    pub fn new(old: &'a Graph) -> Self {
        Self {
            old,
            nodes: Vec::with_capacity(old.nodes.len()),
            map: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// New value of an old one that was visited.
    pub fn value(&self, old: ValueId) -> ValueId {
        self.map[old.index()]
    }

    /// Copies the next old node as it is.
    pub fn keep(&mut self) -> ValueId {
        let node = self.old.nodes[self.map.len()].clone();
        self.replace(node)
    }

    /// Puts `node` (inputs are *old* values) in the place of the next old node.
    pub fn replace(&mut self, mut node: Node) -> ValueId {
        for input in &mut node.inputs {
            *input = self.map[input.index()];
        }
        self.starts.push(self.nodes.len());
        let id = self.push(node);
        self.map.push(id);
        id
    }

    /// Drops the next old node; its readers read the (new) value `instead`.
    pub fn forward(&mut self, instead: ValueId) {
        self.starts.push(self.nodes.len());
        self.map.push(instead);
    }

    /// Adds a node of its own; inputs are *new* values.
    pub fn insert(&mut self, node: Node) -> ValueId {
        self.push(node)
    }

    /// Later readers of the old value `old` read the new value `instead`.
    pub fn redirect(&mut self, old: ValueId, instead: ValueId) {
        self.map[old.index()] = instead;
    }

    fn push(&mut self, node: Node) -> ValueId {
        self.nodes.push(node);
        ValueId(self.nodes.len() as u32 - 1)
    }

    /// The new graph, validated.
    pub fn finish(self) -> Result<Graph> {
        let total = self.nodes.len();
        let start = |old: usize| self.starts.get(old).copied().unwrap_or(total);
        let graph = Graph {
            version: self.old.version,
            outputs: self.old.outputs.iter().map(|v| self.map[v.index()]).collect(),
            layers: self
                .old
                .layers
                .iter()
                .map(|layer| Layer {
                    output: self.map[layer.output.index()],
                    nodes: (start(layer.nodes.0), start(layer.nodes.1)),
                    ..layer.clone()
                })
                .collect(),
            head: self.old.head.clone(),
            nodes: self.nodes,
        };
        graph.validate()?;
        Ok(graph)
    }
}
