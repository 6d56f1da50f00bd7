//! Pruners, metrics and quantizers as a person names them: `slimming`, `{type: slimming, ratio: 0.5}`, `my-metric.wasm`.

use std::path::Path;

use serde_json::{Value, json};
use yolo_core::config::{Located, merge, set};
use yolo_core::model::names;
use yolo_core::{Kind, Pruner, Quantizer};

use crate::error::{CliError, CliResult};
use crate::plugins;

/// `slimming` or YAML, with `key=value` options on top, as a plugin configuration.
pub fn configuration(text: &str, options: &[String]) -> CliResult<Value> {
    let value = Located::parse("<option>", text)?.value;
    let mut value = match value {
        Value::String(name) => json!({ "type": name }),
        Value::Object(_) => value,
        _ => {
            return Err(CliError::Usage(format!(
                "`{text}`: give a name or {{type: NAME, option: value}}"
            )));
        }
    };
    for option in options {
        set(&mut value, option)?;
    }
    Ok(value)
}

/// The value of `--metric`: a name, YAML, or a WASM file.
pub fn metric_configuration(text: &str) -> CliResult<Value> {
    if Path::new(text).extension().is_some_and(|e| e == "wasm" || e == "wat") {
        return Ok(json!({ "type": text }));
    }
    configuration(text, &[])
}

/// Puts a metric into the options of a pruner that takes one.
pub fn with_metric(mut pruner: Value, metric: Option<&str>) -> CliResult<Value> {
    if let Some(metric) = metric {
        let metric = metric_configuration(metric)?;
        merge(&mut pruner, json!({ "metric": null }));
        merge(&mut pruner, json!({ "metric": metric }));
    }
    Ok(pruner)
}

/// The pruner of a configuration; `place` is where it stands, for messages.
pub fn pruner(place: &str, value: &Value) -> CliResult<Box<dyn Pruner>> {
    Ok(names::read(
        plugins::index()?,
        &Located::from_value(place, value.clone()),
        "",
        Kind::Pruner,
    )?)
}

/// The quantizer of a configuration, if networks can be quantized with it.
pub fn quantizer(place: &str, value: &Value) -> CliResult<Box<dyn Quantizer>> {
    let made: Box<dyn Quantizer> = names::read(
        plugins::index()?,
        &Located::from_value(place, value.clone()),
        "",
        Kind::Quantizer,
    )?;
    let about = made.backend().check();
    about.map_err(|reason| {
        CliError::Usage(format!(
            "{place}: `{}`: {reason}",
            value["type"].as_str().unwrap_or("?")
        ))
    })?;
    Ok(made)
}
