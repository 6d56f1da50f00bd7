//! What every plugin must keep, as checks that run on a component wherever it comes from: linked into a test, loaded from a library,
//! or a WASM module. `yolo plugin test` prints them, the tests of a plugin crate assert them:
//!
//! ```no_run
//! # use yolo_core::conformance;
//! conformance::linked("yolo-plugin-mine").assert();
//! ```
//!
//! Components are made from their examples and used on small networks with weights that are the same everywhere.

#[cfg(test)]
mod bad;
mod distil;
mod model;
mod prune;
mod quant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Located;
use crate::graph::CustomOp;
use crate::{Backbone, Distiller, Kind, NeckBlock, PluginInfo, PruneMetric, Pruner, Quantizer, suggest};

pub use distil::distiller;
pub use model::{backbone, custom_op, neck_block};
pub use prune::{metric, pruner};
pub use quant::quantizer;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold.
    pub what: String,
    /// Why it does not.
    pub failure: Option<String>,
}

/// Checks, in the order in which they ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// All of them.
    pub checks: Vec<Check>,
}

impl Report {
    /// Runs a check; `Err` says why it fails.
    pub fn check(&mut self, what: impl Into<String>, look: impl FnOnce() -> Result<(), String>) {
        self.get(what, look);
    }

    /// As [`Report::check`], with a value that later checks need.
    pub fn get<T>(&mut self, what: impl Into<String>, look: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let (value, failure) = match look() {
            Ok(value) => (Some(value), None),
            Err(reason) => (None, Some(reason)),
        };
        self.checks.push(Check {
            what: what.into(),
            failure,
        });
        value
    }

    /// Adds the checks of another report.
    pub fn extend(&mut self, other: Self) {
        self.checks.extend(other.checks);
    }

    /// Checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.failure.is_some())
    }

    /// For tests: panics with every failure, or if nothing was checked.
    #[track_caller]
    pub fn assert(&self) {
        let failures: Vec<String> = self
            .failures()
            .map(|check| format!("  {}: {}", check.what, check.failure.as_deref().unwrap_or_default()))
            .collect();
        assert!(
            !self.checks.is_empty(),
            "nothing was checked: is the plugin linked in? (`use CRATE as _;`)"
        );
        assert!(
            failures.is_empty(),
            "{} of {} checks fail\n{}",
            failures.len(),
            self.checks.len(),
            failures.join("\n")
        );
    }
}

/// Every component of a package that is linked into this program: its description, its options, and its use.
pub fn linked(package: &str) -> Report {
    let mut report = Report::default();
    for info in PluginInfo::linked().into_iter().filter(|info| info.package == package) {
        let mut own = description(info);
        own.extend(component(info.kind, &(info.example)()));
        for check in &mut own.checks {
            check.what = format!("{} `{}`: {}", info.kind.title(), info.name, check.what);
        }
        report.extend(own);
    }
    report
}

