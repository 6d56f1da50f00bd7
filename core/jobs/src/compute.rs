//! Where and in what precision a job computes: `--device` and `--amp`, decided once.

use serde::{Deserialize, Serialize};
use tch::Device;
use yolo_engine::train::Precision;
use yolo_torch::native::device;

use crate::error::{Error, Result};

/// `--device` of every command that computes.
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub struct DeviceArgs {
    /// Where to compute: `cpu`, `0`, `cuda:1`, or `auto` (the first GPU, else the CPU)
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// `--amp` of commands that train.
#[derive(Debug, Clone, Copy, Default, clap::Args, Serialize, Deserialize)]
pub struct AmpArgs {
    /// Mixed precision: `bf16`, `f16` or `off` (default: bf16 on GPUs that have it, f16 on older ones, off on the CPU)
    #[arg(long, value_enum)]
    #[serde(default)]
    pub amp: Option<Amp>,
}

/// A precision that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// bfloat16.
    Bf16,
    /// float16, with a scaled loss.
    #[value(alias = "fp16")]
    #[serde(alias = "fp16")]
    F16,
    /// f32 alone.
    Off,
}

/// How a step is launched on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compile {
    /// As CUDA graphs.
    #[default]
    Graph,
    /// Kernel by kernel.
    Off,
}

/// A device and a precision that it can compute in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// How a network is trained on it.
    pub precision: Precision,
}

impl Compute {
    /// The CPU, in f32.
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            precision: Precision::Off,
        }
    }
}

impl DeviceArgs {
    /// Whether somebody said where to compute.
    pub fn is_given(&self) -> bool {
        let text = self.device.trim();
        !text.is_empty() && !text.eq_ignore_ascii_case("auto")
    }

    /// The device that was asked for.
    ///
    /// # Errors
    /// Where it is not there; the error says what is.
    pub fn one(&self) -> Result<Device> {
        match self.all()?.as_slice() {
            [device] => {
                use_now(*device, &self.device)?;
                Ok(*device)
            }
            _ => Err(Error::Usage(format!(
                "--device {}: this command computes on one device",
                self.device
            ))),
        }
    }

    /// All devices that were asked for: several for `0,1`.
    ///
    /// # Errors
    /// Where one is not there; the error says what is.
    pub fn all(&self) -> Result<Vec<Device>> {
        let text = self.device.trim();
        if text.eq_ignore_ascii_case("cpu") {
            return Ok(vec![Device::Cpu]);
        }
        let count = cuda_devices();
        if text.is_empty() || text.eq_ignore_ascii_case("auto") {
            return Ok(vec![if count > 0 { Device::Cuda(0) } else { Device::Cpu }]);
        }
        let mut devices = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let number = match part.strip_prefix("cuda") {
                Some("") => "0",
                Some(rest) => rest.strip_prefix(':').unwrap_or(rest),
                None => part,
            };
            let Ok(index) = number.parse::<usize>() else {
                return Err(Error::Usage(format!(
                    "--device {text}: `{part}` is no device: cpu, 0, cuda:1, 0,1 or auto"
                )));
            };
            if index >= count {
                return Err(Error::Usage(format!(
                    "--device {text}: there is no CUDA device {index} here; {}",
                    what_is_there(count)
                )));
            }
            if devices.contains(&Device::Cuda(index)) {
                return Err(Error::Usage(format!("--device {text}: device {index} is named twice")));
            }
            devices.push(Device::Cuda(index));
        }
        Ok(devices)
    }
}

/// The precision that was asked for, or the usual one of the device.
///
/// # Errors
/// For a precision that the device doesn't have.
pub fn precision(asked: Option<Amp>, device: Device) -> Result<Precision> {
    let has_bf16 = || match device {
        Device::Cuda(index) => device::properties(index)
            .map(|found| (found.has_bf16(), found.name))
            .map_err(|error| unusable(&index.to_string(), &error)),
        _ => Ok((true, "the CPU".to_owned())),
    };
    match asked {
        None if device.is_cuda() => Ok(if has_bf16()?.0 { Precision::Bf16 } else { Precision::F16 }),
        None | Some(Amp::Off) => Ok(Precision::Off),
        Some(Amp::F16) => Ok(Precision::F16),
        Some(Amp::Bf16) => match has_bf16()? {
            (true, _) => Ok(Precision::Bf16),
            (false, name) => Err(Error::Usage(format!(
                "--amp bf16: {name} does not compute in bf16: use --amp f16 or --amp off"
            ))),
        },
    }
}

/// Makes a device the one that new work goes to; `named` is how it was asked for.
///
/// # Errors
/// [`Error::Failed`] has `named`, and why the device can't be used.
pub fn use_now(device: Device, named: &str) -> Result {
    device::set_current(device).map_err(|error| unusable(named, &error))
}

/// `cpu` or `cuda:0`.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// CUDA devices that this process can use.
pub fn cuda_devices() -> usize {
    if tch::Cuda::is_available() {
        usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
    } else {
        0
    }
}

fn what_is_there(count: usize) -> String {
    match count {
        0 => "there is `cpu`, and no CUDA device that this libtorch can use (see `yolo doctor`)".to_owned(),
        1 => "there are `cpu` and `0`".to_owned(),
        n => format!("there are `cpu` and `0` to `{}`", n - 1),
    }
}

fn unusable(text: &str, error: &tch::TchError) -> Error {
    let reason = error.to_string();
    Error::Failed(format!(
        "--device {text}: the device can't be used: {}",
        reason.lines().next().unwrap_or_default()
    ))
}
