//! The metric trait and what a metric sees of a group.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{ChannelGroup, CutRole, Side};
use crate::{Error, Params, Result};

/// What a metric wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MetricInputs {
    /// Rows of the weights that make the channels.
    pub weight: bool,
    /// Scales and shifts of batch norms.
    pub bn: bool,
    /// Gradients of the same tensors, averaged over calibration batches.
    #[serde(default)]
    pub grad: bool,
    /// Squares of these gradients, averaged over calibration batches.
    #[serde(default)]
    pub grad_square: bool,
    /// Mean absolute values of the channels over calibration images.
    #[serde(default)]
    pub activation: bool,
}

/// What calibration images say about a model, as far as a metric asked for it.
#[derive(Debug, Default)]
pub struct Measured {
    /// Mean gradients, under the keys of the tensors.
    pub grads: Params,
    /// Mean squares of gradients, under the keys of the tensors.
    pub squares: Params,
    /// By name of the group: mean absolute values `[channels]` for each value that layers read the channels from.
    pub activations: BTreeMap<String, Vec<Tensor>>,
}

/// The tensors of one group, one row per channel.
#[derive(Debug, Default)]
pub struct GroupTensors {
    /// Name of the group.
    pub name: String,
    /// Position among the groups, and their number.
    pub index: (usize, usize),
    /// Number of channels.
    pub channels: usize,
    /// For each weight that makes the channels: `[channels, elements]`.
    pub weights: Vec<Tensor>,
    /// Gradients of `weights`, where asked for.
    pub weight_grads: Vec<Tensor>,
    /// For each norm: `[channels]`.
    pub gammas: Vec<Tensor>,
    /// For each norm: `[channels]`.
    pub betas: Vec<Tensor>,
    /// Gradients of `gammas`, where asked for.
    pub gamma_grads: Vec<Tensor>,
    /// Mean squared gradients of `weights`, where asked for.
    pub weight_squares: Vec<Tensor>,
    /// Mean squared gradients of `gammas`, where asked for.
    pub gamma_squares: Vec<Tensor>,
    /// For each value that layers read the channels from, their mean absolute values `[channels]`, where asked for.
    pub activations: Vec<Tensor>,
}

impl GroupTensors {
    /// Collects what `wanted` asks for.
    ///
    /// # Errors
    /// [`Error::Params`] names a tensor that is missing.
    pub fn collect(
        group: &ChannelGroup,
        index: (usize, usize),
        params: &Params,
        measured: Option<&Measured>,
        wanted: MetricInputs,
    ) -> Result<Self> {
        let mut found = Self {
            name: group.name.clone(),
            index,
            channels: group.len(),
            ..Self::default()
        };
        let grads = measured.filter(|_| wanted.grad).map(|measured| &measured.grads);
        let squares = measured
            .filter(|_| wanted.grad_square)
            .map(|measured| &measured.squares);
        for (at, cut) in group.cuts.iter().enumerate() {
            if cut.side != Side::Producer {
                continue;
            }
            let rows = |source: &Params| rows(source, group, at);
            match cut.role {
                CutRole::Weight if wanted.weight => {
                    found.weights.push(rows(params)?);
                    found.weight_grads.extend(grads.map(rows).transpose()?);
                    found.weight_squares.extend(squares.map(rows).transpose()?);
                }
                CutRole::NormWeight if wanted.bn => {
                    let one = |source: &Params| Ok::<_, Error>(rows(source)?.f_view([-1])?);
                    found.gammas.push(one(params)?);
                    found.gamma_grads.extend(grads.map(one).transpose()?);
                    found.gamma_squares.extend(squares.map(one).transpose()?);
                }
                CutRole::NormBias if wanted.bn => found.betas.push(rows(params)?.f_view([-1])?),
                _ => {}
            }
        }
        if let Some(measured) = measured.filter(|_| wanted.activation) {
            let own = measured.activations.get(&group.name).into_iter().flatten();
            found.activations = own.map(Tensor::shallow_clone).collect();
        }
        Ok(found)
    }
}

/// What a tensor has for each channel of a group, one row each: `[channels, elements]`, f32, on the CPU.
fn rows(source: &Params, group: &ChannelGroup, at: usize) -> Result<Tensor> {
    let cut = &group.cuts[at];
    let positions = Tensor::f_from_slice(&group.positions(at))?;
    let tensor = source
        .require(&cut.key)?
        .detach()
        .to_device(tch::Device::Cpu)
        .to_kind(Kind::Float);
    let rows = tensor.f_index_select(cut.axis as i64, &positions)?;
    Ok(rows
        .f_movedim_int(cut.axis as i64, 0)?
        .f_reshape([group.len() as i64, -1])?)
}

/// Scores the channels of a group: the lowest are removed first.
#[typetag::serde(tag = "type")]
pub trait PruneMetric: Debug + Send + Sync {
    /// What [`PruneMetric::score`] looks at.
    fn needs(&self) -> MetricInputs {
        MetricInputs {
            weight: true,
            ..MetricInputs::default()
        }
    }
    /// One finite score per channel.
    fn score(&self, group: &GroupTensors) -> Result<Vec<f32>>;
}

/// Runs a metric and checks what it returns: the length, and that every score is finite.
pub fn checked_score(name: &str, metric: &dyn PruneMetric, group: &GroupTensors) -> Result<Vec<f32>> {
    let fail = |reason: String| {
        Err(Error::Plugin {
            plugin: name.to_owned(),
            reason,
        })
    };
    let scores = metric.score(group)?;
    if scores.len() != group.channels {
        return fail(format!(
            "it gave {} scores for the {} channels of `{}`",
            scores.len(),
            group.channels,
            group.name
        ));
    }
    if let Some(channel) = scores.iter().position(|score| !score.is_finite()) {
        return fail(format!(
            "it gave {} for channel {channel} of `{}`",
            scores[channel], group.name
        ));
    }
    Ok(scores)
}
