//! The graph of a pickled model, from the modules that are there.
//!
//! What lives here: what each class of YOLOv5 and PyTorch computes, as nodes. Nothing is taken from the model file inside of the
//! checkpoint: modules may have been changed after they were built from it, and they are what the reference runs. Names of nodes are the
//! paths of the modules, so tensors keep their keys.

mod blocks;
mod leaf;
mod settings;

use std::cell::{Cell, RefCell};
use std::path::Path;

use yolo_core::graph::DetectHead;
use yolo_core::{Feat, Graph, GraphBuilder, Result, ValueId};

use super::PtModel;
use super::tree::PtModule;
use crate::Error;
use settings::refuse;

/// What the builders share: shapes of the tensors, and what is to be said about the model.
struct Context<'a> {
    model: &'a PtModel,
    folded: Cell<usize>,
    foreign: RefCell<Vec<String>>,
}

impl Context<'_> {
    /// Shape of a tensor of a module.
    fn shape(&self, m: &PtModule, name: &str) -> Result<Vec<i64>> {
        let raw = self.model.state.get(&format!("{}.{name}", m.path));
        let raw = raw.filter(|_| m.tensors.contains_key(name)).ok_or_else(|| {
            let hint = match m.tensors.keys().find(|key| key.ends_with("_orig")) {
                Some(_) => "; pruning of PyTorch is still applied: call `torch.nn.utils.prune.remove` and save again",
                None => "",
            };
            refuse(m, format!("its tensor `{name}` is not there{hint}"))
        })?;
        Ok(raw.shape.iter().map(|d| *d as i64).collect())
    }

    /// A convolution carries its batch norm.
    fn folded(&self) {
        self.folded.set(self.folded.get() + 1);
    }

    /// A module has an attribute that its class has not in YOLOv5.
    fn foreign(&self, path: &str, kind: &str, name: &str) {
        self.foreign
            .borrow_mut()
            .push(format!("`{path}` ({kind}) has `{name}`"));
    }

    fn notes(self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.folded.get() > 0 {
            notes.push(format!(
                "{} batch norms are folded into their convolutions (it was saved after `fuse()`): it detects and can be exported, to \
                 train it the file before `fuse()` is needed",
                self.folded.get()
            ));
        }
        let foreign = self.foreign.into_inner();
        if let Some(first) = foreign.first() {
            let more = if foreign.len() > 1 {
                format!(" ({} more like this)", foreign.len() - 1)
            } else {
                String::new()
            };
            notes.push(format!(
                "{first}, which the class has not in YOLOv5{more}: if the code was changed, results differ from its own"
            ));
        }
        notes
    }
}

/// Builds the graph of a model. Notes are for people.
pub(super) fn build(path: &Path, model: &PtModel, tree: &PtModule) -> crate::Result<(Graph, Vec<String>)> {
    let cx = Context {
        model,
        folded: Cell::new(0),
        foreign: RefCell::default(),
    };
    let graph = network(&cx, tree).map_err(|error| Error::file(path, error.to_string()))?;
    Ok((graph, cx.notes()))
}

fn network(cx: &Context<'_>, tree: &PtModule) -> Result<Graph> {
    if !matches!(
        tree.class.strip_prefix("yolov5.").unwrap_or(&tree.class),
        "models.yolo.Model" | "models.yolo.DetectionModel"
    ) {
        return Err(other_family(tree).unwrap_or_else(|| leaf::unknown(tree)));
    }
    tree.only_parts(&[], &["model"])?;
    let rows = tree.child("model")?;
    let mut g = GraphBuilder::new(image_channels(cx, rows)?);
    let image = g.image();
    let mut layers: Vec<Feat> = Vec::new();
    let mut finished = None;
    for (index, (name, row)) in rows.children.iter().enumerate() {
        if finished.is_some() {
            return Err(refuse(row, "a layer follows the head"));
        }
        if *name != index.to_string() {
            return Err(refuse(row, format!("layer {index} is expected here")));
        }
        let inputs = inputs(row, &layers, image)?;
        if blocks::is_detect(row) {
            finished = Some(detect(cx, &mut g, row, &inputs)?);
            continue;
        }
        if index + 1 == rows.children.len() && inputs.len() > 1 && !blocks::is_concat(row) {
            return Err(refuse(
                row,
                format!(
                    "its head is of class `{}`, so it is a model of another family (YOLOv7, YOLOv8, segmentation, ...): only YOLOv5 \
                     detectors, whose head is `Detect`, are read",
                    row.class
                ),
            ));
        }
        let feat = g.layer(&kind(row), &inputs, |g| match inputs.as_slice() {
            _ if blocks::is_concat(row) => blocks::concat(cx, g, row, &inputs),
            [one] => blocks::module(cx, g, "", row, one.value),
            _ => Err(refuse(
                row,
                format!("it reads {} layers, one is expected", inputs.len()),
            )),
        })?;
        layers.push(feat);
    }
    let (outputs, head) = finished.ok_or_else(|| refuse(tree, "its last layer is not `Detect` of YOLOv5"))?;
    g.finish(outputs, Some(head))
}

