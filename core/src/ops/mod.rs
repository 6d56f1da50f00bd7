//! The home of each op: all that passes know about it, its forward on libtorch included, stands in one file per family.
//!
//! [`Op`] is the form in files. [`Op::with`] shows an op as a [`Primitive`], whose methods have no defaults: an op that lacks a fact does
//! not compile. One without weights says so by being [`Weightless`]. Passes ask a primitive; only exporters, which write other people's
//! formats, match on ops themselves.

#![deny(clippy::wildcard_enum_match_arm)]

mod axes;
mod channels;
mod conv;
mod custom;
mod deform;
mod leaf;
pub(crate) mod norm;
pub(crate) mod pointwise;
mod quantize;
mod random;
mod reduce;
mod shapes;
mod spatial;
pub(crate) mod window;

pub use custom::CustomOp;

use tch::Tensor;

use crate::exec::TrainNorm;
use crate::graph::{Dim, Op, Shape};
use crate::{ParamSpec, Result};

/// A check of sizes: the reason why they can't be.
pub(crate) type Checked = Result<(), String>;

/// All that the program knows about an op.
pub(crate) trait Primitive {
    /// Checks the sizes that the op itself states, before anything is allocated or multiplied for them.
    fn limits(&self) -> Checked;
    /// Shape of its value. `image` is `[N, C, H, W]` of the image.
    fn shape(&self, inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape, String>;
    /// Its tensors if the node is called `name`, in state-dict order.
    fn tensors(&self, name: &str) -> Vec<OwnTensor>;
    /// Where its channels come from.
    fn flow(&self) -> Flow;
    /// Its multiply-adds.
    fn work(&self, inputs: &[&[i64]], output: &[i64]) -> Work;
    /// Puts the widths that are left into `op`, which is this op.
    fn resize(&self, op: &mut Op, left: &Left<'_>) -> Checked;
    /// What its value is made of.
    fn value(&self) -> Value;
    /// Runs it. `params` are its tensors in the order of [`Primitive::tensors`]; a constant has its value there.
    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor>;
}

/// What an op has to say that has no tensors, no multiply-adds and no width of its own: to move, choose or combine what is there.
pub(crate) trait Weightless {
    /// As [`Primitive::limits`].
    fn limits(&self) -> Checked;
    /// As [`Primitive::shape`].
    fn shape(&self, inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape, String>;
    /// As [`Primitive::flow`].
    fn flow(&self) -> Flow;
    /// As [`Primitive::value`].
    fn value(&self) -> Value;
    /// As [`Primitive::run`].
    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor>;
}

impl<T: Weightless> Primitive for T {
    fn limits(&self) -> Checked {
        Weightless::limits(self)
    }

    fn shape(&self, inputs: &[&[i64]], image: &[i64; 4]) -> Result<Shape, String> {
        Weightless::shape(self, inputs, image)
    }

    fn tensors(&self, _name: &str) -> Vec<OwnTensor> {
        Vec::new()
    }

    fn flow(&self) -> Flow {
        Weightless::flow(self)
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Fixed(0)
    }

    fn resize(&self, _op: &mut Op, _left: &Left<'_>) -> Checked {
        Ok(())
    }

    fn value(&self) -> Value {
        Weightless::value(self)
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        Weightless::run(self, x, params, place)
    }
}

/// A tensor of an op, and which of its axes go with which channels.
#[derive(Debug, Clone)]
pub(crate) struct OwnTensor {
    pub spec: ParamSpec,
    pub axes: &'static [(usize, Follows)],
}

/// The channels that an axis of a tensor goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Those of the first input.
    Input,
    /// Those of the result.
    Output,
}

/// No axis goes with channels.
const FREE: &[(usize, Follows)] = &[];
/// One row per channel of the result.
const BY_OUTPUT: &[(usize, Follows)] = &[(0, Follows::Output)];
/// One row per channel of the result, one column per channel of the first input.
const BY_BOTH: &[(usize, Follows)] = &[(0, Follows::Output), (1, Follows::Input)];

/// Where the channels of a value come from.
#[derive(Debug, Clone)]
pub(crate) enum Flow {
    /// The image's, which stay.
    Image,
    /// New ones on axis 1. Those of the inputs `steering` say where to look, and stay.
    New { steering: &'static [usize] },
    /// New ones on the last axis, if that is the input's axis of channels.
    NewLast,
    /// Each channel of the input `times` times, one after the other.
    PerInput { times: usize },
    /// Those of the input.
    Same,
    /// Both inputs' together. A product keeps a channel silent that is so on one side.
    Together { product: bool },
    /// Those of all inputs, one input after the other along an axis.
    Joined { dim: usize },
    /// `start..start + len` of an axis.
    Part { dim: usize, start: usize, len: usize },
    /// Channel `g * n + i` goes to `i * groups + g`.
    Interleaved { groups: usize },
    /// All channels of the input, `times` times.
    Repeated { times: usize },
    /// Those of the input, unless their axis is among these.
    Without { dims: Vec<usize> },
    /// Those of the input on the place that their axis gets.
    Reordered { dims: Vec<usize> },
    /// Those of the input if their axis stays whole and in place.
    Reshaped { dims: Vec<Dim> },
    /// Those of the first input on this axis.
    OnAxis(usize),
    /// No channels: a parameter, a constant, a mask.
    Nothing,
    /// Channels that must stay, as those of the inputs must.
    Frozen,
}

/// Multiply-adds of an op, and how they change with its widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// As many, whatever the widths are.
    Fixed(i64),
    /// Each of `outputs` channels sums over `inputs` channels at `taps` places.
    Dense { inputs: i64, outputs: i64, taps: i64 },
    /// Each of `outputs` channels sums over `taps` places of one channel.
    Depthwise { outputs: i64, taps: i64 },
}

impl Work {
    /// For a result of this shape.
    pub fn macs(self, output: &[i64]) -> i64 {
        let elements: i64 = output.iter().product();
        match self {
            Self::Fixed(macs) => macs,
            Self::Dense { inputs, taps, .. } => elements * inputs * taps,
            Self::Depthwise { taps, .. } => elements * taps,
        }
    }
}

/// What pruning leaves around a node.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    /// Channels of the first input; 0 where it has none.
    pub inputs: i64,
    /// Channels of the result.
    pub outputs: i64,
    /// Axis of the first input's channels and the positions that stay, if some go.
    pub kept: Option<(usize, &'a [i64])>,
}

/// What a value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// New numbers.
    Computed,
    /// Elements of the inputs.
    Moved,
    /// Elements of the input in training, the input itself in eval.
    Passed,
    /// The same for every image of a size.
    Fixed,
    /// Rows of a trained table.
    Table,
}

/// What an op may use besides its inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Batch statistics, dropout and learned scales act.
    pub train: bool,
    /// An activation may overwrite its input (eval only).
    pub in_place: bool,
    /// Masks of shifted windows that were made before.
    pub masks: &'a window::Masks,
    /// Computes batch norm in training, if it is there.
    pub norm: Option<&'a dyn TrainNorm>,
}

