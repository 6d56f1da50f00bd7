//! `yolo explain`.

use serde_json::json;
use yolo_core::suggest;
use yolo_registry::Code;

use crate::error::{CliError, CliResult};
use crate::ui;

/// Explain the code of an error: what happened, an example, what to do
///
/// Example: yolo explain yolo::wasm::out_of_fuel
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExplainArgs {
    /// The code; without one, all codes are listed
    code: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> CliResult {
    let Some(name) = &args.code else { return list(args.json) };
    let Some(code) = Code::parse(name) else {
        let names = || Code::ALL.iter().map(|code| code.name());
        let help = suggest::did_you_mean(name, names())
            .unwrap_or_else(|| "`yolo explain` without a code lists them all".to_owned());
        return Err(CliError::Usage(format!("there is no code `{name}`\n  help: {help}")));
    };
    if args.json {
        return ui::print_json(&json!({"code": code.name(), "summary": code.summary(), "page": code.page()}));
    }
    print!("{}", code.page());
    Ok(())
}

fn list(json: bool) -> CliResult {
    if json {
        let codes: Vec<_> = Code::ALL
            .iter()
            .map(|code| json!({"code": code.name(), "summary": code.summary()}))
            .collect();
        return ui::print_json(&json!({ "codes": codes }));
    }
    let width = Code::ALL.iter().map(|code| code.name().len()).max().unwrap_or(0);
    for code in Code::ALL {
        println!("{:width$}  {}", code.name(), code.summary());
    }
    Ok(())
}
