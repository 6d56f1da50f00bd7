//! The records of a COCO file as tools write them: any value may be missing, null, or text where a number belongs, and one odd record
//! does not make the others unreadable.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A file.
#[derive(Debug, serde::Deserialize)]
pub(super) struct File {
    pub images: Option<Vec<Record<Picture>>>,
    pub annotations: Option<Vec<Record<Annotation>>>,
    pub categories: Option<Vec<Record<Category>>>,
}

/// A record, or something else in its place.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Record<T> {
    /// Read first: a list would be taken for a record's values in their order.
    #[serde(deserialize_with = "list")]
    List(()),
    Read(T),
    Other(IgnoredAny),
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    Vec::<IgnoredAny>::deserialize(deserializer).map(drop)
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Picture {
    #[serde(default)]
    pub id: Value,
    #[serde(default)]
    pub file_name: Value,
    #[serde(default)]
    pub width: Value,
    #[serde(default)]
    pub height: Value,
    /// LVIS: categories of which not every object is marked.
    #[serde(default)]
    pub not_exhaustive_category_ids: Value,
    /// Not COCO's: what some tools say an image is for.
    #[serde(default)]
    pub split: Value,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Annotation {
    #[serde(default)]
    pub id: Value,
    #[serde(default)]
    pub image_id: Value,
    #[serde(default)]
    pub category_id: Value,
    #[serde(default)]
    pub bbox: Value,
    /// Detectron2's word for what its four numbers are: 1 is COCO's.
    #[serde(default)]
    pub bbox_mode: Value,
    #[serde(default)]
    pub area: Value,
    #[serde(default)]
    pub iscrowd: Value,
    #[serde(default)]
    pub ignore: Value,
    /// What tools add; CVAT's `rotation` turns the box.
    #[serde(default)]
    pub attributes: Value,
    #[serde(default)]
    pub segmentation: Outline,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Category {
    #[serde(default)]
    pub id: Value,
    #[serde(default)]
    pub name: Value,
}

/// An identity: 1, 1.0 and "1" are the same, "001" is another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "`{text}`"),
        }
    }
}

/// The identity that a value gives; `None` where it gives none.
pub(super) fn key(value: &Value) -> Option<Key> {
    match value {
        Value::Number(number) => {
            let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 9e15).then_some(v as i64);
            let number = number.as_i64().or_else(|| number.as_f64().and_then(whole))?;
            Some(Key::Number(number))
        }
        Value::String(text) => {
            let text = text.trim();
            let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
            let text = || (!text.is_empty()).then(|| Key::Text(text.to_owned()));
            number.map(Key::Number).or_else(text)
        }
        _ => None,
    }
}

/// A finite number, as such or as text.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// A yes or no: a truth value, 0 or 1 (also as text); nothing is no.
pub(super) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Null => Some(false),
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") || text.is_empty() => Some(false),
        other => match number(other)? {
            0.0 => Some(false),
            1.0 => Some(true),
            _ => None,
        },
    }
}

/// Four numbers; the error says what is there.
pub(super) fn four(value: &Value) -> Result<[f64; 4], String> {
    let numbers = match value {
        Value::Array(items) => items.iter().map(number).collect::<Option<Vec<f64>>>(),
        _ => None,
    };
    match numbers.as_deref() {
        Some(&[x, y, w, h]) => Ok([x, y, w, h]),
        _ => Err(format!("`bbox` is not four numbers but {}", shown(value))),
    }
}

/// A value for a message.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

/// Around what polygons go.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Outline {
    /// There is no `segmentation`, or an empty one.
    #[default]
    None,
    /// Left, top, right, bottom of all polygons.
    Bounds([f64; 4]),
    /// Something else: a run-length mask, text, an odd number of coordinates.
    Other,
}

impl Outline {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Other, _) | (_, Self::Other) => Self::Other,
            (Self::None, one) | (one, Self::None) => one,
            (Self::Bounds(a), Self::Bounds(b)) => {
                Self::Bounds([a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])])
            }
        }
    }

    fn of_points(numbers: &[f64]) -> Self {
        if numbers.is_empty() {
            return Self::None;
        }
        if numbers.len() < 6 || !numbers.len().is_multiple_of(2) || numbers.iter().any(|v| !v.is_finite()) {
            return Self::Other;
        }
        let [mut x0, mut y0, mut x1, mut y1] = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
        for point in numbers.chunks_exact(2) {
            (x0, x1) = (x0.min(point[0]), x1.max(point[0]));
            (y0, y1) = (y0.min(point[1]), y1.max(point[1]));
        }
        Self::Bounds([x0, y0, x1, y1])
    }
}

