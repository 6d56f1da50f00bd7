//! Appends nodes to a graph under name scopes. Blocks are functions on this builder; it knows no block.

use super::{DetectHead, GRAPH_VERSION, Graph, Node, Op, Shape, ValueId, shape};
use crate::graph::Layer;
use crate::{Error, Feat, Result};

/// Builds a [`Graph`]. Shapes are checked as nodes are added (on a 256 x 256 probe image), so that a block that does not fit
/// fails where it is written.
#[derive(Debug)]
pub struct GraphBuilder {
    pub(super) graph: Graph,
    pub(super) shapes: Vec<Shape>,
    pub(super) scope: Vec<String>,
}

/// Side of the probe image: a multiple of every stride in use.
pub(crate) const PROBE: i64 = 256;

impl GraphBuilder {
    /// A graph that holds the image only.
    pub fn new(image_channels: i64) -> Self {
        let image = Node {
            name: "images".into(),
            op: Op::Input {
                channels: image_channels,
            },
            inputs: Vec::new(),
        };
        Self {
            graph: Graph {
                version: GRAPH_VERSION,
                nodes: vec![image],
                outputs: Vec::new(),
                layers: Vec::new(),
                head: None,
            },
            shapes: vec![vec![1, image_channels, PROBE, PROBE]],
            scope: Vec::new(),
        }
    }

    /// The image as a feature map of stride 1.
    pub fn image(&self) -> Feat {
        Feat {
            value: ValueId::IMAGE,
            channels: self.graph.input_channels(),
            stride: 1,
        }
    }

    /// Runs `body` with `name` appended to the scope of the nodes it adds.
    pub fn scope<T>(&mut self, name: impl Into<String>, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scope.push(name.into());
        let result = body(self);
        self.scope.pop();
        result
    }

    /// Adds a layer (a row of the layer table): runs `body` in the scope `model.INDEX` and returns its value as a feature map.
    pub fn layer(
        &mut self,
        kind: &str,
        from: &[Feat],
        body: impl FnOnce(&mut Self) -> Result<ValueId>,
    ) -> Result<Feat> {
        let index = self.graph.layers.len();
        let first = self.graph.nodes.len();
        let from = from.iter().map(|feat| self.layer_of(feat.value)).collect();
        let output = self.scope(format!("model.{index}"), body)?;
        let nodes = (first, self.graph.nodes.len());
        self.graph.layers.push(Layer {
            index,
            kind: kind.to_owned(),
            from,
            output,
            nodes,
        });
        self.feat(output)
    }

    /// The layer whose result this is (`None` for the image).
    pub(super) fn layer_of(&self, value: ValueId) -> Option<usize> {
        self.graph
            .layers
            .iter()
            .rev()
            .find(|layer| layer.output == value)
            .map(|layer| layer.index)
    }

    /// Index that the next layer gets.
    pub fn next_layer(&self) -> usize {
        self.graph.layers.len()
    }

    /// Adds a node called `name` in the current scope; checks its shape.
    pub fn add(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let mut full = self.scope.join(".");
        if !full.is_empty() && !name.is_empty() {
            full.push('.');
        }
        full.push_str(name);
        let node = Node {
            name: full,
            op,
            inputs: inputs.to_vec(),
        };
        node.op.check_limits().map_err(|reason| Error::Shape {
            node: node.name.clone(),
            op: node.op.name(),
            reason,
        })?;
        if let Some(missing) = inputs.iter().find(|value| value.index() >= self.shapes.len()) {
            return Err(Error::Graph(format!(
                "`{}` reads value {}, which does not exist",
                node.name, missing.0
            )));
        }
        let image: [i64; 4] = [1, self.graph.input_channels(), PROBE, PROBE];
        let input_shapes: Vec<&[i64]> = inputs.iter().map(|v| self.shapes[v.index()].as_slice()).collect();
        let shape = shape::node_shape(&node, &input_shapes, &image)?;
        self.shapes.push(shape);
        self.graph.nodes.push(node);
        Ok(ValueId(self.graph.nodes.len() as u32 - 1))
    }

    /// Shape of a value on the probe image.
    pub fn shape(&self, value: ValueId) -> &[i64] {
        &self.shapes[value.index()]
    }

    /// Channels (axis 1) of a value.
    pub fn channels(&self, value: ValueId) -> i64 {
        self.shapes[value.index()].get(1).copied().unwrap_or(1)
    }

    /// A value `[N, C, H, W]` as a feature map, with its stride measured on the probe image.
    pub fn feat(&self, value: ValueId) -> Result<Feat> {
        match self.shape(value) {
            [_, channels, h, _] if *h > 0 => Ok(Feat {
                value,
                channels: *channels,
                stride: PROBE / h,
            }),
            other => Err(Error::Graph(format!("value {} is no feature map: {other:?}", value.0))),
        }
    }

    /// Appends the nodes of another graph, with its image replaced by `input`; returns its outputs. Names are kept as they are
    /// (a foreign backbone names its nodes itself), layers are renumbered.
    pub fn splice(&mut self, other: &Graph, input: ValueId) -> Result<Vec<ValueId>> {
        other.validate()?;
        let offset = self.graph.layers.len();
        let first_node = self.graph.nodes.len();
        let mut map = vec![input];
        for node in &other.nodes[1..] {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|v| map[v.index()]).collect();
            let scope = std::mem::take(&mut self.scope);
            let added = self.add(&renumber(&node.name, offset), node.op.clone(), &inputs);
            self.scope = scope;
            map.push(added?);
        }
        for layer in &other.layers {
            let shift = |n: usize| (n.max(1) - 1) + first_node;
            self.graph.layers.push(Layer {
                index: layer.index + offset,
                kind: layer.kind.clone(),
                from: layer.from.iter().map(|from| from.map(|index| index + offset)).collect(),
                output: map[layer.output.index()],
                nodes: (shift(layer.nodes.0), shift(layer.nodes.1)),
            });
        }
        Ok(other.outputs.iter().map(|v| map[v.index()]).collect())
    }

    /// Declares the outputs and the head.
    pub fn finish(mut self, outputs: Vec<ValueId>, head: Option<DetectHead>) -> Result<Graph> {
        self.graph.outputs = outputs;
        self.graph.head = head;
        self.graph.validate()?;
        Ok(self.graph)
    }
}

/// `model.3.conv` with offset 10 becomes `model.13.conv`; other names stay.
pub(super) fn renumber(name: &str, offset: usize) -> String {
    let Some(rest) = name.strip_prefix("model.") else {
        return name.to_owned();
    };
    let (index, tail) = rest.split_once('.').unwrap_or((rest, ""));
    match index.parse::<usize>() {
        Ok(index) if tail.is_empty() => format!("model.{}", index + offset),
        Ok(index) => format!("model.{}.{tail}", index + offset),
        Err(_) => name.to_owned(),
    }
}
