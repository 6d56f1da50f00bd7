//! Files for deployment as the weights of `yolo val` and `yolo detect`: which engine, which size.

use std::path::Path;

use yolo_export::deployed::Deployed;
use yolo_export::engine::{self, Engine};

use crate::compute::DeviceArgs;
use crate::error::{Error, Result, unknown};
use crate::{Session, open as opened};

/// `--engine` of commands that run files for deployment.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// Engine of a file for deployment: `onnxruntime` or `openvino` (.onnx), `openvino` (.xml), `ncnn` (.param)
    #[arg(long)]
    pub engine: Option<String>,
    /// Threads of that engine (default: what it takes by itself)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub engine_threads: usize,
}

/// Opens the weights in an engine; `None` where they are a checkpoint.
///
/// # Errors
/// Where the engine doesn't fit the file or is missing, and what it says against the file.
pub fn open(weights: &Path, args: &EngineArgs, device: &DeviceArgs) -> Result<Option<Deployed>> {
    let Some(engine) = engine_of(weights, args)? else {
        if args.engine_threads > 0 {
            return Err(Error::Usage(format!(
                "--engine-threads: {} is a checkpoint, which no engine runs; OMP_NUM_THREADS sets the threads of libtorch",
                weights.display()
            )));
        }
        return Ok(None);
    };
    if device.is_given() && !device.device.trim().eq_ignore_ascii_case("cpu") {
        return Err(Error::Usage(format!(
            "--device {}: {} runs {} on the CPU",
            device.device,
            engine.title(),
            weights.display()
        )));
    }
    Ok(Some(Deployed::open(weights, engine, args.engine_threads)?))
}

fn engine_of(weights: &Path, args: &EngineArgs) -> Result<Option<&'static dyn Engine>> {
    let usual = engine::of_file(weights);
    let Some(name) = &args.engine else {
        return Ok(usual);
    };
    let engine = engine::by_name(name).ok_or_else(|| unknown("engine", name, &engine::names()))?;
    if usual.is_none() {
        return Err(Error::Usage(format!(
            "--engine {name}: {} is no file for an engine\n  help: `yolo export --weights {}` writes one; checkpoints run without --engine",
            weights.display(),
            weights.display()
        )));
    }
    if !engine::reads(engine, weights) {
        return Err(Error::Usage(format!(
            "--engine {name}: {} reads .{} files, not {}",
            engine.title(),
            engine.endings().join(" and ."),
            weights.display()
        )));
    }
    Ok(Some(engine))
}

/// The side of the squares that a file is measured on: its own, or where that is open `--img`, else 640.
///
/// # Errors
/// Where the file takes another size than `--img`, or no squares.
pub fn square(session: Session<'_>, deployed: &Deployed, given: Option<usize>, weights: &Path) -> Result<usize> {
    match deployed.image() {
        Some([height, width]) if height == width => {
            let side = usize::try_from(height).unwrap_or_default();
            same_as_file(given, side, weights)?;
            Ok(side)
        }
        Some([height, width]) => Err(Error::Usage(format!(
            "{} takes images of {height} x {width}; validation is on squares\n  help: export it again with --img SIDE",
            weights.display()
        ))),
        None => opened::multiple_of_stride(session, given.unwrap_or(640), deployed.stride()),
    }
}

/// Height and width that pictures are fitted into.
///
/// # Errors
/// Where the file takes another size than `--img`.
pub fn sides(session: Session<'_>, deployed: &Deployed, given: &[usize], weights: &Path) -> Result<[usize; 2]> {
    let said = match given {
        [height, width] => Some([*height, *width]),
        other => other.first().map(|side| [*side; 2]),
    };
    match deployed.image() {
        Some(own) => {
            let own = own.map(|side| usize::try_from(side).unwrap_or_default());
            for (said, own) in said.into_iter().flatten().zip(own) {
                same_as_file(Some(said), own, weights)?;
            }
            Ok(own)
        }
        None => {
            let [height, width] = said.unwrap_or([640; 2]);
            let side = |side| opened::multiple_of_stride(session, side, deployed.stride());
            Ok([side(height)?, side(width)?])
        }
    }
}

fn same_as_file(given: Option<usize>, own: usize, weights: &Path) -> Result {
    match given {
        Some(given) if given != own => Err(Error::Usage(format!(
            "--img {given}: {} takes {own} only\n  help: leave --img out, or export the model again with --img {given}",
            weights.display()
        ))),
        _ => Ok(()),
    }
}

/// As the error of a validation, which it ends.
pub fn stops(error: yolo_export::Error) -> yolo_engine::Error {
    yolo_engine::Error::Foreign(error.to_string())
}
