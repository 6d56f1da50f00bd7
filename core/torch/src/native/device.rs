//! Devices: what they are, their memory, copies beside other work. Everything but names is for CUDA; on the CPU it is an error.

use std::ffi::{CStr, c_char, c_int};

use tch::{Device, Tensor};

use super::{Handle, Result, checked, handle, index};

unsafe extern "C" {
    fn yolo_memory(device: c_int, allocated: *mut i64, reserved: *mut i64) -> *mut c_char;
    fn yolo_reset_memory(device: c_int) -> *mut c_char;
    fn yolo_empty_cache() -> *mut c_char;
    fn yolo_memory_info(device: c_int, free: *mut i64, total: *mut i64) -> *mut c_char;
    fn yolo_set_device(device: c_int) -> *mut c_char;
    fn yolo_allow_tf32(allow: c_int) -> *mut c_char;
    fn yolo_pinned_bytes(shape: *const i64, dims: usize, out: Handle) -> *mut c_char;
    fn yolo_pinned(tensor: Handle, out: Handle) -> *mut c_char;
    fn yolo_new_stream(device: c_int, id: *mut i64) -> *mut c_char;
    fn yolo_copy_on_stream(pinned: Handle, device: c_int, id: i64, out: Handle) -> *mut c_char;
    fn yolo_device_properties(
        device: c_int,
        name: *mut c_char,
        length: c_int,
        major: *mut c_int,
        minor: *mut c_int,
    ) -> *mut c_char;
}

/// A CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Its name, as the driver gives it.
    pub name: String,
    /// Compute capability: (9, 0) for Hopper.
    pub capability: (i32, i32),
}

impl Properties {
    /// Whether it computes bf16 products itself (Ampere and newer).
    pub fn has_bf16(&self) -> bool {
        self.capability.0 >= 8
    }
}

/// What the driver says of CUDA device `device`.
///
/// # Errors
/// Where there is no driver, or no such device.
pub fn properties(device: usize) -> Result<Properties> {
    let mut name = [0 as c_char; 256];
    let (mut major, mut minor) = (0, 0);
    let number = c_int::try_from(device).unwrap_or(c_int::MAX);
    // SAFETY: `name` has the length that is said; the numbers are written.
    checked(unsafe { yolo_device_properties(number, name.as_mut_ptr(), 255, &raw mut major, &raw mut minor) })?;
    // SAFETY: the last byte is still 0.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(Properties {
        name,
        capability: (major, minor),
    })
}

/// Most bytes that tensors have held at once on `device`, and that libtorch has taken from it, since [`reset_memory`].
///
/// # Errors
/// Where `device` is no CUDA device of this process.
pub fn peak_memory(device: Device) -> Result<(i64, i64)> {
    let (mut allocated, mut reserved) = (0, 0);
    // SAFETY: two numbers are written.
    checked(unsafe { yolo_memory(index(device), &raw mut allocated, &raw mut reserved) })?;
    Ok((allocated, reserved))
}

/// Starts [`peak_memory`] anew.
///
/// # Errors
/// Where `device` is no CUDA device of this process.
pub fn reset_memory(device: Device) -> Result {
    // SAFETY: takes a number.
    checked(unsafe { yolo_reset_memory(index(device)) })
}

/// Gives memory that no tensor uses back to the devices.
///
/// # Errors
/// Where there is no CUDA.
pub fn empty_cache() -> Result {
    // SAFETY: takes nothing.
    checked(unsafe { yolo_empty_cache() })
}

/// Free and total bytes of `device`.
///
/// # Errors
/// Where `device` is no CUDA device of this process.
pub fn memory_info(device: Device) -> Result<(i64, i64)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: two numbers are written.
    checked(unsafe { yolo_memory_info(index(device), &raw mut free, &raw mut total) })?;
    Ok((free, total))
}

/// Makes `device` the one that new CUDA work of this thread goes to. Nothing on the CPU.
///
/// # Errors
/// Where there is no such device.
pub fn set_current(device: Device) -> Result {
    if !device.is_cuda() {
        return Ok(());
    }
    // SAFETY: takes a number.
    checked(unsafe { yolo_set_device(index(device)) })
}

/// Whether f32 products may be computed in TF32 (10 bits of mantissa) on CUDA.
///
/// # Errors
/// Those of libtorch.
pub fn allow_tf32(allow: bool) -> Result {
    // SAFETY: takes a number.
    checked(unsafe { yolo_allow_tf32(c_int::from(allow)) })
}

/// A copy of a tensor on the host in memory that CUDA devices read by themselves.
///
/// # Errors
/// Where there is no CUDA.
pub fn pinned(tensor: &Tensor) -> Result<Tensor> {
    let out = Tensor::new();
    // SAFETY: a live tensor and a handle that the function fills.
    checked(unsafe { yolo_pinned(handle(tensor), handle(&out)) })?;
    Ok(out)
}

/// Carries batches to a CUDA device on a stream of its own, beside the work of the current one.
#[derive(Debug)]
pub struct Carrier {
    device: Device,
    stream: i64,
}

impl Carrier {
    /// A stream on `device`.
    ///
    /// # Errors
    /// Where `device` is no CUDA device of this process.
    pub fn new(device: Device) -> Result<Self> {
        let mut stream = 0;
        // SAFETY: one number is written.
        checked(unsafe { yolo_new_stream(index(device), &raw mut stream) })?;
        Ok(Self { device, stream })
    }

    /// Bytes of `shape` on the device. `fill` writes them into memory that the device reads by itself; work that uses the result waits on
    /// the device for the copy, the host doesn't.
    ///
    /// # Errors
    /// Where memory is short.
    pub fn carry(&self, shape: &[i64], fill: impl FnOnce(&mut [u8])) -> Result<Tensor> {
        let pinned = Tensor::new();
        // SAFETY: `shape` has the length that is said; `pinned` is a handle that the function fills.
        checked(unsafe { yolo_pinned_bytes(shape.as_ptr(), shape.len(), handle(&pinned)) })?;
        if pinned.numel() > 0 {
            // SAFETY: the tensor is new, contiguous and has as many bytes (of any value); nobody else sees it yet.
            fill(unsafe { std::slice::from_raw_parts_mut(pinned.data_ptr().cast(), pinned.numel()) });
        }
        let out = Tensor::new();
        // SAFETY: a live tensor and a handle that the function fills. libtorch keeps the pinned memory until the copy is done.
        checked(unsafe { yolo_copy_on_stream(handle(&pinned), index(self.device), self.stream, handle(&out)) })?;
        Ok(out)
    }
}
