//! Writing files: whole or not at all, readable by others, with errors that name the path.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::endings;

use crate::{Error, Result};

/// Makes a folder and its parents.
///
/// # Errors
/// [`Error::Io`] names the folder.
pub fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path, "make the folder"))
}

/// Writes a file beside its place, then moves it there: readers see the old content or the new one, never a part.
///
/// # Errors
/// [`Error::Io`] names the file; what stood there stays.
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

/// The content of a file. Pipes, sockets and devices are refused: reading one may never end.
///
/// # Errors
/// Those of the file system.
pub fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        let reason = "this is no file, but a pipe, a socket or a device";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
    }
    std::fs::read(path)
}

/// What systems and tools leave in folders and no user means: hidden files (`._a.jpg`, `.DS_Store`), `__MACOSX`, `Thumbs.db`,
/// `desktop.ini`.
pub fn is_clutter(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let left = [
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "$recycle.bin",
    ];
    name.starts_with('.') || left.contains(&name.to_ascii_lowercase().as_str())
}

/// Pictures of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pictures {
    /// Those that can be read, by their endings; sorted.
    pub images: Vec<PathBuf>,
    /// Those that users take for pictures but that can't be read ([`endings::left_out`] makes a sentence of them); sorted.
    pub left_out: Vec<PathBuf>,
}

/// The pictures in a folder, with `deep` also those in the folders below it. Clutter is passed over.
///
/// # Errors
/// [`Error::Io`] names the folder that can't be looked into, or the link that leads nowhere (unless it has a picture's ending).
pub fn pictures(folder: &Path, deep: bool) -> Result<Pictures> {
    let mut found = Pictures::default();
    let depth = if deep { usize::MAX } else { 1 };
    let walk = walkdir::WalkDir::new(folder)
        .follow_links(true)
        .min_depth(1)
        .max_depth(depth)
        .into_iter();
    // A folder that the user names counts, whatever its name is.
    for entry in walk.filter_entry(|entry| entry.depth() == 0 || !is_clutter(entry.file_name())) {
        let path = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => entry.into_path(),
            Err(error) => match error.path() {
                // A link to a picture that is gone: reading it will say so.
                Some(path) if endings::is_image(path) => path.to_owned(),
                path => {
                    let place = path.unwrap_or(folder).to_owned();
                    return Err(Error::io(&place, "look into the folder")(error.into()));
                }
            },
        };
        if endings::is_image(&path) {
            found.images.push(path);
        } else if endings::why_not(&path).is_some() {
            found.left_out.push(path);
        }
    }
    found.images.sort();
    found.left_out.sort();
    Ok(found)
}

/// The entries of a folder without clutter, sorted.
///
/// # Errors
/// [`Error::Io`] names the folder.
pub fn listing(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = || Error::io(folder, "look into the folder");
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(fail())?
        .map(|entry| entry.map(|entry| entry.path()).map_err(fail()))
        .collect::<Result<_>>()?;
    entries.retain(|entry| entry.file_name().is_none_or(|name| !is_clutter(name)));
    entries.sort();
    Ok(entries)
}

/// Makes `to` lead to the file `from`: a symbolic link where the system has them, else a copy. What stood there is replaced.
///
/// # Errors
/// [`Error::Io`] names `from` where it does not exist, `to` where it can't be replaced or made.
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
///
/// # Errors
/// [`Error::Io`] names `from` where it can't be read, `to` where it can't be written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = bytes(from).map_err(Error::io(from, "read it"))?;
    write(to, &bytes)
}
