//! What one XML file says, object by object: one that can't be read leaves the others.

use roxmltree::{Document, Node, ParsingOptions};

use crate::convert::upright;
use crate::text;

/// What an XML file says.
pub(super) struct Annotation {
    /// Name of the image file, if it is given.
    pub file_name: Option<String>,
    /// Width and height, if they are given; or what is wrong with them.
    pub size: Result<Option<[f64; 2]>, String>,
    pub objects: Vec<Object>,
    /// Objects that are marked as deleted, which are not among them.
    pub deleted: usize,
}

pub(super) struct Object {
    pub line: usize,
    /// Its class, or what is wrong with it.
    pub name: Result<String, String>,
    /// Whether it is marked `difficult`, or what is wrong with the mark.
    pub difficult: Result<bool, String>,
    /// Corners, or what is wrong with them.
    pub corners: Result<Corners, String>,
}

/// Corners of an object's box.
pub(super) struct Corners {
    pub bounds: [f64; 4],
    /// What the box goes around, where it is no `<bndbox>`.
    pub around: Option<&'static str>,
}

/// Reads a file; the error has the line, 0 if it is unknown.
pub(super) fn parse(bytes: &[u8]) -> Result<Annotation, (usize, String)> {
    let text = text::decode_xml(bytes).map_err(|error| (error.line, error.message))?;
    if let Some(at) = text.find("<!ENTITY") {
        let line = 1 + text[..at].matches('\n').count();
        return Err((
            line,
            "the file defines entities (<!ENTITY ...>), which are not read; take them out".into(),
        ));
    }
    // A document type says nothing that matters here.
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    let document =
        Document::parse_with_options(&text, options).map_err(|error| (error.pos().row as usize, error.to_string()))?;
    let root = document.root_element();
    if root.tag_name().name() != "annotation" {
        return Err((1, format!("the root is <{}>, not <annotation>", root.tag_name().name())));
    }
    // Some tools write them into `<objects>`.
    let nested = root
        .children()
        .filter(|node| is(*node, "objects"))
        .flat_map(|node| node.children());
    let direct = root.children().filter(|node| !is(*node, "objects"));
    // LabelMe keeps what was deleted, with a mark.
    let (gone, there): (Vec<_>, Vec<_>) = direct
        .chain(nested)
        .partition(|node| matches!(flag(*node, "deleted"), Ok(true)));
    let objects = there.into_iter().filter_map(|node| {
        let line = document.text_pos_at(node.range().start).row as usize;
        object(node, line)
    });
    Ok(Annotation {
        file_name: text_of(root, "filename")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        size: size(root),
        objects: objects.collect(),
        deleted: gone.len(),
    })
}

/// What a node says of an object; one of another name that holds a box is an object that can't be read, never nothing.
fn object(node: Node<'_, '_>, line: usize) -> Option<Object> {
    if is(node, "object") {
        return Some(Object {
            line,
            name: name(node),
            difficult: flag(node, "difficult"),
            corners: corners(node),
        });
    }
    let holds_box = |node: Node<'_, '_>| ["bndbox", "robndbox", "polygon"].iter().any(|name| is(node, name));
    node.descendants().any(holds_box).then(|| {
        let message = format!("<{}> holds a box, but is no <object>", node.tag_name().name());
        Object {
            line,
            name: Err(message.clone()),
            difficult: Ok(false),
            corners: Err(message),
        }
    })
}

/// Whether it is an element of this name; tools differ in capitals.
fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name().eq_ignore_ascii_case(name)
}

fn name(object: Node<'_, '_>) -> Result<String, String> {
    let names = object.children().filter(|node| is(*node, "name")).count();
    match text_of(object, "name") {
        _ if names > 1 => Err(format!("the object has {names} <name>")),
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err("the object has no <name>".to_owned()),
    }
}

