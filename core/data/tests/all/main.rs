//! Tests of the data crate, one binary. What needs the shared research data skips with a printed reason when it is absent.

mod broken;
mod check;
mod convert;
mod convert_coco;
mod convert_doubt;
mod convert_mutated;
mod convert_odd;
mod dataset;
mod dataset_odd;
mod images;
mod letterbox;
mod loader;
mod said_twice;
mod silent;
#[path = "../../../../tests/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};

use yolo_data::Image;

/// A file or folder of the shared data (`YOLO_SHARED`, or `shared` beside the checkout), or `None` with a printed reason.
pub fn shared(name: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("YOLO_SHARED").map_or(beside, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    skip::skipped(skip::SHARED, format!("{} is absent", path.display()));
    None
}

/// A temporary folder.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes a file, with the folders above it.
pub fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    std::fs::write(&path, content).expect("a file");
    path
}

/// A picture that no other number gives.
pub fn picture(number: u8, width: usize, height: usize) -> Image {
    let data = (0..width * height * 3)
        .map(|i| (i as u8).wrapping_mul(7) ^ number.wrapping_mul(31))
        .collect();
    Image { width, height, data }
}

/// Writes a picture of 40 x 30 pixels.
pub fn put_picture(folder: &Path, name: &str, number: u8) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    picture(number, 40, 30).save(&path).expect("a picture");
    path
}
