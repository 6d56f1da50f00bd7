//! From plugin names in a configuration to plugins.
//!
//! A configuration names a plugin as `{type: NAME, ...options}`. Names are looked up by a [`Resolver`]; what it finds outside of
//! this program takes the place of the part, as data that typetag can read: the trait object of a shared library or a WASM module is
//! the one of its loader, with the name and the options inside. So there is one way from a configuration to a component.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::{ConfigError, Located};
use crate::{Code, Kind, PluginError, PluginInfo, Result, suggest};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A plugin that is linked in, under its canonical name.
    Linked(&'static str),
    /// A plugin that a loader knows. The part becomes `{type: tag, ...fields, options: {...}}`.
    Foreign {
        /// Name of the loader's own component, `@` in front.
        tag: &'static str,
        /// What the loader needs besides the options.
        fields: Map<String, Value>,
    },
}

/// A name that stands for nothing.
#[derive(Debug)]
pub enum NameError {
    /// The configuration is wrong: this is said with the place of the name.
    Unknown {
        /// What is wrong.
        message: String,
        /// What to do.
        help: String,
        /// An unknown name, or one of another kind.
        code: Code,
    },
    /// The plugin is there but can't be used.
    Unusable(PluginError),
}

/// Finds the parts of a model that a configuration names.
pub trait Resolver {
    /// What `name` stands for where a plugin of this kind is expected; `file` is the configuration, for names that are paths.
    fn lookup(&self, kind: Kind, name: &str, file: &str) -> Result<Found, NameError>;

    /// Files of plugins that are not linked and answer to a name, of whatever kind; `file` as in [`Resolver::lookup`].
    fn code(&self, _name: &str, _file: &str) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Knows the plugins that are linked into this program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linked;

impl Resolver for Linked {
    fn lookup(&self, kind: Kind, name: &str, _file: &str) -> Result<Found, NameError> {
        let linked = PluginInfo::linked();
        if let Some(info) = linked.iter().find(|info| info.kind == kind && info.answers_to(name)) {
            return Ok(Found::Linked(info.name));
        }
        let known: Vec<_> = linked.iter().map(|info| (info.kind, info.name)).collect();
        let elsewhere = linked
            .iter()
            .find(|info| info.answers_to(name))
            .map(|info| (info.kind, info.name));
        Err(unknown(kind, name, elsewhere, &known))
    }
}

/// The complaint about a name that no plugin of `kind` has: the kind that it does exist in, close names, or all names.
pub fn unknown(kind: Kind, name: &str, elsewhere: Option<(Kind, &str)>, known: &[(Kind, &str)]) -> NameError {
    let message = format!("there is no {} `{name}`", kind.title());
    let of_kind = || known.iter().filter(|(other, _)| *other == kind).map(|(_, name)| *name);
    let (help, code) = if let Some((other, name)) = elsewhere {
        (format!("`{name}` is a {}", other.title()), Code::WrongKind)
    } else if let Some(hint) = suggest::did_you_mean(name, of_kind()) {
        (hint, Code::UnknownName)
    } else {
        (
            format!("there are: {}", of_kind().collect::<Vec<_>>().join(", ")),
            Code::UnknownName,
        )
    };
    NameError::Unknown { message, help, code }
}

/// Reads the plugin of this kind at `path` of the configuration.
pub fn read<T: DeserializeOwned>(resolver: &dyn Resolver, config: &Located, path: &str, kind: Kind) -> Result<T> {
    let mut config = config.clone();
    resolve(&mut config, path, kind, resolver)?;
    Ok(config.read_at(path)?)
}

/// Replaces names by what the resolver finds in the part at `path`, which is a plugin of this kind; plugins inside of it are of
/// [the kind that it takes](inner). Unknown names are an error that points at them.
pub fn resolve(config: &mut Located, path: &str, kind: Kind, resolver: &dyn Resolver) -> Result<()> {
    let mut part = config.get(path).cloned().unwrap_or(Value::Null);
    Walk { config, resolver }.visit(&mut part, path, kind)?;
    let mut slot = &mut config.value;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        slot = match slot {
            Value::Object(map) => map.entry(key).or_insert(Value::Null),
            _ => return Ok(()),
        };
    }
    *slot = part;
    Ok(())
}

/// What stands inside of a plugin of this kind, where its options name one: pruners take metrics, models take blocks.
fn inner(kind: Kind) -> Kind {
    match kind {
        Kind::Pruner | Kind::Metric | Kind::Quantizer | Kind::Distiller => Kind::Metric,
        _ => Kind::NeckBlock,
    }
}

