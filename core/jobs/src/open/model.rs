//! From what a person names (a model, a file) to graphs and checkpoints.

use std::path::Path;

use yolo_core::config::Located;
use yolo_core::model;
use yolo_core::{Graph, Params, suggest};
use yolo_engine::checkpoint::{self, Checkpoint, HistoryEntry, Meta};
use yolo_engine::pt::{self, PtModel};

use super::differences;
use super::tensors::Tensors;
use crate::Session;
use crate::error::{Error, Result, io_error};

/// Whether a file is named like weights; Windows and old scripts write endings in other cases.
fn is_weights(name: &str) -> bool {
    is_safetensors(Path::new(name)) || pt::is_checkpoint(Path::new(name))
}

/// Whether a file is named `.safetensors`, in any case of letters.
pub fn is_safetensors(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))
}

/// The graph of a published name, a YAML file (ours or Ultralytics'), a graph JSON or a checkpoint.
///
/// # Errors
/// Those of [`graph_with`].
pub fn graph(session: Session<'_>, name: &str, classes: Option<i64>) -> Result<Graph> {
    graph_with(session, name, classes, &[])
}

/// As [`graph`], with values of the configuration changed: `scale.width=0.5`.
///
/// # Errors
/// [`Error::Usage`]: `set` for what is no configuration, a checkpoint of other `classes`, a JSON file that is no graph; [`Error::Failed`]
/// names a JSON file that can't be read. Else those of [`checkpoint()`], [`config_with`] and [`build`].
pub fn graph_with(session: Session<'_>, name: &str, classes: Option<i64>, set: &[String]) -> Result<Graph> {
    if !set.is_empty() && (is_weights(name) || name.ends_with(".json")) {
        return Err(Error::Usage(format!(
            "{name} is built already: --set needs a configuration"
        )));
    }
    if is_weights(name) {
        let checkpoint = checkpoint(session, Path::new(name))?;
        if let (Some(wanted), Some(head)) = (classes, &checkpoint.graph.head)
            && wanted != head.classes
        {
            return Err(Error::Usage(format!(
                "{name} has {} classes; --nc {wanted} needs a configuration instead",
                head.classes
            )));
        }
        return Ok(checkpoint.graph);
    }
    if name.ends_with(".json") {
        let text = std::fs::read_to_string(name).map_err(|e| io_error("can't read", Path::new(name), &e))?;
        let graph: Graph =
            serde_json::from_str(&text).map_err(|error| Error::Usage(format!("{name}: not a graph: {error}")))?;
        graph
            .validate()
            .map_err(|error| Error::Usage(format!("{name}: {error}")))?;
        return Ok(graph);
    }
    build(session, &config_with(name, set)?, classes)
}

/// A configuration with values changed: `scale.width=0.5`.
///
/// # Errors
/// Those of [`config`]; [`Error::Usage`] for an assignment without `=` or whose value is no YAML.
pub fn config_with(name: &str, set: &[String]) -> Result<Located> {
    let mut config = config(name)?;
    for assignment in set {
        yolo_core::config::set(&mut config.value, assignment)?;
    }
    Ok(config)
}

/// A configuration by published name or file.
///
/// # Errors
/// [`Error::Failed`] names a file that can't be read; [`Error::Usage`] has the place of what is no YAML, or the models that there are.
pub fn config(name: &str) -> Result<Located> {
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
    Err(Error::Usage(format!("there is no model `{name}`\n  help: {help}")))
}

/// Builds a configuration; files in `extends` stand beside the file itself.
///
/// # Errors
/// [`Error::Usage`] has the place of an `extends` that is not there, of an unknown name or option, and what a plugin says that refuses
/// its options; [`Error::Failed`] for a file that can't be read, and for layers that do not fit each other.
pub fn build(session: Session<'_>, config: &Located, classes: Option<i64>) -> Result<Graph> {
    for remark in model::ultralytics::remarks(config) {
        session.say(format!("note: {remark}"));
    }
    let folder = Path::new(&config.file).parent().map(Path::to_owned).unwrap_or_default();
    let config = model::resolve_extends(config.clone(), &mut |base| {
        let path = folder.join(base);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(yolo_core::Error::other)?;
        Ok(Some(Located::parse(&path.display().to_string(), &text)?))
    })?;
    let graph = model::build_with(&config, classes, session.plugins)?;
    if let Some(remark) = model::ultralytics::turned_anchors(&config, &graph) {
        session.say(format!("note: {remark}"));
    }
    Ok(graph)
}

