//! Runs ncnn files with each int8 convolution on simulated values: what it makes of its input must be the simulated integers, and what it
//! makes of those the simulated output.
//!
//! What must not be here: what is near enough for a quantizer, which is in [`crate::steps`].

use std::collections::{HashMap, VecDeque};

use tch::{Kind, Tensor};
use yolo_core::{Graph, Mode, Node, Op, Params, Program, ValueId, passes};

use super::check::difference;
use super::int8::int8_scales;
use super::model::{Layer, Net, Weight};
use super::run::{Force, quantized, run_forced};
use crate::Result;
use crate::onnx::Difference;
use crate::steps::{Grid, Steps, differs};

/// An int8 convolution of the simulation.
#[derive(Debug)]
struct Convolution {
    /// Name of its layer.
    name: String,
    /// The value that its quantizer makes.
    input: ValueId,
    output: ValueId,
    /// The activation that may be inside its layer.
    activation: Option<ValueId>,
    /// A step of its input.
    step: f64,
}

/// Holds each int8 convolution of `net` against the simulation of `graph` on `image` `[1, C, H, W]`, and what the file makes of their
/// values against the network's outputs.
///
/// # Errors
/// Names the layer that runs in float, or that makes other values.
pub fn check(net: &Net, graph: &Graph, params: &Params, image: &Tensor) -> Result<(Steps, Difference)> {
    let (graph, params) = passes::for_export(graph, params)?;
    let (graph, convolutions) = as_ncnn_runs(&graph, &params)?;
    let mut wanted: HashMap<ValueId, Option<Tensor>> = HashMap::new();
    for c in &convolutions {
        wanted.extend([(c.input, None), (c.output, None)]);
        wanted.extend(c.activation.map(|value| (value, None)));
    }
    let program = Program::new(&graph, &params)?;
    let maps = tch::no_grad(|| {
        program.run_observed(image, Mode::Eval, |value, tensor| {
            if let Some(slot) = wanted.get_mut(&value) {
                *slot = Some(tensor.copy());
            }
            Ok(())
        })
    })?;
    let mut forced = Forced {
        left: convolutions.into(),
        values: wanted
            .into_iter()
            .filter_map(|(value, tensor)| Some((value, tensor?)))
            .collect(),
        steps: Steps::default(),
    };
    let outputs = run_forced(net, image, &mut forced)?;
    if let Some(Convolution { name, .. }) = forced.left.front() {
        return Err(differs(name, "the file has no layer of that name"));
    }
    Ok((forced.steps.finish()?, difference(&outputs, &graph, &maps)?))
}

/// The network as ncnn runs it: quantizers only where an int8 convolution reads and weighs, everything else in float.
fn as_ncnn_runs(graph: &Graph, params: &Params) -> Result<(Graph, Vec<Convolution>)> {
    let mut plain = graph.clone();
    let float = |mut value: ValueId| {
        while let Op::FakeQuant { .. } = graph.node(value).op {
            value = graph.node(value).inputs[0];
        }
        value
    };
    let consumers = graph.consumers();
    let mut convolutions = Vec::new();
    for (value, node) in graph.values().zip(&graph.nodes) {
        let own = &mut plain.nodes[value.index()];
        if let Some(scales) = int8_scales(graph, params, node)? {
            convolutions.push(Convolution {
                name: node.name.clone(),
                input: node.inputs[0],
                output: value,
                activation: activation(graph, &consumers, value),
                step: 1.0 / f64::from(scales.input),
            });
            continue;
        }
        if matches!(node.op, Op::FakeQuant { .. }) {
            continue;
        }
        for input in &mut own.inputs {
            *input = float(*input);
        }
        own.op.unquantize();
    }
    for output in &mut plain.outputs {
        *output = float(*output);
    }
    plain.validate()?;
    Ok((plain, convolutions))
}

/// The activation that alone reads a value.
fn activation(graph: &Graph, consumers: &[Vec<ValueId>], value: ValueId) -> Option<ValueId> {
    let is_act = |node: &Node| matches!(node.op, Op::Act { .. });
    match consumers[value.index()].as_slice() {
        [only] if is_act(graph.node(*only)) => Some(*only),
        _ => None,
    }
}

struct Forced {
    left: VecDeque<Convolution>,
    values: HashMap<ValueId, Tensor>,
    steps: Steps,
}

impl Forced {
    /// The next convolution, if this layer is it.
    fn is_next(&self, layer: &Layer) -> bool {
        self.left.front().is_some_and(|c| c.name == layer.name)
    }

    fn simulated(&self, value: ValueId) -> Result<Tensor> {
        let tensor = self
            .values
            .get(&value)
            .ok_or_else(|| differs("the network", "a value was not simulated"))?;
        Ok(tensor.f_squeeze_dim(0)?)
    }
}

impl Force for Forced {
    fn before(&mut self, layer: &Layer, inputs: &mut [Tensor]) -> Result<()> {
        let Some(next) = self.left.front().filter(|_| self.is_next(layer)) else {
            return Ok(());
        };
        if layer.int(8, 0) == 0 {
            return Err(differs(&layer.name, "it would run in float"));
        }
        let wanted = self.simulated(next.input)?;
        let x = inputs
            .first_mut()
            .ok_or_else(|| differs(&layer.name, "it reads nothing"))?;
        let Some(Weight::Plain(scale)) = layer.weights.last() else {
            return Err(differs(&layer.name, "it has no scale for its input"));
        };
        let scale = f64::from(scale.first().copied().unwrap_or_default());
        let made = quantized(x, scale)?.f_mul_scalar(1.0 / scale)?.f_to_kind(Kind::Float)?;
        let grid = Grid {
            step: next.step,
            levels: 254,
            half_up: false,
        };
        self.steps.add(&layer.name, &made, &wanted, Some(&*x), grid)?;
        *x = wanted;
        Ok(())
    }

    fn after(&mut self, layer: &Layer, outputs: &mut [Tensor]) -> Result<()> {
        if !self.is_next(layer) {
            return Ok(());
        }
        let Some(next) = self.left.pop_front() else {
            return Ok(());
        };
        let inside = layer.int(9, 0) != 0;
        let made = if inside {
            next.activation.unwrap_or(next.output)
        } else {
            next.output
        };
        let wanted = self.simulated(made)?;
        let y = outputs
            .first_mut()
            .ok_or_else(|| differs(&layer.name, "it makes nothing"))?;
        if y.size() != wanted.size() {
            return Err(differs(
                &layer.name,
                &format!("{:?} values instead of {:?}", y.size(), wanted.size()),
            ));
        }
        // Both multiply the same integers.
        let worst = y.f_sub(&wanted)?.f_abs()?.f_max()?.f_double_value(&[])?;
        let largest = wanted.f_abs()?.f_max()?.f_double_value(&[])?;
        if worst.is_nan() || worst > 1e-4 * largest + 1e-6 {
            return Err(differs(
                &layer.name,
                &format!("its outputs are others, by up to {worst:.4} of {largest:.4}"),
            ));
        }
        *y = wanted;
        Ok(())
    }
}
