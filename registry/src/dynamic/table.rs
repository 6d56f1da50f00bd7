//! What this process knows of plugins outside of it: the libraries that are loaded, and where those lie that are not. Append-only,
//! and the only thing in the program that is global: a component is read from a configuration or a checkpoint by serde, which brings
//! nothing along, and what has been loaded stays loaded.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde_json::{Map, Value};
use yolo_core::{Kind, suggest};

use super::library::Library;
use crate::error::{Code, PluginError, Result};
use crate::package::Package;

#[derive(Debug, Default)]
struct Table {
    loaded: Vec<(PathBuf, &'static Library)>,
    packages: Vec<Package>,
    parts: Vec<Part>,
}

/// How a configuration names a component that lives outside of the program: `{type: tag, ...fields, options: {...}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// The loader's own component.
    pub tag: &'static str,
    /// What the loader needs.
    pub fields: Map<String, Value>,
}

static TABLE: RwLock<Table> = RwLock::new(Table {
    loaded: Vec::new(),
    packages: Vec::new(),
    parts: Vec::new(),
});

fn read<T>(look: impl FnOnce(&Table) -> T) -> T {
    look(&TABLE.read().unwrap_or_else(PoisonError::into_inner))
}

fn write<T>(change: impl FnOnce(&mut Table) -> T) -> T {
    change(&mut TABLE.write().unwrap_or_else(PoisonError::into_inner))
}

/// Makes a package known, so that components of it can be read; loads nothing. What is announced last is found first.
pub fn announce(package: &Package) {
    write(|table| {
        if table.packages.last() != Some(package) {
            table.packages.retain(|other| other != package);
            table.packages.push(package.clone());
        }
    });
}

/// Makes a component known by name, for pruners that name a metric.
pub fn announce_part(part: Part) {
    write(|table| {
        table.parts.retain(|other| *other != part);
        table.parts.push(part);
    });
}

/// The component of this kind that answers to `name`.
pub(super) fn part(kind: Kind, name: &str) -> Option<Part> {
    let answers = |own: &str| suggest::normalise(own) == suggest::normalise(name);
    read(|table| {
        let fits = |part: &&Part| {
            part.kind == kind && (answers(&part.name) || part.aliases.iter().any(|alias| answers(alias)))
        };
        table.parts.iter().rev().find(fits).cloned()
    })
}

/// The library of the package of this name, loaded if it was not.
pub(super) fn library(plugin: &str) -> Result<&'static Library> {
    let package = read(|table| {
        table
            .packages
            .iter()
            .rev()
            .find(|package| package.name() == plugin)
            .cloned()
    });
    let Some(package) = package else {
        return Err(PluginError::new(Code::NotFound, format!("there is no plugin `{plugin}` in the search path"))
            .help("name its library or folder with `--plugin PATH`; `yolo list-plugins -v` shows where plugins are looked for"));
    };
    super::load_package(&package)
}

/// The library at `path`, loaded if it was not. Failures are not remembered: what was wrong may have been put right.
///
/// # Errors
/// Everything that can be wrong with a library.
pub fn load(path: &Path, crate_name: Option<&str>) -> Result<&'static Library> {
    // One file under several names is loaded once, as the system's loader does.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let find = |table: &Table| {
        table
            .loaded
            .iter()
            .find(|(at, _)| *at == real)
            .map(|(_, library)| *library)
    };
    if let Some(library) = read(find) {
        return Ok(library);
    }
    let library = Library::open(&real, crate_name)?;
    Ok(write(|table| match find(table) {
        // Another thread was faster.
        Some(library) => library,
        None => {
            let library: &'static Library = Box::leak(Box::new(library));
            table.loaded.push((real.clone(), library));
            library
        }
    }))
}

/// Takes a table of this very process for a library, for tests of the boundary.
///
/// # Errors
/// As [`load`].
#[doc(hidden)]
pub fn adopt(name: &str, table: &'static yolo_abi::YoloPluginV1) -> Result<&'static Library> {
    let path = PathBuf::from(format!("<{name}>"));
    let library: &'static Library = Box::leak(Box::new(Library::check(&path, name, table)?));
    write(|table| table.loaded.push((path.clone(), library)));
    announce(&Package::bare(&path));
    Ok(library)
}
