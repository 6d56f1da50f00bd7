//! onnxruntime as an optional engine: finds its library at run time, opens an exported file and runs it. The program
//! builds, starts and exports without the library; only what needs the engine reports that it is missing.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Mutex,
};

use ort::{
    environment::Environment,
    session::{
        Session as Inner, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{TensorElementType, TensorRef, ValueType},
};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result, onnx::proto::ModelProto};

pub(crate) const ENGINE: &str = "onnxruntime";
pub(crate) const HELP: &str = "run `cargo xtask setup`, or set ORT_DYLIB_PATH to the library (version 1.22 or later)";
/// Folder of the library below the workspace or beside the binary.
const FOLDER: &str = ".onnxruntime";

/// The one environment of this process. Only success is remembered, so that a library installed later is found.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// An `f32` result with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Name in the file.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// Elements, row-major.
    pub values: Vec<f32>,
}

/// An opened network.
#[derive(Debug)]
pub struct Session {
    inner: Inner,
}

impl Session {
    /// Opens a file. `threads` 0 leaves the number to the engine.
    ///
    /// # Errors
    /// [`Error::Read`] where it can't be read, [`Error::Format`] where the engine refuses it; both name it. [`Error::EngineMissing`]
    /// where there is no engine.
    pub fn open(path: &Path, threads: usize) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::read(path, source))?;
        Self::from_bytes(&bytes, threads).map_err(|error| match error {
            Error::Engine { reason, .. } => Error::Format {
                path: path.to_owned(),
                reason: foreign(&reason).unwrap_or(reason),
            },
            other => other,
        })
    }

    /// Opens a network from memory.
    ///
    /// # Errors
    /// [`Error::EngineMissing`] where there is no engine, [`Error::Engine`] with what it says against the network.
    pub fn from_bytes(model: &[u8], threads: usize) -> Result<Self> {
        Self::with_level(model, threads, GraphOptimizationLevel::All)
    }

    /// Opens a network and runs it node by node as it stands in the file, without fusions: the reference for a comparison.
    ///
    /// # Errors
    /// Those of [`Session::from_bytes`].
    pub fn unoptimized(model: &[u8], threads: usize) -> Result<Self> {
        Self::with_level(model, threads, GraphOptimizationLevel::Disable)
    }

    fn with_level(model: &[u8], threads: usize, level: GraphOptimizationLevel) -> Result<Self> {
        let environment = environment()?;
        let inner = guarded(|| {
            builder(&environment, level)?
                .with_intra_threads(threads)?
                .commit_from_memory(model)
        })?;
        Ok(Self { inner })
    }

    /// Names and sizes of the inputs; a size that may vary is -1.
    pub fn inputs(&self) -> Vec<(String, Vec<i64>)> {
        let sizes = |kind: &ValueType| kind.tensor_shape().map_or_else(Vec::new, |shape| shape.to_vec());
        self.inner
            .inputs()
            .iter()
            .map(|input| (input.name().to_owned(), sizes(input.dtype())))
            .collect()
    }

    /// What the numbers of each input are, where they are not f32.
    pub fn input_kinds(&self) -> Vec<Option<String>> {
        let kind = |kind: &ValueType| match kind.tensor_type() {
            Some(TensorElementType::Float32) => None,
            Some(other) => Some(other.to_string()),
            None => Some("no tensor".to_owned()),
        };
        self.inner.inputs().iter().map(|input| kind(input.dtype())).collect()
    }

    /// Names and sizes of the outputs; a size that may vary is -1.
    pub fn output_sizes(&self) -> Vec<(String, Vec<i64>)> {
        let sizes = |kind: &ValueType| kind.tensor_shape().map_or_else(Vec::new, |shape| shape.to_vec());
        self.inner
            .outputs()
            .iter()
            .map(|output| (output.name().to_owned(), sizes(output.dtype())))
            .collect()
    }

    /// Names of the outputs.
    pub fn outputs(&self) -> Vec<String> {
        self.inner
            .outputs()
            .iter()
            .map(|output| output.name().to_owned())
            .collect()
    }

    /// A metadata entry of the file.
    pub fn metadata(&self, key: &str) -> Option<String> {
        self.inner.metadata().ok()?.custom(key)
    }

    /// Runs the network on named tensors of the sizes in [`Session::inputs`] (any device and floating kind; a contiguous `f32` CPU tensor
    /// is not copied). Gives `f32` CPU tensors of the sizes in [`Session::output_sizes`], with their names.
    ///
    /// # Errors
    /// Those of [`Session::run_slices`]; [`Error::Core`] where libtorch can't bring a tensor to the CPU as `f32`.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let ready = inputs
            .iter()
            .map(|(name, tensor)| {
                Ok((
                    *name,
                    tensor
                        .f_to_device(Device::Cpu)?
                        .f_to_kind(Kind::Float)?
                        .f_contiguous()?,
                    tensor.size(),
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = ready
            .iter()
            .map(|(name, tensor, shape)| (*name, shape.as_slice(), elements(tensor)))
            .collect();
        let outputs = self.run_slices(&views)?;
        outputs
            .into_iter()
            .map(|output| {
                Ok((
                    output.name,
                    Tensor::f_from_slice(&output.values)?.f_reshape(output.shape.as_slice())?,
                ))
            })
            .collect()
    }

    /// Runs the network on named slices with their shapes. Outputs of other element types come as `f32`.
    ///
    /// # Errors
    /// [`Error::Engine`] names an input whose values do not fill its shape, or has what the engine says: an input that it does not know
    /// or that is absent, a shape that the file does not take, an output that is neither `f32` nor an integer of 32 or 64 bits.
    pub fn run_slices(&mut self, inputs: &[(&str, &[i64], &[f32])]) -> Result<Vec<Output>> {
        for (name, shape, values) in inputs {
            if shape.iter().product::<i64>() != values.len() as i64 {
                return Err(engine(format!(
                    "input `{name}`: {} values do not fill the shape {shape:?}",
                    values.len()
                )));
            }
        }
        let session = &mut self.inner;
        guarded(|| {
            let values = inputs
                .iter()
                .map(|(name, shape, data)| {
                    let value = TensorRef::from_array_view((shape.to_vec(), *data))?;
                    Ok((*name, SessionInputValue::from(value)))
                })
                .collect::<ort::Result<Vec<_>>>()?;
            let results = session.run(values)?;
            results
                .iter()
                .map(|(name, value)| {
                    let (shape, values) = match value.dtype().tensor_type() {
                        Some(TensorElementType::Int64) => {
                            let (shape, data) = value.try_extract_tensor::<i64>()?;
                            (shape, data.iter().map(|&v| v as f32).collect())
                        }
                        Some(TensorElementType::Int32) => {
                            let (shape, data) = value.try_extract_tensor::<i32>()?;
                            (shape, data.iter().map(|&v| v as f32).collect())
                        }
                        _ => {
                            let (shape, data) = value.try_extract_tensor::<f32>()?;
                            (shape, data.to_vec())
                        }
                    };
                    Ok(Output {
                        name: name.to_owned(),
                        shape: shape.to_vec(),
                        values,
                    })
                })
                .collect()
        })
    }
}

/// Whether the engine can be used; the error says why not and what to do.
///
/// # Errors
/// [`Error::EngineMissing`]: where the library was looked for, or why it can't be loaded.
pub fn available() -> Result<PathBuf> {
    environment()?;
    locate()
}

/// Version of the library, as the name of its file has it.
///
/// # Errors
/// Those of [`locate`].
pub fn version() -> Result<String> {
    let path = locate()?;
    let path = path.canonicalize().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbers: Vec<&str> = name
        .split('.')
        .filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    Ok(if numbers.is_empty() {
        "version unknown".to_owned()
    } else {
        numbers.join(".")
    })
}

/// Path of the library: `ORT_DYLIB_PATH`, else `.onnxruntime/` in the working folder, beside the binary, in the
/// workspace this binary was built from, or above one of them.
///
/// # Errors
/// [`Error::EngineMissing`] says where there is none: at `ORT_DYLIB_PATH`, if that is set, else in any of these folders.
pub fn locate() -> Result<PathBuf> {
    let starts = [
        std::env::current_dir().ok(),
        std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned)),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
    ];
    locate_from(
        std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).as_deref(),
        starts.into_iter().flatten(),
    )
}

