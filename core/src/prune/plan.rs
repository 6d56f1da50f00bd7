//! A prune plan: which channels of which groups stay. Plain data, replayable on the graph it was made for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
            if keep.len() < group.floor {
                return Err(Error::Impossible(format!(
                    "the plan leaves {} channels of `{name}`, where at least {} must stay",
                    keep.len(),
                    group.floor
                )));
            }
        }
        Ok(())
    }
}

/// A plan as a file: what it keeps, why, and for which network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// What it was made for; a file that a person wrote may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Hash of the tensors that it was chosen by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// The metric of `scores`, as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<serde_json::Value>,
    /// By group, the scores that the channels were chosen by; empty where a pruner asked for none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, Vec<f32>>,
    /// Channels that stay, by group.
    pub keep: BTreeMap<String, Vec<usize>>,
}

impl PlanFile {
    /// A plan for the network of these groups.
    pub fn new(plan: &PrunePlan, groups: &ChannelGroups) -> Self {
        Self {
            network: Some(Network::of(groups)),
            keep: plan.keep.clone(),
            ..Self::default()
        }
    }

    /// With the scores that it was chosen by.
    #[must_use]
    pub fn with_scores(mut self, metric: serde_json::Value, scores: BTreeMap<String, Vec<f32>>) -> Self {
        (self.metric, self.scores) = (Some(metric), scores);
        self
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Config`] where it is no plan.
    pub fn read(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::Config(format!("not a prune plan: {}", in_words(&error))))
    }

    /// The text of the file.
    ///
    /// # Errors
    /// None that a plan can have; a writer wants a `Result`.
    pub fn write(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The plan, if it fits a network of these groups.
    ///
    /// # Errors
    /// [`Error::Impossible`] where it was made for another network, with the first difference.
    pub fn for_groups(&self, groups: &ChannelGroups) -> Result<PrunePlan> {
        if let Some(there) = &self.network
            && !there.is(groups)
        {
            return Err(Error::Impossible(format!(
                "the plan was made for another network: {}",
                there.unlike(groups)
            )));
        }
        let plan = PrunePlan {
            keep: self.keep.clone(),
        };
        plan.check(groups)?;
        Ok(plan)
    }
}

/// What a plan was made for: the widths of all groups and how they hang together, whatever the weights are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// SHA-256 of the groups' names and widths and of what makes and reads their channels; 16 digits.
    #[serde(default)]
    pub fingerprint: String,
    /// Channels by group.
    pub widths: BTreeMap<String, usize>,
}

impl Network {
    fn of(groups: &ChannelGroups) -> Self {
        let width = |group: &ChannelGroup| (group.name.clone(), group.len());
        let mut hash = Sha256::new();
        for group in groups {
            hash.update(format!("{} {}\n", group.name, group.len()));
            for cut in &group.cuts {
                hash.update(format!("{} {} {:?}\n", cut.key, cut.axis, cut.side));
            }
        }
        let digits = hash
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            fingerprint: digits,
            widths: groups.groups.iter().map(width).collect(),
        }
    }

    /// Whether it is that of these groups. A file that a person wrote may give widths alone.
    fn is(&self, groups: &ChannelGroups) -> bool {
        let here = Self::of(groups);
        self.widths == here.widths && (self.fingerprint.is_empty() || self.fingerprint == here.fingerprint)
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
        match here.widths.keys().find(|name| !self.widths.contains_key(*name)) {
            Some(more) => format!("this model has a group `{more}`, that one does not"),
            None => "the same groups of channels are made or read by other layers".into(),
        }
    }
}
