//! `yolo compare`.

use std::path::PathBuf;

use serde_json::json;
use yolo_data::Split;
use yolo_engine::eval::bootstrap::{Estimate, Estimates};
use yolo_jobs::compare::{self, CompareSettings};
use yolo_jobs::compute::DeviceArgs;
use yolo_jobs::open;

use crate::error::{CliError, CliResult};
use crate::ui;

/// Compare models on the same images: mAP and its differences, with 95 % intervals
///
/// Intervals are those of a paired bootstrap over the images: where one lies on one side of 0, other images of this kind would show
/// the difference, too.
///
/// Example: yolo compare --weights base.safetensors pruned.safetensors --data bccd.yaml --task test
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CompareArgs {
    /// Checkpoints (.safetensors or .pt); the first is what the others are compared with
    #[arg(long, num_args = 2.., required = true)]
    weights: Vec<PathBuf>,
    /// Data set YAML
    #[arg(long)]
    data: PathBuf,
    /// Which images: `val`, `test` or `train`
    #[arg(long, default_value = "val")]
    task: String,
    #[command(flatten)]
    settings: CompareSettings,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &CompareArgs) -> CliResult {
    let split =
        Split::parse(&args.task).ok_or_else(|| CliError::Usage(format!("--task {}: train, val or test", args.task)))?;
    let device = args.device.one()?;
    let dataset = open::dataset(&args.data)?;
    let data = (args.data.as_path(), &dataset);
    let (result, size) = compare::compare(ui::session()?, &args.weights, data, split, &args.settings, device)?;
    if args.json {
        return ui::print_json(&json!({
            "weights": args.weights, "task": args.task, "models": result.models, "differences": result.differences,
            "images": result.images, "draws": result.draws, "img": size,
        }));
    }
    println!("{:>26} {:>26}", "mAP50", "mAP");
    for (file, model) in args.weights.iter().zip(&result.models) {
        row(&file.to_string_lossy(), model, plain);
    }
    for (file, difference) in args.weights.iter().skip(1).zip(&result.differences) {
        row(&format!("{} - first", file.display()), difference, signed);
    }
    println!(
        "{} images of {} at {size} px, 95 % of {} draws lie in the brackets",
        result.images, args.task, result.draws
    );
    Ok(())
}

fn row(name: &str, numbers: &Estimates, text: fn(f64) -> String) {
    let cell = |e: Estimate| {
        format!(
            "{} [{}, {}]",
            text(e.value),
            text(e.interval.low),
            text(e.interval.high)
        )
    };
    println!("{:>26} {:>26}  {name}", cell(numbers.map50), cell(numbers.map));
}

fn plain(value: f64) -> String {
    format!("{value:.4}")
}

fn signed(value: f64) -> String {
    format!("{value:+.4}")
}
