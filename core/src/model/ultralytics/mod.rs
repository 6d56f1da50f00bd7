//! Import of Ultralytics' model files: lists of `[from, number, module, args]`. Text in them is data: a few Python literals are
//! understood, nothing is executed. What a module builds is looked up in a table that core and plugins fill
//! ([`LayerModule`]).

mod activation;
mod args;
mod modules;

pub use args::Call;

use std::cell::Cell;

use serde_json::Value;

use super::detect;
use crate::config::{ConfigError, Located};
use crate::graph::{Activation, DetectHead};
use crate::{Error, Feat, Graph, GraphBuilder, Op, PluginInfo, Result, Scale, suggest};

/// A module that layer lists can name.
#[derive(Debug, Clone, Copy)]
pub struct LayerModule {
    /// Its name in the lists, for example `GhostBottleneck`.
    pub name: &'static str,
    /// Whether its first argument is its width before scaling.
    pub takes_channels: bool,
    /// Whether it repeats inside; otherwise copies of it follow each other.
    pub repeats_inside: bool,
    /// A trailing fraction behind so many arguments (after the width) is the part of its channels that pruning kept; nowhere where there
    /// is none. An earlier fraction is the module's own, as the inner width of `C3`.
    pub ratio_after: Option<usize>,
    /// Appends it in the current scope.
    pub build: fn(&mut GraphBuilder, &Call<'_>) -> Result<crate::ValueId>,
}

inventory::collect!(LayerModule);

/// Whether this is a layer list rather than a model file of ours.
pub fn is_layer_list(config: &Located) -> bool {
    config.get("backbone").is_some_and(Value::is_array)
}

/// Modules that other versions of YOLOv5 have under the same name with other layers: which ones are built, and how others differ.
const OTHERS: [(&str, &str); 4] = [
    (
        "C3TR",
        "with layer norm and a wide inner layer as in TPH-YOLOv5 and YOLOv5-Multibackbone-Compression; Ultralytics' has neither",
    ),
    (
        "GhostConv",
        "with kernels of 3 for the cheap half as in YOLOv5-Multibackbone-Compression; Ultralytics' has 5",
    ),
    (
        "C3Ghost",
        "of GhostNet's bottlenecks as in YOLOv5-Multibackbone-Compression; Ultralytics' are others",
    ),
    (
        "MixConv2d",
        "dense and added to its input as in YOLOv5 v6.0; v7.0's convolves in groups",
    ),
];

/// What to know of the modules of a layer list: names alone don't say what they compute, checkpoints do.
pub fn remarks(config: &Located) -> Vec<String> {
    let rows = ["backbone", "head"]
        .into_iter()
        .filter_map(|part| config.get(part)?.as_array())
        .flatten();
    let names: Vec<&str> = rows.filter_map(|row| row.get(2)?.as_str()).collect();
    OTHERS
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(name, what)| {
            format!(
                "{}: `{name}` is built {what} (a `.pt` is built of its own modules)",
                config.file
            )
        })
        .collect()
}

/// What to say of a network whose levels got the anchors of the file from the last to the first.
pub fn turned_anchors(config: &Located, graph: &Graph) -> Option<String> {
    let written = config.get("anchors")?.as_array()?;
    let first: Vec<f64> = written.first()?.as_array()?.iter().filter_map(Value::as_f64).collect();
    let levels = &graph.head.as_ref()?.anchors;
    let is_first = |level: &Vec<[f64; 2]>| level.as_flattened() == first;
    (is_first(levels.last()?) && !is_first(levels.first()?)).then(|| {
        format!(
            "{}: the rows of `anchors` go from large to small where the maps of `Detect` go from fine to coarse (or the other way round): they \
             are taken in turned order, as YOLOv5 does it",
            config.file
        )
    })
}

