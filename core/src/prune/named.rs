//! Metrics by name: pruners that rank by another plugin's metric name it, and need not know where it lives.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{GroupTensors, PruneMetric};
use crate::{Error, Kind, PluginInfo, Result};

/// Any metric with its options, as an option of a pruner: `{type: l1}`.
#[derive(Clone)]
pub struct Metric(Arc<dyn PruneMetric>);

impl Metric {
    /// Wraps a metric.
    pub fn new(metric: impl PruneMetric + 'static) -> Self {
        Self(Arc::new(metric))
    }

    /// The metric of this name with its default options.
    pub fn named(name: &str) -> Self {
        let config = serde_json::json!({ "type": name });
        Self::find(config.clone()).unwrap_or_else(|_| Self::new(NamedMetric { metric: config }))
    }

    /// The metric of this configuration, `{"type": NAME, ...options}`. One that is not linked into this program or library becomes
    /// a [`NamedMetric`], which the host of the pruning finds.
    pub fn find(config: Value) -> Result<Self> {
        let name = config.get("type").and_then(Value::as_str).unwrap_or_default();
        let linked = name.starts_with('@')
            || PluginInfo::linked()
                .iter()
                .any(|info| info.kind == Kind::Metric && info.name == name);
        if linked || name.is_empty() {
            let metric: Box<dyn PruneMetric> = serde_json::from_value(config)?;
            return Ok(Self(Arc::from(metric)));
        }
        Ok(Self::new(NamedMetric { metric: config }))
    }
}

impl From<Box<dyn PruneMetric>> for Metric {
    fn from(metric: Box<dyn PruneMetric>) -> Self {
        Self(Arc::from(metric))
    }
}

impl Deref for Metric {
    type Target = dyn PruneMetric;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match NamedMetric::of(&**self) {
            Some(config) => config.serialize(serializer),
            None => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let config = match Value::deserialize(deserializer)? {
            Value::String(name) => serde_json::json!({ "type": name }),
            other => other,
        };
        Self::find(config).map_err(|error| match error {
            Error::Json(error) => D::Error::custom(error),
            other => D::Error::custom(other),
        })
    }
}

impl schemars::JsonSchema for Metric {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Metric".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A prune metric: its name, or `{type: NAME, ...options}`",
            "anyOf": [
                {"type": "string"},
                {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}
            ]
        })
    }
}

/// Stands for a metric that lives elsewhere. Can't score: hosts put the metric of that name in its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedMetric {
    /// Its configuration, `{"type": NAME, ...options}`.
    pub metric: Value,
}

impl NamedMetric {
    /// The configuration, if `metric` is a stand-in.
    pub fn of(metric: &dyn PruneMetric) -> Option<Value> {
        if metric.typetag_name() != "@named" {
            return None;
        }
        serde_json::to_value(metric).ok()?.get_mut("metric").map(Value::take)
    }
}

#[typetag::serde(name = "@named")]
impl PruneMetric for NamedMetric {
    fn score(&self, _group: &GroupTensors) -> Result<Vec<f32>> {
        let name = self.metric.get("type").and_then(Value::as_str).unwrap_or_default();
        Err(Error::Plugin {
            plugin: name.to_owned(),
            reason: "there is no such prune metric in this program".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_live_elsewhere_keep_their_configuration() {
        let metric: Metric = serde_json::from_str(r#"{"type": "far-away", "p": 3}"#).expect("any name");
        let config = NamedMetric::of(&*metric).expect("not linked here");
        assert_eq!(config, serde_json::json!({"type": "far-away", "p": 3}));
        assert_eq!(serde_json::to_value(&metric).expect("JSON"), config);
        let short: Metric = serde_json::from_str(r#""far-away""#).expect("a name alone");
        assert_eq!(
            serde_json::to_value(&short).expect("JSON"),
            serde_json::json!({"type": "far-away"})
        );
        let error = metric.score(&GroupTensors::default()).expect_err("a stand-in");
        assert!(error.to_string().contains("far-away"), "{error}");
        assert!(serde_json::from_str::<Metric>("{}").is_err());
    }
}
