//! The pickled module tree as plain data: classes, attributes, children, names of tensors.
//!
//! What lives here: the data and how it comes out of the pickle. What must not: what a class computes (see `graph`).

use indexmap::IndexMap;
use serde_json::Value;

use super::pickle::{Id, Node, Pickle};

/// Nesting of an attribute's value.
const MAX_DEPTH: usize = 32;

/// The value of a module's attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// Plain data.
    Value(Value),
    /// A tensor's elements, where it has few (strides).
    Numbers(Vec<f64>),
    /// A method of the module itself, by name (`forward_fuse`).
    Method(String),
    /// Something else: what it is.
    Other(String),
}

/// A module of the pickled model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PtModule {
    /// Path in the model (`model.4.m.0`), empty for the model itself.
    pub path: String,
    /// Full class name (`models.common.Conv`).
    pub class: String,
    /// Attributes but for parameters, buffers and children.
    pub attrs: IndexMap<String, Attr>,
    /// Parameters and buffers of its own, by name; `true` for a parameter.
    pub tensors: IndexMap<String, bool>,
    /// Modules inside, in order.
    pub children: IndexMap<String, PtModule>,
}

impl PtModule {
    /// The class without its Python module.
    pub fn kind(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or_default()
    }

    /// This module and all below it, depth first.
    pub fn walk(&self) -> Vec<&Self> {
        let mut all = vec![self];
        for child in self.children.values() {
            all.extend(child.walk());
        }
        all
    }
}

/// An attribute as plain data. `budget` bounds the values of the whole tree.
pub(super) fn attribute(pickle: &Pickle, id: Id, budget: &mut usize) -> Attr {
    if let Some(value) = plain(pickle, id, MAX_DEPTH, budget) {
        return Attr::Value(value);
    }
    let Some(object) = pickle.object(id) else {
        return Attr::Other(
            match pickle.node(id) {
                Node::Global(name) => return Attr::Other(format!("`{name}`")),
                Node::Dict(_) => "a dict of objects",
                Node::List(_) | Node::Tuple(_) => "a list of objects",
                _ => "no plain value",
            }
            .to_owned(),
        );
    };
    match (pickle.class(object), object.args.as_slice()) {
        ("builtins.getattr" | "__builtin__.getattr", [_, name]) => match pickle.str(*name) {
            Some(name) => Attr::Method(name.to_owned()),
            None => Attr::Other("a method".into()),
        },
        (class, _) if class.starts_with("torch._utils._rebuild_") => Attr::Other("a tensor".into()),
        (class, _) => Attr::Other(format!("a `{class}`")),
    }
}

/// Plain data as JSON; `None` where it is too deep, too large or not plain.
pub(super) fn plain(pickle: &Pickle, id: Id, depth: usize, budget: &mut usize) -> Option<Value> {
    *budget = budget.checked_sub(1)?;
    let depth = depth.checked_sub(1)?;
    let mut all = |items: &[Id]| -> Option<Value> {
        items
            .iter()
            .map(|item| plain(pickle, *item, depth, budget))
            .collect::<Option<_>>()
            .map(Value::Array)
    };
    Some(match pickle.node(id) {
        Node::None => Value::Null,
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => Value::from(*value),
        Node::Float(value) => Value::from(*value),
        Node::Str(text) => Value::from(text.as_str()),
        Node::List(items) | Node::Tuple(items) => return all(items),
        Node::Dict(pairs) => {
            let mut map = serde_json::Map::new();
            for (key, value) in pairs {
                let key = match pickle.node(*key) {
                    Node::Str(text) => text.clone(),
                    Node::Int(number) => number.to_string(),
                    _ => return None,
                };
                map.insert(key, plain(pickle, *value, depth, budget)?);
            }
            Value::Object(map)
        }
        Node::Object(object) if pickle.class(object) == "torch.Size" => {
            return all(pickle.items(*object.args.first()?)?);
        }
        Node::Object(_) => pickle.number(id)?,
        _ => return None,
    })
}
