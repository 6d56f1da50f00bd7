//! From what a person names (a model, a file) to graphs and checkpoints.

use std::path::Path;

use yolo_core::config::Located;
use yolo_core::model;
use yolo_core::{Graph, Params, suggest};
use yolo_engine::checkpoint::{self, Checkpoint, Meta, Stage};
use yolo_engine::pt::{self, PtModel};

use crate::error::{CliError, CliResult, io_error};
use crate::{plugins, ui};

/// An engine error as a failed command.
pub fn failed(error: yolo_engine::Error) -> CliError {
    match error {
        yolo_engine::Error::Core(error) => error.into(),
        yolo_engine::Error::Settings(text) => CliError::Usage(text),
        other => CliError::Failed(other.to_string()),
    }
}

/// Writes a file so that a reader sees all of it or none.
pub fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    checkpoint::write_atomically(path, |file| file.write_all(bytes)).map_err(std::io::Error::other)
}

fn is_weights(name: &str) -> bool {
    matches!(
        Path::new(name).extension().and_then(|e| e.to_str()),
        Some("safetensors" | "pt")
    )
}

/// The graph of a published name, a YAML file (ours or Ultralytics'), a graph JSON or a checkpoint.
pub fn graph(name: &str, classes: Option<i64>) -> CliResult<Graph> {
    graph_with(name, classes, &[])
}

/// As [`graph`], with values of the configuration changed: `scale.width=0.5`.
pub fn graph_with(name: &str, classes: Option<i64>, set: &[String]) -> CliResult<Graph> {
    if !set.is_empty() && (is_weights(name) || name.ends_with(".json")) {
        return Err(CliError::Usage(format!(
            "{name} is built already: --set needs a configuration"
        )));
    }
    if is_weights(name) {
        let checkpoint = checkpoint(Path::new(name))?;
        if let (Some(wanted), Some(head)) = (classes, &checkpoint.graph.head)
            && wanted != head.classes
        {
            return Err(CliError::Usage(format!(
                "{name} has {} classes; --nc {wanted} needs a configuration instead",
                head.classes
            )));
        }
        return Ok(checkpoint.graph);
    }
    if name.ends_with(".json") {
        let text = std::fs::read_to_string(name).map_err(|e| io_error("can't read", Path::new(name), &e))?;
        let graph: Graph =
            serde_json::from_str(&text).map_err(|error| CliError::Usage(format!("{name}: not a graph: {error}")))?;
        graph
            .validate()
            .map_err(|error| CliError::Usage(format!("{name}: {error}")))?;
        return Ok(graph);
    }
    build(&config_with(name, set)?, classes)
}

/// A configuration with values changed: `scale.width=0.5`.
pub fn config_with(name: &str, set: &[String]) -> CliResult<Located> {
    let mut config = config(name)?;
    for assignment in set {
        yolo_core::config::set(&mut config.value, assignment)?;
    }
    Ok(config)
}

/// A configuration by published name or file.
pub fn config(name: &str) -> CliResult<Located> {
    let path = Path::new(name);
    if path.is_file() {
        let text = std::fs::read_to_string(path).map_err(|e| io_error("can't read", path, &e))?;
        return Ok(Located::parse(name, &text)?);
    }
    if let Some((found, text)) = model::find(name) {
        return Ok(Located::parse(&format!("{found}.yaml"), text)?);
    }
    let names = || model::published().iter().map(|(name, _)| *name);
    let help = suggest::did_you_mean(name, names()).unwrap_or_else(|| {
        format!(
            "models: {}; or give a YAML file",
            names().collect::<Vec<_>>().join(", ")
        )
    });
    Err(CliError::Usage(format!("there is no model `{name}`\n  help: {help}")))
}

/// Builds a configuration; files in `extends` stand beside the file itself.
pub fn build(config: &Located, classes: Option<i64>) -> CliResult<Graph> {
    let folder = Path::new(&config.file).parent().map(Path::to_owned).unwrap_or_default();
    let config = model::resolve_extends(config.clone(), &mut |base| {
        let path = folder.join(base);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(yolo_core::Error::other)?;
        Ok(Some(Located::parse(&path.display().to_string(), &text)?))
    })?;
    Ok(model::build_with(&config, classes, plugins::index()?)?)
}

/// A checkpoint: ours, or an Ultralytics `.pt` that is converted on the way.
pub fn checkpoint(path: &Path) -> CliResult<Checkpoint> {
    // Ops of shared libraries are in the graph by name; the index is what finds them.
    plugins::index()?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("pt") => {
            let (checkpoint, report) = convert_pt(path)?;
            if !report.dropped.is_empty() {
                ui::say(format!("{}: {}", path.display(), report.summary()));
            }
            Ok(checkpoint)
        }
        _ => checkpoint::load(path).map_err(failed),
    }
}

/// An Ultralytics checkpoint as ours.
pub fn convert_pt(path: &Path) -> CliResult<(Checkpoint, checkpoint::TransferReport)> {
    let source = pt::read(path).map_err(failed)?;
    source.check_modules(path).map_err(failed)?;
    let graph = graph_of_pt(path, &source)?;
    let (mut checkpoint, report) = checkpoint::adopt(path, &source, graph, 640).map_err(failed)?;
    checkpoint.meta.config.clone_from(&source.yaml);
    checkpoint.meta.history.push(Stage {
        kind: "convert".into(),
        summary: format!(
            "from {}",
            path.file_name().and_then(|n| n.to_str()).unwrap_or("a .pt file")
        ),
        settings: serde_json::Value::Null,
    });
    Ok((checkpoint, report))
}

