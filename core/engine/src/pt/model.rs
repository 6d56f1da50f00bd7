//! From the pickle to a state dict in PyTorch's order, a module tree, and what a checkpoint says about itself.

use std::path::Path;

use super::names;
use super::pickle::{Id, Node, Pickle};
use super::tensor::Tensors;
use super::tree::{Attr, PtModule, attribute, plain};
use super::{PtModel, Source};
use crate::checkpoint::plain_keys;
use crate::raw::RawTensor;
use crate::{Error, Result};

/// Modules can nest this deep.
const MAX_DEPTH: usize = 64;
/// Keys under which state dicts are saved, the average first, as with whole models.
const STATE_KEYS: [&str; 10] = [
    "ema_state_dict",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "ema",
    "model",
    "weights",
    "net",
    "params",
];
/// Those of them that are averages of the trained weights.
const AVERAGES: [&str; 3] = ["ema", "ema_state_dict", "model_ema"];
/// Modules around a model that pass everything on, and the child that holds it.
const WRAPPERS: [(&str, &str); 6] = [
    ("DataParallel", "module"),
    ("DistributedDataParallel", "module"),
    ("FullyShardedDataParallel", "module"),
    ("OptimizedModule", "_orig_mod"),
    ("AutoShape", "model"),
    ("DetectMultiBackend", "model"),
];

