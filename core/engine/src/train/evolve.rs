//! Evolution of hyper-parameters, as YOLOv5's `--evolve`: a generation is a training with values that were mutated from those of a good
//! earlier one.
//!
//! What lives here: how values are chosen, and the table of what was tried. What must not: training, drawing.

use std::io::Write as _;
use std::path::Path;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};
use yolo_data::Hyp;

use crate::{Error, Result};

/// How a hyper-parameter may change.
struct Gene {
    key: &'static str,
    /// How readily it mutates (0: never).
    gain: f64,
    /// Least and greatest value.
    bounds: [f64; 2],
}

const fn gene(key: &'static str, gain: f64, low: f64, high: f64) -> Gene {
    let bounds = [low, high];
    Gene { key, gain, bounds }
}

/// Gains and bounds of YOLOv5 v6.0. `anchors` is not among them: a training keeps the model's.
const GENES: [Gene; 28] = [
    gene("lr0", 1.0, 1e-5, 0.1),
    gene("lrf", 1.0, 0.01, 1.0),
    gene("momentum", 0.3, 0.6, 0.98),
    gene("weight_decay", 1.0, 0.0, 0.001),
    gene("warmup_epochs", 1.0, 0.0, 5.0),
    gene("warmup_momentum", 1.0, 0.0, 0.95),
    gene("warmup_bias_lr", 1.0, 0.0, 0.2),
    gene("box", 1.0, 0.02, 0.2),
    gene("cls", 1.0, 0.2, 4.0),
    gene("cls_pw", 1.0, 0.5, 2.0),
    gene("obj", 1.0, 0.2, 4.0),
    gene("obj_pw", 1.0, 0.5, 2.0),
    gene("iou_t", 0.0, 0.1, 0.7),
    gene("anchor_t", 1.0, 2.0, 8.0),
    gene("fl_gamma", 0.0, 0.0, 2.0),
    gene("hsv_h", 1.0, 0.0, 0.1),
    gene("hsv_s", 1.0, 0.0, 0.9),
    gene("hsv_v", 1.0, 0.0, 0.9),
    gene("degrees", 1.0, 0.0, 45.0),
    gene("translate", 1.0, 0.0, 0.9),
    gene("scale", 1.0, 0.0, 0.9),
    gene("shear", 1.0, 0.0, 10.0),
    gene("perspective", 0.0, 0.0, 0.001),
    gene("flipud", 1.0, 0.0, 1.0),
    gene("fliplr", 0.0, 0.0, 1.0),
    gene("mosaic", 1.0, 0.0, 1.0),
    gene("mixup", 1.0, 0.0, 1.0),
    gene("copy_paste", 1.0, 0.0, 1.0),
];

/// Parents are chosen among so many of the best.
const PARENTS: usize = 5;
/// Probability that a value mutates, and how far.
const PROBABILITY: f64 = 0.8;
const SIGMA: f64 = 0.2;
/// A value changes by these factors at most.
const FACTORS: [f64; 2] = [0.3, 3.0];

/// Columns of the table before those of the hyper-parameters.
const RESULTS: [&str; 7] = [
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
];

/// A training of an evolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Precision, recall, mAP50 and mAP after its last epoch; 0 where its loss was not finite.
    pub metrics: [f64; 4],
    /// Box, objectness and class loss on the validation images; NaN where there is none.
    pub val_loss: [f64; 3],
    /// What it was trained with.
    pub hyp: Hyp,
}

impl Generation {
    /// What is to become great: 0.1 mAP50 + 0.9 mAP.
    pub fn fitness(&self) -> f64 {
        let [_, _, map50, map] = self.metrics;
        0.1 * map50 + 0.9 * map
    }
}

/// Index of the best generation, the first of equals.
pub fn best(done: &[Generation]) -> Option<usize> {
    ranked(done).first().copied()
}

/// Indices by falling fitness.
fn ranked(done: &[Generation]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..done.len()).collect();
    order.sort_by(|a, b| done[*b].fitness().total_cmp(&done[*a].fitness()));
    order
}

/// Hyper-parameters of the generation after `done`: the first trains with `start`, all others with a mutation. A function of its arguments
/// alone. All values are kept within their bounds, as in YOLOv5, those of `start` too.
///
/// # Errors
/// None that a valid `start` could cause.
pub fn next(start: &Hyp, done: &[Generation], seed: u64) -> Result<Hyp> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x65_766f_6c76);
    rng.set_stream(done.len() as u64);
    let parent = parent(done, &mut rng);
    let mut values = values(parent.map_or(start, |parent| &parent.hyp))?;
    let factors = if parent.is_some() {
        mutation(&mut rng)
    } else {
        [1.0; GENES.len()]
    };
    for (gene, factor) in GENES.iter().zip(factors) {
        let value = values.get(gene.key).and_then(Value::as_f64).unwrap_or_default() * factor;
        let value = value.clamp(gene.bounds[0], gene.bounds[1]);
        values.insert(gene.key.to_owned(), ((value * 1e5).round() / 1e5).into());
    }
    Ok(serde_json::from_value(Value::Object(values)).map_err(yolo_core::Error::from)?)
}

