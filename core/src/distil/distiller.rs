//! The distiller trait and what a distiller sees of a batch.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::Layout;
use crate::params::Init;
use crate::{Error, ParamRole, ParamSpec, Params, Result};

/// What a distiller looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilNeeds {
    /// Raw maps of the heads.
    #[serde(default)]
    pub raw: bool,
    /// Feature maps that the heads read.
    #[serde(default)]
    pub neck: bool,
    /// Weights of the teacher's head.
    #[serde(default)]
    pub head: bool,
}

/// Maps of one network, one per level, f32; empty where they were not asked for.
#[derive(Debug, Default)]
pub struct NetworkMaps {
    /// Raw maps `[N, A * (5 + classes), h, w]`.
    pub raw: Vec<Tensor>,
    /// What the head reads: `[N, channels, h, w]`.
    pub neck: Vec<Tensor>,
}

/// The convolution that makes the raw map of a level from what the head reads.
#[derive(Debug)]
pub struct HeadWeights {
    /// `[A * (5 + classes), channels, 1, 1]`.
    pub weight: Tensor,
    /// `[A * (5 + classes)]`.
    pub bias: Tensor,
}

/// The same images seen by both networks. Maps of a level have the same height and width in both.
#[derive(Debug)]
pub struct DistilBatch<'a> {
    /// The student's head.
    pub student_layout: &'a Layout,
    /// The levels of the teacher's head that the student has, too, in the student's order.
    pub teacher_layout: &'a Layout,
    /// Of the student: gradients go here.
    pub student: NetworkMaps,
    /// Of the teacher: constants.
    pub teacher: NetworkMaps,
    /// The teacher's head, where it was asked for: constants.
    pub teacher_head: Vec<HeadWeights>,
    /// The tensors of [`Distiller::adapters`] by their keys.
    pub adapters: &'a Params,
}

impl DistilBatch<'_> {
    /// The student's feature map of a level in the teacher's width: through the adapter of [`align_specs`] where there is one.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn aligned(&self, level: usize) -> Result<Tensor> {
        let map = &self.student.neck[level];
        match self.adapters.get(&align_key(level)) {
            Some(weight) => Ok(map.f_conv2d(weight, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)?),
            None => Ok(map.shallow_clone()),
        }
    }
}

fn align_key(level: usize) -> String {
    format!("align.{level}.weight")
}

/// A convolution of one cell, without bias, for each level whose width differs: `align.LEVEL.weight` `[teacher, student, 1, 1]`.
pub fn align_specs(student: &Layout, teacher: &Layout) -> Vec<ParamSpec> {
    let pairs = student.levels.iter().zip(&teacher.levels).enumerate();
    pairs
        .filter(|(_, (own, other))| own.channels != other.channels)
        .map(|(level, (own, other))| ParamSpec {
            key: align_key(level),
            shape: vec![other.channels, own.channels, 1, 1],
            role: ParamRole::Weight,
            init: Init::FanIn(own.channels),
        })
        .collect()
}

/// Compares a student with a teacher.
#[typetag::serde(tag = "type")]
pub trait Distiller: Debug + Send + Sync {
    /// What [`Distiller::loss`] looks at.
    fn needs(&self) -> DistilNeeds;
    /// Names of the parts of the loss, in their order: kebab-case.
    fn parts(&self) -> Vec<String>;
    /// Tensors that are trained besides the student, for example to bring its maps to the teacher's width. They are saved with the state
    /// of a training and are no part of any model.
    ///
    /// # Errors
    /// Heads that can't be compared.
    fn adapters(&self, _student: &Layout, _teacher: &Layout) -> Result<Vec<ParamSpec>> {
        Ok(Vec::new())
    }
    /// How far the student is from the teacher: one scalar per part, weighted, each a mean over the images, differentiable in the student's
    /// maps and in the adapters. What is minimised is their sum beside YOLOv5's loss of an image (box + objectness + class).
    ///
    /// # Errors
    /// Those of libtorch.
    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>>;
}

/// Runs a distiller and checks what it returns; gives the parts as one tensor `[parts]`.
///
/// # Errors
/// Those of the distiller; another number of parts than it names, and parts that are no scalars.
pub fn checked_loss(name: &str, distiller: &dyn Distiller, batch: &DistilBatch<'_>) -> Result<Tensor> {
    let fail = |reason: String| Error::Plugin {
        plugin: name.to_owned(),
        reason,
    };
    let (values, names) = (distiller.loss(batch)?, distiller.parts());
    if values.len() != names.len() {
        return Err(fail(format!(
            "it gave {} losses for its {} parts",
            values.len(),
            names.len()
        )));
    }
    if let Some((value, part)) = values.iter().zip(&names).find(|(value, _)| value.numel() != 1) {
        return Err(fail(format!(
            "`{part}` is a tensor of shape {:?}, not a number",
            value.size()
        )));
    }
    let scalars: Vec<Tensor> = values
        .iter()
        .map(|value| value.f_reshape([0i64; 0].as_slice())?.f_to_kind(single(value.kind())))
        .collect::<Result<_, _>>()?;
    Ok(Tensor::f_stack(&scalars, 0)?)
}

fn single(kind: Kind) -> Kind {
    if kind == Kind::Double { kind } else { Kind::Float }
}
