//! The YAML file of a data set. What stands in it is taken exactly as it is written, or refused with its place.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use yolo_core::config::{ConfigError, Located};

use super::places::{self, Entry};
use super::{Dataset, Source, Split, keys};
use crate::{Result, text};

pub(super) fn open(file: &Path) -> Result<Dataset> {
    let content = text::read(file, "read the data set")?;
    let config = Located::parse(&file.display().to_string(), &content)?;
    let remarks = keys::look(&config)?;
    let names = names(&config)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let root = match config.get("path") {
        None | Some(Value::Null) => None,
        Some(Value::String(path)) => Some(path.as_str()),
        Some(other) => {
            let (message, help) = match other {
                Value::Array(_) => (
                    "`path` is one folder, from which the others go on",
                    "write one folder here, and lists under `train`, `val` and `test`",
                ),
                _ => ("`path` is a folder", "write it as text, in quotes if it is a number"),
            };
            return Err(config.value_error("path", message, Some(help)).into());
        }
    };
    let roots = places::roots(folder, root);
    let missing = root.filter(|_| !roots.iter().any(|root| root.exists())).map(|path| {
        let line = config.place("path").map_or(0, |place| place.line as usize);
        (path.to_owned(), line)
    });
    let mut sources = Vec::new();
    for split in [Split::Train, Split::Val, Split::Test] {
        let entries = match config.get(split.name()) {
            Some(Value::Null) | None => continue,
            Some(Value::Array(many)) => {
                let paths = (0..many.len()).map(|index| format!("{}.{index}", split.name()));
                paths
                    .zip(many)
                    .map(|(path, value)| entry(&config, &path, value))
                    .collect::<Result<Vec<&str>, _>>()?
            }
            Some(value) => vec![entry(&config, split.name(), value)?],
        };
        sources.push(Source {
            split,
            line: config.place(split.name()).map_or(0, |place| place.line as usize),
            entries: entries
                .into_iter()
                .map(|text| Entry::new(&roots, folder, text))
                .collect(),
        });
    }
    if sources.is_empty() {
        return Err(config
            .error("", "the data set names neither `train` nor `val`", None)
            .into());
    }
    Ok(Dataset {
        held_out: 0,
        file: file.to_owned(),
        names,
        roots,
        missing,
        sources,
        keypoints: keypoints(&config)?,
        merged: None,
        remarks,
    })
}

/// The text of one place of images.
fn entry<'a>(config: &Located, path: &str, value: &'a Value) -> Result<&'a str, ConfigError> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text),
        _ => Err(config.value_error(
            path,
            "a folder, a list file or a list of them is needed",
            Some("write it as text, in quotes if it is a number"),
        )),
    }
}

/// `names` as a list or a map, checked against `nc`.
fn names(config: &Located) -> Result<Vec<String>> {
    let count = class_count(config)?;
    let names: Vec<String> = match config.get("names") {
        Some(Value::Array(items)) => {
            let one = |(index, value): (usize, &Value)| name(config, &index.to_string(), value);
            items.iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
        Some(Value::Object(map)) => {
            let mut pairs: Vec<(usize, String, &String)> = Vec::with_capacity(map.len());
            for (key, value) in map {
                let index: usize = key.parse().map_err(|_| {
                    config.error(&format!("names.{key}"), &format!("`{key}` is not a class number"), None)
                })?;
                if let Some((.., other)) = pairs.iter().find(|(taken, ..)| *taken == index) {
                    let message = format!("`{other}` and `{key}` are the same class number");
                    return Err(config.error(&format!("names.{key}"), &message, None).into());
                }
                pairs.push((index, name(config, key, value)?, key));
            }
            pairs.sort();
            if let Some((gap, _)) = pairs.iter().enumerate().find(|(i, (index, ..))| i != index) {
                return Err(config.error("names", &format!("class {gap} has no name"), None).into());
            }
            pairs.into_iter().map(|(_, name, _)| name).collect()
        }
        Some(Value::Null) | None => match count {
            Some(count) => (0..count).map(|i| format!("class{i}")).collect(),
            None => {
                return Err(config
                    .error("", "the data set has no `names`", Some("add `names: [...]`"))
                    .into());
            }
        },
        Some(_) => {
            return Err(config
                .value_error("names", "the names are no list", Some("write `names: [a, b]`"))
                .into());
        }
    };
    if names.is_empty() {
        return Err(config.error("names", "the data set has no classes", None).into());
    }
    if let Some(count) = count
        && count != names.len()
    {
        let message = format!("nc is {count}, but there are {} names", names.len());
        return Err(config
            .error("nc", &message, Some("make them agree, or leave `nc` out"))
            .into());
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (class, name) in names.iter().enumerate() {
        if let Some(first) = seen.insert(name, class) {
            let message = format!("two classes are called `{name}`: {first} and {class}");
            return Err(config.error("names", &message, None).into());
        }
    }
    Ok(names)
}

/// One name; numbers and truth values are what the file says, not what they mean.
fn name(config: &Located, key: &str, value: &Value) -> Result<String, ConfigError> {
    let path = format!("names.{key}");
    let name = match value {
        Value::String(name) => name.clone(),
        Value::Number(_) | Value::Bool(_) => config.written(&path).map_or_else(|| value.to_string(), str::to_owned),
        Value::Null => config.written(&path).unwrap_or_default().to_owned(),
        Value::Array(_) | Value::Object(_) => {
            return Err(config.value_error(&path, "this is no name", Some("a name is text; write it in quotes")));
        }
    };
    // `null` and `~` may be meant as names or as none.
    if value.is_null() || name.trim().is_empty() {
        let message = format!("class {key} has no name");
        return Err(config.value_error(&path, &message, Some("write the name in quotes")));
    }
    Ok(name)
}

fn class_count(config: &Located) -> Result<Option<usize>, ConfigError> {
    let count = match config.get("nc") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_u64().or_else(|| {
            let whole = value.as_f64().filter(|v| v.fract() == 0.0 && (0.0..1e6).contains(v));
            whole.map(|v| v as u64)
        }),
    };
    match count {
        Some(count) => Ok(Some(count as usize)),
        None => Err(config.value_error("nc", "`nc` is the number of classes, a whole number", None)),
    }
}

/// `kpt_shape: [17, 3]`: key points of an object, numbers of a key point.
fn keypoints(config: &Located) -> Result<Option<[usize; 2]>, ConfigError> {
    let shape = match config.get("kpt_shape") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(shape)) => shape.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>(),
        Some(_) => None,
    };
    match shape.as_deref() {
        Some(&[points @ 1..=10_000, each @ 2..=3]) => Ok(Some([points as usize, each as usize])),
        _ => Err(config.value_error(
            "kpt_shape",
            "`kpt_shape` is the number of key points and 2 or 3 for the numbers of each",
            Some("write for example `kpt_shape: [17, 3]`, or leave it out"),
        )),
    }
}
