//! A prune plan: which channels of which groups stay. Plain data, replayable on the graph it was made for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChannelGroup, ChannelGroups};
use crate::config::in_words;
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

    /// The plan of a file: ours with its fingerprint, or a bare one.
    ///
    /// # Errors
    /// Where the file is none, or was made for another network.
    pub fn of_file(text: &str, groups: &ChannelGroups) -> Result<Self> {
        let file: PlanFile = serde_json::from_str(text)
            .map_err(|error| Error::Config(format!("not a prune plan: {}", in_words(&error))))?;
        if let Some(there) = &file.network
            && *there != Network::of(groups)
        {
            return Err(Error::Impossible(format!(
                "the plan was made for another network: {}",
                there.unlike(groups)
            )));
        }
        let plan = Self { keep: file.keep };
        plan.check(groups)?;
        Ok(plan)
    }

    /// The text of a file that can be applied to networks of these groups only.
    pub fn to_file(&self, groups: &ChannelGroups) -> Result<String> {
        let file = PlanFile {
            network: Some(Network::of(groups)),
            keep: self.keep.clone(),
        };
        Ok(serde_json::to_string_pretty(&file)? + "\n")
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

/// A plan as a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    keep: BTreeMap<String, Vec<usize>>,
}

/// What a plan was made for: the widths of all groups, whatever the weights are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    widths: BTreeMap<String, usize>,
}

impl Network {
    fn of(groups: &ChannelGroups) -> Self {
        let width = |group: &ChannelGroup| (group.name.clone(), group.len());
        Self {
            widths: groups.groups.iter().map(width).collect(),
        }
    }

    /// The first difference, for a person.
    fn unlike(&self, groups: &ChannelGroups) -> String {
        let here = Self::of(groups);
        for (name, there) in &self.widths {
            match here.widths.get(name) {
                None => return format!("it has a group `{name}`, this model does not"),
                Some(own) if own != there => return format!("`{name}` has {there} channels there and {own} here"),
                Some(_) => {}
            }
        }
        let more = here.widths.keys().find(|name| !self.widths.contains_key(*name));
        format!(
            "this model has a group `{}`, that one does not",
            more.map_or("?", String::as_str)
        )
    }
}
