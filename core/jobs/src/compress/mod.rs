//! The main job: the stages of a recipe one after another, each cached by content and resumable, with one table at the end.

mod cache;
mod deploy;
mod recipe;
mod stages;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use yolo_data::{Dataset, Policy, Split};

use crate::error::{Error, Result, io_error};
use crate::{Compute, Session, files, open};
use cache::Record;
use stages::Context;

pub use recipe::{Recipe, Stage};
pub(crate) use table::cells;
pub use table::{StageRow, Status, terminal};

/// What becomes of what an earlier run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Finished stages are kept, one that was interrupted starts over.
    #[default]
    Keep,
    /// Finished stages are kept, one that was interrupted goes on.
    Resume,
    /// Every stage runs anew.
    Fresh,
}

/// What a recipe left.
#[derive(Debug)]
pub struct Compressed {
    /// Everything is in there.
    pub folder: PathBuf,
    /// One row per stage.
    pub rows: Vec<StageRow>,
    /// What a person wants to know besides the numbers: how much went, how much stayed, whether files agree.
    pub notes: Vec<String>,
    /// Folder with pictures of what the last model finds.
    pub pictures: PathBuf,
}

/// Runs the stages of a recipe. Everything that it names is read before the first of them works.
///
/// # Errors
/// What can't be read; what ended a stage, with the stage's name and the way to go on. Finished stages are kept.
pub fn run(session: Session<'_>, recipe: &Recipe, mode: Mode, compute: Compute) -> Result<Compressed> {
    let mut dataset = open::dataset(&recipe.data)?;
    if recipe.single_cls {
        dataset.merge_classes();
    }
    dataset.hold_out(recipe.hold_out);
    let folder = recipe.folder();
    let has_test = has_test(session, &dataset);
    let common = common_part(session, recipe, &dataset, has_test)?;
    let mut context = Context::new(session, recipe, &dataset, compute, has_test);
    context.check()?;
    std::fs::create_dir_all(&folder).map_err(|error| io_error("can't make the folder", &folder, &error))?;
    // Held until the end.
    let _lock = files::lock(&folder)?;
    let mut records: Vec<(Record, bool)> = Vec::new();
    let mut key = String::new();
    let count = recipe.stages.len();
    session.say(format!(
        "recipe {}: {count} stages, results in {}",
        recipe.name,
        folder.display()
    ));
    recipe.remarks.iter().for_each(|remark| session.say(remark));
    for left in cache::left_behind(&folder, recipe.stages.len()) {
        session.say(format!(
            "note: {} is of no stage of this recipe: it stays, and nothing in the table is from there",
            left.display()
        ));
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        let name = format!("{}-{}", index + 1, stage.kind());
        let mut own = stage.key()?;
        let code = cache::code_of(session, &own)?;
        if !code.is_empty() {
            own["code"] = json!(code);
        }
        let further = recipe.further_epochs(&records);
        if further > 0 {
            own["further-epochs"] = json!(further);
        }
        key = cache::stage_key(&key, &own, &common);
        let place = folder.join(&name);
        let before = cache::load_record(&place, &key).filter(|_| mode != Mode::Fresh);
        let changed = before.as_ref().and_then(|record| record.changed(&place));
        let models = cache::models_of(records.iter().map(|(record, _)| record));
        let stale = before.as_ref().is_some_and(|record| record.is_stale(&models));
        let before = before.filter(|_| changed.is_none() && !stale);
        if let Some(file) = changed {
            session.say(format!(
                "{}: this is not the file that {name} has left: the stage runs anew",
                file.display()
            ));
        } else if stale {
            session.say(format!(
                "{}: it was made from another model than the one that the stages before have left now: the stage runs anew",
                place.display()
            ));
        }
        if let Some(record) = before {
            session.say(format!("[{}/{count}] {name}: done before", index + 1));
            context.follow(&record);
            records.push((record, true));
            continue;
        }
        session.say(format!("[{}/{count}] {name}", index + 1));
        if mode != Mode::Fresh && cache::is_of_others(&place, &key) {
            session.say(format!(
                "{}: what other settings, data or another recipe left there is replaced",
                place.display()
            ));
        }
        let opened = cache::open_stage(&place, &key, &models, mode == Mode::Resume && !stale)?;
        let start = Instant::now();
        let made = context.run(stage, &name, &place, opened.resume, &records);
        if made.is_err() {
            // What ended the stage is what is reported.
            match opened.failed() {
                Ok(None) => {}
                Ok(Some(aside)) => session.say(format!(
                    "note: {name} has begun to work; what it would have replaced is kept in {}",
                    aside.display()
                )),
                Err(error) => session.say(format!("warning: {error}")),
            }
        }
        let mut record = made.map_err(|error| explain(error, &name))?;
        record.from = Some(models);
        record.key.clone_from(&key);
        record.name.clone_from(&name);
        record.kind = stage.kind().to_owned();
        record.seconds = start.elapsed().as_secs_f64();
        record.seal(&place)?;
        cache::store_record(&place, &record)?;
        opened.done()?;
        context.follow(&record);
        records.push((record, false));
    }
    let pictures = context.pictures(&folder)?;
    let rows = table::rows(&records);
    let mut notes = table::notes(&records);
    notes.extend(other_sizes(recipe)?);
    table::write(&folder, &rows, &notes)?;
    Ok(Compressed {
        folder,
        rows,
        notes,
        pictures,
    })
}

