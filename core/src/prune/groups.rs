//! Channel groups: the sets of channels that can be removed one by one, each with the parts of tensors that go with it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::atoms::Atoms;
use super::pattern;
use crate::graph::Graph;
use crate::ops::{Follows, OwnTensor};
use crate::{Error, ParamRole, Result};

/// What a tensor is to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Its rows make the channel (weight of a producer, norm, bias).
    Producer,
    /// Its columns read the channel.
    Consumer,
}

/// A tensor that a group cuts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cut {
    /// Key of the tensor.
    pub key: String,
    /// Axis that is cut.
    pub axis: usize,
    /// What it is to the channels.
    pub side: Side,
    /// What it is to the optimizer (as in the graph's specs).
    pub role: CutRole,
}

/// Kind of tensor, as far as scores care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutRole {
    /// Weight of a convolution or linear layer.
    Weight,
    /// Bias.
    Bias,
    /// Scale of a norm.
    NormWeight,
    /// Shift of a norm.
    NormBias,
    /// Statistics and the like.
    Other,
}

/// Channels that are alike: each can go on its own, and each is made and read by the same tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelGroup {
    /// Scope of the first layer that makes the channels.
    pub name: String,
    /// Tensors that are cut.
    pub cuts: Vec<Cut>,
    /// For each channel and each cut, the positions along the axis (more than one where a concat repeats a map).
    pub channels: Vec<Vec<Vec<u32>>>,
    /// Least number of channels that must stay.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub floor: usize,
    #[serde(skip)]
    pub(crate) atoms: Vec<u32>,
}

impl ChannelGroup {
    /// Number of channels.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there are no channels (never, in a traced graph).
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Positions along the axis of a cut, one per channel (the first one where a map is repeated).
    pub fn positions(&self, cut: usize) -> Vec<i64> {
        self.channels
            .iter()
            .filter_map(|channel| channel[cut].first())
            .map(|at| i64::from(*at))
            .collect()
    }
}

/// What must not be cut, or not far, whatever a pruner thinks of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Patterns of groups that stay whole.
    pub exclude: Vec<String>,
    /// Least shares of groups; of several that name a group, the largest counts.
    pub floors: Vec<Floor>,
}

/// The least share that a pattern's groups keep. As text: `PATTERN=SHARE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Floor {
    /// Names groups.
    pub pattern: String,
    /// Share of their channels.
    pub share: f64,
}

impl std::str::FromStr for Floor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once('=').and_then(|(pattern, share)| {
            let share = share.trim().parse().ok()?;
            Some(Self {
                pattern: pattern.trim().to_owned(),
                share,
            })
        });
        parsed.ok_or_else(|| format!("`{text}`: write PATTERN=SHARE, for example `model.9=0.5`"))
    }
}

impl TryFrom<String> for Floor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Floor> for String {
    fn from(floor: Floor) -> Self {
        format!("{}={}", floor.pattern, floor.share)
    }
}

/// All groups of a graph, in graph order, and what they are made of.
#[derive(Debug)]
pub struct ChannelGroups {
    /// Groups that may be pruned.
    pub groups: Vec<ChannelGroup>,
    pub(crate) atoms: Atoms,
}

impl<'a> IntoIterator for &'a ChannelGroups {
    type Item = &'a ChannelGroup;
    type IntoIter = std::slice::Iter<'a, ChannelGroup>;

    fn into_iter(self) -> Self::IntoIter {
        self.groups.iter()
    }
}

