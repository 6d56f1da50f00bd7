//! YAML with places: text to a JSON value, and from the path of a value back to its line and column, so that every complaint
//! about a configuration can point at it.

mod strict;
mod words;

use std::collections::HashMap;

use saphyr::{LoadableYamlNode, MarkedYaml, ScalarOwned, YamlData};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::strict::Strict;
pub use self::words::in_words;
use crate::Code;

/// Where something stands in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// A complaint about a configuration: `file:line:column: what` and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file (or `<embedded>`, `<options>`).
    pub file: String,
    /// Where, when it is known.
    pub place: Option<Place>,
    /// Dotted path of the value (`backbone.depth`), may be empty.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The failure's code, where it has a page (`yolo explain CODE`).
    pub code: Option<Code>,
}

impl ConfigError {
    /// The same complaint under this code.
    #[must_use]
    pub fn coded(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if !self.path.is_empty() && !self.message.contains(&format!("`{}`", self.path)) {
            write!(f, " (at `{}`)", self.path)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A configuration and where its parts stand.
#[derive(Debug, Clone)]
pub struct Located {
    /// Name of the file, for messages.
    pub file: String,
    /// The content.
    pub value: Value,
    keys: HashMap<String, Place>,
    values: HashMap<String, Place>,
    /// Numbers and truth values as the file has them.
    written: HashMap<String, String>,
}

impl Located {
    /// Reads YAML (of which JSON is a part). Only plain data: tags mean nothing, a key twice is an error; `<<: *base` takes over the keys that
    /// are not there, as in YAML 1.1.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut located = Self {
            file: file.to_owned(),
            value: Value::Null,
            keys: HashMap::new(),
            values: HashMap::new(),
            written: HashMap::new(),
        };
        let lines: Vec<&str> = text.lines().collect();
        let documents = MarkedYaml::load_from_str(text).map_err(|error| ConfigError {
            file: file.to_owned(),
            place: Some(Place {
                line: error.marker().line() as u32,
                column: error.marker().col() as u32 + 1,
            }),
            path: String::new(),
            message: format!("this is not YAML: {}", error.info()),
            help: None,
            code: None,
        })?;
        if documents.len() > 1 {
            return Err(located.error("", "the file holds more than one YAML document", None));
        }
        if let Some(document) = documents.first() {
            located.value = located.convert(document, &lines, "")?;
        }
        Ok(located)
    }

    /// A configuration without a file (built by the program or given as options).
    pub fn from_value(file: &str, value: Value) -> Self {
        Self {
            file: file.to_owned(),
            value,
            keys: HashMap::new(),
            values: HashMap::new(),
            written: HashMap::new(),
        }
    }

    fn convert(&mut self, node: &MarkedYaml<'_>, lines: &[&str], path: &str) -> Result<Value, ConfigError> {
        let start = node.span.start;
        let place = Place {
            line: start.line() as u32,
            column: start.col() as u32 + 1,
        };
        self.values.insert(path.to_owned(), place);
        match &node.data {
            YamlData::Value(scalar) => {
                let value = scalar_value(&scalar.clone().into_owned());
                let end = node.span.end;
                if !value.is_string()
                    && end.line() == start.line()
                    && let Some(line) = lines.get(start.line().saturating_sub(1))
                {
                    let width = end.col().saturating_sub(start.col());
                    let text: String = line.chars().skip(start.col()).take(width).collect();
                    self.written.insert(path.to_owned(), text.trim().to_owned());
                }
                Ok(value)
            }
            YamlData::Sequence(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.convert(item, lines, &join(path, &index.to_string())))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            YamlData::Mapping(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let name = match self.convert(key, lines, "\u{0}key")? {
                        Value::String(name) => name,
                        Value::Array(_) | Value::Object(_) | Value::Null => {
                            return Err(self.error(path, "a key must be plain text", None));
                        }
                        other => other.to_string(),
                    };
                    let child = join(path, &name);
                    let at = key.span.start;
                    self.keys.insert(
                        child.clone(),
                        Place {
                            line: at.line() as u32,
                            column: at.col() as u32 + 1,
                        },
                    );
                    let value = self.convert(value, lines, &child)?;
                    if map.insert(name.clone(), value).is_some() {
                        return Err(self.error(&child, &format!("the key `{name}` stands here twice"), None));
                    }
                }
                if let Some(merged) = map.remove(MERGE) {
                    self.take_over(&mut map, merged, path)?;
                }
                Ok(Value::Object(map))
            }
            YamlData::Tagged(_, inner) => self.convert(inner, lines, path),
            YamlData::Representation(text, _, _) => Ok(Value::String(text.to_string())),
            YamlData::Alias(_) | YamlData::BadValue => Err(self.error(
                path,
                "this YAML feature is not supported here",
                Some("write the value out"),
            )),
        }
    }

