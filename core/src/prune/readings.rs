//! Where the channels of groups can be looked at while the network runs.

use std::collections::HashMap;

use super::ChannelGroups;
use crate::graph::{Graph, ValueId};
use crate::ops::Follows;

/// A value that has channels of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Position of the group.
    pub group: usize,
    /// The value.
    pub value: ValueId,
    /// Its axis of channels.
    pub axis: usize,
    /// Where the group's channels are on it, one position each (the first one where a map is repeated).
    pub positions: Vec<i64>,
}

/// For each group, the values from which layers with weights read its channels; where none does (queries and keys of an attention), those
/// that layers make. `groups` are those of `graph`.
pub fn readings(graph: &Graph, groups: &ChannelGroups) -> Vec<Reading> {
    let atoms = &groups.atoms;
    let mut owner: HashMap<u32, (usize, usize)> = HashMap::new();
    for (at, group) in groups.groups.iter().enumerate() {
        owner.extend(
            group
                .atoms
                .iter()
                .enumerate()
                .map(|(channel, atom)| (*atom, (at, channel))),
        );
    }
    let mut found: [Vec<Reading>; 2] = [Vec::new(), Vec::new()];
    for (value, node) in graph.values().zip(&graph.nodes) {
        for (_, follows) in node.op.tensors(&node.name).iter().flat_map(|own| own.axes) {
            let (list, value) = match follows {
                Follows::Input => (0, node.inputs[0]),
                Follows::Output => (1, value),
            };
            let Some(channels) = &atoms.values[value.index()] else {
                continue;
            };
            let mut positions: HashMap<usize, Vec<Option<i64>>> = HashMap::new();
            for (position, atom) in channels.atoms.iter().enumerate() {
                if let Some((group, channel)) = owner.get(atom) {
                    let own = positions
                        .entry(*group)
                        .or_insert_with(|| vec![None; groups.groups[*group].len()]);
                    own[*channel].get_or_insert(position as i64);
                }
            }
            for (group, positions) in positions {
                let Some(positions) = positions.into_iter().collect() else {
                    continue;
                };
                let reading = Reading {
                    group,
                    value,
                    axis: channels.axis,
                    positions,
                };
                if !found[list].contains(&reading) {
                    found[list].push(reading);
                }
            }
        }
    }
    let [read, made] = found;
    let is_read = |group: usize| read.iter().any(|reading| reading.group == group);
    let rest = made.into_iter().filter(|reading| !is_read(reading.group));
    let mut all: Vec<Reading> = rest.collect();
    all.extend(read);
    all.sort_by_key(|reading| (reading.group, reading.value.index()));
    all
}