/// A checkpoint: ours, or an Ultralytics `.pt` that is converted on the way. What is odd about it is said.
///
/// # Errors
/// [`Error::Failed`] names the file: it can't be read, holds no model or that of a newer program, its tensors are those of another model
/// or not finite. Those of [`convert_pt`] for a `.pt`.
pub fn checkpoint(session: Session<'_>, path: &Path) -> Result<Checkpoint> {
    is_file(path)?;
    if !pt::is_checkpoint(path) {
        return Ok(checkpoint::load(path)?);
    }
    let (checkpoint, report) = convert_pt(session, path)?;
    if !report.dropped.is_empty() {
        session.say(format!("{}: {}", path.display(), report.summary()));
    }
    Ok(checkpoint)
}

/// Refuses what is no file of weights by its name alone: an address, a folder, a published name that other tools would download.
///
/// # Errors
/// [`Error::Failed`] says what to give.
pub fn is_file(path: &Path) -> Result {
    let text = path.to_string_lossy();
    let help = if path.is_file() {
        return Ok(());
    } else if text.contains("://") {
        "addresses can't be given: download the file, and name it".to_owned()
    } else if path.is_dir() {
        match [
            "weights/best.safetensors",
            "best.safetensors",
            "pruned.safetensors",
            "quantized.safetensors",
        ]
        .map(|name| path.join(name))
        .into_iter()
        .find(|file| file.is_file())
        {
            Some(file) => format!("it is a folder; give {}", file.display()),
            None => "it is a folder, and weights are a file (.safetensors, .pt)".to_owned(),
        }
    } else if is_published(&text) {
        "it is not here, and nothing is downloaded: fetch it from the releases of ultralytics/yolov5, and name the file; or train from \
         scratch with --cfg and without --weights"
            .to_owned()
    } else {
        "there is no such file".to_owned()
    };
    Err(Error::Failed(format!("{text}: {help}")))
}

/// The name of a file that other tools fetch by themselves: `yolov5s.pt`, `yolov5n6.pt`.
fn is_published(name: &str) -> bool {
    name.strip_suffix(".pt").is_some_and(|stem| {
        let stem = stem.strip_suffix('6').unwrap_or(stem);
        matches!(stem.strip_prefix("yolov5"), Some("n" | "s" | "m" | "l" | "x"))
    })
}

/// An Ultralytics checkpoint as ours: the network of its modules, whatever the model file inside says.
///
/// # Errors
/// [`Error::Failed`] names the file: it is damaged, holds tensors but no model, a module that can't be expressed, a value that is not
/// finite, or lacks a tensor of its model.
pub fn convert_pt(session: Session<'_>, path: &Path) -> Result<(Checkpoint, checkpoint::TransferReport)> {
    let source = pt::read(path)?;
    let Some((graph, notes)) = source.graph(path)? else {
        return Err(Error::Failed(no_model(path, &source)));
    };
    let differs = described(session, path, &source).and_then(|described| differences::between(&described, &graph));
    let (mut checkpoint, report) = checkpoint::adopt(path, &source, graph, 640)?;
    for note in source.notes.iter().chain(&notes) {
        session.say(format!("{}: {note}", path.display()));
    }
    if let Some(d) = differs {
        // What the file says about itself is not what it computes.
        checkpoint.meta.config = None;
        session.say(format!(
            "{}: its modules are not those of the model file inside (`{}` is {} instead of {}{}): the modules count",
            path.display(),
            d.node,
            d.right,
            d.left,
            and_more(d.count)
        ));
    }
    Ok((checkpoint, report))
}

