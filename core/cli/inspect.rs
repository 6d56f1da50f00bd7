//! `yolo inspect`.

mod measure;
mod options;
mod plan;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use yolo_core::Kind;
use yolo_core::model::diagram;
use yolo_jobs::files;
use yolo_registry::{Description, Entry, Index, Source};

use crate::error::{CliError, CliResult};
use crate::{plugins, ui};
use measure::Outputs;
use options::{PluginOption, flow};

/// Show one plugin: what it is, its paper, options with types and defaults, an example, output shapes; or a prune plan
///
/// Examples: yolo inspect ghostnet
///           yolo inspect neck-block/spp --json
///           yolo inspect plan.json --graph widths.svg
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct InspectArgs {
    /// Its name; `KIND/NAME` where several kinds have it; a .wasm file; a plan.json of `yolo prune`
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of its options
    #[arg(long, conflicts_with = "json")]
    schema: bool,
    /// Draw what it builds, FILE.svg or FILE.dot; of a plan the widths before and after, FILE.svg
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> CliResult {
    let file = Path::new(&args.name);
    if file.extension().is_some_and(|extension| extension == "json") {
        if args.schema {
            return Err(CliError::Usage(format!("{}: a plan has no options", file.display())));
        }
        return plan::run(file, args.json, args.graph.as_deref());
    }
    let index = plugins::index()?;
    let entry = index.find_any(&args.name)?;
    let about = entry.describe()?;
    if args.schema {
        return ui::print_json(&about.schema);
    }
    let handle = entry.handle();
    let page = Page {
        outputs: measure::outputs(index, &about, &handle)?,
        facts: facts(index, &about, &handle)?,
        handle,
        entry: &entry,
        about: &about,
    };
    if let Some(path) = &args.graph {
        draw(path, &page)?;
    }
    if args.json {
        return ui::print_json(&page.to_json());
    }
    print!("{}", page.text());
    Ok(())
}

fn draw(path: &Path, page: &Page<'_>) -> CliResult {
    let Some(outputs) = &page.outputs else {
        return Err(CliError::Usage(format!(
            "a {} builds nothing that could be drawn",
            page.about.kind.title()
        )));
    };
    let text = match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => diagram::svg(&outputs.graph),
        Some("dot") => diagram::dot(&outputs.graph),
        _ => {
            return Err(CliError::Usage(format!(
                "{}: a drawing is .svg or .dot",
                path.display()
            )));
        }
    };
    files::write(path, text.as_bytes())?;
    ui::say(format!("wrote {}", path.display()));
    Ok(())
}

/// What else there is to say about a kind: a label and a value.
fn facts(index: &Index, about: &Description, handle: &str) -> CliResult<Vec<(&'static str, String)>> {
    let mut options = measure::example(about);
    options.remove("type");
    Ok(match about.kind {
        Kind::Metric => {
            let needs = yolo_registry::metric(index, handle, options)?.needs();
            let parts = [
                (needs.weight, "weights"),
                (needs.bn, "batch norm"),
                (needs.grad, "gradients"),
                (needs.grad_square, "squared gradients"),
                (needs.activation, "activations"),
            ];
            let looked: Vec<&str> = parts
                .into_iter()
                .filter(|(asked, _)| *asked)
                .map(|(_, name)| name)
                .collect();
            vec![("Looks at", looked.join(", "))]
        }
        Kind::Pruner => {
            let trains = yolo_registry::pruner(index, handle, options)?.regulariser().is_some();
            vec![(
                "Training",
                if trains {
                    "acts on a sparsity training"
                } else {
                    "none of its own"
                }
                .to_owned(),
            )]
        }
        Kind::Quantizer => {
            let backend = yolo_registry::quantizer(index, handle, options)?.backend();
            let scheme = |scheme: &yolo_core::quant::Scheme| {
                format!(
                    "{} bits, {}, {}, observer {}",
                    scheme.bits,
                    if scheme.symmetric { "symmetric" } else { "asymmetric" },
                    if scheme.per_channel {
                        "per channel"
                    } else {
                        "per tensor"
                    },
                    word(&scheme.observer),
                )
            };
            vec![
                ("Weights", scheme(&backend.weight)),
                ("Activations", scheme(&backend.activation)),
            ]
        }
        Kind::Distiller => {
            let distiller = yolo_registry::distiller(index, handle, options)?;
            let needs = distiller.needs();
            let parts = [
                (needs.raw, "raw maps of the heads"),
                (needs.neck, "feature maps that the heads read"),
                (needs.head, "the teacher's head"),
            ];
            let looked = parts.into_iter().filter(|(asked, _)| *asked).map(|(_, name)| name);
            vec![
                ("Looks at", looked.collect::<Vec<_>>().join(", ")),
                ("Loss", distiller.parts().join(", ")),
            ]
        }
        _ => Vec::new(),
    })
}