/// Why a model that is no YOLOv5 detector as a whole is refused, where its class says what it is.
fn other_family(tree: &PtModule) -> Option<yolo_core::Error> {
    let what = if tree.class.starts_with("ultralytics.") {
        "a model of the package `ultralytics` (YOLOv8 and later, and YOLOv5u)"
    } else {
        match tree.kind() {
            "SegmentationModel" => "a segmentation model",
            "ClassificationModel" => "a classification model",
            _ => return None,
        }
    };
    Some(refuse(
        tree,
        format!(
            "`{}` is {what}, another family: only detectors of YOLOv5 (`models.yolo.DetectionModel`) are read",
            tree.class
        ),
    ))
}

/// Channels of the image: what the first convolution reads.
fn image_channels(cx: &Context<'_>, rows: &PtModule) -> Result<i64> {
    let first = rows
        .children
        .values()
        .next()
        .ok_or_else(|| refuse(rows, "it has no layers"))?;
    let conv = first.walk().into_iter().find(|m| m.kind() == "Conv2d");
    let conv = conv.ok_or_else(|| leaf::unknown(first))?;
    let inner = cx.shape(conv, "weight")?.get(1).copied().unwrap_or(3);
    let blocks = if first.kind() == "Focus" { 4 } else { 1 };
    Ok(inner.saturating_mul(conv.int("groups")?) / blocks)
}

/// Name of a layer in tables: the class that the layer list asked for (several copies stand in a `Sequential`).
fn kind(row: &PtModule) -> String {
    let class = match row.text("type", "") {
        Ok(class) if row.kind() == "Sequential" && !class.is_empty() => class,
        _ => &row.class,
    };
    class.rsplit('.').next().unwrap_or_default().to_owned()
}

/// What a layer reads: `f`, a layer or several, counted from the start or back from here.
fn inputs(row: &PtModule, layers: &[Feat], image: Feat) -> Result<Vec<Feat>> {
    let from = row
        .setting("f", "layer numbers")?
        .ok_or_else(|| refuse(row, "it does not say which layers it reads (`f`)"))?;
    let several = match from {
        serde_json::Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let one = |from: &serde_json::Value| {
        let wanted = from.as_i64();
        let index = wanted.map(|wanted| {
            if wanted < 0 {
                layers.len() as i64 + wanted
            } else {
                wanted
            }
        });
        match index {
            Some(-1) if layers.is_empty() => Some(image),
            Some(index) => usize::try_from(index).ok().and_then(|index| layers.get(index).copied()),
            None => None,
        }
        .ok_or_else(|| refuse(row, format!("it reads layer {from}, which does not come before it")))
    };
    several.iter().map(one).collect()
}

/// The head: a convolution per level, anchors and strides of its own.
fn detect(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, inputs: &[Feat]) -> Result<(Vec<ValueId>, DetectHead)> {
    m.only_parts(&["anchors", "anchor_grid"], &["m"])?;
    blocks::own_attributes(cx, m);
    let (classes, anchors) = (m.int("nc")?, cx.model.anchors.clone());
    let per_level = anchors.first().map_or(0, Vec::len) as i64;
    let convs = m.child("m")?;
    if anchors.len() != inputs.len() || convs.children.len() != inputs.len() {
        return Err(refuse(
            m,
            format!(
                "it has {} convolutions and anchors for {} levels, but reads {}",
                convs.children.len(),
                anchors.len(),
                inputs.len()
            ),
        ));
    }
    for (name, wanted) in [("no", classes + 5), ("na", per_level), ("nl", inputs.len() as i64)] {
        let given = m.int(name)?;
        if given != wanted {
            return Err(refuse(
                m,
                format!("its `{name}` is {given}, its other settings make it {wanted}"),
            ));
        }
    }
    let strides: Vec<i64> = inputs.iter().map(|feat| feat.stride).collect();
    if strides.iter().map(|s| *s as f64).ne(cx.model.strides.iter().copied()) {
        return Err(refuse(
            m,
            format!(
                "its strides are {:?}, but the network before it makes {strides:?}",
                cx.model.strides
            ),
        ));
    }
    old_anchors(cx, m, &anchors)?;
    let mut outputs = Vec::new();
    let prefix = m.path.clone();
    g.layer("Detect", inputs, |g| {
        for ((name, conv), feat) in convs.children.iter().zip(inputs) {
            let output = leaf::layer(cx, g, &format!("m.{name}"), conv, feat.value)?;
            if g.channels(output) != per_level * (classes + 5) {
                return Err(refuse(
                    conv,
                    format!(
                        "it makes {} channels, but {per_level} anchors of {classes} classes need {}",
                        g.channels(output),
                        per_level * (classes + 5)
                    ),
                ));
            }
            outputs.push(output);
        }
        outputs.last().copied().ok_or_else(|| refuse(m, "it reads no layer"))
    })?;
    Ok((
        outputs,
        DetectHead {
            prefix,
            classes,
            anchors,
            strides,
            unfitted: false,
        },
    ))
}

/// Versions before 6 decode with anchors in pixels, a tensor of its own (`anchor_grid`): it must say the same.
fn old_anchors(cx: &Context<'_>, m: &PtModule, anchors: &[Vec<[f64; 2]>]) -> Result<()> {
    let Some(grid) = cx.model.state.get(&format!("{}.anchor_grid", m.path)) else {
        return Ok(());
    };
    let grid = grid.to_f64();
    let flat: Vec<f64> = anchors.iter().flatten().flatten().copied().collect();
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.01 * b.abs();
    if grid.len() == flat.len() && grid.iter().zip(&flat).all(close) {
        return Ok(());
    }
    Err(refuse(m, "its `anchors` and its `anchor_grid` are of different boxes"))
}
