//! Tensors of a checkpoint: `_rebuild_tensor_v2(storage, offset, size, stride, ...)` over a storage in the archive.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::archive::Archive;
use super::pickle::{Id, Node, Pickle};
use crate::raw::{RawTensor, dtype_size};
use crate::{Error, Result};

/// Reads tensors of one archive. Each storage is read once.
pub(super) struct Tensors<'a> {
    pub(super) path: PathBuf,
    pub(super) pickle: &'a Pickle,
    pub(super) archive: &'a mut Archive,
    storages: HashMap<String, Vec<u8>>,
    /// Bytes handed out so far, and read so far: shared storages may be copied a few times, not without end.
    given: usize,
    read: usize,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(path: &Path, pickle: &'a Pickle, archive: &'a mut Archive) -> Self {
        Self {
            path: path.to_owned(),
            pickle,
            archive,
            storages: HashMap::new(),
            given: 0,
            read: 0,
        }
    }

    /// The tensor that node `id` stands for; `None` when it is not a tensor. `what` names it in errors.
    pub(super) fn resolve(&mut self, id: Id, what: &str) -> Result<Option<RawTensor>> {
        let pickle = self.pickle;
        let mut id = id;
        // A parameter wraps a tensor.
        for _ in 0..4 {
            let Some(object) = pickle.object(id) else {
                return Ok(None);
            };
            match (pickle.class(object), object.args.as_slice()) {
                ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [tensor, ..]) => {
                    id = *tensor;
                }
                ("torch._tensor._rebuild_from_type_v2", [_, _, args, ..]) => {
                    return match pickle.items(*args) {
                        Some(args) => self.rebuild(args, what).map(Some),
                        None => Err(self.fail(what, "has no arguments")),
                    };
                }
                ("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor", args) => {
                    return self.rebuild(args, what).map(Some);
                }
                (class, _) if class.starts_with("torch._utils._rebuild_") => {
                    return Err(self.fail(what, &format!("is of a kind that is not supported (`{class}`)")));
                }
                _ => return Ok(None),
            }
        }
        Err(self.fail(what, "wraps itself"))
    }

    fn rebuild(&mut self, args: &[Id], what: &str) -> Result<RawTensor> {
        let pickle = self.pickle;
        let &[storage, offset, size, stride, ..] = args else {
            return Err(self.fail(what, "has too few arguments"));
        };
        let Node::Persistent(reference) = *pickle.node(storage) else {
            return Err(self.fail(what, "has no storage"));
        };
        // ("storage", class, key, device, elements)
        let (class, key, elements) = match pickle.items(reference) {
            Some(&[_, class, key, _, elements, ..]) => {
                match (pickle.node(class), pickle.str(key), pickle.int(elements)) {
                    (Node::Global(class), Some(key), Some(elements)) => (class.as_str(), key, elements),
                    _ => return Err(self.fail(what, "has a malformed storage")),
                }
            }
            _ => return Err(self.fail(what, "has a malformed storage")),
        };
        let Some(dtype) = storage_dtype(class) else {
            return Err(self.fail(what, &format!("has elements of an unknown type (`{class}`)")));
        };
        let offset = self.natural(pickle.int(offset), what)?;
        let shape = self.naturals(pickle.items(size), what)?;
        let strides = self.naturals(pickle.items(stride), what)?;
        let elements = self.natural(Some(elements), what)?;
        if strides.len() != shape.len() {
            return Err(self.fail(what, "has strides that don't fit its shape"));
        }
        let numel = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let last = shape.iter().zip(&strides).try_fold(offset, |at, (d, s)| {
            d.saturating_sub(1)
                .checked_mul(*s)
                .and_then(|step| at.checked_add(step))
        });
        let (Some(numel), Some(last)) = (numel, last) else {
            return Err(self.fail(what, "is larger than any memory"));
        };
        let width = dtype_size(dtype);
        if numel == 0 {
            return Ok(RawTensor {
                dtype,
                shape,
                bytes: Vec::new(),
            });
        }
        if !self.storages.contains_key(key) {
            let bytes = self.archive.storage(key)?;
            self.read += bytes.len();
            self.storages.insert(key.to_owned(), bytes);
        }
        let available = self.storages[key].len() / width;
        if last >= available || elements > available {
            return Err(self.fail(what, &format!("reaches to element {last} of a storage of {available}")));
        }
        self.given = self.given.saturating_add(numel.saturating_mul(width));
        if numel > available || self.given > self.read.saturating_mul(8) {
            return Err(self.fail(
                what,
                "repeats its storage so often that it must be made to fill the memory",
            ));
        }
        let bytes = gather(&self.storages[key], width, offset, &shape, &strides, numel);
        Ok(RawTensor { dtype, shape, bytes })
    }

    fn natural(&self, value: Option<i64>, what: &str) -> Result<usize> {
        value
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| self.fail(what, "has a size that is not a natural number"))
    }

    fn naturals(&self, items: Option<&[Id]>, what: &str) -> Result<Vec<usize>> {
        let items = items.ok_or_else(|| self.fail(what, "has no shape"))?;
        if items.len() > 16 {
            return Err(self.fail(what, &format!("has {} dimensions", items.len())));
        }
        items
            .iter()
            .map(|id| self.natural(self.pickle.int(*id), what))
            .collect()
    }

    fn fail(&self, what: &str, reason: &str) -> Error {
        Error::file(&self.path, format!("tensor `{what}` {reason}"))
    }
}

/// Row-major copy of a strided view.
fn gather(storage: &[u8], width: usize, offset: usize, shape: &[usize], strides: &[usize], numel: usize) -> Vec<u8> {
    let mut expected = 1;
    let contiguous = shape.iter().zip(strides).rev().all(|(d, s)| {
        let fits = *d == 1 || *s == expected;
        expected *= d;
        fits
    });
    if contiguous {
        return storage[offset * width..(offset + numel) * width].to_vec();
    }
    let mut bytes = Vec::with_capacity(numel * width);
    let mut index = vec![0usize; shape.len()];
    for _ in 0..numel {
        let at = offset + index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        bytes.extend_from_slice(&storage[at * width..(at + 1) * width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    bytes
}

/// Element type of `torch.FloatStorage` and its like.
pub(super) fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class.rsplit('.').next()? {
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "ShortStorage" => Dtype::I16,
        "IntStorage" => Dtype::I32,
        "LongStorage" => Dtype::I64,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_views_are_gathered_row_major() {
        let storage: Vec<u8> = (0..12).collect();
        // A transposed 3 x 4: shape (4, 3), strides (1, 4).
        assert_eq!(
            gather(&storage, 1, 0, &[4, 3], &[1, 4], 12),
            [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
        );
        assert_eq!(gather(&storage, 1, 2, &[2, 2], &[4, 1], 4), [2, 3, 6, 7]);
        assert_eq!(gather(&storage, 2, 1, &[2], &[1], 2), [2, 3, 4, 5]);
        assert_eq!(gather(&storage, 1, 5, &[], &[], 1), [5]);
    }
}
