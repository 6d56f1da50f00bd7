//! What the host offers to plugins.

use std::ffi::c_void;

use crate::{MAX_RANK, YoloFloats, YoloMetricVt, YoloRegulariserVt, YoloSelf, YoloStr, YoloTensor, YoloText};

/// What a tensor is. Kinds have PyTorch's numbers: 0 u8, 1 i8, 2 i16, 3 i32, 4 i64, 5 f16, 6 f32, 7 f64, 11 bool, 15 bf16.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct YoloTensorInfo {
    /// First element; null unless the tensor is on the CPU.
    pub data: *mut c_void,
    /// Kind of its elements.
    pub dtype: i32,
    /// -1 for the CPU, else the number of the GPU.
    pub device: i32,
    /// Number of dimensions.
    pub rank: u32,
    /// Whether elements lie one after the other, last axis fastest.
    pub contiguous: u32,
    /// Size of each dimension.
    pub sizes: [i64; MAX_RANK],
    /// Elements between neighbours of each dimension.
    pub strides: [i64; MAX_RANK],
}

/// What the host offers to every component. One per process; lives for ever.
#[repr(C)]
#[derive(Debug)]
pub struct YoloHost {
    /// Size of this struct.
    pub struct_size: u32,
    /// The host's [`crate::ABI_MAJOR`].
    pub abi_major: u16,
    /// The host's [`crate::ABI_MINOR`].
    pub abi_minor: u16,
    /// Version of `yolo`.
    pub yolo: YoloStr,
    /// Version of its libtorch.
    pub libtorch: YoloStr,
    /// Says something to the user: level 0 is a warning, 1 a remark, 2 a detail.
    pub log: unsafe extern "C" fn(level: i32, text: YoloStr),
    /// Describes a tensor, for plugins that use no libtorch themselves.
    pub tensor_info: unsafe extern "C" fn(tensor: YoloTensor, out: *mut YoloTensorInfo, error: YoloText) -> i32,
    /// A contiguous f32 copy on the CPU (the tensor itself where it is one already); owned by the caller.
    pub tensor_f32: unsafe extern "C" fn(tensor: YoloTensor, out: *mut YoloTensor, error: YoloText) -> i32,
    /// A new f32 tensor on the CPU with a copy of these values, row-major; owned by the caller.
    pub tensor_new: unsafe extern "C" fn(
        values: *const f32,
        sizes: *const i64,
        rank: usize,
        out: *mut YoloTensor,
        error: YoloText,
    ) -> i32,
    /// The gradient of a tensor, owned by the caller; null where there is none.
    pub tensor_grad: unsafe extern "C" fn(tensor: YoloTensor, out: *mut YoloTensor, error: YoloText) -> i32,
    /// Frees a tensor that the caller owns.
    pub tensor_free: unsafe extern "C" fn(tensor: YoloTensor),
}

// SAFETY: the table is constant, and its functions may be called from any thread.
unsafe impl Sync for YoloHost {}

/// A tensor with its key.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct YoloNamedTensor {
    /// Key in the state dict.
    pub key: YoloStr,
    /// The tensor.
    pub tensor: YoloTensor,
}

/// What a pruned model is worth.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct YoloEvaluation {
    /// mAP at IoU 0.5.
    pub map50: f64,
    /// mAP at IoU 0.5:0.95.
    pub map: f64,
}

/// What a pruner may ask of the host while it plans. Every function takes `cx` first. Not to be used from another thread than the
/// one that called `plan`.
#[repr(C)]
#[derive(Debug)]
pub struct YoloPruneHost {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// Passed to every function.
    pub cx: *mut c_void,
    /// Writes `{"groups": [{"name", "cuts": [{"key", "axis", "side", "role"}], "channels": [[[POSITION, ...], ...], ...], "floor"}],
    /// "cost": {...}, "budget": {"flops", "params"}, "rounding": {"multiple", "max_ratio", "round"}, "seed": N}`.
    pub describe: unsafe extern "C" fn(cx: *mut c_void, reply: YoloText, error: YoloText) -> i32,
    /// Multiply-adds and parameters of the model with `widths[g]` channels left in group `g`.
    pub cost: unsafe extern "C" fn(
        cx: *mut c_void,
        widths: *const u64,
        len: usize,
        macs: *mut i64,
        params: *mut i64,
        error: YoloText,
    ) -> i32,
    /// Scores of all channels, one row per group: by a metric of the plugin (`vt` and `component`), or, where `vt` is null, by
    /// the metric that the host finds for `named`, for example `{"type": "l1"}`.
    pub scores: unsafe extern "C" fn(
        cx: *mut c_void,
        named: YoloStr,
        vt: *const YoloMetricVt,
        component: YoloSelf,
        rows: YoloFloats,
        error: YoloText,
    ) -> i32,
    /// A tensor of the model (shared storage); owned by the caller.
    pub tensor: unsafe extern "C" fn(cx: *mut c_void, key: YoloStr, out: *mut YoloTensor, error: YoloText) -> i32,
    /// Applies a plan to a copy, trains it for `steps` optimizer steps, recalibrates its batch norms and measures it.
    pub evaluate: unsafe extern "C" fn(
        cx: *mut c_void,
        plan: YoloStr,
        steps: u64,
        out: *mut YoloEvaluation,
        error: YoloText,
    ) -> i32,
    /// Trains the unpruned model under a regulariser of the plugin, which stays the plugin's.
    pub train: unsafe extern "C" fn(
        cx: *mut c_void,
        epochs: u64,
        vt: *const YoloRegulariserVt,
        regulariser: YoloSelf,
        error: YoloText,
    ) -> i32,
    /// Reports progress; `CANCELLED` means that the user wants to stop.
    pub progress: unsafe extern "C" fn(cx: *mut c_void, done: u64, total: u64, note: YoloStr, error: YoloText) -> i32,
}