    /// Adds the keys of `<<` to a mapping, with their places; of several mappings, the first one that has a key gives it.
    fn take_over(&mut self, map: &mut Map<String, Value>, merged: Value, path: &str) -> Result<(), ConfigError> {
        let own = join(path, MERGE);
        let bases = match merged {
            Value::Array(bases) => (0..)
                .map(|index: usize| join(&own, &index.to_string()))
                .zip(bases)
                .collect(),
            base => vec![(own.clone(), base)],
        };
        for (from, base) in bases {
            let Value::Object(base) = base else {
                let help = "`<<: *name`, where `name: &name` is a mapping above";
                return Err(self.error(&from, "only mappings can be merged with `<<`", Some(help)));
            };
            for (name, value) in base {
                if map.contains_key(&name) {
                    continue;
                }
                let (old, new) = (join(&from, &name), join(path, &name));
                for places in [&mut self.keys, &mut self.values] {
                    moved(places, &old, &new);
                }
                moved(&mut self.written, &old, &new);
                map.insert(name, value);
            }
        }
        Ok(())
    }

    /// Where the key of `path` stands, or else its value, or else the closest parent.
    pub fn place(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.keys.get(path).or_else(|| self.values.get(path)) {
                return Some(*place);
            }
            path = match path.rsplit_once('.') {
                Some((parent, _)) => parent,
                None if path.is_empty() => return None,
                None => "",
            };
        }
    }

    /// The number or truth value at `path` as it stands in the file: `1.10`, not 1.1. `None` for all else, and without a file.
    pub fn written(&self, path: &str) -> Option<&str> {
        self.written
            .get(path)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// A complaint about the value at `path`.
    pub fn error(&self, path: &str, message: &str, help: Option<&str>) -> ConfigError {
        ConfigError {
            file: self.file.clone(),
            place: self.place(path),
            path: path.to_owned(),
            message: message.to_owned(),
            help: help.map(str::to_owned),
            code: None,
        }
    }

    /// A complaint that points at the value (not its key) at `path`.
    pub fn value_error(&self, path: &str, message: &str, help: Option<&str>) -> ConfigError {
        ConfigError {
            place: self.values.get(path).copied().or_else(|| self.place(path)),
            ..self.error(path, message, help)
        }
    }

    /// Reads the whole configuration as `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.read_at("")
    }

    /// Reads the part at `path` as `T`; an unknown option gives the closest known ones.
    pub fn read_at<T: DeserializeOwned>(&self, path: &str) -> Result<T, ConfigError> {
        let value = self.get(path).unwrap_or(&Value::Null);
        serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
            let inner = error.path().to_string();
            let inner = if inner == "." {
                String::new()
            } else {
                inner.replace('[', ".").replace(']', "")
            };
            let full = join(path, inner.trim_start_matches('.'));
            self.explain(&full, &error.into_inner().to_string())
        })
    }

    /// The value at a dotted path.
    pub fn get(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .filter(|part| !part.is_empty())
            .try_fold(&self.value, |value, part| match value {
                Value::Object(map) => map.get(part),
                Value::Array(items) => items.get(part.parse::<usize>().ok()?),
                _ => None,
            })
    }

    /// Makes serde's words a complaint: unknown fields get suggestions and the place of the field.
    fn explain(&self, path: &str, text: &str) -> ConfigError {
        if let Some((field, known)) = unknown_field(text) {
            // serde reports the path of the parent, or of the field itself, depending on the container.
            let at = if path.rsplit('.').next() == Some(&field) {
                path.to_owned()
            } else {
                join(path, &field)
            };
            let message = format!("there is no option `{field}`");
            let hint = crate::suggest::did_you_mean(&field, known.iter().map(String::as_str));
            let all = if known.is_empty() {
                "it takes none".to_owned()
            } else {
                format!("options: {}", known.join(", "))
            };
            let help = hint.map_or(all.clone(), |hint| format!("{hint} ({all})"));
            return self.error(&at, &message, Some(&help)).coded(Code::UnknownOption);
        }
        if let Some((name, known)) = unknown_variant(text) {
            let message = format!("there is no `{name}`");
            let hint = crate::suggest::did_you_mean(&name, known.iter().map(String::as_str));
            let all = format!("there are: {}", known.join(", "));
            let help = hint.map_or(all.clone(), |hint| format!("{hint} ({all})"));
            return self.value_error(path, &message, Some(&help)).coded(Code::BadValue);
        }
        let words::Words { message, help } = words::of(text, self.written(path));
        self.value_error(path, &message, help.as_deref()).coded(Code::BadValue)
    }
}

