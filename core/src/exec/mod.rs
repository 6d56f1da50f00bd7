//! Runs a graph on libtorch.
//!
//! A [`Program`] binds a graph to its tensors once (no look-up by name in the forward) and drops every value at its last
//! use. Training keeps what autograd needs because libtorch holds it. Device, memory format and kind are those of the tensors that
//! are passed in: see [`Program::device`] and [`channels_last`]. No tensor is made anywhere else.

mod fused;

pub use crate::ops::window::mask_values as window_mask_values;
pub use crate::ops::window::relative_position_index;

use tch::{Device, Tensor};

use crate::graph::{Graph, Node, Op, ValueId};
use crate::ops::{Place, window::Masks};
use crate::{Error, Params, Result};
use fused::Fused;

/// Whether batch statistics, dropout and observers act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, which also update the running ones; dropout and stochastic depth act.
    Train,
    /// Running statistics; nothing is random; activations may overwrite their input.
    Eval,
}

/// Who computes batch norm in [`Mode::Train`] instead of libtorch, for example over the images of several processes.
pub trait TrainNorm: std::fmt::Debug + Send {
    /// The norm of `x` `[N, C, ...]` by its statistics, which also update the running ones. `params`: weight, bias, running mean,
    /// running variance. Differentiable in `x`, weight and bias.
    fn batch_norm(&self, x: &Tensor, params: [&Tensor; 4], momentum: f64, eps: f64) -> Result<Tensor>;
}

/// A graph bound to its tensors.
#[derive(Debug)]
pub struct Program {
    norm: Option<Box<dyn TrainNorm>>,
    graph: Graph,
    tensors: Vec<Vec<Tensor>>,
    drop_after: Vec<Vec<ValueId>>,
    in_place: Vec<bool>,
    device: Device,
    masks: Masks,
    /// Counters of batch norms, which all count a batch together.
    counters: Vec<Tensor>,
    /// For each node, what it computes together with the next.
    fused: Vec<Fused>,
    /// Values that are returned besides the outputs.
    kept: Vec<ValueId>,
}

