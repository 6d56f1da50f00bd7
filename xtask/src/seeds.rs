//! `cargo xtask bench seeds`: one short training of yolov5n with several seeds, and the median of their mAP50 against its goal.

use std::process::Command;

use crate::light::{numbers, output};
use crate::{Outcome, fail};

const SEEDS: [&str; 3] = ["0", "1", "2"];

/// What the Python YOLOv5 reached in one such run.
const GOAL: f64 = 0.60;

/// 320 pixels, batch 16, 15 epochs from `weights`, everything else as it is by default.
pub fn seeds(yolo: &dyn Fn() -> Command, data: &str, weights: &str) -> Outcome {
    let mut found = Vec::new();
    for seed in SEEDS {
        let mut train = yolo();
        train.args(["train", "--cfg", "yolov5n", "--weights", weights, "--data", data]);
        train.args(["--img", "320", "--batch-size", "16", "--epochs", "15", "--seed", seed]);
        train.args([
            "--noplots",
            "--json",
            "--project",
            "runs/seeds",
            "--name",
            seed,
            "--exist-ok",
        ]);
        let said = output(&mut train)?;
        let number = |key: &str| {
            let last = numbers(&said, key).last().copied();
            last.ok_or_else(|| format!("`{key}` is missing in what `yolo train` said: {said}"))
        };
        found.push([number("map50")?, number("map")?, number("seconds")?]);
    }
    println!("| seed | mAP50 | mAP | seconds |\n|---|---:|---:|---:|");
    let row =
        |name: &str, [map50, map, seconds]: [f64; 3]| println!("| {name} | {map50:.3} | {map:.3} | {seconds:.0} |");
    for (seed, numbers) in SEEDS.iter().zip(&found) {
        row(seed, *numbers);
    }
    let middle = [0, 1, 2].map(|column| {
        let mut values: Vec<f64> = found.iter().map(|numbers| numbers[column]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    });
    row("median", middle);
    if middle[0] < GOAL {
        return fail(format!("the median of mAP50 is {:.3}, below {GOAL}", middle[0]));
    }
    Ok(())
}