/// Builds the graph of a layer list. `classes` overrides the file's `nc`.
pub fn import(config: &Located, classes: Option<i64>) -> Result<Graph> {
    check_keys(config)?;
    let activation = activation::read(config)?;
    let number = |key: &str, default: Option<f64>| -> Result<f64, ConfigError> {
        match config.get(key) {
            Some(value) => value
                .as_f64()
                .ok_or_else(|| config.value_error(key, &format!("`{key}` takes a number"), None)),
            None => default.ok_or_else(|| config.error("", &format!("there is no `{key}`"), None)),
        }
    };
    let scale = Scale {
        depth: number("depth_multiple", Some(1.0))?,
        width: number("width_multiple", Some(1.0))?,
    };
    let classes = match classes {
        Some(classes) => classes,
        None => number("nc", Some(80.0))? as i64,
    };
    let mut g = GraphBuilder::new(number("ch", Some(3.0))? as i64);
    let mut layers: Vec<Feat> = Vec::new();
    let mut finished = None;
    for part in ["backbone", "head"] {
        let rows = config
            .get(part)
            .and_then(Value::as_array)
            .ok_or_else(|| config.error(part, &format!("`{part}` must be a list of layers"), None))?;
        for index in 0..rows.len() {
            let path = format!("{part}.{index}");
            if finished.is_some() {
                return Err(config.error(&path, "a layer follows `Detect`", None).into());
            }
            let row = Row::read(config, &path, &layers, g.image())?;
            if row.module == "Detect" {
                finished = Some(detect_row(config, &mut g, &row, classes)?);
            } else {
                layers.push(build_row(config, &mut g, &row, scale)?);
            }
        }
    }
    let (outputs, head) = finished.ok_or_else(|| config.error("head", "the list does not end with `Detect`", None))?;
    let mut graph = g.finish(outputs, Some(head))?;
    if let Some(activation) = activation {
        // What is not SiLU was asked for by its module, and stays.
        for node in &mut graph.nodes {
            match &mut node.op {
                Op::Act { act } if *act == Activation::Silu => *act = activation,
                _ => {}
            }
        }
    }
    Ok(graph)
}

fn check_keys(config: &Located) -> Result<(), ConfigError> {
    const KNOWN: [&str; 10] = [
        "activation",
        "nc",
        "ch",
        "depth_multiple",
        "width_multiple",
        "anchors",
        "backbone",
        "head",
        "inplace",
        "names",
    ];
    let Some(map) = config.value.as_object() else {
        return Err(config.error("", "this is not a model file", None));
    };
    match map.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        Some(key) => {
            let hint = suggest::did_you_mean(key, KNOWN);
            Err(config.error(key, &format!("there is no option `{key}`"), hint.as_deref()))
        }
        None => Ok(()),
    }
}

/// One row of the list.
struct Row<'a> {
    path: String,
    inputs: Vec<Feat>,
    repeats: i64,
    module: &'a str,
    args: Vec<Value>,
}

