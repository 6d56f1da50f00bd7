//! The `yolo` binary: one subcommand per file. The only place that prints.

mod bench;
mod channels;
mod compare;
mod compress;
mod convert;
mod data;
mod detect;
mod doctor;
mod error;
mod explain;
mod export;
mod forward;
mod habits;
mod inspect;
mod launch;
mod list_plugins;
mod model;
mod new_plugin;
mod plugin;
mod plugins;
mod prune;
mod quantize;
mod ranks;
mod report;
mod source;
mod torch;
mod train;
mod ui;
mod val;

/// Keeps every plugin in the binary.
use yolo_builtin as _;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use yolo_export::engine;

use error::{CliError, CliResult};

/// Trains, prunes, quantizes, exports and measures YOLOv5-family detectors. Every backbone, neck block, pruner,
/// metric and quantizer is a plugin: see `yolo list-plugins`.
#[derive(Parser)]
#[command(name = "yolo", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    plugins: plugins::PluginArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    ListPlugins(list_plugins::ListPluginsArgs),
    Inspect(inspect::InspectArgs),
    NewPlugin(new_plugin::NewPluginArgs),
    Model(model::ModelArgs),
    Forward(forward::ForwardArgs),
    Convert(convert::ConvertArgs),
    Train(Box<train::TrainArgs>),
    Val(val::ValArgs),
    Detect(detect::DetectArgs),
    Prune(Box<prune::PruneArgs>),
    Quantize(Box<quantize::QuantizeArgs>),
    Compare(compare::CompareArgs),
    Compress(compress::CompressArgs),
    Report(report::ReportArgs),
    Export(export::ExportArgs),
    Bench(bench::BenchArgs),
    Data(data::DataArgs),
    Doctor(doctor::DoctorArgs),
    Torch(torch::TorchCommand),
    Plugin(plugin::PluginCommand),
    Explain(explain::ExplainArgs),
    /// Serves a library that runs files for deployment: this program starts it for itself.
    #[command(hide = true)]
    EngineWorker {
        engine: String,
    },
}

fn run(command: Command, given: &[String]) -> CliResult {
    match command {
        Command::ListPlugins(args) => list_plugins::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::NewPlugin(args) => new_plugin::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Train(args) => train::run(&args, given),
        Command::Val(args) => val::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Compress(args) => compress::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Torch(args) => torch::run(&args),
        Command::Plugin(args) => plugin::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::EngineWorker { engine } => {
            engine::worker::serve(&engine).map_err(|error| CliError::Failed(format!("engine-worker: {error}")))
        }
    }
}

/// Names of the options that stand on the command line of the subcommand, without those that have their default.
fn given(matches: &ArgMatches) -> Vec<String> {
    let Some((_, matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let said = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    matches.ids().filter(said).map(|id| id.to_string()).collect()
}

/// A closed pipe (`yolo list-plugins | head`) ends the program quietly, as it does for other tools. Any other panic is a mistake
/// of ours and says so in one line.
fn plain_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("unknown");
        if let Some(reason) = text.strip_prefix("failed printing to stdout: ") {
            if reason.starts_with("Broken pipe") {
                std::process::exit(0);
            }
            eprintln!("error: standard output: can't write to it: {reason}");
            std::process::exit(1);
        }
        let place = info
            .location()
            .map(|place| format!(" ({}:{})", place.file(), place.line()))
            .unwrap_or_default();
        eprintln!(
            "error: internal error{place}: {text}\n  help: this is a bug in yolo; please report it with the command"
        );
    }));
}

fn main() {
    // Before anything that could start a thread or load libtorch.
    yolo_torch::threads::prepare();
    plain_panics();
    yolo_registry::watch_exit(|text| eprintln!("error: {text}"));
    if let Some(word) = std::env::args_os().find(|word| word.to_str().is_none()) {
        eprintln!(
            "error: `{}`: this is no UTF-8 text, and JSON, configurations and checkpoints could not say it; rename the file or folder",
            word.to_string_lossy()
        );
        yolo_registry::leave(2);
    }
    let words = match habits::translate(std::env::args_os()) {
        Ok(translated) => {
            // One process of several speaks.
            if std::env::var("RANK").map_or(true, |rank| rank == "0") {
                translated.notes.iter().for_each(ui::say);
            }
            translated.words
        }
        Err(error) => {
            eprintln!("error: {error}");
            yolo_registry::leave(error.code())
        }
    };
    // A negative number is a value, which the option may refuse with its own words, and no unknown flag.
    let grammar = Cli::command().mut_subcommands(|command| command.allow_negative_numbers(true));
    let parsed = grammar.try_get_matches_from(words);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, given(&matches))));
    let (cli, given) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are errors, too; a pipe that was closed has read enough.
            let _ = error.print();
            yolo_registry::leave(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    };
    yolo_torch::install::choose::when_needed(|line| ui::say(line));
    if let Ok(program) = std::env::current_exe() {
        engine::process::started_by(program, &["engine-worker"]);
    }
    plugins::configure(cli.plugins);
    let code = match run(cli.command, &given) {
        Ok(()) => 0,
        Err(CliError::Said(code)) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.code()
        }
    };
    yolo_registry::leave(code)
}