fn locate_from(explicit: Option<&Path>, starts: impl Iterator<Item = PathBuf>) -> Result<PathBuf> {
    if let Some(path) = explicit.filter(|path| !path.as_os_str().is_empty()) {
        let found = if path.is_dir() {
            library_in(path)
        } else {
            path.is_file().then(|| path.to_owned())
        };
        return found.ok_or_else(|| {
            missing(format!(
                "ORT_DYLIB_PATH is {}, where there is no library",
                path.display()
            ))
        });
    }
    for start in starts {
        if let Some(found) = start.ancestors().find_map(|folder| library_in(&folder.join(FOLDER))) {
            return Ok(found);
        }
    }
    Err(missing(format!(
        "there is no {FOLDER} folder here, beside the program or above"
    )))
}

/// The library in a folder, whatever version its name ends with.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let (prefix, suffix) = (
        format!("{}onnxruntime", std::env::consts::DLL_PREFIX),
        std::env::consts::DLL_SUFFIX,
    );
    let fits = |name: &str| match name.strip_prefix(&prefix) {
        // libonnxruntime.so, libonnxruntime.so.1.32.0, libonnxruntime.1.32.0.dylib; not libonnxruntime_providers_*.
        Some(rest) => rest.starts_with('.') && rest.contains(suffix),
        None => false,
    };
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(fits) && path.is_file())
        .collect();
    names.sort();
    names.into_iter().next()
}

