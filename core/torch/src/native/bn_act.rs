//! Batch norm in training and the activation that follows it as one differentiable step. On CUDA by kernels of our own, compiled on the
//! spot; elsewhere, and where they can't be had, by libtorch's operators: the result is the same within rounding.
//!
//! Not here: batch norm with the running statistics (evaluation), and over several processes.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use tch::{Device, Kind, Tensor};

use super::{Handle, Result, checked, free, handle, index};

unsafe extern "C" {
    fn yolo_bn_act_train(
        x: Handle,
        weight: Handle,
        bias: Handle,
        running_mean: Handle,
        running_var: Handle,
        momentum: f64,
        eps: f64,
        act: i64,
        out: Handle,
    ) -> *mut c_char;
    fn yolo_bn_act_available(device: c_int, obstacle: *mut *mut c_char) -> *mut c_char;
    fn yolo_bn_act_compile(capability: c_int, log: *mut *mut c_char) -> *mut c_char;
    fn yolo_bn_act_check(
        device: c_int,
        shape: *const i64,
        kind: c_int,
        errors: *mut f64,
        milliseconds: *mut f64,
        repeatable: *mut c_int,
    ) -> *mut c_char;
}

/// What follows the batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    None,
    /// `z * sigmoid(z)`
    Silu,
    /// `max(z, 0)`
    Relu,
    /// `z * min(max(z + 3, 0), 6) / 6`
    Hardswish,
}

impl Act {
    /// All of them.
    pub const ALL: [Act; 4] = [Act::None, Act::Silu, Act::Relu, Act::Hardswish];

    /// As the kernels number them (`bn_act.cu.inc`).
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Act::None => 0,
            Act::Silu => 1,
            Act::Relu => 2,
            Act::Hardswish => 3,
        }
    }
}

/// What a layer of batch norm holds: all `[C]`, f32.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Scale of each channel.
    pub weight: &'a Tensor,
    /// Offset of each channel.
    pub bias: &'a Tensor,
    /// Updated in place.
    pub running_mean: &'a Tensor,
    /// Updated in place, with the unbiased variance.
    pub running_var: &'a Tensor,
    /// The share of the batch in the running statistics.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
}

/// `act((x - mean) / sqrt(variance + eps) * weight + bias)` with the statistics of the batch. `x`: `[N, C, H, W]`, f32, f16 or bf16; the
/// result has its kind, whether or not autocast is on. Differentiable once, for `x`, weight and bias.
///
/// # Errors
/// Those of libtorch, for tensors that do not fit each other.
pub fn train(x: &Tensor, norm: BatchNorm<'_>, act: Act) -> Result<Tensor> {
    let out = Tensor::new();
    // SAFETY: five live tensors, and `out` is a handle that the function fills.
    checked(unsafe {
        yolo_bn_act_train(
            handle(x),
            handle(norm.weight),
            handle(norm.bias),
            handle(norm.running_mean),
            handle(norm.running_var),
            norm.momentum,
            norm.eps,
            act.number(),
            handle(&out),
        )
    })?;
    Ok(out)
}

/// Why [`train`] takes libtorch's operators on a device, or `None` where the kernels are used. Compiles them, which takes a second.
///
/// # Errors
/// Those of libtorch.
pub fn obstacle(device: Device) -> Result<Option<String>> {
    let mut text = ptr::null_mut();
    // SAFETY: the function writes a pointer to a new C string, or null.
    checked(unsafe { yolo_bn_act_available(index(device), &raw mut text) })?;
    Ok(taken(text))
}

/// Compiles all kernels for a compute capability (90 for 9.0) with NVIDIA's run-time compiler, and gives what that says about registers
/// and spills. Needs no GPU.
///
/// # Errors
/// Where the compiler is not found, or refuses.
pub fn compile(capability: i32) -> Result<String> {
    let mut log = ptr::null_mut();
    // SAFETY: the function writes a pointer to a new C string.
    checked(unsafe { yolo_bn_act_compile(capability, &raw mut log) })?;
    Ok(taken(log).unwrap_or_default())
}

fn taken(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string from `strdup` that nobody else holds.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above; it is not used afterwards.
    unsafe { free(text.cast()) };
    Some(copy)
}

