//! Runs a QDQ file with each quantizer on simulated values: the file is cut at every pair, what a pair makes becomes an output, and what
//! follows reads the simulated value instead.
//!
//! What must not be here: what is near enough, which is in [`crate::steps`].

use std::collections::{HashMap, HashSet};

use tch::Tensor;
use yolo_core::quant::Method;
use yolo_core::{Mode, Op, Program, ValueId};

use super::check::compare;
use super::proto::{
    DataType, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::{Difference, Exported, qdq};
use crate::engine::{Array, Engine};
use crate::steps::{Fused, Grid, Steps, differs};
use crate::{Error, Result, ort};

/// A quantizer of the simulation.
struct Quantizer {
    /// Name of its value in the file.
    name: String,
    /// What it makes, and what of.
    value: Tensor,
    raw: Tensor,
    grid: qdq::Grid,
    method: Method,
}

impl Quantizer {
    fn steps(&self) -> Grid {
        Grid {
            step: f64::from(self.grid.scale),
            levels: self.grid.qmax - self.grid.qmin,
            half_up: self.method.rounds_up(),
        }
    }
}

/// Holds each quantizer of `file` against the simulation of the network that it was made from, `exported`, on `images`
/// `[N, C, H, W]`; and what the file makes of the last quantizers' values against the network's outputs.
///
/// # Errors
/// Names the quantizer that the file lacks, or that makes other values.
pub fn check(file: &ModelProto, exported: &Exported, images: &Tensor, threads: usize) -> Result<(Steps, Difference)> {
    let (quantizers, maps) = simulate(exported, images)?;
    let cut = cut(file, &quantizers)?;
    let mut session = ort::Session::unoptimized(&cut.to_bytes()?, threads)?;
    let mut inputs: Vec<(&str, &Tensor)> = vec![("images", images)];
    inputs.extend(quantizers.iter().map(|q| (q.name.as_str(), &q.value)));
    let results = session.run(&inputs)?;
    let made: HashMap<&str, &Tensor> = results.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut steps = Steps::default();
    for quantizer in &quantizers {
        let found =
            (made.get(found(&quantizer.name).as_str())).ok_or_else(|| differs(&quantizer.name, "it gives nothing"))?;
        let (wanted, raw) = (&quantizer.value, Some(&quantizer.raw));
        steps.add(&quantizer.name, found, wanted, raw, quantizer.steps())?;
    }
    let outputs = compare(&results, &exported.graph, &maps)?;
    Ok((steps.finish()?, outputs))
}

/// Holds each op of `file` as `engine` runs it, fused and on integers, against the simulation: as [`check`], but what reads a simulated
/// value reads it from a pair of quantizers, so that the engine finds one before and one behind every op, as in the file itself. With
/// `operators`, in the form of [`super::qlinear`].
///
/// # Errors
/// Those of the engine; names a quantizer that the file lacks, or that gives another shape.
pub fn run_fused(
    file: &ModelProto,
    exported: &Exported,
    operators: bool,
    images: &Tensor,
    (engine, threads): (&dyn Engine, usize),
) -> Result<Fused> {
    let (quantizers, maps) = simulate(exported, images)?;
    let mut cut = cut(file, &quantizers)?;
    pair_inputs(&mut cut, &quantizers)?;
    let raw: Vec<String> = (exported.graph.outputs.iter())
        .map(|value| exported.names[value.index()].clone())
        .collect();
    show(&mut cut, &raw, &maps);
    let folder = tempfile::tempdir().map_err(|source| Error::write(&std::env::temp_dir(), source))?;
    let path = folder.path().join("steps.onnx");
    if operators {
        (cut, _) = super::qlinear::operators(&cut)?;
    }
    cut.write(&path)?;
    let mut network = engine.open(&path, threads)?;
    let mut inputs = vec![Array::of("images", images)?];
    for quantizer in &quantizers {
        inputs.push(Array::of(&simulated(&quantizer.name), &quantizer.value)?);
    }
    let made = network.run(&inputs)?;
    let tensor = |name: &str| -> Result<Option<Tensor>> {
        made.iter()
            .find(|array| array.name == name)
            .map(Array::tensor)
            .transpose()
    };
    let mut fused = Fused::default();
    for quantizer in &quantizers {
        let found = tensor(&found(&quantizer.name))?.ok_or_else(|| differs(&quantizer.name, "it gives nothing"))?;
        fused.add(
            &quantizer.name,
            &found,
            &quantizer.value,
            f64::from(quantizer.grid.scale),
        )?;
    }
    // The raw maps have no grid: a step is what it would be of eight bits.
    for (name, wanted) in raw.iter().zip(&maps) {
        let found = tensor(name)?.ok_or_else(|| differs(name, "it gives nothing"))?;
        let span = wanted.f_max()?.f_double_value(&[])? - wanted.f_min()?.f_double_value(&[])?;
        fused.add_map(name, &found, wanted, span / 255.0)?;
    }
    Ok(fused)
}

/// Makes values outputs.
fn show(file: &mut ModelProto, names: &[String], values: &[Tensor]) {
    if let Some(graph) = &mut file.graph {
        for (name, value) in names.iter().zip(values) {
            if !graph.output.iter().any(|output| output.name == *name) {
                graph.output.push(float(name.clone(), &value.size()));
            }
        }
    }
}

/// Name of the input that holds a simulated value.
fn simulated(name: &str) -> String {
    format!("{name}.simulated")
}

/// Puts a pair of quantizers behind each simulated value; it changes nothing, as the value lies on its grid.
fn pair_inputs(file: &mut ModelProto, quantizers: &[Quantizer]) -> Result<()> {
    let graph = (file.graph.as_mut()).ok_or_else(|| Error::Unsupported("the file holds no network".into()))?;
    let mut pairs = Vec::with_capacity(2 * quantizers.len());
    for Quantizer { name, .. } in quantizers {
        let made = found(name);
        let last = graph.node.iter().find(|node| node.output.first() == Some(&made));
        let last = last.ok_or_else(|| differs(name, "nothing makes it"))?;
        let integers = format!("{name}.simulated.q");
        let half = |op: &str, input: String, output: String| NodeProto {
            op_type: op.to_owned(),
            name: format!("{name}.simulated.{op}"),
            input: std::iter::once(input)
                .chain(last.input.iter().skip(1).cloned())
                .collect(),
            output: vec![output],
            ..NodeProto::default()
        };
        pairs.push(half("QuantizeLinear", simulated(name), integers.clone()));
        pairs.push(half("DequantizeLinear", integers, name.clone()));
        for input in graph.input.iter_mut().filter(|input| input.name == *name) {
            input.name = simulated(name);
        }
    }
    // Nodes stand in the order in which they are computed.
    graph.node.splice(0..0, pairs);
    Ok(())
}

/// Values of all quantizers, and the network's maps.
fn simulate(exported: &Exported, images: &Tensor) -> Result<(Vec<Quantizer>, Vec<Tensor>)> {
    let (graph, params) = (&exported.graph, &exported.params);
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    let quantized: HashSet<ValueId> = (graph.nodes.iter())
        .filter(|node| matches!(node.op, Op::FakeQuant { .. }))
        .filter_map(|node| node.inputs.first().copied())
        .collect();
    let program = Program::new(graph, params)?;
    let maps = tch::no_grad(|| {
        program.run_observed(images, Mode::Eval, |value, tensor| {
            if quantized.contains(&value) || matches!(graph.node(value).op, Op::FakeQuant { .. }) {
                values.insert(value, tensor.copy());
            }
            Ok(())
        })
    })?;
    let mut quantizers = Vec::with_capacity(values.len());
    for (value, node) in graph.values().zip(&graph.nodes) {
        let Op::FakeQuant { quant } = &node.op else { continue };
        let raw = node.inputs.first().and_then(|input| values.get(input));
        if let (Some(raw), Some(made)) = (raw, values.get(&value)) {
            quantizers.push(Quantizer {
                name: exported.names[value.index()].clone(),
                value: made.shallow_clone(),
                raw: raw.shallow_clone(),
                grid: qdq::grid(node, params, quant)?,
                method: quant.method,
            });
        }
    }
    Ok((quantizers, maps))
}

/// Name of the output that shows what a quantizer makes.
fn found(name: &str) -> String {
    format!("{name}.found")
}

/// The file with an input in place of each quantizer's value, which becomes an output.
fn cut(file: &ModelProto, quantizers: &[Quantizer]) -> Result<ModelProto> {
    let mut file = file.clone();
    let graph = (file.graph.as_mut()).ok_or_else(|| Error::Unsupported("the file holds no network".into()))?;
    let makers: HashMap<String, usize> = (graph.node.iter().enumerate())
        .flat_map(|(at, node)| node.output.iter().map(move |name| (name.clone(), at)))
        .collect();
    for Quantizer { name, value, grid, .. } in quantizers {
        let at = *(makers.get(name)).ok_or_else(|| differs(name, "nothing makes it"))?;
        let before = graph.node[at].input.first().and_then(|name| makers.get(name)).copied();
        let pair = [(before, "QuantizeLinear"), (Some(at), "DequantizeLinear")];
        for (half, op) in pair {
            let half = half.map(|at| &graph.node[at]).filter(|node| node.op_type == op);
            has_grid(
                graph,
                half.ok_or_else(|| differs(name, &format!("it has no {op}")))?,
                name,
                grid,
            )?;
        }
        graph.node[at].output[0] = found(name);
        for output in graph.output.iter_mut().filter(|output| output.name == *name) {
            output.name = found(name);
        }
        if !graph.output.iter().any(|output| output.name == found(name)) {
            graph.output.push(float(found(name), &value.size()));
        }
        graph.input.push(float(name.clone(), &value.size()));
    }
    // Sizes that were written for one number of images.
    graph.value_info.clear();
    Ok(file)
}

/// Whether half a pair has scale and zero point of the simulation.
fn has_grid(graph: &GraphProto, node: &NodeProto, name: &str, grid: &qdq::Grid) -> Result<()> {
    let constant = |at: usize| {
        let input = node.input.get(at)?;
        graph.initializer.iter().find(|tensor| tensor.name == *input)
    };
    let scale = constant(1).and_then(TensorProto::f32_values);
    let unsigned = constant(2).is_some_and(|zero| zero.data_type == i32::from(DataType::Uint8));
    let zero = constant(2).and_then(TensorProto::integers);
    // A signed grid may be written as an unsigned one.
    let wanted_zero = grid.zero + if unsigned && grid.qmin < 0 { qdq::UNSIGNED } else { 0 };
    match (scale.as_deref(), zero.as_deref()) {
        (Some([scale]), Some([zero])) if *scale == grid.scale && *zero == wanted_zero => Ok(()),
        (scale, zero) => {
            let wanted = (grid.scale, wanted_zero);
            Err(differs(
                name,
                &format!("its scale and zero point are {scale:?} and {zero:?}, not {wanted:?}"),
            ))
        }
    }
}

fn float(name: String, sizes: &[i64]) -> ValueInfoProto {
    let dim = |size: &i64| DimensionProto {
        value: Some(DimensionValue::DimValue(*size)),
    };
    ValueInfoProto {
        name,
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: DataType::Float.into(),
                shape: Some(TensorShapeProto {
                    dim: sizes.iter().map(dim).collect(),
                }),
            }),
        }),
    }
}
