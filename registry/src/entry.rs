//! One line of the index: a plugin, or one thing in the search path that should be one, and whether it can be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use yolo_core::model::names::Found;
use yolo_core::{Kind, PluginInfo};

use crate::carrier::{Fact, Source};
use crate::describe::{Description, Paper, answers_to};
use crate::error::{Code, PluginError, Result};
use crate::manifest::{Manifest, Provides};
use crate::package::{Package, file_name};
use crate::search::same_file;

/// Whether a plugin can be used, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// It works: linked in, or loaded and checked.
    Ok,
    /// It has not been loaded yet.
    Unverified,
    /// An earlier level of the search path has one of the same name; and what is wrong with this one besides, if anything.
    Shadowed(Option<PluginError>),
    /// It was built for another yolo or libtorch.
    Incompatible(PluginError),
    /// It can't be used.
    Broken(PluginError),
}

impl Fitness {
    /// The word in listings.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unverified => "unverified",
            Self::Shadowed(_) => "shadowed",
            Self::Incompatible(_) => "incompatible",
            Self::Broken(_) => "broken",
        }
    }

    /// What is wrong with it.
    pub const fn error(&self) -> Option<&PluginError> {
        match self {
            Self::Ok | Self::Unverified => None,
            Self::Shadowed(error) => error.as_ref(),
            Self::Incompatible(error) | Self::Broken(error) => Some(error),
        }
    }

    /// Whether an earlier level has one of the same name.
    pub const fn is_shadowed(&self) -> bool {
        matches!(self, Self::Shadowed(_))
    }

    /// Whether it is the one that its name stands for, and nothing is known to be wrong with it.
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::Ok | Self::Unverified)
    }

    /// The same plugin behind one of an earlier level.
    pub(crate) fn shadowed(&self) -> Self {
        Self::Shadowed(self.error().cloned())
    }
}

/// One plugin, or one thing in the search path that should be one.
#[derive(Debug, Clone)]
pub struct Entry {
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
    /// Whether it can be used.
    pub fitness: Fitness,
    /// Its library, module or manifest.
    pub path: Option<PathBuf>,
    /// Name of its package.
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
    /// Which level of the search path it is from; `None` for linked ones.
    pub level: Option<usize>,
    /// Its code.
    pub code: Option<Arc<Package>>,
}

impl Entry {
    /// Whether it answers to this name (case, `-`, `_`, `.` and blanks don't matter).
    pub fn answers_to(&self, name: &str) -> bool {
        answers_to(&self.name, &self.aliases, name)
    }

    /// What is wrong with it.
    pub const fn error(&self) -> Option<&PluginError> {
        self.fitness.error()
    }

    /// How it describes itself. Loads it, if it is not linked in.
    ///
    /// # Errors
    /// What is wrong with its library or module.
    pub fn describe(&self) -> Result<Description> {
        self.sound()?;
        self.source.carrier().describe(self)
    }

    /// What a configuration that names it is resolved to, once it has been loaded.
    pub(crate) fn resolve(&self) -> Result<Found> {
        self.sound()?;
        self.source.carrier().load(self)?;
        self.source.carrier().resolved(self)
    }

    /// What a configuration writes to name it: its name, or the path of a module that only its path finds.
    pub fn handle(&self) -> String {
        let handle = self.source.carrier().handle(self);
        handle.unwrap_or_else(|| self.name.clone())
    }

    /// What is known about the code behind it, where it can be used. Loads it if need be.
    pub fn facts(&self) -> Vec<Fact> {
        if self.error().is_some() {
            return Vec::new();
        }
        self.source.carrier().facts(self)
    }

