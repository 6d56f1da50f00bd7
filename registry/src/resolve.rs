//! From a name to a component: linked, in a shared library, in a module, or an error that says what there is instead.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use yolo_core::config::Located;
use yolo_core::model::Resolver;
use yolo_core::model::names::{self, Found, NameError};
use yolo_core::{Backbone, Distiller, Kind, NeckBlock, PruneMetric, Pruner, Quantizer};

use crate::carrier::Source;
use crate::entry::Entry;
use crate::error::{Code, PluginError, Result};
use crate::index::Index;
use crate::scan::of_named_module;
use crate::wasm;

impl Index {
    /// The entry that `name` stands for, where a plugin of this kind is expected.
    ///
    /// # Errors
    /// Two plugins of this name, where one is named on the command line; what is wrong with the only one; or an unknown name.
    pub fn find(&self, kind: Kind, name: &str) -> Result<&Entry, NameError> {
        let named = || {
            self.entries()
                .iter()
                .filter(|entry| entry.kind == Some(kind) && entry.answers_to(name))
        };
        let explicit = |entry: &&Entry| {
            entry
                .level
                .and_then(|at| self.search().levels.get(at))
                .is_some_and(|level| level.explicit)
        };
        // What the user points at must not lose silently against a plugin of the same name.
        if let Some(error) = named().filter(explicit).find_map(Entry::error) {
            return Err(NameError::Unusable(error.clone()));
        }
        if let Some(entry) = named().find(|entry| entry.source == Source::Builtin) {
            return Ok(entry);
        }
        let winner = named().find(|entry| !entry.fitness.is_shadowed());
        let winner = winner.ok_or_else(|| self.unknown(kind, name))?;
        match winner.error() {
            Some(error) => Err(NameError::Unusable(error.clone())),
            None => Ok(winner),
        }
    }

    fn unknown(&self, kind: Kind, name: &str) -> NameError {
        let known: Vec<(Kind, &str)> = self
            .entries()
            .iter()
            .filter_map(|entry| Some((entry.kind?, entry.name.as_str())))
            .collect();
        let elsewhere = self
            .entries()
            .iter()
            .find(|entry| entry.kind.is_some() && entry.answers_to(name));
        let elsewhere = elsewhere.and_then(|entry| Some((entry.kind?, entry.name.as_str())));
        let error = names::unknown(kind, name, elsewhere, &known);
        // A plugin whose manifest can't be read has no name, so it may be the one that is meant.
        let unreadable = self.entries().iter().filter(|entry| entry.kind.is_none()).count();
        match error {
            NameError::Unknown { message, help, code } if unreadable > 0 => {
                let help = format!("{help}\n  note: {unreadable} plugins could not be read, see `yolo list-plugins`");
                NameError::Unknown { message, help, code }
            }
            other => other,
        }
    }

    /// The plugin of this name, whatever its kind; `kind/name` where several kinds have it; or the module in a `.wasm` file.
    ///
    /// # Errors
    /// [`Code::UnknownName`], [`Code::AmbiguousName`], or what is wrong with the plugin.
    pub fn find_any(&self, name: &str) -> Result<Entry> {
        if let Some(path) = module_path(Kind::Metric, name, "") {
            let entry = of_named_module(&path);
            return entry.error().cloned().map_or(Ok(entry), Err);
        }
        let (kind, bare) = match name
            .split_once('/')
            .and_then(|(kind, bare)| Some((Kind::parse(kind)?, bare)))
        {
            Some((kind, bare)) => (Some(kind), bare),
            None => (None, name),
        };
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|wanted| kind.is_none_or(|kind| kind == *wanted))
            .filter(|wanted| {
                self.entries()
                    .iter()
                    .any(|entry| entry.kind == Some(*wanted) && entry.answers_to(bare))
            })
            .collect();
        match kinds[..] {
            [one] => self.find(one, bare).cloned().map_err(plain),
            [] => Err(self.nowhere(kind, bare)),
            _ => {
                let all: Vec<String> = kinds.iter().map(|kind| format!("{}/{bare}", kind.name())).collect();
                let message = format!("`{bare}` stands for several plugins: {}", all.join(", "));
                Err(PluginError::new(Code::AmbiguousName, message)
                    .help(format!("write the kind in front: `{}`", all[0])))
            }
        }
    }

    fn nowhere(&self, kind: Option<Kind>, name: &str) -> PluginError {
        if let Some(kind) = kind {
            return plain(self.unknown(kind, name));
        }
        let names = self
            .entries()
            .iter()
            .filter(|entry| entry.kind.is_some())
            .map(|entry| entry.name.as_str());
        let help = yolo_core::suggest::did_you_mean(name, names)
            .unwrap_or_else(|| "`yolo list-plugins` shows what there is".into());
        PluginError::new(Code::UnknownName, format!("there is no plugin `{name}`")).help(help)
    }
}

