//! Who may depend on whom: the manifests against the table in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};

use super::{members, read, read_toml};
use crate::{Outcome, fail};

/// Crates that load foreign code, and the one crate that may depend on them.
const FOREIGN: [&str; 2] = ["libloading", "wasmtime"];
const LOADER: &str = "yolo-registry";

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Every edge that the table does not allow.
pub(super) fn complaints() -> Outcome<Vec<String>> {
    let allowed = allowed(&read("ARCHITECTURE.md")?);
    if allowed.is_empty() {
        return fail("tidy: ARCHITECTURE.md has no table below `## Allowed edges`");
    }
    let mut complaints = Vec::new();
    for member in members(&read_toml("Cargo.toml")?)? {
        let file = format!("{member}/Cargo.toml");
        complaints.extend(of_manifest(file.trim_start_matches("./"), &read_toml(&file)?, &allowed));
    }
    Ok(complaints)
}

fn of_manifest(file: &str, manifest: &toml::Table, allowed: &Edges) -> Vec<String> {
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(toml::Value::as_str);
    let name = name.unwrap_or_default();
    // Tests may look at more than the code that ships.
    let tables = ["dependencies", "build-dependencies"]
        .into_iter()
        .filter_map(|key| manifest.get(key)?.as_table());
    tables
        .flat_map(toml::Table::keys)
        .filter_map(|dependency| {
            if FOREIGN.contains(&dependency.as_str()) && name != LOADER {
                return Some(format!("{file}: only {LOADER} may depend on {dependency}"));
            }
            let ours = dependency == "yolo" || dependency.starts_with("yolo-");
            (ours && !is_allowed(allowed, name, dependency))
                .then(|| format!("{file}: {name} may not depend on {dependency} (ARCHITECTURE.md, `Allowed edges`)"))
        })
        .collect()
}

/// Rows `| crate | a, b |` below the heading.
fn allowed(text: &str) -> Edges {
    let Some((_, section)) = text.split_once("## Allowed edges") else {
        return Edges::new();
    };
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|')?.split_once('|'))
        .map(|(name, list)| {
            let list = list
                .split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty())
                .map(str::to_owned)
                .collect();
            (name.trim().to_owned(), list)
        })
        .collect()
}

fn is_allowed(allowed: &Edges, name: &str, dependency: &str) -> bool {
    allowed
        .get(group(name))
        .is_some_and(|list| list.contains(group(dependency)))
}

/// Plugins are one row of the table.
fn group(name: &str) -> &str {
    if name.starts_with("yolo-plugin-") {
        "yolo-plugin-*"
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Edges {
        allowed(
            "## Allowed edges\n\n| crate | may |\n|---|---|\n| yolo-core | |\n| yolo-plugin-* | yolo-sdk |\n\
             | yolo-builtin | yolo-plugin-* |\n\n## Next\n| yolo-core | yolo-sdk |\n",
        )
    }

    #[test]
    fn edges_are_read_from_the_table() {
        let allowed = table();
        assert!(is_allowed(&allowed, "yolo-plugin-l1", "yolo-sdk"));
        assert!(is_allowed(&allowed, "yolo-builtin", "yolo-plugin-l1"));
        assert!(!is_allowed(&allowed, "yolo-plugin-l1", "yolo-plugin-l2"));
        assert!(
            !is_allowed(&allowed, "yolo-core", "yolo-sdk"),
            "rows of other sections don't count"
        );
        assert!(!is_allowed(&allowed, "unknown", "yolo-core"));
    }

    #[test]
    fn manifests_are_held_against_it() {
        let check = |text: &str| of_manifest("x/Cargo.toml", &text.parse().unwrap(), &table()).len();
        assert_eq!(
            check("[package]\nname='yolo-plugin-l1'\n[dependencies]\nyolo-sdk.workspace=true\nserde='1'"),
            0
        );
        assert_eq!(
            check("[package]\nname='yolo-plugin-l1'\n[dependencies]\nyolo-core.workspace=true\nwasmtime='1'"),
            2
        );
        assert_eq!(
            check("[package]\nname='yolo-core'\n[build-dependencies]\nyolo-sdk.workspace=true"),
            1
        );
        assert_eq!(
            check("[package]\nname='yolo-core'\n[dev-dependencies]\nyolo-sdk.workspace=true"),
            0
        );
        assert_eq!(
            check("[package]\nname='yolo-registry'\n[dependencies]\nwasmtime='1'"),
            0
        );
    }
}