/// What stages with an image size of their own make of the table.
fn other_sizes(recipe: &Recipe) -> Result<Option<String>> {
    let own: Vec<String> = recipe
        .stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            Ok((
                format!("{}-{}", index + 1, stage.kind()),
                stage.key()?[stage.kind()]["img"].take(),
            ))
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|(_, img)| !img.is_null() && !is_size(img, recipe.img))
        .map(|(name, img)| format!("{name} ({img})"))
        .collect();
    Ok((!own.is_empty()).then(|| {
        format!(
            "compare with care: {} have an image size of their own; all models are measured at {} px, files and FPS at the size of their stage",
            own.join(", "),
            recipe.img
        )
    }))
}

/// Whether the `img` of a stage, a number or a list, is `size` alone.
fn is_size(img: &Value, size: i64) -> bool {
    match img {
        Value::Array(sides) => sides.is_empty() || sides.iter().all(|side| is_size(side, size)),
        other => other.as_i64() == Some(size),
    }
}

/// Whether there are test images; a split that can't be read is said, and does without.
fn has_test(session: Session<'_>, dataset: &Dataset) -> bool {
    dataset.has(Split::Test)
        && dataset
            .images(Split::Test)
            .map_err(|error| session.say(format!("note: without test images: {error}")))
            .is_ok_and(|images| !images.is_empty())
}

/// Names the stage in what is told when it stops.
fn explain(error: Error, stage: &str) -> Error {
    match error {
        Error::Interrupted(_) => Error::Interrupted(format!(
            "stopped in stage {stage}; what is finished is kept: run the same command with --resume"
        )),
        Error::Failed(text) => {
            let help = if text.contains("\n  help:") {
                ""
            } else {
                "\n  help: what is finished is kept: run the same command with --resume when the cause is gone"
            };
            Error::Failed(format!("stage {stage}: {text}{help}"))
        }
        Error::Usage(text) => Error::Usage(format!("stage {stage}: {text}")),
    }
}

/// What all stages depend on besides their own settings: the model's description, the weights and the data.
fn common_part(session: Session<'_>, recipe: &Recipe, dataset: &Dataset, has_test: bool) -> Result<Value> {
    let mut files = Vec::new();
    for split in [Split::Train, Split::Val]
        .into_iter()
        .chain(has_test.then_some(Split::Test))
    {
        let samples = open::samples(session, dataset, split, false)?;
        files.extend(
            samples
                .items
                .into_iter()
                .flat_map(|sample| [sample.image, sample.label]),
        );
    }
    if dataset.held_out() > 0 {
        let held = dataset.held(Policy::Skip)?.items;
        files.extend(held.into_iter().flat_map(|sample| [sample.image, sample.label]));
    }
    // The network itself: what a configuration extends counts, too.
    let network = match recipe.cfg.as_deref() {
        Some(cfg) => {
            let graph = open::graph_with(session, cfg, Some(dataset.names.len() as i64), &recipe.set)?;
            Some(serde_json::to_value(&graph)?)
        }
        None => None,
    };
    let weights = recipe.weights.as_deref().map(files::hash).transpose()?;
    Ok(json!({
        "img": recipe.img, "network": network, "weights": weights, "names": dataset.names,
        "data": cache::listing_hash(files.iter().map(PathBuf::as_path)), "hold-out": recipe.hold_out,
    }))
}
