//! `yolo compress`: the main job.

use std::path::PathBuf;

use serde_json::json;
use yolo_jobs::compress::{self, Mode, Recipe};
use yolo_jobs::compute::{self, AmpArgs, Compute, DeviceArgs};

use crate::error::CliResult;
use crate::ui;

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
    let device = args.device.one()?;
    let precision = compute::precision(args.amp.amp, device)?;
    let mode = match (args.resume, args.fresh) {
        (true, _) => Mode::Resume,
        (_, true) => Mode::Fresh,
        _ => Mode::Keep,
    };
    let result = compress::run(ui::session()?, &recipe, mode, Compute { device, precision })?;
    if args.json {
        return ui::print_json(&json!({
            "recipe": recipe.name, "folder": result.folder, "stages": result.rows, "notes": result.notes,
            "pictures": result.pictures,
        }));
    }
    println!("{}", compress::terminal(&result.rows));
    for line in &result.notes {
        println!("{line}");
    }
    println!(
        "table: {}\npictures: {}",
        result.folder.join("results.md").display(),
        result.pictures.display()
    );
    Ok(())
}
