//! A piece of a graph that someone else made: what backbones and blocks of shared libraries return. Checked as it is put in place.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{GRAPH_VERSION, Graph, GraphBuilder, Layer, Node, Op, Shape, ValueId};
use crate::{Error, Result};

/// Nodes on top of some inputs. Values `0..n` are the inputs, the nodes' values follow in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    /// Version of the graph format.
    #[serde(default = "current")]
    pub version: u32,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// What the piece returns.
    pub outputs: Vec<ValueId>,
    /// Rows of the layer table, if the piece consists of whole layers. `nodes` and `output` are values of the piece.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

fn current() -> u32 {
    GRAPH_VERSION
}

/// Most nodes of a piece: a hundred times what the largest published model has.
const MAX_NODES: usize = 100_000;
/// Longest name of a node.
const MAX_NAME: usize = 256;

impl GraphBuilder {
    /// A builder for a piece on top of values with these shapes (on the probe image). Read the inputs with
    /// [`GraphBuilder::feat`] or as `ValueId(0)`, `ValueId(1)`, ...
    pub fn fragment(inputs: Vec<Shape>) -> Self {
        let nodes = inputs.iter().enumerate().map(|(index, shape)| Node {
            name: format!("input.{index}"),
            op: Op::Input {
                channels: shape.get(1).copied().unwrap_or(1),
            },
            inputs: Vec::new(),
        });
        Self {
            graph: Graph {
                version: GRAPH_VERSION,
                nodes: nodes.collect(),
                outputs: Vec::new(),
                layers: Vec::new(),
                head: None,
            },
            shapes: inputs,
            scope: Vec::new(),
        }
    }

    /// The piece that was built on `inputs` values.
    pub fn into_fragment(self, inputs: usize, outputs: Vec<ValueId>) -> Fragment {
        let Graph {
            version, nodes, layers, ..
        } = self.graph;
        Fragment {
            version,
            nodes: nodes.into_iter().skip(inputs).collect(),
            outputs,
            layers,
        }
    }

    /// Puts a piece without layers on top of `inputs`, its names under the current scope; returns its outputs.
    pub fn graft(&mut self, piece: &Fragment, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        piece.check(inputs.len())?;
        if !piece.layers.is_empty() {
            return Err(Error::Graph(
                "a piece within a layer can't have layers of its own".into(),
            ));
        }
        let map = self.append(piece, inputs, &|node, _| node.name.clone())?;
        Ok(piece.outputs.iter().map(|value| map[value.index()]).collect())
    }

    /// Puts a piece of whole layers on top of `inputs`, outside of all scopes; returns its outputs. Layers are renumbered, and
    /// with them the names (`model.0.conv` becomes `model.12.conv`). A piece that has no layers becomes one per output, called
    /// `kind`.
    pub fn graft_layers(&mut self, piece: &Fragment, inputs: &[ValueId], kind: &str) -> Result<Vec<ValueId>> {
        piece.check(inputs.len())?;
        let first_layer = self.graph.layers.len();
        let first_node = self.graph.nodes.len();
        let bare = piece.layers.is_empty();
        let layers = if bare {
            piece.layers_of_outputs(inputs.len(), kind)
        } else {
            piece.layers.clone()
        };
        let scope = std::mem::take(&mut self.scope);
        let map = self.append(piece, inputs, &|node, value| {
            if !bare {
                return super::builder::renumber(&node.name, first_layer);
            }
            let layer = layers
                .iter()
                .position(|layer| value < layer.nodes.1)
                .unwrap_or(layers.len() - 1);
            format!("model.{}.{}", first_layer + layer, node.name)
        });
        self.scope = scope;
        let map = map?;
        // Values of the piece to nodes of the graph; the inputs have none of their own.
        let place = |value: usize| first_node + value.max(inputs.len()) - inputs.len();
        let from_outside = self.layer_of(inputs.first().copied().unwrap_or(ValueId::IMAGE));
        for layer in layers {
            self.graph.layers.push(Layer {
                index: first_layer + layer.index,
                kind: layer.kind,
                from: layer
                    .from
                    .iter()
                    .map(|from| from.map_or(from_outside, |at| Some(at + first_layer)))
                    .collect(),
                output: map[layer.output.index()],
                nodes: (place(layer.nodes.0), place(layer.nodes.1)),
            });
        }
        Ok(piece.outputs.iter().map(|value| map[value.index()]).collect())
    }

