//! Files that appear whole or not at all.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Writes `bytes` beside `path`, flushes them to the disk and renames: a reader never sees a part of the file, and a
/// full disk leaves nothing behind. Makes the folder if it is absent.
///
/// # Errors
/// [`Error::Write`] names `path`, whether its folder can't be made, the disk is full or the name can't be taken.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    persist(stage(path, bytes)?, path)
}

/// As [`write_atomic`] for files that belong together: where one can't be written, none is. The first one comes last: where it is, all
/// are.
///
/// # Errors
/// [`Error::Write`] names the file. Where its bytes can't be stored, no file has changed; where its name can't be taken, those after it
/// in the list are there, the first is not.
pub fn write_together(files: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    let staged = files
        .iter()
        .map(|(path, bytes)| stage(path, bytes))
        .collect::<Result<Vec<_>>>()?;
    for (staged, (path, _)) in staged.into_iter().zip(files).rev() {
        persist(staged, path)?;
    }
    Ok(())
}

/// The bytes on the disk, under a name of their own.
fn stage(path: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
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
    Ok(file)
}

fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    file.persist(path)
        .map(drop)
        .map_err(|error| Error::write(path, error.error))
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
    fn of_files_that_belong_together_all_are_written_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        write_together(&[(one.clone(), b"1".to_vec()), (two.clone(), b"2".to_vec())]).unwrap();
        assert_eq!(
            (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap()),
            (b"1".to_vec(), b"2".to_vec())
        );
        let broken = one.join("three");
        let error = write_together(&[(broken, b"3".to_vec()), (two.clone(), b"4".to_vec())]).unwrap_err();
        assert!(error.to_string().contains("three"), "{error}");
        assert_eq!(std::fs::read(&two).unwrap(), b"2");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
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
