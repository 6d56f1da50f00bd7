//! `cargo xtask bench compress`: pruned models against a base that was trained for as many epochs as they were, on validation and test
//! images, with several seeds and intervals.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::light::{numbers, output};
use crate::{Outcome, fail, root, run};

/// What is measured, and on what.
pub struct Protocol<'a> {
    /// Data set YAML.
    pub data: &'a str,
    /// Checkpoint that the base starts from.
    pub weights: &'a str,
    /// Model.
    pub cfg: &'a str,
    /// Epochs of the base, and of the pruned model after it.
    pub epochs: [u32; 2],
    /// Side of the images.
    pub img: &'a str,
    /// Images per update.
    pub nominal: &'a str,
    /// Pruners, `slimming,eagleeye,oneshot`.
    pub pruners: Vec<&'a str>,
    /// Shares of the FLOPs that stay.
    pub flops: Vec<&'a str>,
    /// Distiller of the fine-tuning (the base is the teacher), or `none`.
    pub distiller: &'a str,
    /// Seeds 0 to this.
    pub seeds: u32,
}

/// One pruned model of one seed: its share of the FLOPs, mAP50 and mAP of both on both splits, and the difference with its interval.
struct Found {
    gflops: f64,
    minutes: f64,
    /// Per split (val, test): base, pruned and difference of mAP50 and mAP, each `[value, low, high]`.
    splits: Vec<[[f64; 3]; 6]>,
}

/// Trains what is not there yet, compares, prints the table.
pub fn compress(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>) -> Outcome {
    println!(
        "| model | epochs | minutes | FLOPs | split | base mAP50 | mAP50 | difference | base mAP | mAP | difference |\n\
         |---|---:|---:|---:|---|---:|---:|---|---:|---:|---|"
    );
    for pruner in &protocol.pruners {
        for flops in &protocol.flops {
            let found = (0..protocol.seeds)
                .map(|seed| one(yolo, protocol, pruner, flops, seed))
                .collect::<Outcome<Vec<Found>>>()?;
            print(protocol, &format!("{pruner} {flops}"), &found);
        }
    }
    Ok(())
}

/// One recipe: base, pruning, fine-tuning, and the reference that has had as many epochs.
fn one(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>, pruner: &str, flops: &str, seed: u32) -> Outcome<Found> {
    let folder = root().join(format!("runs/bench/compress/{}-{pruner}-{flops}-{seed}", protocol.cfg));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let recipe = folder.join("recipe.yaml");
    std::fs::write(&recipe, text(protocol, pruner, flops, seed, &folder))
        .map_err(|error| format!("{}: {error}", recipe.display()))?;
    run(yolo().arg("compress").arg(&recipe).arg("--resume"))?;
    let results = folder.join("out/results.json");
    let results = std::fs::read_to_string(&results).map_err(|error| format!("{}: {error}", results.display()))?;
    let [gflops, seconds] = ["gflops", "seconds"].map(|key| numbers(&results, key));
    // train, prune, fine-tune, reference: in this order.
    let (&[before, .., after, _], true) = (gflops.as_slice(), seconds.len() == gflops.len()) else {
        return fail(format!("the table of {} has other stages", recipe.display()));
    };
    let splits = ["val", "test"].map(|split| compared(yolo, protocol, &folder, split));
    Ok(Found {
        gflops: after / before,
        minutes: seconds[..seconds.len() - 1].iter().sum::<f64>() / 60.0,
        splits: splits.into_iter().collect::<Outcome<Vec<_>>>()?,
    })
}

fn text(protocol: &Protocol<'_>, pruner: &str, flops: &str, seed: u32, folder: &Path) -> String {
    let absolute = |file: &str| std::path::absolute(root().join(file)).unwrap_or_else(|_| PathBuf::from(file));
    let [base, tune] = protocol.epochs;
    let teacher = match protocol.distiller {
        "none" => String::new(),
        distiller => format!(", teacher: base, distiller: {distiller}"),
    };
    format!(
        "name: compress\ndata: {}\ncfg: {}\nweights: {}\nimg: {}\nnominal-batch: {}\nseed: {seed}\nout: {}\nstages:\n  - train: {{epochs: \
         {base}}}\n  - prune: {{pruner: {{type: {pruner}}}, flops: {flops}}}\n  - fine-tune: {{epochs: {tune}{teacher}}}\n  - reference: {{}}\n",
        absolute(protocol.data).display(),
        protocol.cfg,
        absolute(protocol.weights).display(),
        protocol.img,
        protocol.nominal,
        folder.join("out").display(),
    )
}

/// `yolo compare` of the reference and the fine-tuned model.
fn compared(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>, folder: &Path, split: &str) -> Outcome<[[f64; 3]; 6]> {
    let mut compare = yolo();
    compare.args(["compare", "--json", "--task", split, "--data", protocol.data]);
    compare.args(["--img", protocol.img, "--weights"]);
    for stage in ["4-reference", "3-fine-tune"] {
        compare.arg(folder.join("out").join(stage).join("weights/best.safetensors"));
    }
    let said = output(&mut compare)?;
    let [values, lows, highs] = ["value", "low", "high"].map(|key| numbers(&said, key));
    let mut found = [[0.0; 3]; 6];
    for (index, cell) in found.iter_mut().enumerate() {
        match (values.get(index), lows.get(index), highs.get(index)) {
            (Some(value), Some(low), Some(high)) => *cell = [*value, *low, *high],
            _ => return fail(format!("`yolo compare` said something else: {said}")),
        }
    }
    Ok(found)
}

/// Medians over the seeds; the interval is that of the seed in the middle.
fn print(protocol: &Protocol<'_>, name: &str, found: &[Found]) {
    let [base, tune] = protocol.epochs;
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let of = |value: &dyn Fn(&Found) -> f64| median(found.iter().map(value).collect());
    for (split, label) in ["val", "test"].into_iter().enumerate() {
        let value = |index: usize| of(&|own| own.splits[split][index][0]);
        let difference = |index: usize| {
            let mut all: Vec<[f64; 3]> = found.iter().map(|own| own.splits[split][index]).collect();
            all.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let [value, low, high] = all.get(all.len() / 2).copied().unwrap_or([f64::NAN; 3]);
            format!("{value:+.3} [{low:+.3}, {high:+.3}]")
        };
        // In the order of `yolo compare`: both models, then the difference; each mAP50, then mAP.
        println!(
            "| {name} | {} | {:.0} | {:.1} % | {label} | {:.3} | {:.3} | {} | {:.3} | {:.3} | {} |",
            base + tune,
            of(&|own| own.minutes),
            100.0 * of(&|own| own.gflops),
            value(0),
            value(2),
            difference(4),
            value(1),
            value(3),
            difference(5),
        );
    }
}
