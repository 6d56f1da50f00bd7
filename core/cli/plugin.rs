//! `yolo plugin`: what authors of plugins need.

mod build;
mod look;

use std::path::{Path, PathBuf};

use yolo_jobs::files;
use yolo_registry::wasm::{self, section};
use yolo_registry::{Code, PluginError};

use crate::error::{CliError, CliResult, io_error};
use crate::ui;

/// Check, test and build plugins of your own
///
/// Example: yolo plugin test ./my-metric
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PluginCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Check(look::CheckArgs),
    Test(look::TestArgs),
    Build(build::BuildArgs),
    Describe(DescribeArgs),
}

/// Runs the command.
pub fn run(args: &PluginCommand) -> CliResult {
    match &args.action {
        Action::Check(args) => look::check(args),
        Action::Test(args) => look::test(args),
        Action::Build(args) => build::run(args),
        Action::Describe(args) => describe(args),
    }
}

/// Put a description into a WASM module, whatever compiler made it
///
/// Example: yolo plugin describe my-metric.wasm about.json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct DescribeArgs {
    /// The module
    module: PathBuf,
    /// The description, as JSON; the shortest: {"kind": "metric", "name": "my-metric"}
    description: PathBuf,
    /// Where to write (default: the module itself)
    #[arg(long)]
    out: Option<PathBuf>,
}

fn describe(args: &DescribeArgs) -> CliResult {
    let read = |path: &Path| std::fs::read(path).map_err(|error| io_error("can't read", path, &error));
    let (module, text) = (read(&args.module)?, read(&args.description)?);
    let about = wasm::parse(&args.description, &text)?;
    let described = section::replace(&module, wasm::SECTION, &text).map_err(|error| {
        let message = format!(
            "{}: {} (at offset {:#x})",
            args.module.display(),
            error.reason,
            error.offset
        );
        CliError::from(PluginError::new(Code::WasmBadModule, message))
    })?;
    let out = args.out.as_ref().unwrap_or(&args.module);
    files::write(out, &described)?;
    ui::say(format!("{} is metric `{}` now", out.display(), about.name));
    Ok(())
}
