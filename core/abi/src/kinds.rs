//! What components of each kind can do. Every table begins with its size.

use std::ffi::c_void;

use crate::{YoloFloats, YoloNamedTensor, YoloPruneHost, YoloSelf, YoloStr, YoloTensor, YoloText};

/// A function that takes JSON and writes JSON.
pub type YoloJsonFn =
    Option<unsafe extern "C" fn(component: YoloSelf, request: YoloStr, reply: YoloText, error: YoloText) -> i32>;

/// Backbones: from a request to a piece of graph.
///
/// Request: `{"inputs": [{"channels": 3, "stride": 1}], "scale": {"depth": 1.0, "width": 1.0}}`. Reply: a *fragment*
/// `{"nodes": [{"name", "op": {"op": NAME, ...}, "inputs": [VALUE, ...]}, ...], "outputs": [VALUE, ...], "layers": [...]}`.
/// Values 0.. are the inputs, the nodes' values follow in order. Outputs are feature maps, finest stride first. Names in a
/// fragment with layers start with `model.0.`, `model.1.`, ... of its own layers; without layers they are free.
#[repr(C)]
#[derive(Debug)]
pub struct YoloBackboneVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Builds.
    pub build: YoloJsonFn,
}

/// Neck blocks: like backbones, with several inputs and one output.
///
/// Request of `build`: `{"inputs": [...], "channels": 64, "repeats": 1, "shortcut": false}`; reply: a fragment without layers,
/// whose names are put under the scope of the layer that the block becomes.
#[repr(C)]
#[derive(Debug)]
pub struct YoloNeckBlockVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Request `{}`; reply `{"layer": "C3", "arity": [1, 1]}`: the name in the layer table, and how many inputs it takes.
    pub describe: YoloJsonFn,
    /// Builds.
    pub build: YoloJsonFn,
}

/// Custom ops: a forward of their own on tensors.
#[repr(C)]
#[derive(Debug)]
pub struct YoloOpVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Request `{}`; reply `{"label": "gain", "params": [{"key": "weight", "shape": [64], "role": "weight", "init":
    /// {"const": 1.0}}]}`.
    pub describe: YoloJsonFn,
    /// Request `{"inputs": [[1, 64, 32, 32], ...]}`; reply `{"shape": [1, 64, 32, 32], "macs": 65536}`.
    pub shape: YoloJsonFn,
    /// Request as for `shape`; reply: a fragment of primitive ops that computes the same, or status `UNSUPPORTED`. A node of
    /// the fragment is given a tensor of the op by the name of its parameter.
    pub lower: YoloJsonFn,
    /// Runs: borrowed inputs and parameters (in the order of `describe`), one owned output. `train` is 0 or 1. Autograd records
    /// what the function does unless the caller switched it off.
    pub forward: Option<
        unsafe extern "C" fn(
            component: YoloSelf,
            inputs: *const YoloTensor,
            input_count: usize,
            params: *const YoloTensor,
            param_count: usize,
            train: i32,
            out: *mut YoloTensor,
            error: YoloText,
        ) -> i32,
    >,
}

/// What a metric asks for, as bits.
pub mod needs {
    /// Rows of the weights that make the channels.
    pub const WEIGHT: u32 = 1;
    /// Scales and shifts of batch norms.
    pub const BN: u32 = 2;
    /// Gradients of the same tensors.
    pub const GRAD: u32 = 4;
    /// Mean squares of these gradients. Since minor version 2.
    pub const GRAD_SQUARE: u32 = 8;
    /// Mean absolute values of the channels over calibration images. Since minor version 2.
    pub const ACTIVATION: u32 = 16;
}

/// The tensors of one group of channels, one row per channel, on the CPU and in f32. Borrowed for the call.
#[repr(C)]
#[derive(Debug)]
pub struct YoloGroup {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Name of the group.
    pub name: YoloStr,
    /// Position among the groups.
    pub index: u64,
    /// Number of groups.
    pub count: u64,
    /// Number of channels.
    pub channels: u64,
    /// `[channels, elements]` each.
    pub weights: *const YoloTensor,
    /// Number of `weights`.
    pub weight_count: usize,
    /// Gradients of `weights`, or null.
    pub weight_grads: *const YoloTensor,
    /// Number of `weight_grads`.
    pub weight_grad_count: usize,
    /// `[channels]` each.
    pub gammas: *const YoloTensor,
    /// Number of `gammas`.
    pub gamma_count: usize,
    /// `[channels]` each.
    pub betas: *const YoloTensor,
    /// Number of `betas`.
    pub beta_count: usize,
    /// Gradients of `gammas`, or null.
    pub gamma_grads: *const YoloTensor,
    /// Number of `gamma_grads`.
    pub gamma_grad_count: usize,
    /// Mean squared gradients of `weights`, or null. This and all below since minor version 2.
    pub weight_squares: *const YoloTensor,
    /// Number of `weight_squares`.
    pub weight_square_count: usize,
    /// Mean squared gradients of `gammas`, or null.
    pub gamma_squares: *const YoloTensor,
    /// Number of `gamma_squares`.
    pub gamma_square_count: usize,
    /// For each value that layers read the channels from, their mean absolute values `[channels]`, or null.
    pub activations: *const YoloTensor,
    /// Number of `activations`.
    pub activation_count: usize,
}

/// Metrics: one score per channel, the lowest go first.
#[repr(C)]
#[derive(Debug)]
pub struct YoloMetricVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Writes bits of [`needs`].
    pub needs: Option<unsafe extern "C" fn(component: YoloSelf, out: *mut u32, error: YoloText) -> i32>,
    /// Puts one row: a finite score per channel.
    pub score: Option<
        unsafe extern "C" fn(component: YoloSelf, group: *const YoloGroup, scores: YoloFloats, error: YoloText) -> i32,
    >,
}

