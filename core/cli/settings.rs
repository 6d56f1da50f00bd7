//! Options that several commands share.

use std::path::{Path, PathBuf};

use yolo_engine::Checkpoint;

use crate::error::{CliError, CliResult};
use crate::ui;

/// The image size of `--img`, or the one that the model was trained for; a multiple of the model's stride.
pub fn image_size(given: Option<usize>, checkpoint: &Checkpoint) -> CliResult<usize> {
    let trained = usize::try_from(checkpoint.meta.image_size)
        .ok()
        .filter(|size| *size > 0);
    multiple_of_stride(given.or(trained).unwrap_or(640), checkpoint.max_stride())
}

/// Height and width of `--img SIDE` or `--img HEIGHT WIDTH`, as [`image_size`].
pub fn image_sides(given: &[usize], checkpoint: &Checkpoint) -> CliResult<[usize; 2]> {
    match given {
        [height, width] => Ok([
            image_size(Some(*height), checkpoint)?,
            image_size(Some(*width), checkpoint)?,
        ]),
        other => image_size(other.first().copied(), checkpoint).map(|side| [side; 2]),
    }
}

/// A size that the network can be run at: rounded up, with a note, as YOLOv5 does it.
pub fn multiple_of_stride(size: usize, stride: i64) -> CliResult<usize> {
    const LARGEST: usize = 1 << 14;
    if size == 0 || size > LARGEST {
        return Err(CliError::Usage(format!(
            "--img {size}: a size from 1 to {LARGEST} is needed"
        )));
    }
    let stride = usize::try_from(stride).unwrap_or(1).max(1);
    let rounded = size.div_ceil(stride) * stride;
    if rounded != size {
        ui::say(format!(
            "--img {size} is no multiple of the model's stride {stride}: using {rounded}"
        ));
    }
    Ok(rounded)
}

/// A number that can't be 0.
pub fn at_least_one(option: &str, value: usize) -> CliResult<usize> {
    if value == 0 {
        return Err(CliError::Usage(format!("{option} 0: 1 or more is needed")));
    }
    Ok(value)
}

/// Thresholds are shares.
pub fn shares(options: &[(&str, f32)]) -> CliResult {
    match options.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
        Some((name, value)) => Err(CliError::Usage(format!(
            "{name} {value}: a number from 0 to 1 is needed"
        ))),
        None => Ok(()),
    }
}

/// `project/name`, or `project/name2`, ... if that exists.
pub fn run_folder(project: &Path, name: &str, exist_ok: bool) -> PathBuf {
    let base = project.join(name);
    if exist_ok || !base.exists() {
        return base;
    }
    (2..)
        .map(|n| project.join(format!("{name}{n}")))
        .find(|path| !path.exists())
        .unwrap_or(base)
}

/// Memory that programs can still have, in bytes; `None` where the system doesn't say.
pub fn available_memory() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

/// Most memory that this process has held at once, in bytes; `None` where the system doesn't say.
pub fn peak_memory() -> Option<u64> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// The bytes of a row `NAME 123 kB`.
fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}
