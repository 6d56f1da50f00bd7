//! Compiled modules on disk, so that a module is compiled once per machine and not once per run.
//!
//! An entry is named by the SHA-256 of the module and by what the engine's configuration and version hash to. It holds the
//! SHA-256 of the machine code and the machine code. Whatever goes wrong with it, the module is compiled again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

use crate::package::hex;

/// What an entry begins with.
const MAGIC: &[u8; 8] = b"yolowasm";
const HASH: usize = 32;
/// Entries that are kept; the oldest go first.
const KEPT: usize = 64;

/// A folder of compiled modules.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/yolo/wasm` or `~/.cache/yolo/wasm`; `None` without either.
    pub(super) fn of_user() -> Option<Self> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(Self::at(base.join("yolo").join("wasm")))
    }

    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The compiled form of the module with this hash.
    pub(super) fn load(&self, engine: &Engine, module: &[u8; HASH]) -> Option<Module> {
        let file = self.entry(engine, module);
        if !ours(&self.folder) || !ours(&file) {
            return None;
        }
        let bytes = std::fs::read(&file).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (hash, code) = rest.split_at_checked(HASH)?;
        if hash != Sha256::digest(code).as_slice() {
            return None;
        }
        // SAFETY: `deserialize` trusts its bytes, as they hold machine code. These are what `Module::serialize` wrote in
        // `store`: whole and unchanged (the digest), of this very version and configuration (wasmtime checks both), and in a
        // file and folder that belong to this user and that nobody else may write (`ours`). Whoever can forge them can run
        // code as this user already.
        unsafe { Module::deserialize(engine, code) }.ok()
    }

    /// Keeps the compiled form. Failing to is no failure: the next run compiles again.
    pub(super) fn store(&self, engine: &Engine, hash: &[u8; HASH], module: &Module) {
        // An entry is either there and whole or not there; a cache that can't be written is no reason to stop.
        let _ = self.try_store(engine, hash, module);
    }

    fn try_store(&self, engine: &Engine, hash: &[u8; HASH], module: &Module) -> std::io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        if !ours(&self.folder) {
            return Ok(());
        }
        let code = module.serialize().map_err(std::io::Error::other)?;
        let target = self.entry(engine, hash);
        let part = target.with_extension(format!("part{}", std::process::id()));
        let written = (|| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(MAGIC)?;
            file.write_all(Sha256::digest(&code).as_slice())?;
            file.write_all(&code)?;
            file.sync_all()?;
            std::fs::rename(&part, &target)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        self.forget_old();
        written
    }

    fn entry(&self, engine: &Engine, module: &[u8; HASH]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder
            .join(format!("{}-{:016x}.bin", hex(module), hasher.finish()))
    }

    fn forget_old(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let mut aged: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "bin"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        aged.sort();
        for (_, path) in aged.iter().rev().skip(KEPT) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a file or folder belongs to the user that runs this process, and only that user may write it.
fn ours(path: &Path) -> bool {
    let (Ok(meta), Ok(process)) = (std::fs::symlink_metadata(path), std::fs::metadata("/proc/self")) else {
        return false;
    };
    !meta.is_symlink() && meta.uid() == process.uid() && meta.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn entries_are_reused_and_damaged_or_foreign_ones_are_not() {
        let engine = super::super::engine::engine().expect("an engine");
        let folder = std::env::temp_dir().join(format!("yolo-wasm-cache-{}", std::process::id()));
        let cache = Cache::at(folder.clone());
        let bytes = wat::parse_str("(module (func (export \"f\") (result i32) i32.const 7))").expect("text form");
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        let module = Module::new(engine, &bytes).expect("a module");
        assert!(cache.load(engine, &hash).is_none(), "nothing has been stored");
        cache.store(engine, &hash, &module);
        assert!(cache.load(engine, &hash).is_some());
        let file = cache.entry(engine, &hash);
        let whole = std::fs::read(&file).expect("the entry");
        for at in [0, 9, 40, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).expect("writable");
            assert!(cache.load(engine, &hash).is_none(), "byte {at}");
        }
        std::fs::write(&file, &whole[..whole.len() / 2]).expect("writable");
        assert!(cache.load(engine, &hash).is_none(), "half an entry");
        std::fs::write(&file, &whole).expect("writable");
        assert!(cache.load(engine, &hash).is_some());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect("owned");
        assert!(cache.load(engine, &hash).is_none(), "others may write it");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("owned");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("owned");
        assert!(cache.load(engine, &hash).is_none(), "others may write the folder");
        std::fs::remove_dir_all(&folder).expect("removable");
    }
}
