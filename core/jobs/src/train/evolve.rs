//! `yolo train --evolve`: trainings one after another, each with hyper-parameters that descend from the best so far.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yolo_data::{Loader, Split};
use yolo_engine::train::evolve::{self, Generation};
use yolo_engine::train::{EpochRow, Fingerprint, TrainOptions, changed_settings};
use yolo_report::{Panel, save_picture, save_text, scatter_panels};

use super::{Job, remember};
use crate::error::{Error, Result};
use crate::{files, open};

/// Results and hyper-parameters of all generations.
const TABLE: &str = "evolve.csv";
/// The best hyper-parameters.
const BEST: &str = "hyp_evolve.yaml";
/// Fitness over each of them.
const PICTURE: &str = "evolve.png";
/// What the evolution was started with.
const START: &str = "evolve.json";

/// Settings and data that all generations share.
#[derive(Serialize, Deserialize)]
struct Start {
    settings: Value,
    fingerprint: Fingerprint,
}

/// What an evolution left.
#[derive(Debug)]
pub struct Evolved {
    /// All generations.
    pub generations: Vec<Generation>,
    /// The best of them.
    pub best: usize,
    /// Its values, as a file for `--hyp`.
    pub hyp: PathBuf,
}

/// Trainings one after another.
pub(super) struct Evolution<'a> {
    /// The training that all have in common; its `resume` says whether one that was begun goes on.
    pub job: &'a Job<'a>,
    /// How many.
    pub generations: usize,
    /// The penalty to train under.
    pub sparsify: Option<&'a Value>,
    /// Draw fitness over values.
    pub plots: bool,
    /// What is written beside the results.
    pub remember: &'a Value,
}

impl Evolution<'_> {
    /// Trains the generations that are missing in the table of the job's folder.
    pub(super) fn run(&self) -> Result<Evolved> {
        let (job, generations, session) = (self.job, self.generations, self.job.session);
        let table = job.folder.join(TABLE);
        let mut done = evolve::read(&table)?;
        if !job.resume && !done.is_empty() {
            return Err(Error::Usage(format!(
                "{} has {} generations already\n  help: go on with `yolo train --resume {}`, or give another --name",
                table.display(),
                done.len(),
                job.folder.display()
            )));
        }
        let options = TrainOptions {
            // Only the last epoch counts.
            val_every: job.options.epochs,
            patience: 0,
            save_period: 0,
            ..job.options.clone()
        };
        let val = open::val_loader(
            session,
            job.dataset,
            Split::Val,
            &job.start,
            open::Batching {
                size: options.size,
                batch: options.batch,
                workers: job.workers,
            },
            true,
        )?;
        let cache = job.cache.map(|cache| (cache, job.folder.as_path()));
        let loader =
            |options: &TrainOptions| open::loader_of(session, job.dataset, options, &job.start, job.workers, cache);
        let mut train = loader(&options)?;
        begin(job, &options, &train, &val)?;
        remember(&job.folder, self.remember)?;
        while done.len() < generations {
            let hyp = evolve::next(&options.hyp, &done, options.seed)?;
            let options = TrainOptions { hyp, ..options.clone() };
            if options.hyp != job.options.hyp || !done.is_empty() {
                train = loader(&options)?;
            }
            let label = format!("generation {}/{generations}", done.len() + 1);
            done.push(generation(job, options, (&train, &val), &label, self.sparsify)?);
            evolve::write(&table, &done)?;
            summary(&job.folder, &done, self.plots)?;
            let last = done.len() - 1;
            let star = if evolve::best(&done) == Some(last) { "  *" } else { "" };
            let [_, _, map50, map] = done[last].metrics;
            session.say(format!("{label}: mAP50 {map50:.4}  mAP {map:.4}{star}"));
        }
        // A kill may have come between the table and what is drawn from it.
        summary(&job.folder, &done, self.plots)?;
        let best = evolve::best(&done).ok_or_else(|| Error::Usage("--evolve needs at least 1 generation".into()))?;
        Ok(Evolved {
            generations: done,
            best,
            hyp: job.folder.join(BEST),
        })
    }
}

