//! Files that are either whole or not there.

use std::path::Path;

use crate::{Error, Result};

/// How the names of files start that are still being written.
pub const TEMPORARY: &str = ".writing-";

/// Lets `write` fill a temporary file beside `path`, then moves it there: a crash or a full disk leaves the old file as it
/// was. Missing folders are made.
///
/// # Errors
/// [`Error::Io`] names the folder that can't be made, or the file that can't be written.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>) -> Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "make the folder"))?;
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(folder)
        .map_err(Error::io(path, "write it"))?;
    write(file.as_file_mut()).map_err(Error::io(path, "write it"))?;
    file.as_file().sync_all().map_err(Error::io(path, "write it"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let readable = std::fs::Permissions::from_mode(0o644);
        file.as_file()
            .set_permissions(readable)
            .map_err(Error::io(path, "write it"))?;
    }
    file.persist(path)
        .map_err(|error| Error::io(path, "write it")(error.error))?;
    // The move itself is safe only when the folder is on the disk, too.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
