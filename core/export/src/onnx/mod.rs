//! The ONNX format: a pass from `Graph` and `Params` to a [`proto::ModelProto`]. Batch norms are folded first; a graph
//! with fake quantizers becomes a QDQ network.

pub mod builder;
mod check;
mod deform;
mod detect;
mod lower;
pub mod proto;
mod qdq;
pub mod qlinear;
pub mod steps;
mod window;

use std::path::Path;

use yolo_core::{Graph, Params, passes};

pub use check::{Difference, check};
pub(crate) use check::{beyond, difference, larger, max_abs_diff, nearest};
pub use detect::{OUTPUT, raw_name};
pub use qdq::{Profile, is_quantized, strip, takes};

pub(crate) use lower::floats;
pub(crate) use qdq::{quantize_weight, scales};

use crate::{Error, Result};
use lower::Lowering;
use proto::ModelProto;

/// What the file gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// `output [N, boxes, 5 + classes]`: boxes in pixels (centre x, y, width, height), objectness, class probabilities.
    #[default]
    Decoded,
    /// `raw.0`, `raw.1`, ... `[N, anchors, h, w, 5 + classes]` before sigmoid, for hosts that decode themselves.
    Raw,
    /// Both.
    Both,
}

/// Which non-maximum suppression goes into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NmsKind {
    /// The plugin `EfficientNMS_TRT`: outputs `num_dets`, `det_boxes`, `det_scores`, `det_classes` of fixed size. Runs on
    /// TensorRT only.
    TensorRt,
    /// ONNX `NonMaxSuppression`: output `detections [M, 7]` with rows (image, x1, y1, x2, y2, class, score), best first
    /// within each class of each image. Runs on onnxruntime and OpenVINO.
    Standard,
}

/// Non-maximum suppression inside the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Nms {
    /// Which op.
    pub kind: NmsKind,
    /// Boxes that overlap a better one by more than this are dropped.
    pub iou: f64,
    /// Boxes below this score (objectness times class) are dropped.
    pub score: f64,
    /// Most boxes per image (`TensorRt`) or per class of an image (`Standard`).
    pub max_boxes: i64,
    /// Boxes of all classes compete.
    pub agnostic: bool,
}

impl Nms {
    /// YOLOv5's thresholds for detection: IoU 0.45, score 0.25, 100 boxes.
    pub fn new(kind: NmsKind) -> Self {
        Self {
            kind,
            iou: 0.45,
            score: 0.25,
            max_boxes: 100,
            agnostic: false,
        }
    }
}

/// How to write the file.
#[derive(Debug, Clone)]
pub struct Options {
    /// Height and width of the image in pixels; multiples of the network's [`Graph::size_step`].
    pub image: [i64; 2],
    /// Images per run; `None` leaves it open.
    pub batch: Option<i64>,
    /// What the file gives back.
    pub outputs: Outputs,
    /// Replaces the outputs by suppressed detections.
    pub nms: Option<Nms>,
    /// Form of the quantizers, where the graph has some.
    pub profile: Profile,
    /// Version of ONNX's operators; the lowest that has all that are needed if absent.
    pub opset: Option<i64>,
    /// Class names, written to the metadata.
    pub names: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: [640; 2],
            batch: Some(1),
            outputs: Outputs::Decoded,
            nms: None,
            profile: Profile::TensorRt,
            opset: None,
            names: Vec::new(),
        }
    }
}

/// A network in the form of the file.
#[derive(Debug)]
pub struct Exported {
    /// The file.
    pub model: ModelProto,
    /// The graph that was lowered: the given one with batch norms folded and plugin ops expanded.
    pub graph: Graph,
    /// Its parameters.
    pub params: Params,
    /// Name in the file of each value of `graph`.
    pub names: Vec<String>,
}

