//! A prune plan: which channels of which groups stay. Plain data, replayable on the graph it was made for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChannelGroup, ChannelGroups};
use crate::{Error, Result};

/// Channels that stay, by group; groups that are not named keep all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrunePlan {
    /// Name of the group to positions in the group, ascending.
    pub keep: BTreeMap<String, Vec<usize>>,
}

impl PrunePlan {
    /// Everything stays.
    pub fn full() -> Self {
        Self::default()
    }

    /// How many channels of a group stay.
    pub fn kept(&self, group: &ChannelGroup) -> usize {
        self.keep.get(&group.name).map_or(group.len(), Vec::len)
    }

    /// Checks the plan against the groups of a graph.
    pub fn check(&self, groups: &ChannelGroups) -> Result<()> {
        for (name, keep) in &self.keep {
            let Some((_, group)) = groups.get(name) else {
                let hint = crate::suggest::did_you_mean(name, groups.groups.iter().map(|g| g.name.as_str()));
                return Err(Error::Impossible(format!(
                    "the plan names the group `{name}`, which this model does not have{}",
                    hint.map(|h| format!("; {h}")).unwrap_or_default()
                )));
            };
            let ascending = keep.windows(2).all(|pair| pair[0] < pair[1]);
            if keep.is_empty() || !ascending || keep.last().is_some_and(|last| *last >= group.len()) {
                return Err(Error::Impossible(format!(
                    "the plan for `{name}` must list at least one of its {} channels, ascending and without repeats",
                    group.len()
                )));
            }
        }
        Ok(())
    }
}
