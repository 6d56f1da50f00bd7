//! Where an annotation's object is: `bbox`, or the box around its polygons. Where a file has both and they are different places, one of
//! the two is wrong, and only its author knows which.

use serde_json::Value;

use super::records::{Annotation, Outline, four, number, shown};
use crate::convert::{BoxSource, upright};

/// Left, top, right, bottom.
type Corners = [f64; 4];

/// What the corners of an annotation are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of its `bbox`.
    Box,
    /// Those of its `bbox`, turned.
    Turned,
    /// Those around its polygons.
    Polygon,
}

/// The corners of an annotation in pixels.
pub(super) fn corners(annotation: &Annotation, source: Option<BoxSource>) -> Result<(Corners, Kind), String> {
    match (&annotation.bbox, &annotation.segmentation) {
        (Value::Null, Outline::Bounds(bounds)) => Ok((*bounds, Kind::Polygon)),
        (Value::Null, Outline::None) => Err("it has no `bbox` and no polygons".to_owned()),
        (Value::Null, Outline::Other) => {
            Err("it has no `bbox`, and its `segmentation` is no list of polygons".to_owned())
        }
        (_, Outline::Bounds(bounds)) if source == Some(BoxSource::Polygon) => Ok((*bounds, Kind::Polygon)),
        (bbox, outline) => {
            let four = four(bbox)?;
            if !annotation.bbox_mode.is_null() && annotation.bbox_mode != 1 {
                return Err(format!(
                    "its `bbox_mode` is {}: COCO's boxes are left, top, width, height (1); write it so",
                    shown(&annotation.bbox_mode)
                ));
            }
            let [x, y, w, h] = four;
            if w < 0.0 || h < 0.0 {
                return Err(format!("`bbox` has a negative width or height: {}", shown(bbox)));
            }
            let own = [x, y, x + w, y + h];
            let degrees = rotation(annotation)?;
            let (own, kind) = if degrees % 180.0 == 0.0 {
                (own, Kind::Box)
            } else {
                (upright(own, degrees), Kind::Turned)
            };
            match outline {
                Outline::Bounds(bounds) if source.is_none() && w > 0.0 && h > 0.0 && apart(own, *bounds) => {
                    Err(differ(bbox, four, *bounds))
                }
                _ => Ok((own, kind)),
            }
        }
    }
}

/// CVAT's angle in degrees.
fn rotation(annotation: &Annotation) -> Result<f64, String> {
    match annotation.attributes.get("rotation") {
        None | Some(Value::Null) => Ok(0.0),
        Some(value) => number(value).ok_or_else(|| format!("`rotation` is {}", shown(value))),
    }
}

/// Pixels that roundings and thin polygons make of one box.
const NEAR: f64 = 3.0;

/// Whether two boxes are different places: they share less than half, and not for being tiny.
fn apart(a: Corners, b: Corners) -> bool {
    let near = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= NEAR);
    !near && iou(a, b) < 0.5
}

/// Intersection over union.
fn iou(a: Corners, b: Corners) -> f64 {
    let area = |[x1, y1, x2, y2]: Corners| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let all = area(a) + area(b) - both;
    if all > 0.0 { both / all } else { 0.0 }
}

fn differ(bbox: &Value, [x, y, w, h]: [f64; 4], polygon: Corners) -> String {
    let [x1, y1, x2, y2] = polygon;
    let other = [
        ("x1 y1 x2 y2", [x, y, w, h]),
        ("centre and size", [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]),
    ];
    let hint = other
        .iter()
        .find(|(_, corners)| iou(*corners, polygon) > 0.8)
        .map_or(String::new(), |(what, _)| format!("; as {what} they would be the same"));
    format!(
        "its `bbox` {} (left, top, width, height) and the box around its polygons ({x1},{y1} to {x2},{y2}) are different places{hint} \
         (--boxes bbox or --boxes polygon says which counts)",
        shown(bbox)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_different_places_only_beyond_rounding_and_cut_corners() {
        for (a, b, told) in [
            ([10.0, 10.0, 50.0, 50.0], [10.0, 10.0, 50.0, 50.0], false),
            ([10.0, 10.0, 50.0, 50.0], [12.5, 11.0, 47.0, 49.0], false),
            // Small things.
            ([10.0, 10.0, 13.0, 13.0], [11.4, 11.6, 12.1, 12.9], false),
            ([10.0, 10.0, 16.0, 16.0], [17.0, 10.0, 23.0, 16.0], true),
            ([10.0, 10.0, 60.0, 60.0], [10.0, 10.0, 50.0, 50.0], false),
            ([100.0, 100.0, 300.0, 280.0], [100.0, 100.0, 200.0, 180.0], true),
            ([0.1, 0.1, 0.3, 0.3], [20.0, 20.0, 60.0, 60.0], true),
        ] {
            assert_eq!(apart(a, b), told, "{a:?} {b:?}");
            assert_eq!(apart(b, a), told, "{b:?} {a:?}");
        }
    }
}
