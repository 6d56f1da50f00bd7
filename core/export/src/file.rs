//! Files that appear whole or not at all.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Writes `bytes` beside `path`, flushes them to the disk and renames: a reader never sees a part of the file, and a
/// full disk leaves nothing behind. Makes the folder if it is absent.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let fail = |source| Error::write(path, source);
    std::fs::create_dir_all(&folder).map_err(fail)?;
    let mut file = tempfile::Builder::new()
        .prefix(".yolo-")
        .permissions_like_new_file()
        .tempfile_in(&folder)
        .map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Temporary files are private by default; an exported model should be as readable as any new file.
trait PermissionsLikeNewFile {
    fn permissions_like_new_file(&mut self) -> &mut Self;
}

impl PermissionsLikeNewFile for tempfile::Builder<'_, '_> {
    #[cfg(unix)]
    fn permissions_like_new_file(&mut self) -> &mut Self {
        use std::os::unix::fs::PermissionsExt as _;
        // The process umask is applied on top.
        self.permissions(std::fs::Permissions::from_mode(0o666))
    }

    #[cfg(not(unix))]
    fn permissions_like_new_file(&mut self) -> &mut Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_whole_files_and_makes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.bin");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn an_unwritable_folder_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let error = write_atomic(&file.join("model.onnx"), b"x").unwrap_err().to_string();
        assert!(error.contains("model.onnx"), "{error}");
    }
}
