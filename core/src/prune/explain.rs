//! Why channels can go or must stay, in words.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::atoms::{Atoms, Hold, How};
use super::groups::scope_of;
use super::{ChannelGroups, CutRole, Side};
use crate::graph::{Graph, Op};
use crate::ops::Follows;
use crate::{ParamRole, Result};

/// Channels that go or stay together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Scope of the first layer that makes the channels: the name of the group, where they can be pruned.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// Layers that make them; more than one where they are tied together, by a sum for example.
    pub layers: Vec<String>,
    /// What forbids it; nothing where they can be pruned.
    pub held: Option<Held>,
}

/// What keeps channels from being pruned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The node.
    pub node: String,
    /// Its op.
    pub op: String,
    /// Why.
    pub reason: String,
}

/// All channels that layers with weights make, in the order of the graph: those of the groups, and those that stay, by what holds them.
///
/// # Errors
/// Those of [`ChannelGroups::of`].
pub fn explain(graph: &Graph) -> Result<Vec<Explanation>> {
    let groups = ChannelGroups::of(graph)?;
    let order: BTreeMap<&str, usize> = (graph.nodes.iter().enumerate())
        .map(|(at, node)| (node.name.as_str(), at))
        .collect();
    let mut all: Vec<Explanation> = groups.groups.iter().map(prunable).collect();
    all.extend(frozen(graph, &groups.atoms));
    all.sort_by_key(|one| {
        let layer = one.layers.first().map_or(one.name.as_str(), String::as_str);
        order.get(layer).copied().unwrap_or(usize::MAX)
    });
    Ok(all)
}

fn prunable(group: &super::ChannelGroup) -> Explanation {
    let mut layers = Vec::new();
    for cut in &group.cuts {
        let layer = scope_of(&cut.key).to_owned();
        if cut.side == Side::Producer && cut.role == CutRole::Weight && !layers.contains(&layer) {
            layers.push(layer);
        }
    }
    Explanation {
        name: group.name.clone(),
        channels: group.len(),
        layers,
        held: None,
    }
}

/// Channels that must stay: by the layers that make them and what holds them.
fn frozen(graph: &Graph, atoms: &Atoms) -> Vec<Explanation> {
    // Atom -> layers that make it.
    let mut makers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, (value, node)) in graph.values().zip(&graph.nodes).enumerate() {
        let makes = node.op.tensors(&node.name).iter().any(|own| {
            own.spec.role == ParamRole::Weight && own.axes.iter().any(|(_, follows)| matches!(follows, Follows::Output))
        });
        // Layers whose tensors follow no channels, such as a grouped convolution, make theirs, too.
        let makes = makes || matches!(node.op, Op::Conv2d { .. } | Op::Linear { .. } | Op::DeformConv2d { .. });
        if !makes {
            continue;
        }
        let distinct: BTreeSet<u32> = atoms.of(value).iter().copied().collect();
        for atom in distinct {
            if atoms.frozen[atom as usize] {
                makers.entry(atom).or_default().push(at);
            }
        }
    }
    let mut found: BTreeMap<(Vec<usize>, usize, u8), (usize, Hold)> = BTreeMap::new();
    for (atom, layers) in makers {
        if let Some(hold) = atoms.holds[atom as usize] {
            let entry = found
                .entry((layers, hold.node as usize, hold.how as u8))
                .or_insert((0, hold));
            entry.0 += 1;
        }
    }
    let explained = found.into_iter().map(|((nodes, _, _), (channels, hold))| {
        // Weights that two nodes share are one layer.
        let mut layers: Vec<String> = nodes.iter().map(|at| graph.nodes[*at].name.clone()).collect();
        let mut seen = BTreeSet::new();
        layers.retain(|layer| seen.insert(layer.clone()));
        Explanation {
            name: layers.first().cloned().unwrap_or_default(),
            channels,
            layers,
            held: Some(held(graph, hold)),
        }
    });
    explained.collect()
}

fn held(graph: &Graph, hold: Hold) -> Held {
    let node = &graph.nodes[hold.node as usize];
    let reason = match hold.how {
        How::Image => "they are the image's channels".to_owned(),
        How::Output => "they are an output of the network: classes and anchors say how many there are".to_owned(),
        How::Steering => "they say where a deformable convolution looks: its kernel says how many there are".to_owned(),
        How::Gate => "one channel multiplies all others".to_owned(),
        How::Shared => "the same weights are used on other channels, too".to_owned(),
        How::Op => of_op(&node.op),
    };
    Held {
        node: node.name.clone(),
        op: node.op.name().to_owned(),
        reason,
    }
}

/// Why an op needs all of its channels.
fn of_op(op: &Op) -> String {
    match op {
        Op::Conv2d { groups, .. } => format!("a convolution in {groups} groups: all groups are equally wide"),
        Op::LayerNorm { .. } => "a layer norm: every channel counts in the statistics of the others".into(),
        Op::Reshape { .. } | Op::Permute { .. } => {
            "the axis of channels is divided, among the heads of an attention for example, which stay as wide as they are".into()
        }
        Op::Softmax { .. } | Op::MatMul { .. } | Op::AddWindowMask => "an attention: every channel of a head counts in its weights".into(),
        Op::Affine { .. } | Op::Add | Op::Sub => {
            "something that is no channel is added: a silent channel would not stay silent".into()
        }
        Op::Div => "a silent channel must not divide".into(),
        Op::Mul => "both sides have channels of different kinds".into(),
        Op::Custom { .. } => "an op of a plugin: how channels run through it is not known".into(),
        Op::Concat { .. } => "what is joined has no common axis of channels".into(),
        Op::Reduce { .. } => "all channels are reduced to one: one less changes it".into(),
        other => format!("`{}` needs all of them", other.name()),
    }
}
