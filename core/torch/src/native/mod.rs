//! What libtorch can do and torch-sys has no function for, as safe functions over `tch` tensors. The C++ is in `../native`.
//!
//! Every function loads libtorch if it is not loaded, and gives libtorch's own words as an error ([`TchError::Torch`]).

pub mod bn_act;
pub mod device;
pub mod dist;
pub mod graph;
pub mod step;

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::{Device, TchError, Tensor};

/// Result of a call into libtorch.
pub type Result<T = ()> = std::result::Result<T, TchError>;

/// A tensor as the C functions take it: a pointer to libtorch's own handle.
pub(crate) type Handle = *mut c_void;

unsafe extern "C" {
    fn free(pointer: *mut c_void);
}

/// The reason that a C function of ours gave, as an error. Frees it.
pub(crate) fn checked(reason: *mut c_char) -> Result {
    if reason.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a C string from `strdup` that nobody else holds.
    let text = unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned();
    // SAFETY: as above; it is not used afterwards.
    unsafe { free(reason.cast()) };
    Err(TchError::Torch(text))
}

pub(crate) fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

pub(crate) fn handles<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<Handle> {
    tensors.into_iter().map(handle).collect()
}

pub(crate) fn index(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
        _ => -1,
    }
}