struct Walk<'a> {
    config: &'a Located,
    resolver: &'a dyn Resolver,
}

impl Walk<'_> {
    fn visit(&self, value: &mut Value, path: &str, kind: Kind) -> Result<()> {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(name)) = map.get("type") {
                    if name.starts_with('@') {
                        return Ok(());
                    }
                    let at = join(path, "type");
                    match self.lookup(kind, name, &at)? {
                        Found::Linked(name) => map["type"] = name.into(),
                        Found::Foreign { tag, fields } => {
                            // Its options are its own: what they mean is not known here.
                            let mut options = std::mem::take(map);
                            options.remove("type");
                            *map = foreign(tag, fields, options);
                            return Ok(());
                        }
                    }
                }
                for (key, below) in map.iter_mut().filter(|(key, _)| *key != "type") {
                    self.visit(below, &join(path, key), inner(kind))?;
                }
            }
            Value::Array(items) => {
                for (index, below) in items.iter_mut().enumerate() {
                    self.visit(below, &join(path, &index.to_string()), kind)?;
                }
            }
            // Blocks and metrics may be given by their name alone. The option `metric` is one; any other text may be the value of
            // an option, so nothing is said about it here.
            Value::String(name) if kind == Kind::Metric && path.rsplit('.').next() == Some("metric") => {
                match self.lookup(kind, name, path)? {
                    Found::Linked(known) => *name = known.to_owned(),
                    Found::Foreign { tag, fields } => *value = Value::Object(foreign(tag, fields, Map::new())),
                }
            }
            Value::String(name) if kind == Kind::NeckBlock => {
                if let Ok(Found::Foreign { tag, fields }) = self.resolver.lookup(kind, name, &self.config.file) {
                    *value = Value::Object(foreign(tag, fields, Map::new()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn lookup(&self, kind: Kind, name: &str, path: &str) -> Result<Found> {
        self.resolver
            .lookup(kind, name, &self.config.file)
            .map_err(|error| match error {
                NameError::Unknown { message, help, code } => {
                    let error: ConfigError = self.config.value_error(path, &message, Some(&help)).coded(code);
                    error.into()
                }
                NameError::Unusable(error) => error.into(),
            })
    }
}

fn foreign(tag: &str, fields: Map<String, Value>, options: Map<String, Value>) -> Map<String, Value> {
    let mut part = Map::new();
    part.insert("type".into(), tag.into());
    part.extend(fields);
    part.insert("options".into(), Value::Object(options));
    part
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Knows one block, `mine`, that is not linked in.
    struct One;

    impl Resolver for One {
        fn lookup(&self, kind: Kind, name: &str, _file: &str) -> Result<Found, NameError> {
            if kind == Kind::NeckBlock && name == "mine" {
                let fields = json!({"name": "mine"}).as_object().cloned().unwrap_or_default();
                return Ok(Found::Foreign { tag: "@test", fields });
            }
            Err(unknown(kind, name, None, &[(Kind::NeckBlock, "mine")]))
        }
    }

    #[test]
    fn foreign_plugins_are_wrapped_wherever_they_are_named() {
        let text = "neck:\n  block: mine\n  mode: concat\n  levels:\n    - {before: {type: mine, size: 3}}\n";
        let mut config = Located::parse("m.yaml", text).expect("YAML");
        resolve(&mut config, "neck", Kind::NeckBlock, &One).expect("known");
        assert_eq!(
            config.value["neck"]["block"],
            json!({"type": "@test", "name": "mine", "options": {}})
        );
        assert_eq!(config.value["neck"]["mode"], "concat");
        let before = &config.value["neck"]["levels"][0]["before"];
        assert_eq!(
            before,
            &json!({"type": "@test", "name": "mine", "options": {"size": 3}})
        );
        // What has been resolved stays as it is.
        let once = config.value.clone();
        resolve(&mut config, "neck", Kind::NeckBlock, &One).expect("known");
        assert_eq!(config.value, once);
    }

    #[test]
    fn unknown_names_are_found_in_their_line() {
        let mut config = Located::parse("m.yaml", "neck:\n  block: {type: mien}\n").expect("YAML");
        let error = resolve(&mut config, "neck", Kind::NeckBlock, &One).expect_err("unknown");
        let text = error.to_string();
        assert!(text.starts_with("m.yaml:2:17: there is no neck block `mien`"), "{text}");
        assert!(text.contains("did you mean `mine`?"), "{text}");
    }
}