/// One case of [`self_check`].
#[derive(Clone, Debug)]
pub struct Check {
    /// `[N, C, H, W]`
    pub shape: [i64; 4],
    /// Of the map.
    pub kind: Kind,
    /// What was measured, or why nothing was.
    pub measured: std::result::Result<Measured, String>,
}

/// The kernels against libtorch's operators. An error is the largest difference from f64 over the largest value.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Of the result, and the gradients of x, weight, bias; running mean, running variance.
    pub errors: [f64; 6],
    /// The same bits twice.
    pub repeatable: bool,
    /// Milliseconds of forward and backward by the kernels.
    pub fused: f64,
    /// Of forward alone.
    pub fused_forward: f64,
    /// Milliseconds of forward and backward by libtorch's operators.
    pub composed: f64,
    /// Of forward alone.
    pub composed_forward: f64,
    /// What the kernels must move, over their time, in GB/s.
    pub bandwidth: f64,
}

impl Check {
    /// Whether the kernels computed what they should: maps within the rounding of their kind, statistics within that of f32 sums.
    #[must_use]
    pub fn passed(&self) -> bool {
        let map = match self.kind {
            Kind::BFloat16 => 1.0 / 256.0,
            Kind::Half => 1.0 / 1024.0,
            _ => 1e-5,
        };
        const SUMS: f64 = 1e-4;
        self.measured.as_ref().is_ok_and(|measured| {
            let [y, dx, sums @ ..] = measured.errors;
            measured.repeatable && y <= map && dx <= map && sums.iter().all(|error| *error <= SUMS)
        })
    }
}

/// Shapes of small, odd and large maps.
const CASES: [([i64; 4], Kind); 10] = [
    ([1, 16, 1, 2], Kind::BFloat16),
    ([2, 3, 5, 7], Kind::Float),
    ([3, 18, 13, 11], Kind::BFloat16),
    ([2, 255, 20, 20], Kind::Half),
    ([4, 1280, 7, 9], Kind::BFloat16),
    ([16, 64, 80, 80], Kind::Float),
    ([32, 512, 20, 20], Kind::BFloat16),
    ([32, 128, 80, 80], Kind::Half),
    ([32, 64, 160, 160], Kind::BFloat16),
    ([16, 32, 320, 320], Kind::BFloat16),
];

/// Runs the kernels on a CUDA device against libtorch's operators: numbers, repeatability, time. A case that fails says why.
#[must_use]
pub fn self_check(device: Device) -> Vec<Check> {
    CASES
        .iter()
        .map(|&(shape, kind)| Check {
            shape,
            kind,
            measured: check(device, shape, kind).map_err(|error| error.to_string()),
        })
        .collect()
}

fn check(device: Device, shape: [i64; 4], kind: Kind) -> Result<Measured> {
    if !matches!(device, Device::Cuda(_)) {
        return Err(tch::TchError::Torch("the device is not a CUDA device".to_owned()));
    }
    // libtorch's numbers of the kinds (c10/core/ScalarType.h).
    let number = match kind {
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::BFloat16 => 15,
        other => {
            return Err(tch::TchError::Kind(format!(
                "{other:?} is no kind that the kernels know"
            )));
        }
    };
    let mut errors = [f64::NAN; 6];
    let mut milliseconds = [f64::NAN; 4];
    let mut repeatable = 0;
    // SAFETY: four sizes are read; six and four numbers and one integer are written.
    checked(unsafe {
        yolo_bn_act_check(
            index(device),
            shape.as_ptr(),
            number,
            errors.as_mut_ptr(),
            milliseconds.as_mut_ptr(),
            &raw mut repeatable,
        )
    })?;
    let [fused, fused_forward, composed, composed_forward] = milliseconds;
    // Forward reads x twice and writes y; backward reads x and the gradient twice and writes dx.
    const PASSES: f64 = 8.0;
    let bytes = shape.iter().map(|&size| size as f64).product::<f64>() * kind.elt_size_in_bytes() as f64;
    Ok(Measured {
        errors,
        repeatable: repeatable != 0,
        fused,
        fused_forward,
        composed,
        composed_forward,
        bandwidth: PASSES * bytes / (fused * 1e6),
    })
}
