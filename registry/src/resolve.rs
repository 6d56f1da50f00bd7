//! From a name to a component: linked, in a shared library, in a module, or an error that says what there is instead.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use yolo_core::config::Located;
use yolo_core::model::Resolver;
use yolo_core::model::names::{self, Found, NameError};
use yolo_core::{Backbone, Kind, NeckBlock, PluginInfo, PruneMetric, Pruner, Quantizer};

use crate::describe::Description;
use crate::error::{Code, PluginError, Result};
use crate::index::{Index, Package, Row, Source, Status, of_module};
use crate::{dynamic, wasm};

impl Index {
    /// The row that `name` stands for, where a plugin of this kind is expected.
    ///
    /// # Errors
    /// Two plugins of this name, where one is named on the command line; what is wrong with the only one; or an unknown name.
    pub fn find(&self, kind: Kind, name: &str) -> Result<&Row, NameError> {
        let rows = || {
            self.rows()
                .iter()
                .filter(|row| row.kind == Some(kind) && row.answers_to(name))
        };
        let explicit = |row: &&Row| {
            row.level
                .and_then(|at| self.search().levels.get(at))
                .is_some_and(|level| level.explicit)
        };
        // What the user points at must not lose silently against a plugin of the same name.
        if let Some(error) = rows().filter(explicit).find_map(|row| row.error.as_ref()) {
            return Err(unusable(error.clone()));
        }
        if let Some(row) = rows().find(|row| row.source == Source::Builtin) {
            return Ok(row);
        }
        match rows().find(|row| row.status != Status::Shadowed) {
            Some(Row { error: Some(error), .. }) => Err(unusable(error.clone())),
            Some(row) => Ok(row),
            None => Err(self.unknown(kind, name)),
        }
    }

