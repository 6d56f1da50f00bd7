//! `cargo xtask bench compress`: pruned models against a reference that was trained for as many epochs as they were, on validation and
//! test images, with several seeds and intervals; and students of a larger teacher against models of as many epochs without one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use serde_json::{Value, json};

use crate::light::output;
use crate::{Outcome, fail, root};

/// What is measured, and on what.
pub struct Protocol {
    /// Data set YAML.
    pub data: String,
    /// Checkpoint that the base starts from.
    pub weights: String,
    /// Model.
    pub cfg: String,
    /// Epochs of the base, and of the pruned model after it.
    pub epochs: [u32; 2],
    /// Side of the images.
    pub img: String,
    /// Images per update.
    pub nominal: String,
    /// Pruners, `slimming,eagleeye,oneshot`.
    pub pruners: Vec<String>,
    /// Shares of the FLOPs that stay.
    pub flops: Vec<String>,
    /// Distillers of the fine-tuning (the base is the teacher), `none` among them.
    pub distillers: Vec<String>,
    /// A larger model for students of the base's size: `yolov5s`, or `yolov5s,yolov5s.pt` with the checkpoint that it starts from.
    pub teacher: Option<String>,
    /// Its epochs.
    pub teacher_epochs: u32,
    /// Distillers of the students.
    pub students: Vec<String>,
    /// Seeds 0 to this.
    pub seeds: u32,
    /// Models that are trained at the same time.
    pub jobs: usize,
    /// Words that every command gets: `--device 0 --amp off`.
    pub device: Vec<String>,
}

/// Trains what is not there yet, compares, prints the tables.
pub fn compress(yolo: &(dyn Fn() -> Command + Sync), protocol: &Protocol) -> Outcome {
    let bench = Bench {
        yolo,
        protocol,
        turns: Turns::new(protocol.jobs.max(1)),
    };
    let rows = bench.run()?;
    print!("{}", table(protocol, &rows));
    Ok(())
}

/// One model that is compared with another of as many epochs.
struct Row {
    /// `oneshot 0.6, logits`, `student, cwd`.
    name: String,
    epochs: u32,
    minutes: f64,
    /// Share of the FLOPs that the model has left.
    share: f64,
    /// What `yolo compare` says of reference and model on validation and test images.
    splits: [Value; 2],
    /// What calibration alone changes of mAP50 and mAP on the validation images.
    int8: Option<[f64; 2]>,
}

struct Bench<'a> {
    yolo: &'a (dyn Fn() -> Command + Sync),
    protocol: &'a Protocol,
    turns: Turns,
}

/// A model that is made of a trained base.
#[derive(Clone)]
struct Variant {
    pruner: String,
    flops: String,
    distiller: String,
}

