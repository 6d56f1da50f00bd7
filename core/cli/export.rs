//! `yolo export`: deployment files, each held against the network before it is written.

use std::path::PathBuf;

use serde_json::{Value, json};
use yolo_export::checked::Written;
use yolo_jobs::export::{Export, ExportSettings, Exported};

use crate::error::CliResult;
use crate::ui;

/// Write a model for deployment (ONNX, ONNX with integers, ncnn) and check the file against the network
///
/// Examples: yolo export --weights best.safetensors --format onnx --out best.onnx --img 640
///           yolo export --weights quantized.safetensors --format onnx-qdq --out int8.onnx
///           yolo export --weights best.safetensors --format ncnn --out best.param --half
#[derive(clap::Args)]
#[command(verbatim_doc_comment, infer_long_args = true, args_override_self = true)]
pub struct ExportArgs {
    /// Checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// File to write (ncnn: FILE.param, with FILE.bin beside it), or a folder (default: beside the weights, with their name)
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    settings: ExportSettings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ExportArgs) -> CliResult {
    let export = Export {
        weights: &args.weights,
        out: args.out.as_deref(),
        settings: &args.settings,
    };
    let files = export.run(ui::session()?)?;
    if !args.json {
        files.iter().for_each(|file| print(&file.written));
        return Ok(());
    }
    let mut rows: Vec<Value> = files.iter().map(as_json).collect();
    match rows.len() {
        1 => ui::print_json(&rows.remove(0)),
        _ => ui::print_json(&json!({ "exports": rows })),
    }
}

fn as_json(Exported { request, written }: &Exported) -> Value {
    let d = written.difference;
    // One number for squares, as ever.
    let img = match request.image {
        [h, w] if h == w => json!(h),
        sides => json!(sides),
    };
    json!({
        "path": written.files[0],
        "files": written.files,
        "format": request.format.name(),
        "img": img,
        "size_bytes": written.size_bytes,
        "max_abs_diff": d.map(|d| d.max()),
        "diff": d,
        "steps": written.steps,
        "engine": d.map(|_| written.engine),
        "unchecked": written.unchecked,
        "ran": written.ran,
    })
}

fn print(written: &Written) {
    let names: Vec<String> = written.files.iter().map(|file| file.display().to_string()).collect();
    println!("{}: {:.2} MB", names.join(", "), written.size_bytes as f64 / 1e6);
    if written.unchecked.is_none() {
        println!("{}", written.summary());
    }
}
