//! Calibration: a network runs on images and watches its activations until the scales of its quantizers are known.

use tch::Tensor;

use super::{BackendSpec, Quantizer, Watch, placement};
use crate::graph::{Graph, Node, ValueId};
use crate::{Mode, Params, Program, Result, passes};

/// A float network on its way to a quantized one.
#[derive(Debug)]
pub struct Calibration<'a> {
    quantizer: &'a dyn Quantizer,
    backend: BackendSpec,
    graph: Graph,
    params: Params,
    values: Vec<ValueId>,
    watches: Vec<Watch>,
}

impl<'a> Calibration<'a> {
    /// Brings a float network into the form that is quantized: batch norm folded, SiLU split where the engine wants it.
    ///
    /// # Errors
    /// Where the backend can't be ([`BackendSpec::check`]).
    pub fn new(quantizer: &'a dyn Quantizer, graph: &Graph, params: &Params) -> Result<Self> {
        let backend = quantizer.backend();
        backend.check()?;
        let (graph, params) = passes::for_quantization(graph, params, backend.integer_ops)?;
        let values = backend.placement.values(&graph);
        let watch = |_| Watch::new(backend.activation.observer, backend.activation.spec());
        Ok(Self {
            watches: values.iter().map(watch).collect(),
            params: params.deep_clone(),
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

    /// The quantized network.
    pub fn finish(self) -> Result<(Graph, Params)> {
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
        let weight = |value: ValueId, node: &Node| {
            let used = on_integers.as_ref().is_none_or(|on| on[value.index()]);
            let wanted = used && quantizer.quantizes(node)?;
            Ok(wanted.then(|| (backend.weight.spec(), backend.weight.observer)))
        };
        placement::insert(
            graph,
            &self.params,
            &self.values,
            &self.watches,
            &backend.activation.spec(),
            &weight,
        )
    }
}
