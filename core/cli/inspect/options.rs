//! The options of a plugin, from the JSON Schema that its type gives.

use serde_json::{Value, json};

/// One option.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginOption {
    /// Its name.
    pub name: String,
    /// Type and range in a few words: `integer >= 2`, `paper | published`.
    pub kind: String,
    /// Value when it is not given; `None` if it must be.
    pub default: Option<Value>,
    /// What it does.
    pub description: String,
}

impl PluginOption {
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "default": self.default, "description": self.description})
    }

    /// The default as a person would write it.
    pub fn shown_default(&self) -> String {
        match &self.default {
            None => "required".to_owned(),
            Some(Value::Null) => "default none".to_owned(),
            Some(Value::String(text)) => format!("default {text}"),
            Some(value) => format!("default {}", flow(value)),
        }
    }
}

/// The options in the order of the schema.
pub fn of(schema: &Value) -> Vec<PluginOption> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, about)| PluginOption {
            name: name.clone(),
            kind: kind(schema, about, 0),
            default: about
                .get("default")
                .cloned()
                .or_else(|| (!required.contains(&name.as_str())).then_some(Value::Null)),
            description: one_line(description(schema, about)),
        })
        .collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .trim_end_matches('.')
        .to_owned()
}

fn description<'a>(schema: &'a Value, about: &'a Value) -> &'a str {
    let own = about
        .get("description")
        .or_else(|| referred(schema, about)?.get("description"));
    own.and_then(Value::as_str).unwrap_or_default()
}

/// What `$ref: "#/$defs/NAME"` points at.
fn referred<'a>(schema: &'a Value, about: &Value) -> Option<&'a Value> {
    schema.pointer(about.get("$ref")?.as_str()?.strip_prefix('#')?)
}

/// A type in a few words. Depth ends schemas that refer to themselves.
fn kind(schema: &Value, about: &Value, depth: usize) -> String {
    const DEEPEST: usize = 6;
    if depth > DEEPEST {
        return "value".to_owned();
    }
    if let Some(target) = referred(schema, about) {
        return match about["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            Some("Block") => "block".to_owned(),
            Some("Metric") => "metric".to_owned(),
            _ => kind(schema, target, depth + 1),
        };
    }
    if let Some(value) = about.get("const") {
        return plain(value);
    }
    if let Some(values) = about["enum"].as_array() {
        return values.iter().map(plain).collect::<Vec<_>>().join(" | ");
    }
    if let Some(choices) = about["oneOf"].as_array().or_else(|| about["anyOf"].as_array()) {
        let mut words: Vec<String> = choices.iter().map(|choice| kind(schema, choice, depth + 1)).collect();
        words.dedup();
        return words.join(" | ");
    }
    match &about["type"] {
        Value::String(name) => typed(schema, about, name, depth),
        Value::Array(names) => {
            let words: Vec<String> = names
                .iter()
                .filter_map(Value::as_str)
                .map(|name| typed(schema, about, name, depth))
                .collect();
            words.join(" | ")
        }
        _ => "value".to_owned(),
    }
}

fn typed(schema: &Value, about: &Value, name: &str, depth: usize) -> String {
    match name {
        "boolean" => "bool".to_owned(),
        "null" => "none".to_owned(),
        "string" => "text".to_owned(),
        "array" => format!("list of {}", kind(schema, &about["items"], depth + 1)),
        "integer" | "number" => format!("{name}{}", range(about)),
        other => other.to_owned(),
    }
}

/// `>= 2`, `1 to 8`; the limits of machine integers are no news.
fn range(about: &Value) -> String {
    let bound = |inclusive: &str, exclusive: &str| {
        let plain = about.get(inclusive).map(|value| ("=", value));
        plain.or_else(|| about.get(exclusive).map(|value| ("", value)))
    };
    let low = bound("minimum", "exclusiveMinimum");
    let high = bound("maximum", "exclusiveMaximum").filter(|(_, value)| value.as_f64().is_some_and(|v| v < 65535.0));
    match (low, high) {
        (Some(("=", low)), Some(("=", high))) => format!(" {} to {}", number(low), number(high)),
        (Some((equal, low)), None) => format!(" >{equal} {}", number(low)),
        (None, Some((equal, high))) => format!(" <{equal} {}", number(high)),
        (Some((low_equal, low)), Some((high_equal, high))) => {
            format!(" >{low_equal} {} and <{high_equal} {}", number(low), number(high))
        }
        (None, None) => String::new(),
    }
}

/// `0.0` as `0`.
fn number(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| value.to_string(), |number| number.to_string())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// JSON as YAML in flow style: `{type: ghostnet, ratio: 2}`.
pub fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let parts: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}: {}", flow(value)))
                .collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether text means itself in YAML without quotes.
fn is_plain(text: &str) -> bool {
    let letters = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    letters
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_become_lines_that_a_person_reads() {
        let schema = json!({
            "required": ["width"],
            "properties": {
                "ratio": {"type": "integer", "minimum": 2, "default": 2, "description": "Channels per\nchannel."},
                "act": {"$ref": "#/$defs/Act", "default": "relu"},
                "width": {"type": "number"},
                "last": {"anyOf": [{"$ref": "#/$defs/Block"}, {"type": "null"}]},
                "sizes": {"type": "array", "items": {"type": "integer", "maximum": 9}, "default": [5, 9]},
                "share": {"type": ["number", "null"], "minimum": 0.0, "maximum": 1.0},
                "loop": {"$ref": "#/properties/loop"},
            },
            "$defs": {
                "Act": {"description": "Activation.", "oneOf": [{"const": "relu"}, {"const": "silu"}]},
                "Block": {"anyOf": [{"type": "string"}, {"type": "object"}]},
            },
        });
        let options = of(&schema);
        let shown: Vec<String> = options
            .iter()
            .map(|o| format!("{}: {}, {}", o.name, o.kind, o.shown_default()))
            .collect();
        assert_eq!(
            shown,
            [
                "ratio: integer >= 2, default 2",
                "act: relu | silu, default relu",
                "width: number, required",
                "last: block | none, default none",
                "sizes: list of integer <= 9, default [5, 9]",
                "share: number 0 to 1 | none, default none",
                "loop: value, default none",
            ]
        );
        assert_eq!(options[0].description, "Channels per channel");
        assert_eq!(options[1].description, "Activation");
        assert_eq!(
            flow(&json!({"type": "a", "b": [1, "x y", true], "no": "no"})),
            "{type: a, b: [1, \"x y\", true], no: \"no\"}"
        );
    }
}
