//! The ncnn format: `.param` and `.bin` written directly, without ONNX in between.
//!
//! Blobs of ncnn have no batch axis: `[1, C, H, W]` is a blob of C channels, `[1, T, C]` a matrix. The outputs are the raw
//! maps of the head as `out0`, `out1`, ..., each `[anchors, h * w, 5 + classes]` before sigmoid, the form that ncnn's YOLOv5
//! examples decode.

mod check;
mod deform;
mod int8;
mod lower;
pub mod model;
mod run;
mod shape;
pub mod steps;
mod window;

use std::path::{Path, PathBuf};

use yolo_core::{Graph, Params, passes};

pub(crate) use check::beyond;
pub use check::check;
pub use int8::takes;
pub use run::run;

use crate::{Error, Result, file};
use model::Net;

/// How main weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats; biases stay 32-bit. Half the size, and what ncnn computes with on most phones anyway.
    F16,
    /// Integers where the graph has fake quantizers on the weight and on the input of a convolution; the rest stays f32.
    Int8,
}

/// How to write the files.
#[derive(Debug, Clone)]
pub struct Options {
    /// Height and width of the image in pixels.
    pub image: [i64; 2],
    /// How main weights are stored.
    pub precision: Precision,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: [640; 2],
            precision: Precision::F32,
        }
    }
}

/// Lowers a network.
///
/// # Errors
/// [`Error::Node`] names a node that has no form in ncnn; [`Error::Core`]: a tensor of `params` is absent, or the network takes no image
/// of this size.
pub fn export(graph: &Graph, params: &Params, options: &Options) -> Result<Net> {
    let (graph, params) = passes::for_export(graph, params)?;
    lower::lower(&graph, &params, options)
}

/// Paths of the two files: `path` with the endings `.param` and `.bin`.
pub fn paths(path: &Path) -> (PathBuf, PathBuf) {
    (path.with_extension("param"), path.with_extension("bin"))
}

/// Lowers a network and writes both files; returns it as it was written.
///
/// # Errors
/// Those of [`export`], with nothing written; [`Error::Write`] names the file. The `.bin` file comes first: it may be there without its
/// `.param` file.
pub fn write(graph: &Graph, params: &Params, options: &Options, path: &Path) -> Result<Net> {
    let net = export(graph, params, options)?;
    let (param, bin) = paths(path);
    file::write_atomic(&bin, &net.to_bin())?;
    file::write_atomic(&param, net.to_param().as_bytes())?;
    Ok(net)
}

/// Reads both files.
///
/// # Errors
/// [`Error::Read`] names the one that can't be read; [`Error::Format`] names the `.param` file and says what [`Net::parse`] found in
/// either.
pub fn read(path: &Path) -> Result<Net> {
    let (param, bin) = paths(path);
    let text = std::fs::read_to_string(&param).map_err(|source| Error::read(&param, source))?;
    let bytes = std::fs::read(&bin).map_err(|source| Error::read(&bin, source))?;
    Net::parse(&text, &bytes).map_err(|error| Error::Format {
        path: param,
        reason: error.to_string(),
    })
}
