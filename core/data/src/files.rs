//! Writing files: whole or not at all, readable by others, with errors that name the path.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Makes a folder and its parents.
pub fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path, "make the folder"))
}

/// Writes a file beside its place, then moves it there: readers see the old content or the new one, never a part.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    // The umask takes away what the user does not want; the default of temporary files is private.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(Error::io(path, "write the file"))?;
    file.write_all(bytes).map_err(Error::io(path, "write the file"))?;
    file.persist(path)
        .map_err(|error| Error::io(path, "write the file")(error.error))?;
    Ok(())
}

/// The entries of a folder, sorted.
pub fn listing(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = || Error::io(folder, "look into the folder");
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(fail())?
        .map(|entry| entry.map(|entry| entry.path()).map_err(fail()))
        .collect::<Result<_>>()?;
    entries.sort();
    Ok(entries)
}

/// Makes `to` lead to the file `from`: a symbolic link where the system has them, else a copy. What stood there is replaced.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    let source = from.canonicalize().map_err(Error::io(from, "find it"))?;
    if to.symlink_metadata().is_ok() {
        std::fs::remove_file(to).map_err(Error::io(to, "replace it"))?;
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(&source, to).map_err(Error::io(to, "make the link"));
    #[cfg(not(unix))]
    copy(&source, to)
}

/// Copies a file, whole or not at all.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(Error::io(from, "read it"))?;
    write(to, &bytes)
}
