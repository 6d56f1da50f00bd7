//! The container of a PyTorch checkpoint: a zip archive (`PREFIX/data.pkl`, `PREFIX/data/KEY`, `PREFIX/byteorder`), or the file of
//! PyTorch before 1.6 ([`super::legacy`]).
//!
//! Sizes are checked before anything is allocated for them.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::legacy::{self, Legacy};
use crate::checkpoint::foreign;
use crate::{Error, Result};

/// Largest pickle that is read: far above any model, far below the memory.
const MAX_PICKLE: u64 = 256 << 20;
/// Largest single storage.
const MAX_STORAGE: u64 = 16 << 30;
/// How much larger than its compressed form an entry may be. PyTorch stores without compression.
const MAX_RATIO: u64 = 200;

/// Whether a file that starts like this is a checkpoint in one of the two containers.
pub(super) fn is_archive(head: &[u8]) -> bool {
    head.starts_with(ZIP) || head.starts_with(legacy::MAGIC)
}

const ZIP: &[u8] = b"PK\x03\x04";

/// An open checkpoint.
pub(super) enum Archive {
    /// A zip archive.
    Zip(Zip),
    /// One file of pickles and storages.
    Legacy(Legacy),
}

impl Archive {
    /// Opens a file and finds the pickle in it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
        let mut head = Vec::new();
        file.by_ref()
            .take(64)
            .read_to_end(&mut head)
            .map_err(Error::io(path, "read it"))?;
        file.rewind().map_err(Error::io(path, "read it"))?;
        if head.starts_with(legacy::MAGIC) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(Error::io(path, "read it"))?;
            Legacy::read(path, bytes).map(Self::Legacy)
        } else if head.starts_with(ZIP) {
            Zip::open(path, file).map(Self::Zip)
        } else {
            Err(Error::file(path, not_a_checkpoint(path, &head)))
        }
    }

    /// Bytes of the pickle.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>> {
        match self {
            Self::Zip(zip) => zip.entry("data.pkl", MAX_PICKLE),
            Self::Legacy(legacy) => Ok(legacy.pickle().to_vec()),
        }
    }

    /// Bytes of a storage.
    pub(super) fn storage(&mut self, key: &str) -> Result<Vec<u8>> {
        match self {
            Self::Zip(zip) => zip.entry(&format!("data/{key}"), MAX_STORAGE),
            Self::Legacy(legacy) => legacy.storage(key),
        }
    }
}

/// An open zip archive.
pub(super) struct Zip {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    prefix: String,
}

impl Zip {
    fn open(path: &Path, file: File) -> Result<Self> {
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            Error::file(
                path,
                format!("the archive is damaged or cut off ({error}); download or copy the file again"),
            )
        })?;
        // An entry whose name is no text is none that a checkpoint has.
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
        // One byte more than there should be: the checksum is compared at the end of the record, which has to be asked for.
        entry
            .by_ref()
            .take(size.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| {
                fail(format!(
                    "is damaged or cut off ({error}); download or copy the file again, or use an earlier checkpoint"
                ))
            })?;
        if bytes.len() as u64 != size {
            return Err(fail(format!("is damaged or cut off: {} of {size} bytes", bytes.len())));
        }
        Ok(bytes)
    }
}

/// What a file is that is no checkpoint.
fn not_a_checkpoint(path: &Path, head: &[u8]) -> String {
    let text = if head.is_empty() {
        "the file is empty"
    } else if head.starts_with(b"version https://git-lfs") {
        "this is a Git LFS pointer, not the weights; run `git lfs pull` where it came from"
    } else if head.trim_ascii_start().starts_with(b"<") {
        "this is a web page, not weights; the download went wrong"
    } else if head.len() > 9 && head[8] == b'{' {
        "this looks like a `.safetensors` file; give it that ending"
    } else if let Some(text) = foreign::describe(path, head) {
        return text;
    } else {
        "this is not a PyTorch checkpoint (a zip archive is expected)"
    };
    text.to_owned()
}
