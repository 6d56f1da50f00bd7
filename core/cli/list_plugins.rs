//! `yolo list-plugins`.

use std::io::Write as _;

use glob::Pattern;
use serde_json::json;
use yolo_core::{Kind, suggest};
use yolo_registry::{Entry, Index, Source};

use crate::error::{CliError, CliResult};
use crate::{plugins, ui};

/// List every plugin: built in, shared libraries (.so) and WASM modules; those that can't be used with the reason
///
/// Examples: yolo list-plugins '*net*'
///           yolo list-plugins --kind metric --plugin ./lab --json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ListPluginsArgs {
    /// Names to list, with `*` and `?`
    pattern: Option<String>,
    /// Only this kind: backbone, neck-block, op, pruner, metric, quantizer, distiller
    #[arg(long)]
    kind: Option<String>,
    /// Only this source: builtin, dynamic, wasm
    #[arg(long)]
    source: Option<String>,
    /// Leave names out, with `*` and `?` (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Load everything to see whether it works; exit code 1 if something does not
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also show the folders that were searched, and summaries
    #[arg(short, long)]
    verbose: bool,
}

/// Runs the command.
pub fn run(args: &ListPluginsArgs) -> CliResult {
    let filter = Filter::new(args)?;
    let mut index = plugins::index()?.clone();
    if args.verify {
        index.verify();
    }
    let entries: Vec<&Entry> = index.entries().iter().filter(|entry| filter.keeps(entry)).collect();
    if args.json {
        ui::print_json(&document(&index, &entries))?;
    } else {
        print(&table(&index, &entries, args))?;
    }
    if args.verify && entries.iter().any(|entry| entry.error().is_some()) {
        return Err(CliError::Said(1));
    }
    Ok(())
}

/// What the user wants to see.
struct Filter {
    pattern: Option<Pattern>,
    exclude: Vec<Pattern>,
    kind: Option<Kind>,
    source: Option<Source>,
}

impl Filter {
    fn new(args: &ListPluginsArgs) -> CliResult<Self> {
        let pattern = |text: &String| {
            Pattern::new(text).map_err(|error| CliError::Usage(format!("`{text}` is no pattern: {error}")))
        };
        let one_of = |what: &str, name: &str, known: Vec<&'static str>| {
            let help = suggest::did_you_mean(name, known.iter().copied()).unwrap_or_else(|| known.join(", "));
            CliError::Usage(format!("there is no {what} `{name}`\n  help: {help}"))
        };
        let kind = args.kind.as_ref().map(|name| {
            Kind::parse(name).ok_or_else(|| one_of("kind", name, Kind::ALL.iter().map(|kind| kind.name()).collect()))
        });
        let source = args.source.as_ref().map(|name| {
            let found = Source::ALL.into_iter().find(|source| source.name() == name.as_str());
            found.ok_or_else(|| one_of("source", name, Source::ALL.iter().map(|source| source.name()).collect()))
        });
        Ok(Self {
            pattern: args.pattern.as_ref().map(pattern).transpose()?,
            exclude: args.exclude.iter().map(pattern).collect::<CliResult<_>>()?,
            kind: kind.transpose()?,
            source: source.transpose()?,
        })
    }

    fn keeps(&self, entry: &Entry) -> bool {
        let matches = |pattern: &Pattern| {
            std::iter::once(&entry.name)
                .chain(&entry.aliases)
                .any(|name| pattern.matches(name))
        };
        // What could not be read may be anything: it is shown unless names were asked for.
        self.kind.is_none_or(|kind| entry.kind.is_none_or(|own| own == kind))
            && self.source.is_none_or(|source| entry.source == source)
            && self.pattern.as_ref().is_none_or(matches)
            && !self.exclude.iter().any(matches)
    }
}

fn document(index: &Index, entries: &[&Entry]) -> serde_json::Value {
    json!({
        "schema": 1,
        "yolo": env!("CARGO_PKG_VERSION"),
        "abi": yolo_registry::abi_version(),
        "libtorch": yolo_registry::LIBTORCH,
        "searched": index.search().paths().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "plugins": entries.iter().map(|entry| entry.to_json()).collect::<Vec<_>>(),
    })
}

