//! Reads Ultralytics `.pt` checkpoints without Python: zip, pickle, tensors, module tree. Builds plain data and executes
//! nothing that the file says.
//!
//! What lives here: the file format. What must not: how a model is built from it (see `checkpoint::convert`).

mod archive;
mod model;
mod pickle;
mod tensor;

pub use pickle::{Id, Node, Object, Pickle, PickleError};

use std::path::Path;

use indexmap::IndexMap;

use crate::raw::RawTensor;
use crate::{Error, Result};

/// Where the weights of a checkpoint stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// The averaged model (`ema`), preferred when there is one.
    Ema,
    /// The trained model (`model`).
    #[default]
    Model,
    /// A plain dict of tensors.
    StateDict,
}

/// A module of the pickled model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtModule {
    /// Path in the model (`model.4.m.0`), empty for the model itself.
    pub path: String,
    /// Full class name (`models.common.Conv`).
    pub class: String,
}

/// Settings of a batch normalisation, which a state dict does not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSettings {
    /// Path of the module.
    pub path: String,
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the new batch in the running statistics.
    pub momentum: f64,
}

/// What a `.pt` file holds.
#[derive(Debug, Clone, Default)]
pub struct PtModel {
    /// Class of the model (`models.yolo.Model`); empty for a plain state dict.
    pub class: String,
    /// Which of the models in the file this is.
    pub source: Source,
    /// Tensors by key, in PyTorch's order, in the types of the file.
    pub state: IndexMap<String, RawTensor>,
    /// Modules in depth-first order.
    pub modules: Vec<PtModule>,
    /// Settings of the batch normalisations.
    pub norms: Vec<NormSettings>,
    /// Path of the detection head.
    pub detect: Option<String>,
    /// Names of the classes.
    pub names: Vec<String>,
    /// Number of classes.
    pub classes: Option<i64>,
    /// Pixels per cell of each level.
    pub strides: Vec<f64>,
    /// Anchors in pixels, `[level][anchor] = [width, height]`.
    pub anchors: Vec<Vec<[f64; 2]>>,
    /// The model's configuration as the file holds it.
    pub yaml: Option<serde_json::Value>,
    /// Last finished epoch (-1 in a finished training).
    pub epoch: Option<i64>,
    /// When it was written.
    pub date: Option<String>,
    /// Best fitness so far.
    pub best_fitness: Option<f64>,
}

impl PtModel {
    /// Refuses a model with a module that this program does not know, naming its class and its place.
    pub fn check_modules(&self, path: &Path) -> Result<()> {
        let Some(module) = model::unknown_module(self) else {
            return Ok(());
        };
        let place = if module.path.is_empty() {
            "the model itself".to_owned()
        } else {
            format!("`{}`", module.path)
        };
        let mut others: Vec<&str> = Vec::new();
        for other in self
            .modules
            .iter()
            .filter(|m| m.class == module.class && m.path != module.path)
        {
            others.push(&other.path);
        }
        let more = if others.is_empty() {
            String::new()
        } else {
            format!(" (and {} more)", others.len())
        };
        Err(Error::file(
            path,
            format!(
                "it holds a module of class `{}` at {place}{more}, which is not part of YOLOv5 v6 and whose computation is \
                 not in the file; rebuild the model as a configuration of plugins and load the weights into that",
                module.class
            ),
        ))
    }

    /// Number of scalars (counters excluded).
    pub fn scalars(&self) -> usize {
        model::scalars(&self.state)
    }
}

/// Reads a checkpoint. Modules of unknown classes are data like all others; see [`PtModel::check_modules`].
pub fn read(path: &Path) -> Result<PtModel> {
    let mut archive = archive::Archive::open(path)?;
    let bytes = archive.pickle()?;
    let pickle =
        Pickle::parse(&bytes).map_err(|error| Error::file(path, format!("the checkpoint is damaged: {error}")))?;
    drop(bytes);
    let mut tensors = tensor::Tensors::new(path, &pickle, &mut archive);
    model::read_model(&mut tensors)
}
