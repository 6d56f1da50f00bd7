//! Data sets, their images and labels, and loaders for each purpose.

use std::path::Path;

use yolo_core::config::Located;
use yolo_data::{Dataset, Hyp, Loader, LoaderOptions, Policy, Samples, Split};

use yolo_engine::Checkpoint;
use yolo_engine::train::{Images, Sampling, TrainOptions};

use crate::error::{Error, Result};
use crate::{Session, files, memory};

/// Opens a data set.
///
/// # Errors
/// [`Error::Failed`] names a file that can't be read; [`Error::Usage`] has file and line of what describes no data set.
pub fn dataset(path: &Path) -> Result<Dataset> {
    Ok(Dataset::open(path)?)
}

/// Images and labels of a split; rows that can't be used are reported.
///
/// # Errors
/// [`Error::Failed`]: a split that the data set does not name, an entry that does not exist, a list or label file that can't be read,
/// class names under other numbers in a list beside the labels, a split without boxes. With `strict`, also the first image or row that
/// can't be used, with its file and line.
pub fn samples(session: Session<'_>, dataset: &Dataset, split: Split, strict: bool) -> Result<Samples> {
    let policy = if strict { Policy::Strict } else { Policy::Skip };
    let samples = dataset.samples(split, policy)?;
    let fatal = samples.problems.iter().filter(|p| p.fatal).count();
    for problem in samples.problems.iter().filter(|p| p.fatal).take(3) {
        session.say(format!("{problem}; the image is left out"));
    }
    if fatal > 3 {
        session.say(format!(
            "... and {} more errors whose images are left out (`yolo data check` lists them)",
            fatal - 3
        ));
    }
    notes(session, split, &samples);
    Ok(samples)
}

/// Kinds of notes that concern many pictures at once.
const IN_FULL: [&str; 9] = [
    "image-left-out",
    "image-listed-twice",
    "images-alike",
    "key-unused",
    "label-missing",
    "label-second",
    "names-differ",
    "names-unread",
    "path-missing",
];

/// Notes in a line or two: what concerns many pictures at once is said in full, the rest is counted.
fn notes(session: Session<'_>, split: Split, samples: &Samples) {
    let mut kinds: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for note in samples.problems.iter().filter(|p| !p.fatal) {
        if IN_FULL.contains(&note.kind) {
            session.say(format!("note: {note}"));
        } else {
            *kinds.entry(note.kind).or_default() += 1;
        }
    }
    if !kinds.is_empty() {
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        session.say(format!(
            "note: {}: {} (`yolo data check` has each)",
            split.name(),
            kinds.join(", ")
        ));
    }
}