/// Tensors by key.
type State = indexmap::IndexMap<String, RawTensor>;

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
    let candidates = [
        (present("ema"), Source::Ema),
        (present("model"), Source::Model),
        (Some(root), Source::Model),
    ];
    let module = candidates
        .into_iter()
        .find_map(|(id, source)| Some((network(pickle, id?)?, source)));
    match module {
        Some((module, source)) => {
            model.source = source;
            let mut walk = Walk {
                tensors,
                model: &mut model,
                budget: pickle.walk_budget(),
                values: 400_000,
            };
            let tree = walk.module(module, "", 0)?;
            model.class.clone_from(&tree.class);
            model.tree = Some(tree);
            attributes(tensors, module, &mut model)?;
            if source == Source::Model {
                average(tensors, &mut model)?;
            }
        }
        None => {
            model.source = Source::StateDict;
            state_dict(tensors, &mut model)?;
            if let Some(id) = present("names") {
                match names::read(&path, pickle, id, None) {
                    Ok(read) => {
                        model.names = read.names;
                        model.notes.extend(read.notes);
                    }
                    Err(_) => model
                        .notes
                        .push("its `names` are no names of classes and are left out".into()),
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

/// The network that a value of the checkpoint is: itself, or what it wraps (`DistributedDataParallel`, the average's own object, the
/// pair of average and counter that early versions saved).
fn network(pickle: &Pickle, id: Id) -> Option<Id> {
    let mut id = id;
    for _ in 0..8 {
        if let Node::Tuple(items) = pickle.node(id) {
            id = *items.first()?;
            continue;
        }
        let object = pickle.object(id)?;
        let kind = pickle.class(object).rsplit('.').next().unwrap_or_default();
        let Some(children) = pickle.attr(id, "_modules") else {
            // `ModelEMA` is no module itself.
            id = pickle.attr(id, "ema")?;
            continue;
        };
        match WRAPPERS.iter().find(|(class, _)| *class == kind) {
            Some((_, child)) => id = pickle.get(children, child)?,
            None => return Some(id),
        }
    }
    None
}

/// Visits modules as `Module.state_dict` does: parameters, buffers, then children.
struct Walk<'a, 'b> {
    tensors: &'a mut Tensors<'b>,
    model: &'a mut PtModel,
    /// Modules that may still be visited.
    budget: usize,
    /// Attribute values that may still be copied.
    values: usize,
}

impl Walk<'_, '_> {
    fn module(&mut self, id: Id, prefix: &str, depth: usize) -> Result<PtModule> {
        let pickle = self.tensors.pickle;
        self.budget = self.budget.saturating_sub(1);
        if depth > MAX_DEPTH || self.budget == 0 {
            return Err(self.fail(format!("its modules contain themselves (at `{prefix}`)")));
        }
        let Some(object) = pickle.object(id) else {
            return Err(self.fail(format!("`{prefix}` should be a module but is something else")));
        };
        let mut module = PtModule {
            path: prefix.to_owned(),
            class: pickle.class(object).to_owned(),
            ..PtModule::default()
        };
        self.own_attributes(id, &mut module)?;
        if module.kind() == "Detect" {
            self.model.detect = Some(prefix.to_owned());
        }
        self.own_tensors(id, &mut module)?;
        for (name, child) in self.entries(id, "_modules", prefix)? {
            let path = join(prefix, &name);
            let child = self.module(child, &path, depth + 1)?;
            module.children.insert(name, child);
        }
        Ok(module)
    }

    /// Parameters and buffers.
    fn own_tensors(&mut self, id: Id, module: &mut PtModule) -> Result<()> {
        let pickle = self.tensors.pickle;
        let transient: Vec<&str> = pickle
            .attr(id, "_non_persistent_buffers_set")
            .and_then(|set| pickle.items(set))
            .unwrap_or_default()
            .iter()
            // What is no text names no buffer.
            .filter_map(|name| pickle.str(*name))
            .collect();
        for store in ["_parameters", "_buffers"] {
            for (name, value) in self.entries(id, store, &module.path)? {
                if transient.contains(&name.as_str()) {
                    continue;
                }
                let full = join(&module.path, &name);
                let tensor = self
                    .tensors
                    .resolve(value, &full)?
                    .ok_or_else(|| self.fail(format!("`{full}` should be a tensor but is something else")))?;
                module.tensors.insert(name, store == "_parameters");
                self.model.state.insert(full, tensor);
            }
        }
        Ok(())
    }

    /// The pairs of a module's dict that are not `None`.
    fn entries(&self, id: Id, store: &str, prefix: &str) -> Result<Vec<(String, Id)>> {
        let pickle = self.tensors.pickle;
        let mut entries = indexmap::IndexMap::new();
        let pairs = pickle.attr(id, store).and_then(|dict| pickle.pairs(dict));
        for (key, value) in pairs.unwrap_or_default() {
            let Some(name) = pickle.str(*key) else {
                return Err(self.fail(format!("`{prefix}` has a part in `{store}` whose name is no text")));
            };
            // A key that is set again keeps its place, as in Python.
            entries.insert(name.to_owned(), *value);
        }
        entries.retain(|_, value| !matches!(pickle.node(*value), Node::None));
        Ok(entries.into_iter().collect())
    }

    /// What a module's dict holds besides parameters, buffers and children.
    fn own_attributes(&mut self, id: Id, module: &mut PtModule) -> Result<()> {
        let pickle = self.tensors.pickle;
        let state = pickle.object(id).and_then(|object| object.state);
        let pairs = state.and_then(|state| pickle.pairs(state)).unwrap_or_default();
        for (key, value) in pairs {
            let Some(name) = pickle.str(*key) else { continue };
            if ["_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"].contains(&name) {
                continue;
            }
            let attr = if name == "stride"
                && module.kind() == "Detect"
                && let Some(tensor) = self.tensors.resolve(*value, "stride")?
            {
                Attr::Numbers(tensor.to_f64())
            } else {
                attribute(pickle, *value, &mut self.values)
            };
            module.attrs.insert(name.to_owned(), attr);
        }
        Ok(())
    }

    fn fail(&self, reason: String) -> Error {
        Error::file(&self.tensors.path, reason)
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// Tensors of a plain dict, or of the one dict of tensors inside it.
fn state_dict(tensors: &mut Tensors<'_>, model: &mut PtModel) -> Result<()> {
    let pickle = tensors.pickle;
    let root = pickle.root();
    let holds_tensors = |id: Id| holds_tensors(pickle, id);
    let named = |key: &str| pickle.get(root, key).filter(|id| holds_tensors(*id));
    let found = STATE_KEYS.iter().filter_map(|key| Some((*key, named(key)?)));
    let found: Vec<(&str, Id)> = found.collect();
    if let [(taken, _), others @ ..] = &found[..]
        && !others.is_empty()
    {
        let others: Vec<String> = others.iter().map(|(key, _)| format!("`{key}`")).collect();
        model.notes.push(format!(
            "it holds several dicts of tensors: `{taken}` is taken, {} is not",
            others.join(", ")
        ));
    }
    let dict = match found.first() {
        Some((_, dict)) => *dict,
        None if holds_tensors(root) => root,
        None => {
            let all = pickle.pairs(root).unwrap_or_default();
            let inside: Vec<&(Id, Id)> = all.iter().filter(|(_, value)| holds_tensors(*value)).collect();
            match inside[..] {
                [] => root,
                [(_, only)] => *only,
                _ => {
                    let keys: Vec<&str> = inside.iter().map(|(key, _)| pickle.str(*key).unwrap_or("?")).collect();
                    return Err(Error::file(
                        &tensors.path,
                        format!(
                            "it holds several dicts of tensors ({}): save the one of the model alone, `torch.save(model.state_dict(), FILE)`",
                            keys.join(", ")
                        ),
                    ));
                }
            }
        }
    };
    let (state, odd) = tensors_of(tensors, dict)?;
    let odd = odd.into_iter().filter(|name| dict != root || name != "names");
    (model.notes).extend(odd.map(|name| format!("`{name}` in it is no tensor with a name and is left out")));
    model.state = state;
    Ok(())
}

/// The tensors of a dict by the keys of the model itself, and the names of what else is in it.
fn tensors_of(tensors: &mut Tensors<'_>, dict: Id) -> Result<(State, Vec<String>)> {
    let pickle = tensors.pickle;
    let (mut state, mut odd) = (State::new(), Vec::new());
    for (key, value) in pickle.pairs(dict).unwrap_or_default() {
        let name = pickle.str(*key).unwrap_or("?");
        match tensors.resolve(*value, name)? {
            Some(tensor) if pickle.str(*key).is_some() => {
                state.insert(name.to_owned(), tensor);
            }
            _ => odd.push(name.to_owned()),
        }
    }
    let renamed = plain_keys(state.keys().map(String::as_str));
    Ok((renamed.into_iter().zip(state.into_values()).collect(), odd))
}

/// The averaged weights take the place of the trained ones where the file holds them as a plain dict beside the module.
fn average(tensors: &mut Tensors<'_>, model: &mut PtModel) -> Result<()> {
    let pickle = tensors.pickle;
    let found = (AVERAGES.iter()).find_map(|key| {
        Some((
            *key,
            pickle.get(pickle.root(), key).filter(|id| holds_tensors(pickle, *id))?,
        ))
    });
    let Some((key, dict)) = found else { return Ok(()) };
    let (state, _) = tensors_of(tensors, dict)?;
    let fits = |name: &String| {
        let own = model.state.get(name);
        own.zip(state.get(name))
            .is_some_and(|(own, new)| own.shape == new.shape)
    };
    // Some averages hold parameters alone, without statistics and counters.
    let parameters = |tree: &PtModule| -> Vec<String> {
        let of = |module: &PtModule| -> Vec<String> {
            let named = module.tensors.iter().filter(|(_, parameter)| **parameter);
            named.map(|(name, _)| join(&module.path, name)).collect()
        };
        tree.walk().into_iter().flat_map(of).collect()
    };
    let wanted = model.tree.as_ref().map(parameters).unwrap_or_default();
    if let Some(missing) = wanted.iter().find(|name| !fits(name)) {
        model.notes.push(format!(
            "its averaged weights, `{key}`, are not those of the module in `model` (`{missing}`): they are left out, `model` is taken"
        ));
        return Ok(());
    }
    for (name, tensor) in state {
        if let Some(own) = model.state.get_mut(&name).filter(|own| own.shape == tensor.shape) {
            *own = tensor;
        }
    }
    model.source = Source::Ema;
    model.notes.push(format!(
        "the averaged weights, `{key}`, are taken, those of `model` are not"
    ));
    Ok(())
}

/// Whether it is a dict with tensors in it.
fn holds_tensors(pickle: &Pickle, id: Id) -> bool {
    (pickle.pairs(id)).is_some_and(|pairs| pairs.iter().any(|(_, value)| is_tensor(pickle, *value)))
}

fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    let class = pickle.object(id).map(|object| pickle.class(object)).unwrap_or_default();
    class.starts_with("torch._utils._rebuild_") || class == "torch._tensor._rebuild_from_type_v2"
}

/// Names, strides, anchors, configuration.
fn attributes(tensors: &mut Tensors<'_>, module: Id, model: &mut PtModel) -> Result<()> {
    let pickle = tensors.pickle;
    if let Some(yaml) = pickle.attr(module, "yaml") {
        let mut budget = 100_000;
        model.yaml = plain(pickle, yaml, 32, &mut budget);
    }
    let head = model.tree.as_ref().and_then(|tree| {
        let detect = model.detect.as_deref()?;
        tree.walk().into_iter().find(|module| module.path == detect)
    });
    let own_stride = head.and_then(|head| head.attrs.get("stride"));
    if let Some(Attr::Numbers(strides)) = own_stride {
        model.strides.clone_from(strides);
    } else if let Some(stride) = pickle.attr(module, "stride")
        && let Some(tensor) = tensors.resolve(stride, "stride")?
    {
        model.strides = tensor.to_f64();
    }
    let own_count = head.and_then(|head| match head.attrs.get("nc") {
        Some(Attr::Value(count)) => count.as_i64(),
        _ => None,
    });
    model.classes = own_count
        .or_else(|| pickle.attr(module, "nc").and_then(|nc| pickle.int(nc)))
        .or_else(|| model.yaml.as_ref()?.get("nc")?.as_i64());
    if let Some(id) = pickle.attr(module, "names") {
        let read = names::read(&tensors.path, pickle, id, model.classes)?;
        model.names = read.names;
        model.notes.extend(read.notes);
    }
    model.classes = model
        .classes
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

/// Number of scalars in the state dict, without counters.
pub(super) fn scalars(state: &State) -> usize {
    state
        .iter()
        .filter(|(key, _)| !key.ends_with("num_batches_tracked"))
        .map(|(_, t)| t.numel())
        .sum()
}
