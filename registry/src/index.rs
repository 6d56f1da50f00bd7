//! Every plugin there is: the linked ones, and what the search path holds; which one a name stands for where several have it. What a
//! level holds, [`crate::scan`] knows; what an entry is, [`crate::entry`].

use std::collections::HashMap;

use yolo_core::{Kind, PluginInfo};

use crate::carrier::Source;
use crate::entry::{Entry, Fitness};
use crate::error::{Code, PluginError};
use crate::scan;
use crate::search::SearchPath;

/// All plugins, sorted by kind and name.
#[derive(Debug, Clone, Default)]
pub struct Index {
    entries: Vec<Entry>,
    search: SearchPath,
}

impl Index {
    /// The linked plugins only.
    pub fn linked() -> Self {
        Self {
            entries: PluginInfo::linked().into_iter().map(Entry::linked).collect(),
            search: SearchPath::default(),
        }
    }

    /// The linked plugins and what is found in the search path. Never fails: what can't be used is an entry with its reason.
    pub fn scan(search: SearchPath) -> Self {
        let mut index = Self::linked();
        for (at, level) in search.levels.iter().enumerate() {
            let mut found = scan::level(level);
            for entry in &mut found {
                entry.level = Some(at);
            }
            index.add(found);
        }
        index.search = search;
        index.entries.sort_by(|a, b| order(a).cmp(&order(b)));
        index.announce();
        index
    }

    /// Lets components in checkpoints and in the options of pruners be found by name; loads nothing.
    fn announce(&self) {
        // What is announced last is found first, so the entry that wins comes last.
        for entry in self.entries.iter().rev().filter(|entry| entry.fitness.is_usable()) {
            entry.source.carrier().announce(entry);
        }
    }

    /// Every entry: by kind (unreadable things last), then by name, the one that wins first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Loads every plugin that looks usable, and notes what that brings to light.
    pub fn verify(&mut self) {
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.fitness == Fitness::Unverified)
        {
            entry.fitness = match entry.source.carrier().load(entry) {
                Ok(()) => Fitness::Ok,
                Err(error) => Fitness::Broken(error),
            };
        }
    }

    /// Where was searched.
    pub fn search(&self) -> &SearchPath {
        &self.search
    }

    /// Adds the entries of one level.
    fn add(&mut self, mut found: Vec<Entry>) {
        let mut own: HashMap<(Kind, String), Vec<usize>> = HashMap::new();
        for (at, entry) in found.iter().enumerate() {
            for key in entry.keys() {
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
        let mut earlier: HashMap<(Kind, String), &Entry> = HashMap::new();
        for entry in self.entries.iter().filter(|entry| !entry.fitness.is_shadowed()) {
            for key in entry.keys() {
                earlier.entry(key).or_insert(entry);
            }
        }
        let mut again = Vec::new();
        for (at, (entry, error)) in found.iter_mut().zip(twice).enumerate() {
            let winner = entry.keys().find_map(|key| earlier.get(&key).copied());
            match (winner, error) {
                (Some(builtin), _) if builtin.source == Source::Builtin => {
                    let error = duplicate(builtin, entry).help("built-in plugins can't be replaced: rename it");
                    entry.fitness = Fitness::Broken(error);
                }
                (_, Some(error)) => entry.fitness = Fitness::Broken(error),
                (Some(winner), None) if winner.is_of_the_file_of(entry) => again.push(at),
                (Some(_), None) => entry.fitness = entry.fitness.shadowed(),
                (None, None) => {}
            }
        }
        // A folder that stands in two levels is one folder.
        for at in again.into_iter().rev() {
            found.remove(at);
        }
        self.entries.extend(found);
    }
}

fn order(entry: &Entry) -> (usize, &str, usize) {
    let kind = entry
        .kind
        .and_then(|kind| Kind::ALL.iter().position(|other| *other == kind));
    (
        kind.unwrap_or(Kind::ALL.len()),
        &entry.name,
        entry.level.map_or(0, |level| level + 1),
    )
}

fn duplicate(first: &Entry, second: &Entry) -> PluginError {
    let kind = first.kind.map_or("plugin", Kind::title);
    let error = PluginError::new(Code::DuplicateName, format!("two {kind}s are called `{}`", first.name));
    let name = |entry: &Entry| {
        if entry.name == first.name {
            String::new()
        } else {
            format!(" (`{}`)", entry.name)
        }
    };
    error
        .detail(first.source.name(), format!("{}{}", first.origin(), name(first)))
        .detail(second.source.name(), format!("{}{}", second.origin(), name(second)))
        .help("rename one, or take one out of the search path")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::search::Level;

    /// A package with a metric `one` in a folder of its own.
    fn package(folder: &Path, library: &str) -> PathBuf {
        std::fs::create_dir(folder).expect("a folder");
        std::fs::write(folder.join("libx.so"), "").expect("a file");
        std::fs::write(folder.join("x.wasm"), "").expect("a file");
        let manifest = format!(
            "manifest = 1\nname = \"p\"\nversion = \"1\"\n[library]\n{library}\n[[provides]]\nkind = \"metric\"\nname = \"one\"\n"
        );
        std::fs::write(folder.join(crate::MANIFEST_FILE), manifest).expect("a file");
        folder.to_owned()
    }

    #[test]
    fn what_loses_its_name_keeps_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let level = |name: &str, library: &str| Level {
            name: name.to_owned(),
            paths: vec![package(&folder.path().join(name), library)],
            explicit: false,
        };
        let levels = vec![
            level("first", "wasm = \"x.wasm\""),
            level("newer", "dynamic = \"x\"\nabi = \"9.0\""),
            level("absent", "dynamic = \"y\""),
            level("last", "wasm = \"x.wasm\""),
        ];
        let scan = |levels: &[Level]| {
            let levels = levels.to_vec();
            Index::scan(SearchPath { levels })
        };
        let look = |index: &Index| -> Vec<(&'static str, Option<Code>)> {
            let found = index.entries().iter().filter(|entry| entry.name == "one");
            found
                .map(|entry| (entry.fitness.name(), entry.error().map(|error| error.code)))
                .collect()
        };
        let all = scan(&levels);
        assert_eq!(
            look(&all),
            [
                ("unverified", None),
                ("shadowed", Some(Code::AbiMismatch)),
                ("shadowed", Some(Code::NotFound)),
                ("shadowed", None)
            ]
        );
        assert_eq!(all.find(Kind::Metric, "One").expect("the first").level, Some(0));
        // Something that can't be used takes its name all the same.
        let rest = scan(&levels[1..]);
        assert_eq!(look(&rest)[0], ("incompatible", Some(Code::AbiMismatch)));
        assert!(rest.find(Kind::Metric, "one").is_err());
        let rest = scan(&levels[2..]);
        assert_eq!(look(&rest), [("broken", Some(Code::NotFound)), ("shadowed", None)]);
        // What is only listed has not been looked at; loading brings to light that the module is empty.
        let mut last = scan(&levels[3..]);
        assert_eq!(look(&last), [("unverified", None)]);
        last.verify();
        assert_eq!(look(&last), [("broken", Some(Code::WasmBadModule))]);
    }
}
