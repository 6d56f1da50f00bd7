//! `yolo convert`: Ultralytics `.pt` to our checkpoint, ours to a plain state dict.

use std::path::PathBuf;

use serde_json::json;
use yolo_engine::checkpoint;
use yolo_jobs::{open, outputs};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Convert an Ultralytics checkpoint to ours, or ours to a plain state dict
///
/// Examples: yolo convert yolov5n.pt yolov5n.safetensors
///           yolo convert best.safetensors state.safetensors --state-dict
///           yolo convert state.safetensors model.safetensors --cfg yolov5l-ghostnet --nc 10
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ConvertArgs {
    /// `.pt` (`.pth`, any case) or `.safetensors`
    input: PathBuf,
    /// `.safetensors` to write
    output: PathBuf,
    /// Write tensors only, under their Ultralytics names
    #[arg(long)]
    state_dict: bool,
    /// The model that the tensors belong to (name or file), where the input does not say it: a plain state dict
    #[arg(long)]
    cfg: Option<String>,
    /// Number of classes of `--cfg`; the head in the file says it where this is left out
    #[arg(long, requires = "cfg")]
    nc: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ConvertArgs) -> CliResult {
    if !open::is_safetensors(&args.output) {
        return Err(CliError::Usage(format!(
            "{}: the result is a .safetensors file",
            args.output.display()
        )));
    }
    outputs::not_the_input("", &args.output, &args.input)?;
    let (model, dropped, missing) = if let Some(cfg) = &args.cfg {
        let (model, report) = open::checkpoint_of(ui::session()?, cfg, args.nc, &args.input)?;
        (model, report.dropped, report.missing)
    } else if yolo_engine::pt::is_checkpoint(&args.input) {
        let (model, report) = open::convert_pt(ui::session()?, &args.input)?;
        (model, report.dropped, report.missing)
    } else {
        (open::checkpoint(ui::session()?, &args.input)?, Vec::new(), Vec::new())
    };
    if args.state_dict {
        checkpoint::state_dict(&args.output, &model)?;
    } else {
        checkpoint::save(&args.output, &model)?;
    }
    let params = model.graph.param_count();
    if args.json {
        return ui::print_json(&json!({"params": params, "dropped": dropped, "missing": missing}));
    }
    println!(
        "{}: {} parameters, {} classes",
        args.output.display(),
        ui::thousands(params),
        model.meta.names.len()
    );
    if !dropped.is_empty() {
        let more = if dropped.len() > 5 {
            format!(" and {} more", dropped.len() - 5)
        } else {
            String::new()
        };
        println!("not taken over: {}{more}", dropped[..dropped.len().min(5)].join(", "));
    }
    Ok(())
}
