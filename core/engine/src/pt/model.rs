//! From the pickled module tree to a state dict in PyTorch's order, plus what a checkpoint says about itself.

use std::path::Path;

use indexmap::IndexMap;

use super::pickle::{Id, Node, Pickle};
use super::tensor::Tensors;
use super::{NormSettings, PtModel, PtModule, Source};
use crate::raw::RawTensor;
use crate::{Error, Result};

/// Modules can nest this deep.
const MAX_DEPTH: usize = 64;

/// Reads what the root of the pickle holds.
pub(super) fn read_model(tensors: &mut Tensors<'_>) -> Result<PtModel> {
    let pickle = tensors.pickle;
    let path = tensors.path.clone();
    let root = pickle.root();
    let present = |key: &str| {
        pickle
            .get(root, key)
            .filter(|id| !matches!(pickle.node(*id), Node::None))
    };
    let mut model = PtModel {
        epoch: present("epoch").and_then(|id| pickle.int(id)),
        date: present("date").and_then(|id| pickle.str(id)).map(str::to_owned),
        best_fitness: present("best_fitness").and_then(|id| pickle.float(id)),
        ..PtModel::default()
    };
    let is_module = |id: &Id| pickle.attr(*id, "_modules").is_some();
    let (module, source) = if let Some(ema) = present("ema").filter(is_module) {
        (Some(ema), Source::Ema)
    } else if let Some(module) = present("model").filter(is_module) {
        (Some(module), Source::Model)
    } else if is_module(&root) {
        (Some(root), Source::Model)
    } else {
        (None, Source::StateDict)
    };
    model.source = source;
    match module {
        Some(module) => {
            model.class = pickle
                .object(module)
                .map(|o| pickle.class(o).to_owned())
                .unwrap_or_default();
            let mut walk = Walk {
                tensors,
                model: &mut model,
                budget: pickle.walk_budget(),
            };
            walk.module(module, "", 0)?;
            attributes(tensors, module, &mut model)?;
        }
        None => {
            let dict = ["state_dict", "model", "ema"]
                .iter()
                .find_map(|key| present(key))
                .unwrap_or(root);
            for (key, value) in pickle.pairs(dict).unwrap_or_default() {
                let Some(name) = pickle.str(*key) else { continue };
                if let Some(tensor) = tensors.resolve(*value, name)? {
                    model.state.insert(name.to_owned(), tensor);
                }
            }
        }
    }
    if model.state.is_empty() {
        return Err(Error::file(
            &path,
            "there are no weights in it (expected a checkpoint of YOLOv5 with `model` or `ema`, or a state dict)",
        ));
    }
    Ok(model)
}

/// Visits modules as `Module.state_dict` does: parameters, buffers, then children.
struct Walk<'a, 'b> {
    tensors: &'a mut Tensors<'b>,
    model: &'a mut PtModel,
    budget: usize,
}