/// `a` and `b` as `a.b`.
/// The key that takes other mappings over.
const MERGE: &str = "<<";

/// Gives what is known of `old` and all below it to `new`, too.
fn moved<T: Clone>(known: &mut HashMap<String, T>, old: &str, new: &str) {
    let below = |path: &str| match path.strip_prefix(old) {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => Some(format!("{new}{rest}")),
        _ => None,
    };
    let more: Vec<(String, T)> = known
        .iter()
        .filter_map(|(path, value)| Some((below(path)?, value.clone())))
        .collect();
    known.extend(more);
}

fn join(path: &str, name: &str) -> String {
    match (path.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => path.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

/// Name and known names from serde's "unknown variant `x`, expected one of `a`, `b`".
fn unknown_variant(text: &str) -> Option<(String, Vec<String>)> {
    unknown_field(&text.replacen("unknown variant", "unknown field", 1)).filter(|_| text.starts_with("unknown variant"))
}

/// Field and known fields from serde's "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(text: &str) -> Option<(String, Vec<String>)> {
    let rest = text.strip_prefix("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((field.to_owned(), known))
}

fn scalar_value(scalar: &ScalarOwned) -> Value {
    match scalar {
        ScalarOwned::Null => Value::Null,
        ScalarOwned::Boolean(value) => Value::Bool(*value),
        ScalarOwned::Integer(value) => Value::from(*value),
        ScalarOwned::FloatingPoint(value) => {
            serde_json::Number::from_f64(value.into_inner()).map_or(Value::Null, Value::Number)
        }
        ScalarOwned::String(value) => Value::String(value.clone()),
    }
}

/// Lays `top` over `base`: objects are merged key by key, everything else is replaced. An object whose `type` changes replaces
/// the old one whole, since options of another plugin mean nothing.
pub fn merge(base: &mut Value, top: Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            let other_type = top
                .get("type")
                .is_some_and(|t| base.get("type").is_some_and(|b| b != t));
            if other_type {
                base.clear();
            }
            for (key, value) in top {
                match base.get_mut(&key) {
                    Some(slot) => merge(slot, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (slot, top) => *slot = top,
    }
}

/// Applies `a.b.c=value` (the value is read as YAML).
pub fn set(value: &mut Value, assignment: &str) -> Result<(), ConfigError> {
    let (path, text) = assignment.split_once('=').ok_or_else(|| ConfigError {
        file: "--set".into(),
        place: None,
        path: String::new(),
        message: format!("`{assignment}` has no `=`"),
        help: Some("write --set path.to.key=value".into()),
        code: None,
    })?;
    let new = Located::parse("--set", text)?.value;
    set_at(value, path, new).map_err(|message| ConfigError {
        file: "--set".into(),
        place: None,
        path: path.to_owned(),
        message,
        help: None,
        code: None,
    })
}

/// Puts a value in its place; a number names a place in a list that is there. Complains where the list has no such place.
fn set_at(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    let (key, rest) = path
        .split_once('.')
        .map_or((path, None), |(key, rest)| (key, Some(rest)));
    if let Value::Array(items) = value
        && key.parse::<usize>().map_or(true, |index| index >= items.len())
    {
        return Err(match items.len() {
            0 => format!("`{key}` is a place in a list, and the list is empty"),
            count => format!("the list has no place `{key}`: its places are 0 to {}", count - 1),
        });
    }
    let place = match value {
        Value::Array(items) => key.parse().ok().and_then(|index: usize| items.get_mut(index)),
        Value::Object(map) => map.get_mut(key),
        _ => None,
    };
    match (place, rest) {
        (Some(place), Some(rest)) => return set_at(place, rest, new),
        (Some(place), None) => merge(place, new),
        (None, _) => {
            let nested = path.rsplit('.').fold(new, |inner, key| {
                let mut map = Map::new();
                map.insert(key.to_owned(), inner);
                Value::Object(map)
            });
            merge(value, nested);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        depth: f64,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code)]
        scale: Inner,
    }

    #[test]
    fn a_value_is_set_in_a_list_that_is_there() {
        let mut value = serde_json::json!({"stages": [{"train": {"epochs": 1}}], "a": {"type": "x", "b": 1}});
        for assignment in ["stages.0.train.epochs=2", "a.type=y", "c.d=3"] {
            set(&mut value, assignment).expect("it can be set");
        }
        assert_eq!(value["stages"][0]["train"]["epochs"], 2);
        assert_eq!((&value["a"]["type"], &value["c"]["d"]), (&"y".into(), &3.into()));
        let before = value.clone();
        for assignment in ["stages.9.train.epochs=2", "stages.train.epochs=2"] {
            let error = set(&mut value, assignment)
                .expect_err("there is no such place")
                .to_string();
            assert!(error.contains("its places are 0 to 0"), "{error}");
        }
        assert_eq!(value, before);
    }

    #[test]
    fn a_misspelt_option_is_found_in_its_line() {
        let config = Located::parse("m.yaml", "scale:\n  depht: 0.33\n").expect("valid YAML");
        let error = config.read::<Outer>().expect_err("`depht` is no option");
        assert_eq!(error.place, Some(Place { line: 2, column: 3 }));
        assert_eq!(
            error.to_string(),
            "m.yaml:2:3: there is no option `depht` (at `scale.depht`)\n  help: did you mean `depth`? (options: depth)"
        );
    }

    #[test]
    fn a_wrong_type_points_at_the_value() {
        let config = Located::parse("m.yaml", "scale:\n  depth: [1]\n").expect("valid YAML");
        let error = config.read::<Outer>().expect_err("a list is no number");
        assert_eq!(error.place, Some(Place { line: 2, column: 10 }));
    }

    #[test]
    fn values_are_taken_by_their_names_and_never_by_their_position() {
        for (text, said) in [
            (
                "scale: [0.33]\n",
                "m.yaml:1:8: a list stands where a group of keys (`key: value`) belongs (at `scale`)\n  help: options: depth",
            ),
            (
                "[{depth: 1}]\n",
                "m.yaml:1:1: a list stands where a group of keys (`key: value`) belongs\n  help: options: scale",
            ),
            (
                "scale:\n",
                "m.yaml:1:6: nothing stands where a group of keys (`key: value`) belongs (at `scale`)\n  help: options: depth",
            ),
            (
                "scale: {depth: .nan}\n",
                "m.yaml:1:16: `.nan` stands where a number belongs (at `scale.depth`)",
            ),
            (
                "scale: {depth: '0,33'}\n",
                "m.yaml:1:16: `0,33` stands where a number belongs (at `scale.depth`)\n  help: the decimal sign is a point: 0.33",
            ),
            ("scale: {}\n", "m.yaml:1:8: `depth` is missing (at `scale`)"),
            (
                "3\n",
                "m.yaml:1:1: `3` stands where a group of keys (`key: value`) belongs\n  help: options: scale",
            ),
        ] {
            let config = Located::parse("m.yaml", text).expect("valid YAML");
            let error = config.read::<Outer>().expect_err(text);
            assert_eq!(error.to_string(), said, "{text}");
        }
    }

    #[test]
    fn numbers_are_known_as_they_are_written() {
        let config = Located::parse("m.yaml", "é: [1.10, 007, True, a]\nb:\n  - 1e3 # note\n").expect("valid YAML");
        let written = |path| config.written(path);
        assert_eq!(
            [written("é.0"), written("é.1"), written("é.2")],
            [Some("1.10"), Some("007"), Some("True")]
        );
        assert_eq!(
            (written("é.3"), written("b.0"), written("none")),
            (None, Some("1e3"), None)
        );
    }

    #[test]
    fn merge_keys_take_over_what_is_not_there() {
        let text = "base: &b\n  a: 1\n  c: [x, y]\nmore: &m {a: 7, d: 2}\nown:\n  a: 3\n  <<: [*b, *m]\n";
        let read = Located::parse("f.yaml", text).unwrap();
        assert_eq!(read.value["own"], serde_json::json!({"a": 3, "c": ["x", "y"], "d": 2}));
        assert_eq!(read.place("own.a").unwrap().line, 6);
        assert_eq!(read.place("own.c.1").unwrap().line, 3, "where it is written");
        let said = Located::parse("f.yaml", "a: 1\n<<: 5\n").unwrap_err().to_string();
        assert!(
            said.starts_with("f.yaml:2:") && said.contains("only mappings"),
            "{said}"
        );
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let error = Located::parse("m.yaml", "a: 1\nb: [1, 2\n").expect_err("the list does not end");
        assert!(error.to_string().starts_with("m.yaml:"), "{error}");
        assert!(error.place.is_some_and(|place| place.line >= 2));
    }

    #[test]
    fn a_key_twice_is_refused_and_merge_replaces_other_plugins() {
        assert!(Located::parse("m.yaml", "a: 1\na: 2\n").is_err());
        let mut base = serde_json::json!({"backbone": {"type": "a", "x": 1}, "keep": true});
        merge(&mut base, serde_json::json!({"backbone": {"type": "b"}}));
        assert_eq!(base, serde_json::json!({"backbone": {"type": "b"}, "keep": true}));
        set(&mut base, "backbone.y=2").expect("an assignment");
        assert_eq!(base["backbone"]["y"], 2);
    }
}
