//! The metric component that runs a module.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use yolo_core::prune::{GroupTensors, MetricInputs, PruneMetric};

use super::call::{self, Limits};
use super::module::{Loaded, load};
use crate::error::PluginError;
use crate::package::Package;

/// Options that every WASM metric has besides its own.
const FUEL: &str = "fuel_per_weight";
const SECONDS: &str = "seconds";
const DEFAULT_FUEL: u64 = 200;
const DEFAULT_SECONDS: f64 = 10.0;
const MAX_SECONDS: f64 = 86_400.0;

/// A metric in a WebAssembly module, with its options: `{type: "@wasm", path, name, options}`. Reading it loads the module.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Spec", into = "Spec")]
pub struct WasmMetric {
    spec: Spec,
    module: Arc<Loaded>,
    params: Vec<f32>,
    limits: Limits,
}

/// A [`WasmMetric`] as data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    path: PathBuf,
    name: String,
    #[serde(default)]
    options: Map<String, Value>,
}

impl TryFrom<Spec> for WasmMetric {
    type Error = Unread;

    fn try_from(spec: Spec) -> Result<Self, Unread> {
        let package = Package::at(&spec.path);
        let module = load(&package, &spec.name).map_err(Unread::Module)?;
        let (params, limits) = read_options(&module, &spec.options)?;
        Ok(Self {
            spec,
            module,
            params,
            limits,
        })
    }
}

/// Why a configuration gave no metric. Passes through serde, so what it says about options is what serde says of its own structs:
/// the reader of the configuration knows the place.
#[derive(Debug)]
enum Unread {
    Module(PluginError),
    Option(String, Vec<String>),
    Value(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(error) => error.fmt(f),
            Self::Option(option, known) => {
                write!(f, "unknown field `{option}`, expected one of `{}`", known.join("`, `"))
            }
            Self::Value(text) => f.write_str(text),
        }
    }
}

impl From<WasmMetric> for Spec {
    fn from(metric: WasmMetric) -> Self {
        metric.spec
    }
}

impl WasmMetric {
    /// The module.
    pub fn module(&self) -> &Loaded {
        &self.module
    }
}

#[typetag::serde(name = "@wasm")]
impl PruneMetric for WasmMetric {
    fn needs(&self) -> MetricInputs {
        self.module.needs
    }

    fn score(&self, group: &GroupTensors) -> yolo_core::Result<Vec<f32>> {
        call::score(&self.module, &self.params, self.limits, group)
    }
}

/// What is wrong with the schema of a metric's options, if anything: they cross as 32-bit floats.
pub(super) fn schema_complaint(schema: &Value) -> Option<String> {
    let properties = match schema.get("properties") {
        None => return None,
        Some(Value::Object(properties)) => properties,
        Some(_) => return Some("`schema.properties` must be an object".into()),
    };
    for (name, about) in properties {
        if [FUEL, SECONDS, "type"].contains(&name.as_str()) {
            return Some(format!("the option `{name}` is taken by yolo"));
        }
        let kind = about.get("type").and_then(Value::as_str);
        if !matches!(kind, Some("number" | "integer" | "boolean")) {
            return Some(format!(
                "the option `{name}` must have the type number, integer or boolean"
            ));
        }
        if let Some(default) = about.get("default")
            && as_f32(default).is_none()
        {
            return Some(format!("the default of `{name}` is no number"));
        }
    }
    None
}

/// Writes down the defaults that go without saying: 0 and false.
pub(super) fn complete(schema: &mut Value) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for about in properties.into_iter().flat_map(|properties| properties.values_mut()) {
        let nothing = if about["type"] == "boolean" {
            Value::Bool(false)
        } else {
            Value::from(0)
        };
        if let Value::Object(about) = about {
            about.entry("default").or_insert(nothing);
        }
    }
}

fn as_f32(value: &Value) -> Option<f32> {
    let number = match value {
        Value::Bool(yes) => f32::from(u8::from(*yes)),
        other => other.as_f64()? as f32,
    };
    number.is_finite().then_some(number)
}

/// Options as the module gets them, in the order of its schema, and the limits.
fn read_options(module: &Loaded, options: &Map<String, Value>) -> Result<(Vec<f32>, Limits), Unread> {
    let none = Map::new();
    let properties = module
        .about
        .schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let known = || properties.keys().map(String::as_str).chain([FUEL, SECONDS]);
    let bad =
        |option: &str, wanted: &str| Unread::Value(format!("`{option}` must be {wanted}, not {}", options[option]));
    if let Some(option) = options.keys().find(|option| !known().any(|name| name == *option)) {
        return Err(Unread::Option(option.clone(), known().map(str::to_owned).collect()));
    }
    let params = properties
        .iter()
        .map(|(name, about)| match options.get(name) {
            Some(value) => {
                let fits = match about.get("type").and_then(Value::as_str) {
                    Some("boolean") => value.is_boolean(),
                    Some("integer") => value.is_i64() || value.is_u64(),
                    _ => value.is_number(),
                };
                let wanted = about.get("type").and_then(Value::as_str).unwrap_or("number");
                as_f32(value)
                    .filter(|_| fits)
                    .ok_or_else(|| bad(name, &format!("a {wanted}")))
            }
            None => Ok(about.get("default").and_then(as_f32).unwrap_or(0.0)),
        })
        .collect::<Result<_, Unread>>()?;
    let fuel_per_weight = match options.get(FUEL) {
        Some(value) => value
            .as_u64()
            .filter(|fuel| *fuel > 0)
            .ok_or_else(|| bad(FUEL, "a whole number above 0"))?,
        None => DEFAULT_FUEL,
    };
    let seconds = match options.get(SECONDS) {
        Some(value) => value
            .as_f64()
            .filter(|s| *s > 0.0 && *s <= MAX_SECONDS)
            .ok_or_else(|| bad(SECONDS, "a number above 0, at most 86400"))?,
        None => DEFAULT_SECONDS,
    };
    Ok((
        params,
        Limits {
            fuel_per_weight,
            time: Duration::from_secs_f64(seconds),
        },
    ))
}
