//! Calibration: a network runs on images and watches its activations until the scales of its quantizers are known.

use tch::Tensor;

use super::placement::Layer;
use super::{BackendSpec, Quantizer, Refinement, Rounding, Watch, equalize, placement, reconstruct};
use crate::graph::{Graph, Node, ValueId};
use crate::{Error, Mode, Params, Program, Result, passes};

/// A float network on its way to a quantized one.
#[derive(Debug)]
pub struct Calibration<'a> {
    quantizer: &'a dyn Quantizer,
    backend: BackendSpec,
    graph: Graph,
    params: Params,
    values: Vec<ValueId>,
    watches: Vec<Watch>,
    refinement: Refinement,
}

/// A quantized network with what it was made from.
#[derive(Debug)]
pub struct Calibrated {
    /// The network with its quantizers.
    pub graph: Graph,
    /// Its tensors.
    pub params: Params,
    /// The float tensors of the same nodes: batch norm folded, ranges made alike where that was asked for.
    pub float: Params,
}

impl<'a> Calibration<'a> {
    /// Brings a float network into the form that is quantized: batch norm folded, SiLU split where the engine wants it.
    ///
    /// # Errors
    /// Where the backend can't be ([`BackendSpec::check`]).
    pub fn new(quantizer: &'a dyn Quantizer, graph: &Graph, params: &Params) -> Result<Self> {
        Self::refined(quantizer, graph, params, Refinement::default())
    }

    /// As [`Calibration::new`], with more than ranges.
    ///
    /// # Errors
    /// Those of [`Calibration::new`]; [`Error::Impossible`] where the network or the grid does not allow what is asked for.
    pub fn refined(
        quantizer: &'a dyn Quantizer,
        graph: &Graph,
        params: &Params,
        refinement: Refinement,
    ) -> Result<Self> {
        let backend = quantizer.backend();
        backend.check()?;
        if refinement.rounding == Rounding::AdaRound && !backend.weight.method.is_linear() {
            return Err(Error::Impossible(format!(
                "adaround chooses between the two neighbours on a linear grid, weights of this backend have another ({:?}); leave it out",
                backend.weight.method
            )));
        }
        let (graph, params) = passes::for_quantization(graph, params, backend.integer_ops)?;
        let values = backend.placement.values(&graph);
        let ends = Ends::of(&graph);
        let watch = |value: &ValueId| {
            let scheme = backend
                .activation
                .with_bits(backend.end_bits.filter(|_| ends.reads(&graph, *value)));
            Watch::new(scheme.observer, scheme.spec())
                .behind(placement::behind(&graph, *value))
                .of_image(placement::is_image(&graph, *value))
        };
        let mut params = params.deep_clone();
        if refinement.equalize {
            equalize::equalize(&graph, &mut params)?;
        }
        Ok(Self {
            watches: values.iter().map(watch).collect(),
            params,
            refinement,
            quantizer,
            backend,
            graph,
            values,
        })
    }

    /// How many activations get a quantizer.
    pub fn activations(&self) -> usize {
        self.values.len()
    }

    /// Looks at a batch of images `[N, C, H, W]`.
    pub fn see(&mut self, images: &Tensor) -> Result<()> {
        let Self {
            graph,
            params,
            values,
            watches,
            ..
        } = self;
        let program = Program::new(graph, params)?;
        tch::no_grad(|| {
            program.run_observed(images, Mode::Eval, |value, tensor| {
                match values.iter().position(|wanted| *wanted == value) {
                    Some(at) => watches[at]
                        .see(tensor)
                        .map_err(|error| placement::of_tensor(&graph.node(value).name, error)),
                    None => Ok(()),
                }
            })
        })?;
        Ok(())
    }

    /// The quantized network, with ranges as they were found and nothing more.
    pub fn finish(self) -> Result<(Graph, Params)> {
        let Calibrated { graph, params, .. } = self.inserted()?;
        Ok((graph, params))
    }

    /// The quantized network, reconstructed on `images` `[N, C, H, W]` where that was asked for. `step` hears of finished layers and of
    /// their number.
    ///
    /// # Errors
    /// Those of [`Calibration::finish`], and those of `step`.
    pub fn finish_on(self, images: &Tensor, step: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<Calibrated> {
        let refinement = self.refinement;
        let mut made = self.inserted()?;
        if refinement.reconstructs() {
            reconstruct::reconstruct(&made.graph, &mut made.params, &made.float, images, &refinement, step)?;
        }
        Ok(made)
    }

    fn inserted(self) -> Result<Calibrated> {
        let Self {
            quantizer,
            backend,
            graph,
            ..
        } = &self;
        // Weights of an op that runs in float are float: integers would only be turned back at every run.
        let on_integers = backend
            .integer_ops
            .then(|| backend.placement.on_integers(graph, &self.values));
        let ends = Ends::of(graph);
        let layer = |value: ValueId, node: &Node| {
            let used = on_integers.as_ref().is_none_or(|on| on[value.index()]);
            let wanted = used && quantizer.quantizes(node)?;
            Ok(wanted.then_some(Layer {
                weight: backend.weight.with_bits(backend.end_bits.filter(|_| ends.holds(value))),
                bias: backend.bias,
            }))
        };
        let shared = shared(backend.placement.shared(graph, &self.values), &self.watches)?;
        let watches: Vec<&Watch> = (self.watches.iter().enumerate())
            .map(|(at, own)| (shared.iter().find(|(group, _)| group.contains(&at))).map_or(own, |(_, all)| all))
            .collect();
        let (graph, params) = placement::insert(graph, &self.params, &self.values, &watches, &layer)?;
        Ok(Calibrated {
            graph,
            params,
            float: self.params,
        })
    }
}

/// One watch for each list of places.
fn shared(groups: Vec<Vec<usize>>, watches: &[Watch]) -> Result<Vec<(Vec<usize>, Watch)>> {
    let mut all = Vec::with_capacity(groups.len());
    for group in groups {
        let members: Vec<&Watch> = group.iter().map(|at| &watches[*at]).collect();
        if let Some(watch) = Watch::joined(&members)? {
            all.push((group, watch));
        }
    }
    Ok(all)
}

/// The first and the last layers with weights: those that read the image, and those behind which no other stands.
struct Ends(Vec<bool>);

impl Ends {
    fn of(graph: &Graph) -> Self {
        let mut ends = vec![false; graph.nodes.len()];
        let mut leads_out = vec![false; graph.nodes.len()];
        graph.outputs.iter().for_each(|value| leads_out[value.index()] = true);
        let nodes: Vec<(ValueId, &Node)> = graph.values().zip(&graph.nodes).collect();
        for (value, node) in nodes.into_iter().rev() {
            let last = leads_out[value.index()];
            let first = node
                .inputs
                .first()
                .is_some_and(|input| placement::is_image(graph, *input));
            if node.op.is_weighted() {
                ends[value.index()] = last || first;
            } else if last {
                node.inputs.iter().for_each(|input| leads_out[input.index()] = true);
            }
        }
        Self(ends)
    }

    fn holds(&self, value: ValueId) -> bool {
        self.0[value.index()]
    }

    /// Whether one of them reads a value.
    fn reads(&self, graph: &Graph, value: ValueId) -> bool {
        (graph.values()).any(|reader| self.holds(reader) && graph.node(reader).inputs.contains(&value))
    }
}
