//! Shared by the tests of this crate: fixtures, the folder of shared data, the hash fill of the reference numbers.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

#[path = "../../../../tests/skip.rs"]
mod skip;

/// Root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A JSON fixture.
pub fn fixture(name: &str) -> Value {
    let path = root().join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A file or folder of the shared data, or `None` with a printed reason.
pub fn shared(name: &str) -> Option<PathBuf> {
    let base = std::env::var_os("YOLO_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let path = base.join(name);
    if path.exists() {
        return Some(path);
    }
    let why = "is not here (set YOLO_SHARED to the folder of shared data)";
    skip::skipped(skip::SHARED, format!("{} {why}", path.display()));
    None
}

/// 32-bit FNV-1a.
fn fnv1a32(text: &str) -> u32 {
    text.bytes()
        .fold(0x811C_9DC5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// The hash of the reference numbers: position `i` of the stream `key`.
pub fn hash(key: &str, i: u32) -> u32 {
    let mut x = i.wrapping_mul(0x9E37_79B1).wrapping_add(fnv1a32(key));
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 16)
}

/// In [-1, 1).
pub fn r(key: &str, i: usize) -> f64 {
    f64::from(hash(key, i as u32)) / 2f64.powi(31) - 1.0
}

/// In [0, 1).
pub fn u(key: &str, i: usize) -> f64 {
    f64::from(hash(key, i as u32)) / 2f64.powi(32)
}

/// Numbers of a JSON array.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}