/// Lowers a network.
///
/// # Errors
/// [`Error::Unsupported`]: an image side that is no multiple of the network's [`Graph::size_step`], a batch of none, an opset that its
/// operators are not written for, a head that does not fit its maps. [`Error::Node`] names a node or a quantizer that has no form in
/// ONNX. [`Error::Core`]: a tensor of `params` is absent, or the network takes no image of this size.
pub fn export(graph: &Graph, params: &Params, options: &Options) -> Result<Exported> {
    let (graph, params) = passes::for_export(graph, params)?;
    // The head's strides alone are not enough: a network may go further down and up again.
    // Without a head nothing has to be divided evenly.
    let step = if graph.head.is_some() { graph.size_step()? } else { 1 };
    if let Some(side) = options.image.iter().find(|side| **side < 1 || **side % step != 0) {
        return Err(Error::Unsupported(format!(
            "an image side of {side} is no multiple of {step}, the largest stride of the network"
        )));
    }
    if options.batch.is_some_and(|n| n < 1) {
        return Err(Error::Unsupported("a batch holds at least one image".to_owned()));
    }
    let quantizers = qdq::Quantizers::new(&graph, &params, options.profile)?;
    let mut l = Lowering::new(&graph, &params, options.image, options.batch, quantizers, options.opset)?;
    reserve_public_names(&mut l);
    l.run()?;
    add_outputs(&mut l, options)?;
    let (lowest, names) = (l.opset, std::mem::take(&mut l.values));
    let model = l.b.finish(options.opset.unwrap_or(lowest), metadata(&graph, options));
    if let Some(opset) = options.opset {
        check_opset(&model, lowest, opset).map_err(|(lowest, highest)| {
            // What is too new was written in the newer form; the older one may do as well.
            let older = Options {
                opset: Some(lower::OLDEST),
                ..options.clone()
            };
            let lowest = match opset > highest && self::export(&graph, &params, &older).is_ok() {
                true => lower::OLDEST,
                false => lowest,
            };
            Error::Unsupported(format!(
                "opset {opset} can't be written: this network can be in {lowest} to {highest}"
            ))
        })?;
    }
    Ok(Exported {
        model,
        graph,
        params,
        names,
    })
}

/// Whether all ops of a file mean in `opset` what was meant, else those in which they do; `lowest` is what the rest of them needs.
fn check_opset(model: &ModelProto, lowest: i64, opset: i64) -> std::result::Result<(), (i64, i64)> {
    let used = |names: &[&str]| {
        let nodes = model.graph.iter().flat_map(|graph| &graph.node);
        nodes.into_iter().any(|node| names.contains(&node.op_type.as_str()))
    };
    let lowest = if used(&["QuantizeLinear", "DequantizeLinear"]) {
        lowest.max(13)
    } else {
        lowest
    };
    // From 18 on their axes are an input.
    let highest = if used(&["ReduceMean", "ReduceMax"]) { 17 } else { 21 };
    match (lowest..=highest).contains(&opset) {
        true => Ok(()),
        false => Err((lowest, highest)),
    }
}

/// Lowers a network and writes the file.
///
/// # Errors
/// Those of [`export`] and of [`ModelProto::write`].
pub fn write(graph: &Graph, params: &Params, options: &Options, path: &Path) -> Result<Exported> {
    let exported = export(graph, params, options)?;
    exported.model.write(path)?;
    Ok(exported)
}

fn reserve_public_names(l: &mut Lowering<'_>) {
    for name in [
        OUTPUT,
        "detections",
        "num_dets",
        "det_boxes",
        "det_scores",
        "det_classes",
    ] {
        l.b.reserve(name);
    }
    for level in 0..l.graph.outputs.len() {
        l.b.reserve(&raw_name(level));
    }
}

fn add_outputs(l: &mut Lowering<'_>, options: &Options) -> Result<()> {
    let Some(head) = l.graph.head.clone() else {
        // A feature extractor: its maps as they are.
        let outputs = l.graph.outputs.clone();
        for value in outputs {
            let (name, sizes) = (l.values[value.index()].clone(), l.sizes(value));
            l.b.output(&name, proto::DataType::Float, &sizes);
        }
        return Ok(());
    };
    if let Some(nms) = &options.nms {
        let (decoded, _) = detect::decode(l, &head)?;
        return detect::suppress(l, &head, &decoded, nms);
    }
    if matches!(options.outputs, Outputs::Decoded | Outputs::Both) {
        let (decoded, boxes) = detect::decode(l, &head)?;
        detect::output(l, &head, &decoded, boxes);
    }
    if matches!(options.outputs, Outputs::Raw | Outputs::Both) {
        detect::raw(l, &head)?;
    }
    Ok(())
}

fn metadata(graph: &Graph, options: &Options) -> Vec<(String, String)> {
    let mut entries = vec![("task".to_owned(), "detect".to_owned())];
    let mut add = |key: &str, value: serde_json::Value| entries.push((key.to_owned(), value.to_string()));
    add("imgsz", serde_json::json!(options.image));
    if let Some(head) = &graph.head {
        // YOLOv5's loaders read `stride` as one integer and `names` as a list.
        add(
            "stride",
            serde_json::json!(graph.size_step().ok().max(head.strides.iter().max().copied())),
        );
        add("strides", serde_json::json!(head.strides));
        add("anchors", serde_json::json!(head.anchors));
        add("nc", serde_json::json!(head.classes));
    }
    if !options.names.is_empty() {
        add("names", serde_json::json!(options.names));
    }
    entries
}
