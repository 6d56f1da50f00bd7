//! Arguments of a module in a layer list.

use std::cell::Cell;

use serde_json::Value;

use crate::{Error, Feat, Result};

/// A module as a layer list calls it.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Its name.
    pub module: &'static str,
    /// What it reads.
    pub(super) inputs: Vec<Feat>,
    /// Whether the module has asked for all of them.
    pub(super) joins: Cell<bool>,
    /// Its width: scaled, and reduced where a pruned list says so.
    pub channels: i64,
    /// Its width before pruning.
    pub full_channels: i64,
    /// Repeats inside.
    pub repeats: i64,
    /// Arguments after the width.
    pub args: &'a [Value],
    /// Arguments before those: the width, where the module takes one.
    pub(super) before: usize,
}

/// Python literals that YAML leaves as text: `None`, `True`, `False`. All other text stays text.
pub(super) fn literal(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.as_str() {
            "None" => Value::Null,
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            other => other.parse::<i64>().map(Value::from).unwrap_or_else(|_| value.clone()),
        },
        Value::Array(items) => items.iter().map(literal).collect(),
        other => other.clone(),
    }
}

impl Call<'_> {
    /// The value that this reads. A list that gives several to a module that asks for one is refused.
    pub fn input(&self) -> Feat {
        self.inputs[0]
    }

    /// All values that this reads.
    pub fn inputs(&self) -> &[Feat] {
        self.joins.set(true);
        &self.inputs
    }

    fn wrong(&self, index: usize, wanted: &str) -> Error {
        let got = self.args.get(index).map_or("nothing".into(), Value::to_string);
        Error::Build {
            plugin: self.module.to_owned(),
            reason: format!("argument {} must be {wanted}, not {got}", index + 1 + self.before),
        }
    }

    /// Refuses arguments beyond the first `count`: nothing that stands in a list is left out.
    pub fn at_most(&self, count: usize) -> Result<()> {
        match self.args.get(count) {
            None => Ok(()),
            Some(value) => Err(Error::Build {
                plugin: self.module.to_owned(),
                reason: format!(
                    "argument {} (`{value}`) has no meaning here: it takes {}",
                    count + 1 + self.before,
                    count + self.before
                ),
            }),
        }
    }

    /// Refuses an argument that is neither absent nor the value that the module computes with.
    pub fn only(&self, index: usize, wanted: &Value) -> Result<()> {
        match self.given(index) {
            Some(value)
                if value != wanted && !(wanted.is_boolean() && value.as_i64() == wanted.as_bool().map(i64::from)) =>
            {
                Err(Error::Build {
                    plugin: self.module.to_owned(),
                    reason: format!(
                        "argument {} is {value}: only {wanted} can be expressed",
                        index + 1 + self.before
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    fn given(&self, index: usize) -> Option<&Value> {
        self.args.get(index).filter(|value| !value.is_null())
    }

    /// A whole number; without it `default`.
    pub fn int(&self, index: usize, default: i64) -> Result<i64> {
        match self.given(index) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(i64::from(*flag)),
            Some(value) => value.as_i64().ok_or_else(|| self.wrong(index, "a whole number")),
        }
    }

    /// A whole number that must be there.
    pub fn needed_int(&self, index: usize) -> Result<i64> {
        self.given(index)
            .and_then(Value::as_i64)
            .ok_or_else(|| self.wrong(index, "a whole number"))
    }

    /// A side of a square: `k` or `[k, k]`.
    pub fn side(&self, index: usize, default: i64) -> Result<i64> {
        match self.given(index) {
            Some(Value::Array(pair)) => match pair.as_slice() {
                [a, b] if a == b => a.as_i64(),
                _ => None,
            }
            .ok_or_else(|| self.wrong(index, "a whole number or two equal ones")),
            _ => self.int(index, default),
        }
    }

    /// A number.
    pub fn float(&self, index: usize, default: f64) -> Result<f64> {
        match self.given(index) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(index, "a number")),
        }
    }

    /// Parts of a width, each above 0 and at most 1 (one number counts as a list of one).
    pub fn shares(&self, index: usize, default: &[f64]) -> Result<Vec<f64>> {
        let shares = self.floats(index, default)?;
        match shares.iter().all(|share| *share > 0.0 && *share <= 1.0) {
            true => Ok(shares),
            false => Err(self.wrong(index, "a part of a width (above 0, at most 1) or a list of them")),
        }
    }

    /// True or false; 0 and 1 count.
    pub fn flag(&self, index: usize, default: bool) -> Result<bool> {
        match self.given(index) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => match value.as_i64() {
                Some(0) => Ok(false),
                Some(1) => Ok(true),
                _ => Err(self.wrong(index, "true or false")),
            },
        }
    }

    /// A list of numbers (one number counts as a list of one).
    pub fn floats(&self, index: usize, default: &[f64]) -> Result<Vec<f64>> {
        let all = |items: &[Value]| items.iter().map(Value::as_f64).collect::<Option<Vec<_>>>();
        match self.given(index) {
            None => Some(default.to_vec()),
            Some(Value::Array(items)) => all(items),
            Some(value) => all(std::slice::from_ref(value)),
        }
        .ok_or_else(|| self.wrong(index, "a list of numbers"))
    }

    /// A list of whole numbers (one number counts as a list of one).
    pub fn ints(&self, index: usize, default: &[i64]) -> Result<Vec<i64>> {
        let all = |items: &[Value]| items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>();
        match self.given(index) {
            None => Some(default.to_vec()),
            Some(Value::Array(items)) => all(items),
            Some(value) => all(std::slice::from_ref(value)),
        }
        .ok_or_else(|| self.wrong(index, "a list of whole numbers"))
    }
}
