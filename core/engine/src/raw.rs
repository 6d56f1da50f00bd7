//! Tensors as bytes: what files hold. Conversion to and from libtorch's tensors, without guessing.

use safetensors::Dtype;
use tch::{Kind, Tensor};

use crate::Result;

/// A contiguous tensor in little-endian bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// Copies a tensor of any shape out of libtorch (from any device and memory format).
    ///
    /// # Errors
    /// `Error::Settings` names a kind that no file holds (complex, quantized); `Error::Torch` where memory is short.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.detach().f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let kind = tensor.f_kind()?;
        let dtype = dtype_of(kind)
            .ok_or_else(|| crate::Error::Settings(format!("tensors of kind {kind:?} can't be stored in a file")))?;
        let shape: Vec<usize> = tensor.size().iter().map(|d| *d as usize).collect();
        let numel = tensor.numel();
        let mut bytes = vec![0u8; numel * dtype_size(dtype)];
        tensor.f_copy_data_u8(&mut bytes, numel)?;
        Ok(Self { dtype, shape, bytes })
    }

    /// A new libtorch tensor with these values and this shape, on the CPU.
    ///
    /// # Errors
    /// Those of [`tensor_from_bytes`].
    pub fn to_tensor(&self) -> Result<Tensor> {
        tensor_from_bytes(self.dtype, &self.shape, &self.bytes)
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as f64, whatever the type.
    pub fn to_f64(&self) -> Vec<f64> {
        let float = |chunk: &[u8]| match (self.dtype, chunk) {
            (Dtype::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f64(),
            (Dtype::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f64(),
            (Dtype::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (Dtype::I16, &[a, b]) => f64::from(i16::from_le_bytes([a, b])),
            (Dtype::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (Dtype::I8, &[a]) => f64::from(a as i8),
            (Dtype::F64, chunk) => chunk.try_into().map_or(f64::NAN, f64::from_le_bytes),
            (Dtype::I64, chunk) => chunk.try_into().map_or(f64::NAN, |b| i64::from_le_bytes(b) as f64),
            (_, &[a]) => f64::from(a),
            _ => f64::NAN,
        };
        self.bytes.chunks_exact(dtype_size(self.dtype)).map(float).collect()
    }
}

/// A new libtorch tensor of this shape, on the CPU, from little-endian bytes (one copy): as many as the shape needs, or none for zeros.
///
/// # Errors
/// `Error::Settings` names a type that libtorch does not have, or a number of bytes that is not the shape's; `Error::Torch` where memory is
/// short.
pub fn tensor_from_bytes(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
    let kind =
        kind_of(dtype).ok_or_else(|| crate::Error::Settings(format!("tensors of type {dtype:?} are not supported")))?;
    let size: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
    if bytes.is_empty() {
        return Ok(Tensor::f_zeros(size.as_slice(), (kind, tch::Device::Cpu))?);
    }
    // libtorch is not told how many there are.
    let needed = (shape.iter()).try_fold(dtype_size(dtype), |bytes, side| bytes.checked_mul(*side));
    if needed != Some(bytes.len()) {
        return Err(crate::Error::Settings(format!(
            "a tensor of shape {shape:?} and type {dtype:?} can't be made of {} bytes",
            bytes.len()
        )));
    }
    Ok(Tensor::f_from_data_size(bytes, &size, kind)?)
}

/// Bytes per element.
pub fn dtype_size(dtype: Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

/// The file type of a libtorch kind.
pub fn dtype_of(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Int8 => Dtype::I8,
        Kind::Uint8 => Dtype::U8,
        Kind::Int16 => Dtype::I16,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Bool => Dtype::BOOL,
        _ => return None,
    })
}

/// The libtorch kind of a file type.
pub fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_must_be_those_of_the_shape() {
        let made = |shape: &[usize], bytes: usize| tensor_from_bytes(Dtype::F32, shape, &vec![0; bytes]);
        assert_eq!(made(&[2, 2], 16).expect("a tensor").size(), [2, 2]);
        for (shape, bytes) in [(&[2, 2][..], 15), (&[2, 2], 17), (&[usize::MAX, 2], 8)] {
            let error = made(shape, bytes).expect_err("another number of bytes").to_string();
            assert!(error.contains(&format!("{bytes} bytes")), "{error}");
        }
    }
}
