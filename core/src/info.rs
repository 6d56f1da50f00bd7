//! How a plugin describes itself. Everything that lists, inspects or documents plugins reads [`PluginInfo`] and nothing
//! else.

use serde::{Deserialize, Serialize};

/// What a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Turns the image into feature maps.
    Backbone,
    /// Turns one or several feature maps into one.
    NeckBlock,
    /// A primitive with its own forward.
    Op,
    /// Decides which channels go.
    Pruner,
    /// Scores the channels of a group.
    Metric,
    /// Places and parametrises fake quantizers, writes what a backend reads.
    Quantizer,
    /// Compares a student with its teacher.
    Distiller,
}

impl Kind {
    /// All kinds, in the order of listings.
    pub const ALL: [Self; 7] = [
        Self::Backbone,
        Self::NeckBlock,
        Self::Op,
        Self::Pruner,
        Self::Metric,
        Self::Quantizer,
        Self::Distiller,
    ];

    /// The name used on the command line, in manifests and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backbone => "backbone",
            Self::NeckBlock => "neck-block",
            Self::Op => "op",
            Self::Pruner => "pruner",
            Self::Metric => "metric",
            Self::Quantizer => "quantizer",
            Self::Distiller => "distiller",
        }
    }

    /// A few words for messages: "backbone", "neck block", ...
    pub const fn title(self) -> &'static str {
        match self {
            Self::NeckBlock => "neck block",
            Self::Op => "custom op",
            Self::Metric => "prune metric",
            Self::Backbone | Self::Pruner | Self::Quantizer | Self::Distiller => self.name(),
        }
    }

    /// The kind of this name (`neck_block` and `neck` are accepted for `neck-block`).
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.replace('_', "-").to_ascii_lowercase();
        match name.as_str() {
            "neck" | "neckblock" => Some(Self::NeckBlock),
            "prune-metric" => Some(Self::Metric),
            _ => Self::ALL.into_iter().find(|kind| kind.name() == name),
        }
    }
}

/// The publication that a plugin implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Paper {
    /// Title as printed.
    pub title: &'static str,
    /// Link, by preference to arXiv.
    pub url: &'static str,
    /// Year of publication.
    pub year: u16,
    /// Short form for tables, for example "GhostNet (CVPR 2020)".
    pub short: &'static str,
}

/// How much a plugin can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stability {
    /// Names, options and checkpoints stay readable.
    Stable,
    /// May change without notice.
    Experimental,
}

/// Everything a plugin is, apart from its code.
#[derive(Debug, Clone, Copy)]
pub struct PluginInfo {
    /// What it is.
    pub kind: Kind,
    /// Kebab-case name, unique per kind.
    pub name: &'static str,
    /// Other accepted names.
    pub aliases: &'static [&'static str],
    /// One line.
    pub summary: &'static str,
    /// Version of its crate.
    pub version: &'static str,
    /// Authors of its crate, separated by `:`.
    pub authors: &'static str,
    /// SPDX expression.
    pub license: &'static str,
    /// The publication, where there is one.
    pub paper: Option<Paper>,
    /// How far to trust it.
    pub stability: Stability,
    /// Its crate.
    pub package: &'static str,
    /// JSON Schema of its options.
    pub schema: fn() -> serde_json::Value,
    /// An example configuration that builds: `{"type": NAME, ...}`.
    pub example: fn() -> serde_json::Value,
}

inventory::collect!(PluginInfo);

impl PluginInfo {
    /// Every plugin that is linked into this program, sorted by kind and name.
    pub fn linked() -> Vec<&'static Self> {
        let mut all: Vec<_> = inventory::iter::<Self>.into_iter().collect();
        all.sort_by_key(|info| (info.kind, info.name));
        all
    }

    /// Whether this plugin answers to `name` (case, `-`, `_`, `.` and blanks don't matter).
    pub fn answers_to(&self, name: &str) -> bool {
        let wanted = crate::suggest::normalise(name);
        std::iter::once(&self.name)
            .chain(self.aliases)
            .any(|own| crate::suggest::normalise(own) == wanted)
    }
}