impl Bench<'_> {
    /// All rows, those of all seeds of a name together, in the order of the protocol.
    fn run(&self) -> Outcome<Vec<Row>> {
        let teacher = OnceLock::new();
        let seeds: Vec<Outcome<Vec<Row>>> = thread::scope(|scope| {
            let teacher = &teacher;
            scope.spawn(move || teacher.set(self.teacher()));
            let seeds: Vec<_> = (0..self.protocol.seeds)
                .map(|seed| scope.spawn(move || self.seed(seed, teacher)))
                .collect();
            seeds.into_iter().map(joined).collect()
        });
        let seeds = seeds.into_iter().collect::<Outcome<Vec<_>>>()?;
        let longest = seeds.iter().map(Vec::len).max().unwrap_or_default();
        let mut seeds: Vec<_> = seeds.into_iter().map(Vec::into_iter).collect();
        Ok((0..longest)
            .flat_map(|_| seeds.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>())
            .collect())
    }

    /// All models of one seed.
    fn seed(&self, seed: u32, teacher: &OnceLock<Outcome<Option<PathBuf>>>) -> Outcome<Vec<Row>> {
        let [base, tune] = self.protocol.epochs;
        thread::scope(|scope| {
            let reference = scope.spawn(move || self.train(seed, "reference", base + tune));
            let base = self.train(seed, "base", base)?;
            let variants: Vec<_> = self
                .variants()
                .into_iter()
                .map(|variant| {
                    let base = base.best();
                    scope.spawn(move || self.pruned(seed, &base, &variant).map(|made| (variant, made)))
                })
                .collect();
            let students: Vec<_> = self
                .protocol
                .students
                .iter()
                .map(|distiller| scope.spawn(move || self.student(seed, distiller, teacher)))
                .collect();
            let reference = joined(reference)?;
            let mut rows = Vec::new();
            for variant in variants {
                let (variant, made) = joined(variant)?;
                rows.push(self.row(seed, &variant, [&base, &reference], made)?);
            }
            for (student, distiller) in students.into_iter().zip(&self.protocol.students) {
                if let Some(student) = joined(student)? {
                    let splits = self.compared([&base.best(), &student.best()])?;
                    rows.push(Row {
                        name: format!("student, {distiller}"),
                        epochs: self.protocol.epochs[0],
                        minutes: student.minutes()?,
                        share: 1.0,
                        splits,
                        int8: None,
                    });
                }
            }
            Ok(rows)
        })
    }

    fn variants(&self) -> Vec<Variant> {
        let mut all = Vec::new();
        for distiller in &self.protocol.distillers {
            for pruner in &self.protocol.pruners {
                for flops in &self.protocol.flops {
                    all.push(Variant {
                        pruner: pruner.clone(),
                        flops: flops.clone(),
                        distiller: distiller.clone(),
                    });
                }
            }
        }
        all
    }

    fn row(&self, seed: u32, variant: &Variant, [base, reference]: [&Made; 2], made: Made) -> Outcome<Row> {
        let Variant {
            pruner,
            flops,
            distiller,
        } = variant;
        let stages = made.stages()?;
        let (Some(tuned), Some(quantized)) = (
            stages.iter().find(|stage| stage["kind"] == "fine-tune"),
            stages.iter().find(|stage| stage["kind"] == "quantize"),
        ) else {
            return fail(format!("the table of {} has other stages", made.folder.display()));
        };
        let row = Row {
            name: format!("{pruner} {flops}, {distiller}"),
            epochs: self.protocol.epochs.iter().sum(),
            minutes: base.minutes()? + made.minutes()?,
            share: number(tuned, "gflops")? / number(base.first()?, "gflops")?,
            splits: self.compared([&reference.best(), &made.best()])?,
            int8: Some([
                number(quantized, "map50")? - number(tuned, "map50")?,
                number(quantized, "map")? - number(tuned, "map")?,
            ]),
        };
        // For a reader who wants more than medians.
        let said = json!({"name": row.name, "seed": seed, "share": row.share, "minutes": row.minutes, "int8": row.int8, "val": row.splits[0], "test": row.splits[1]});
        let path = made.folder.join("row.json");
        std::fs::write(&path, said.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(row)
    }

    /// The larger model, if one is asked for: one for all seeds.
    fn teacher(&self) -> Outcome<Option<PathBuf>> {
        let Some(teacher) = &self.protocol.teacher else {
            return Ok(None);
        };
        let (cfg, weights) = match teacher.split_once(',') {
            Some((cfg, weights)) => (cfg, format!("weights: {}\n", absolute(weights).display())),
            None => (teacher.as_str(), String::new()),
        };
        let rest = format!(
            "cfg: {cfg}\n{weights}stages:\n  - train: {{epochs: {}}}\n",
            self.protocol.teacher_epochs
        );
        Ok(Some(self.recipe(0, &format!("teacher-{cfg}"), &rest)?.best()))
    }

    fn student(
        &self,
        seed: u32,
        distiller: &str,
        teacher: &OnceLock<Outcome<Option<PathBuf>>>,
    ) -> Outcome<Option<Made>> {
        let Some(teacher) = teacher.wait().clone()? else {
            return Ok(None);
        };
        let rest = format!(
            "cfg: {}\nweights: {}\nstages:\n  - train: {{epochs: {}, teacher: {}, distiller: {distiller}}}\n",
            self.protocol.cfg,
            absolute(&self.protocol.weights).display(),
            self.protocol.epochs[0],
            teacher.display()
        );
        self.recipe(seed, &format!("student-{distiller}"), &rest).map(Some)
    }

    fn train(&self, seed: u32, name: &str, epochs: u32) -> Outcome<Made> {
        let rest = format!(
            "cfg: {}\nweights: {}\nstages:\n  - train: {{epochs: {epochs}}}\n",
            self.protocol.cfg,
            absolute(&self.protocol.weights).display(),
        );
        self.recipe(seed, name, &rest)
    }

    /// Prunes and tunes the base: slimming spends a sixth of the epochs on sparsity.
    fn pruned(&self, seed: u32, base: &Path, variant: &Variant) -> Outcome<Made> {
        let Variant {
            pruner,
            flops,
            distiller,
        } = variant;
        let tune = self.protocol.epochs[1];
        let sparse = if pruner == "slimming" { tune / 6 } else { 0 };
        let sparsify = match sparse {
            0 => String::new(),
            epochs => format!("  - sparsify: {{epochs: {epochs}, pruner: {{type: slimming, sparse_rate: 0.005}}}}\n"),
        };
        let teacher = match distiller.as_str() {
            "none" => String::new(),
            distiller => format!(", teacher: {}, distiller: {distiller}", base.display()),
        };
        let rest = format!(
            "weights: {}\nstages:\n{sparsify}  - prune: {{pruner: {{type: {pruner}}}, flops: {flops}}}\n  - fine-tune: {{epochs: {}{teacher}}}\n  - quantize: {{backend: {{type: onnxruntime}}}}\n",
            base.display(),
            tune - sparse
        );
        self.recipe(seed, &format!("{pruner}-{flops}-{distiller}"), &rest)
    }

    /// Runs a recipe, as far as it has not been before.
    fn recipe(&self, seed: u32, name: &str, rest: &str) -> Outcome<Made> {
        let protocol = self.protocol;
        let folder = root().join(format!("runs/bench/compress/{}-{seed}", protocol.cfg));
        let out = folder.join(name);
        let text = format!(
            "name: compress\ndata: {}\nimg: {}\nnominal-batch: {}\nseed: {seed}\nout: {}\n{rest}",
            absolute(&protocol.data).display(),
            protocol.img,
            protocol.nominal,
            out.display(),
        );
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let path = folder.join(format!("{name}.yaml"));
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut command = (self.yolo)();
        command
            .arg("compress")
            .arg(&path)
            .args(["--resume", "--json"])
            .args(&protocol.device);
        let said = self.turns.take(|| output(&mut command))?;
        let results =
            serde_json::from_str(&said).map_err(|error| format!("`yolo compress` said something else: {error}"))?;
        Ok(Made { folder: out, results })
    }

    /// `yolo compare` of two models on validation and test images.
    fn compared(&self, models: [&Path; 2]) -> Outcome<[Value; 2]> {
        let split = |split: &str| -> Outcome<Value> {
            let mut compare = (self.yolo)();
            compare.args(["compare", "--json", "--task", split, "--data", &self.protocol.data]);
            compare.args(["--img", &self.protocol.img, "--weights"]).args(models);
            compare.args(self.protocol.device.iter().take_while(|word| *word != "--amp"));
            let said = self.turns.take(|| output(&mut compare))?;
            serde_json::from_str(&said).map_err(|error| format!("`yolo compare` said something else: {error}"))
        };
        Ok([split("val")?, split("test")?])
    }
}

