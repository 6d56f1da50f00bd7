//! Where activations are quantized: a policy as data, and the pass that inserts the nodes.

use serde::{Deserialize, Serialize};

use super::fake_quant::squashed;
use super::{FakeQuantSpec, Method, Scheme, Watch};
use crate::graph::{Activation, Graph, Node, Op, Rewriter, ValueId};
use crate::ops::Value;
use crate::{Error, Params, Result};

/// Which values get a quantizer, by the names of ops (`conv2d`, `add`, ...).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// Inputs of these ops are quantized.
    pub inputs_of: Vec<String>,
    /// Results of these ops are quantized.
    pub outputs_of: Vec<String>,
    /// The image (and what only moves its pixels) is quantized if an op of `inputs_of` reads it.
    pub image: bool,
    /// The head's raw maps are quantized too.
    pub network_outputs: bool,
    /// The result of a convolution is quantized even where an activation follows: for engines that run the two as two steps.
    /// ReLU and ReLU6 are clipping, which the quantizer behind them does anyway.
    pub before_activations: bool,
    /// What only moves elements of a quantized value gets no quantizer of its own.
    pub moved_is_quantized: bool,
    /// A Concat's inputs and its result have one range, for engines that join integers as they are.
    pub concat_shares: bool,
    /// Of the two inputs of an add, the one that comes straight from a convolution that nobody else reads stays float, since
    /// compilers fuse that add into the convolution.
    pub fuse_conv_add: bool,
}

impl Placement {
    /// A policy from lists of op names.
    pub fn inputs_of(ops: &[&str]) -> Self {
        Self {
            inputs_of: ops.iter().map(|op| (*op).to_owned()).collect(),
            image: true,
            ..Self::default()
        }
    }

    /// The results of these ops are quantized, too.
    #[must_use]
    pub fn and_outputs_of(mut self, ops: &[&str]) -> Self {
        self.outputs_of.extend(ops.iter().map(|op| (*op).to_owned()));
        self
    }

    /// Refuses names that no op has.
    ///
    /// # Errors
    /// Names the first of them, and the op that was probably meant.
    pub fn check(&self) -> Result<()> {
        let lists = [("inputs_of", &self.inputs_of), ("outputs_of", &self.outputs_of)];
        for (list, names) in lists {
            if let Some(unknown) = names.iter().find(|name| !Op::NAMES.contains(&name.as_str())) {
                let hint = crate::suggest::did_you_mean(unknown, Op::NAMES.iter().copied())
                    .unwrap_or_else(|| format!("there are {}", Op::NAMES.join(", ")));
                return Err(Error::Config(format!(
                    "`{list}` of its placement names `{unknown}`, which is no op; {hint}"
                )));
            }
        }
        Ok(())
    }

    /// Values to quantize, in graph order. Parameters and constants never are.
    pub fn values(&self, graph: &Graph) -> Vec<ValueId> {
        let consumers = graph.consumers();
        // Those that lie on the grid of a quantizer, their own or that of what they were moved from.
        let mut on_grid = vec![false; graph.nodes.len()];
        let mut values = Vec::new();
        for value in graph.values() {
            let moved = self.is_moved(graph, value, &on_grid);
            let wanted = !moved && self.wants(graph, &consumers, value);
            on_grid[value.index()] = moved || wanted;
            if wanted {
                values.push(value);
            }
        }
        values
    }

    /// Whether an engine finds a quantizer before and behind each node, so that it runs it on integers. `values` are those that
    /// have one.
    pub fn on_integers(&self, graph: &Graph, values: &[ValueId]) -> Vec<bool> {
        let consumers = graph.consumers();
        let mut on_grid = vec![false; graph.nodes.len()];
        for value in graph.values() {
            on_grid[value.index()] = values.contains(&value) || self.is_moved(graph, value, &on_grid);
        }
        let behind = |value: ValueId| match consumers[value.index()].as_slice() {
            [only] if self.one_step(&graph.node(*only).op) => on_grid[only.index()],
            _ => on_grid[value.index()],
        };
        let before = |value: ValueId| graph.node(value).inputs.first().is_some_and(|x| on_grid[x.index()]);
        graph.values().map(|value| before(value) && behind(value)).collect()
    }

