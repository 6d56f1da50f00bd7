//! A command that several processes run together: who takes part, who speaks, how one ends when another does.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tch::Device;
use yolo_engine::dist::{self, Environment, World};

use yolo_jobs::compute::{self, DeviceArgs};
use yolo_jobs::train::with_advice;

use crate::error::{CliError, CliResult};
use crate::{launch, ui};

/// How many ranks this process has to start (`--device 0,1`, `--processes 2`), or `None` if it computes itself.
pub fn to_start(device: &DeviceArgs, processes: Option<usize>) -> CliResult<Option<usize>> {
    let devices = device.all()?;
    let on_cpu = devices == [Device::Cpu];
    match processes {
        Some(0) => Err(CliError::Usage("--processes must be at least 1".into())),
        Some(count) if !on_cpu && count != devices.len() => Err(CliError::Usage(format!(
            "--processes {count}: one process for each device is started, and --device {} names {}",
            device.device,
            devices.len()
        ))),
        Some(count) => Ok(Some(count).filter(|count| *count > 1)),
        None => Ok(Some(devices.len()).filter(|count| *count > 1)),
    }
}

/// Who this process is, from its environment.
pub fn environment() -> CliResult<Option<Environment>> {
    Ok(Environment::read(|name| std::env::var(name).ok())?)
}

/// The device of this process: that of its number on its machine, where several are named or there are several.
pub fn own_device(device: &DeviceArgs, environment: &Environment) -> CliResult<Device> {
    let mut devices = device.all()?;
    if !device.is_given() && devices != [Device::Cpu] {
        devices = (0..compute::cuda_devices()).map(Device::Cuda).collect();
    }
    let own = if devices == [Device::Cpu] {
        Some(Device::Cpu)
    } else {
        devices.get(environment.local_rank).copied()
    };
    let own = own.ok_or_else(|| {
        CliError::Usage(format!(
            "LOCAL_RANK={}: --device {} names {} devices, each process needs one of its own",
            environment.local_rank,
            device.device,
            devices.len()
        ))
    })?;
    compute::use_now(own, &device.device)?;
    Ok(own)
}

/// This process among the others.
pub struct Ranks {
    /// What it shares with them.
    pub world: Arc<World>,
    /// Where the run writes; for the words at its end.
    pub folder: Arc<OnceLock<PathBuf>>,
}

impl Ranks {
    /// One process.
    pub fn alone() -> Self {
        Self {
            world: Arc::default(),
            folder: Arc::default(),
        }
    }

    /// Meets the others. All but rank 0 say nothing but errors from now on.
    pub fn meet(environment: &Environment, device: Device) -> CliResult<Self> {
        let folder: Arc<OnceLock<PathBuf>> = Arc::default();
        launch::obey();
        if environment.rank > 0 {
            ui::hush();
        }
        let place = folder.clone();
        let on_lost = Box::new(move |reason: &str| {
            eprintln!("error: {}", with_advice(reason, place.get()));
            yolo_registry::leave(1);
        });
        let world = World::join(environment, device, patience()?, on_lost)?;
        Ok(Self {
            world: Arc::new(world),
            folder,
        })
    }

    /// Runs `work`, then ends together with the others: after an error all of them end, with its reason.
    pub fn together<T>(&self, work: impl FnOnce() -> CliResult<T>) -> CliResult<T> {
        match work() {
            Ok(value) => {
                self.world.leave()?;
                Ok(value)
            }
            // All of them stop at the same step.
            Err(error @ CliError::Interrupted(_)) => {
                self.world.leave()?;
                Err(error)
            }
            Err(error) => {
                self.world.fail(error.to_string().lines().next().unwrap_or_default());
                Err(error)
            }
        }
    }
}

/// How long the ranks wait for each other at the start.
fn patience() -> CliResult<Duration> {
    const NAME: &str = "YOLO_DIST_TIMEOUT";
    match std::env::var(NAME) {
        Err(_) => Ok(dist::PATIENCE),
        Ok(text) => match text.trim().parse::<u64>() {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(CliError::Usage(format!("{NAME}={text}: a number of seconds is needed"))),
        },
    }
}