/// An enum's name in configurations.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// All that is shown.
struct Page<'a> {
    entry: &'a Entry,
    about: &'a Description,
    handle: String,
    outputs: Option<Outputs>,
    facts: Vec<(&'static str, String)>,
}

impl Page<'_> {
    fn options(&self) -> Vec<PluginOption> {
        options::of(&self.about.schema)
    }

    fn example(&self) -> Map<String, Value> {
        measure::example(self.about)
    }

    fn to_json(&self) -> Value {
        let mut json = self.entry.to_json();
        json["aliases"] = json!(self.about.aliases);
        json["stability"] = json!(self.about.stability);
        json["paper"] = json!(self.about.paper);
        json["options"] = self.options().iter().map(PluginOption::to_json).collect();
        json["example"] = Value::Object(self.example());
        json["schema"] = self.about.schema.clone();
        json["used_by"] = json!(measure::used_by(self.about));
        json["outputs"] = self.outputs.as_ref().map_or(Value::Null, Outputs::to_json);
        json["facts"] = self
            .facts
            .iter()
            .map(|(label, value)| (label.to_lowercase(), json!(value)))
            .collect();
        json
    }

    fn text(&self) -> String {
        let about = self.about;
        let mut out = self.title();
        if !about.summary.is_empty() {
            out += &format!("  {}\n", about.summary);
        }
        let mut line = |label: &str, value: &str| out += &format!("  {label:11} {value}\n");
        if let Some(paper) = &about.paper {
            let short = paper
                .short
                .as_ref()
                .map(|short| format!(", {short}"))
                .unwrap_or_default();
            match &paper.title {
                Some(title) => line("Paper", &format!("{title}{short} — {}", paper.url)),
                None => line("Paper", &paper.url),
            }
        }
        if !about.aliases.is_empty() {
            line("Also", &about.aliases.join(", "));
        }
        if !about.authors.is_empty() {
            line("Authors", &about.authors.join(", "));
        }
        if let Some(path) = &self.entry.path {
            line("File", &path.display().to_string());
        }
        for (label, value) in &self.facts {
            line(label, value);
        }
        if let Some(outputs) = &self.outputs {
            out += &format!("\n{}", outputs.text());
        }
        out += &self.option_table();
        out += &format!("Example\n{}", self.usage());
        let used = measure::used_by(about);
        if !used.is_empty() {
            out += &format!(
                "Used by  {}\n",
                used.iter()
                    .map(|name| format!("{name}.yaml"))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
        out
    }

    fn title(&self) -> String {
        let about = self.about;
        let mut notes = vec![match self.entry.source {
            Source::Builtin => format!("builtin, crate {}", about.package),
            source => format!("{}, package {}", source.name(), about.package),
        }];
        if !about.license.is_empty() {
            notes.push(about.license.clone());
        }
        notes.push(about.stability.clone());
        let version = if about.version.is_empty() {
            String::new()
        } else {
            format!(" {}", about.version)
        };
        format!(
            "{} — {}{version} ({})\n",
            about.name,
            about.kind.title(),
            notes.join(", ")
        )
    }

    fn option_table(&self) -> String {
        let options = self.options();
        if options.is_empty() {
            return "\nNo options\n".to_owned();
        }
        let width = |text: &dyn Fn(&PluginOption) -> usize| options.iter().map(text).max().unwrap_or(0);
        let name = width(&|o| o.name.chars().count());
        let kind = width(&|o| o.kind.chars().count()).min(36);
        let default = width(&|o| o.shown_default().chars().count()).min(40);
        let mut out = "\nOptions\n".to_owned();
        for option in &options {
            let line = format!(
                "  {:name$}  {:kind$}  {:default$}  {}",
                option.name,
                option.kind,
                option.shown_default(),
                option.description
            );
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    /// How it is written where it is used.
    fn usage(&self) -> String {
        let example = self.example();
        let flowed = flow(&Value::Object(example.clone()));
        let short = if self.entry.source == Source::Wasm || example.len() == 1 {
            self.handle.clone()
        } else {
            format!("'{flowed}'")
        };
        match self.about.kind {
            Kind::Backbone => format!("  backbone: {flowed}\n"),
            Kind::NeckBlock => format!("  neck: {{type: pan, block: {flowed}}}\n"),
            Kind::Pruner => format!(
                "  yolo prune --pruner {short} --flops 0.6 --weights best.safetensors --data data.yaml --out pruned.safetensors\n"
            ),
            Kind::Metric => format!(
                "  yolo prune --pruner oneshot --metric {short} --flops 0.6 --weights best.safetensors --data data.yaml --out pruned.safetensors\n"
            ),
            Kind::Quantizer => {
                format!("  yolo quantize --backend {short} --weights best.safetensors --data data.yaml --out int8\n")
            }
            Kind::Distiller => format!(
                "  yolo train --teacher teacher.safetensors --distiller {short} --weights student.safetensors --data data.yaml\n"
            ),
            _ => format!("  {flowed}\n"),
        }
    }
}