/// Remembers what the evolution starts with, or compares with what is remembered.
fn begin(job: &Job<'_>, options: &TrainOptions, train: &Loader, val: &Loader) -> Result {
    let fingerprint = Fingerprint::of(train, Some(val), &job.dataset.names, &job.start.params)?;
    let here = Start {
        settings: serde_json::to_value(options)?,
        fingerprint,
    };
    let path = job.folder.join(START);
    if job.resume && path.is_file() {
        let text = files::read_text(&path)?;
        let there: Start = serde_json::from_str(&text)
            .map_err(|error| Error::Failed(format!("{}: {error}; start a new evolution", path.display())))?;
        let mut changed = changed_settings(&here.settings, &there.settings);
        changed.extend(here.fingerprint.differences(&there.fingerprint));
        if !changed.is_empty() {
            return Err(Error::Usage(format!(
                "{}: the evolution there was started otherwise: {}\n  help: give it what it was started with, or start a new one from its \
                 best values: `--hyp {}`",
                job.folder.display(),
                changed.join("; "),
                job.folder.join(BEST).display()
            )));
        }
        return Ok(());
    }
    let text = serde_json::to_string_pretty(&here)?;
    files::write(&path, text.as_bytes())
}

/// Trains with `options`; writes nothing.
fn generation(
    job: &Job<'_>,
    options: TrainOptions,
    (train, val): (&Loader, &Loader),
    label: &str,
    sparsify: Option<&Value>,
) -> Result<Generation> {
    use yolo_engine::Error as Engine;
    let hyp = options.hyp.clone();
    let mut own = Job {
        session: job.session,
        start: job.start.deep_clone(),
        options,
        dataset: job.dataset,
        workers: job.workers,
        cache: job.cache,
        folder: job.folder.clone(),
        resume: false,
        began: SystemTime::now(),
    };
    let mut last = EpochRow::default();
    let result = own.attempt((train, val), label, sparsify, None, &mut |row| last = *row)?;
    let again = format!("`yolo train --resume {}`", job.folder.display());
    match result {
        Ok(_) => Ok(Generation {
            metrics: last.metrics.unwrap_or_default(),
            val_loss: last.val_loss.unwrap_or([f64::NAN; 3]),
            hyp,
        }),
        // Values that don't train are a result, too.
        Err(Engine::Diverged { .. }) => {
            job.session
                .say(format!("{label}: the loss is not finite with these values"));
            Ok(Generation {
                metrics: [0.0; 4],
                val_loss: [f64::NAN; 3],
                hyp,
            })
        }
        Err(Engine::Core(yolo_core::Error::Cancelled)) => Err(Error::Interrupted(format!(
            "stopped; every finished generation is kept, continue with {again}"
        ))),
        Err(other) => match Error::from(other) {
            Error::Failed(text) => Err(Error::Failed(format!(
                "{text}\n  help: every finished generation is kept: when the cause is gone, continue with {again}"
            ))),
            usage => Err(usage),
        },
    }
}

/// The best values as a file for `--hyp`, and the picture of all.
fn summary(folder: &Path, done: &[Generation], picture: bool) -> Result {
    let Some(best) = evolve::best(done) else { return Ok(()) };
    let path = folder.join(BEST);
    let text = best_as_yaml(done, best)?;
    save_text(&path, &text)?;
    if !picture {
        return Ok(());
    }
    let panels = panels(done, best)?;
    let sheet = scatter_panels(&panels, 5)?;
    Ok(save_picture(
        &folder.join(PICTURE),
        &sheet.data,
        sheet.width,
        sheet.height,
    )?)
}

fn best_as_yaml(done: &[Generation], best: usize) -> Result<String> {
    let [precision, recall, map50, map] = done[best].metrics;
    let mut text = format!(
        "# Best hyper-parameters of an evolution, for `yolo train --hyp`.\n# Generation {} of {} so far: fitness {:.5} \
         (precision {precision:.4}, recall {recall:.4}, mAP50 {map50:.4}, mAP {map:.4}).\n",
        best + 1,
        done.len(),
        done[best].fitness()
    );
    for (key, value) in evolve::values(&done[best].hyp)? {
        text.push_str(&format!("{key}: {value}\n"));
    }
    Ok(text)
}

/// Fitness over each value that mutates.
fn panels(done: &[Generation], best: usize) -> Result<Vec<Panel>> {
    let rows: Vec<_> =
        (done.iter().map(|generation| evolve::values(&generation.hyp))).collect::<std::result::Result<_, _>>()?;
    let keys = rows[best].keys().filter(|key| evolve::mutates(key));
    let number =
        |row: &serde_json::Map<String, Value>, key: &str| row.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
    Ok(keys
        .map(|key| Panel {
            title: format!("{key} = {}", number(&rows[best], key)),
            points: rows
                .iter()
                .zip(done)
                .map(|(row, own)| (number(row, key), own.fitness()))
                .collect(),
            best: Some(best),
        })
        .collect())
}
