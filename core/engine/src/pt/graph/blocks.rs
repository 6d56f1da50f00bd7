//! Blocks of YOLOv5 as nodes: what their classes do with the modules inside, which are built from their own settings.

use yolo_core::graph::Activation;
use yolo_core::{Feat, GraphBuilder, Op, Result, ValueId, nn};

use super::super::tree::{Attr, PtModule};
use super::settings::refuse;
use super::{Context, leaf};

/// Attributes that YOLOv5's own classes set, and those that saving, fusing and exporting leave behind.
const OWN: [&str; 21] = [
    "training",
    "i",
    "f",
    "type",
    "np",
    "forward",
    "add",
    "d",
    "c2",
    "nc",
    "no",
    "nl",
    "na",
    "grid",
    "anchor_grid",
    "stride",
    "export",
    "inplace",
    "dynamic",
    "onnx_dynamic",
    "dump_patches",
];

/// Appends a module called `name` (empty: the current scope).
pub(super) fn module(cx: &Context<'_>, g: &mut GraphBuilder, name: &str, m: &PtModule, x: ValueId) -> Result<ValueId> {
    if leaf::is_layer(m) && m.kind() != "Sequential" {
        return leaf::layer(cx, g, name, m, x);
    }
    if name.is_empty() {
        block(cx, g, m, x)
    } else {
        g.scope(name, |g| block(cx, g, m, x))
    }
}

/// Whether the class is one of YOLOv5's, by this name.
fn is_official(m: &PtModule) -> bool {
    let package = m.class.rsplit_once('.').map_or("", |(package, _)| package);
    let package = package.strip_prefix("yolov5.").unwrap_or(package);
    matches!(package, "models.common" | "models.yolo" | "models.experimental")
}

/// Appends a module with one input in the current scope.
fn block(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, x: ValueId) -> Result<ValueId> {
    if m.class.starts_with("torch.nn.") && m.kind() == "Sequential" {
        return chain(cx, g, m, x);
    }
    if !is_official(m) {
        return Err(leaf::unknown(m));
    }
    own_attributes(cx, m);
    let part = |g: &mut GraphBuilder, name: &str, x: ValueId| module(cx, g, name, m.child(name)?, x);
    match m.kind() {
        "Conv" | "DWConv" => convolution(cx, g, m, x),
        "Focus" => {
            m.only_parts(&[], &["conv"])?;
            let x = g.add("focus", Op::SpaceToDepth, &[x])?;
            part(g, "conv", x)
        }
        "Bottleneck" | "CrossConv" => {
            m.only_parts(&[], &["cv1", "cv2"])?;
            let y = part(g, "cv1", x)?;
            let y = part(g, "cv2", y)?;
            if m.flag("add", false)? {
                g.add("add", Op::Add, &[x, y])
            } else {
                Ok(y)
            }
        }
        "C3" | "C3TR" | "C3SPP" | "C3Ghost" | "C3x" => {
            m.only_parts(&[], &["cv1", "cv2", "cv3", "m"])?;
            let deep = part(g, "cv1", x)?;
            let deep = part(g, "m", deep)?;
            let shallow = part(g, "cv2", x)?;
            let joined = g.add("cat", Op::Concat { dim: 1 }, &[deep, shallow])?;
            part(g, "cv3", joined)
        }
        "BottleneckCSP" => {
            m.only_parts(&[], &["cv1", "cv2", "cv3", "cv4", "bn", "act", "m"])?;
            let deep = part(g, "cv1", x)?;
            let deep = part(g, "m", deep)?;
            let deep = part(g, "cv3", deep)?;
            let shallow = part(g, "cv2", x)?;
            let joined = g.add("cat", Op::Concat { dim: 1 }, &[deep, shallow])?;
            let joined = part(g, "bn", joined)?;
            let joined = part(g, "act", joined)?;
            part(g, "cv4", joined)
        }
        "SPP" | "SPPF" => pyramid(cx, g, m, x),
        "GhostConv" => {
            // Named as in YOLOv5, or as in the paper's own code.
            let names = ["primary_conv", "cheap_operation"];
            let names = if m.children.contains_key(names[0]) {
                names
            } else {
                ["cv1", "cv2"]
            };
            m.only_parts(&[], &names)?;
            let primary = part(g, names[0], x)?;
            let cheap = part(g, names[1], primary)?;
            g.add("cat", Op::Concat { dim: 1 }, &[primary, cheap])
        }
        "GhostBottleneck" => {
            m.only_parts(&[], &["conv", "shortcut"])?;
            let y = part(g, "conv", x)?;
            let side = part(g, "shortcut", x)?;
            g.add("add", Op::Add, &[y, side])
        }
        "TransformerBlock" => transformer(cx, g, m, x),
        _ => Err(leaf::unknown(m)),
    }
}

/// Modules one after the other.
fn chain(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, mut x: ValueId) -> Result<ValueId> {
    let names: Vec<&str> = m.children.keys().map(String::as_str).collect();
    m.only_parts(&[], &names)?;
    for (name, child) in &m.children {
        x = module(cx, g, name, child, x)?;
    }
    Ok(x)
}

/// `act(bn(conv(x)))`; without `bn` where it is folded in.
fn convolution(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, x: ValueId) -> Result<ValueId> {
    m.only_parts(&[], &["conv", "bn", "act"])?;
    let conv = m.child("conv")?;
    let mut y = module(cx, g, "conv", conv, x)?;
    match m.children.get("bn") {
        Some(norm) if !m.is_fused() => y = module(cx, g, "bn", norm, y)?,
        _ if conv.tensors.contains_key("bias") => cx.folded(),
        _ => {
            return Err(refuse(
                m,
                "it has no batch norm, and its convolution no bias that would stand for it",
            ));
        }
    }
    module(cx, g, "act", m.child("act")?, y)
}