impl Program {
    /// Binds `graph` to `params` (storage is shared: an optimizer step is seen by the next run).
    pub fn new(graph: &Graph, params: &Params) -> Result<Self> {
        let device = params.device();
        let tensors = graph
            .nodes
            .iter()
            .map(|node| bind(node, params))
            .collect::<Result<_>>()?;
        let mut last_use: Vec<usize> = (0..graph.nodes.len()).collect();
        for (index, node) in graph.nodes.iter().enumerate() {
            for input in &node.inputs {
                last_use[input.index()] = index;
            }
        }
        let mut drop_after = vec![Vec::new(); graph.nodes.len()];
        for value in graph.values() {
            if !graph.outputs.contains(&value) {
                drop_after[last_use[value.index()]].push(value);
            }
        }
        // An activation may overwrite its input if nobody else reads it and it owns its storage.
        let in_place = graph
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| {
                matches!(node.op, Op::Act { .. })
                    && drop_after[index].contains(&node.inputs[0])
                    && matches!(
                        graph.node(node.inputs[0]).op,
                        Op::Conv2d { .. } | Op::BatchNorm { .. } | Op::Linear { .. }
                    )
            })
            .collect();
        Ok(Self {
            norm: None,
            graph: graph.clone(),
            tensors,
            drop_after,
            in_place,
            device,
            masks: Masks::default(),
            counters: fused::counters(graph, params)?,
            fused: vec![Fused::Nothing; graph.nodes.len()],
            kept: Vec::new(),
        })
    }

    /// Has [`Program::run_kept`] return these values besides the outputs, as they are computed. Nothing else changes, and a program that
    /// keeps nothing pays nothing.
    ///
    /// # Errors
    /// A value that the graph does not have.
    pub fn keeping(mut self, wanted: &[ValueId]) -> Result<Self> {
        for value in wanted {
            if value.index() >= self.graph.nodes.len() {
                return Err(Error::Graph(format!("there is no value {}", value.index())));
            }
            for dropped in &mut self.drop_after {
                dropped.retain(|other| other != value);
            }
            for (index, node) in self.graph.nodes.iter().enumerate() {
                if matches!(node.op, Op::Act { .. }) && node.inputs[0] == *value {
                    // Nobody may overwrite it, and a norm that is kept has no activation yet.
                    self.in_place[index] = false;
                    if self.fused[index] == Fused::Done {
                        self.fused[index] = Fused::Nothing;
                        self.fused[value.index()] = fused::alone();
                    }
                }
            }
        }
        self.kept = wanted.to_vec();
        Ok(self)
    }

    /// Computes batch norms and the activations that follow them by one kernel in training, where there is one for the device: the same
    /// to rounding, with fewer passes over memory.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn with_fused_norms(mut self) -> Result<Self> {
        if self.device.is_cuda() && yolo_torch::native::bn_act::obstacle(self.device)?.is_none() {
            self.fused = fused::pairs(&self.graph, &self.drop_after);
        }
        Ok(self)
    }

    /// Where its tensors are, and where images must be.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Has `norm` compute batch norm in training.
    #[must_use]
    pub fn with_norm(mut self, norm: Box<dyn TrainNorm>) -> Self {
        self.norm = Some(norm);
        // Fused norms know the images of this process only.
        self.fused.fill(Fused::Nothing);
        self
    }

    /// The graph that this runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Runs the image `[N, C, H, W]`; returns the raw maps of the head, finest stride first.
    pub fn run(&self, image: &Tensor, mode: Mode) -> Result<Vec<Tensor>> {
        Ok(self.run_kept(image, mode)?.0)
    }

    /// As [`Program::run`]; the second list holds the values that [`Program::keeping`] names, in their order.
    ///
    /// # Errors
    /// Those of the ops.
    pub fn run_kept(&self, image: &Tensor, mode: Mode) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        self.run_all(image, mode, mode == Mode::Train, |_, _| Ok(()))
    }

    /// As [`Program::run`], and shows every value to `observe` as it is made (calibration, statistics). Values
    /// that are shown must not be kept in eval mode without a copy if an activation follows: it may overwrite them.
    pub fn run_observed(
        &self,
        image: &Tensor,
        mode: Mode,
        observe: impl FnMut(ValueId, &Tensor) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        Ok(self.run_all(image, mode, false, observe)?.0)
    }

    fn run_all(
        &self,
        image: &Tensor,
        mode: Mode,
        fuse: bool,
        mut observe: impl FnMut(ValueId, &Tensor) -> Result<()>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(self.graph.nodes.len());
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let result = if index == 0 {
                let channels = self.graph.input_channels();
                let size = image.size();
                if size.len() != 4 || size[1] != channels {
                    return Err(Error::Shape {
                        node: node.name.clone(),
                        op: "input",
                        reason: format!("the image must be [N, {channels}, H, W], not {size:?}"),
                    });
                }
                image.shallow_clone()
            } else {
                let inputs: smallvec::SmallVec<[&Tensor; 4]> = node
                    .inputs
                    .iter()
                    .map(|v| values[v.index()].as_ref())
                    .collect::<Option<_>>()
                    .ok_or_else(|| Error::Graph(format!("`{}` reads a value that is gone", node.name)))?;
                let place = Place {
                    train: mode == Mode::Train,
                    in_place: self.in_place[index],
                    masks: &self.masks,
                    norm: self.norm.as_deref(),
                };
                let fused = if fuse { self.fused[index] } else { Fused::Nothing };
                let result = match fused {
                    Fused::Nothing => node.op.with(|op| op.run(&inputs, &self.tensors[index], &place)),
                    Fused::Norm(act) => fused::norm(&node.op, inputs[0], &self.tensors[index], act),
                    Fused::Done => Ok(inputs[0].shallow_clone()),
                };
                result.map_err(|error| match error {
                    Error::Torch(source) => Error::Shape {
                        node: node.name.clone(),
                        op: node.op.name(),
                        reason: source.to_string().lines().next().unwrap_or_default().to_owned(),
                    },
                    other => other,
                })?
            };
            observe(ValueId(index as u32), &result)?;
            values.push(Some(result));
            for value in &self.drop_after[index] {
                values[value.index()] = None;
            }
        }
        if mode == Mode::Train && !self.counters.is_empty() {
            yolo_torch::native::step::foreach_add(&self.counters, 1.0)?;
        }
        let collect = |wanted: &[ValueId]| -> Result<Vec<Tensor>> {
            let found = wanted
                .iter()
                .map(|v| values[v.index()].as_ref().map(Tensor::shallow_clone));
            found
                .collect::<Option<_>>()
                .ok_or_else(|| Error::Graph("an output was dropped".into()))
        };
        Ok((collect(&self.graph.outputs)?, collect(&self.kept)?))
    }
}

/// The tensors of a node, in the order of its op; a constant has its value there.
///
/// # Errors
/// [`Error::Params`] names a tensor that is absent or has another shape.
pub(crate) fn bind(node: &Node, params: &Params) -> Result<Vec<Tensor>> {
    let mut own = Vec::new();
    if let Op::Constant { shape, values } = &node.op {
        own.push(
            Tensor::f_from_slice(values)?
                .f_reshape(shape.as_slice())?
                .f_to_device(params.device())?,
        );
    }
    for spec in node.op.params(&node.name) {
        let tensor = params.require(&spec.key)?;
        if tensor.size() != spec.shape {
            return Err(Error::Params(format!(
                "`{}` has shape {:?}, the model needs {:?}",
                spec.key,
                tensor.size(),
                spec.shape
            )));
        }
        own.push(tensor.shallow_clone());
    }
    Ok(own)
}

/// The same tensor laid out with channels last (NHWC in memory, NCHW in shape): convolutions on CPUs run faster on it and hand
/// the layout on.
pub fn channels_last(tensor: &Tensor) -> Tensor {
    if tensor.dim() == 4 {
        tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    } else {
        tensor.shallow_clone()
    }
}
