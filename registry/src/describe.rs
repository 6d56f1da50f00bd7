//! What is known about a plugin that is not linked in: the JSON that a library or a module carries.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yolo_core::{Kind, PluginInfo};

/// A publication.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Title as printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Link.
    pub url: String,
    /// Year of publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub year: Option<u16>,
    /// Short form for tables, "GhostNet (CVPR 2020)".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short: Option<String>,
}

impl Paper {
    /// A link alone.
    pub fn link(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..Self::default()
        }
    }

    /// A few words for tables.
    pub fn brief(&self) -> String {
        match (&self.short, &self.title, self.year) {
            (Some(short), ..) => short.clone(),
            (None, Some(title), Some(year)) => format!("{title} ({year})"),
            (None, Some(title), None) => title.clone(),
            (None, None, _) => self.url.trim_start_matches("https://").to_owned(),
        }
    }
}

/// One component as its library or module describes it: [`PluginInfo`], owned. Shared libraries carry a JSON list of these,
/// WASM modules one in the custom section `yolo.plugin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What it is.
    pub kind: Kind,
    /// Its name, unique per kind.
    pub name: String,
    /// Other accepted names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One line.
    #[serde(default)]
    pub summary: String,
    /// Version of its package.
    #[serde(default)]
    pub version: String,
    /// Who wrote it.
    #[serde(default)]
    pub authors: Vec<String>,
    /// SPDX expression.
    #[serde(default)]
    pub license: String,
    /// The publication that it implements.
    #[serde(default)]
    pub paper: Option<Paper>,
    /// `stable` or `experimental`.
    #[serde(default = "stable")]
    pub stability: String,
    /// Its package.
    #[serde(default)]
    pub package: String,
    /// JSON Schema of its options.
    #[serde(default)]
    pub schema: Value,
    /// An example configuration.
    #[serde(default)]
    pub example: Value,
}

fn stable() -> String {
    "stable".to_owned()
}

impl From<&PluginInfo> for Description {
    fn from(info: &PluginInfo) -> Self {
        Self {
            kind: info.kind,
            name: info.name.to_owned(),
            aliases: info.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            summary: info.summary.to_owned(),
            version: info.version.to_owned(),
            authors: info
                .authors
                .split(':')
                .filter(|author| !author.is_empty())
                .map(str::to_owned)
                .collect(),
            license: info.license.to_owned(),
            paper: info.paper.map(|paper| Paper {
                title: Some(paper.title.to_owned()),
                url: paper.url.to_owned(),
                year: Some(paper.year),
                short: Some(paper.short.to_owned()),
            }),
            stability: serde_json::to_value(info.stability)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_else(stable),
            package: info.package.to_owned(),
            schema: (info.schema)(),
            example: (info.example)(),
        }
    }
}

impl Description {
    /// Whether it answers to this name (case, `-`, `_`, `.` and blanks don't matter).
    pub fn answers_to(&self, name: &str) -> bool {
        answers_to(&self.name, &self.aliases, name)
    }

    /// How many options it has.
    pub fn options(&self) -> usize {
        self.schema
            .get("properties")
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len)
    }

    /// What is wrong with how it describes itself, if anything.
    pub fn complaint(&self) -> Option<String> {
        if let Some(complaint) = bad_name(&self.name) {
            return Some(complaint);
        }
        if let Some(complaint) = self.aliases.iter().find_map(|alias| bad_name(alias)) {
            return Some(complaint);
        }
        if !(self.schema.is_null() || self.schema.is_object()) {
            return Some("`schema` must be a JSON Schema object".into());
        }
        if !(self.example.is_null() || self.example.is_object()) {
            return Some("`example` must be an object like `{\"type\": NAME}`".into());
        }
        None
    }
}

/// Whether a plugin with this name and these aliases is meant by `wanted`.
pub(crate) fn answers_to(name: &str, aliases: &[String], wanted: &str) -> bool {
    let wanted = yolo_core::suggest::normalise(wanted);
    std::iter::once(name)
        .chain(aliases.iter().map(String::as_str))
        .any(|own| yolo_core::suggest::normalise(own) == wanted)
}

/// Names stand in tables, paths and configurations: kebab-case, 1 to 64 letters.
pub(crate) fn bad_name(name: &str) -> Option<String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 {
        return Some(format!("a name has 1 to 64 letters, not {}", name.len()));
    }
    if !name.chars().all(fine) || name.starts_with('-') || name.ends_with('-') {
        let shown: String = name.chars().filter(|c| !c.is_control()).collect();
        return Some(format!("`{shown}` is no name: use lower case letters, digits and `-`"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_description_is_enough_and_names_are_checked() {
        let mut short: Description = serde_json::from_str(r#"{"kind": "metric", "name": "my-l1"}"#).expect("valid");
        assert_eq!(short.complaint(), None);
        assert!(short.answers_to("My_L1") && !short.answers_to("l1"));
        for bad in ["", "A", "a b", "a/../b", "-a", &"a".repeat(65), "\u{1b}[31m"] {
            short.name = bad.to_owned();
            assert!(short.complaint().is_some(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Description>(r#"{"kind": "metric", "name": "x", "colour": 1}"#).is_err());
        assert!(serde_json::from_str::<Description>(r#"{"kind": "toaster", "name": "x"}"#).is_err());
    }
}
