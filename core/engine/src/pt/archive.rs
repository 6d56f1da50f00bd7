//! The zip archive around a PyTorch checkpoint (`PREFIX/data.pkl`, `PREFIX/data/KEY`, `PREFIX/byteorder`).
//!
//! Sizes are checked before anything is allocated for them.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::{Error, Result};

/// Largest pickle that is read: far above any model, far below the memory.
const MAX_PICKLE: u64 = 256 << 20;
/// Largest single storage.
const MAX_STORAGE: u64 = 16 << 30;
/// How much larger than its compressed form an entry may be. PyTorch stores without compression.
const MAX_RATIO: u64 = 200;

/// An open checkpoint.
pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    prefix: String,
}

impl Archive {
    /// Opens a file and finds the pickle in it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
        let mut head = [0u8; 64];
        let mut len = 0;
        while len < head.len() {
            match file.read(&mut head[len..]).map_err(Error::io(path, "read it"))? {
                0 => break,
                n => len += n,
            }
        }
        if !head.starts_with(b"PK\x03\x04") {
            return Err(Error::file(path, not_a_zip(&head[..len])));
        }
        file.rewind().map_err(Error::io(path, "read it"))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            Error::file(
                path,
                format!("the archive is damaged or cut off ({error}); download or copy the file again"),
            )
        })?;
        let names: Vec<String> = zip
            .file_names()
            .filter_map(|n| n.ok().map(|n| n.into_owned()))
            .collect();
        let in_top_folder = |file: &str| {
            names
                .iter()
                .find_map(|n| n.strip_suffix(file).filter(|p| p.matches('/').count() <= 1))
        };
        if in_top_folder("constants.pkl").is_some() {
            return Err(Error::file(
                path,
                "this is a TorchScript archive (a traced program), not a checkpoint; give the `.pt` file that training wrote",
            ));
        }
        let prefix = match in_top_folder("data.pkl") {
            Some(prefix) => prefix.to_owned(),
            None => {
                return Err(Error::file(
                    path,
                    "this zip archive is not a PyTorch checkpoint (it has no `data.pkl`)",
                ));
            }
        };
        let mut archive = Self {
            path: path.to_owned(),
            zip,
            prefix,
        };
        if archive.has("byteorder") && archive.entry("byteorder", 16)? == b"big" {
            return Err(Error::file(
                path,
                "it was written on a big-endian machine; save it again on a common one",
            ));
        }
        Ok(archive)
    }

    /// Bytes of the pickle.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>> {
        self.entry("data.pkl", MAX_PICKLE)
    }

    /// Bytes of a storage.
    pub(super) fn storage(&mut self, key: &str) -> Result<Vec<u8>> {
        self.entry(&format!("data/{key}"), MAX_STORAGE)
    }

    fn has(&self, name: &str) -> bool {
        self.zip.index_for_name(&format!("{}{name}", self.prefix)).is_some()
    }

    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.path.clone();
        let fail = |reason: String| Error::file(&path, format!("`{name}` in the archive {reason}"));
        let mut entry = self
            .zip
            .by_name(&format!("{}{name}", self.prefix))
            .map_err(|error| fail(format!("can't be read ({error}); the file is damaged or cut off")))?;
        let size = entry.size();
        if size > limit || size / MAX_RATIO > entry.compressed_size() {
            return Err(fail(format!(
                "says that it is {size} bytes long; no checkpoint needs that"
            )));
        }
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(size as usize)
            .map_err(|_| fail(format!("needs {size} bytes, which are not available")))?;
        entry
            .by_ref()
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(|error| fail(format!("is damaged or cut off ({error})")))?;
        if bytes.len() as u64 != size {
            return Err(fail(format!("is cut off: {} of {size} bytes", bytes.len())));
        }
        Ok(bytes)
    }
}

/// What a file is that is not a zip archive.
fn not_a_zip(head: &[u8]) -> &'static str {
    if head.is_empty() {
        "the file is empty"
    } else if head.starts_with(b"version https://git-lfs") {
        "this is a Git LFS pointer, not the weights; run `git lfs pull` where it came from"
    } else if head.trim_ascii_start().starts_with(b"<") {
        "this is a web page, not weights; the download went wrong"
    } else if head.starts_with(&[0x80, 0x02, 0x8a, 0x0a]) {
        "this is a checkpoint of PyTorch before 1.6; load it once in a newer PyTorch and save it again"
    } else if head.len() > 9 && head[8] == b'{' {
        "this looks like a `.safetensors` file; give it that ending"
    } else {
        "this is not a PyTorch checkpoint (a zip archive is expected)"
    }
}
