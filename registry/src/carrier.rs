//! The ways in which a component comes into the program. Each is a [`Carrier`]: what one of them does differently from the others, from
//! loading to the word in a configuration, stands in its `carrier.rs`; [`Source::carrier`] is the one place that chooses.

use std::fmt;

use serde_json::{Map, Value};
use yolo_core::model::names::Found;

use crate::describe::Description;
use crate::entry::Entry;
use crate::error::{PluginError, Result};
use crate::manifest::Manifest;
use crate::{builtin, dynamic, wasm};

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

    /// Who brings components of this source in.
    pub(crate) fn carrier(self) -> &'static dyn Carrier {
        match self {
            Self::Builtin => &builtin::Linked,
            Self::Dynamic => &dynamic::Libraries,
            Self::Wasm => &wasm::Modules,
        }
    }
}

/// What is known about the code behind an entry: a label and a value.
pub type Fact = (&'static str, String);

/// One way for components to come into the program. Entries that are handed to it are of its source.
pub(crate) trait Carrier: fmt::Debug + Sync {
    /// Loads what stands behind an entry, and checks it.
    ///
    /// # Errors
    /// Everything that can be wrong with the code.
    fn load(&self, entry: &Entry) -> Result<()>;

    /// How the component describes itself. Loads it if need be.
    ///
    /// # Errors
    /// As [`Carrier::load`].
    fn describe(&self, entry: &Entry) -> Result<Description>;

    /// What a configuration that names the entry is resolved to. Loads nothing.
    ///
    /// # Errors
    /// An entry without code.
    fn resolved(&self, entry: &Entry) -> Result<Found>;

    /// Lets components in checkpoints and in the options of pruners find the entry by its name. Loads nothing.
    fn announce(&self, entry: &Entry) {
        announce_as(entry, self.resolved(entry));
    }

    /// Why the code that a manifest speaks of can't fit this program, as far as the manifest tells.
    fn misfit(&self, _manifest: &Manifest) -> Option<PluginError> {
        None
    }

    /// What a configuration writes to name the entry, where not its name.
    fn handle(&self, _entry: &Entry) -> Option<String> {
        None
    }

    /// What is known about the code behind an entry that can be used. Loads it if need be.
    fn facts(&self, _entry: &Entry) -> Vec<Fact> {
        Vec::new()
    }
}

/// Notes what the name of an entry is resolved to. Linked ones are known by their name alone.
pub(crate) fn announce_as(entry: &Entry, resolved: Result<Found>) {
    let (Some(kind), Ok(Found::Foreign { tag, fields })) = (entry.kind, resolved) else {
        return;
    };
    dynamic::announce_part(dynamic::Part {
        kind,
        name: entry.name.clone(),
        aliases: entry.aliases.clone(),
        tag,
        fields,
    });
}

/// `{key: value, name}`: how the loaders' own components are told which one is meant.
pub(crate) fn fields(key: &str, value: &str, name: &str) -> Map<String, Value> {
    [(key, value), ("name", name)]
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .into_iter()
        .collect()
}