/// How a linked plugin describes itself, and how it reads its options.
pub fn description(info: &PluginInfo) -> Report {
    let mut report = Report::default();
    let (schema, example) = ((info.schema)(), (info.example)());
    report.check(
        "its names are kebab-case, and no other plugin of its kind has them",
        || {
            for name in std::iter::once(&info.name).chain(info.aliases) {
                if !is_kebab(name) {
                    return Err(format!("`{name}`"));
                }
                let twin =
                    |other: &&&PluginInfo| other.kind == info.kind && other.name != info.name && other.answers_to(name);
                if let Some(other) = PluginInfo::linked().iter().find(twin) {
                    return Err(format!(
                        "`{}` of {} answers to `{name}`, too",
                        other.name, other.package
                    ));
                }
            }
            Ok(())
        },
    );
    report.check("its summary is a short line without a full stop", || {
        let fine = info.summary.len() > 15 && !info.summary.ends_with('.') && !info.summary.contains('\n');
        if fine {
            Ok(())
        } else {
            Err(format!("`{}`", info.summary))
        }
    });
    report.check("it has a version and a licence", || {
        let lacking = [("version", info.version), ("license", info.license)];
        let bare = lacking.iter().find(|(_, text)| text.trim().is_empty());
        bare.map_or(Ok(()), |(what, _)| Err(format!("`{what}` is missing in Cargo.toml")))
    });
    report.check("its paper has a link and a year", || match info.paper {
        Some(paper) if !paper.url.starts_with("https://") => Err(format!("`{}` is no link", paper.url)),
        Some(paper) if !(1950..2100).contains(&paper.year) => Err(format!("the year is {}", paper.year)),
        _ => Ok(()),
    });
    report.check("its options have descriptions", || {
        let options = schema["properties"].as_object().into_iter().flatten();
        let mut bare = options.filter(|(_, about)| about.get("description").is_none() && about.get("$ref").is_none());
        bare.next().map_or(Ok(()), |(name, _)| {
            Err(format!("`{name}` has none: write a doc comment"))
        })
    });
    report.check("its example names it", || {
        let named = example["type"].as_str().unwrap_or_default();
        if suggest::normalise(named) == suggest::normalise(info.name) {
            Ok(())
        } else {
            Err(format!("`type: {named}`"))
        }
    });
    report.check("its example is read, and written as it was", || {
        let once = again(info.kind, &example)?;
        let twice = again(info.kind, &once)?;
        if once != twice {
            return Err(format!("{once} becomes {twice}"));
        }
        let lost = example
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, value)| once.get(*key) != Some(value));
        lost.map_or(Ok(()), |(key, _)| Err(format!("`{key}` is lost or changed")))
    });
    report.check("an option that it does not have is refused by name", || {
        let mut wrong = example.clone();
        wrong["no-such-option"] = Value::from(1);
        match again(info.kind, &wrong) {
            Ok(_) => Err("it is accepted: write #[serde(deny_unknown_fields)]".into()),
            Err(error) if error.contains("no-such-option") => Ok(()),
            Err(error) => Err(error),
        }
    });
    report
}

fn is_kebab(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 64 && name.chars().all(fine) && !name.starts_with('-') && !name.ends_with('-')
}

/// A configuration as the component writes it.
fn again(kind: Kind, config: &Value) -> Result<Value, String> {
    fn through<T: DeserializeOwned + Serialize>(config: &Value) -> Result<Value, String> {
        let component: T = read(config)?;
        serde_json::to_value(&component).map_err(because)
    }
    match kind {
        Kind::Backbone => through::<Box<dyn Backbone>>(config),
        Kind::NeckBlock => through::<Box<dyn NeckBlock>>(config),
        Kind::Op => through::<Box<dyn CustomOp>>(config),
        Kind::Pruner => through::<Box<dyn Pruner>>(config),
        Kind::Metric => through::<Box<dyn PruneMetric>>(config),
        Kind::Quantizer => through::<Box<dyn Quantizer>>(config),
        Kind::Distiller => through::<Box<dyn Distiller>>(config),
    }
}

fn read<T: DeserializeOwned>(config: &Value) -> Result<T, String> {
    Located::from_value("<example>", config.clone()).read().map_err(because)
}

/// The use of a component, from a configuration that typetag can read.
pub fn component(kind: Kind, config: &Value) -> Report {
    fn with<T: DeserializeOwned>(config: &Value, checks: impl FnOnce(T) -> Report) -> Report {
        let mut report = Report::default();
        if let Some(made) = report.get("it can be made from its example", || read::<T>(config)) {
            report.extend(checks(made));
        }
        report
    }
    match kind {
        Kind::Backbone => with(config, |made: Box<dyn Backbone>| backbone(made.as_ref())),
        Kind::NeckBlock => with(config, |made: Box<dyn NeckBlock>| neck_block(made.as_ref())),
        Kind::Op => with(config, |made: Box<dyn CustomOp>| custom_op(made.as_ref())),
        Kind::Pruner => with(config, |made: Box<dyn Pruner>| pruner(made.as_ref())),
        Kind::Metric => with(config, |made: Box<dyn PruneMetric>| metric(made.as_ref())),
        Kind::Quantizer => with(config, |made: Box<dyn Quantizer>| quantizer(made.as_ref())),
        Kind::Distiller => with(config, |made: Box<dyn Distiller>| distiller(made.as_ref())),
    }
}

/// Any error as the reason of a failed check.
fn because(error: impl std::fmt::Display) -> String {
    error.to_string()
}
