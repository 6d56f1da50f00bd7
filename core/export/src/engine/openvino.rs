//! OpenVINO: its C interface, loaded at run time in a process of its own ([`super::worker`]), since it ends the process on some networks
//! instead of refusing them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use openvino::{CompiledModel, Core, DeviceType, ElementType, InferRequest, Node, RwPropertyKey, Shape, Tensor};

use super::process::{self, Opened, Process};
use super::worker::Backend;
use super::{Array, Engine, Found, Network, Port, missing};
use crate::Result;

/// Says where the library is; a folder or the file.
const VARIABLE: &str = "YOLO_OPENVINO";
/// Folder of the libraries that the set-up fetches.
const FOLDER: &str = ".openvino";
const TITLE: &str = "OpenVINO";

/// OpenVINO: ONNX, and the `.xml` and `.bin` of its own.
#[derive(Debug)]
pub struct OpenVino;

impl Engine for OpenVino {
    fn name(&self) -> &'static str {
        "openvino"
    }

    fn title(&self) -> &'static str {
        TITLE
    }

    fn endings(&self) -> &'static [&'static str] {
        &["xml", "onnx"]
    }

    fn help(&self) -> &'static str {
        "run `cargo xtask setup --engines` (or `pip install openvino` in the virtual environment that is active), or set YOLO_OPENVINO to \
         the folder of its libraries (version 2025.1 or later)"
    }

    fn find(&self) -> Result<Found> {
        let path = locate()?;
        let version = process::version(start(&path)?, &path)
            .map_err(|error| missing(self, format!("it is there and can't be used: {error}")))?;
        Ok(Found { version, path })
    }

    fn open(&self, path: &Path, threads: usize) -> Result<Box<dyn Network>> {
        Ok(Box::new(Opened::new(start(&locate()?)?, path, threads)?))
    }
}

fn start(library: &Path) -> Result<Process> {
    let mut command = process::worker("openvino").ok_or_else(|| {
        let reason = "it runs in a process of the program `yolo`, and this is another one";
        missing(&OpenVino, reason.to_owned())
    })?;
    command.env(VARIABLE, library);
    Process::start(TITLE, command)
}

/// The library: where the variable says, where the set-up puts it, in the active virtual environment, or where it is installed.
fn locate() -> Result<PathBuf> {
    let variable = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    if let Some(path) = variable.map(PathBuf::from) {
        let found = if path.is_dir() {
            library_in(&path)
        } else {
            path.is_file().then(|| path.clone())
        };
        return found.ok_or_else(|| {
            let reason = format!("{VARIABLE} is {}, where there is no libopenvino_c", path.display());
            missing(&OpenVino, reason)
        });
    }
    super::folders(FOLDER)
        .chain(std::env::var_os("VIRTUAL_ENV").into_iter().flat_map(site_packages))
        .find_map(|folder| library_in(&folder))
        .or_else(openvino_sys::library::find)
        .ok_or_else(|| {
            missing(
                &OpenVino,
                format!("there is no {FOLDER} folder here, beside the program or above"),
            )
        })
}

/// Where a wheel puts the libraries in a virtual environment.
fn site_packages(environment: std::ffi::OsString) -> Vec<PathBuf> {
    let lib = PathBuf::from(environment).join("lib");
    let folders = std::fs::read_dir(lib).into_iter().flatten().flatten();
    folders
        .map(|entry| entry.path().join("site-packages/openvino/libs"))
        .collect()
}

/// The C interface in a folder, whatever version its name ends with.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let stem = format!("{}openvino_c", std::env::consts::DLL_PREFIX);
    let fits = |name: &str| {
        let rest = name.strip_prefix(&stem);
        rest.is_some_and(|rest| rest.starts_with('.') && rest.contains(std::env::consts::DLL_SUFFIX))
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(fits))
        .collect();
    found.sort();
    found.into_iter().next()
}

/// The library, in the process that has loaded it.
#[derive(Default)]
pub(super) struct Library {
    opened: Option<Running>,
}

