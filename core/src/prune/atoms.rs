//! How channels run through a graph. Every channel of every value is an atom; ops tie atoms together (an add needs both sides
//! alike), hand them on (a pool), repeat them (a concat of pooled copies) or freeze them (the head's outputs). What is tied
//! together stays or goes together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::Result;
use crate::graph::{Dim, Graph, Shape, ValueId};
use crate::ops::Flow;

/// The channel axis of a value and the atom of each of its channels.
#[derive(Debug, Clone)]
pub(crate) struct Channels {
    pub axis: usize,
    pub atoms: Vec<u32>,
}

/// What keeps channels from being removed: a node, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub node: u32,
    pub how: How,
}

/// How a node holds channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// They are the image's.
    Image,
    /// They are an output of the network.
    Output,
    /// They say where a deformable convolution looks.
    Steering,
    /// One channel multiplies all others.
    Gate,
    /// Its tensors are also used on channels that are others.
    Shared,
    /// The op needs them all.
    Op,
}

/// Union-find over atoms.
#[derive(Debug, Default)]
struct Ties {
    parent: Vec<u32>,
    holds: Vec<Option<Hold>>,
}

impl Ties {
    fn fresh(&mut self, count: i64, hold: Option<Hold>) -> Vec<u32> {
        let first = self.parent.len() as u32;
        let atoms: Vec<u32> = (first..first + count as u32).collect();
        self.parent.extend(&atoms);
        self.holds.resize(self.parent.len(), hold);
        atoms
    }

    fn find(&mut self, atom: u32) -> u32 {
        let mut root = atom;
        while self.parent[root as usize] != root {
            root = self.parent[root as usize];
        }
        let mut at = atom;
        while self.parent[at as usize] != root {
            at = std::mem::replace(&mut self.parent[at as usize], root);
        }
        root
    }

    fn tie(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            // The earlier atom stays the root, so that groups are named by their first layer.
            let (root, child) = (a.min(b), a.max(b));
            self.parent[child as usize] = root;
            let hold = self.holds[child as usize];
            let own = &mut self.holds[root as usize];
            *own = own.or(hold);
        }
    }

    fn freeze(&mut self, channels: Option<&Channels>, hold: Hold) {
        for atom in channels.iter().flat_map(|c| &c.atoms) {
            let root = self.find(*atom);
            self.holds[root as usize].get_or_insert(hold);
        }
    }
}

/// Channels of every value, with atoms replaced by their roots.
#[derive(Debug, Default)]
pub(crate) struct Atoms {
    /// By value; `None` where a value has no channels (parameters, constants, masks).
    pub values: Vec<Option<Channels>>,
    /// By atom: whether it must stay.
    pub frozen: Vec<bool>,
    /// By atom: what was found first that makes it stay.
    pub holds: Vec<Option<Hold>>,
}

impl Atoms {
    /// Follows the channels of `graph`.
    pub fn trace(graph: &Graph) -> Result<Self> {
        let shapes = graph.shapes([1, graph.input_channels(), 128, 128])?;
        let mut tracer = Tracer {
            graph,
            shapes: &shapes,
            ties: Ties::default(),
            values: Vec::new(),
        };
        let mut first_with: HashMap<String, usize> = HashMap::new();
        for index in 0..graph.nodes.len() {
            let channels = tracer.node(index);
            tracer.values.push(channels);
            let node = &graph.nodes[index];
            let Some(spec) = node.op.params(&node.name).into_iter().next() else {
                continue;
            };
            match first_with.entry(spec.key) {
                Entry::Vacant(slot) => {
                    slot.insert(index);
                }
                Entry::Occupied(first) => tracer.share(*first.get(), index),
            }
        }
        for output in &graph.outputs {
            let channels = tracer.values[output.index()].clone();
            let hold = Hold {
                node: output.index() as u32,
                how: How::Output,
            };
            tracer.ties.freeze(channels.as_ref(), hold);
        }
        let Tracer {
            mut ties, mut values, ..
        } = tracer;
        for channels in values.iter_mut().flatten() {
            for atom in &mut channels.atoms {
                *atom = ties.find(*atom);
            }
        }
        Ok(Self {
            values,
            frozen: ties.holds.iter().map(Option::is_some).collect(),
            holds: ties.holds,
        })
    }