pub(super) fn and_more(count: usize) -> String {
    if count > 1 {
        format!(", and {} more", count - 1)
    } else {
        String::new()
    }
}

fn no_model(path: &Path, source: &PtModel) -> String {
    format!(
        "{}: it holds {} tensors but no model: name the one they are of, `yolo convert {} model.safetensors --cfg MODEL` (MODEL: yolov5n or \
         a YAML file), and use model.safetensors",
        path.display(),
        source.state.len(),
        path.display()
    )
}

/// The network of the model file inside a `.pt`, if it can be built: people change modules, and other versions have other modules.
fn described(session: Session<'_>, path: &Path, source: &PtModel) -> Option<Graph> {
    let config = Located::from_value(&path.display().to_string(), source.yaml.clone()?);
    model::build_with(&config, source.classes, session.plugins).ok()
}

/// A model with weights for one run: a checkpoint that describes itself, or `cfg` and a state dict that fits it exactly.
///
/// # Errors
/// Those of [`checkpoint()`] without `cfg`. With it those of [`graph`]; [`Error::Failed`] names the weights that can't be
/// read, and the first tensor that is missing in them or has another shape.
pub fn model_with_weights(
    session: Session<'_>,
    cfg: Option<&str>,
    classes: Option<i64>,
    weights: &Path,
) -> Result<(Graph, Params)> {
    match cfg {
        None => {
            let checkpoint = checkpoint(session, weights)?;
            Ok((checkpoint.graph, checkpoint.params))
        }
        Some(cfg) => named_model(session, cfg, classes, &Tensors::read(session, weights)?)
            .map(|(graph, params, _)| (graph, params)),
    }
}

/// `cfg` with tensors that fit it exactly. Without `classes`, the head in the file says how many there are.
fn named_model(
    session: Session<'_>,
    cfg: &str,
    classes: Option<i64>,
    weights: &Tensors,
) -> Result<(Graph, Params, checkpoint::TransferReport)> {
    weights.refuse_quantized()?;
    let mut graph = graph(session, cfg, classes)?;
    if let (None, Some(found)) = (classes, weights.classes(&graph)) {
        graph = self::graph(session, cfg, Some(found))?;
    }
    let mut params = Params::init(&graph, 0);
    if checkpoint::is_folded(&params, weights.keys()) {
        (graph, params) = yolo_core::passes::fuse(&graph, &params)?;
        session.say(format!("{}: {FOLDED}", weights.path.display()));
    }
    weights.compare(session, cfg, &graph);
    let report = weights.copy_into(&params)?;
    let lacking: Vec<&String> = report
        .missing
        .iter()
        .filter(|key| !key.ends_with("num_batches_tracked"))
        .collect();
    if let Some(first) = lacking.first() {
        return Err(Error::Failed(format!(
            "{}: the weights don't fit `{cfg}`: {} tensors are missing or have another shape, the first is `{first}` ({})",
            weights.path.display(),
            lacking.len(),
            report.summary()
        )));
    }
    weights.anchors_into(session, cfg, &mut graph)?;
    if let Some(head) = &graph.head {
        // As the graph has them: those of a file in half precision are rounded.
        params.insert(head.anchors_key(), head.anchors_in_cells());
    }
    if let Some(first) = report.dropped.iter().find(|key| !key.ends_with("anchor_grid")) {
        session.say(format!(
            "{}: {} tensors are not in `{cfg}` (`{first}`, ...)",
            weights.path.display(),
            report.dropped.len()
        ));
    }
    Ok((graph, params, report))
}

pub(super) const FOLDED: &str = "batch norms are folded into the convolutions (it was saved after `fuse()`): it detects and can be exported, to train it \
                      the file before `fuse()` is needed";

