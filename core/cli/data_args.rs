//! Options of commands that read a data set, and what they have in common.

use std::path::{Path, PathBuf};

use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Samples, Split};

use yolo_engine::Checkpoint;
use yolo_engine::train::{Sampling, TrainOptions};

use crate::error::{CliError, CliResult, io_error};
use crate::{settings, ui};

/// A data error as a failed command.
pub fn failed(error: yolo_data::Error) -> CliError {
    match error {
        yolo_data::Error::Config(error) => error.into(),
        yolo_data::Error::Settings(text) => CliError::Usage(text),
        yolo_data::Error::Stopped => CliError::Interrupted("stopped".into()),
        other => CliError::Failed(other.to_string()),
    }
}

/// Opens a data set.
pub fn dataset(path: &Path) -> CliResult<Dataset> {
    Dataset::open(path).map_err(failed)
}

/// Images and labels of a split; rows that can't be used are reported.
pub fn samples(dataset: &Dataset, split: Split, strict: bool) -> CliResult<Samples> {
    let policy = if strict { Policy::Strict } else { Policy::Skip };
    let samples = dataset.samples(split, policy).map_err(failed)?;
    let fatal = samples.problems.iter().filter(|p| p.fatal).count();
    for problem in samples.problems.iter().filter(|p| p.fatal).take(3) {
        ui::say(format!("{problem}; the image is left out"));
    }
    if fatal > 3 {
        ui::say(format!(
            "... and {} more errors whose images are left out (`yolo data check` lists them)",
            fatal - 3
        ));
    }
    notes(split, &samples);
    Ok(samples)
}

/// Notes in a line or two: what concerns many pictures at once is said in full, the rest is counted.
fn notes(split: Split, samples: &Samples) {
    let mut kinds: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for note in samples.problems.iter().filter(|p| !p.fatal) {
        if ["image-left-out", "label-missing", "path-missing"].contains(&note.kind) {
            ui::say(format!("note: {note}"));
        } else {
            *kinds.entry(note.kind).or_default() += 1;
        }
    }
    if !kinds.is_empty() {
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        ui::say(format!(
            "note: {}: {} (`yolo data check` has each)",
            split.name(),
            kinds.join(", ")
        ));
    }
}

/// A model and a data set must agree on the number of classes.
pub fn same_classes(weights: &Path, model: &yolo_engine::Checkpoint, data: &Path, dataset: &Dataset) -> CliResult {
    let classes = model.graph.head.as_ref().map_or(0, |head| head.classes as usize);
    if classes == dataset.names.len() {
        other_names(weights, &model.meta.names, data, &dataset.names);
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{} has {classes} classes, {} has {}: they don't belong together\n  help: train it on this data first: `yolo train \
         --weights {} --data {} --epochs N`",
        weights.display(),
        data.display(),
        dataset.names.len(),
        weights.display(),
        data.display(),
    )))
}

/// Says where a model and a data set call a class differently: boxes are compared by number.
pub fn other_names(weights: &Path, model: &[String], data: &Path, dataset: &[String]) {
    let same = |a: &str, b: &str| a.trim().eq_ignore_ascii_case(b.trim());
    let differ = |(_, (own, other)): &(usize, (&String, &String))| !same(own, other);
    let Some((class, (own, other))) = model.iter().zip(dataset).enumerate().find(differ) else {
        return;
    };
    // Numbers stand for names that nobody gave.
    if *own == class.to_string() || *other == class.to_string() {
        return;
    }
    let moved = model.iter().all(|name| dataset.iter().any(|other| same(name, other)));
    ui::say(format!(
        "warning: class {class} is `{own}` in {} and `{other}` in {}: {}classes are compared by number",
        weights.display(),
        data.display(),
        if moved {
            "the same names stand in another order, and "
        } else {
            ""
        }
    ));
}

/// A loader that augments and shuffles, for training `model`.
pub fn train_loader(
    dataset: &Dataset,
    model: &Checkpoint,
    size: usize,
    batch: usize,
    hyp: &Hyp,
    seed: u64,
    workers: usize,
) -> CliResult<Loader> {
    let options = LoaderOptions {
        workers,
        stride: stride(model),
        ..LoaderOptions::train(size, batch, hyp.clone(), seed)
    };
    Loader::new(samples(dataset, Split::Train, true)?.items, options).map_err(failed)
}

/// Where `--cache` keeps decoded images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In memory.
    Ram,
    /// In a folder of the run.
    Disk,
}

