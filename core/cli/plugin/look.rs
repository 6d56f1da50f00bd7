//! `yolo plugin check` and `yolo plugin test`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};
use yolo_core::config::Located;
use yolo_core::conformance::{self, Report};
use yolo_core::model::names;
use yolo_core::prune::GroupTensors;
use yolo_core::{Kind, testing};
use yolo_registry::{Code, Entry, Fact, Index, Level, PluginError, SearchPath, dynamic};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Load a plugin and say what is in it, and what is wrong with it
///
/// Example: yolo plugin check my-metric.wasm
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct CheckArgs {
    /// A .wasm file, a library, a manifest, or a folder with one
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Run the checks that every plugin of its kind must pass
///
/// Example: yolo plugin test ./my-pruner
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct TestArgs {
    /// A .wasm file, a library, a manifest, or a folder with one
    file: PathBuf,
    /// Only this component
    #[arg(long)]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is at a path, next to the plugins that are linked in, loaded.
fn open(file: &Path) -> CliResult<(Index, Vec<Entry>)> {
    if !file.exists() {
        let error = PluginError::new(Code::NotFound, format!("there is nothing at `{}`", file.display()));
        return Err(error
            .help("give a .wasm file, a library, a yolo-plugin.toml, or a folder with one")
            .into());
    }
    dynamic::log_to(|_, line| ui::say(line));
    let level = Level {
        name: "this file".into(),
        paths: vec![file.to_owned()],
        explicit: true,
    };
    let mut index = Index::scan(SearchPath { levels: vec![level] });
    index.verify();
    let entries: Vec<Entry> = index
        .entries()
        .iter()
        .filter(|entry| entry.level.is_some())
        .cloned()
        .collect();
    Ok((index, entries))
}

/// Runs `yolo plugin check`.
pub fn check(args: &CheckArgs) -> CliResult {
    let (_, entries) = open(&args.file)?;
    if args.json {
        let plugins: Vec<Value> = entries
            .iter()
            .map(|entry| {
                let mut json = entry.to_json();
                json["facts"] = facts(entry)
                    .into_iter()
                    .map(|(label, value)| (label.to_owned(), json!(value)))
                    .collect();
                json
            })
            .collect();
        let ok = entries.iter().all(|entry| entry.error().is_none());
        ui::print_json(&json!({"file": args.file.display().to_string(), "ok": ok, "plugins": plugins}))?;
    } else {
        for entry in &entries {
            print!("{}", text(entry));
        }
    }
    verdict(&entries)
}

fn verdict(entries: &[Entry]) -> CliResult {
    if entries.iter().any(|entry| entry.error().is_some()) {
        Err(CliError::Said(1))
    } else {
        Ok(())
    }
}

/// `yolo plugin check` as the last step of something else.
pub fn check_path(file: &Path) -> CliResult {
    let (_, entries) = open(file)?;
    for entry in &entries {
        print!("{}", text(entry));
    }
    verdict(&entries)
}

fn text(entry: &Entry) -> String {
    let kind = entry.kind.map_or("plugin", Kind::title);
    let mark = if entry.error().is_some() { '✗' } else { '✓' };
    let version = if entry.version.is_empty() {
        String::new()
    } else {
        format!(" {}", entry.version)
    };
    let mut out = format!("{mark} {kind} `{}`{version}\n", entry.name);
    for (label, value) in facts(entry) {
        out += &format!("    {label:10} {value}\n");
    }
    if let Some(error) = entry.error() {
        out += &format!("    {}\n", error.to_string().replace('\n', "\n    "));
    }
    out
}

/// Where an entry is, and what is known about the code behind it.
fn facts(entry: &Entry) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(path) = &entry.path {
        facts.push(("file", path.display().to_string()));
    }
    facts.extend(entry.facts());
    facts
}

/// Runs `yolo plugin test`.
pub fn test(args: &TestArgs) -> CliResult {
    let (index, entries) = open(&args.file)?;
    let wanted = |entry: &&Entry| args.name.as_ref().is_none_or(|name| entry.answers_to(name));
    let entries: Vec<&Entry> = entries.iter().filter(wanted).collect();
    if entries.is_empty() {
        let name = args.name.as_deref().unwrap_or_default();
        return Err(CliError::Usage(format!(
            "there is no `{name}` in {}",
            args.file.display()
        )));
    }
    if let Some(error) = entries.iter().find_map(|entry| entry.error()) {
        return Err(error.clone().into());
    }
    let mut tested = Vec::new();
    let mut failed = 0;
    for entry in entries {
        let (report, speed) = one(&index, entry)?;
        let failures = report.failures().count();
        failed += failures;
        if !args.json {
            print!("{}", shown(entry, &report));
            if let Some(speed) = &speed {
                println!("  {speed}");
            }
        }
        tested.push(json!({"kind": entry.kind.map(Kind::name), "name": entry.name, "ok": failures == 0, "checks": report.checks, "speed": speed}));
    }
    if args.json {
        ui::print_json(&json!({"ok": failed == 0, "plugins": tested}))?;
    }
    if failed > 0 { Err(CliError::Said(1)) } else { Ok(()) }
}

fn shown(entry: &Entry, report: &Report) -> String {
    let mut out = format!("{} `{}`\n", entry.kind.map_or("plugin", Kind::title), entry.name);
    for check in &report.checks {
        match &check.failure {
            None => out += &format!("  ✓ {}\n", check.what),
            Some(reason) => out += &format!("  ✗ {}\n      {}\n", check.what, reason.replace('\n', "\n      ")),
        }
    }
    let failures = report.failures().count();
    out += &match failures {
        0 => format!("  all {} checks hold\n", report.checks.len()),
        _ => format!("  {failures} of {} checks fail\n", report.checks.len()),
    };
    out
}

/// The checks of one component, made from its example.
fn one(index: &Index, entry: &Entry) -> CliResult<(Report, Option<String>)> {
    let about = entry.describe()?;
    let mut part: Map<String, Value> = about.example.as_object().cloned().unwrap_or_default();
    part.insert("type".into(), entry.handle().into());
    let mut config = Located::from_value("<example>", Value::Object(part));
    names::resolve(&mut config, "", about.kind, index)?;
    let report = conformance::component(about.kind, &config.value);
    let fine = report.failures().next().is_none();
    let speed = (fine && about.kind == Kind::Metric)
        .then(|| speed(&config))
        .transpose()?;
    Ok((report, speed))
}

/// How long the largest convolution of yolov5l takes.
fn speed(config: &Located) -> CliResult<String> {
    const CHANNELS: i64 = 512;
    const ELEMENTS: i64 = 512 * 9;
    const RUNS: usize = 5;
    let metric: Box<dyn yolo_core::PruneMetric> = config.read()?;
    let numbers = testing::input(1, 1, CHANNELS, ELEMENTS).reshape([CHANNELS, ELEMENTS]);
    let ones = || tch::Tensor::ones([CHANNELS], (tch::Kind::Float, tch::Device::Cpu));
    let group = GroupTensors {
        name: "speed".into(),
        index: (0, 1),
        channels: CHANNELS as usize,
        weights: vec![numbers.shallow_clone()],
        weight_grads: vec![numbers.shallow_clone()],
        gammas: vec![ones()],
        betas: vec![ones()],
        gamma_grads: vec![ones()],
        weight_squares: vec![numbers],
        gamma_squares: vec![ones()],
        activations: vec![ones()],
    };
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        metric.score(&group)?;
        times.push(start.elapsed());
    }
    let best = times.iter().min().map_or(0.0, std::time::Duration::as_secs_f64);
    Ok(format!("a 512x512x3x3 convolution takes {:.1} ms", 1e3 * best))
}