/// A part of a segmentation: a number, or a list of parts.
enum Part {
    Number(f64),
    Outline(Outline),
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("polygons")
    }

    fn visit_f64<E>(self, v: f64) -> Result<Part, E> {
        Ok(Part::Number(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Part, E> {
        Ok(Part::Number(v as f64))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Part, E> {
        Ok(Part::Number(v as f64))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Part, E> {
        Ok(Part::Outline(Outline::Other))
    }

    fn visit_unit<E>(self) -> Result<Part, E> {
        Ok(Part::Outline(Outline::None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Part, E> {
        Ok(match text.trim().parse() {
            Ok(number) => Part::Number(number),
            Err(_) => Part::Outline(Outline::Other),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Part::Outline(Outline::Other))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Part, A::Error> {
        let (mut numbers, mut outline) = (Vec::new(), Outline::None);
        while let Some(part) = items.next_element::<Part>()? {
            match part {
                Part::Number(number) => numbers.push(number),
                Part::Outline(part) => outline = outline.join(part),
            }
        }
        Ok(Part::Outline(outline.join(Outline::of_points(&numbers))))
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Part::deserialize(deserializer)? {
            Part::Number(_) => Self::Other,
            Part::Outline(outline) => outline,
        })
    }
}

/// Python writes `NaN` and `Infinity`, which are no JSON: they become text, which is then refused where a number belongs.
pub(super) fn quote_odd_numbers(text: &str) -> Cow<'_, str> {
    let odd = ["-Infinity", "Infinity", "NaN"];
    if odd.iter().all(|word| !text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    let (mut rest, mut inside) = (text, false);
    while let Some(at) = rest.find(['"', '\\', '-', 'I', 'N']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let word = odd.iter().find(|word| !inside && rest.starts_with(**word));
        let length = match word {
            Some(word) => word.len(),
            None if rest.starts_with('\\') => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            None => 1,
        };
        inside ^= rest.starts_with('"');
        match word {
            Some(word) => out.push_str(&format!("\"{word}\"")),
            None => out.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn identities_numbers_and_flags_are_read_however_they_are_written() {
        for value in [json!(1), json!(1.0), json!("1"), json!(" 1 ")] {
            assert_eq!(
                (key(&value), number(&value)),
                (Some(Key::Number(1)), Some(1.0)),
                "{value}"
            );
            assert_eq!(flag(&value), Some(true), "{value}");
        }
        assert_eq!(key(&json!("001")), Some(Key::Text("001".into())));
        assert_eq!(key(&json!("a1-b2")), Some(Key::Text("a1-b2".into())));
        for value in [json!(null), json!(1.5), json!([1]), json!("")] {
            assert_eq!(key(&value), None, "{value}");
        }
        for value in [json!(null), json!(false), json!(0), json!("0"), json!("False")] {
            assert_eq!(flag(&value), Some(false), "{value}");
        }
        for value in [json!(2), json!("maybe"), json!([])] {
            assert_eq!(flag(&value), None, "{value}");
        }
        for value in [json!(null), json!("NaN"), json!("wide"), json!(true)] {
            assert_eq!(number(&value), None, "{value}");
        }
        assert_eq!(four(&json!([1, "2", 3.5, "4e0"])), Ok([1.0, 2.0, 3.5, 4.0]));
        for value in [
            json!([]),
            json!(null),
            json!([1, 2, 3]),
            json!([1, 2, 3, null]),
            json!({"x": 1}),
        ] {
            assert!(four(&value).is_err_and(|why| why.contains("bbox")), "{value}");
        }
    }

    #[test]
    fn outlines_are_the_bounds_of_polygons_and_nothing_else() {
        let outline = |text: &str| serde_json::from_str::<Outline>(text).expect("JSON");
        assert_eq!(outline("[[1, 2, 5, 2, 5, 9.5]]"), Outline::Bounds([1.0, 2.0, 5.0, 9.5]));
        assert_eq!(outline("[1, 2, 5, 2, 5, 9]"), Outline::Bounds([1.0, 2.0, 5.0, 9.0]));
        let two = "[[1, 2, 5, 2, 5, 9], [\"0\", 4, 3, 4, 3, 5]]";
        assert_eq!(outline(two), Outline::Bounds([0.0, 2.0, 5.0, 9.0]));
        for none in ["null", "[]", "[[]]"] {
            assert_eq!(outline(none), Outline::None, "{none}");
        }
        for other in [
            "{\"counts\": \"x\", \"size\": [1, 2]}",
            "[[1, 2, 3]]",
            "\"x\"",
            "[[1, 2, 3, 4, 5, 6], [1]]",
            "7",
        ] {
            assert_eq!(outline(other), Outline::Other, "{other}");
        }
    }

    #[test]
    fn one_odd_record_leaves_the_others() {
        let text =
            r#"{"annotations": [7, {"id": 1, "x": [[]]}, null, [1], {"id": 2, "segmentation": {"counts": [1]}}]}"#;
        let file: File = serde_json::from_str(text).expect("JSON");
        let read: Vec<Option<i64>> = file
            .annotations
            .expect("a list")
            .iter()
            .map(|record| match record {
                Record::Read(annotation) => annotation.id.as_i64(),
                Record::List(()) | Record::Other(_) => None,
            })
            .collect();
        assert_eq!(read, [None, Some(1), None, None, Some(2)]);
        assert!(file.images.is_none());
    }

    #[test]
    fn the_words_of_python_for_odd_numbers_become_text() {
        let text = r#"{"a": [NaN, -Infinity, Infinity, -1], "NaN \" NaN": "Infinity\\", "b": NaN}"#;
        let value: Value = serde_json::from_str(&quote_odd_numbers(text)).expect("JSON");
        assert_eq!(
            value,
            json!({"a": ["NaN", "-Infinity", "Infinity", -1], "NaN \" NaN": "Infinity\\", "b": "NaN"})
        );
        assert!(matches!(quote_odd_numbers("{\"a\": 1}"), Cow::Borrowed(_)));
    }
}