/// The graph of a `.pt`: from the layer list that it carries.
fn graph_of_pt(path: &Path, source: &PtModel) -> CliResult<Graph> {
    let yaml = source.yaml.clone().ok_or_else(|| {
        CliError::Failed(format!(
            "{}: it holds tensors but no model description; name the model with --cfg",
            path.display()
        ))
    })?;
    let config = Located::from_value(&path.display().to_string(), yaml);
    Ok(model::build_with(&config, source.classes, plugins::index()?)?)
}

/// A model with weights for one run: a checkpoint that describes itself, or `cfg` and a state dict that fits it exactly.
pub fn model_with_weights(cfg: Option<&str>, classes: Option<i64>, weights: &Path) -> CliResult<(Graph, Params)> {
    let Some(cfg) = cfg else {
        let checkpoint = checkpoint(weights)?;
        return Ok((checkpoint.graph, checkpoint.params));
    };
    let graph = graph(cfg, classes)?;
    let params = Params::init(&graph, 0);
    let report = transfer_from(&params, weights)?;
    let lacking: Vec<&String> = report
        .missing
        .iter()
        .filter(|key| !key.ends_with("num_batches_tracked"))
        .collect();
    if let Some(first) = lacking.first() {
        return Err(CliError::Failed(format!(
            "{}: the weights don't fit `{cfg}`: {} tensors are missing or have another shape, the first is `{first}`",
            weights.display(),
            lacking.len()
        )));
    }
    if let Some(first) = report.dropped.iter().find(|key| !key.ends_with("anchor_grid")) {
        ui::say(format!(
            "{}: {} tensors are not in `{cfg}` (`{first}`, ...)",
            weights.display(),
            report.dropped.len()
        ));
    }
    Ok((graph, params))
}

/// A checkpoint of `cfg` with weights that fit it exactly. Its classes have numbers for names: a state dict holds none.
pub fn checkpoint_of(cfg: &str, classes: Option<i64>, weights: &Path) -> CliResult<Checkpoint> {
    let (graph, params) = model_with_weights(Some(cfg), classes, weights)?;
    let classes = graph.head.as_ref().map_or(0, |head| head.classes);
    let meta = Meta {
        names: (0..classes).map(|class| class.to_string()).collect(),
        image_size: 640,
        config: Some(cfg.into()),
        history: vec![Stage {
            kind: "convert".into(),
            summary: format!(
                "from {}",
                weights.file_name().and_then(|n| n.to_str()).unwrap_or("a state dict")
            ),
            settings: serde_json::Value::Null,
        }],
        ..Meta::default()
    };
    Ok(Checkpoint::new(graph, params, meta))
}

/// Takes what fits from a weights file of any kind.
pub fn transfer_from(params: &Params, weights: &Path) -> CliResult<checkpoint::TransferReport> {
    let keep_all = |_: &str| false;
    if weights.extension().is_some_and(|e| e == "pt") {
        let source = pt::read(weights).map_err(failed)?;
        let tensors: Vec<(String, tch::Tensor)> = source
            .state
            .iter()
            .map(|(key, raw)| Ok((key.clone(), raw.to_tensor()?)))
            .collect::<Result<_, yolo_engine::Error>>()
            .map_err(failed)?;
        return checkpoint::transfer(params, tensors.iter().map(|(k, t)| (k.as_str(), t)), &keep_all).map_err(failed);
    }
    let file = checkpoint::read_tensors(weights).map_err(failed)?;
    checkpoint::transfer(params, file.tensors.iter().map(|(k, t)| (k.as_str(), t)), &keep_all).map_err(failed)
}

/// A fresh model for training: `cfg` with what fits of `weights`, or the model of `weights` with this number of classes.
pub fn for_training(
    cfg: Option<&str>,
    set: &[String],
    weights: Option<&Path>,
    classes: i64,
    seed: u64,
) -> CliResult<(Checkpoint, Option<checkpoint::TransferReport>)> {
    let (graph, config) = match (cfg, weights) {
        (Some(cfg), _) => {
            let config = if set.is_empty() {
                cfg.into()
            } else {
                config_with(cfg, set)?.value
            };
            (graph_with(cfg, Some(classes), set)?, Some(config))
        }
        (None, _) if !set.is_empty() => {
            return Err(CliError::Usage("--set changes a configuration: give --cfg".into()));
        }
        (None, Some(weights)) => {
            let base = checkpoint(weights)?;
            if base.graph.head.as_ref().is_some_and(|head| head.classes == classes) {
                return Ok((base, None));
            }
            (with_classes(&base.graph, classes)?, base.meta.config)
        }
        (None, None) => {
            return Err(CliError::Usage(
                "give --cfg (a model), --weights (a checkpoint), or both".into(),
            ));
        }
    };
    let params = Params::init(&graph, seed);
    let report = weights.map(|weights| transfer_from(&params, weights)).transpose()?;
    if let Some(head) = &graph.head {
        // Anchors belong to the graph: weights of another data set bring none.
        let mut params = params;
        params.insert(head.anchors_key(), head.anchors_in_cells());
        let meta = Meta {
            config,
            ..Meta::default()
        };
        return Ok((Checkpoint::new(graph, params, meta), report));
    }
    Err(CliError::Usage("the model has no detection head".into()))
}

/// The same network with another number of classes: only the convolutions of the head change.
fn with_classes(graph: &Graph, classes: i64) -> CliResult<Graph> {
    let mut graph = graph.clone();
    let Some(head) = &mut graph.head else {
        return Err(CliError::Usage("the model has no detection head".into()));
    };
    head.classes = classes;
    let width = head.anchors_per_level() * head.outputs_per_anchor();
    for output in graph.outputs.clone() {
        if let yolo_core::Op::Conv2d { cout, .. } = &mut graph.nodes[output.index()].op {
            *cout = width;
        }
    }
    graph.validate()?;
    Ok(graph)
}
