//! Every plugin there is: the linked ones, and what the search path holds. Reads manifests and metadata sections. Loads nothing but
//! libraries without a manifest that the user names on the command line.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use yolo_core::{Kind, PluginInfo};

use crate::describe::{Description, Paper, answers_to};
use crate::error::{Code, PluginError};
use crate::manifest::{Manifest, Packing, Provides, version_pair};
use crate::search::{Item, Level, SearchPath, items, same_file};

/// How a plugin comes into the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Linked in.
    Builtin,
    /// A shared library.
    Dynamic,
    /// A WebAssembly module.
    Wasm,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 3] = [Self::Builtin, Self::Dynamic, Self::Wasm];

    /// The word in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Dynamic => "dynamic",
            Self::Wasm => "wasm",
        }
    }
}

/// What is known about a plugin's fitness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It works: linked in, or loaded and checked.
    Ok,
    /// It has not been loaded yet.
    Unverified,
    /// An earlier level of the search path has one of the same name.
    Shadowed,
    /// It was built for another yolo or libtorch.
    Incompatible,
    /// It can't be used.
    Broken,
}

impl Status {
    /// The word in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unverified => "unverified",
            Self::Shadowed => "shadowed",
            Self::Incompatible => "incompatible",
            Self::Broken => "broken",
        }
    }
}

/// The code behind a plugin that is not linked in.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// What its manifest says; bare modules and libraries have none.
    pub manifest: Option<Manifest>,
    /// The library or module.
    pub file: PathBuf,
}

impl Package {
    /// The package of a library or module: with the manifest beside it, if that speaks of this file.
    pub fn at(file: &Path) -> Self {
        let manifest = file
            .parent()
            .unwrap_or_else(|| Path::new("."))
            .join(crate::MANIFEST_FILE);
        let manifest = manifest.is_file().then(|| Manifest::read(&manifest).ok()).flatten();
        let speaks = |manifest: &Manifest| manifest.code_file().is_ok_and(|code| same_file(&code, file));
        Self {
            manifest: manifest.filter(speaks),
            file: file.to_owned(),
        }
    }

    /// The name to use in messages: the package's, else the file's.
    pub fn name(&self) -> String {
        match &self.manifest {
            Some(manifest) => manifest.name.clone(),
            None => file_name(&self.file),
        }
    }
}

/// One plugin, or one thing in the search path that should be one.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is; unknown where it could not be read.
    pub kind: Option<Kind>,
    /// Its name.
    pub name: String,
    /// Other accepted names.
    pub aliases: Vec<String>,
    /// Version of its package.
    pub version: String,
    /// How it comes in.
    pub source: Source,
    /// Whether it works.
    pub status: Status,
    /// Its library, module or manifest.
    pub path: Option<PathBuf>,
    /// Its package.
    pub package: String,
    /// SPDX expression.
    pub license: String,
    /// Who wrote it.
    pub authors: Vec<String>,
    /// One line.
    pub summary: String,
    /// The publication.
    pub paper: Option<Paper>,
    /// Number of options, where it is known without loading.
    pub options: Option<usize>,
    /// Why it can't be used.
    pub error: Option<PluginError>,
    /// Which level of the search path it is from; `None` for linked ones.
    pub level: Option<usize>,
    /// Its code.
    pub code: Option<Arc<Package>>,
}

impl Row {
    /// Whether it answers to this name (case, `-`, `_`, `.` and blanks don't matter).
    pub fn answers_to(&self, name: &str) -> bool {
        answers_to(&self.name, &self.aliases, name)
    }

    /// What may not be there twice: its kind with each of its names, as they are compared.
    fn keys(&self) -> impl Iterator<Item = (Kind, String)> {
        let names = std::iter::once(&self.name).chain(&self.aliases);
        names.filter_map(|name| Some((self.kind?, yolo_core::suggest::normalise(name))))
    }

    fn is_of_the_file_of(&self, other: &Self) -> bool {
        matches!((&self.path, &other.path), (Some(a), Some(b)) if same_file(a, b))
    }