    fn unknown(&self, kind: Kind, name: &str) -> NameError {
        let known: Vec<(Kind, &str)> = self
            .rows()
            .iter()
            .filter_map(|row| Some((row.kind?, row.name.as_str())))
            .collect();
        let elsewhere = self
            .rows()
            .iter()
            .find(|row| row.kind.is_some() && row.answers_to(name));
        let elsewhere = elsewhere.and_then(|row| Some((row.kind?, row.name.as_str())));
        let error = names::unknown(kind, name, elsewhere, &known);
        // A plugin whose manifest can't be read has no name, so it may be the one that is meant.
        let unreadable = self.rows().iter().filter(|row| row.kind.is_none()).count();
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
    pub fn find_any(&self, name: &str) -> Result<Row> {
        if let Some(path) = module_path(Kind::Metric, name, "") {
            let row = of_module_or_package(&path);
            return row.error.clone().map_or(Ok(row), Err);
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
                self.rows()
                    .iter()
                    .any(|row| row.kind == Some(*wanted) && row.answers_to(bare))
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

    /// How a plugin describes itself. Loads it, if it is not linked in.
    ///
    /// # Errors
    /// What is wrong with its library or module.
    pub fn describe(&self, row: &Row) -> Result<Description> {
        if let Some(error) = &row.error {
            return Err(error.clone());
        }
        let missing = || PluginError::new(Code::ManifestDrift, format!("`{}` is not in its library", row.name));
        let (Some(kind), code) = (row.kind, &row.code) else {
            return Err(missing());
        };
        match (row.source, code) {
            (Source::Wasm, Some(package)) => Ok(wasm::load(package, &row.name)?.about.clone()),
            (Source::Dynamic, Some(package)) => {
                let library = dynamic::load_package(package)?;
                library.description(kind, &row.name).cloned().ok_or_else(missing)
            }
            _ => {
                let info = PluginInfo::linked()
                    .into_iter()
                    .find(|info| info.kind == kind && info.name == row.name);
                info.map(Description::from).ok_or_else(missing)
            }
        }
    }

    fn nowhere(&self, kind: Option<Kind>, name: &str) -> PluginError {
        if let Some(kind) = kind {
            return plain(self.unknown(kind, name));
        }
        let names = self
            .rows()
            .iter()
            .filter(|row| row.kind.is_some())
            .map(|row| row.name.as_str());
        let help = yolo_core::suggest::did_you_mean(name, names)
            .unwrap_or_else(|| "`yolo list-plugins` shows what there is".into());
        PluginError::new(Code::UnknownName, format!("there is no plugin `{name}`")).help(help)
    }
}

impl Resolver for Index {
    fn lookup(&self, kind: Kind, name: &str, file: &str) -> Result<Found, NameError> {
        if let Some(path) = module_path(kind, name, file) {
            let row = of_module_or_package(&path);
            return match row.error {
                Some(error) => Err(unusable(error)),
                None => foreign(&row),
            };
        }
        let row = self.find(kind, name)?;
        match row.source {
            Source::Builtin => PluginInfo::linked()
                .into_iter()
                .find(|info| info.kind == kind && info.name == row.name)
                .map(|info| Found::Linked(info.name))
                .ok_or_else(|| self.unknown(kind, name)),
            Source::Dynamic | Source::Wasm => foreign(row),
        }
    }
}

/// The file that a metric's name points at, if it is a path: beside the configuration, else from the current folder.
fn module_path(kind: Kind, name: &str, file: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let is_module = path.extension().is_some_and(|e| e == "wasm" || e == "wat");
    if kind != Kind::Metric || !is_module {
        return None;
    }
    let beside = Path::new(file)
        .parent()
        .map(|folder| folder.join(path))
        .filter(|path| path.is_file());
    Some(beside.unwrap_or_else(|| path.to_owned()))
}

/// The row of a module that is named by its path; one without a description of its own may have a manifest.
fn of_module_or_package(path: &Path) -> Row {
    let mut row = of_module(path);
    let package = Package::at(path);
    if let (
        Some(PluginError {
            code: Code::WasmMetadata,
            ..
        }),
        Some(manifest),
    ) = (&row.error, &package.manifest)
        && let Some(entry) = manifest.provides.first()
    {
        row.name.clone_from(&entry.name);
        row.kind = Some(entry.kind);
        row.error = None;
        row.code = Some(package.into());
    }
    row
}

/// Loads what stands behind a row and says how a configuration names it from now on.
fn foreign(row: &Row) -> Result<Found, NameError> {
    let Some(package) = &row.code else {
        let message = format!("`{}` has no code", row.name);
        return Err(unusable(PluginError::new(Code::NotFound, message)));
    };
    match row.source {
        Source::Wasm => {
            wasm::load(package, &row.name).map_err(unusable)?;
            let fields = json!({"path": package.file, "name": row.name});
            Ok(Found::Foreign {
                tag: wasm::TAG,
                fields: fields.as_object().cloned().unwrap_or_default(),
            })
        }
        Source::Dynamic | Source::Builtin => {
            dynamic::load_package(package).map_err(unusable)?;
            let fields = json!({"plugin": package.name(), "name": row.name});
            Ok(Found::Foreign {
                tag: dynamic::TAG,
                fields: fields.as_object().cloned().unwrap_or_default(),
            })
        }
    }
}

fn unusable(error: PluginError) -> NameError {
    NameError::Unusable(error.into())
}

/// A name error without a place in a file.
fn plain(error: NameError) -> PluginError {
    match error {
        NameError::Unknown { message, help, code } => PluginError::new(code.into(), message).help(help),
        NameError::Unusable(error) => from_core(error),
    }
}

/// A core error as one of ours: ours if it was one, else a complaint about a value.
fn from_core(error: yolo_core::Error) -> PluginError {
    match error {
        yolo_core::Error::Other(inner) => match inner.downcast::<PluginError>() {
            Ok(ours) => *ours,
            Err(other) => PluginError::new(Code::BadValue, other.to_string()),
        },
        yolo_core::Error::Located(config) => {
            let code = config.code.map_or(Code::BadValue, Code::from);
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