/// What a file is that holds an operator which onnxruntime does not know; `None` where it refuses it for something else.
fn foreign(reason: &str) -> Option<String> {
    let (before, _) = reason.split_once(" is not a registered function/op")?;
    let operator = before.rsplit(' ').next()?;
    let (domain, name) = operator.split_once(':')?;
    let name = name.split('(').next().unwrap_or(name);
    Some(match domain {
        "TRT" => format!(
            "it has TensorRT's own operator {name}, which only TensorRT runs; onnxruntime runs the network exported without it, or with \
             `--nms standard`"
        ),
        _ => format!("it has the operator {operator}, which onnxruntime does not know; export it without"),
    })
}

/// A network as onnxruntime rewrites it for this machine: which ops it fuses, and which it runs on integers.
///
/// # Errors
/// [`Error::EngineMissing`] where there is no engine, [`Error::Engine`] with what it says against the network; [`Error::Write`] where no
/// temporary folder can be made, those of [`ModelProto::read`] for what the engine wrote there.
pub fn fused(model: &[u8]) -> Result<ModelProto> {
    let environment = environment()?;
    let folder = tempfile::tempdir().map_err(|source| Error::write(&std::env::temp_dir(), source))?;
    let path = folder.path().join("fused.onnx");
    guarded(|| {
        builder(&environment, GraphOptimizationLevel::All)?
            .with_optimized_model_path(&path)?
            .commit_from_memory(model)
    })?;
    ModelProto::read(&path)
}

fn builder(environment: &Environment, level: GraphOptimizationLevel) -> ort::Result<SessionBuilder> {
    let exact = if sums_bytes_exactly() { "0" } else { "1" };
    Ok(Inner::builder(environment)?
        .with_optimization_level(level)?
        .with_config_entry("session.x64quantprecision", exact)?)
}

/// Without VNNI, x86 adds products of bytes in 16 bits, which overflow: results would depend on the machine, unless onnxruntime is
/// told to take a slower way.
fn sums_bytes_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    let exact = std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    let exact = true;
    exact
}

fn environment() -> Result<Environment> {
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = slot.as_ref() {
        return Ok(environment.clone());
    }
    let path = locate()?;
    let made = catch_unwind(AssertUnwindSafe(|| {
        let builder = ort::init_from(&path).map_err(|error| error.to_string())?;
        builder
            .with_name("yolo")
            .with_telemetry(false)
            .build()
            .map_err(|error| error.to_string())
    }));
    match made {
        Ok(Ok(environment)) => {
            // The engine's warnings about a graph are for its developers; errors come back as values.
            environment.set_log_level(ort::logging::LogLevel::Fatal);
            *slot = Some(environment.clone());
            Ok(environment)
        }
        Ok(Err(reason)) => Err(missing(first_line(&reason))),
        Err(_) => Err(missing(format!("{} is not a usable library", path.display()))),
    }
}

/// Runs `f`; an error or a panic of the binding becomes our error.
fn guarded<T>(f: impl FnOnce() -> ort::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(engine(first_line(error.message()))),
        Err(_) => Err(engine("the engine's binding failed unexpectedly".to_owned())),
    }
}

fn engine(reason: String) -> Error {
    Error::Engine { engine: ENGINE, reason }
}

fn missing(reason: String) -> Error {
    Error::EngineMissing {
        engine: ENGINE,
        reason,
        help: HELP,
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The elements of a contiguous `f32` CPU tensor, without a copy.
fn elements(tensor: &Tensor) -> &[f32] {
    debug_assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu);
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: the tensor is contiguous, on the CPU and of kind f32 (both callers' conversions guarantee it), so its data
    // pointer addresses numel() initialised f32 values, which live as long as the borrow of the tensor.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = locate_from(None, [dir.path().to_owned()].into_iter())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cargo xtask setup") && error.contains("ORT_DYLIB_PATH"),
            "{error}"
        );
        let wrong = dir.path().join("nothing.so");
        let error = locate_from(Some(&wrong), std::iter::empty()).unwrap_err().to_string();
        assert!(error.contains("nothing.so"), "{error}");
    }

    #[test]
    fn the_library_is_found_by_any_version_above_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let suffix = std::env::consts::DLL_SUFFIX;
        std::fs::write(folder.join(format!("libonnxruntime_providers_shared{suffix}")), "").unwrap();
        let library = folder.join(format!("{}onnxruntime{suffix}.1.32.0", std::env::consts::DLL_PREFIX));
        std::fs::write(&library, "").unwrap();
        let start = dir.path().join("a/b");
        assert_eq!(locate_from(None, [start].into_iter()).unwrap(), library);
        assert_eq!(locate_from(Some(&folder), std::iter::empty()).unwrap(), library);
    }
}