    /// The row as `yolo list-plugins --json` prints it.
    pub fn to_json(&self) -> Value {
        json!({
            "kind": self.kind.map(Kind::name),
            "name": self.name,
            "aliases": self.aliases,
            "version": self.version,
            "source": self.source.name(),
            "status": self.status.name(),
            "summary": self.summary,
            "path": self.path.as_ref().map(|path| path.display().to_string()),
            "package": self.package,
            "license": self.license,
            "authors": self.authors,
            "paper": self.paper,
            "options": self.options,
            "error": self.error.as_ref().map(PluginError::to_json),
        })
    }

    /// Where it comes from, for messages that compare two.
    pub fn origin(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("{} {}", self.package, self.version),
        }
    }

    fn linked(info: &PluginInfo) -> Self {
        let about = Description::from(info);
        Self {
            status: Status::Ok,
            ..Self::described(about, Source::Builtin)
        }
    }

    fn described(about: Description, source: Source) -> Self {
        Self {
            kind: Some(about.kind),
            options: Some(about.options()),
            name: about.name,
            aliases: about.aliases,
            version: about.version,
            source,
            status: Status::Unverified,
            path: None,
            package: about.package,
            license: about.license,
            authors: about.authors,
            summary: about.summary,
            paper: about.paper,
            error: None,
            level: None,
            code: None,
        }
    }

    fn provided(manifest: &Manifest, entry: &Provides, source: Source) -> Self {
        Self {
            kind: Some(entry.kind),
            name: entry.name.clone(),
            aliases: entry.aliases.clone(),
            version: manifest.version.clone(),
            source,
            status: Status::Unverified,
            path: None,
            package: manifest.name.clone(),
            license: manifest.license.clone(),
            authors: manifest.authors.clone(),
            summary: if entry.summary.is_empty() {
                manifest.description.clone()
            } else {
                entry.summary.clone()
            },
            paper: entry.paper.clone(),
            options: None,
            error: None,
            level: None,
            code: None,
        }
    }

    fn unreadable(path: &Path, source: Source, error: PluginError) -> Self {
        let named_by = if path.file_name().is_some_and(|name| name == crate::MANIFEST_FILE) {
            path.parent()
        } else {
            None
        };
        Self {
            kind: None,
            name: file_name(named_by.unwrap_or(path)),
            aliases: Vec::new(),
            version: String::new(),
            source,
            status: Status::Broken,
            path: Some(path.to_owned()),
            package: String::new(),
            license: String::new(),
            authors: Vec::new(),
            summary: String::new(),
            paper: None,
            options: None,
            error: Some(error),
            level: None,
            code: None,
        }
    }

    fn fail(&mut self, status: Status, error: PluginError) {
        self.status = status;
        self.error = Some(error);
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// All plugins, sorted by kind and name within their source.
#[derive(Debug, Clone, Default)]
pub struct Index {
    rows: Vec<Row>,
    search: SearchPath,
}

impl Index {
    /// The linked plugins only.
    pub fn linked() -> Self {
        Self {
            rows: PluginInfo::linked().into_iter().map(Row::linked).collect(),
            search: SearchPath::default(),
        }
    }

    /// The linked plugins and what is found in the search path. Never fails: what can't be used is a row with its reason.
    pub fn scan(search: SearchPath) -> Self {
        let mut index = Self::linked();
        for (at, level) in search.levels.iter().enumerate() {
            let mut found = rows_of(level);
            for row in &mut found {
                row.level = Some(at);
            }
            index.add(found);
        }
        index.search = search;
        index.rows.sort_by(|a, b| order(a).cmp(&order(b)));
        index.announce();
        index
    }

    /// Lets components in checkpoints and in the options of pruners be found by name; loads nothing.
    fn announce(&self) {
        // What is announced last is found first, so the row that wins comes last.
        let usable = |row: &&Row| row.error.is_none() && row.status != Status::Shadowed;
        for row in self.rows.iter().rev().filter(usable) {
            let (Some(package), Some(kind)) = (&row.code, row.kind) else {
                continue;
            };
            let (tag, fields) = match row.source {
                Source::Builtin => continue,
                Source::Wasm => (crate::wasm::TAG, json!({"path": package.file, "name": row.name})),
                Source::Dynamic => {
                    crate::dynamic::announce(package);
                    (crate::dynamic::TAG, json!({"plugin": package.name(), "name": row.name}))
                }
            };
            crate::dynamic::announce_part(crate::dynamic::Part {
                kind,
                name: row.name.clone(),
                aliases: row.aliases.clone(),
                tag,
                fields: fields.as_object().cloned().unwrap_or_default(),
            });
        }
    }

    /// Every row: by kind (unreadable things last), then by name, the row that wins first.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Loads every plugin that looks usable, and notes what that brings to light.
    pub fn verify(&mut self) {
        let looks_usable = |row: &&mut Row| row.error.is_none() && row.status == Status::Unverified;
        for row in self.rows.iter_mut().filter(looks_usable) {
            let Some(package) = &row.code else { continue };
            let loaded = match row.source {
                Source::Wasm => crate::wasm::load(package, &row.name).map(|_| ()),
                Source::Dynamic | Source::Builtin => crate::dynamic::load_package(package).map(|_| ()),
            };
            match loaded {
                Ok(()) => row.status = Status::Ok,
                Err(error) => row.fail(Status::Broken, error),
            }
        }
    }

    /// Where was searched.
    pub fn search(&self) -> &SearchPath {
        &self.search
    }

    /// Adds the rows of one level.
    fn add(&mut self, mut found: Vec<Row>) {
        let mut own: HashMap<(Kind, String), Vec<usize>> = HashMap::new();
        for (at, row) in found.iter().enumerate() {
            for key in row.keys() {
                own.entry(key).or_default().push(at);
            }
        }
        let twin = |at: usize| {
            found[at]
                .keys()
                .find_map(|key| own[&key].iter().copied().find(|other| *other != at))
        };
        let twice: Vec<Option<PluginError>> = (0..found.len())
            .map(|at| twin(at).map(|other| duplicate(&found[at.min(other)], &found[at.max(other)])))
            .collect();
        let mut earlier: HashMap<(Kind, String), &Row> = HashMap::new();
        for row in self.rows.iter().filter(|row| row.status != Status::Shadowed) {
            for key in row.keys() {
                earlier.entry(key).or_insert(row);
            }
        }
        let mut again = Vec::new();
        for (at, (row, error)) in found.iter_mut().zip(twice).enumerate() {
            let winner = row.keys().find_map(|key| earlier.get(&key).copied());
            match (winner, error) {
                (Some(builtin), _) if builtin.source == Source::Builtin => {
                    let error = duplicate(builtin, row).help("built-in plugins can't be replaced: rename it");
                    row.fail(Status::Broken, error);
                }
                (_, Some(error)) => row.fail(Status::Broken, error),
                (Some(winner), None) if winner.is_of_the_file_of(row) => again.push(at),
                (Some(_), None) => row.status = Status::Shadowed,
                (None, None) => {}
            }
        }
        // A folder that stands in two levels is one folder.
        for at in again.into_iter().rev() {
            found.remove(at);
        }
        self.rows.extend(found);
    }
}

fn order(row: &Row) -> (usize, &str, usize) {
    let kind = row
        .kind
        .and_then(|kind| Kind::ALL.iter().position(|other| *other == kind));
    (
        kind.unwrap_or(Kind::ALL.len()),
        &row.name,
        row.level.map_or(0, |level| level + 1),
    )
}

fn duplicate(first: &Row, second: &Row) -> PluginError {
    let kind = first.kind.map_or("plugin", Kind::title);
    let error = PluginError::new(Code::DuplicateName, format!("two {kind}s are called `{}`", first.name));
    let name = |row: &Row| {
        if row.name == first.name {
            String::new()
        } else {
            format!(" (`{}`)", row.name)
        }
    };
    error
        .detail(first.source.name(), format!("{}{}", first.origin(), name(first)))
        .detail(second.source.name(), format!("{}{}", second.origin(), name(second)))
        .help("rename one, or take one out of the search path")
}

/// The rows of one level. The same file met twice counts once.
fn rows_of(level: &Level) -> Vec<Row> {
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
    let mut rows: Vec<Row> = empty
        .map(|path| Row::unreadable(path, Source::Dynamic, nothing_in(path)))
        .collect();
    rows.extend(all.into_iter().flat_map(|item| match item {
        Item::Manifest(file) => of_manifest(&file),
        Item::Module(file) => vec![of_module(&file)],
        Item::Library(file) => of_library(&file, level.explicit && level.paths.contains(&file)),
    }));
    rows
}

/// A folder that the user names and that holds no plugin is a mistake worth a row.
fn nothing_in(folder: &Path) -> PluginError {
    PluginError::new(Code::NotFound, format!("there is no plugin in `{}`", folder.display())).help(format!(
        "a plugin is a folder with a {}, or a .wasm file",
        crate::MANIFEST_FILE
    ))
}

fn of_manifest(file: &Path) -> Vec<Row> {
    let manifest = match Manifest::read(file) {
        Ok(manifest) => manifest,
        Err(error) => return vec![Row::unreadable(file, Source::Dynamic, error)],
    };
    let source = match manifest.library.packing {
        Packing::Dynamic(_) => Source::Dynamic,
        Packing::Wasm(_) => Source::Wasm,
    };
    let mut rows: Vec<Row> = manifest
        .provides
        .iter()
        .map(|entry| Row::provided(&manifest, entry, source))
        .collect();
    let misfit = (source == Source::Dynamic).then(|| misfit(&manifest)).flatten();
    let code = manifest.code_file().map(|file| {
        Arc::new(Package {
            manifest: Some(manifest),
            file,
        })
    });
    for row in &mut rows {
        match &code {
            Ok(package) => {
                row.path = Some(package.file.clone());
                row.code = Some(package.clone());
            }
            Err(error) => {
                row.path = Some(file.to_owned());
                row.fail(Status::Broken, error.clone());
            }
        }
        if let Some(error) = &misfit {
            row.fail(Status::Incompatible, error.clone());
        }
    }
    rows
}

/// Why a library can't fit, from what its manifest says.
fn misfit(manifest: &Manifest) -> Option<PluginError> {
    let (major, minor) = (yolo_abi::ABI_MAJOR, yolo_abi::ABI_MINOR);
    if let Some((wanted_major, wanted_minor)) = manifest.library.abi
        && (wanted_major != major || wanted_minor > minor)
    {
        let built = format!(
            "`{}` {} was built for plugin ABI {wanted_major}.{wanted_minor}",
            manifest.name, manifest.version
        );
        let error = PluginError::new(Code::AbiMismatch, format!("{built}, this yolo speaks {major}.{minor}"));
        return Some(
            error
                .detail("manifest", manifest.file.display())
                .help("rebuild the plugin with this yolo's `yolo-sdk`, or install the yolo that it was built for"),
        );
    }
    let wanted = manifest.library.libtorch.as_deref()?;
    if version_pair(wanted) != version_pair(yolo_abi::LIBTORCH) {
        let built = format!(
            "`{}` {} was built against libtorch {wanted}",
            manifest.name, manifest.version
        );
        let error = PluginError::new(
            Code::LibtorchMismatch,
            format!("{built}, yolo runs {}", yolo_abi::LIBTORCH),
        );
        return Some(
            error
                .detail("manifest", manifest.file.display())
                .help("rebuild the plugin against the libtorch of yolo: `yolo plugin build`"),
        );
    }
    None
}

pub(crate) fn of_module(file: &Path) -> Row {
    match crate::wasm::describe(file) {
        Ok(about) => {
            let package = Package {
                manifest: None,
                file: file.to_owned(),
            };
            let row = Row::described(about, Source::Wasm);
            Row {
                path: Some(file.to_owned()),
                code: Some(Arc::new(package)),
                ..row
            }
        }
        Err(error) => Row::unreadable(file, Source::Wasm, error),
    }
}

/// A library without a manifest says nothing about itself until it is loaded, which only the user's own word allows.
fn of_library(file: &Path, named: bool) -> Vec<Row> {
    if !named {
        let error = PluginError::new(
            Code::BadManifest,
            format!("{} has no manifest beside it", file.display()),
        )
        .help(format!(
            "put a {} beside it, or name the file itself with `--plugin`",
            crate::MANIFEST_FILE
        ));
        return vec![Row::unreadable(file, Source::Dynamic, error)];
    }
    let package = Package {
        manifest: None,
        file: file.to_owned(),
    };
    match crate::dynamic::load_package(&package) {
        Ok(library) => {
            let package = Arc::new(package);
            let row = |about: &Description| Row {
                status: Status::Ok,
                path: Some(file.to_owned()),
                code: Some(package.clone()),
                ..Row::described(about.clone(), Source::Dynamic)
            };
            library.descriptions().iter().map(row).collect()
        }
        Err(error) => vec![Row::unreadable(file, Source::Dynamic, error)],
    }
}
