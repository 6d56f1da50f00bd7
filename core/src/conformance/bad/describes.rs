//! Descriptions and options of plugins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{Report, component, description};
use super::every_check_refuses;
use crate::info::{Paper, Stability};
use crate::prune::{GroupTensors, PruneMetric};
use crate::{Kind, PluginInfo, Result};

/// Reads its options and writes them as they were.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Honest {
    /// A number.
    power: f64,
}

/// Forgets its option when it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgets {
    #[serde(skip_serializing, default)]
    power: f64,
}

/// Takes any option.
#[derive(Debug, Serialize, Deserialize)]
struct TakesAll {
    power: f64,
}

#[typetag::serde(name = "honest")]
impl PruneMetric for Honest {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        Ok(vec![self.power as f32; group.channels])
    }
}

#[typetag::serde(name = "forgets")]
impl PruneMetric for Forgets {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        Ok(vec![self.power as f32; group.channels])
    }
}

#[typetag::serde(name = "takes-all")]
impl PruneMetric for TakesAll {
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>> {
        Ok(vec![self.power as f32; group.channels])
    }
}

fn schema() -> Value {
    schemars::schema_for!(Honest).to_value()
}

const GOOD: PluginInfo = PluginInfo {
    kind: Kind::Metric,
    name: "honest",
    aliases: &["plain"],
    summary: "Does what it says and no more",
    version: "1.0.0",
    authors: "",
    license: "MIT",
    paper: Some(Paper {
        title: "A Paper",
        url: "https://arxiv.org/abs/1608.08710",
        year: 2017,
        short: "Paper (2017)",
    }),
    stability: Stability::Stable,
    package: "yolo-plugin-honest",
    schema,
    example: || json!({"type": "honest", "power": 2.0}),
};

// Somebody who is there already.
inventory::submit! {
    PluginInfo { name: "twin", aliases: &["second"], package: "yolo-plugin-twin", ..GOOD }
}

fn broken(check: &str) -> PluginInfo {
    let paper = GOOD.paper.expect("a paper");
    match check {
        "its names are kebab-case, and no other plugin of its kind has them" => PluginInfo {
            aliases: &["Plain_Name"],
            ..GOOD
        },
        "its summary is a short line without a full stop" => PluginInfo {
            summary: "Ends in a full stop.",
            ..GOOD
        },
        "it has a version and a licence" => PluginInfo { license: " ", ..GOOD },
        "its paper has a link and a year" => PluginInfo {
            paper: Some(Paper { year: 20, ..paper }),
            ..GOOD
        },
        "its options have descriptions" => PluginInfo {
            schema: || json!({"properties": {"power": {"type": "number"}}}),
            ..GOOD
        },
        "its example names it" => PluginInfo {
            name: "another",
            ..GOOD
        },
        "its example is read, and written as it was" => PluginInfo {
            name: "forgets",
            example: || json!({"type": "forgets", "power": 2.0}),
            ..GOOD
        },
        "an option that it does not have is refused by name" => PluginInfo {
            name: "takes-all",
            example: || json!({"type": "takes-all", "power": 2.0}),
            ..GOOD
        },
        _ => GOOD,
    }
}

#[test]
fn descriptions() {
    every_check_refuses(&description(&GOOD), |check| description(&broken(check)));
}

/// Other ways to break the same checks.
#[test]
fn names_papers_summaries_and_versions() {
    let paper = GOOD.paper.expect("a paper");
    let link = Some(Paper {
        url: "arxiv.org/abs/1608.08710",
        ..paper
    });
    for (check, bad) in [
        (
            "its names",
            PluginInfo {
                aliases: &["second"],
                ..GOOD
            },
        ),
        (
            "its names",
            PluginInfo {
                aliases: &["-plain"],
                ..GOOD
            },
        ),
        ("its names", PluginInfo { aliases: &[""], ..GOOD }),
        (
            "its summary",
            PluginInfo {
                summary: "Short",
                ..GOOD
            },
        ),
        (
            "its summary",
            PluginInfo {
                summary: "One line and\na second one",
                ..GOOD
            },
        ),
        ("it has a version", PluginInfo { version: "", ..GOOD }),
        ("its paper", PluginInfo { paper: link, ..GOOD }),
    ] {
        let report = description(&bad);
        let first = report.failures().next().expect(check);
        assert!(first.what.starts_with(check), "{}", first.what);
    }
}

#[test]
fn examples_that_make_nothing() {
    for kind in Kind::ALL {
        for config in [json!({"type": "no-such-thing"}), json!({}), json!(null)] {
            let report: Report = component(kind, &config);
            let first = report.failures().next().expect("a failure");
            assert_eq!(first.what, "it can be made from its example", "{kind:?} {config}");
        }
    }
    let report = component(Kind::Metric, &json!({"type": "honest", "power": "much"}));
    assert_eq!(report.failures().count(), 1, "{report:?}");
}