impl<'a> Row<'a> {
    fn read(config: &'a Located, path: &str, layers: &[Feat], image: Feat) -> Result<Self, ConfigError> {
        let at = |index: usize| format!("{path}.{index}");
        let Some([from, number, module, args]) = config.get(path).and_then(Value::as_array).map(Vec::as_slice) else {
            return Err(config.value_error(path, "a layer is `[from, number, module, args]`", None));
        };
        let froms = match from {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        if froms.is_empty() {
            return Err(config.value_error(&at(0), "`from` names no layer", None));
        }
        let inputs = froms
            .iter()
            .map(|from| {
                let wanted = from
                    .as_i64()
                    .ok_or_else(|| config.value_error(&at(0), "`from` takes layer numbers", None))?;
                let index = if wanted < 0 {
                    layers.len() as i64 + wanted
                } else {
                    wanted
                };
                if index == -1 && layers.is_empty() {
                    return Ok(image);
                }
                usize::try_from(index)
                    .ok()
                    .and_then(|index| layers.get(index).copied())
                    .ok_or_else(|| {
                        let message = format!("layer {wanted} does not exist before layer {}", layers.len());
                        config.value_error(&at(0), &message, None)
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path: path.to_owned(),
            inputs,
            repeats: number
                .as_i64()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| config.value_error(&at(1), "`number` takes a count from 1 to 1000", None))?,
            module: module
                .as_str()
                .ok_or_else(|| config.value_error(&at(2), "`module` takes a name", None))?,
            args: args
                .as_array()
                .ok_or_else(|| config.value_error(&at(3), "`args` takes a list", None))?
                .iter()
                .map(args::literal)
                .collect(),
        })
    }
}

fn build_row(config: &Located, g: &mut GraphBuilder, row: &Row<'_>, scale: Scale) -> Result<Feat> {
    let module = find(config, row)?;
    let mut args = row.args.as_slice();
    let (mut channels, mut full) = (row.inputs[0].channels, row.inputs[0].channels);
    if module.takes_channels {
        let width = args.first().and_then(Value::as_i64).filter(|c| *c > 0);
        let Some(width) = width else {
            return Err(config
                .value_error(
                    &format!("{}.3", row.path),
                    &format!("`{}` needs its channels as first argument", module.name),
                    None,
                )
                .into());
        };
        args = &args[1..];
        full = scale.channels(width);
        channels = full;
        let own = module.ratio_after.unwrap_or(usize::MAX);
        if let Some(ratio) = args
            .last()
            .filter(|last| args.len() > own && last.is_f64())
            .and_then(Value::as_f64)
            .filter(|ratio| *ratio > 0.0 && *ratio <= 1.0)
        {
            args = &args[..args.len() - 1];
            let kept = width as f64 * ratio * scale.width;
            channels = ((kept / 8.0).ceil() as i64 * 8).max(8);
        }
    }
    let repeats = scale.repeats(row.repeats);
    let kind = module.name.rsplit('.').next().unwrap_or(module.name);
    let chain = repeats > 1 && !module.repeats_inside;
    let result = g.layer(kind, &row.inputs, |g| {
        let mut call = Call {
            module: module.name,
            inputs: row.inputs.clone(),
            joins: Cell::new(false),
            channels,
            full_channels: full,
            repeats: if module.repeats_inside { repeats } else { 1 },
            args,
            before: usize::from(module.takes_channels),
        };
        if !chain {
            let value = (module.build)(g, &call)?;
            return if row.inputs.len() == 1 || call.joins.get() {
                Ok(value)
            } else {
                Err(several(row))
            };
        }
        if row.inputs.len() > 1 {
            return Err(several(row));
        }
        let mut value = row.inputs[0].value;
        for copy in 0..repeats {
            value = g.scope(copy.to_string(), |g| (module.build)(g, &call))?;
            call.inputs = vec![g.feat(value)?];
        }
        Ok(value)
    });
    result.map_err(|error| place(config, &row.path, error))
}

/// Values that a module has no use for are no mistake of the module: a join is missing before it.
fn several(row: &Row<'_>) -> Error {
    Error::Build {
        plugin: row.module.to_owned(),
        reason: format!(
            "it reads one value, and `from` names {}: join them first (Concat)",
            row.inputs.len()
        ),
    }
}

/// Errors of a module get the place of its row.
fn place(config: &Located, path: &str, error: Error) -> Error {
    match error {
        Error::Located(_) => error,
        other => config.value_error(path, &other.to_string(), None).into(),
    }
}

/// Where the anchors of a `Detect` row stand, and they themselves: its arguments are `[nc, anchors]`, which are the keys of the file, or
/// what stands there in their place.
fn detect_args<'a>(
    config: &'a Located,
    row: &'a Row<'_>,
    classes: i64,
) -> Result<(String, Option<&'a Value>), ConfigError> {
    let at = |index: usize| format!("{}.3.{index}", row.path);
    if row.args.len() > 2 {
        return Err(config.error(&at(2), "`Detect` takes `[nc, anchors]`", None));
    }
    match row.args.first() {
        None => {}
        Some(Value::String(name)) if name == "nc" => {}
        Some(Value::Number(count)) if count.as_i64() == Some(classes) => {}
        Some(_) => {
            let message = format!("the classes of `Detect` are `nc`, {classes} here; say it there");
            return Err(config.value_error(&at(0), &message, None));
        }
    }
    Ok(match row.args.get(1) {
        Some(Value::String(name)) if name != "anchors" => {
            return Err(config.value_error(
                &at(1),
                "the anchors of `Detect` are `anchors`, or a list per level",
                None,
            ));
        }
        None | Some(Value::String(_)) => ("anchors".to_owned(), config.get("anchors")),
        written => (at(1), written),
    })
}

fn detect_row(
    config: &Located,
    g: &mut GraphBuilder,
    row: &Row<'_>,
    classes: i64,
) -> Result<(Vec<crate::ValueId>, DetectHead)> {
    let strides: Vec<i64> = row.inputs.iter().map(|feat| feat.stride).collect();
    let mut unfitted = false;
    let (key, given) = detect_args(config, row, classes)?;
    let bad = || config.value_error(&key, "`anchors` takes a count or a list per level", None);
    let mut anchors: Vec<Vec<[f64; 2]>> = match given {
        Some(Value::Number(count)) => {
            let count = count.as_u64().filter(|n| (1..=100).contains(n)).ok_or_else(bad)? as usize;
            unfitted = true;
            DetectHead::stand_ins(&strides, count)
        }
        Some(Value::Array(items)) => items
            .iter()
            .map(|level| {
                let flat: Vec<f64> = level.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
                flat.len()
                    .is_multiple_of(2)
                    .then(|| flat.chunks(2).map(|p| [p[0], p[1]]).collect())
            })
            .collect::<Option<_>>()
            .ok_or_else(bad)?,
        None => {
            let message = "`anchors` is missing: give a count (`anchors: 3`), which a training fits to its data, or a list per level";
            return Err(config.error("", message, None).into());
        }
        _ => return Err(bad().into()),
    };
    if let Some(level) = anchors
        .iter()
        .position(|level| level.as_flattened().iter().any(|side| *side <= 0.0 || side.is_nan()))
    {
        let message = format!("the anchors of level {level} must be positive");
        return Err(config.value_error(&key, &message, None).into());
    }
    order_anchors(&mut anchors, &strides);
    let (outputs, mut head) =
        detect(g, &row.inputs, classes, &anchors).map_err(|error| place(config, &row.path, error))?;
    head.unfitted = unfitted;
    Ok((outputs, head))
}

/// Levels from fine to coarse need anchors from small to large: rows in the other order are turned round, by the mean areas in pixels of
/// the first and the last, as YOLOv5 v7.0 does it.
fn order_anchors(anchors: &mut [Vec<[f64; 2]>], strides: &[i64]) {
    let mean = |level: &Vec<[f64; 2]>| level.iter().map(|[w, h]| w * h).sum::<f64>() / level.len() as f64;
    let ([first, .., last], [fine, .., coarse]) = (&*anchors, strides) else {
        return;
    };
    let growth = mean(last) - mean(first);
    if growth * ((coarse - fine) as f64) < 0.0 {
        anchors.reverse();
    }
}

fn find(config: &Located, row: &Row<'_>) -> Result<&'static LayerModule, ConfigError> {
    let all = || inventory::iter::<LayerModule>.into_iter();
    if let Some(module) = all().find(|module| module.name == row.module) {
        return Ok(module);
    }
    let names: Vec<&str> = all().map(|module| module.name).collect();
    let plugins = PluginInfo::linked();
    let similarity = |name: &str| strsim::jaro_winkler(&suggest::normalise(row.module), &suggest::normalise(name));
    let closest = plugins
        .iter()
        .filter(|info| matches!(info.kind, crate::Kind::Backbone | crate::Kind::NeckBlock))
        .max_by(|a, b| similarity(a.name).total_cmp(&similarity(b.name)));
    let mut help = suggest::did_you_mean(row.module, names.iter().copied()).unwrap_or_default();
    if let Some(info) = closest {
        if !help.is_empty() {
            help.push(' ');
        }
        help.push_str(&format!(
            "the closest plugin is the {} `{}`",
            info.kind.title(),
            info.name
        ));
    }
    Err(config.value_error(
        &format!("{}.2", row.path),
        &format!("there is no module `{}`", row.module),
        Some(&help),
    ))
}