/// A model and a data set must agree on the number of classes.
///
/// # Errors
/// [`Error::Usage`] has both files and their numbers of classes.
pub fn same_classes(
    session: Session<'_>,
    weights: &Path,
    model: &yolo_engine::Checkpoint,
    data: &Path,
    dataset: &Dataset,
) -> Result {
    let classes = model.graph.head.as_ref().map_or(0, |head| head.classes as usize);
    if classes == dataset.names.len() {
        other_names(session, weights, &model.meta.names, data, &dataset.names);
        return Ok(());
    }
    Err(Error::Usage(format!(
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
pub fn other_names(session: Session<'_>, weights: &Path, model: &[String], data: &Path, dataset: &[String]) {
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
    session.say(format!(
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

/// How images come in batches.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    /// Side of the images in pixels.
    pub size: usize,
    /// Images per batch.
    pub batch: usize,
    /// Threads that read them.
    pub workers: usize,
}

/// A loader that augments and shuffles, for training `model`.
///
/// # Errors
/// Those of [`samples`], with `strict`; [`Error::Usage`] for a batch of 0 and a size that is no multiple of the model's stride.
pub fn train_loader(
    session: Session<'_>,
    dataset: &Dataset,
    model: &Checkpoint,
    Batching { size, batch, workers }: Batching,
    hyp: &Hyp,
    seed: u64,
) -> Result<Loader> {
    let options = LoaderOptions {
        workers,
        stride: stride(model),
        ..LoaderOptions::train(size, batch, hyp.clone(), seed)
    };
    Ok(Loader::new(
        samples(session, dataset, Split::Train, true)?.items,
        options,
    )?)
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
fn all_in_memory(session: Session<'_>, samples: &[yolo_data::Sample], size: usize) -> usize {
    let bytes = |sample: &yolo_data::Sample| {
        let [w, h] = sample.size.map(|side| side as f64);
        (3.0 * w * h * (size as f64 / w.max(h)).powi(2)) as usize
    };
    // Rounding of sides, and a little more.
    let needed = samples.iter().map(bytes).sum::<usize>() / 50 * 51 + (1 << 20);
    // A tenth is left to everybody else, as in YOLOv5.
    let there = memory::available().map_or(usize::MAX, |bytes| bytes as usize / 10 * 9);
    if needed > there {
        let gb = |bytes: usize| bytes as f64 / 1e9;
        session.say(format!(
            "--cache ram: {:.1} GB are needed and {:.1} GB are free: what fits is kept",
            gb(needed),
            gb(there)
        ));
    }
    needed.min(there)
}

/// The loader of a training: as [`train_loader`], unless the images go by their shape.
///
/// # Errors
/// Those of [`train_loader`].
pub fn loader_of(
    session: Session<'_>,
    dataset: &Dataset,
    training: &TrainOptions,
    model: &Checkpoint,
    workers: usize,
    cache: Option<(Cache, &Path)>,
) -> Result<Loader> {
    let o = training;
    let samples = samples(session, dataset, Split::Train, true)?.items;
    let usual = LoaderOptions::train(o.size, o.batch, o.hyp.clone(), o.seed);
    let options = LoaderOptions {
        cache_bytes: match cache {
            Some((Cache::Ram, _)) => all_in_memory(session, &samples, o.size),
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
    Ok(Loader::new(samples, options)?)
}

/// Sizes of batches are multiples of it.
fn stride(model: &Checkpoint) -> usize {
    usize::try_from(model.max_stride()).unwrap_or(1).max(1)
}

/// A loader for measuring `model` on a split.
///
/// # Errors
/// Those of [`samples`], without `strict`; [`Error::Usage`] for a batch of 0 and a size that is no multiple of the model's stride.
pub fn val_loader(
    session: Session<'_>,
    dataset: &Dataset,
    split: Split,
    model: &Checkpoint,
    Batching { size, batch, workers }: Batching,
    keep: bool,
) -> Result<Loader> {
    let samples = samples(session, dataset, split, false)?;
    let cache_bytes = if keep { 1 << 30 } else { 0 };
    let options = LoaderOptions {
        workers,
        cache_bytes,
        stride: stride(model),
        ..LoaderOptions::val(size, batch)
    };
    Ok(Loader::new(samples.items, options)?)
}

/// Up to `count` training images, evenly spread over the split, as validation sees them: for calibration and for comparing
/// candidates. Squares, so that every batch looks alike.
///
/// # Errors
/// Those of [`val_loader`], for the training images.
pub fn calib_loader(
    session: Session<'_>,
    dataset: &Dataset,
    model: &Checkpoint,
    batching: Batching,
    count: usize,
) -> Result<Loader> {
    let all = samples(session, dataset, Split::Train, false)?.items;
    still(model, batching, &all, count)
}

/// Up to `count` images to compare candidates on: of those that are held out, where there are any, else as [`calib_loader`].
///
/// # Errors
/// Those of [`val_loader`], for the training images.
pub fn select_loader(
    session: Session<'_>,
    dataset: &Dataset,
    model: &Checkpoint,
    batching: Batching,
    count: usize,
) -> Result<Loader> {
    if dataset.held_out() == 0 {
        return calib_loader(session, dataset, model, batching, count);
    }
    let fitted = dataset.samples(Split::Train, Policy::Skip)?.items;
    if let Some(there) = fitted_to(model)
        && there.files != Images::of(&fitted).files
    {
        session.say(format!(
            "note: these weights were trained on {} images, which are not the {} of `train` that --hold-out {} leaves: what candidates \
             are compared on may have been learned; train with the same --hold-out",
            there.images,
            fitted.len(),
            dataset.held_out()
        ));
    }
    still(model, batching, &dataset.held(Policy::Skip)?.items, count)
}

/// The images of the last training of these weights, where they say.
fn fitted_to(model: &Checkpoint) -> Option<Images> {
    let last = model.meta.history.iter().rfind(|entry| entry.kind == "train")?;
    serde_json::from_value(last.settings.get("images")?.clone()).ok()
}

/// Evenly spread ones of these images, as validation sees them, as squares.
fn still(
    model: &Checkpoint,
    Batching { size, batch, workers }: Batching,
    all: &[yolo_data::Sample],
    count: usize,
) -> Result<Loader> {
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
    Ok(Loader::new(picked, options)?)
}

/// Hyper-parameters: the defaults, a file (its name), or options on top of the defaults.
///
/// # Errors
/// A file that can't be read, an unknown name, a value out of its range.
pub fn hyp(written: Option<&serde_json::Value>) -> Result<Hyp> {
    sensible(&located_hyp(written)?)
}

/// As [`hyp`], before it is read: for options on top.
///
/// # Errors
/// [`Error::Failed`] names a file that can't be read; [`Error::Usage`] has file and line of what is no YAML.
pub fn located_hyp(written: Option<&serde_json::Value>) -> Result<Located> {
    let mut located = match written {
        Some(serde_json::Value::String(file)) => Located::parse(file, &files::read_text(Path::new(file))?)?,
        Some(options) => Located::from_value("hyp", options.clone()),
        None => Located::from_value("hyp", serde_json::json!({})),
    };
    if located.value.is_null() {
        located.value = serde_json::json!({});
    }
    Ok(located)
}

/// Hyper-parameters that stand at `place` of a file, with their lines in what is said of them.
///
/// # Errors
/// Those of [`sensible`].
pub fn sensible_at(located: &Located, place: &str) -> Result<Hyp> {
    let hyp: Hyp = located.read_at(place)?;
    match hyp.misfit() {
        Some((key, text)) => {
            let at = if place.is_empty() {
                key.to_owned()
            } else {
                format!("{place}.{key}")
            };
            Err(located.value_error(&at, &format!("{key}: {text}"), None).into())
        }
        None => Ok(hyp),
    }
}

/// Hyper-parameters whose values are in their ranges.
///
/// # Errors
/// [`Error::Usage`] has the place of an unknown name, a value of another type, or one out of its range.
pub fn sensible(located: &Located) -> Result<Hyp> {
    sensible_at(located, "")
}
