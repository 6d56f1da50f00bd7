//! `yolo compress`: the main job. Runs the stages of a recipe, each cached by content and resumable, and ends with one table.

mod cache;
mod deploy;
mod recipe;
mod stages;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use yolo_data::Split;

use crate::device::{AmpArgs, Compute, DeviceArgs};
use crate::error::{CliError, CliResult, io_error};
use crate::{data_args, load, ui};
use cache::Record;
use recipe::Recipe;
use stages::Context;

/// Train, prune, quantize, export and measure a detector by one recipe
///
/// Finished stages are kept as long as the recipe, the data and the stages before them stay the same; a stage that was interrupted
/// continues with --resume.
///
/// Example: yolo compress configs/recipes/demo.yaml --resume
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CompressArgs {
    /// Recipe (YAML)
    recipe: PathBuf,
    /// Continue the stage that was interrupted, instead of starting it over
    #[arg(long)]
    resume: bool,
    /// Run every stage anew
    #[arg(long, conflicts_with = "resume")]
    fresh: bool,
    /// Override a value of the recipe, `data=my.yaml`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &CompressArgs) -> CliResult {
    let recipe = Recipe::read(&args.recipe, &args.set)?;
    let dataset = data_args::dataset(&recipe.data)?;
    let folder = recipe.folder();
    let common = common_part(&recipe, &dataset)?;
    let hyp = recipe.hyp()?;
    let device = args.device.one()?;
    let precision = args.amp.on(device)?;
    let mut context = Context::new(&recipe, &dataset, hyp, Compute { device, precision });
    context.check()?;
    std::fs::create_dir_all(&folder).map_err(|error| io_error("can't make the folder", &folder, &error))?;
    let mut records: Vec<(Record, bool)> = Vec::new();
    let mut key = String::new();
    ui::say(format!(
        "recipe {}: {} stages, results in {}",
        recipe.name,
        recipe.stages.len(),
        folder.display()
    ));
    for (index, stage) in recipe.stages.iter().enumerate() {
        let name = format!("{}-{}", index + 1, stage.kind());
        key = cache::stage_key(&key, &serde_json::to_value(stage)?, &common);
        let place = folder.join(&name);
        if let Some(record) = cache::load_record(&place, &key).filter(|_| !args.fresh) {
            ui::say(format!("[{}/{}] {name}: done before", index + 1, recipe.stages.len()));
            context.follow(&record);
            records.push((record, true));
            continue;
        }
        ui::say(format!("[{}/{}] {name}", index + 1, recipe.stages.len()));
        let resume = cache::open_stage(&place, &key, args.resume)?;
        let start = Instant::now();
        let mut record = context
            .run(stage, &name, &place, resume, &records)
            .map_err(|error| explain(error, &name))?;
        record.key.clone_from(&key);
        record.name.clone_from(&name);
        record.kind = stage.kind().to_owned();
        record.seconds = start.elapsed().as_secs_f64();
        cache::store_record(&place, &record)?;
        context.follow(&record);
        records.push((record, false));
    }
    let pictures = context.pictures(&folder)?;
    let rows = table::rows(&records);
    table::write(&folder, &rows)?;
    if args.json {
        return ui::print_json(&json!({
            "recipe": recipe.name, "folder": folder, "stages": rows, "pictures": pictures,
        }));
    }
    println!("{}", table::terminal(&rows));
    for line in table::notes(&records) {
        println!("{line}");
    }
    println!(
        "table: {}\npictures: {}",
        folder.join("results.md").display(),
        pictures.display()
    );
    Ok(())
}

/// Names the stage in what is told when it stops.
fn explain(error: CliError, stage: &str) -> CliError {
    match error {
        CliError::Interrupted(_) => CliError::Interrupted(format!(
            "stopped in stage {stage}; what is finished is kept: run the same command with --resume"
        )),
        CliError::Failed(text) => {
            let help = if text.contains("\n  help:") {
                ""
            } else {
                "\n  help: what is finished is kept: run the same command with --resume when the cause is gone"
            };
            CliError::Failed(format!("stage {stage}: {text}{help}"))
        }
        CliError::Usage(text) => CliError::Usage(format!("stage {stage}: {text}")),
        said @ CliError::Said(_) => said,
    }
}

/// What all stages depend on: settings, the model's description, the weights and the data.
fn common_part(recipe: &Recipe, dataset: &yolo_data::Dataset) -> CliResult<Value> {
    let mut files = Vec::new();
    for split in [Split::Train, Split::Val] {
        let samples = data_args::samples(dataset, split, false)?;
        files.extend(
            samples
                .items
                .into_iter()
                .flat_map(|sample| [sample.image, sample.label]),
        );
    }
    let config = recipe
        .cfg
        .as_deref()
        .map(load::config)
        .transpose()?
        .map(|config| config.value);
    let weights = recipe.weights.as_deref().map(cache::file_hash).transpose()?;
    Ok(json!({
        "img": recipe.img, "batch": recipe.batch_size, "nominal": recipe.nominal_batch, "seed": recipe.seed, "hyp": recipe.hyp, "config": config,
        "weights": weights, "names": dataset.names, "data": cache::listing_hash(files.iter().map(PathBuf::as_path)),
    }))
}
