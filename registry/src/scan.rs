//! What one level of the search path holds, as entries. Reads manifests and metadata sections; loads nothing but libraries without a
//! manifest that the user names in this very call.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::carrier::Source;
use crate::describe::Description;
use crate::entry::{Entry, Fitness};
use crate::error::{Code, PluginError};
use crate::manifest::{Manifest, Packing};
use crate::package::Package;
use crate::search::{Item, Level, items};

/// The entries of one level. The same file met twice counts once.
pub(crate) fn level(level: &Level) -> Vec<Entry> {
    let mut seen = HashSet::new();
    let mut all: Vec<Item> = level.paths.iter().flat_map(|path| items(path)).collect();
    all.retain(|item| {
        let (Item::Manifest(file) | Item::Module(file) | Item::Library(file)) = item;
        seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone()))
    });
    let empty = level
        .paths
        .iter()
        .filter(|path| level.explicit && path.is_dir() && items(path).is_empty());
    let mut entries: Vec<Entry> = empty
        .map(|path| Entry::unreadable(path, Source::Dynamic, nothing_in(path)))
        .collect();
    entries.extend(all.into_iter().flat_map(|item| match item {
        Item::Manifest(file) => of_manifest(&file),
        Item::Module(file) => vec![of_module(&file)],
        Item::Library(file) => of_library(&file, level.explicit && level.paths.contains(&file)),
    }));
    entries
}

/// A folder that the user names and that holds no plugin is a mistake worth an entry.
fn nothing_in(folder: &Path) -> PluginError {
    PluginError::new(Code::NotFound, format!("there is no plugin in `{}`", folder.display())).help(format!(
        "a plugin is a folder with a {}, or a .wasm file",
        crate::MANIFEST_FILE
    ))
}

fn of_manifest(file: &Path) -> Vec<Entry> {
    let manifest = match Manifest::read(file) {
        Ok(manifest) => manifest,
        Err(error) => return vec![Entry::unreadable(file, Source::Dynamic, error)],
    };
    let source = match manifest.library.packing {
        Packing::Dynamic(_) => Source::Dynamic,
        Packing::Wasm(_) => Source::Wasm,
    };
    let misfit = source.carrier().misfit(&manifest);
    let found = manifest.code_file();
    let fitness = match (misfit, &found) {
        (Some(error), _) => Fitness::Incompatible(error),
        (None, Err(error)) => Fitness::Broken(error.clone()),
        (None, Ok(_)) => Fitness::Unverified,
    };
    let path = found.as_deref().unwrap_or(file).to_owned();
    let code = found.ok().map(|file| {
        Arc::new(Package {
            manifest: Some(manifest.clone()),
            file,
        })
    });
    let entry = |provides| Entry {
        fitness: fitness.clone(),
        path: Some(path.clone()),
        code: code.clone(),
        ..Entry::provided(&manifest, provides, source)
    };
    manifest.provides.iter().map(entry).collect()
}

/// The entry of a module that has no manifest, or is looked at without one. Nothing of it is compiled or run.
pub(crate) fn of_module(file: &Path) -> Entry {
    match crate::wasm::describe(file) {
        Ok(about) => Entry {
            path: Some(file.to_owned()),
            code: Some(Arc::new(Package::bare(file))),
            ..Entry::described(about, Source::Wasm)
        },
        Err(error) => Entry::unreadable(file, Source::Wasm, error),
    }
}

/// The entry of a module that is named by its path; one without a description of its own may have a manifest.
pub(crate) fn of_named_module(file: &Path) -> Entry {
    let entry = of_module(file);
    if entry.error().is_none_or(|error| error.code != Code::WasmMetadata) {
        return entry;
    }
    let package = Package::at(file);
    let provided = package.manifest.as_ref().and_then(|manifest| {
        let provides = manifest.provides.first()?;
        Some(Entry::provided(manifest, provides, Source::Wasm))
    });
    match provided {
        Some(provided) => Entry {
            path: Some(file.to_owned()),
            code: Some(Arc::new(package)),
            ..provided
        },
        None => entry,
    }
}

/// A library without a manifest says nothing about itself until it is loaded, which only the user's own word allows.
fn of_library(file: &Path, named: bool) -> Vec<Entry> {
    if !named {
        let error = PluginError::new(
            Code::BadManifest,
            format!("{} has no manifest beside it", file.display()),
        )
        .help(format!(
            "put a {} beside it, or name the file itself with `--plugin`",
            crate::MANIFEST_FILE
        ));
        return vec![Entry::unreadable(file, Source::Dynamic, error)];
    }
    let package = Package::bare(file);
    match crate::dynamic::load_package(&package) {
        Ok(library) => {
            let package = Arc::new(package);
            let entry = |about: &Description| Entry {
                fitness: Fitness::Ok,
                path: Some(file.to_owned()),
                code: Some(package.clone()),
                ..Entry::described(about.clone(), Source::Dynamic)
            };
            library.descriptions().iter().map(entry).collect()
        }
        Err(error) => vec![Entry::unreadable(file, Source::Dynamic, error)],
    }
}