fn size(root: Node<'_, '_>) -> Result<Option<[f64; 2]>, String> {
    let Some(size) = child(root, "size") else {
        return Ok(None);
    };
    let side = |name: &str| match text_of(size, name) {
        None | Some("") => Ok(0.0),
        Some(_) => number(size, name),
    };
    // Tools that don't know the size write 0.
    Ok(Some([side("width")?, side("height")?]).filter(|size| size.iter().all(|side| *side > 0.0)))
}

/// A mark: 0 or 1, false or true; nothing and the word for nothing are no.
fn flag(node: Node<'_, '_>, name: &str) -> Result<bool, String> {
    let text = text_of(node, name).unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "" | "0" | "false" | "no" | "unspecified" => Ok(false),
        "1" | "true" | "yes" => Ok(true),
        _ => Err(format!("<{name}> holds `{text}`; 0 or 1 are meant")),
    }
}

fn corners(object: Node<'_, '_>) -> Result<Corners, String> {
    let boxes = object.children().filter(|node| is(*node, "bndbox")).count();
    if boxes > 1 {
        return Err(format!("the object has {boxes} <bndbox>"));
    }
    if let Some(bounds) = child(object, "bndbox") {
        let [x1, y1, x2, y2] = ["xmin", "ymin", "xmax", "ymax"].map(|key| number(bounds, key));
        let bounds = [x1?, y1?, x2?, y2?];
        let degrees = rotation(object)?;
        return Ok(if degrees % 180.0 == 0.0 {
            Corners { bounds, around: None }
        } else {
            let (bounds, around) = (upright(bounds, degrees), Some("turned box"));
            Corners { bounds, around }
        });
    }
    if let Some(turned) = child(object, "robndbox") {
        let [cx, cy, w, h, angle] = ["cx", "cy", "w", "h", "angle"].map(|key| number(turned, key));
        let (cx, cy, w, h, (sin, cos)) = (cx?, cy?, w?, h?, angle?.sin_cos());
        let across = (w * cos.abs() + h * sin.abs()) / 2.0;
        let down = (w * sin.abs() + h * cos.abs()) / 2.0;
        return Ok(Corners {
            bounds: [cx - across, cy - down, cx + across, cy + down],
            around: Some("rotated box"),
        });
    }
    if let Some(polygon) = child(object, "polygon") {
        return Ok(Corners {
            bounds: polygon_bounds(polygon)?,
            around: Some("polygon"),
        });
    }
    Err("the object has no <bndbox>".to_owned())
}

/// CVAT's angle in degrees: an `<attribute>` called `rotation`.
fn rotation(object: Node<'_, '_>) -> Result<f64, String> {
    let attributes = object.descendants().filter(|node| is(*node, "attribute"));
    let mut turned = attributes.filter(|node| text_of(*node, "name") == Some("rotation"));
    turned.next().map_or(Ok(0.0), |node| number(node, "value"))
}

/// `<x1>..</x1><y1>..</y1><x2>..`, or `<pt><x>..</x><y>..</y></pt>`.
fn polygon_bounds(polygon: Node<'_, '_>) -> Result<[f64; 4], String> {
    let mut axes: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for node in polygon.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        let axis = match name.as_bytes() {
            [b'x', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => 0,
            [b'y', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => 1,
            _ => continue,
        };
        axes[axis].push(value(name, node.text().unwrap_or_default().trim())?);
    }
    let [x, y] = &axes;
    if x.len() < 3 || x.len() != y.len() {
        return Err(format!(
            "<polygon> has {} x and {} y; three points or more are needed",
            x.len(),
            y.len()
        ));
    }
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok([least(x), least(y), most(x), most(y)])
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|node| is(*node, name))
}

fn text_of<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim)
}

fn number(node: Node<'_, '_>, name: &str) -> Result<f64, String> {
    let text = text_of(node, name).ok_or_else(|| format!("there is no <{name}>"))?;
    value(name, text)
}

fn value(name: &str, text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("<{name}> holds `{text}`, which is no number")),
    }
}