    /// Which of `values`, by their places, have one range: each list more than one.
    pub(super) fn shared(&self, graph: &Graph, values: &[ValueId]) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let joins = graph
            .values()
            .filter(|value| matches!(graph.node(*value).op, Op::Concat { .. }));
        for join in joins.filter(|_| self.concat_shares) {
            let mut members = Vec::new();
            sources(graph, values, join, &mut members);
            graph
                .node(join)
                .inputs
                .iter()
                .for_each(|input| sources(graph, values, *input, &mut members));
            // What is in two lists makes them one.
            groups.retain(|group| {
                let apart = group.iter().all(|member| !members.contains(member));
                if !apart {
                    members.extend(group);
                }
                apart
            });
            members.sort_unstable();
            members.dedup();
            groups.push(members);
        }
        groups.retain(|group| group.len() > 1);
        groups
    }

    fn is_moved(&self, graph: &Graph, value: ValueId, on_grid: &[bool]) -> bool {
        let node = graph.node(value);
        let one = node.op.moves_values() && !matches!(node.op, Op::Concat { .. });
        self.moved_is_quantized && one && node.inputs.first().is_some_and(|x| on_grid[x.index()])
    }

    fn wants(&self, graph: &Graph, consumers: &[Vec<ValueId>], value: ValueId) -> bool {
        let has = |list: &[String], op: &Op| list.iter().any(|name| name == op.name());
        let node = graph.node(value);
        if matches!(node.op.value(), Value::Fixed | Value::Table) {
            return false;
        }
        if graph.outputs.contains(&value) {
            return self.network_outputs;
        }
        if !self.image && is_image(graph, value) {
            return false;
        }
        // Float until the activation: a convolution is one step with what follows it.
        let feeds_act = match consumers[value.index()].as_slice() {
            [only] => self.one_step(&graph.node(*only).op),
            _ => false,
        };
        let made = has(&self.outputs_of, &node.op) && !feeds_act
            || matches!(node.op, Op::Act { .. })
                && node
                    .inputs
                    .first()
                    .is_some_and(|input| has(&self.outputs_of, &graph.node(*input).op));
        let read = consumers[value.index()].iter().any(|reader| {
            let reader = graph.node(*reader);
            has(&self.inputs_of, &reader.op) && !(self.fuse_conv_add && self.fused(graph, consumers, value, reader))
        });
        made || read
    }

    /// Whether an op is an activation that runs in one step with the convolution before it.
    fn one_step(&self, op: &Op) -> bool {
        match op {
            Op::Act { act } => !self.before_activations || matches!(act, Activation::Relu | Activation::Relu6),
            _ => false,
        }
    }

    fn fused(&self, graph: &Graph, consumers: &[Vec<ValueId>], value: ValueId, reader: &Node) -> bool {
        let single_conv =
            |value: ValueId| matches!(graph.node(value).op, Op::Conv2d { .. }) && consumers[value.index()].len() == 1;
        // Only one side can fuse: the last that qualifies, as the later one is computed last.
        matches!(reader.op, Op::Add)
            && single_conv(value)
            && reader.inputs.iter().rev().find(|input| single_conv(**input)) == Some(&value)
    }
}

/// Whether a value is the image, or its pixels in another order.
pub(super) fn is_image(graph: &Graph, value: ValueId) -> bool {
    let node = graph.node(value);
    value == ValueId::IMAGE
        || node.op.moves_values() && !node.inputs.is_empty() && node.inputs.iter().all(|input| is_image(graph, *input))
}

/// Places in `values` of the quantizers that a value comes from by moving elements: its own, or those of what it was moved from.
fn sources(graph: &Graph, values: &[ValueId], value: ValueId, found: &mut Vec<usize>) {
    let node = graph.node(value);
    if let Some(at) = values.iter().position(|known| *known == value) {
        found.push(at);
    } else if node.op.moves_values() {
        node.inputs
            .iter()
            .for_each(|input| sources(graph, values, *input, found));
    }
}

/// The activation that is all that becomes of a value, a SiLU that is written as a product included.
pub(super) fn behind(graph: &Graph, value: ValueId) -> Option<Activation> {
    let readers: Vec<ValueId> = (graph.values())
        .filter(|reader| graph.node(*reader).inputs.contains(&value))
        .collect();
    if graph.outputs.contains(&value) {
        return None;
    }
    match readers.as_slice() {
        [only] => match graph.node(*only).op {
            Op::Act { act } => Some(act),
            _ => None,
        },
        [gate, product] => {
            let sigmoid = matches!(
                graph.node(*gate).op,
                Op::Act {
                    act: Activation::Sigmoid
                }
            );
            let both = matches!(graph.node(*product).op, Op::Mul) && graph.node(*product).inputs == [value, *gate];
            (sigmoid && both).then_some(Activation::Silu)
        }
        _ => None,
    }
}

