//! `yolo report`.

use std::path::PathBuf;

use serde_json::json;
use yolo_jobs::report;

use crate::error::CliResult;
use crate::ui;

/// One page of what runs have found: tables, curves, pictures
///
/// A run is a folder of `yolo train`, `yolo compress` or `yolo val`. The page is one HTML file that needs no other and fetches nothing.
///
/// Example: yolo report runs/train/exp runs/train/exp2 --out report.html
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ReportArgs {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page (.html)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> CliResult {
    let rows = report::write(&args.runs, &args.out)?;
    if args.json {
        return ui::print_json(&json!({ "out": args.out, "runs": rows }));
    }
    println!("{}", args.out.display());
    Ok(())
}
