//! Takes weights over into another model, by name and shape, and says what did not fit.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use tch::Tensor;
use yolo_core::Params;

use crate::{Error, Result};

/// What happened to each tensor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TransferReport {
    /// Tensors taken over.
    pub taken: usize,
    /// Tensors of the target.
    pub total: usize,
    /// Of the taken: counters of batch norms.
    #[serde(skip)]
    counters: usize,
    /// Of the target: counters of batch norms.
    #[serde(skip)]
    all_counters: usize,
    /// Keys of the target that the source does not have, or has in another shape: they keep their values.
    pub missing: Vec<String>,
    /// Keys of the source that were not used.
    pub dropped: Vec<String>,
    /// Of the dropped: those that exist in the target with another shape, as `KEY: [source] instead of [target]`.
    pub reshaped: Vec<String>,
}

impl TransferReport {
    /// Whether so little of the model was taken over that it starts from noise: less than half of its tensors. Counters of batch norms
    /// don't count, they fit every batch norm.
    pub fn is_poor(&self) -> bool {
        (self.taken - self.counters) * 2 < self.total - self.all_counters
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let mut text = format!("{} of {} tensors taken over", self.taken, self.total);
        let list = |what: &str, keys: &[String]| {
            let more = if keys.len() > 3 {
                format!(" and {} more", keys.len() - 3)
            } else {
                String::new()
            };
            format!(
                "; {what}: {}{more}",
                keys.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
            )
        };
        if !self.reshaped.is_empty() {
            text += &list("other shape", &self.reshaped);
        }
        let unknown: Vec<String> = self
            .dropped
            .iter()
            .filter(|key| {
                !self
                    .reshaped
                    .iter()
                    .any(|r| r.strip_prefix(key.as_str()).is_some_and(|t| t.starts_with(':')))
            })
            .cloned()
            .collect();
        if !unknown.is_empty() {
            text += &list("not in the model", &unknown);
        }
        if self.missing.len() > self.reshaped.len() {
            text += &list("kept as they were", &self.missing);
        }
        text
    }
}

/// Whether batch norms are folded into their convolutions in tensors of these names, which `target` has side by side: a network saved
/// after `fuse()`.
pub fn is_folded<'a>(target: &Params, source: impl IntoIterator<Item = &'a str>) -> bool {
    let source: HashSet<&str> = source.into_iter().collect();
    let mut blocks = target.iter().filter_map(|(key, _)| key.strip_suffix("bn.running_mean"));
    blocks.any(|block| {
        let bias = format!("{block}conv.bias");
        source.contains(bias.as_str())
            && target.get(&bias).is_none()
            && !source.contains(format!("{block}bn.running_mean").as_str())
    })
}

/// Refuses integers where `target` has weights: copied as numbers they would be the codes of another scale.
///
/// # Errors
/// [`Error::File`] names the first such tensor and its kind.
pub fn refuse_integers<'a>(
    path: &Path,
    target: &Params,
    source: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    for (key, tensor) in source {
        let weights = target.get(key).is_some_and(Tensor::is_floating_point);
        if weights && !tensor.is_floating_point() {
            return Err(Error::file(path, integers(key, tensor)));
        }
    }
    Ok(())
}

/// Why a tensor of integers is no weight.
pub(super) fn integers(key: &str, tensor: &Tensor) -> String {
    format!(
        "tensor `{key}` holds integers ({:?}) where the model has floating-point weights: they are codes without their scale; use the file \
         from before it was quantized",
        tensor.kind()
    )
}

/// Copies the values of `source` into the tensors of `target` that have the same key and shape. Keys for which `skip` is true
/// are neither taken nor reported. Kind and device of the target stay.
///
/// # Errors
/// [`Error::Torch`] where libtorch can't copy. What does not fit is in the report and no error.
pub fn transfer<'a>(
    target: &Params,
    source: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    skip: &dyn Fn(&str) -> bool,
) -> Result<TransferReport> {
    let mut report = TransferReport {
        total: target.iter().filter(|(key, _)| !skip(key)).count(),
        ..Default::default()
    };
    let is_counter = |key: &str| key.ends_with("num_batches_tracked");
    report.all_counters = target.iter().filter(|(key, _)| !skip(key) && is_counter(key)).count();
    let mut taken = HashSet::new();
    for (key, tensor) in source {
        if skip(key) {
            continue;
        }
        match target.get(key) {
            Some(slot) if slot.size() == tensor.size() => {
                tch::no_grad(|| slot.shallow_clone().f_copy_(tensor))?;
                taken.insert(key);
            }
            Some(slot) => {
                report
                    .reshaped
                    .push(format!("{key}: {:?} instead of {:?}", tensor.size(), slot.size()));
                report.dropped.push(key.to_owned());
            }
            None => report.dropped.push(key.to_owned()),
        }
    }
    report.taken = taken.len();
    report.counters = taken.iter().filter(|key| is_counter(key)).count();
    report.missing = target
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !skip(key) && !taken.contains(key))
        .map(str::to_owned)
        .collect();
    Ok(report)
}