impl ChannelGroups {
    /// Finds the groups of a graph. Exact: removing a channel whose producers are silent leaves the outputs unchanged.
    pub fn of(graph: &Graph) -> Result<Self> {
        let atoms = Atoms::trace(graph)?;
        let mut cuts: Vec<Cut> = Vec::new();
        let mut cut_ids: HashMap<Cut, u32> = HashMap::new();
        // Root atom -> (cut, position).
        let mut members: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
        for (value, node) in graph.values().zip(&graph.nodes) {
            for OwnTensor { spec, axes } in node.op.tensors(&node.name) {
                for (axis, follows) in axes {
                    let (side, source) = match follows {
                        Follows::Input => (Side::Consumer, node.inputs[0]),
                        Follows::Output => (Side::Producer, value),
                    };
                    let cut = Cut {
                        key: spec.key.clone(),
                        axis: *axis,
                        side,
                        role: role(spec.role),
                    };
                    let id = *cut_ids.entry(cut.clone()).or_insert_with(|| {
                        cuts.push(cut);
                        cuts.len() as u32 - 1
                    });
                    for (position, atom) in atoms.of(source).iter().enumerate() {
                        if !atoms.frozen[*atom as usize] {
                            members.entry(*atom).or_default().push((id, position as u32));
                        }
                    }
                }
            }
        }
        // Channels with the same cuts (and the same number of positions in each) form a group.
        let mut by_signature: HashMap<Vec<(u32, u32)>, usize> = HashMap::new();
        let mut groups: Vec<ChannelGroup> = Vec::new();
        for (atom, mut places) in members {
            places.sort_unstable();
            places.dedup();
            let mut signature: Vec<(u32, u32)> = Vec::new();
            let mut positions: Vec<Vec<u32>> = Vec::new();
            for (cut, position) in places {
                match signature.last_mut() {
                    Some((last, count)) if *last == cut => {
                        *count += 1;
                        if let Some(list) = positions.last_mut() {
                            list.push(position);
                        }
                    }
                    _ => {
                        signature.push((cut, 1));
                        positions.push(vec![position]);
                    }
                }
            }
            let index = *by_signature.entry(signature.clone()).or_insert_with(|| {
                let own: Vec<Cut> = signature.iter().map(|(cut, _)| cuts[*cut as usize].clone()).collect();
                let name = own
                    .iter()
                    .find(|cut| cut.side == Side::Producer && cut.role == CutRole::Weight)
                    .or(own.first())
                    .map(|cut| scope_of(&cut.key).to_owned())
                    .unwrap_or_default();
                groups.push(ChannelGroup {
                    name,
                    cuts: own,
                    channels: Vec::new(),
                    floor: 0,
                    atoms: Vec::new(),
                });
                groups.len() - 1
            });
            groups[index].channels.push(positions);
            groups[index].atoms.push(atom);
        }
        // A group without a producer would be a channel that nobody makes.
        groups.retain(|group| {
            group
                .cuts
                .iter()
                .any(|cut| cut.side == Side::Producer && cut.role == CutRole::Weight)
        });
        name_apart(&mut groups);
        Ok(Self { groups, atoms })
    }

    /// The groups of a model that lives elsewhere, as a pruner in a shared library gets them: enough to score, select and plan,
    /// not to apply or to cost.
    pub fn from_parts(groups: Vec<ChannelGroup>) -> Self {
        Self {
            groups,
            atoms: Atoms::default(),
        }
    }

    /// These groups within limits: without the ones that stay whole, the others with their floors.
    ///
    /// # Errors
    /// [`Error::Impossible`] for a pattern that names no group, a floor outside of 0 to 1, and where nothing is left to prune.
    pub fn within(mut self, limits: &Limits) -> Result<Self> {
        for Floor { pattern, share } in &limits.floors {
            if !(*share > 0.0 && *share <= 1.0) {
                return Err(Error::Impossible(format!(
                    "the floor `{pattern}={share}` must be above 0 and at most 1"
                )));
            }
            for at in pattern::find(&self, pattern)? {
                let group = &mut self.groups[at];
                let least = (group.len() as f64 * share).ceil() as usize;
                group.floor = group.floor.max(least);
            }
        }
        let mut whole = vec![false; self.groups.len()];
        for text in &limits.exclude {
            for at in pattern::find(&self, text)? {
                whole[at] = true;
            }
        }
        let mut whole = whole.into_iter();
        self.groups.retain(|_| !whole.next().unwrap_or(false));
        match self.groups.is_empty() {
            true => Err(Error::Impossible(
                "every group of channels is excluded: nothing is left to prune".into(),
            )),
            false => Ok(self),
        }
    }

    /// The group of this name.
    pub fn get(&self, name: &str) -> Option<(usize, &ChannelGroup)> {
        self.groups.iter().enumerate().find(|(_, group)| group.name == name)
    }

    /// Keys of the norm scales that pruning may cut: what sparse training acts on.
    pub fn norm_weights(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .groups
            .iter()
            .flat_map(|group| &group.cuts)
            .filter(|cut| cut.role == CutRole::NormWeight && cut.side == Side::Producer)
            .map(|cut| cut.key.clone())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// `a.b.weight` to `a.b`.
pub(super) fn scope_of(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(scope, _)| scope)
}

/// Two groups may start in the same layer (a concat that mixes widths): number them.
fn name_apart(groups: &mut [ChannelGroup]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for group in groups {
        let count = seen.entry(group.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            group.name = format!("{}#{count}", group.name);
        }
    }
}

fn role(role: ParamRole) -> CutRole {
    match role {
        ParamRole::Weight => CutRole::Weight,
        ParamRole::Bias => CutRole::Bias,
        ParamRole::NormWeight => CutRole::NormWeight,
        ParamRole::NormBias => CutRole::NormBias,
        ParamRole::Table | ParamRole::Quant | ParamRole::Buffer | ParamRole::Counter => CutRole::Other,
    }
}