    /// Atoms of a value.
    pub fn of(&self, value: ValueId) -> &[u32] {
        self.values[value.index()].as_ref().map_or(&[], |c| c.atoms.as_slice())
    }
}

fn held(node: usize, how: How) -> Hold {
    Hold { node: node as u32, how }
}

struct Tracer<'a> {
    graph: &'a Graph,
    shapes: &'a [Shape],
    ties: Ties,
    values: Vec<Option<Channels>>,
}

impl Tracer<'_> {
    fn input(&self, index: usize, which: usize) -> Option<Channels> {
        let value = self.graph.nodes[index].inputs.get(which)?;
        self.values[value.index()].clone()
    }

    fn freeze_inputs(&mut self, index: usize) {
        for which in 0..self.graph.nodes[index].inputs.len() {
            let channels = self.input(index, which);
            self.ties.freeze(channels.as_ref(), held(index, How::Op));
        }
    }

    /// Two nodes that use the same tensors lose the same channels, on both sides.
    fn share(&mut self, first: usize, second: usize) {
        let outputs = (self.values[first].clone(), self.values[second].clone());
        for (one, other) in [outputs, (self.input(first, 0), self.input(second, 0))] {
            match (one, other) {
                (Some(one), Some(other)) if one.atoms.len() == other.atoms.len() => {
                    for (a, b) in one.atoms.iter().zip(&other.atoms) {
                        self.ties.tie(*a, *b);
                    }
                }
                (one, other) => {
                    self.ties.freeze(one.as_ref(), held(second, How::Shared));
                    self.ties.freeze(other.as_ref(), held(first, How::Shared));
                }
            }
        }
    }

    /// New channels that must stay, on the axis that a value of this rank has them; none where no input has channels, as in what is computed
    /// of parameters alone (the weights of a fusion).
    fn frozen_result(&mut self, index: usize) -> Option<Channels> {
        let inputs = self.graph.nodes[index].inputs.len();
        if inputs > 0 && (0..inputs).all(|which| self.input(index, which).is_none()) {
            return None;
        }
        self.freeze_inputs(index);
        let shape = &self.shapes[index];
        let axis = if shape.len() == 4 {
            1
        } else {
            shape.len().checked_sub(1)?
        };
        Some(Channels {
            axis,
            atoms: self.ties.fresh(shape[axis], Some(held(index, How::Op))),
        })
    }

    fn fresh(&mut self, index: usize, axis: usize) -> Option<Channels> {
        Some(Channels {
            axis,
            atoms: self.ties.fresh(self.shapes[index][axis], None),
        })
    }

    fn node(&mut self, index: usize) -> Option<Channels> {
        let x = self.input(index, 0);
        match self.graph.nodes[index].op.with(|op| op.flow()) {
            Flow::Image => Some(Channels {
                axis: 1,
                atoms: self.ties.fresh(self.shapes[index][1], Some(held(index, How::Image))),
            }),
            Flow::New { steering } => {
                for which in steering {
                    let steering = self.input(index, *which);
                    self.ties.freeze(steering.as_ref(), held(index, How::Steering));
                }
                self.fresh(index, 1)
            }
            Flow::NewLast => {
                let rank = self.shapes[index].len();
                if x.is_some_and(|c| c.axis + 1 != rank) {
                    return self.frozen_result(index);
                }
                self.fresh(index, rank - 1)
            }
            Flow::PerInput { times } => {
                let atoms = x?.atoms.into_iter();
                Some(Channels {
                    axis: 1,
                    atoms: atoms.flat_map(|atom| std::iter::repeat_n(atom, times)).collect(),
                })
            }
            Flow::Same => x,
            Flow::Together { product } => self.broadcast(index, product),
            Flow::Joined { dim } => self.concat(index, dim),
            Flow::Part { dim, start, len } => {
                let mut x = x?;
                if dim == x.axis {
                    x.atoms = x.atoms[start..start + len].to_vec();
                }
                Some(x)
            }
            Flow::Interleaved { groups } => {
                let x = x?;
                let n = x.atoms.len() / groups;
                // To stay a shuffle, the same positions must go in every group.
                for i in 0..n {
                    for g in 1..groups {
                        self.ties.tie(x.atoms[i], x.atoms[g * n + i]);
                    }
                }
                let atoms = (0..n * groups).map(|i| x.atoms[i % groups * n + i / groups]).collect();
                Some(Channels { axis: 1, atoms })
            }
            Flow::Repeated { times } => Some(Channels {
                axis: 1,
                atoms: x?.atoms.repeat(times),
            }),
            Flow::Without { dims } => match x {
                Some(x) if !dims.contains(&x.axis) => Some(x),
                _ => self.frozen_result(index),
            },
            Flow::Reordered { dims } => {
                let x = x?;
                let axis = dims.iter().position(|d| *d == x.axis)?;
                Some(Channels { axis, ..x })
            }
            Flow::Reshaped { dims } => self.reshape(index, &dims),
            Flow::OnAxis(axis) => Some(Channels { axis, ..x? }),
            Flow::Nothing => None,
            Flow::Frozen => self.frozen_result(index),
        }
    }

    /// Sum, difference, product: channels of both sides are tied where both have them.
    fn broadcast(&mut self, index: usize, product: bool) -> Option<Channels> {
        let node = &self.graph.nodes[index];
        let (a, b) = (self.input(index, 0), self.input(index, 1));
        let single = |which: usize| {
            let value = node.inputs[which];
            self.shapes[value.index()].iter().product::<i64>() == 1
        };
        match (a, b) {
            (Some(a), Some(b)) => {
                let rank = self.shapes[index].len();
                let from_end = |c: &Channels, which: usize| self.shapes[node.inputs[which].index()].len() - c.axis;
                if from_end(&a, 0) != from_end(&b, 1) {
                    return self.frozen_result(index);
                }
                let axis = rank - from_end(&a, 0);
                match (a.atoms.len(), b.atoms.len()) {
                    (n, m) if n == m => {
                        for (one, other) in a.atoms.iter().zip(&b.atoms) {
                            self.ties.tie(*one, *other);
                        }
                        Some(Channels { axis, atoms: a.atoms })
                    }
                    // One channel that gates all: it must stay.
                    (_, 1) => {
                        self.ties.freeze(Some(&b), held(index, How::Gate));
                        Some(Channels { axis, atoms: a.atoms })
                    }
                    (1, _) => {
                        self.ties.freeze(Some(&a), held(index, How::Gate));
                        Some(Channels { axis, atoms: b.atoms })
                    }
                    _ => self.frozen_result(index),
                }
            }
            // A scalar parameter scales all channels alike; only a product keeps silence.
            (Some(a), None) if single(1) && product => Some(a),
            (None, Some(b)) if single(0) && product => Some(b),
            _ => self.frozen_result(index),
        }
    }

    fn concat(&mut self, index: usize, dim: usize) -> Option<Channels> {
        let count = self.graph.nodes[index].inputs.len();
        let inputs: Option<Vec<Channels>> = (0..count).map(|which| self.input(index, which)).collect();
        let Some(inputs) = inputs else {
            return self.frozen_result(index);
        };
        let axis = inputs.first()?.axis;
        if inputs.iter().any(|c| c.axis != axis) {
            return self.frozen_result(index);
        }
        if dim == axis {
            return Some(Channels {
                axis,
                atoms: inputs.into_iter().flat_map(|c| c.atoms).collect(),
            });
        }
        for other in &inputs[1..] {
            for (a, b) in inputs[0].atoms.iter().zip(&other.atoms) {
                self.ties.tie(*a, *b);
            }
        }
        inputs.into_iter().next()
    }

    /// The channel axis survives a reshape that keeps it whole and in place.
    fn reshape(&mut self, index: usize, dims: &[Dim]) -> Option<Channels> {
        let node = &self.graph.nodes[index];
        let x = self.input(index, 0)?;
        let from = &self.shapes[node.inputs[0].index()];
        let to = &self.shapes[index];
        let before: i64 = from[..x.axis].iter().product();
        let found = (0..to.len()).find(|axis| {
            let kept = dims[*axis] == Dim::Keep(x.axis) || (dims[*axis] == Dim::Infer && to[*axis] == from[x.axis]);
            kept && to[..*axis].iter().product::<i64>() == before
        });
        match found {
            Some(axis) => Some(Channels { axis, ..x }),
            None => self.frozen_result(index),
        }
    }
}