    /// Where it comes from, for messages that compare two.
    pub fn origin(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("{} {}", self.package, self.version),
        }
    }

    /// The entry as `yolo list-plugins --json` prints it.
    pub fn to_json(&self) -> Value {
        json!({
            "kind": self.kind.map(Kind::name),
            "name": self.name,
            "aliases": self.aliases,
            "version": self.version,
            "source": self.source.name(),
            "status": self.fitness.name(),
            "summary": self.summary,
            "path": self.path.as_ref().map(|path| path.display().to_string()),
            "package": self.package,
            "license": self.license,
            "authors": self.authors,
            "paper": self.paper,
            "options": self.options,
            "error": self.error().map(PluginError::to_json),
        })
    }

    /// The package behind it.
    pub(crate) fn package(&self) -> Result<&Package> {
        self.code
            .as_deref()
            .ok_or_else(|| PluginError::new(Code::NotFound, format!("`{}` has no code", self.name)))
    }

    /// What is wrong with it as an error.
    fn sound(&self) -> Result<()> {
        self.error().cloned().map_or(Ok(()), Err)
    }

    /// What may not be there twice: its kind with each of its names, as they are compared.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Kind, String)> {
        let names = std::iter::once(&self.name).chain(&self.aliases);
        names.filter_map(|name| Some((self.kind?, yolo_core::suggest::normalise(name))))
    }

    pub(crate) fn is_of_the_file_of(&self, other: &Self) -> bool {
        matches!((&self.path, &other.path), (Some(a), Some(b)) if same_file(a, b))
    }

    /// The entry of a linked component.
    pub(crate) fn linked(info: &PluginInfo) -> Self {
        Self {
            fitness: Fitness::Ok,
            ..Self::described(Description::from(info), Source::Builtin)
        }
    }

    /// The entry of what describes itself so.
    pub(crate) fn described(about: Description, source: Source) -> Self {
        Self {
            kind: Some(about.kind),
            options: Some(about.options()),
            name: about.name,
            aliases: about.aliases,
            version: about.version,
            source,
            fitness: Fitness::Unverified,
            path: None,
            package: about.package,
            license: about.license,
            authors: about.authors,
            summary: about.summary,
            paper: about.paper,
            level: None,
            code: None,
        }
    }

    /// The entry of what a manifest speaks of.
    pub(crate) fn provided(manifest: &Manifest, provides: &Provides, source: Source) -> Self {
        Self {
            kind: Some(provides.kind),
            name: provides.name.clone(),
            aliases: provides.aliases.clone(),
            version: manifest.version.clone(),
            source,
            fitness: Fitness::Unverified,
            path: None,
            package: manifest.name.clone(),
            license: manifest.license.clone(),
            authors: manifest.authors.clone(),
            summary: if provides.summary.is_empty() {
                manifest.description.clone()
            } else {
                provides.summary.clone()
            },
            paper: provides.paper.clone(),
            options: None,
            level: None,
            code: None,
        }
    }

    /// The entry of something that should be a plugin.
    pub(crate) fn unreadable(path: &Path, source: Source, error: PluginError) -> Self {
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
            fitness: Fitness::Broken(error),
            path: Some(path.to_owned()),
            package: String::new(),
            license: String::new(),
            authors: Vec::new(),
            summary: String::new(),
            paper: None,
            options: None,
            level: None,
            code: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitness_is_one_word_and_its_reason() {
        let error = || PluginError::new(Code::AbiMismatch, "too new");
        let cases = [
            (Fitness::Ok, "ok", false, true),
            (Fitness::Unverified, "unverified", false, true),
            (Fitness::Unverified.shadowed(), "shadowed", false, false),
            (Fitness::Incompatible(error()).shadowed(), "shadowed", true, false),
            (Fitness::Incompatible(error()), "incompatible", true, false),
            (Fitness::Broken(error()), "broken", true, false),
        ];
        for (fitness, word, fails, usable) in cases {
            assert_eq!(
                (fitness.name(), fitness.error().is_some(), fitness.is_usable()),
                (word, fails, usable)
            );
            assert_eq!(fitness.is_shadowed(), word == "shadowed");
        }
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_its_answer_to_everything() {
        let error = PluginError::new(Code::BadManifest, "typo");
        let entry = Entry::unreadable(Path::new("lab/x/yolo-plugin.toml"), Source::Dynamic, error.clone());
        assert_eq!((entry.name.as_str(), entry.kind), ("x", None));
        assert_eq!(entry.describe().expect_err("broken"), error);
        assert_eq!(entry.resolve().expect_err("broken"), error);
        assert!(entry.facts().is_empty() && entry.to_json()["status"] == "broken");
    }
}