/// What a recipe has made.
struct Made {
    folder: PathBuf,
    results: Value,
}

impl Made {
    fn stages(&self) -> Outcome<&Vec<Value>> {
        match self.results["stages"].as_array() {
            Some(stages) if !stages.is_empty() => Ok(stages),
            _ => fail(format!("the table of {} is empty", self.folder.display())),
        }
    }

    fn first(&self) -> Outcome<&Value> {
        Ok(&self.stages()?[0])
    }

    /// Weights of the last stage that trained.
    fn best(&self) -> PathBuf {
        let trained = self.results["stages"].as_array().and_then(|stages| {
            stages
                .iter()
                .rfind(|stage| stage["kind"] == "fine-tune" || stage["kind"] == "train")
        });
        PathBuf::from(trained.and_then(|stage| stage["weights"].as_str()).unwrap_or_default())
    }

    fn minutes(&self) -> Outcome<f64> {
        let stages = self.stages()?.iter().filter(|stage| stage["kind"] != "quantize");
        stages.map(|stage| number(stage, "seconds").map(|s| s / 60.0)).sum()
    }
}

fn number(value: &Value, key: &str) -> Outcome<f64> {
    value[key]
        .as_f64()
        .ok_or_else(|| format!("`yolo` gave no `{key}` in {value}"))
}

