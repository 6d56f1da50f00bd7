//! The programs that read what is written here: one port, [`Engine`], and an implementation each for onnxruntime, OpenVINO and ncnn.
//!
//! onnxruntime is a library of this process. The other two run in a process of their own ([`process`]): OpenVINO in this program,
//! started a second time ([`worker`]), ncnn in python3, as its wheel exports nothing but a Python module. They exchange
//! messages over two pipes ([`protocol`]), and a crash of an engine is an error of one file.
//!
//! What must not be here: what a network's outputs mean (see [`crate::deployed`]).

mod ncnn;
mod onnxruntime;
mod openvino;
pub mod process;
pub mod protocol;
pub mod worker;

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

pub use self::ncnn::Ncnn;
pub use self::onnxruntime::OnnxRuntime;
pub use self::openvino::OpenVino;

/// An input or output of a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// Its name in the file.
    pub name: String,
    /// Its sizes, -1 where one may vary; empty where the engine does not know them before it ran.
    pub shape: Vec<i64>,
    /// What its numbers are, `f16`, where they are not f32.
    #[serde(default)]
    pub kind: Option<String>,
}

/// A tensor of `f32`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Name in the file.
    pub name: String,
    /// Sizes.
    pub shape: Vec<i64>,
    /// Elements.
    pub values: Vec<f32>,
}

impl Array {
    /// Copies a tensor of any shape, device, layout and floating kind.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn of(name: &str, tensor: &Tensor) -> Result<Self> {
        let ready = tensor
            .f_to_device(Device::Cpu)?
            .f_to_kind(Kind::Float)?
            .f_contiguous()?;
        let mut values = vec![0f32; ready.numel()];
        ready.f_copy_data(&mut values, ready.numel())?;
        Ok(Self {
            name: name.to_owned(),
            shape: tensor.size(),
            values,
        })
    }

    /// As a tensor of this shape on the CPU.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.values)?.f_reshape(self.shape.as_slice())?)
    }

    /// Whether the elements fill the sizes.
    pub(crate) fn is_whole(&self) -> bool {
        let sizes = self.shape.iter().map(|size| usize::try_from(*size).ok());
        sizes.product::<Option<usize>>() == Some(self.values.len())
    }
}

/// An engine on this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// As the engine says it.
    pub version: String,
    /// The library, or the interpreter that has it.
    pub path: PathBuf,
}

/// A program or library that runs files.
pub trait Engine: Sync {
    /// Its name, in lower case: what `--engine` takes.
    fn name(&self) -> &'static str;

    /// Its name as its makers write it.
    fn title(&self) -> &'static str;

    /// Endings of the files that it reads, the one to name first.
    fn endings(&self) -> &'static [&'static str];

    /// How to get it: one command.
    fn help(&self) -> &'static str;

    /// Looks for it.
    ///
    /// # Errors
    /// [`Error::EngineMissing`], which says where it was looked for and how to get it.
    fn find(&self) -> Result<Found>;

    /// Opens a file. `threads` 0 leaves the number to the engine.
    ///
    /// # Errors
    /// Those of [`Engine::find`]; what the engine says against the file; [`Error::EngineCrashed`].
    fn open(&self, path: &Path, threads: usize) -> Result<Box<dyn Network>>;
}

/// An opened file.
pub trait Network {
    /// What it takes.
    fn inputs(&self) -> &[Port];

    /// What it gives.
    fn outputs(&self) -> &[Port];

    /// Runs it; outputs in the order of [`Network::outputs`], those of other element types as `f32`.
    ///
    /// # Errors
    /// What the engine says against the inputs; [`Error::EngineCrashed`].
    fn run(&mut self, inputs: &[Array]) -> Result<Vec<Array>>;

    /// Milliseconds that the engine needed for the last run, without what it took to hand over the tensors.
    fn milliseconds(&self) -> f64;
}

/// All of them.
pub static ALL: [&dyn Engine; 3] = [&OnnxRuntime, &OpenVino, &Ncnn];

/// Their names.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|engine| engine.name()).collect()
}

/// The engine of a name.
pub fn by_name(name: &str) -> Option<&'static dyn Engine> {
    let name = name.to_ascii_lowercase();
    let short = |engine: &dyn Engine| engine.name() == name || (name == "ort" && engine.name() == "onnxruntime");
    ALL.iter().copied().find(|engine| short(*engine))
}

/// The engine that a file is run with where nobody names one: the first that reads files of its ending.
pub fn of_file(path: &Path) -> Option<&'static dyn Engine> {
    ALL.iter().copied().find(|engine| reads(*engine, path))
}

/// Whether an engine reads files of this ending.
pub fn reads(engine: &dyn Engine, path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    engine.endings().iter().any(|known| known.eq_ignore_ascii_case(ending))
}

/// Folders that a library may be in: `name` in the working folder, beside the program, in the workspace this program was built from, and
/// above each of them.
pub(crate) fn folders(name: &str) -> impl Iterator<Item = PathBuf> {
    let starts = [
        std::env::current_dir().ok(),
        std::env::current_exe()
            .ok()
            .and_then(|program| program.parent().map(Path::to_owned)),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
    ];
    let above = |start: PathBuf| start.ancestors().map(Path::to_owned).collect::<Vec<_>>();
    starts
        .into_iter()
        .flatten()
        .flat_map(above)
        .map(move |folder| folder.join(name))
}

pub(crate) fn missing(engine: &dyn Engine, reason: String) -> Error {
    Error::EngineMissing {
        engine: engine.title(),
        reason,
        help: engine.help(),
    }
}

pub(crate) fn refused(engine: &'static str, path: &Path, reason: &str) -> Error {
    Error::Engine {
        engine,
        reason: format!("{}: {reason}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_engine_of_its_ending() {
        let name = |file: &str| of_file(Path::new(file)).map(|engine| engine.name());
        assert_eq!(name("a/b.onnx"), Some("onnxruntime"));
        assert_eq!(name("b.XML"), Some("openvino"));
        assert_eq!(name("b.param"), Some("ncnn"));
        assert_eq!(name("b.safetensors"), None);
        assert!(reads(&OpenVino, Path::new("b.onnx")) && !reads(&Ncnn, Path::new("b.onnx")));
        assert_eq!(by_name("OpenVINO").map(|engine| engine.name()), Some("openvino"));
        assert_eq!(by_name("ort").map(|engine| engine.name()), Some("onnxruntime"));
        assert!(by_name("tensorrt").is_none());
    }

    #[test]
    fn every_engine_says_how_to_get_it() {
        for engine in ALL {
            assert!(engine.help().contains("cargo xtask setup"), "{}", engine.name());
            assert!(!engine.endings().is_empty());
        }
    }

    #[test]
    fn sizes_that_make_no_sense_are_not_whole() {
        let array = |shape: &[i64]| Array {
            name: "x".into(),
            shape: shape.to_vec(),
            values: vec![0.0; 6],
        };
        assert!(array(&[2, 3]).is_whole() && array(&[6]).is_whole());
        assert!(!array(&[2, 2]).is_whole() && !array(&[-2, -3]).is_whole() && !array(&[]).is_whole());
    }
}
