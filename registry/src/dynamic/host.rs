//! The table that every component gets: what plugins that use no libtorch themselves need to read and make tensors, and a way to
//! say something.

use std::mem::{ManuallyDrop, size_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};
use yolo_abi::{MAX_RANK, YoloHost, YoloStr, YoloTensor, YoloTensorInfo, YoloText, status};

/// Takes what plugins say: a level (0 warning, 1 remark, 2 detail) and a line.
pub type Log = fn(level: i32, line: &str);

static LOG: OnceLock<Log> = OnceLock::new();

/// Says where the remarks of plugins go; before, and without it, nowhere. The first call counts.
pub fn log_to(log: Log) {
    let _ = LOG.set(log);
}

pub(super) static HOST: YoloHost = YoloHost {
    struct_size: size_of::<YoloHost>() as u32,
    abi_major: yolo_abi::ABI_MAJOR,
    abi_minor: yolo_abi::ABI_MINOR,
    yolo: YoloStr::new(env!("CARGO_PKG_VERSION")),
    libtorch: YoloStr::new(yolo_abi::LIBTORCH),
    log,
    tensor_info,
    tensor_f32,
    tensor_new,
    tensor_grad,
    tensor_free,
};

/// A handle that becomes the other side's.
pub(super) fn give(tensor: Tensor) -> YoloTensor {
    let mut tensor = ManuallyDrop::new(tensor);
    tensor.as_mut_ptr().cast()
}

/// A handle to lend for a call: the tensor stays ours.
pub(super) fn lend(tensor: &Tensor) -> YoloTensor {
    tensor.as_ptr().cast_mut().cast()
}

/// Runs `body`; nothing but a status gets out.
pub(super) fn guard(error: YoloText, body: impl FnOnce() -> Result<(), String>) -> i32 {
    let (code, text) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return status::OK,
        Ok(Err(text)) => (status::FAILED, text),
        Err(_) => (status::PANIC, "yolo itself panicked; please report this".to_owned()),
    };
    // SAFETY: the plugin waits for this call with its text in place.
    unsafe { error.put(&text) };
    code
}

unsafe extern "C" fn log(level: i32, text: YoloStr) {
    // SAFETY: the plugin lends the text for the call.
    let text = String::from_utf8_lossy(unsafe { text.bytes() });
    if let Some(log) = LOG.get() {
        let _ = catch_unwind(|| log(level, &super::fail::printable(&text)));
    }
}

/// The tensor behind a handle of the plugin, which stays the plugin's.
///
/// # Safety
/// The handle is null or good during the call.
unsafe fn look(tensor: YoloTensor) -> Result<ManuallyDrop<Tensor>, String> {
    if tensor.is_null() {
        return Err("the tensor is null".into());
    }
    // SAFETY: as for this function; never dropped.
    Ok(ManuallyDrop::new(unsafe { Tensor::from_ptr(tensor.cast()) }))
}

unsafe extern "C" fn tensor_info(tensor: YoloTensor, out: *mut YoloTensorInfo, error: YoloText) -> i32 {
    guard(error, || {
        // SAFETY: the plugin passes a handle and a place for the result.
        let (tensor, out) = unsafe { (look(tensor)?, out.as_mut().ok_or("there is no place for the result")?) };
        let (sizes, strides) = (tensor.size(), tensor.stride());
        if sizes.len() > MAX_RANK {
            return Err(format!(
                "the tensor has {} dimensions; {MAX_RANK} are the most",
                sizes.len()
            ));
        }
        let device = tensor.device();
        *out = YoloTensorInfo {
            data: if device == Device::Cpu {
                tensor.data_ptr()
            } else {
                std::ptr::null_mut()
            },
            dtype: dtype(tensor.kind()),
            device: if let Device::Cuda(index) = device {
                index as i32
            } else {
                -1
            },
            rank: sizes.len() as u32,
            contiguous: u32::from(tensor.is_contiguous()),
            sizes: [0; MAX_RANK],
            strides: [0; MAX_RANK],
        };
        out.sizes[..sizes.len()].copy_from_slice(&sizes);
        out.strides[..strides.len()].copy_from_slice(&strides);
        Ok(())
    })
}

unsafe extern "C" fn tensor_f32(tensor: YoloTensor, out: *mut YoloTensor, error: YoloText) -> i32 {
    guard(error, || {
        // SAFETY: the plugin passes a handle and a place for the result.
        let (tensor, out) = unsafe { (look(tensor)?, out.as_mut().ok_or("there is no place for the result")?) };
        let plain = tensor
            .f_to_device(Device::Cpu)
            .and_then(|t| t.f_to_kind(Kind::Float))
            .and_then(|t| t.f_contiguous())
            .map_err(|error| error.to_string())?;
        *out = give(plain);
        Ok(())
    })
}

unsafe extern "C" fn tensor_new(
    values: *const f32,
    sizes: *const i64,
    rank: usize,
    out: *mut YoloTensor,
    error: YoloText,
) -> i32 {
    guard(error, || {
        // SAFETY: the plugin passes a place for the result.
        let out = unsafe { out.as_mut() }.ok_or("there is no place for the result")?;
        if rank > MAX_RANK || (sizes.is_null() && rank > 0) {
            return Err(format!("{rank} dimensions; {MAX_RANK} are the most"));
        }
        // SAFETY: the plugin passes `rank` sizes.
        let sizes = if rank == 0 {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(sizes, rank) }
        };
        let count = sizes
            .iter()
            .try_fold(1usize, |n, size| n.checked_mul(usize::try_from(*size).ok()?));
        let count = count
            .filter(|n| *n <= 1 << 33)
            .ok_or_else(|| format!("the shape {sizes:?} makes no sense"))?;
        if values.is_null() && count > 0 {
            return Err("the values are null".into());
        }
        // SAFETY: the plugin passes as many values as the shape says.
        let values = if count == 0 {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(values, count) }
        };
        let tensor = Tensor::f_from_slice(values)
            .and_then(|t| t.f_reshape(sizes))
            .map_err(|error| error.to_string())?;
        *out = give(tensor);
        Ok(())
    })
}

unsafe extern "C" fn tensor_grad(tensor: YoloTensor, out: *mut YoloTensor, error: YoloText) -> i32 {
    guard(error, || {
        // SAFETY: the plugin passes a handle and a place for the result.
        let (tensor, out) = unsafe { (look(tensor)?, out.as_mut().ok_or("there is no place for the result")?) };
        let grad = tensor.f_grad().map_err(|error| error.to_string())?;
        *out = if grad.defined() {
            give(grad)
        } else {
            std::ptr::null_mut()
        };
        Ok(())
    })
}

unsafe extern "C" fn tensor_free(tensor: YoloTensor) {
    if tensor.is_null() {
        return;
    }
    // SAFETY: the handle is the plugin's to give up.
    let _ = catch_unwind(|| drop(unsafe { Tensor::from_ptr(tensor.cast()) }));
}

/// PyTorch's number of a kind.
fn dtype(kind: Kind) -> i32 {
    match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::Bool => 11,
        Kind::BFloat16 => 15,
        _ => -1,
    }
}