/// One of the best, the better ones more often.
fn parent<'a>(done: &'a [Generation], rng: &mut ChaCha8Rng) -> Option<&'a Generation> {
    let order = ranked(done);
    let best = &order[..order.len().min(PARENTS)];
    let least = done[*best.last()?].fitness();
    let weights: Vec<f64> = best.iter().map(|index| done[*index].fitness() - least + 1e-6).collect();
    let mut wanted = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (index, weight) in best.iter().zip(&weights) {
        if wanted < *weight {
            return Some(&done[*index]);
        }
        wanted -= weight;
    }
    // Rounding has left a little.
    done.get(*best.last()?)
}

/// A factor for each gene; at least one of them changes something.
fn mutation(rng: &mut ChaCha8Rng) -> [f64; GENES.len()] {
    loop {
        let strength = rng.random::<f64>() * SIGMA;
        let factors = GENES.each_ref().map(|gene| {
            let mutates = rng.random::<f64>() < PROBABILITY;
            let change = if mutates {
                gene.gain * normal(rng) * strength
            } else {
                0.0
            };
            (1.0 + change).clamp(FACTORS[0], FACTORS[1])
        });
        if factors.iter().any(|factor| *factor != 1.0) {
            return factors;
        }
    }
}

/// A draw from the normal distribution (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Hyper-parameters by name, in the order of [`Hyp`].
///
/// # Errors
/// [`Error::Core`] where JSON can't hold a value; it can hold all of [`Hyp`]'s.
pub fn values(hyp: &Hyp) -> Result<Map<String, Value>> {
    match serde_json::to_value(hyp).map_err(yolo_core::Error::from)? {
        Value::Object(values) => Ok(values),
        other => Err(Error::Settings(format!("hyper-parameters are no mapping: {other}"))),
    }
}

/// Whether a mutation can change the value of this name.
pub fn mutates(key: &str) -> bool {
    GENES.iter().any(|gene| gene.key == key && gene.gain > 0.0)
}

/// Writes `evolve.csv`, all of it or nothing. Numbers are written so that they are read back as they were.
///
/// # Errors
/// [`Error::Io`] names the file or folder that can't be written; the old file stays then.
pub fn write(path: &Path, done: &[Generation]) -> Result<()> {
    let header = columns()?.join(",");
    let mut lines = Vec::with_capacity(done.len());
    for generation in done {
        let results = generation
            .metrics
            .iter()
            .chain(&generation.val_loss)
            .map(f64::to_string);
        let own = values(&generation.hyp)?;
        lines.push(
            results
                .chain(own.values().map(Value::to_string))
                .collect::<Vec<_>>()
                .join(","),
        );
    }
    crate::checkpoint::write_atomically(path, |file| {
        writeln!(file, "{header}")?;
        lines.iter().try_for_each(|line| writeln!(file, "{line}"))
    })
}

fn columns() -> Result<Vec<String>> {
    let own = values(&Hyp::default())?;
    Ok(RESULTS
        .iter()
        .map(|name| (*name).to_owned())
        .chain(own.into_iter().map(|(key, _)| key))
        .collect())
}

/// Reads `evolve.csv`; no generation if there is no file.
///
/// # Errors
/// Names file and line of what can't be understood.
pub fn read(path: &Path) -> Result<Vec<Generation>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read it"))?;
    let columns = columns()?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    if header != columns {
        return Err(Error::file(
            path,
            format!(
                "line 1: the columns of an evolution are expected: {}",
                columns.join(",")
            ),
        ));
    }
    let rows = lines.enumerate().filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(index, line)| {
        row(&columns, line).ok_or_else(|| {
            Error::file(
                path,
                format!("line {}: {} numbers are expected", index + 2, columns.len()),
            )
        })
    })
    .collect()
}