impl Resolver for Index {
    fn lookup(&self, kind: Kind, name: &str, file: &str) -> Result<Found, NameError> {
        let resolved = match module_path(kind, name, file) {
            Some(path) => of_named_module(&path).resolve(),
            None => self.find(kind, name)?.resolve(),
        };
        resolved.map_err(NameError::Unusable)
    }

    fn code(&self, name: &str, file: &str) -> Vec<PathBuf> {
        if let Some(path) = module_path(Kind::Metric, name, file) {
            return vec![path];
        }
        let own = self.entries().iter().filter(|entry| entry.answers_to(name));
        own.filter_map(|entry| Some(entry.code.as_ref()?.file.clone()))
            .collect()
    }
}

/// The file that a metric's name points at, if it is a path: beside the configuration, else from the current folder.
fn module_path(kind: Kind, name: &str, file: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    if kind != Kind::Metric || !wasm::is_module(path) {
        return None;
    }
    let beside = Path::new(file)
        .parent()
        .map(|folder| folder.join(path))
        .filter(|path| path.is_file());
    Some(beside.unwrap_or_else(|| path.to_owned()))
}

/// A name error without a place in a file.
fn plain(error: NameError) -> PluginError {
    match error {
        NameError::Unknown { message, help, code } => PluginError::new(code, message).help(help),
        NameError::Unusable(error) => error,
    }
}

/// A core error as one with a code: the one that it is, else a complaint about a value.
fn from_core(error: yolo_core::Error) -> PluginError {
    match error {
        yolo_core::Error::Coded(error) => *error,
        yolo_core::Error::Located(config) => {
            let code = config.code.unwrap_or(Code::BadValue);
            let error = PluginError::new(code, format!("{}: {}", config.file, config.message));
            match config.help {
                Some(help) => error.help(help),
                None => error,
            }
        }
        other => PluginError::new(Code::BadValue, other.to_string()),
    }
}

/// A component by name and options.
fn component<T: DeserializeOwned>(index: &Index, kind: Kind, name: &str, options: Map<String, Value>) -> Result<T> {
    let mut part = Map::new();
    part.insert("type".into(), name.into());
    part.extend(options);
    let config = Located::from_value(name, Value::Object(part));
    names::read(index, &config, "", kind).map_err(from_core)
}

/// The prune metric of this name, or in this `.wasm` file.
///
/// # Errors
/// An unknown name, what is wrong with the plugin, or with its options.
pub fn metric(index: &Index, name: &str, options: Map<String, Value>) -> Result<Box<dyn PruneMetric>> {
    component(index, Kind::Metric, name, options)
}

/// The pruner of this name; metrics in its options may be named in any way.
///
/// # Errors
/// As [`metric`].
pub fn pruner(index: &Index, name: &str, options: Map<String, Value>) -> Result<Box<dyn Pruner>> {
    component(index, Kind::Pruner, name, options)
}

/// The backbone of this name.
///
/// # Errors
/// As [`metric`].
pub fn backbone(index: &Index, name: &str, options: Map<String, Value>) -> Result<Box<dyn Backbone>> {
    component(index, Kind::Backbone, name, options)
}

/// The neck block of this name.
///
/// # Errors
/// As [`metric`].
pub fn neck_block(index: &Index, name: &str, options: Map<String, Value>) -> Result<Box<dyn NeckBlock>> {
    component(index, Kind::NeckBlock, name, options)
}

/// The quantizer of this name.
///
/// # Errors
/// As [`metric`].
pub fn quantizer(index: &Index, name: &str, options: Map<String, Value>) -> Result<Box<dyn Quantizer>> {
    component(index, Kind::Quantizer, name, options)
}

/// The distiller of this name.
///
/// # Errors
/// As [`metric`].
pub fn distiller(index: &Index, name: &str, options: Map<String, Value>) -> Result<Box<dyn Distiller>> {
    component(index, Kind::Distiller, name, options)
}
