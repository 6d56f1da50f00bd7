//! `yolo plugin check` and `yolo plugin test`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};
use yolo_core::config::Located;
use yolo_core::conformance::{self, Report};
use yolo_core::model::names;
use yolo_core::prune::GroupTensors;
use yolo_core::{Kind, testing};
use yolo_registry::{Code, Index, Level, Package, PluginError, Row, SearchPath, Source, dynamic, wasm};

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
fn open(file: &Path) -> CliResult<(Index, Vec<Row>)> {
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
    let rows: Vec<Row> = index.rows().iter().filter(|row| row.level.is_some()).cloned().collect();
    Ok((index, rows))
}

/// Runs `yolo plugin check`.
pub fn check(args: &CheckArgs) -> CliResult {
    let (_, rows) = open(&args.file)?;
    if args.json {
        let plugins: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut json = row.to_json();
                json["facts"] = facts(row)
                    .into_iter()
                    .map(|(label, value)| (label.to_owned(), json!(value)))
                    .collect();
                json
            })
            .collect();
        let ok = rows.iter().all(|row| row.error.is_none());
        ui::print_json(&json!({"file": args.file.display().to_string(), "ok": ok, "plugins": plugins}))?;
    } else {
        for row in &rows {
            print!("{}", text(row));
        }
    }
    verdict(&rows)
}

fn verdict(rows: &[Row]) -> CliResult {
    if rows.iter().any(|row| row.error.is_some()) {
        Err(CliError::Said(1))
    } else {
        Ok(())
    }
}

/// `yolo plugin check` as the last step of something else.
pub fn check_path(file: &Path) -> CliResult {
    let (_, rows) = open(file)?;
    for row in &rows {
        print!("{}", text(row));
    }
    verdict(&rows)
}

fn text(row: &Row) -> String {
    let kind = row.kind.map_or("plugin", Kind::title);
    let mark = if row.error.is_some() { '✗' } else { '✓' };
    let version = if row.version.is_empty() {
        String::new()
    } else {
        format!(" {}", row.version)
    };
    let mut out = format!("{mark} {kind} `{}`{version}\n", row.name);
    for (label, value) in facts(row) {
        out += &format!("    {label:10} {value}\n");
    }
    if let Some(error) = &row.error {
        out += &format!("    {}\n", error.to_string().replace('\n', "\n    "));
    }
    out
}

/// What is known about the code behind a row.
fn facts(row: &Row) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(path) = &row.path {
        facts.push(("file", path.display().to_string()));
    }
    let Some(package) = row.code.as_ref().filter(|_| row.error.is_none()) else {
        return facts;
    };
    match row.source {
        Source::Wasm => facts.extend(wasm_facts(row, package)),
        Source::Dynamic | Source::Builtin => facts.extend(library_facts(package)),
    }
    facts
}

fn wasm_facts(row: &Row, package: &Package) -> Vec<(&'static str, String)> {
    let Ok(module) = wasm::load(package, &row.name) else {
        return Vec::new();
    };
    let needs = module.needs;
    let parts = [
        (needs.weight, "weights"),
        (needs.bn, "batch norm"),
        (needs.grad, "gradients"),
    ];
    let looked: Vec<&str> = parts
        .into_iter()
        .filter(|(asked, _)| *asked)
        .map(|(_, name)| name)
        .collect();
    vec![
        ("metric ABI", format!("{}.{}", module.abi.0, module.abi.1)),
        ("looks at", looked.join(", ")),
        ("options", module.about.options().to_string()),
        (
            "sha256",
            module.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        ),
    ]
}

fn library_facts(package: &Package) -> Vec<(&'static str, String)> {
    let Ok(library) = dynamic::load_package(package) else {
        return Vec::new();
    };
    let facts = library.facts();
    let or_none = |text: &str| {
        if text.is_empty() {
            "none of its own".to_owned()
        } else {
            text.to_owned()
        }
    };
    vec![
        ("crate", library.crate_name().to_owned()),
        (
            "ABI",
            format!(
                "{}.{} (this yolo speaks {})",
                facts.abi.0,
                facts.abi.1,
                yolo_registry::abi_version()
            ),
        ),
        ("libtorch", or_none(&facts.libtorch)),
        ("built with", or_none(&facts.sdk)),
        ("built for", or_none(&facts.target)),
    ]
}

/// Runs `yolo plugin test`.
pub fn test(args: &TestArgs) -> CliResult {
    let (index, rows) = open(&args.file)?;
    let wanted = |row: &&Row| args.name.as_ref().is_none_or(|name| row.answers_to(name));
    let rows: Vec<&Row> = rows.iter().filter(wanted).collect();
    if rows.is_empty() {
        let name = args.name.as_deref().unwrap_or_default();
        return Err(CliError::Usage(format!(
            "there is no `{name}` in {}",
            args.file.display()
        )));
    }
    if let Some(error) = rows.iter().find_map(|row| row.error.as_ref()) {
        return Err(error.clone().into());
    }
    let mut tested = Vec::new();
    let mut failed = 0;
    for row in rows {
        let (report, speed) = one(&index, row)?;
        let failures = report.failures().count();
        failed += failures;
        if !args.json {
            print!("{}", shown(row, &report));
            if let Some(speed) = &speed {
                println!("  {speed}");
            }
        }
        tested.push(json!({"kind": row.kind.map(Kind::name), "name": row.name, "ok": failures == 0, "checks": report.checks, "speed": speed}));
    }
    if args.json {
        ui::print_json(&json!({"ok": failed == 0, "plugins": tested}))?;
    }
    if failed > 0 { Err(CliError::Said(1)) } else { Ok(()) }
}

fn shown(row: &Row, report: &Report) -> String {
    let mut out = format!("{} `{}`\n", row.kind.map_or("plugin", Kind::title), row.name);
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
fn one(index: &Index, row: &Row) -> CliResult<(Report, Option<String>)> {
    let about = index.describe(row)?;
    let mut part: Map<String, Value> = about.example.as_object().cloned().unwrap_or_default();
    // A file that only its path finds is found by it.
    let handle = match (&row.path, row.source) {
        (Some(path), Source::Wasm) if path.extension().is_some_and(|e| e == "wasm" || e == "wat") => {
            path.display().to_string()
        }
        _ => row.name.clone(),
    };
    part.insert("type".into(), handle.into());
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
        weight_grads: vec![numbers],
        gammas: vec![ones()],
        betas: vec![ones()],
        gamma_grads: vec![ones()],
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