fn row(columns: &[String], line: &str) -> Option<Generation> {
    let numbers: Option<Vec<f64>> = line.split(',').map(|cell| cell.trim().parse().ok()).collect();
    let numbers = numbers.filter(|numbers| numbers.len() == columns.len())?;
    let (results, own) = numbers.split_at(RESULTS.len());
    let own = columns[RESULTS.len()..].iter().zip(own);
    let hyp: Map<String, Value> = own.map(|(key, value)| (key.clone(), (*value).into())).collect();
    Some(Generation {
        metrics: results[..4].try_into().ok()?,
        val_loss: results[4..].try_into().ok()?,
        hyp: serde_json::from_value(Value::Object(hyp)).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(map: f64, lr0: f64) -> Generation {
        Generation {
            metrics: [0.5, 0.25, map, map],
            val_loss: [0.1, 0.2, f64::NAN],
            hyp: Hyp { lr0, ..Hyp::default() },
        }
    }

    #[test]
    fn every_gene_is_a_hyper_parameter_and_all_but_two_of_these_are_genes() {
        let own = values(&Hyp::default()).unwrap();
        assert!(GENES.iter().all(|gene| own.contains_key(gene.key)));
        let rest: Vec<&String> = own
            .keys()
            .filter(|key| GENES.iter().all(|gene| gene.key != *key))
            .collect();
        assert_eq!(rest, ["anchors", "label_smoothing"]);
        assert!(mutates("lr0") && !mutates("fliplr") && !mutates("anchors"));
    }

    #[test]
    fn the_first_generation_is_the_start_within_bounds() {
        let start = Hyp {
            cls: 0.18,
            momentum: 0.99,
            label_smoothing: 0.1,
            ..Hyp::default()
        };
        let first = next(&start, &[], 3).unwrap();
        let expected = Hyp {
            cls: 0.2,
            momentum: 0.98,
            ..start
        };
        assert_eq!(first, expected);
    }

    #[test]
    fn later_ones_are_mutations_within_bounds_by_seed_and_generation() {
        let start = Hyp::default();
        let mut done = vec![generation(0.3, 0.01)];
        let mut seen = Vec::new();
        for _ in 0..60 {
            let hyp = next(&start, &done, 3).unwrap();
            assert_eq!(hyp, next(&start, &done, 3).unwrap());
            assert_ne!(hyp, next(&start, &done, 4).unwrap());
            let own = values(&hyp).unwrap();
            for gene in &GENES {
                let value = own[gene.key].as_f64().unwrap();
                assert!(
                    (gene.bounds[0]..=gene.bounds[1]).contains(&value),
                    "{} {value}",
                    gene.key
                );
            }
            assert_eq!(
                [hyp.fliplr, hyp.fl_gamma, hyp.iou_t, hyp.degrees],
                [0.5, 0.0, 0.2, 0.0],
                "no gain, or 0"
            );
            assert!(done.iter().all(|old| old.hyp != hyp), "each generation draws anew");
            seen.push(hyp.lr0);
            // All descend from the first.
            done.push(Generation {
                hyp,
                ..generation(0.0, 0.0)
            });
        }
        let same = seen.iter().filter(|lr0| **lr0 == 0.01).count();
        // A fifth stays: 12 of 60 with a standard deviation of 3.1.
        assert!((2..=22).contains(&same), "{same}");
        // A change is a product of a normal and a uniform draw, times 0.2.
        let spread = (seen.iter().map(|lr0| (lr0 / 0.01 - 1.0).powi(2)).sum::<f64>() / 60.0).sqrt();
        assert!(
            (0.06..0.16).contains(&spread),
            "{spread}, not about 0.2 * sqrt(0.8 / 3) = 0.103"
        );
    }

    #[test]
    fn parents_are_the_five_best_the_better_ones_more_often() {
        let maps = [0.1, 0.5, 0.2, 0.3, 0.45, 0.4, 0.05];
        let done: Vec<Generation> = maps.iter().map(|map| generation(*map, *map)).collect();
        assert_eq!(best(&done), Some(1));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 7];
        for _ in 0..1200 {
            let chosen = parent(&done, &mut rng).unwrap();
            counts[maps.iter().position(|map| *map == chosen.hyp.lr0).unwrap()] += 1;
        }
        // Over the fifth (0.2) they stand by 0.3, 0.25, 0.2 and 0.1 of 0.85.
        assert_eq!([counts[0], counts[6]], [0, 0]);
        assert!(counts[2] <= 3, "{counts:?}");
        for (index, share) in [(1, 0.3), (4, 0.25), (5, 0.2), (3, 0.1)] {
            let expected = 1200.0 * share / 0.85;
            assert!((f64::from(counts[index]) - expected).abs() < 70.0, "{counts:?}");
        }
    }

    #[test]
    fn tables_are_read_as_they_were_written_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evolve.csv");
        assert_eq!(read(&path).unwrap(), []);
        let done = vec![generation(0.1 + 0.2, 1e-5), generation(1.0 / 3.0, 0.01)];
        write(&path, &done).unwrap();
        let again = read(&path).unwrap();
        assert!(again.iter().all(|row| row.val_loss[2].is_nan()));
        let comparable =
            |rows: &[Generation]| -> Vec<_> { rows.iter().map(|row| (row.metrics, row.hyp.clone())).collect() };
        assert_eq!(comparable(&again), comparable(&done));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("metrics/precision,metrics/recall,metrics/mAP_0.5,metrics/mAP_0.5:0.95,val/box_loss,")
        );
        std::fs::write(&path, format!("{text}0.1,0.2\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("evolve.csv") && error.contains("line 4"), "{error}");
        std::fs::write(&path, "a,b\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