fn absolute(file: &str) -> PathBuf {
    std::path::absolute(root().join(file)).unwrap_or_else(|_| PathBuf::from(file))
}

/// So many commands at a time.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    fn new(free: usize) -> Self {
        Self {
            free: Mutex::new(free),
            freed: Condvar::new(),
        }
    }

    fn take<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let made = work();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
        made
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Medians over the seeds with the least and the largest; the interval is that of the seed in the middle.
fn table(protocol: &Protocol, rows: &[Row]) -> String {
    let mut text = String::from(
        "| model | seeds | epochs | minutes | FLOPs | split | reference mAP50 | mAP50 | kept | difference | reference mAP | mAP | kept | \
         difference | int8 mAP50, mAP |\n|---|---:|---:|---:|---:|---|---:|---:|---|---|---:|---:|---|---|---|\n",
    );
    for rows in rows.chunk_by(|a, b| a.name == b.name) {
        for (split, label) in ["val", "test"].into_iter().enumerate() {
            let first = &rows[0];
            let _ = write!(
                text,
                "| {} | {} | {} | {:.1} | {:.1} % | {label} |",
                first.name,
                rows.len(),
                first.epochs,
                median(rows.iter().map(|row| row.minutes)),
                100.0 * median(rows.iter().map(|row| row.share)),
            );
            for key in ["map50", "map"] {
                let of = |row: &Row, model: usize| cell(&row.splits[split]["models"][model][key])[0];
                let kept: Vec<f64> = rows.iter().map(|row| 100.0 * of(row, 1) / of(row, 0)).collect();
                let mut differences: Vec<[f64; 3]> = rows
                    .iter()
                    .map(|row| cell(&row.splits[split]["differences"][0][key]))
                    .collect();
                differences.sort_by(|a, b| a[0].total_cmp(&b[0]));
                let [value, low, high] = differences[differences.len() / 2];
                let _ = write!(
                    text,
                    " {:.3} | {:.3} | {:.1} % ({:.1} to {:.1}) | {value:+.3} [{low:+.3}, {high:+.3}] |",
                    median(rows.iter().map(|row| of(row, 0))),
                    median(rows.iter().map(|row| of(row, 1))),
                    median(kept.iter().copied()),
                    kept.iter().copied().fold(f64::INFINITY, f64::min),
                    kept.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                );
            }
            let int8 = |index: usize| median(rows.iter().filter_map(|row| Some(row.int8?[index])));
            let _ = match (split, first.int8) {
                (0, Some(_)) => writeln!(text, " {:+.3}, {:+.3} |", int8(0), int8(1)),
                _ => writeln!(text, " |"),
            };
        }
    }
    let [base, tune] = protocol.epochs;
    let _ = writeln!(
        text,
        "\n{}, {} px. Pruned models: {base} + {tune} epochs beside a reference of {}; students: {base} epochs beside a base of {base}.",
        protocol.cfg,
        protocol.img,
        base + tune
    );
    text
}

/// Value and interval of a number of `yolo compare`.
fn cell(of: &Value) -> [f64; 3] {
    [&of["value"], &of["interval"]["low"], &of["interval"]["high"]].map(|value| value.as_f64().unwrap_or(f64::NAN))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
