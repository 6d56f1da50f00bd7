//! The state of an unfinished training: enough to continue as if it had never stopped.

use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use yolo_core::Params;

use super::file::{describe, model_from};
use super::{Checkpoint, read_tensors, write_tensors};
use crate::{Error, Result};

/// Numbers of an unfinished training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainState {
    /// Epochs that are finished.
    pub epochs_done: usize,
    /// Iteration of the last optimizer step (-1 before the first).
    pub last_step: i64,
    /// Updates of the average.
    pub ema_updates: i64,
    /// Updates of the optimizer that had an effect.
    pub optimizer_steps: i64,
    /// Updates of the optimizer in all, those that a scaler skipped counted.
    pub updates: usize,
    /// Scale of the loss, where f16 needs one.
    pub scaler: Option<crate::train::ScalerState>,
    /// Best fitness so far.
    pub best_fitness: f64,
    /// Epoch of the best fitness.
    pub best_epoch: usize,
    /// mAP of each class in the last validation, where images are drawn by it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub class_maps: Vec<f64>,
    /// Settings of the run, to refuse a resume with others.
    pub settings: serde_json::Value,
    /// Data and weights that it was started on.
    pub fingerprint: Option<crate::train::Fingerprint>,
}

const MODEL: &str = "model/";
const EMA: &str = "ema/";
const OPTIMIZER: &str = "optimizer/";

/// Writes trained weights, average and optimizer with the numbers of the run, atomically in one file.
///
/// # Errors
/// Those of [`write_tensors`].
pub fn save_state(
    path: &Path,
    model: &Checkpoint,
    ema: &Params,
    optimizer: &IndexMap<String, Tensor>,
    state: &TrainState,
) -> Result<()> {
    let keyed = |prefix: &str, key: &str| format!("{prefix}{key}");
    let mut all: Vec<(String, &Tensor)> = model.params.iter().map(|(k, t)| (keyed(MODEL, k), t)).collect();
    all.extend(ema.iter().map(|(k, t)| (keyed(EMA, k), t)));
    all.extend(optimizer.iter().map(|(k, t)| (keyed(OPTIMIZER, k), t)));
    let mut metadata = describe(&model.graph, &model.meta)?;
    metadata.insert(
        "train_state".into(),
        serde_json::to_string(state).map_err(|e| Error::Core(e.into()))?,
    );
    write_tensors(path, all.iter().map(|(k, t)| (k.as_str(), *t)), metadata)
}

/// The numbers of a state alone, without its tensors.
///
/// # Errors
/// [`Error::Io`] where the file can't be read, [`Error::File`] where it is damaged, or a model and not the state of a training.
pub fn state_numbers(path: &Path) -> Result<TrainState> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path).map_err(Error::io(path, "read it"))?;
    let mut length = [0; 8];
    let mut header = Vec::new();
    file.read_exact(&mut length)
        .and_then(|()| file.take(u64::from_le_bytes(length)).read_to_end(&mut header))
        .map_err(Error::io(path, "read it"))?;
    let header: serde_json::Value = serde_json::from_slice(&header)
        .map_err(|error| Error::file(path, format!("the file is damaged or cut off ({error})")))?;
    numbers(path, header["__metadata__"]["train_state"].as_str())
}

fn numbers(path: &Path, text: Option<&str>) -> Result<TrainState> {
    let Some(text) = text else {
        return Err(Error::file(
            path,
            "this is a model, not the state of a training; use it as `--weights`",
        ));
    };
    serde_json::from_str(text).map_err(|error| Error::file(path, format!("its training state can't be read ({error})")))
}

/// What [`save_state`] wrote: the trained model, the average, the optimizer's tensors and the numbers.
///
/// # Errors
/// Those of [`read_tensors`] and [`load`](super::load); [`Error::File`] where the file is a model and not the state of a training.
pub fn load_state(path: &Path) -> Result<(Checkpoint, Params, IndexMap<String, Tensor>, TrainState)> {
    let file = read_tensors(path)?;
    let state = numbers(path, file.metadata.get("train_state").map(String::as_str))?;
    let (mut model, mut ema, mut optimizer) = (IndexMap::new(), IndexMap::new(), IndexMap::new());
    for (key, tensor) in file.tensors {
        for (prefix, map) in [(MODEL, &mut model), (EMA, &mut ema), (OPTIMIZER, &mut optimizer)] {
            if let Some(rest) = key.strip_prefix(prefix) {
                map.insert(rest.to_owned(), tensor.shallow_clone());
            }
        }
    }
    let average = model_from(path, ema, &file.metadata)?;
    let checkpoint = model_from(path, model, &file.metadata)?;
    Ok((checkpoint, average.params, optimizer, state))
}