/// Bytes of memory that keep all `samples` at this size; what fits where that is more than there is, which is said.
fn all_in_memory(samples: &[yolo_data::Sample], size: usize) -> usize {
    let bytes = |sample: &yolo_data::Sample| {
        let [w, h] = sample.size.map(|side| side as f64);
        (3.0 * w * h * (size as f64 / w.max(h)).powi(2)) as usize
    };
    // Rounding of sides, and a little more.
    let needed = samples.iter().map(bytes).sum::<usize>() / 50 * 51 + (1 << 20);
    // A tenth is left to everybody else, as in YOLOv5.
    let there = settings::available_memory().map_or(usize::MAX, |bytes| bytes as usize / 10 * 9);
    if needed > there {
        let gb = |bytes: usize| bytes as f64 / 1e9;
        ui::say(format!(
            "--cache ram: {:.1} GB are needed and {:.1} GB are free: what fits is kept",
            gb(needed),
            gb(there)
        ));
    }
    needed.min(there)
}

/// The loader of a training: as [`train_loader`], unless the images go by their shape.
pub fn loader_of(
    dataset: &Dataset,
    training: &TrainOptions,
    model: &Checkpoint,
    workers: usize,
    cache: Option<(Cache, &Path)>,
) -> CliResult<Loader> {
    let o = training;
    let samples = samples(dataset, Split::Train, true)?.items;
    let usual = LoaderOptions::train(o.size, o.batch, o.hyp.clone(), o.seed);
    let options = LoaderOptions {
        cache_bytes: match cache {
            Some((Cache::Ram, _)) => all_in_memory(&samples, o.size),
            _ => usual.cache_bytes,
        },
        cache_folder: match cache {
            Some((Cache::Disk, folder)) => Some(folder.to_owned()),
            _ => None,
        },
        workers,
        rect: o.sampling == Sampling::Rect,
        stride: stride(model),
        ..usual
    };
    Loader::new(samples, options).map_err(failed)
}

/// Sizes of batches are multiples of it.
fn stride(model: &Checkpoint) -> usize {
    usize::try_from(model.max_stride()).unwrap_or(1).max(1)
}

/// A loader for measuring `model` on a split.
pub fn val_loader(
    dataset: &Dataset,
    split: Split,
    model: &Checkpoint,
    size: usize,
    batch: usize,
    workers: usize,
    keep: bool,
) -> CliResult<Loader> {
    let samples = samples(dataset, split, false)?;
    let cache_bytes = if keep { 1 << 30 } else { 0 };
    let options = LoaderOptions {
        workers,
        cache_bytes,
        stride: stride(model),
        ..LoaderOptions::val(size, batch)
    };
    Loader::new(samples.items, options).map_err(failed)
}

/// Up to `count` training images, evenly spread over the split, as validation sees them: for calibration and for comparing
/// candidates. Squares, so that every batch looks alike.
pub fn calib_loader(
    dataset: &Dataset,
    model: &Checkpoint,
    size: usize,
    batch: usize,
    count: usize,
    workers: usize,
) -> CliResult<Loader> {
    let all = samples(dataset, Split::Train, false)?.items;
    let count = count.clamp(1, all.len().max(1));
    let picked = (0..count)
        .filter_map(|i| all.get(i * all.len() / count).cloned())
        .collect();
    let options = LoaderOptions {
        workers,
        rect: false,
        pad: 0.0,
        stride: stride(model),
        ..LoaderOptions::val(size, batch)
    };
    Loader::new(picked, options).map_err(failed)
}

/// Hyper-parameters from a file, with overrides on top.
pub fn hyp(file: Option<&PathBuf>, overrides: &[&serde_json::Value]) -> CliResult<Hyp> {
    let mut located = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| io_error("can't read", path, &e))?;
            yolo_core::config::Located::parse(&path.display().to_string(), &text)?
        }
        None => yolo_core::config::Located::from_value("hyp", serde_json::json!({})),
    };
    for over in overrides {
        yolo_core::config::merge(&mut located.value, (*over).clone());
    }
    if located.value.is_null() {
        return Ok(Hyp::default());
    }
    sensible(&located)
}

/// Hyper-parameters whose values are in their ranges.
pub fn sensible(located: &yolo_core::config::Located) -> CliResult<Hyp> {
    let hyp: Hyp = located.read()?;
    match hyp.misfit() {
        Some((key, text)) => Err(located.value_error(key, &format!("{key}: {text}"), None).into()),
        None => Ok(hyp),
    }
}
