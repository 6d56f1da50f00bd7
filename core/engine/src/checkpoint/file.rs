//! Reading and writing `.safetensors`, with and without a model in the metadata.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use indexmap::IndexMap;
use safetensors::{Dtype, SafeTensors, View};
use tch::{Kind, Tensor};
use yolo_core::graph::DetectHead;
use yolo_core::{Graph, ParamRole, Params};

use super::transfer::integers;
use super::{Checkpoint, FORMAT_VERSION, Meta, finite, foreign, other_anchors, write_atomically};
use crate::raw::{RawTensor, tensor_from_bytes};
use crate::{Error, Result};

const FORMAT: &str = "yolo-checkpoint";

impl View for &RawTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A `.safetensors` file: tensors by key (sorted as the file has them) and its metadata.
#[derive(Debug, Default)]
pub struct TensorFile {
    /// Tensors.
    pub tensors: IndexMap<String, Tensor>,
    /// Free text metadata.
    pub metadata: HashMap<String, String>,
}

/// Reads any `.safetensors` file; its tensors have the shapes of the file and are on the CPU.
///
/// # Errors
/// [`Error::Io`] where the file can't be read. [`Error::File`] where it is empty, cut off or of another format (with what it looks like);
/// it names a tensor with a value that is not finite, or of a type that libtorch does not have.
pub fn read_tensors(path: &Path) -> Result<TensorFile> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read it"))?;
    let damaged = |error: safetensors::SafeTensorError| Error::file(path, explain(path, &bytes, &error));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut names = file.names();
    names.sort_unstable();
    let views = names.iter().map(|name| Ok((*name, file.tensor(name)?)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    finite::check(
        path,
        views.iter().map(|(name, view)| (*name, view.dtype(), view.data())),
    )?;
    let mut tensors = IndexMap::with_capacity(names.len());
    for (name, view) in views {
        let tensor = tensor_from_bytes(view.dtype(), view.shape(), view.data())
            .map_err(|error| Error::file(path, format!("tensor `{name}`: {error}")))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(TensorFile {
        tensors,
        metadata: header.metadata().clone().unwrap_or_default(),
    })
}

fn explain(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    if bytes.is_empty() {
        "the file is empty".into()
    } else if bytes.starts_with(b"PK\x03\x04") {
        "this is a zip archive, probably a PyTorch checkpoint; give it the ending `.pt`".into()
    } else if bytes.starts_with(b"version https://git-lfs") {
        "this is a Git LFS pointer, not the weights; run `git lfs pull` where it came from".into()
    } else if bytes.len() > 9 && bytes[8] == b'{' {
        format!("the file is damaged or cut off ({error}); copy it again, or go back to an earlier checkpoint")
    } else if let Some(text) = foreign::describe(path, bytes) {
        text
    } else {
        format!("this is not a `.safetensors` file ({error})")
    }
}

/// Writes tensors of any shape and metadata as `.safetensors`, atomically.
///
/// # Errors
/// [`Error::File`] names a tensor with a value that is not finite; [`Error::Settings`] a kind that no file holds; [`Error::Io`] the file or
/// folder that can't be written. In all cases nothing is written.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let raw: Vec<(String, RawTensor)> = tensors
        .into_iter()
        .map(|(key, tensor)| Ok((key.to_owned(), RawTensor::from_tensor(tensor)?)))
        .collect::<Result<_>>()?;
    finite::check(
        path,
        raw.iter()
            .map(|(key, tensor)| (key.as_str(), tensor.dtype, tensor.bytes.as_slice())),
    )?;
    let mut bytes = safetensors::serialize(raw.iter().map(|(key, tensor)| (key.as_str(), tensor)), Some(metadata))
        .map_err(|error| Error::file(path, error.to_string()))?;
    sort_metadata(&mut bytes);
    write_atomically(path, |file| file.write_all(&bytes))
}

/// Puts the metadata of a header into order: they come from a hash map, and the same model shall be the same file. The header is
/// JSON after its length in 8 bytes, and as long afterwards.
fn sort_metadata(bytes: &mut [u8]) -> Option<()> {
    let (length, rest) = bytes.split_first_chunk_mut::<8>()?;
    let header = rest.get_mut(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let mut value: serde_json::Value = serde_json::from_slice(header).ok()?;
    value.get_mut("__metadata__")?.as_object_mut()?.sort_keys();
    let sorted = serde_json::to_vec(&value).ok()?;
    let (text, padding) = header.split_at_mut_checked(sorted.len())?;
    text.copy_from_slice(&sorted);
    padding.fill(b' ');
    Some(())
}

/// Writes a model, atomically.
///
/// # Errors
/// Those of [`write_tensors`].
pub fn save(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    write_tensors(
        path,
        checkpoint.params.iter(),
        describe(&checkpoint.graph, &checkpoint.meta)?,
    )
}

/// Metadata of a model.
pub(super) fn describe(graph: &Graph, meta: &Meta) -> Result<HashMap<String, String>> {
    let json = |result: serde_json::Result<String>| result.map_err(|e| Error::Core(e.into()));
    Ok(HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("format_version".to_owned(), FORMAT_VERSION.to_string()),
        ("program".to_owned(), format!("yolo {}", env!("CARGO_PKG_VERSION"))),
        ("graph".to_owned(), json(serde_json::to_string(graph))?),
        ("meta".to_owned(), json(serde_json::to_string(meta))?),
    ]))
}

