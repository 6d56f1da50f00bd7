//! Whether tensors are finite: NaN and infinity in weights give no boxes, or wrong ones, and no error.

use std::path::Path;

use safetensors::Dtype;

use crate::{Error, Result};

/// Refuses tensors (name, type, little-endian elements) with a value that is not finite; the error names the first and counts the others.
pub(crate) fn check<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [u8])>) -> Result<()> {
    let mut bad: Vec<&str> = Vec::new();
    for (name, dtype, bytes) in tensors {
        if !is_finite(dtype, bytes) {
            bad.push(name);
        }
    }
    let Some(first) = bad.first() else { return Ok(()) };
    let others = match bad.len() {
        1 => String::new(),
        n => format!(", and {} more tensors have, too (`{}`, ...)", n - 1, bad[1]),
    };
    Err(Error::file(
        path,
        format!(
            "tensor `{first}` has a value that is not finite (NaN or infinity){others}: the training that made it had diverged; use an \
             earlier checkpoint"
        ),
    ))
}

/// Whether all elements are finite; integers are.
fn is_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    match dtype {
        Dtype::F16 => no_full_exponent::<2>(bytes, 0x7c00),
        Dtype::BF16 => no_full_exponent::<2>(bytes, 0x7f80),
        Dtype::F32 => no_full_exponent::<4>(bytes, 0x7f80_0000),
        // Models compute in f32.
        Dtype::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .all(|element| (f64::from_le_bytes(*element) as f32).is_finite()),
        _ => true,
    }
}

/// A float is finite where its exponent is not all ones. Blocks without a branch inside, so that the compiler makes vectors of them.
fn no_full_exponent<const WIDTH: usize>(bytes: &[u8], mask: u64) -> bool {
    let full = |element: &[u8]| {
        let mut wide = [0; 8];
        wide[..WIDTH].copy_from_slice(element);
        u64::from_le_bytes(wide) & mask == mask
    };
    bytes.chunks(WIDTH << 12).all(|block| {
        !block
            .chunks_exact(WIDTH)
            .fold(false, |any, element| any | full(element))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_value_among_many_is_found_in_every_type() {
        let f32s = |at: usize, value: f32| -> Vec<u8> {
            let mut all = vec![f32::MAX; 10_000];
            all[at] = value;
            all.into_iter().flat_map(f32::to_le_bytes).collect()
        };
        assert!(is_finite(Dtype::F32, &f32s(0, -f32::MIN_POSITIVE)));
        for (at, value) in [(0, f32::NAN), (9_999, f32::INFINITY), (5_000, f32::NEG_INFINITY)] {
            assert!(!is_finite(Dtype::F32, &f32s(at, value)));
        }
        let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
        assert!(is_finite(Dtype::F16, &half(65_504.0)) && !is_finite(Dtype::F16, &half(65_536.0)));
        let brain = |value: f32| half::bf16::from_f32(value).to_le_bytes();
        assert!(is_finite(Dtype::BF16, &brain(1e38)) && !is_finite(Dtype::BF16, &brain(f32::NAN)));
        assert!(!is_finite(Dtype::F64, &1e39f64.to_le_bytes()), "infinity in f32");
        assert!(is_finite(Dtype::F64, &1e38f64.to_le_bytes()) && !is_finite(Dtype::F64, &f64::NAN.to_le_bytes()));
        assert!(is_finite(Dtype::I64, &i64::MAX.to_le_bytes()) && is_finite(Dtype::F32, &[]));
    }

    #[test]
    fn the_tensor_is_named() {
        let nan = f32::NAN.to_le_bytes();
        let tensors = [
            ("a", Dtype::F32, &nan[..]),
            ("b", Dtype::F32, &[0; 4]),
            ("c", Dtype::F32, &nan),
        ];
        let error = check(Path::new("w.pt"), tensors).unwrap_err().to_string();
        assert!(
            error.starts_with("w.pt: tensor `a` has") && error.contains("1 more") && error.contains("`c`"),
            "{error}"
        );
        assert!(check(Path::new("w.pt"), [tensors[1]]).is_ok());
    }
}