/// Maxima over windows side by side: `SPP` of the same map, `SPPF` one of the other.
fn pyramid(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, x: ValueId) -> Result<ValueId> {
    m.only_parts(&[], &["cv1", "cv2", "m"])?;
    let pools = m.child("m")?;
    let x = module(cx, g, "cv1", m.child("cv1")?, x)?;
    let mut parts = vec![x];
    if m.kind() == "SPPF" {
        for index in 0..3 {
            let pooled = leaf::layer(cx, g, &format!("m.{index}"), pools, parts[index])?;
            parts.push(pooled);
        }
    } else {
        if pools.kind() != "ModuleList" {
            return Err(refuse(pools, "a `ModuleList` is expected here"));
        }
        for (index, pool) in &pools.children {
            parts.push(leaf::layer(cx, g, &format!("m.{index}"), pool, x)?);
        }
    }
    let joined = g.add("cat", Op::Concat { dim: 1 }, &parts)?;
    module(cx, g, "cv2", m.child("cv2")?, joined)
}

/// An encoder on the tokens of a map, each token with a linear map of itself added.
fn transformer(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, x: ValueId) -> Result<ValueId> {
    m.only_parts(&[], &["conv", "linear", "tr"])?;
    let x = match m.children.get("conv") {
        Some(conv) => module(cx, g, "conv", conv, x)?,
        None => x,
    };
    let tokens = nn::tokens(g, x)?;
    let linear = module(cx, g, "linear", m.child("linear")?, tokens)?;
    let mut y = g.add("placed", Op::Add, &[tokens, linear])?;
    let layers = m.child("tr")?;
    let names: Vec<&str> = layers.children.keys().map(String::as_str).collect();
    layers.only_parts(&[], &names)?;
    for (name, layer) in &layers.children {
        if layer.kind() != "TransformerLayer" || !is_official(layer) {
            return Err(leaf::unknown(layer));
        }
        y = g.scope(format!("tr.{name}"), |g| encoder_layer(cx, g, layer, y))?;
    }
    nn::map(g, y, x)
}

/// Attention and two linear layers with residual connections: YOLOv5's, without norms and activation, or that of TPH-YOLOv5, with both.
fn encoder_layer(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, x: ValueId) -> Result<ValueId> {
    let tph = m.children.contains_key("layernorm1");
    let mut names = vec!["q", "k", "v", "ma", "fc1", "fc2"];
    let (mut act, mut dropout) = (Activation::Relu, 0.1);
    if tph {
        names.extend(["layernorm1", "layernorm2"]);
        for (name, child) in &m.children {
            match child.kind() {
                "Dropout" => dropout = child.float("p")?,
                _ if names.contains(&name.as_str()) => continue,
                _ => act = leaf::activation(child)?.ok_or_else(|| refuse(child, "an activation is expected here"))?,
            }
            names.push(name);
        }
    }
    m.only_parts(&[], &names)?;
    let part = |g: &mut GraphBuilder, name: &str, x: ValueId| module(cx, g, name, m.child(name)?, x);
    let y = if tph { part(g, "layernorm1", x)? } else { x };
    let (q, k, v) = (part(g, "q", y)?, part(g, "k", y)?, part(g, "v", y)?);
    let attention = m.child("ma")?;
    let y = g.scope("ma", |g| leaf::attention(cx, g, attention, [q, k, v]))?;
    let x = g.add("add1", Op::Add, &[y, x])?;
    let y = if tph { part(g, "layernorm2", x)? } else { x };
    let mut y = part(g, "fc1", y)?;
    if tph {
        y = g.add("act", Op::Act { act }, &[y])?;
        y = g.add("dropout1", Op::Dropout { p: dropout }, &[y])?;
    }
    y = part(g, "fc2", y)?;
    if tph {
        y = g.add("dropout2", Op::Dropout { p: dropout }, &[y])?;
    }
    g.add("add2", Op::Add, &[y, x])
}

/// `Concat`: joins several values.
pub(super) fn concat(cx: &Context<'_>, g: &mut GraphBuilder, m: &PtModule, inputs: &[Feat]) -> Result<ValueId> {
    m.only_parts(&[], &[])?;
    own_attributes(cx, m);
    // A map has four axes; a negative one counts from the end.
    let axis = m.int("d")?;
    let dim = usize::try_from(if axis < 0 { axis + 4 } else { axis })
        .map_err(|_| refuse(m, format!("there is no axis {axis}")))?;
    let values: Vec<ValueId> = inputs.iter().map(|feat| feat.value).collect();
    g.add("", Op::Concat { dim }, &values)
}

/// Whether this module joins several inputs.
pub(super) fn is_concat(m: &PtModule) -> bool {
    m.kind() == "Concat" && is_official(m)
}

/// Whether this is the head.
pub(super) fn is_detect(m: &PtModule) -> bool {
    m.kind() == "Detect" && is_official(m)
}

/// Notes a plain attribute that the class has not in YOLOv5: somebody may have changed what it computes.
pub(super) fn own_attributes(cx: &Context<'_>, m: &PtModule) {
    let foreign = m.attrs.iter().find(|(name, value)| {
        !name.starts_with('_')
            && !OWN.contains(&name.as_str())
            && matches!(value, Attr::Value(value) if !value.is_null())
    });
    if let Some((name, _)) = foreign {
        cx.foreign(&m.path, m.kind(), name);
    }
}
