//! Feature maps as plugins see them: a value of the graph with its channels and stride.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, ValueId};

/// One feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feat {
    /// The value in the graph, shape `[N, channels, H / stride, W / stride]`.
    pub value: ValueId,
    /// Number of channels.
    pub channels: i64,
    /// Pixels of the input image per cell.
    pub stride: i64,
}

/// Feature maps of a backbone or neck, finest stride first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features(pub Vec<Feat>);

impl Features {
    /// Checks what necks and heads rely on: at least one map, positive channels, strides that double from map to map.
    pub fn check(&self, plugin: &str) -> Result<()> {
        let fail = |reason: String| {
            Err(Error::Build {
                plugin: plugin.to_owned(),
                reason,
            })
        };
        if self.0.is_empty() {
            return fail("it returned no feature map".into());
        }
        if let Some(feat) = self.0.iter().find(|f| f.channels < 1) {
            return fail(format!(
                "the map at stride {} has {} channels",
                feat.stride, feat.channels
            ));
        }
        for pair in self.0.windows(2) {
            if pair[1].stride != 2 * pair[0].stride {
                return fail(format!(
                    "strides must double from map to map, but {} follows {}",
                    pair[1].stride, pair[0].stride
                ));
            }
        }
        Ok(())
    }

    /// The map with this stride.
    pub fn at_stride(&self, stride: i64) -> Option<Feat> {
        self.0.iter().copied().find(|f| f.stride == stride)
    }
}

/// Depth and width multipliers of a model family (n: 0.33, 0.25; s: 0.33, 0.5; m: 0.67, 0.75; l: 1, 1; x: 1.33, 1.25).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Multiplies how often a block repeats.
    pub depth: f64,
    /// Multiplies channels.
    pub width: f64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { depth: 1.0, width: 1.0 }
    }
}

impl Scale {
    /// Number of repeats: `max(round(n * depth), 1)` for n > 1 (halves round to even, as in Python).
    pub fn repeats(&self, n: i64) -> i64 {
        if n > 1 {
            ((n as f64 * self.depth).round_ties_even() as i64).max(1)
        } else {
            n
        }
    }

    /// Channels: `ceil(c * width / 8) * 8`.
    pub fn channels(&self, c: i64) -> i64 {
        (c as f64 * self.width / 8.0).ceil() as i64 * 8
    }
}
