//! Cost of a plan without building the model: multiply-adds and parameters as sums of products of kept widths. Equal to the cost of
//! the pruned graph.

use serde::{Deserialize, Serialize};

use super::{ChannelGroups, PrunePlan, TimeModel};
use crate::graph::Graph;
use crate::ops::{Follows, OwnTensor, Work};
use crate::{ParamRole, Result};

/// A width: fixed channels plus, per group, how many channels each kept one counts for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Width {
    fixed: i64,
    terms: Vec<(u32, i64)>,
}

impl Width {
    pub(super) fn at(&self, kept: &[usize]) -> i64 {
        self.fixed
            + self
                .terms
                .iter()
                .map(|(group, count)| count * kept[*group as usize] as i64)
                .sum::<i64>()
    }
}

/// Which group each channel is of.
pub(super) struct Channels<'a> {
    groups: &'a ChannelGroups,
    owner: Vec<Option<u32>>,
}

impl<'a> Channels<'a> {
    pub(super) fn of(groups: &'a ChannelGroups) -> Self {
        let mut owner = vec![None; groups.atoms.frozen.len()];
        for (index, group) in groups.groups.iter().enumerate() {
            for atom in &group.atoms {
                owner[*atom as usize] = Some(index as u32);
            }
        }
        Self { groups, owner }
    }

    /// Counts channels per group; exact because the channels of a group are alike everywhere.
    pub(super) fn width(&self, value: crate::ValueId) -> Width {
        let mut width = Width::default();
        let mut counts: Vec<(u32, i64)> = Vec::new();
        for atom in self.groups.atoms.of(value) {
            match self.owner[*atom as usize] {
                None => width.fixed += 1,
                Some(group) => match counts.iter_mut().find(|(g, _)| *g == group) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((group, 1)),
                },
            }
        }
        width.terms = counts
            .into_iter()
            .map(|(g, count)| (g, count / self.groups.groups[g as usize].len() as i64))
            .collect();
        width
    }
}

/// A product of two widths and a constant.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Term {
    factor: i64,
    a: Width,
    b: Option<Width>,
}

impl Term {
    fn at(&self, kept: &[usize]) -> i64 {
        self.factor * self.a.at(kept) * self.b.as_ref().map_or(1, |b| b.at(kept))
    }
}

/// Cost of a model as a function of its group widths.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CostModel {
    macs: Vec<Term>,
    params: Vec<Term>,
    fixed_macs: i64,
    widths: Vec<usize>,
    /// Time, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<TimeModel>,
}

impl CostModel {
    /// For a square image of `size` pixels.
    pub fn of(graph: &Graph, groups: &ChannelGroups, size: i64) -> Result<Self> {
        let shapes = graph.shapes([1, graph.input_channels(), size, size])?;
        let channels = Channels::of(groups);
        let width = |value| channels.width(value);
        let constant = |n: i64| Width {
            fixed: n,
            terms: Vec::new(),
        };
        let (mut macs, mut params, mut fixed_macs) = (Vec::new(), Vec::new(), 0);
        let mut seen = std::collections::HashSet::new();
        for (value, node) in graph.values().zip(&graph.nodes) {
            let shape = &shapes[value.index()];
            let inputs: Vec<&[i64]> = node.inputs.iter().map(|v| shapes[v.index()].as_slice()).collect();
            let places = |outputs: i64| shape.iter().product::<i64>() / outputs;
            match node.op.work(&inputs, shape) {
                Work::Fixed(count) => fixed_macs += count,
                Work::Dense { outputs, taps, .. } => macs.push(Term {
                    factor: places(outputs) * taps,
                    a: width(value),
                    b: Some(width(node.inputs[0])),
                }),
                Work::Depthwise { outputs, taps } => macs.push(Term {
                    factor: places(outputs) * taps,
                    a: width(value),
                    b: None,
                }),
            }
            for OwnTensor { spec, axes } in node.op.tensors(&node.name) {
                if !spec.role.trainable() || spec.role == ParamRole::Quant || !seen.insert(spec.key.clone()) {
                    continue;
                }
                let side = |axis: usize| {
                    let (_, follows) = axes.iter().find(|(a, _)| *a == axis)?;
                    Some(width(match follows {
                        Follows::Input => node.inputs[0],
                        Follows::Output => value,
                    }))
                };
                let factor: i64 = (0..spec.shape.len())
                    .filter(|axis| side(*axis).is_none())
                    .map(|axis| spec.shape[axis])
                    .product();
                let mut sides = (0..spec.shape.len()).filter_map(side);
                let a = sides.next().unwrap_or_else(|| constant(1));
                params.push(Term {
                    factor,
                    a,
                    b: sides.next(),
                });
            }
        }
        let widths = groups.groups.iter().map(super::ChannelGroup::len).collect();
        Ok(Self {
            macs,
            params,
            fixed_macs,
            widths,
            time: None,
        })
    }

    /// The same with times.
    #[must_use]
    pub fn timed(mut self, time: TimeModel) -> Self {
        self.time = Some(time);
        self
    }

    /// Milliseconds of an image with these widths, where times were measured.
    pub fn milliseconds(&self, kept: &[usize]) -> Option<f64> {
        self.time.as_ref().map(|time| time.milliseconds(kept))
    }

    /// Multiply-adds with these widths (by group).
    pub fn macs(&self, kept: &[usize]) -> i64 {
        self.fixed_macs + self.macs.iter().map(|term| term.at(kept)).sum::<i64>()
    }

    /// Time with these widths as a share of the unpruned one's, where times were measured.
    pub fn time_share(&self, kept: &[usize]) -> Option<f64> {
        Some(self.milliseconds(kept)? / self.milliseconds(&self.widths)?)
    }

    /// Trainable parameters with these widths.
    pub fn params(&self, kept: &[usize]) -> i64 {
        self.params.iter().map(|term| term.at(kept)).sum()
    }

    /// GFLOPs with these widths.
    pub fn gflops(&self, kept: &[usize]) -> f64 {
        2.0 * self.macs(kept) as f64 / 1e9
    }

    /// The unpruned widths.
    pub fn full(&self) -> &[usize] {
        &self.widths
    }

    /// Widths of a plan.
    pub fn widths(&self, plan: &PrunePlan, groups: &ChannelGroups) -> Vec<usize> {
        groups.groups.iter().map(|group| plan.kept(group)).collect()
    }
}