impl Op {
    /// Tensors of a node called `name`, in state-dict order.
    pub fn params(&self, name: &str) -> Vec<ParamSpec> {
        self.tensors(name).into_iter().map(|tensor| tensor.spec).collect()
    }

    /// The same with the channels that their axes go with.
    pub(crate) fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        self.with(|op| op.tensors(name))
    }

    /// Multiply-adds for values of these shapes.
    pub(crate) fn work(&self, inputs: &[&[i64]], output: &[i64]) -> Work {
        self.with(|op| op.work(inputs, output))
    }

    /// Whether the result holds elements of the inputs only.
    pub fn moves_values(&self) -> bool {
        matches!(self.value(), Value::Moved | Value::Passed)
    }

    /// Whether the result is the input itself outside of training.
    pub fn only_trains(&self) -> bool {
        self.value() == Value::Passed
    }

    /// Whether the result is the same for every image of a size.
    pub fn is_fixed(&self) -> bool {
        self.value() == Value::Fixed
    }

    pub(crate) fn value(&self) -> Value {
        self.with(|op| op.value())
    }

    /// Shows what the op is.
    #[allow(clippy::too_many_lines)] // one arm per op: splitting it would hide that it is complete
    pub(crate) fn with<R>(&self, see: impl FnOnce(&dyn Primitive) -> R) -> R {
        use pointwise::{Binary, Operator};
        match *self {
            Self::Input { channels } => see(&leaf::Input { channels }),
            Self::Conv2d {
                cin,
                cout,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                bias,
                ref weight_quant,
                ref bias_quant,
            } => see(&conv::Conv2d {
                cin,
                cout,
                taps: shapes::Taps {
                    kernel,
                    stride,
                    padding,
                    dilation,
                },
                groups,
                bias,
                quants: conv::Quants {
                    weight: weight_quant.as_ref(),
                    bias: bias_quant.as_ref(),
                },
            }),
            Self::DeformConv2d {
                cin,
                cout,
                kernel,
                stride,
                padding,
                dilation,
                bias,
            } => see(&deform::DeformConv2d {
                cin,
                cout,
                taps: shapes::Taps {
                    kernel,
                    stride,
                    padding,
                    dilation,
                },
                bias,
            }),
            Self::BatchNorm {
                channels,
                eps,
                momentum,
            } => see(&norm::BatchNorm {
                channels,
                eps,
                momentum,
            }),
            Self::LayerNorm { channels, eps } => see(&norm::LayerNorm { channels, eps }),
            Self::Linear {
                cin,
                cout,
                bias,
                ref weight_quant,
                ref bias_quant,
            } => see(&conv::Linear {
                cin,
                cout,
                bias,
                quants: conv::Quants {
                    weight: weight_quant.as_ref(),
                    bias: bias_quant.as_ref(),
                },
            }),
            Self::Act { act } => see(&pointwise::Act { act }),
            Self::Add => see(&Binary(Operator::Add)),
            Self::Sub => see(&Binary(Operator::Sub)),
            Self::Mul => see(&Binary(Operator::Mul)),
            Self::Div => see(&Binary(Operator::Div)),
            Self::Affine { mul, add } => see(&pointwise::Affine { mul, add }),
            Self::Concat { dim } => see(&channels::Concat { dim }),
            Self::Slice { dim, start, len } => see(&channels::Slice { dim, start, len }),
            Self::ChannelShuffle { groups } => see(&channels::ChannelShuffle { groups }),
            Self::SpaceToDepth => see(&channels::SpaceToDepth),
            Self::MaxPool {
                kernel,
                stride,
                padding,
            } => see(&spatial::Pool {
                kernel,
                stride,
                padding,
                mean: false,
            }),
            Self::AvgPool {
                kernel,
                stride,
                padding,
            } => see(&spatial::Pool {
                kernel,
                stride,
                padding,
                mean: true,
            }),
            Self::Pad {
                top,
                bottom,
                left,
                right,
            } => see(&spatial::Pad {
                top,
                bottom,
                left,
                right,
            }),
            Self::Reduce { kind, ref dims } => see(&reduce::Reduce { kind, dims }),
            Self::Upsample { scale } => see(&spatial::Upsample { scale, bilinear: false }),
            Self::Bilinear { scale } => see(&spatial::Upsample { scale, bilinear: true }),
            Self::MatMul { transpose_b } => see(&reduce::MatMul { transpose_b }),
            Self::Softmax { from_end } => see(&reduce::Softmax { from_end }),
            Self::Reshape { ref dims } => see(&axes::Reshape { dims }),
            Self::Permute { ref dims } => see(&axes::Permute { dims }),
            Self::WindowPartition { size, shift, guard } => {
                see(&window::Partition(window::Grid { size, shift, guard }))
            }
            Self::WindowMerge { size, shift, guard } => see(&window::Merge(window::Grid { size, shift, guard })),
            Self::WindowMask {
                size,
                shift,
                guard,
                mask_padding,
            } => see(&window::Mask {
                grid: window::Grid { size, shift, guard },
                mask_padding,
            }),
            Self::RelativePositionBias { size } => see(&window::RelativePositionBias { size }),
            Self::AddWindowMask => see(&window::AddMask),
            Self::Dropout { p } => see(&random::Dropout { p }),
            Self::DropPath { p } => see(&random::DropPath { p }),
            Self::Parameter { ref shape, role, init } => see(&leaf::Parameter { shape, role, init }),
            Self::Constant { ref shape, ref values } => see(&leaf::Constant { shape, values }),
            Self::FakeQuant { ref quant } => see(&quantize::FakeQuant { quant }),
            Self::Custom { ref custom } => see(&custom::Custom(custom.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests;