/// Writes to a pipe that may have been closed by its reader (`| head`), which is no failure.
fn print(text: &str) -> CliResult {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("can't write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// One line of the table.
struct Line {
    name: String,
    version: String,
    source: &'static str,
    paper: String,
    options: String,
    note: String,
}

impl Line {
    fn of(entry: &Entry) -> Self {
        let dash = || "–".to_owned();
        let options = entry.options.map_or_else(dash, |count| count.to_string());
        Self {
            name: entry.name.clone(),
            version: if entry.version.is_empty() {
                dash()
            } else {
                entry.version.clone()
            },
            source: entry.source.name(),
            paper: entry.paper.as_ref().map_or_else(dash, |paper| clip(&paper.brief(), 40)),
            options,
            note: note(entry),
        }
    }
}

/// The last column: where it is, or why it can't be used.
fn note(entry: &Entry) -> String {
    let path = entry
        .path
        .as_ref()
        .map(|path| tilde(&path.display().to_string()))
        .unwrap_or_default();
    match entry.error() {
        Some(error) => format!("✗ {}", error.message),
        None if entry.fitness.is_shadowed() => format!("{path}  (shadowed: an earlier folder has one of this name)"),
        None => path,
    }
}

/// A path below the home folder as `~/...`.
fn tilde(path: &str) -> String {
    match std::env::var("HOME") {
        Ok(home) if !home.is_empty() => match path.strip_prefix(&home) {
            Some(rest) if rest.starts_with('/') => format!("~{rest}"),
            _ => path.to_owned(),
        },
        _ => path.to_owned(),
    }
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn heading(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Backbone) => "BACKBONES",
        Some(Kind::NeckBlock) => "NECK BLOCKS",
        Some(Kind::Op) => "CUSTOM OPS",
        Some(Kind::Pruner) => "PRUNERS",
        Some(Kind::Metric) => "PRUNE METRICS",
        Some(Kind::Quantizer) => "QUANTIZERS",
        Some(Kind::Distiller) => "DISTILLERS",
        None => "UNREADABLE",
    }
}

fn table(index: &Index, entries: &[&Entry], args: &ListPluginsArgs) -> String {
    let lines: Vec<Line> = entries.iter().map(|entry| Line::of(entry)).collect();
    let width = |text: &dyn Fn(&Line) -> usize, least: usize| lines.iter().map(text).max().unwrap_or(0).max(least);
    let name = width(&|line| line.name.chars().count(), 12);
    let version = width(&|line| line.version.chars().count(), 7);
    let paper = width(&|line| line.paper.chars().count(), 5);
    let mut out = String::new();
    let mut last = None;
    for (entry, line) in entries.iter().zip(&lines) {
        let title = heading(entry.kind);
        if last.replace(title) != Some(title) {
            if !out.is_empty() {
                out.push('\n');
            }
            let title_width = name + 2;
            out += &format!(
                "{title:title_width$}  {:version$}  source   {:paper$}  options\n",
                "version", "paper"
            );
        }
        let text = format!(
            "  {:name$}  {:version$}  {:7}  {:paper$}  {:<7}  {}",
            line.name, line.version, line.source, line.paper, line.options, line.note
        );
        out += text.trim_end();
        out.push('\n');
        if args.verbose && !entry.summary.is_empty() {
            out += &format!("  {:name$}  {}\n", "", entry.summary);
        }
    }
    out += &footer(index, entries, args);
    out
}

fn footer(index: &Index, entries: &[&Entry], args: &ListPluginsArgs) -> String {
    let mut out = String::new();
    if entries.is_empty() {
        let names = index.entries().iter().map(|entry| entry.name.as_str());
        let hint = args
            .pattern
            .as_ref()
            .and_then(|pattern| suggest::did_you_mean(pattern, names));
        out += &format!(
            "no plugin matches{}\n",
            hint.map_or(String::new(), |hint| format!("; {hint}"))
        );
    } else {
        let mut parts = Vec::new();
        for kind in Kind::ALL.into_iter().map(Some).chain([None]) {
            let of_kind = || entries.iter().filter(|entry| entry.kind == kind);
            let (all, bad) = (
                of_kind().count(),
                of_kind().filter(|entry| entry.error().is_some()).count(),
            );
            let title = kind.map_or("unreadable thing", Kind::title);
            match (all, bad) {
                (0, _) => {}
                (_, 0) => parts.push(plural(all, title)),
                _ if kind.is_none() => parts.push(plural(all, title)),
                _ => parts.push(format!("{} ({bad} unusable)", plural(all, title))),
            }
        }
        out += &format!("\n{}\n", parts.join(", "));
    }
    let searched: Vec<String> = index
        .search()
        .levels
        .iter()
        .flat_map(|level| {
            level
                .paths
                .iter()
                .map(|path| format!("  {}  ({})", path.display(), level.name))
        })
        .collect();
    let detail = if args.verbose {
        format!(":\n{}", searched.join("\n"))
    } else {
        " (`-v` to show them).".to_owned()
    };
    out += &format!(
        "See `yolo inspect NAME` for options. Searched {}{detail}\n",
        plural(searched.len(), "folder")
    );
    out
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
