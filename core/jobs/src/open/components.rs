//! Pruners, metrics and quantizers as a person names them: `slimming`, `{type: slimming, ratio: 0.5}`, `my-metric.wasm`.

use std::path::Path;

use serde_json::{Value, json};
use yolo_core::config::{Located, merge, set};
use yolo_core::model::names;
use yolo_core::{Distiller, Kind, Pruner, Quantizer};

use crate::Session;
use crate::error::{Error, Result};

/// `slimming` or YAML, with `key=value` options on top, as a plugin configuration.
///
/// # Errors
/// [`Error::Usage`] for a text that is no YAML, or neither a name nor a mapping, and for an option without `=` or whose value is no YAML.
pub fn configuration(text: &str, options: &[String]) -> Result<Value> {
    let value = Located::parse("<option>", text)?.value;
    let mut value = match value {
        Value::String(name) => json!({ "type": name }),
        Value::Object(_) => value,
        _ => {
            return Err(Error::Usage(format!(
                "`{text}`: give a name or {{type: NAME, option: value}}"
            )));
        }
    };
    for option in options {
        set(&mut value, option)?;
    }
    Ok(value)
}

/// `slimming` or YAML as a plugin configuration, for flags.
///
/// # Errors
/// The text of those of [`configuration`].
pub fn component(text: &str) -> std::result::Result<Value, String> {
    configuration(text, &[]).map_err(|error| error.to_string())
}

/// A component as a recipe has it: its name, or a configuration.
///
/// # Errors
/// A text that is neither.
pub fn written(value: &Value) -> Result<Value> {
    match value {
        Value::String(text) => configuration(text, &[]),
        other => Ok(other.clone()),
    }
}

/// A text as a value, for flags that name a file where a configuration may also hold the content.
///
/// # Errors
/// None; flags want a `Result`.
pub fn text(text: &str) -> std::result::Result<Value, String> {
    Ok(Value::String(text.to_owned()))
}

/// The value of `--metric`: a name, YAML, or a WASM file.
///
/// # Errors
/// Those of [`component`]. Whether a WASM file is there is not looked at.
pub fn metric(text: &str) -> std::result::Result<Value, String> {
    if Path::new(text).extension().is_some_and(|e| e == "wasm" || e == "wat") {
        return Ok(json!({ "type": text }));
    }
    component(text)
}

/// Puts a metric into the options of a pruner that takes one.
///
/// # Errors
/// [`Error::Usage`] with those of [`metric`].
pub fn with_metric(mut pruner: Value, metric: Option<&Value>) -> Result<Value> {
    if let Some(written) = metric {
        let metric = match written {
            Value::String(text) => self::metric(text).map_err(Error::Usage)?,
            other => other.clone(),
        };
        if let Some(own) = pruner.get("metric").filter(|own| !own.is_null() && **own != metric) {
            return Err(Error::Usage(format!(
                "two metrics are named: {metric} by --metric (`metric`), {own} among the pruner's own options; give one"
            )));
        }
        merge(&mut pruner, json!({ "metric": null }));
        merge(&mut pruner, json!({ "metric": metric }));
    }
    Ok(pruner)
}

/// The pruner of a configuration; `place` is where it stands, for messages.
///
/// # Errors
/// [`Error::Usage`] with `place` for an unknown name or option, and a value that an option does not take; what a plugin says that can't
/// be loaded.
pub fn pruner(session: Session<'_>, place: &str, value: &Value) -> Result<Box<dyn Pruner>> {
    Ok(names::read(
        session.plugins,
        &Located::from_value(place, value.clone()),
        "",
        Kind::Pruner,
    )?)
}

/// The distiller of a configuration: its name or `{type: NAME, option: value}`; `logits` where none is named.
///
/// # Errors
/// As for [`pruner`]; those of [`configuration`] for a name.
pub fn distiller(session: Session<'_>, place: &str, named: Option<&Value>) -> Result<Box<dyn Distiller>> {
    let value = match named {
        None => json!({ "type": "logits" }),
        Some(value) => written(value)?,
    };
    Ok(names::read(
        session.plugins,
        &Located::from_value(place, value),
        "",
        Kind::Distiller,
    )?)
}

/// The quantizer of a configuration, if networks can be quantized with it.
///
/// # Errors
/// As for [`pruner`]; [`Error::Usage`] with `place` for a width outside of 2 to 16 bits, and for a placement at an op that
/// does not exist.
pub fn quantizer(session: Session<'_>, place: &str, value: &Value) -> Result<Box<dyn Quantizer>> {
    let made: Box<dyn Quantizer> = names::read(
        session.plugins,
        &Located::from_value(place, value.clone()),
        "",
        Kind::Quantizer,
    )?;
    let about = made.backend().check();
    about.map_err(|reason| {
        Error::Usage(format!(
            "{place}: `{}`: {reason}",
            value["type"].as_str().unwrap_or("?")
        ))
    })?;
    Ok(made)
}
