//! Calibration: a network runs on images and watches its activations until the scales of its quantizers are known.

use tch::Tensor;

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
        let watch = |value: &ValueId| {
            Watch::new(backend.activation.observer, backend.activation.spec()).behind(placement::behind(&graph, *value))
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
        let weight = |value: ValueId, node: &Node| {
            let used = on_integers.as_ref().is_none_or(|on| on[value.index()]);
            let wanted = used && quantizer.quantizes(node)?;
            Ok(wanted.then(|| (backend.weight.spec(), backend.weight.observer)))
        };
        let (graph, params) = placement::insert(
            graph,
            &self.params,
            &self.values,
            &self.watches,
            &backend.activation.spec(),
            &weight,
        )?;
        Ok(Calibrated {
            graph,
            params,
            float: self.params,
        })
    }
}
