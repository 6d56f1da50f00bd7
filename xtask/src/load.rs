//! `cargo xtask bench load`: an epoch on an idle machine, and beside one other busy process.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::{Outcome, fail};

/// An epoch beside a busy process takes at most so many times as long as alone.
const GOAL: f64 = 2.5;

/// Trains yolov5n at 320 pixels and batch 16, alone and beside one thread that never rests; fails if that costs more than it should.
pub fn load(yolo: &dyn Fn() -> Command, data: &str, weights: &str, epochs: &str) -> Outcome {
    println!("| policy | alone | beside a busy process | ratio |\n|---|---:|---:|---:|");
    let mut own = None;
    // What libgomp does when nobody tells it anything, for comparison; then what `yolo` does.
    for (name, spins) in [("libgomp's own", Some("300000")), ("default", None)] {
        let epoch = || {
            let mut train = yolo();
            train.args(["train", "--cfg", "yolov5n", "--weights", weights, "--data", data]);
            train.args(["--img", "320", "--batch-size", "16", "--epochs", epochs, "--noplots"]);
            train.args(["--project", "runs/load", "--exist-ok"]);
            ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"].iter().for_each(|name| {
                train.env_remove(name);
            });
            if let Some(spins) = spins {
                train.env("GOMP_SPINCOUNT", spins);
            }
            seconds(&mut train)
        };
        let (alone, beside) = (epoch()?, busy(epoch)?);
        let ratio = beside / alone;
        println!("| {name} | {alone:.1} s | {beside:.1} s | {ratio:.2} |");
        own = Some(ratio);
    }
    match own {
        Some(ratio) if ratio > GOAL => fail(format!(
            "beside one busy process an epoch takes {ratio:.2} times as long; {GOAL} is the goal"
        )),
        _ => Ok(()),
    }
}

/// Does `work` while one thread of this process keeps a processor busy.
fn busy<T>(work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// The shortest time between the ends of two epochs, training, validation and files; so the first epoch, with the start, is left out.
fn seconds(train: &mut Command) -> Outcome<f64> {
    let broken = |error: std::io::Error| format!("`yolo train`: {error}");
    let mut child = train
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    let mut ends = Vec::new();
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line.map_err(broken)?;
            let word = line
                .strip_prefix("train ")
                .and_then(|rest| rest.split_whitespace().next());
            if word.is_some_and(|word| word.contains('/')) {
                ends.push(Instant::now());
            }
            said.push(line);
        }
    }
    if !child.wait().map_err(broken)?.success() {
        return fail(format!("`yolo train` failed:\n{}", said.join("\n")));
    }
    let taken = ends.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
    taken
        .min_by(f64::total_cmp)
        .ok_or_else(|| "--epochs must be at least 2: the first is not measured".to_owned())
}
