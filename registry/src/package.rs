//! The code behind a plugin that is not linked in: one file, and what the manifest beside it says. What the file holds, its carrier
//! knows ([`crate::carrier`]).

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Code, PluginError, Result};
use crate::manifest::Manifest;
use crate::search::same_file;

/// A library or a module, with its manifest where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// What its manifest says; bare modules and libraries have none.
    pub manifest: Option<Manifest>,
    /// The library or module.
    pub file: PathBuf,
}

impl Package {
    /// The file alone, whatever stands beside it.
    pub fn bare(file: &Path) -> Self {
        Self {
            manifest: None,
            file: file.to_owned(),
        }
    }

    /// The package of a library or module: with the manifest beside it, if that speaks of this file.
    pub fn at(file: &Path) -> Self {
        let manifest = file
            .parent()
            .unwrap_or_else(|| Path::new("."))
            .join(crate::MANIFEST_FILE);
        let manifest = manifest.is_file().then(|| Manifest::read(&manifest).ok()).flatten();
        let speaks = |manifest: &Manifest| manifest.code_file().is_ok_and(|code| same_file(&code, file));
        Self {
            manifest: manifest.filter(speaks),
            file: file.to_owned(),
        }
    }

    /// The name to use in messages: the package's, else the file's.
    pub fn name(&self) -> String {
        match &self.manifest {
            Some(manifest) => manifest.name.clone(),
            None => file_name(&self.file),
        }
    }

    /// The SHA-256 that its manifest promises, lower case hex.
    pub(crate) fn promised_sum(&self) -> Option<&str> {
        self.manifest.as_ref()?.library.sha256.as_deref()
    }

    /// Holds the file's SHA-256 against the one that its manifest promises, if it does.
    pub(crate) fn check_sum(&self, found: &[u8; 32]) -> Result<()> {
        let Some(wanted) = self.promised_sum() else {
            return Ok(());
        };
        let found = hex(found);
        if found == wanted {
            return Ok(());
        }
        let message = format!(
            "{} is not the file that its manifest was written for",
            self.file.display()
        );
        Err(PluginError::new(Code::Checksum, message)
            .detail("manifest says", wanted)
            .detail("the file has", found)
            .help("if you rebuilt it yourself, update `sha256` in the manifest or leave it out"))
    }
}

/// Last part of a path, for names and messages.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
            // Writing to a string can't fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_held_against_the_sum_in_its_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        let sum = hex(&sha256(b"code"));
        let manifest = |file: &str| {
            format!(
                "manifest = 1\nname = \"p\"\nversion = \"1\"\n[library]\nwasm = \"{file}\"\nsha256 = \"{sum}\"\n\
                 [[provides]]\nkind = \"metric\"\nname = \"m\"\n"
            )
        };
        write("m.wasm", "code");
        write("other.wasm", "code");
        write(crate::MANIFEST_FILE, &manifest("m.wasm"));
        let package = Package::at(&folder.path().join("m.wasm"));
        assert_eq!(
            (package.name().as_str(), package.promised_sum()),
            ("p", Some(sum.as_str()))
        );
        assert_eq!(package.check_sum(&sha256(b"code")), Ok(()));
        let error = package.check_sum(&sha256(b"Code")).expect_err("another file");
        assert_eq!((error.code, error.details.len()), (Code::Checksum, 2));
        // The manifest speaks of the other one.
        let bare = Package::at(&folder.path().join("other.wasm"));
        assert_eq!((bare.name().as_str(), &bare.manifest), ("other.wasm", &None));
        assert_eq!(bare.check_sum(&sha256(b"anything")), Ok(()));
    }
}