    fn append(
        &mut self,
        piece: &Fragment,
        inputs: &[ValueId],
        name: &dyn Fn(&Node, usize) -> String,
    ) -> Result<Vec<ValueId>> {
        let mut map = inputs.to_vec();
        for node in &piece.nodes {
            let read: Vec<ValueId> = node.inputs.iter().map(|value| map[value.index()]).collect();
            map.push(self.add(&name(node, map.len()), node.op.clone(), &read)?);
        }
        Ok(map)
    }
}

impl Fragment {
    /// Everything that can be wrong before a node is looked at: order, ids, names, layers.
    fn check(&self, inputs: usize) -> Result<()> {
        let fail = |reason: String| Err(Error::Graph(reason));
        if self.version == 0 || self.version > GRAPH_VERSION {
            return fail(format!(
                "format version {}, this program reads up to {GRAPH_VERSION}",
                self.version
            ));
        }
        let values = inputs + self.nodes.len();
        if self.nodes.len() > MAX_NODES {
            return fail(format!("{} nodes; {MAX_NODES} are the most", self.nodes.len()));
        }
        let mut shapes: HashMap<String, Vec<i64>> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let own = inputs + index;
            if matches!(node.op, Op::Input { .. }) {
                return fail(format!(
                    "value {own} is an `input`; inputs come first and have no nodes"
                ));
            }
            if node.name.len() > MAX_NAME || node.name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return fail(format!(
                    "value {own} has a name that is too long or has blanks: {:.40?}",
                    node.name
                ));
            }
            let too_large = |reason: String| Error::Graph(format!("value {own} `{}`: {reason}", node.name));
            node.op.check_limits().map_err(too_large)?;
            // Nodes of one name share their tensors.
            for spec in node.op.params(&node.name) {
                if shapes.get(&spec.key).is_some_and(|other| *other != spec.shape) {
                    return fail(format!(
                        "two nodes are called `{}`, but their tensors differ",
                        node.name
                    ));
                }
                shapes.insert(spec.key, spec.shape);
            }
            if let Some(input) = node.inputs.iter().find(|input| input.index() >= own) {
                let what = if input.index() >= values {
                    "does not exist"
                } else {
                    "comes later: is it a cycle?"
                };
                return fail(format!("`{}` reads value {}, which {what}", node.name, input.0));
            }
        }
        if self.outputs.is_empty() {
            return fail("no outputs".into());
        }
        if let Some(output) = self.outputs.iter().find(|output| output.index() >= values) {
            return fail(format!("output {} does not exist", output.0));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let (first, end) = layer.nodes;
            let fits = first <= end && end <= values && layer.output.index() < values;
            let earlier = layer.from.iter().flatten().all(|from| *from < index);
            if layer.index != index || !fits || !earlier {
                return fail(format!("layer {index} is out of order or ends after the last node"));
            }
        }
        Ok(())
    }

    /// One layer per output, each with the nodes since the last one.
    fn layers_of_outputs(&self, inputs: usize, kind: &str) -> Vec<Layer> {
        let end = inputs + self.nodes.len();
        let mut ends: Vec<usize> = self.outputs.iter().map(|value| value.index() + 1).collect();
        ends.sort_unstable();
        ends.dedup();
        if let Some(last) = ends.last_mut() {
            *last = end;
        }
        let mut outputs: Vec<ValueId> = self.outputs.clone();
        outputs.sort_unstable();
        outputs.dedup();
        let mut first = inputs;
        let layer = |(index, (output, end)): (usize, (ValueId, usize))| {
            let nodes = (first.min(end), end);
            first = end;
            let from = vec![index.checked_sub(1)];
            Layer {
                index,
                kind: kind.to_owned(),
                from,
                output,
                nodes,
            }
        };
        outputs.into_iter().zip(ends).enumerate().map(layer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn;

    fn conv(name: &str, cin: i64, input: u32) -> String {
        let op = serde_json::to_value(Op::conv(cin, 8, 3, 2, 1, 1, true)).expect("JSON");
        serde_json::json!({"name": name, "op": op, "inputs": [input]}).to_string()
    }

    fn piece(text: &str) -> Fragment {
        serde_json::from_str(text).expect("a fragment")
    }

    fn graft(text: &str) -> String {
        let mut g = GraphBuilder::new(3);
        let error = g.graft_layers(&piece(text), &[ValueId::IMAGE], "x").expect_err(text);
        error.to_string()
    }

    /// A block built for a piece gives the graph that it gives in place.
    #[test]
    fn a_piece_is_the_same_as_building_in_place() {
        let build = |g: &mut GraphBuilder, a: ValueId, b: ValueId| -> Result<ValueId> {
            let both = g.add("join", Op::Concat { dim: 1 }, &[a, b])?;
            nn::conv(g, "cv1", both, 16, 3, 1)
        };
        let start = || {
            let mut g = GraphBuilder::new(3);
            let image = g.image();
            let first = g
                .layer("Conv", &[image], |g| nn::conv(g, "cv", image.value, 8, 3, 2))
                .expect("a layer");
            (g, first)
        };
        let (mut whole, first) = start();
        let last = whole
            .layer("Join", &[first], |g| build(g, first.value, first.value))
            .expect("a layer");
        let whole = whole.finish(vec![last.value], None).expect("a graph");

        let (mut parts, first) = start();
        let shape = parts.shape(first.value).to_vec();
        let mut inner = GraphBuilder::fragment(vec![shape.clone(), shape]);
        let out = build(&mut inner, ValueId(0), ValueId(1)).expect("a block");
        let json = serde_json::to_string(&inner.into_fragment(2, vec![out])).expect("JSON");
        let last = parts
            .layer("Join", &[first], |g| {
                Ok(g.graft(&piece(&json), &[first.value, first.value])?[0])
            })
            .expect("a layer");
        let parts = parts.finish(vec![last.value], None).expect("a graph");
        assert_eq!(
            serde_json::to_value(whole).expect("JSON"),
            serde_json::to_value(parts).expect("JSON")
        );
    }

    #[test]
    fn a_piece_without_layers_becomes_one_per_output() {
        let nodes = [conv("a", 3, 0), conv("b", 8, 1), conv("c", 8, 2)].join(",");
        let text = format!(r#"{{"nodes": [{nodes}], "outputs": [1, 3]}}"#);
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        g.layer("Id", &[image], |g| nn::conv(g, "cv", image.value, 3, 1, 1))
            .expect("a layer");
        let outputs = g
            .graft_layers(&piece(&text), &[ValueId::IMAGE], "mine")
            .expect("a graph");
        let graph = g.finish(outputs, None).expect("a graph");
        let names: Vec<&str> = graph
            .nodes
            .iter()
            .rev()
            .take(3)
            .map(|node| node.name.as_str())
            .collect();
        assert_eq!(names, ["model.2.c", "model.2.b", "model.1.a"]);
        let rows: Vec<_> = graph
            .layers
            .iter()
            .map(|l| (l.index, l.kind.as_str(), l.nodes, l.from[0]))
            .collect();
        let end = graph.nodes.len();
        assert_eq!(
            rows[1..],
            [
                (1, "mine", (end - 3, end - 2), None),
                (2, "mine", (end - 2, end), Some(1))
            ]
        );
    }

    #[test]
    fn malformed_pieces_are_explained() {
        let relu = |name: &str, inputs: &str| {
            format!(r#"{{"name": "{name}", "op": {{"op": "act", "act": "relu"}}, "inputs": {inputs}}}"#)
        };
        let one = |node: String, outputs: &str| format!(r#"{{"nodes": [{node}], "outputs": {outputs}}}"#);
        for (text, words) in [
            (one(relu("a", "[1]"), "[1]"), "reads value 1, which comes later"),
            (one(relu("a", "[7]"), "[1]"), "reads value 7, which does not exist"),
            (one(relu("a", "[0]"), "[]"), "no outputs"),
            (one(relu("a", "[0]"), "[9]"), "output 9 does not exist"),
            (one(relu("a b", "[0]"), "[1]"), "has blanks"),
            (
                one([conv("a", 3, 0), conv("a", 8, 1)].join(","), "[2]"),
                "two nodes are called `a`, but their tensors differ",
            ),
            (one(conv("a", 1 << 40, 0), "[1]"), "is not between 1 and"),
            (one(conv("a", -3, 0), "[1]"), "is not between 1 and"),
            (one(conv("a", 4, 0), "[1]"), "takes 4 channels, but its input has 3"),
            (
                one(r#"{"name": "i", "op": {"op": "input", "channels": 3}}"#.into(), "[0]"),
                "is an `input`",
            ),
            (one(relu("a", "[0, 0]"), "[1]"), "takes 1 input, not 2"),
            (
                r#"{"version": 9, "nodes": [], "outputs": [0]}"#.into(),
                "format version 9",
            ),
        ] {
            let error = graft(&text);
            assert!(error.contains(words), "{text}\n{error}");
        }
        let layered = r#"{"nodes": [], "outputs": [0], "layers":
            [{"index": 0, "kind": "a", "from": [null], "output": 0, "nodes": [0, 5]}]}"#;
        assert!(graft(layered).contains("layer 0 is out of order"));
    }
}
