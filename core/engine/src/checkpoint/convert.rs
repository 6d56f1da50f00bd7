//! From an Ultralytics checkpoint to ours, and from ours to a plain state dict.

use std::collections::HashMap;
use std::path::Path;

use tch::{Kind, Tensor};
use yolo_core::{Graph, Params};

use super::{Checkpoint, HistoryEntry, Meta, TransferReport, refuse_integers, transfer, write_tensors};
use crate::pt::PtModel;
use crate::{Error, Result};

/// Puts the weights of a `.pt` file into the graph of its modules ([`PtModel::graph`]). Class names come from the file. What the file has
/// beyond the model is in the report.
///
/// # Errors
/// [`Error::File`] names the first tensor of the model that is missing in the file or has another shape there, or that holds integers where
/// the model has weights. [`Error::Settings`] names a type that libtorch does not have.
pub fn adopt(path: &Path, source: &PtModel, graph: Graph, image_size: i64) -> Result<(Checkpoint, TransferReport)> {
    let params = Params::init(&graph, 0);
    let tensors: Vec<(&str, Tensor)> = source
        .state
        .iter()
        .map(|(key, raw)| {
            let tensor = raw.to_tensor()?;
            let tensor = if tensor.is_floating_point() {
                tensor.f_to_kind(Kind::Float)?
            } else {
                tensor
            };
            Ok((key.as_str(), tensor))
        })
        .collect::<Result<_>>()?;
    refuse_integers(path, &params, tensors.iter().map(|(key, tensor)| (*key, tensor)))?;
    let report = transfer(&params, tensors.iter().map(|(key, tensor)| (*key, tensor)), &|_| false)?;
    // Models before PyTorch 0.4.1 have no counters.
    if let Some(first) = report.missing.iter().find(|key| !key.ends_with("num_batches_tracked")) {
        return Err(Error::file(
            path,
            format!(
                "its weights don't fit the model: `{first}` is missing ({})",
                report.summary()
            ),
        ));
    }
    let summary = format!(
        "converted from {}{}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        source
            .date
            .as_ref()
            .map(|date| format!(" of {date}"))
            .unwrap_or_default()
    );
    let meta = Meta {
        names: source.names.clone(),
        image_size,
        config: source.yaml.clone(),
        history: vec![HistoryEntry {
            kind: "convert".into(),
            summary,
            settings: serde_json::Value::Null,
        }],
        ..Meta::default()
    };
    Ok((Checkpoint { graph, params, meta }, report))
}

/// Writes the tensors alone, under their Ultralytics names: a plain state dict that `safetensors.torch.load_file` and
/// `load_state_dict` take.
///
/// # Errors
/// Those of [`write_tensors`].
pub fn state_dict(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let names = serde_json::to_string(&checkpoint.meta.names).map_err(|e| Error::Core(e.into()))?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned()), ("names".to_owned(), names)]);
    write_tensors(path, checkpoint.params.iter(), metadata)
}