struct Running {
    // Dropped in this order.
    request: InferRequest,
    _network: CompiledModel,
    _core: Core,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Backend for Library {
    fn version(&mut self) -> Result<String, String> {
        load()?;
        let build = openvino::version().build_number;
        Ok(build.split('-').next().unwrap_or(&build).to_owned())
    }

    fn open(&mut self, path: &Path, threads: usize) -> Result<(Vec<Port>, Vec<Port>), String> {
        load()?;
        let running = Running::new(path, threads)?;
        let ports = (running.inputs.clone(), running.outputs.clone());
        self.opened = Some(running);
        Ok(ports)
    }

    fn run(&mut self, inputs: Vec<Array>) -> Result<(Vec<Array>, f64), String> {
        self.opened.as_mut().ok_or("no file is open")?.run(inputs)
    }
}

fn load() -> Result<(), String> {
    openvino_sys::library::load_from(locate().map_err(|error| error.to_string())?)
}

/// What it says, in one line: its messages come with the places in its sources.
fn said(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let telling =
        |line: &&str| !line.is_empty() && !line.starts_with("Exception from ") && !line.starts_with("inference error");
    let lines: Vec<&str> = lines.filter(telling).take(3).collect();
    if lines.is_empty() { text } else { lines.join(" ") }
}

impl Running {
    fn new(path: &Path, threads: usize) -> Result<Self, String> {
        let mut core = Core::new().map_err(said)?;
        let path = path.to_str().ok_or("the name of the file is no text")?;
        let mut set = |key, value: &str| core.set_property(&DeviceType::CPU, &key, value).map_err(said);
        // Some processors would otherwise compute in bfloat16.
        set(RwPropertyKey::HintInferencePrecision, "f32")?;
        set(RwPropertyKey::HintPerformanceMode, "LATENCY")?;
        if threads > 0 {
            set(RwPropertyKey::InferenceNumThreads, &threads.to_string())?;
        }
        // Empty: the weights of an .xml are in the .bin of its name, those of ONNX in the file.
        let model = core.read_model_from_file(path, "").map_err(said)?;
        let mut network = core.compile_model(&model, DeviceType::CPU).map_err(said)?;
        let inputs = ports(network.get_input_size().map_err(said)?, |index| {
            network.get_input_by_index(index)
        })?;
        let outputs = ports(network.get_output_size().map_err(said)?, |index| {
            network.get_output_by_index(index)
        })?;
        Ok(Self {
            request: network.create_infer_request().map_err(said)?,
            _network: network,
            _core: core,
            inputs,
            outputs,
        })
    }

    fn run(&mut self, inputs: Vec<Array>) -> Result<(Vec<Array>, f64), String> {
        for input in inputs {
            let index = self.inputs.iter().position(|port| port.name == input.name);
            let index = index.ok_or_else(|| format!("it has no input `{}`", input.name))?;
            let shape = Shape::new(&input.shape).map_err(said)?;
            let mut tensor = Tensor::new(ElementType::F32, &shape).map_err(said)?;
            tensor
                .get_data_mut::<f32>()
                .map_err(said)?
                .copy_from_slice(&input.values);
            self.request.set_input_tensor_by_index(index, &tensor).map_err(said)?;
        }
        let start = Instant::now();
        self.request.infer().map_err(said)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let outputs = self.outputs.iter().enumerate();
        let arrays = outputs.map(|(index, port)| {
            let tensor = self.request.get_output_tensor_by_index(index).map_err(said)?;
            array(&port.name, &tensor)
        });
        Ok((arrays.collect::<Result<_, String>>()?, milliseconds))
    }
}

fn ports(count: usize, port: impl Fn(usize) -> Result<Node, openvino::InferenceError>) -> Result<Vec<Port>, String> {
    let describe = |index| {
        let node = port(index).map_err(said)?;
        let shape = node.get_partial_shape().map_err(said)?;
        let size = |dimension: &openvino::Dimension| match (dimension.get_min(), dimension.get_max()) {
            (low, high) if low == high => low,
            _ => -1,
        };
        Ok(Port {
            // A result without a name has none in the file.
            name: node.get_name().unwrap_or_else(|_| format!("result{index}")),
            shape: shape.get_dimensions().iter().map(size).collect(),
            kind: match node.get_element_type().map_err(said)? {
                ElementType::F32 => None,
                other => Some(format!("{other:?}").to_ascii_lowercase()),
            },
        })
    };
    (0..count).map(describe).collect()
}

fn array(name: &str, tensor: &Tensor) -> Result<Array, String> {
    let values = match tensor.get_element_type().map_err(said)? {
        ElementType::F32 => tensor.get_data::<f32>().map_err(said)?.to_vec(),
        ElementType::I32 => tensor
            .get_data::<i32>()
            .map_err(said)?
            .iter()
            .map(|v| *v as f32)
            .collect(),
        ElementType::I64 => tensor
            .get_data::<i64>()
            .map_err(said)?
            .iter()
            .map(|v| *v as f32)
            .collect(),
        other => {
            return Err(format!(
                "its output `{name}` is of {other:?}; f32, i32 and i64 are read"
            ));
        }
    };
    Ok(Array {
        name: name.to_owned(),
        shape: tensor.get_shape().map_err(said)?.get_dimensions().to_vec(),
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_known_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let suffix = std::env::consts::DLL_SUFFIX;
        for other in ["libopenvino.so.2641", "libopenvino_c.txt"] {
            std::fs::write(folder.path().join(other), "").unwrap();
        }
        assert_eq!(library_in(folder.path()), None);
        let library = folder
            .path()
            .join(format!("{}openvino_c{suffix}.2641", std::env::consts::DLL_PREFIX));
        std::fs::write(&library, "").unwrap();
        assert_eq!(library_in(folder.path()), Some(library));
    }

    #[test]
    fn its_messages_become_one_line() {
        let text = "inference error: general error: Exception from src/core.cpp:12:\nException from src/graph.cpp:3:\nCan't read it.\n";
        assert_eq!(said(text), "Can't read it.");
        assert_eq!(said("short"), "short");
    }
}
