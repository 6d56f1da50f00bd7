//! The file format of PyTorch before 1.6 (and of `_use_new_zipfile_serialization=False`): pickles of a magic number, a version, the
//! system, the object and the keys of its storages, then each storage as its count of elements and its elements.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::pickle::{Node, Pickle};
use super::tensor::storage_dtype;
use crate::raw::dtype_size;
use crate::{Error, Result};

/// How such a file starts: the opcodes of its magic number.
pub(super) const MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a];

/// A file in memory, and where its parts are.
pub(super) struct Legacy {
    path: PathBuf,
    bytes: Vec<u8>,
    pickle: Range<usize>,
    storages: HashMap<String, Range<usize>>,
}

impl Legacy {
    /// Finds the parts; their sizes are checked against the file.
    pub(super) fn read(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let damaged = |reason: String| Error::file(path, format!("the checkpoint is damaged or cut off: {reason}"));
        let mut at = 0;
        let mut next = || -> Result<(Pickle, Range<usize>)> {
            let from = at;
            let (pickle, len) = Pickle::parse_first(&bytes[from..]).map_err(|error| damaged(error.to_string()))?;
            at += len;
            Ok((pickle, from..at))
        };
        let (_magic, _version, (system, _)) = (next()?, next()?, next()?);
        let little = system.get(system.root(), "little_endian");
        if little.is_some_and(|id| matches!(system.node(id), Node::Bool(false))) {
            return Err(Error::file(
                path,
                "it was written on a big-endian machine; save it again on a common one",
            ));
        }
        let (object, range) = next()?;
        let (keys, _) = next()?;
        let widths = widths(&object);
        let mut storages = HashMap::new();
        for key in keys.items(keys.root()).unwrap_or_default() {
            let key = keys.str(*key).ok_or_else(|| damaged("a storage has no name".into()))?;
            let width = *widths
                .get(key)
                .ok_or_else(|| damaged(format!("storage {key} is of an unknown type or of no tensor")))?;
            let count = bytes
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .map(|count| u64::from_le_bytes(*count));
            let start = at + 8;
            let end = count
                .and_then(|count| usize::try_from(count).ok()?.checked_mul(width)?.checked_add(start))
                .filter(|end| *end <= bytes.len())
                .ok_or_else(|| damaged(format!("storage {key} reaches beyond its end")))?;
            storages.insert(key.to_owned(), start..end);
            at = end;
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            pickle: range,
            storages,
        })
    }

    /// Bytes of the pickle.
    pub(super) fn pickle(&self) -> &[u8] {
        &self.bytes[self.pickle.clone()]
    }

    /// Bytes of a storage.
    pub(super) fn storage(&self, key: &str) -> Result<Vec<u8>> {
        let range = self
            .storages
            .get(key)
            .ok_or_else(|| Error::file(&self.path, format!("storage `{key}` is not in it")))?;
        Ok(self.bytes[range.clone()].to_vec())
    }
}

/// Bytes per element of each storage that the object refers to: `("storage", class, key, device, elements, view)`.
fn widths(object: &Pickle) -> HashMap<&str, usize> {
    let mut widths = HashMap::new();
    for reference in object.persistent() {
        let Some(&[_, class, key, ..]) = object.items(reference) else {
            continue;
        };
        if let (Node::Global(class), Some(key)) = (object.node(class), object.str(key))
            && let Some(dtype) = storage_dtype(class)
        {
            widths.insert(key, dtype_size(dtype));
        }
    }
    widths
}