/// Reads a model. Floating tensors become f32.
///
/// # Errors
/// Those of [`read_tensors`]. [`Error::File`] where the file holds tensors but no model, is of a later version, has a graph or metadata
/// that can't be read, or tensors of another model: it names the first that is missing, has another shape, or holds integers.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let file = read_tensors(path)?;
    model_from(path, file.tensors, &file.metadata)
}

/// A model from tensors and metadata: checks that both belong together.
pub(super) fn model_from(
    path: &Path,
    mut tensors: IndexMap<String, Tensor>,
    metadata: &HashMap<String, String>,
) -> Result<Checkpoint> {
    let fail = |reason: String| Error::file(path, reason);
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(fail(format!(
            "it holds {} tensors but no model: name the one they are of, `yolo convert {} model.safetensors --cfg MODEL` (MODEL: yolov5n or \
             a YAML file), and use model.safetensors",
            tensors.len(),
            path.display()
        )));
    }
    let version: u32 = metadata.get("format_version").and_then(|v| v.parse().ok()).unwrap_or(0);
    if version == 0 || version > FORMAT_VERSION {
        return Err(fail(format!(
            "it has format version {version}; this program reads up to {FORMAT_VERSION} (it was written by {}): update yolo",
            metadata.get("program").map_or("an unknown program", String::as_str)
        )));
    }
    let field = |name: &str| {
        metadata
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| fail(format!("its metadata has no `{name}`")))
    };
    let graph: Graph = serde_json::from_str(field("graph")?).map_err(|error| {
        fail(format!(
            "its graph can't be read ({error}); a plugin that it needs may be missing (`yolo list-plugins`)"
        ))
    })?;
    graph.validate().map_err(|error| fail(error.to_string()))?;
    let meta: Meta = serde_json::from_str(field("meta")?).map_err(|error| {
        fail(format!(
            "its metadata can't be read ({})",
            yolo_core::config::in_words(&error)
        ))
    })?;
    meta_agrees(&meta, &graph).map_err(fail)?;

    let mut params = Params::new();
    let (mut missing, mut reshaped) = (Vec::new(), Vec::new());
    for spec in graph.param_specs() {
        match tensors.shift_remove(&spec.key) {
            Some(tensor) if tensor.size() == spec.shape => {
                let weights = spec.role.trainable() && spec.role != ParamRole::Quant;
                if weights && !tensor.is_floating_point() {
                    return Err(fail(integers(&spec.key, &tensor)));
                }
                let tensor = if tensor.is_floating_point() {
                    tensor.f_to_kind(Kind::Float)?
                } else {
                    tensor
                };
                params.insert(spec.key, tensor);
            }
            Some(tensor) => reshaped.push(format!(
                "`{}` {:?} instead of {:?}",
                spec.key,
                tensor.size(),
                spec.shape
            )),
            None => missing.push(format!("`{}`", spec.key)),
        }
    }
    for (list, what) in [
        (missing, "it lacks"),
        (reshaped, "these have other shapes than its model:"),
    ] {
        if let Some(first) = list.first() {
            let more = if list.len() > 1 {
                format!(" and {} more", list.len() - 1)
            } else {
                String::new()
            };
            return Err(fail(format!("{what} {first}{more}: the tensors are of another model")));
        }
    }
    if let Some(head) = &graph.head {
        let key = head.anchors_key();
        if let Some(tensor) = tensors.shift_remove(&key) {
            anchors_agree(&key, head, &tensor).map_err(fail)?;
        }
        params.insert(key, head.anchors_in_cells());
    }
    for (key, tensor) in tensors {
        params.insert(key, tensor);
    }
    Ok(Checkpoint { graph, params, meta })
}

