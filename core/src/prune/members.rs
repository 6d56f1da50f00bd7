//! Scores of channels that several layers make: the metric looks at each layer alone, then the scores become one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::groups::scope_of;
use super::{ChannelGroup, CutRole, Side};

/// How the scores that the layers of a group give a channel become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Their product.
    Product,
    /// That of the first layer.
    First,
}

impl Aggregate {
    /// Names, in the order of the variants.
    pub const NAMES: [&'static str; 6] = ["mean", "sum", "max", "min", "product", "first"];
    const ALL: [Self; 6] = [Self::Mean, Self::Sum, Self::Max, Self::Min, Self::Product, Self::First];

    /// One score per channel from those of each member, in f64. Without members there is none.
    pub fn join(self, members: &[Vec<f32>]) -> Vec<f32> {
        let Some(first) = members.first() else {
            return Vec::new();
        };
        let of = |channel: usize| -> f64 {
            let each = members.iter().map(|scores| f64::from(scores[channel]));
            match self {
                Self::Mean => each.sum::<f64>() / members.len() as f64,
                Self::Sum => each.sum(),
                Self::Max => each.fold(f64::NEG_INFINITY, f64::max),
                Self::Min => each.fold(f64::INFINITY, f64::min),
                Self::Product => each.product(),
                Self::First => f64::from(first[channel]),
            }
        };
        (0..first.len()).map(|channel| of(channel) as f32).collect()
    }
}

impl std::str::FromStr for Aggregate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = Self::NAMES.iter().position(|name| *name == text);
        at.map(|at| Self::ALL[at])
            .ok_or_else(|| format!("`{text}` is none of {}", Self::NAMES.join(", ")))
    }
}

/// Which layers have a say in the score of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Members {
    /// Those that make it.
    #[default]
    Makers,
    /// Also those that read it, by the columns of their weights (DepGraph's group importance, arXiv 2301.12900).
    All,
}

impl Members {
    /// Names, in the order of the variants.
    pub const NAMES: [&'static str; 2] = ["makers", "all"];

    /// The group as each of its layers sees it: the weight of one layer, with the norm that follows it. Each has the channels and the name
    /// of the group; columns of readers stand where rows of makers do.
    pub fn of(self, group: &ChannelGroup) -> Vec<ChannelGroup> {
        let mut parts: Vec<Vec<usize>> = Vec::new();
        let mut by_block: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, cut) in group.cuts.iter().enumerate() {
            if cut.role == CutRole::Weight && (cut.side == Side::Producer || self == Self::All) {
                if cut.side == Side::Producer {
                    by_block.entry(block(&cut.key)).or_insert(parts.len());
                }
                parts.push(vec![at]);
            }
        }
        for (at, cut) in group.cuts.iter().enumerate() {
            if cut.role == CutRole::Weight || cut.side == Side::Consumer {
                continue;
            }
            // A norm behind a concatenation is no layer's own: it counts with the first one.
            let part = by_block.get(block(&cut.key)).copied().unwrap_or(0);
            if let Some(part) = parts.get_mut(part) {
                part.push(at);
            }
        }
        parts.into_iter().map(|cuts| part(group, &cuts)).collect()
    }
}

impl std::fmt::Display for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

impl std::str::FromStr for Members {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "makers" => Ok(Self::Makers),
            "all" => Ok(Self::All),
            _ => Err(format!("`{text}` is none of {}", Self::NAMES.join(", "))),
        }
    }
}

/// `model.2.cv1.conv.weight` and `model.2.cv1.bn.weight` to `model.2.cv1`.
fn block(key: &str) -> &str {
    let layer = scope_of(key);
    layer.rsplit_once('.').map_or(layer, |(block, _)| block)
}

/// The group with these cuts only, all of them as makers.
fn part(group: &ChannelGroup, cuts: &[usize]) -> ChannelGroup {
    let own = cuts.iter().map(|at| {
        let mut cut = group.cuts[*at].clone();
        cut.side = Side::Producer;
        cut
    });
    ChannelGroup {
        name: group.name.clone(),
        cuts: own.collect(),
        channels: group
            .channels
            .iter()
            .map(|places| cuts.iter().map(|at| places[*at].clone()).collect())
            .collect(),
        floor: group.floor,
        atoms: group.atoms.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::{ChannelGroups, Cut, GroupTensors, MetricInputs};
    use crate::{GraphBuilder, nn, testing};

    #[test]
    fn scores_of_members_become_one() {
        let members = [vec![1.0, 4.0, -2.0], vec![3.0, 2.0, 5.0]];
        for (aggregate, joined) in Aggregate::ALL.into_iter().zip([
            [2.0, 3.0, 1.5],
            [4.0, 6.0, 3.0],
            [3.0, 4.0, 5.0],
            [1.0, 2.0, -2.0],
            [3.0, 8.0, -10.0],
            [1.0, 4.0, -2.0],
        ]) {
            assert_eq!(aggregate.join(&members), joined, "{aggregate:?}");
            assert_eq!(Aggregate::NAMES[aggregate as usize].parse(), Ok(aggregate));
        }
        assert!(Aggregate::Mean.join(&[]).is_empty());
        assert!("median".parse::<Aggregate>().is_err());
    }

    /// A residual block: its two layers are members with their own norms, and readers come with their columns.
    #[test]
    fn each_layer_is_a_member() {
        let mut g = GraphBuilder::new(3);
        let image = g.image();
        let a = nn::conv(&mut g, "a", image.value, 16, 3, 2).expect("a layer");
        let b = nn::conv(&mut g, "b", a, 16, 3, 1).expect("a layer");
        let sum = g.add("sum", crate::Op::Add, &[a, b]).expect("a node");
        let c = nn::conv(&mut g, "c", sum, 8, 1, 1).expect("a layer");
        let graph = g.finish(vec![c], None).expect("a graph");
        let groups = ChannelGroups::of(&graph).expect("groups");
        let group = &groups.groups[0];
        let keys = |parts: &[ChannelGroup]| -> Vec<Vec<String>> {
            let keys = |cuts: &[Cut]| cuts.iter().map(|cut| cut.key.clone()).collect();
            parts.iter().map(|part| keys(&part.cuts)).collect()
        };
        let makers = Members::Makers.of(group);
        let named = keys(&makers);
        assert_eq!(
            (named[0][0].as_str(), named[1][0].as_str()),
            ("a.conv.weight", "b.conv.weight")
        );
        assert!(named[0].contains(&"a.bn.weight".into()) && !named[0].contains(&"b.bn.weight".into()));
        assert_eq!(named.len(), 2);
        let all = Members::All.of(group);
        // `b` and `c` read what `a` and `b` make.
        assert_eq!(all.len(), 4, "{:?}", keys(&all));
        let params = testing::fill_params(&graph, 1.0);
        let wanted = MetricInputs {
            weight: true,
            ..MetricInputs::default()
        };
        let reader = all
            .iter()
            .find(|part| part.cuts[0].key == "c.conv.weight")
            .expect("a reader");
        let tensors = GroupTensors::collect(reader, (0, 1), &params, None, wanted).expect("tensors");
        let columns = params
            .get("c.conv.weight")
            .expect("there")
            .view([8, 16])
            .transpose(0, 1);
        assert_eq!(tensors.weights[0], columns);
    }
}