/// A checkpoint of `cfg` with weights that fit it exactly. Classes have the names that the file holds, else their numbers.
///
/// # Errors
/// Those of [`model_with_weights`] with `cfg`.
pub fn checkpoint_of(
    session: Session<'_>,
    cfg: &str,
    classes: Option<i64>,
    weights: &Path,
) -> Result<(Checkpoint, checkpoint::TransferReport)> {
    let tensors = Tensors::read(session, weights)?;
    let (graph, params, report) = named_model(session, cfg, classes, &tensors)?;
    let classes = graph.head.as_ref().map_or(0, |head| head.classes);
    let names = if tensors.names.len() as i64 == classes {
        tensors.names
    } else {
        if !tensors.names.is_empty() {
            session.say(format!(
                "{}: it names {} classes, but its head has {classes}: the names are left out",
                weights.display(),
                tensors.names.len()
            ));
        }
        (0..classes).map(|class| class.to_string()).collect()
    };
    let meta = Meta {
        names,
        image_size: 640,
        config: Some(cfg.into()),
        history: vec![HistoryEntry {
            kind: "convert".into(),
            summary: format!(
                "from {}",
                weights.file_name().and_then(|n| n.to_str()).unwrap_or("a state dict")
            ),
            settings: serde_json::Value::Null,
        }],
        ..Meta::default()
    };
    Ok((Checkpoint::new(graph, params, meta), report))
}

/// Where a training starts.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// Model configuration.
    pub cfg: Option<&'a str>,
    /// Values of it that are changed.
    pub set: &'a [String],
    /// Weights.
    pub weights: Option<&'a Path>,
    /// Whether it may start although less than half of the model is in the weights.
    pub partial: bool,
    /// Seed of what is not in the weights.
    pub seed: u64,
}

/// A fresh model for training: `cfg` with what fits of `weights`, or the model of `weights` with this number of classes.
///
/// # Errors
/// [`Error::Usage`]: neither `cfg` nor `weights`, `set` without `cfg`, a model without a head, weights that were saved after `fuse()`,
/// and such that hold less than half of the model, unless `partial` is set. Else those of [`graph_with`] and [`checkpoint()`].
pub fn for_training(
    session: Session<'_>,
    Start {
        cfg,
        set,
        weights,
        partial,
        seed,
    }: Start<'_>,
    classes: i64,
) -> Result<(Checkpoint, Option<checkpoint::TransferReport>)> {
    let (graph, config) = match (cfg, weights) {
        (Some(cfg), _) => {
            let config = if set.is_empty() {
                cfg.into()
            } else {
                config_with(cfg, set)?.value
            };
            (graph_with(session, cfg, Some(classes), set)?, Some(config))
        }
        (None, _) if !set.is_empty() => {
            return Err(Error::Usage("--set changes a configuration: give --cfg".into()));
        }
        (None, Some(weights)) => {
            let base = checkpoint(session, weights)?;
            if base.meta.quantizer.is_none() && is_folded(&base.graph) {
                return Err(Error::Usage(format!("{}: {FOLDED}", weights.display())));
            }
            if base.graph.head.as_ref().is_some_and(|head| head.classes == classes) {
                return Ok((base, None));
            }
            (model::with_classes(&base.graph, classes)?, base.meta.config)
        }
        (None, None) => {
            return Err(Error::Usage(
                "give --cfg (a model), --weights (a checkpoint), or both".into(),
            ));
        }
    };
    let params = Params::init(&graph, seed);
    let report = match weights {
        Some(path) => {
            let weights = Tensors::read(session, path)?;
            let model = cfg.unwrap_or("its model");
            let report = weights.start_from(model, &params, partial)?;
            if cfg.is_some() {
                weights.compare(session, model, &graph);
                weights.compare_anchors(session, model, &graph);
            }
            Some(report)
        }
        None => None,
    };
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
    Err(Error::Usage("the model has no detection head".into()))
}

/// Whether a network was saved after `fuse()`: a convolution of YOLOv5's `Conv` with a bias where its batch norm should be.
fn is_folded(graph: &Graph) -> bool {
    let norm = |block: &str| format!("{block}.bn");
    graph.nodes.iter().any(|node| {
        let block = node.name.strip_suffix(".conv");
        let biased = matches!(node.op, yolo_core::Op::Conv2d { bias: true, .. });
        biased && block.is_some_and(|block| graph.nodes.iter().all(|other| other.name != norm(block)))
    })
}