/// Pruners: from a host to a plan.
#[repr(C)]
#[derive(Debug)]
pub struct YoloPrunerVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Writes the plan: `{"keep": {GROUP: [POSITION, ...], ...}}`, ascending; groups that are not named keep all. `host` is valid
    /// during the call.
    pub plan: Option<
        unsafe extern "C" fn(component: YoloSelf, host: *const YoloPruneHost, reply: YoloText, error: YoloText) -> i32,
    >,
    /// Makes what acts during sparse training; leaves `out` alone where this pruner has nothing of the kind.
    pub regulariser: Option<unsafe extern "C" fn(component: YoloSelf, out: *mut YoloSelf, error: YoloText) -> i32>,
    /// What regularisers can do; null if there are none.
    pub regulariser_vt: *const YoloRegulariserVt,
}

// SAFETY: a table is constant and so is what it points at.
unsafe impl Sync for YoloPrunerVt {}

/// Things that act on gradients and weights while a model trains.
#[repr(C)]
#[derive(Debug)]
pub struct YoloRegulariserVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Called once per optimizer step before the optimizer acts, when all gradients are there.
    pub before_step:
        Option<unsafe extern "C" fn(regulariser: YoloSelf, state: *const YoloTrainState, error: YoloText) -> i32>,
    /// Called once per optimizer step after the optimizer.
    pub after_step:
        Option<unsafe extern "C" fn(regulariser: YoloSelf, state: *const YoloTrainState, error: YoloText) -> i32>,
    /// Frees it.
    pub destroy: Option<unsafe extern "C" fn(regulariser: YoloSelf)>,
}

/// A training model at one step. Borrowed for the call.
#[repr(C)]
#[derive(Debug)]
pub struct YoloTrainState {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps in all.
    pub total: u64,
    /// Steps per epoch.
    pub per_epoch: u64,
    /// Another number means other groups: read them again.
    pub generation: u64,
    /// Tensors of the model with their keys; gradients hang on them.
    pub tensors: *const YoloNamedTensor,
    /// Number of `tensors`.
    pub tensor_count: usize,
    /// Passed to `groups`.
    pub cx: *mut c_void,
    /// Writes the channel groups, as [`YoloPruneHost::describe`] does under `groups`.
    pub groups: unsafe extern "C" fn(cx: *mut c_void, reply: YoloText) -> i32,
}

/// Quantizers: a backend as data, and the files that its toolchain reads.
#[repr(C)]
#[derive(Debug)]
pub struct YoloQuantizerVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Request `{}`; reply: schemes, observers and placement (`{"weight": {...}, "activation": {...}, "placement": {...},
    /// "linear": false}`).
    pub describe: YoloJsonFn,
    /// Request: a node `{"name", "op", "inputs"}`; reply: `true` or `false`, whether its weight is quantized. Null: all
    /// convolutions, and linear layers if `linear` says so.
    pub quantizes: YoloJsonFn,
    /// Request `{"model": NAME, "ranges": {...}}`; reply: `[{"name": FILE, "text": CONTENT}, ...]`.
    pub artifacts: YoloJsonFn,
}

/// A batch as a student and its teacher see it. Borrowed for the call. Lists of tensors have one per level, or are null where the distiller
/// did not ask for them; all are f32. Gradients are wanted for the student's maps and for the adapters.
#[repr(C)]
#[derive(Debug)]
pub struct YoloDistilBatch {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// The request of [`YoloDistillerVt::adapters`].
    pub layouts: YoloStr,
    /// Number of levels.
    pub levels: usize,
    /// Raw maps of the student's head: `[N, A * (5 + classes), h, w]`.
    pub student_raw: *const YoloTensor,
    /// What the student's head reads: `[N, channels, h, w]`.
    pub student_neck: *const YoloTensor,
    /// Raw maps of the teacher's head.
    pub teacher_raw: *const YoloTensor,
    /// What the teacher's head reads.
    pub teacher_neck: *const YoloTensor,
    /// Convolutions of the teacher's head: `[A * (5 + classes), channels, 1, 1]`.
    pub head_weights: *const YoloTensor,
    /// Their biases.
    pub head_biases: *const YoloTensor,
    /// The tensors that `adapters` asked for.
    pub adapters: *const YoloNamedTensor,
    /// Number of `adapters`.
    pub adapter_count: usize,
}

/// Distillers: how far a student is from its teacher.
#[repr(C)]
#[derive(Debug)]
pub struct YoloDistillerVt {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Request `{}`; reply `{"needs": {"raw": true, "neck": false, "head": false}, "parts": ["box", ...]}`: what it looks at, and the names of
    /// the parts of its loss.
    pub describe: YoloJsonFn,
    /// Request `{"student": LAYOUT, "teacher": LAYOUT}` with layouts `{"classes": 3, "levels": [{"stride": 8, "channels": 64, "anchors":
    /// [[10.0, 13.0], ...]}, ...]}`; reply: tensors to train besides the student, `[{"key": "align.0.weight", "shape": [128, 64, 1, 1],
    /// "role": "weight", "init": {"fan_in": 64}}, ...]`. Null: none.
    pub adapters: YoloJsonFn,
    /// Gives the parts of the loss as one owned tensor `[parts]`: weighted, each a mean over the images. Autograd records what the
    /// function does.
    pub loss: Option<
        unsafe extern "C" fn(
            component: YoloSelf,
            batch: *const YoloDistilBatch,
            out: *mut YoloTensor,
            error: YoloText,
        ) -> i32,
    >,
}