/// Name of the quantizer of a value.
pub fn quantizer_name(producer: &str) -> String {
    format!("{producer}.act_quant")
}

/// How the tensors of a layer are quantized.
pub(super) struct Layer {
    pub weight: Scheme,
    pub bias: Option<Scheme>,
}

/// How a node is quantized, if it is.
pub(super) type LayerQuant<'a> = &'a dyn Fn(ValueId, &Node) -> Result<Option<Layer>>;

/// The grid of a bias that has moved since it got one: powers of two are searched anew, other grids hold all of it.
pub(super) fn grid_of_bias(bias: &tch::Tensor, spec: &FakeQuantSpec) -> Result<(tch::Tensor, tch::Tensor)> {
    let observer = match spec.method.is_power_of_two() {
        true => super::Observer::PowerOfTwo,
        false => super::Observer::MinMax,
    };
    super::qparams(&super::batch_range(observer, spec, bias)?, spec)
}

/// The quantizer of a layer's own tensor, whose scale and zero point join `params`.
fn of_own(params: &mut Params, node: &str, tensor: &str, scheme: &Scheme) -> Result<FakeQuantSpec> {
    let (key, spec) = (format!("{node}.{tensor}"), scheme.spec());
    let values = params.require(&key)?;
    let (scale, zero_point) = tch::no_grad(|| {
        // What is made of a weight before it is rounded is what a range is for.
        let (values, plain) = match spec.method {
            Method::Dorefa => (squashed(values)?, Method::Fixed),
            other => (values.shallow_clone(), other),
        };
        let plain = FakeQuantSpec {
            method: plain,
            ..spec.clone()
        };
        super::qparams(&super::batch_range(scheme.observer, &plain, &values)?, &plain)
    })
    .map_err(|error| of_tensor(&key, error))?;
    params.insert(format!("{key}_quant.scale"), scale);
    params.insert(format!("{key}_quant.zero_point"), zero_point);
    Ok(spec)
}

/// An error of a tensor, with its name.
pub(super) fn of_tensor(name: &str, error: Error) -> Error {
    match error {
        Error::Impossible(reason) => Error::Impossible(format!("`{name}` can't be quantized: {reason}")),
        other => other,
    }
}

/// Inserts a fake quantizer after each of `values` and gives every convolution and linear layer for which `layer` says so quantizers of
/// its weight and its bias.
/// Quantizers of activations and their scales come from `watches` (one per value), scales of weights from the weights.
pub(super) fn insert(
    graph: &Graph,
    params: &Params,
    values: &[ValueId],
    watches: &[&Watch],
    layer: LayerQuant<'_>,
) -> Result<(Graph, Params)> {
    let mut quantized = params.shallow_clone();
    let mut rewriter = Rewriter::new(graph);
    for (value, node) in graph.values().zip(&graph.nodes) {
        let mut node = node.clone();
        if let Some(layer) = layer(value, &node)?
            && let Op::Conv2d {
                weight_quant,
                bias_quant,
                bias,
                ..
            }
            | Op::Linear {
                weight_quant,
                bias_quant,
                bias,
                ..
            } = &mut node.op
        {
            *weight_quant = Some(of_own(&mut quantized, &node.name, "weight", &layer.weight)?);
            if let (true, Some(scheme)) = (*bias, &layer.bias) {
                *bias_quant = Some(of_own(&mut quantized, &node.name, "bias", scheme)?);
            }
        }
        let name = quantizer_name(&node.name);
        rewriter.replace(node);
        let Some(at) = values.iter().position(|v| *v == value) else {
            continue;
        };
        let (scale, zero_point) = watches[at].qparams()?.ok_or_else(|| {
            Error::Impossible("calibration has seen no image: give at least one (--calib-batches)".into())
        })?;
        quantized.insert(format!("{name}.scale"), scale.reshape([1]));
        quantized.insert(format!("{name}.zero_point"), zero_point.reshape([1]));
        let new = rewriter.insert(Node {
            name,
            op: Op::FakeQuant {
                quant: watches[at].spec().clone(),
            },
            inputs: vec![rewriter.value(value)],
        });
        if !graph.outputs.contains(&value) {
            rewriter.redirect(value, new);
        }
    }
    let graph = rewriter.finish()?;
    quantized.check(&graph)?;
    Ok((graph, quantized))
}
