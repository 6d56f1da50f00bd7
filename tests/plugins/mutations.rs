//! The fuzz targets, without a fuzzer: every file of `fuzz/corpus` and thousands of mutations of it, in an order that is the same in
//! every run. Stable Rust, a few seconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::support::root;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Most time for one target, on machines that are slow.
const AT_MOST: Duration = Duration::from_secs(20);

/// A small generator of numbers (xorshift64*), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One change: of a bit, a byte, a piece; or a word that means something in one of the formats.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    const WORDS: [&[u8]; 24] = [
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\n",
        b"=",
        b"null",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\\u0000",
        b"\0",
        b"\xff\xff\xff\xff\x0f",
        b"\x7f\xff\xff\xff",
        b"\xf0\x9f\x92\xa5",
        b"[[provides]]\n",
        b"name",
        b"../",
        b"yolo.plugin",
        b"\x80\x02",
        b"PK\x03\x04",
        b"(",
        b"R",
    ];
    let at = numbers.below(bytes.len() + 1);
    let length = 1 + numbers.below(16);
    let end = (at + length).min(bytes.len());
    match numbers.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
        1 if at < bytes.len() => bytes[at] = numbers.next() as u8,
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        4 => bytes.truncate(at),
        5 => {
            let from = numbers.below(other.len() + 1);
            let piece = other[from..(from + length).min(other.len())].to_vec();
            bytes.splice(at..end, piece);
        }
        6 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
        _ => drop(bytes.splice(at..at, WORDS[numbers.below(WORDS.len())].iter().copied())),
    }
}

/// Runs a target on its corpus and on `rounds` mutations of it.
fn run(folder: &str, rounds: usize, target: fn(&[u8])) {
    let rounds = std::env::var("YOLO_MUTATIONS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(rounds);
    let mut files: Vec<_> = std::fs::read_dir(root().join("fuzz/corpus").join(folder))
        .expect("a corpus")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("a file")).collect();
    let tried = |bytes: &[u8], what: &str| {
        if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
            let text = String::from_utf8_lossy(bytes);
            panic!(
                "{folder}, {what}: a panic for these {} bytes: {bytes:?}\n{text}",
                bytes.len()
            );
        }
    };
    for (bytes, file) in corpus.iter().zip(&files) {
        tried(bytes, &file.display().to_string());
    }
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (start, patient) = (Instant::now(), std::env::var_os("YOLO_MUTATIONS").is_some());
    let mut done = 0;
    while done < rounds && (patient || start.elapsed() < AT_MOST) {
        let mut bytes = corpus[numbers.below(corpus.len())].clone();
        let other = &corpus[numbers.below(corpus.len())];
        for _ in 0..=numbers.below(4) {
            mutate(&mut bytes, other, &mut numbers);
        }
        tried(&bytes, &format!("round {done}"));
        done += 1;
    }
    eprintln!("{folder}: {done} mutations in {:?}", start.elapsed());
    assert!(done > rounds / 100, "only {done} rounds in {AT_MOST:?}");
}

#[test]
fn manifests_of_strangers() {
    run("manifest", 100_000, targets::manifest);
}

#[test]
fn graphs_of_strangers() {
    run("graph", 20_000, targets::graph);
}

#[test]
fn modules_of_strangers() {
    run("wasm", 300_000, targets::module);
}

#[test]
fn checkpoints_of_strangers() {
    run("pt", 20_000, targets::pt);
}

#[test]
fn model_files_of_strangers() {
    run("model", 20_000, targets::model);
}

#[test]
fn plans_of_strangers() {
    run("plan", 20_000, targets::plan);
}