impl Walk<'_, '_> {
    fn module(&mut self, id: Id, prefix: &str, depth: usize) -> Result<()> {
        let pickle = self.tensors.pickle;
        self.budget = self.budget.saturating_sub(1);
        if depth > MAX_DEPTH || self.budget == 0 {
            return Err(Error::file(
                &self.tensors.path,
                format!("its modules contain themselves (at `{prefix}`)"),
            ));
        }
        let Some(object) = pickle.object(id) else { return Ok(()) };
        let class = pickle.class(object).to_owned();
        if class.ends_with("BatchNorm2d") {
            let number = |key| pickle.attr(id, key).and_then(|v| pickle.float(v));
            if let (Some(eps), Some(momentum)) = (number("eps"), number("momentum")) {
                self.model.norms.push(NormSettings {
                    path: prefix.to_owned(),
                    eps,
                    momentum,
                });
            }
        }
        if class.ends_with(".Detect") {
            self.model.detect = Some(prefix.to_owned());
        }
        self.model.modules.push(PtModule {
            path: prefix.to_owned(),
            class,
        });
        let join = |name: &str| {
            if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}.{name}")
            }
        };
        let transient: Vec<&str> = pickle
            .attr(id, "_non_persistent_buffers_set")
            .and_then(|set| pickle.items(set))
            .unwrap_or_default()
            .iter()
            .filter_map(|name| pickle.str(*name))
            .collect();
        for store in ["_parameters", "_buffers"] {
            let pairs = pickle
                .attr(id, store)
                .and_then(|dict| pickle.pairs(dict))
                .unwrap_or_default();
            for (key, value) in pairs {
                let Some(name) = pickle.str(*key) else { continue };
                if transient.contains(&name) || matches!(pickle.node(*value), Node::None) {
                    continue;
                }
                let full = join(name);
                let tensor = self.tensors.resolve(*value, &full)?.ok_or_else(|| {
                    Error::file(
                        &self.tensors.path,
                        format!("`{full}` should be a tensor but is something else"),
                    )
                })?;
                self.model.state.insert(full, tensor);
            }
        }
        let children = pickle
            .attr(id, "_modules")
            .and_then(|dict| pickle.pairs(dict))
            .unwrap_or_default();
        for (key, child) in children {
            if let Some(name) = pickle.str(*key) {
                self.module(*child, &join(name), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Names, strides, anchors, configuration.
fn attributes(tensors: &mut Tensors<'_>, module: Id, model: &mut PtModel) -> Result<()> {
    let pickle = tensors.pickle;
    if let Some(names) = pickle.attr(module, "names") {
        model.names = read_names(pickle, names);
    }
    if let Some(yaml) = pickle.attr(module, "yaml") {
        let mut budget = 100_000;
        model.yaml = to_json(pickle, yaml, 32, &mut budget);
    }
    if let Some(stride) = pickle.attr(module, "stride")
        && let Some(tensor) = tensors.resolve(stride, "stride")?
    {
        model.strides = tensor.to_f64();
    }
    model.classes = pickle
        .attr(module, "nc")
        .and_then(|nc| pickle.int(nc))
        .or_else(|| {
            model
                .yaml
                .as_ref()
                .and_then(|yaml| yaml.get("nc"))
                .and_then(serde_json::Value::as_i64)
        })
        .or_else(|| (!model.names.is_empty()).then_some(model.names.len() as i64));
    if let Some(detect) = &model.detect
        && let Some(anchors) = model.state.get(&format!("{detect}.anchors"))
    {
        model.anchors = anchors_in_pixels(&tensors.path, anchors, &model.strides)?;
    }
    Ok(())
}

/// `anchors` is `[levels, anchors, 2]` in cells.
fn anchors_in_pixels(path: &Path, anchors: &RawTensor, strides: &[f64]) -> Result<Vec<Vec<[f64; 2]>>> {
    let &[levels, per_level, 2] = anchors.shape.as_slice() else {
        return Err(Error::file(
            path,
            format!("the anchors have shape {:?}, not [levels, anchors, 2]", anchors.shape),
        ));
    };
    if levels != strides.len() || per_level == 0 {
        return Err(Error::file(
            path,
            format!("it has anchors of {levels} levels but {} strides", strides.len()),
        ));
    }
    let cells = anchors.to_f64();
    let level = |(rows, stride): (&[f64], &f64)| {
        rows.chunks_exact(2)
            .map(|wh| [wh[0] * stride, wh[1] * stride])
            .collect()
    };
    Ok(cells.chunks_exact(per_level * 2).zip(strides).map(level).collect())
}

/// A list of names, or a dict from class number to name.
fn read_names(pickle: &Pickle, id: Id) -> Vec<String> {
    if let Some(pairs) = pickle.pairs(id) {
        let mut names: Vec<(i64, String)> = pairs
            .iter()
            .filter_map(|(k, v)| Some((pickle.int(*k)?, pickle.str(*v)?.to_owned())))
            .collect();
        names.sort_by_key(|(class, _)| *class);
        return names.into_iter().map(|(_, name)| name).collect();
    }
    let items = pickle.items(id).unwrap_or_default();
    items
        .iter()
        .filter_map(|name| pickle.str(*name))
        .map(str::to_owned)
        .collect()
}

/// Plain data as JSON; `None` where it is too deep, too large or not plain.
fn to_json(pickle: &Pickle, id: Id, depth: usize, budget: &mut usize) -> Option<serde_json::Value> {
    use serde_json::Value;
    *budget = budget.checked_sub(1)?;
    let depth = depth.checked_sub(1)?;
    Some(match pickle.node(id) {
        Node::None => Value::Null,
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => Value::from(*value),
        Node::Float(value) => Value::from(*value),
        Node::Str(text) => Value::from(text.as_str()),
        Node::List(items) | Node::Tuple(items) => Value::Array(
            items
                .iter()
                .map(|item| to_json(pickle, *item, depth, budget))
                .collect::<Option<_>>()?,
        ),
        Node::Dict(pairs) => {
            let mut map = serde_json::Map::new();
            for (key, value) in pairs {
                let key = match pickle.node(*key) {
                    Node::Str(text) => text.clone(),
                    Node::Int(number) => number.to_string(),
                    _ => return None,
                };
                map.insert(key, to_json(pickle, *value, depth, budget)?);
            }
            Value::Object(map)
        }
        _ => return None,
    })
}

/// Classes whose computation this program knows, by last name, with the module paths that YOLOv5 and PyTorch use.
const KNOWN: &[&str] = &[
    // PyTorch
    "Sequential",
    "ModuleList",
    "Conv2d",
    "BatchNorm2d",
    "SiLU",
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "Hardswish",
    "Sigmoid",
    "Identity",
    "MaxPool2d",
    "AdaptiveAvgPool2d",
    "Upsample",
    "Linear",
    "Dropout",
    "LayerNorm",
    "MultiheadAttention",
    "NonDynamicallyQuantizableLinear",
    // YOLOv5
    "Model",
    "DetectionModel",
    "Detect",
    "Conv",
    "DWConv",
    "C3",
    "Bottleneck",
    "SPP",
    "SPPF",
    "Focus",
    "Concat",
    "C3TR",
    "TransformerLayer",
    "TransformerBlock",
    "C3SPP",
    "C3Ghost",
    "GhostConv",
    "GhostBottleneck",
];

/// The first module whose class is not known.
pub(super) fn unknown_module(model: &PtModel) -> Option<&PtModule> {
    let known = |class: &str| {
        let (module, name) = class.rsplit_once('.').unwrap_or(("", class));
        let official = module.starts_with("torch.nn.") || module == "models.yolo" || module == "models.common";
        official && KNOWN.contains(&name)
    };
    model.modules.iter().find(|module| !known(&module.class))
}

/// Number of scalars in the state dict, without counters.
pub(super) fn scalars(state: &IndexMap<String, RawTensor>) -> usize {
    state
        .iter()
        .filter(|(key, _)| !key.ends_with("num_batches_tracked"))
        .map(|(_, t)| t.numel())
        .sum()
}