/// What the metadata says about the graph beside it: a file where they differ was changed by hand.
fn meta_agrees(meta: &Meta, graph: &Graph) -> Result<(), String> {
    let changed = "the file was changed after it was written; use the original";
    let classes = graph.head.as_ref().map_or(0, |head| head.classes);
    if !meta.names.is_empty() && graph.head.is_some() && meta.names.len() as i64 != classes {
        return Err(format!(
            "its metadata names {} classes, its head has {classes}: {changed}",
            meta.names.len()
        ));
    }
    if meta.image_size < 0 {
        return Err(format!(
            "its metadata says images of {} pixels: {changed}",
            meta.image_size
        ));
    }
    Ok(())
}

/// The anchors stand in the graph and, as in any state dict, in a tensor: a file where they differ was changed by hand, and one of them
/// is wrong.
fn anchors_agree(key: &str, head: &DetectHead, tensor: &Tensor) -> Result<(), String> {
    let reason = match other_anchors(head, tensor) {
        Ok(None) => return Ok(()),
        Ok(Some(_)) => "holds other anchors than its model".to_owned(),
        Err(reason) => reason,
    };
    Err(format!(
        "tensor `{key}` {reason}: the file was changed after it was written; use the original, or `yolo convert` with --cfg to take the \
         tensor's anchors"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_another_network_are_refused() {
        let mut graph = Graph {
            version: 1,
            nodes: Vec::new(),
            outputs: Vec::new(),
            layers: Vec::new(),
            head: None,
        };
        let head = DetectHead {
            prefix: "model.24".into(),
            classes: 2,
            anchors: vec![vec![[10.0, 13.0]]],
            strides: vec![8],
            unfitted: false,
        };
        let of = |names: &[&str], image_size| Meta {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            image_size,
            ..Meta::default()
        };
        assert_eq!(
            meta_agrees(&of(&["a"], 640), &graph),
            Ok(()),
            "without a head there are no classes"
        );
        graph.head = Some(head);
        assert_eq!(meta_agrees(&of(&["a", "b"], 640), &graph), Ok(()));
        assert_eq!(meta_agrees(&of(&[], 0), &graph), Ok(()), "nobody said");
        for (meta, word) in [
            (of(&["a"], 640), "names 1 classes, its head has 2"),
            (of(&["a", "b", "c"], 640), "names 3 classes"),
            (of(&["a", "b"], -640), "-640 pixels"),
        ] {
            let error = meta_agrees(&meta, &graph).unwrap_err();
            assert!(error.contains(word) && error.contains("changed"), "{error}");
        }
    }

    #[test]
    fn the_same_tensors_are_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = Tensor::from_slice(&[1.0f32, 2.0]);
        let write = |name: &str| {
            let path = folder.path().join(name);
            // A new map has its keys in another order.
            let metadata = ["b \"quoted\"", "a", "d", "é", "c", "f"].map(|key| (key.to_owned(), format!("{key}\n")));
            write_tensors(&path, [("x", &tensor)], HashMap::from(metadata)).unwrap();
            (std::fs::read(&path).unwrap(), read_tensors(&path).unwrap())
        };
        let (first, file) = write("first.safetensors");
        for _ in 0..8 {
            assert_eq!(write("again.safetensors").0, first);
        }
        assert_eq!(file.metadata["b \"quoted\""], "b \"quoted\"\n");
        assert_eq!(file.tensors["x"].size(), [2]);
    }
}
