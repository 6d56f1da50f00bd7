//! Included by the tests of several crates: a test that skips says so, and `cargo xtask test` counts it in its closing line.
#![allow(dead_code)] // not every crate uses all of it

/// Prints that the running test skips, or a part of it, and why; `needs` is what it would take.
pub fn skipped(needs: &str, why: impl std::fmt::Display) {
    use std::io::Write as _;
    eprintln!("skipped: {why}");
    let Some(list) = std::env::var_os("YOLO_SKIPPED") else {
        return;
    };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let file = std::fs::OpenOptions::new().create(true).append(true).open(list);
    // One write, as several processes append.
    let written = file.and_then(|mut file| file.write_all(format!("{test}\t{needs}\n").as_bytes()));
    written.expect("the list of skipped tests");
}

/// What a test needs that reads the shared data.
pub const SHARED: &str = "the shared data (YOLO_SHARED)";
