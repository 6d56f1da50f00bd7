//! The C types that `yolo` and a plugin in a shared library share. `include/yolo_plugin.h` says the same in C; a test holds the
//! two against each other, size by size and offset by offset.
//!
//! A library exports one symbol, the table [`YoloPluginV1`], named `yolo_plugin_v1_CRATE`. All else hangs off it: a missing
//! symbol can only mean "not a plugin of this kind".
//!
//! # Rules
//!
//! 1. Only C data, UTF-8 text and tensor handles cross. What structures there are (options, graphs, plans) cross as JSON.
//! 2. No text changes its owner. What a side returns it *writes* into a [`YoloText`] (or [`YoloFloats`]) of the other side,
//!    during the call. What it gets as [`YoloStr`] it copies, if it wants to keep it.
//! 3. A tensor is a pointer to an `at::Tensor` of the one libtorch of the process. Inputs are borrowed for the call: keep one by
//!    taking a handle of its own (`Tensor::clone_from_ptr`). Outputs belong to the receiver (`Tensor::from_ptr`, or
//!    [`YoloHost::tensor_free`]).
//! 4. Every function returns a status; where it is not [`status::OK`], one sentence has been written to `error`. No panic, no C++
//!    exception and no `longjmp` leaves a function.
//! 5. A component may be used from several threads at once. After a call returns, the plugin has no thread that uses anything
//!    it was given for the call.
//! 6. Libraries are never unloaded.
//! 7. Structs grow at their end only, and carry their size: fields after `struct_size` bytes do not exist. A new field raises
//!    the minor version; any other change gives a new table with a new name.
//!
//! This crate depends on nothing, and the only code in it is what both sides need to write and read text.

#![allow(clippy::pub_underscore_fields)]

use std::ffi::c_void;

mod host;
mod kinds;
mod text;

pub use host::*;
pub use kinds::*;
pub use text::*;

/// `"YOLO"` in memory: the first four bytes of every table.
pub const MAGIC: u32 = u32::from_le_bytes(*b"YOLO");
/// Raised when an old plugin can't work any more; the table gets another name then.
pub const ABI_MAJOR: u16 = 1;
/// Raised when something is added.
pub const ABI_MINOR: u16 = 2;
/// The libtorch that this version of `yolo` and of its SDK is made for.
pub const LIBTORCH: &str = "2.13.0";
/// What the name of the table starts with; the name of the crate follows, with `_` for `-`.
pub const SYMBOL_PREFIX: &str = "yolo_plugin_v1_";
/// Most dimensions of a tensor that [`YoloTensorInfo`] can describe.
pub const MAX_RANK: usize = 8;

/// What functions return.
pub mod status {
    /// It worked.
    pub const OK: i32 = 0;
    /// The options, or how they go with the model, make no sense.
    pub const OPTIONS: i32 = 1;
    /// libtorch reported an error.
    pub const TORCH: i32 = 2;
    /// The code panicked.
    pub const PANIC: i32 = 3;
    /// The user asked to stop.
    pub const CANCELLED: i32 = 4;
    /// The component does not offer this.
    pub const UNSUPPORTED: i32 = 5;
    /// Anything else; the sentence says what.
    pub const FAILED: i32 = 6;
    /// A function of the host failed, and the plugin passes that on.
    pub const HOST: i32 = 7;
    /// The budget can't be met, or a ratio lies outside of what the model allows.
    pub const IMPOSSIBLE: i32 = 8;
}

/// Borrowed UTF-8 text, without a zero at its end.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct YoloStr {
    /// First byte; may be null when `len` is 0.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl YoloStr {
    /// The text of a Rust string, for as long as that lives.
    pub const fn new(text: &str) -> Self {
        Self {
            ptr: text.as_ptr(),
            len: text.len(),
        }
    }
}

/// Where text goes: `write` appends to it, any number of times during the call. Two texts of one call never share their `cx`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct YoloText {
    /// Passed to `write`.
    pub cx: *mut c_void,
    /// Appends a piece of UTF-8. Safe to call with any bytes; what is not UTF-8 is an error for the one who wrote it.
    pub write: unsafe extern "C" fn(cx: *mut c_void, piece: YoloStr),
}

/// Where rows of numbers go: `put` hands over one row.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct YoloFloats {
    /// Passed to `put`.
    pub cx: *mut c_void,
    /// Hands over `len` numbers, which are copied.
    pub put: unsafe extern "C" fn(cx: *mut c_void, values: *const f32, len: usize),
}

/// A tensor: `at::Tensor*`.
pub type YoloTensor = *mut c_void;

/// A component that `create` made. Opaque to the host.
pub type YoloSelf = *mut c_void;

/// The table of a library. `describe`, `create`, `destroy` and `vtable` are required.
#[repr(C)]
#[derive(Debug)]
pub struct YoloPluginV1 {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`ABI_MAJOR`] that the plugin was built with.
    pub abi_major: u16,
    /// [`ABI_MINOR`] that the plugin was built with.
    pub abi_minor: u16,
    /// Size of this struct where the plugin was built.
    pub struct_size: u32,
    /// Zero.
    pub _reserved: u32,
    /// The libtorch that the plugin was built against ("2.13.0"); empty where it uses none itself.
    pub libtorch: YoloStr,
    /// What it was built with ("yolo-sdk 0.1.0"): for messages.
    pub sdk: YoloStr,
    /// What it was built for ("x86_64-linux"): for messages.
    pub target: YoloStr,
    /// Writes a JSON list with one description per component: `kind`, `name`, `aliases`, `summary`, `version`, `authors`,
    /// `license`, `paper`, `stability`, `package`, `schema` (of the options), `example`.
    pub describe: Option<unsafe extern "C" fn(reply: YoloText, error: YoloText) -> i32>,
    /// Makes a component. `options` is a JSON object without `type`. `host` lives for ever.
    pub create: Option<
        unsafe extern "C" fn(
            kind: YoloStr,
            name: YoloStr,
            options: YoloStr,
            host: *const YoloHost,
            out: *mut YoloSelf,
            error: YoloText,
        ) -> i32,
    >,
    /// Frees what `create` made.
    pub destroy: Option<unsafe extern "C" fn(kind: YoloStr, component: YoloSelf)>,
    /// What a component of this kind can do: a pointer to [`YoloBackboneVt`], [`YoloNeckBlockVt`], [`YoloOpVt`],
    /// [`YoloMetricVt`], [`YoloPrunerVt`], [`YoloQuantizerVt`] or [`YoloDistillerVt`] that lives for ever; null for a kind that the library lacks.
    pub vtable: Option<unsafe extern "C" fn(kind: YoloStr) -> *const c_void>,
}

// SAFETY: a table is constant; what its texts point at is constant too (they are literals of the plugin).
unsafe impl Sync for YoloPluginV1 {}
