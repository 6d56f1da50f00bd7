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
    /// What calibration alone changes of mAP50 and mAP on the validation images.
    int8: [f64; 2],
}

/// Trains what is not there yet, compares, prints the table.
pub fn compress(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>) -> Outcome {
    println!(
        "| model | epochs | minutes | FLOPs | split | base mAP50 | mAP50 | difference | base mAP | mAP | difference | int8 \
         mAP50, mAP |\n|---|---:|---:|---:|---|---:|---:|---|---:|---:|---|---|"
    );
    let bases = (0..protocol.seeds)
        .map(|seed| Bases::train(yolo, protocol, seed))
        .collect::<Outcome<Vec<Bases>>>()?;
    for pruner in &protocol.pruners {
        for flops in &protocol.flops {
            let found = (0..protocol.seeds)
                .zip(&bases)
                .map(|(seed, bases)| bases.pruned(yolo, protocol, (pruner, flops, seed)))
                .collect::<Outcome<Vec<Found>>>()?;
            print(protocol, &format!("{pruner} {flops}"), &found);
        }
    }
    Ok(())
}

/// The models of one seed: a base, and the reference that has had as many epochs as the base and a pruned model after it. Trained once for
/// all pruners and shares.
struct Bases {
    folder: PathBuf,
    gflops: f64,
    minutes: f64,
}

impl Bases {
    fn train(yolo: &dyn Fn() -> Command, protocol: &Protocol<'_>, seed: u32) -> Outcome<Self> {
        let folder = std::path::absolute(root().join(format!("runs/bench/compress/{}-{seed}", protocol.cfg)))
            .map_err(|error| format!("runs: {error}"))?;
        let [base, tune] = protocol.epochs;
        let start = format!(
            "cfg: {}\nweights: {}\n",
            protocol.cfg,
            absolute(protocol.weights).display()
        );
        let stages = format!(
            "  - train: {{epochs: {base}}}\n  - reference: {{epochs: {}}}\n",
            base + tune
        );
        let results = recipe(
            yolo,
            protocol,
            (&folder, "base", seed),
            &(start + "stages:\n" + &stages),
        )?;
        let [gflops, seconds] = ["gflops", "seconds"].map(|key| numbers(&results, key));
        match (gflops.as_slice(), seconds.as_slice()) {
            ([gflops, _], [base, _]) => Ok(Self {
                folder,
                gflops: *gflops,
                minutes: base / 60.0,
            }),
            _ => fail(format!("the table of {} has other stages", folder.display())),
        }
    }

    fn base(&self) -> PathBuf {
        self.folder.join("base/1-train/weights/best.safetensors")
    }

    fn reference(&self) -> PathBuf {
        self.folder.join("base/2-reference/weights/best.safetensors")
    }

    /// Prunes and tunes the base.
    fn pruned(
        &self,
        yolo: &dyn Fn() -> Command,
        protocol: &Protocol<'_>,
        (pruner, flops, seed): (&str, &str, u32),
    ) -> Outcome<Found> {
        let name = format!("{pruner}-{flops}");
        let text = format!(
            "weights: {}\nstages:\n{}",
            self.base().display(),
            stages(protocol, pruner, flops)
        );
        let results = recipe(yolo, protocol, (&self.folder, &name, seed), &text)?;
        let [gflops, seconds, maps, map50s] = ["gflops", "seconds", "map", "map50"].map(|key| numbers(&results, key));
        // The last two: fine-tune, quantize.
        let Some(tuned) = seconds.len().checked_sub(2).filter(|_| seconds.len() == maps.len()) else {
            return fail(format!("the table of {name} has other stages"));
        };
        let (after, int8) = (
            gflops[tuned],
            [map50s[tuned + 1] - map50s[tuned], maps[tuned + 1] - maps[tuned]],
        );
        let seconds = &seconds[..=tuned];
        let tuned = self
            .folder
            .join(&name)
            .join(format!("{}-fine-tune/weights/best.safetensors", tuned + 1));
        let splits = ["val", "test"].map(|split| compared(yolo, protocol, [&self.reference(), &tuned], split));
        Ok(Found {
            gflops: after / self.gflops,
            minutes: self.minutes + seconds.iter().sum::<f64>() / 60.0,
            splits: splits.into_iter().collect::<Outcome<Vec<_>>>()?,
            int8,
        })
    }
}

fn absolute(file: &str) -> PathBuf {
    std::path::absolute(root().join(file)).unwrap_or_else(|_| PathBuf::from(file))
}

/// From the base to the pruned model: slimming spends a sixth of the epochs on sparsity.
fn stages(protocol: &Protocol<'_>, pruner: &str, flops: &str) -> String {
    let tune = protocol.epochs[1];
    let sparse = if pruner == "slimming" { tune / 6 } else { 0 };
    let sparsify = match sparse {
        0 => String::new(),
        epochs => format!("  - sparsify: {{epochs: {epochs}, pruner: {{type: slimming, sparse_rate: 0.005}}}}\n"),
    };
    let teacher = match protocol.distiller {
        "none" => String::new(),
        distiller => format!(", teacher: base, distiller: {distiller}"),
    };
    format!(
        "{sparsify}  - prune: {{pruner: {{type: {pruner}}}, flops: {flops}}}\n  - fine-tune: {{epochs: {}{teacher}}}\n  - quantize: {{backend: {{type: \
         onnxruntime}}}}\n",
        tune - sparse
    )
}

/// Runs a recipe into `folder/name`, as far as it has not been before; what its `results.json` says.
fn recipe(
    yolo: &dyn Fn() -> Command,
    protocol: &Protocol<'_>,
    (folder, name, seed): (&Path, &str, u32),
    rest: &str,
) -> Outcome<String> {
    let out = folder.join(name);
    let text = format!(
        "name: compress\ndata: {}\nimg: {}\nnominal-batch: {}\nseed: {seed}\nout: {}\n{rest}",
        absolute(protocol.data).display(),
        protocol.img,
        protocol.nominal,
        out.display(),
    );
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join(format!("{name}.yaml"));
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    // The table belongs to standard output, the progress of recipes does not.
    let mut command = yolo();
    command
        .arg("compress")
        .arg(&path)
        .arg("--resume")
        .stdout(std::process::Stdio::null());
    run(&mut command)?;
    let results = out.join("results.json");
    std::fs::read_to_string(&results).map_err(|error| format!("{}: {error}", results.display()))
}

/// `yolo compare` of the reference and the fine-tuned model.
fn compared(
    yolo: &dyn Fn() -> Command,
    protocol: &Protocol<'_>,
    models: [&Path; 2],
    split: &str,
) -> Outcome<[[f64; 3]; 6]> {
    let mut compare = yolo();
    compare.args(["compare", "--json", "--task", split, "--data", protocol.data]);
    compare.args(["--img", protocol.img, "--weights"]).args(models);
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
            "| {name} | {} | {:.0} | {:.1} % | {label} | {:.3} | {:.3} | {} | {:.3} | {:.3} | {} | {} |",
            base + tune,
            of(&|own| own.minutes),
            100.0 * of(&|own| own.gflops),
            value(0),
            value(2),
            difference(4),
            value(1),
            value(3),
            difference(5),
            if split == 0 {
                format!("{:+.3}, {:+.3}", of(&|own| own.int8[0]), of(&|own| own.int8[1]))
            } else {
                String::new()
            },
        );
    }
}
