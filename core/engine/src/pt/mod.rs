//! Reads Ultralytics `.pt` checkpoints without Python: zip, pickle, tensors, module tree. Builds plain data and executes
//! nothing that the file says.
//!
//! What lives here: the file format, and what the pickled modules compute (`graph`). What must not: weights in a model (see
//! `checkpoint::convert`).

mod archive;
mod graph;
mod legacy;
mod model;
mod names;
mod pickle;
mod tensor;
mod tree;

pub use pickle::{Id, Node, Object, Pickle, PickleError};
pub use tree::{Attr, PtModule};

use std::path::Path;

use indexmap::IndexMap;
use yolo_core::Graph;

use crate::checkpoint::finite;
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

/// What a `.pt` file holds.
#[derive(Debug, Clone, Default)]
pub struct PtModel {
    /// Class of the model (`models.yolo.Model`); empty for a plain state dict.
    pub class: String,
    /// Which of the models in the file this is.
    pub source: Source,
    /// Tensors by key, in PyTorch's order, in the types of the file.
    pub state: IndexMap<String, RawTensor>,
    /// The pickled modules; `None` for a plain state dict.
    pub tree: Option<PtModule>,
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
    /// What is odd about it, for people.
    pub notes: Vec<String>,
}

impl PtModel {
    /// Number of scalars (counters excluded).
    pub fn scalars(&self) -> usize {
        model::scalars(&self.state)
    }

    /// The graph that its modules compute, with their own settings; `None` for a plain state dict. Notes are for people.
    ///
    /// # Errors
    /// [`Error::File`] names the module whose computation is not known or can't be expressed, with what is in the way.
    pub fn graph(&self, path: &Path) -> Result<Option<(Graph, Vec<String>)>> {
        self.tree
            .as_ref()
            .map(|tree| graph::build(path, self, tree))
            .transpose()
    }
}

/// Reads a checkpoint. Modules of unknown classes are data like all others; see [`PtModel::graph`]. Every tensor is checked for being
/// finite.
///
/// # Errors
/// [`Error::Io`] where the file can't be read. [`Error::File`] where it is no checkpoint (with what it looks like), is damaged or cut off,
/// or holds no weights; it names the tensor or module that is broken, and the first tensor with a value that is not finite.
pub fn read(path: &Path) -> Result<PtModel> {
    let mut archive = archive::Archive::open(path)?;
    let bytes = archive.pickle()?;
    let pickle =
        Pickle::parse(&bytes).map_err(|error| Error::file(path, format!("the checkpoint is damaged: {error}")))?;
    drop(bytes);
    let mut tensors = tensor::Tensors::new(path, &pickle, &mut archive);
    let model = model::read_model(&mut tensors)?;
    finite::check(
        path,
        model
            .state
            .iter()
            .map(|(key, tensor)| (key.as_str(), tensor.dtype, tensor.bytes.as_slice())),
    )?;
    Ok(model)
}

/// Whether a file is a PyTorch checkpoint, whatever its name is: decided by its first bytes. A file that can't be opened is one if its
/// name says so.
pub fn is_checkpoint(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    let named = path
        .extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| {
            ["pt", "pth", "ckpt", "bin"]
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known))
        });
    named || read.is_ok() && archive::is_archive(&head)
}
