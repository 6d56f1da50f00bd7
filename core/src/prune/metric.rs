//! The metric trait and what a metric sees of a group.

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
    pub grad: bool,
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
}

impl GroupTensors {
    /// Collects what `wanted` asks for. `grads` holds gradients under the keys of the tensors.
    pub fn collect(
        group: &ChannelGroup,
        index: (usize, usize),
        params: &Params,
        grads: Option<&Params>,
        wanted: MetricInputs,
    ) -> Result<Self> {
        let mut found = Self {
            name: group.name.clone(),
            index,
            channels: group.len(),
            ..Self::default()
        };
        for (at, cut) in group.cuts.iter().enumerate() {
            if cut.side != Side::Producer {
                continue;
            }
            let rows = |source: &Params| -> Result<Tensor> {
                let positions = Tensor::f_from_slice(&group.positions(at))?;
                let tensor = source
                    .require(&cut.key)?
                    .detach()
                    .to_device(tch::Device::Cpu)
                    .to_kind(Kind::Float);
                Ok(tensor.f_index_select(cut.axis as i64, &positions)?)
            };
            let flat = |t: Tensor| -> Result<Tensor> { Ok(t.f_reshape([group.len() as i64, -1])?) };
            match cut.role {
                CutRole::Weight if wanted.weight => {
                    found.weights.push(flat(rows(params)?)?);
                    if let Some(grads) = grads.filter(|_| wanted.grad) {
                        found.weight_grads.push(flat(rows(grads)?)?);
                    }
                }
                CutRole::NormWeight if wanted.bn => {
                    found.gammas.push(rows(params)?);
                    if let Some(grads) = grads.filter(|_| wanted.grad) {
                        found.gamma_grads.push(rows(grads)?);
                    }
                }
                CutRole::NormBias if wanted.bn => found.betas.push(rows(params)?),
                _ => {}
            }
        }
        Ok(found)
    }
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
