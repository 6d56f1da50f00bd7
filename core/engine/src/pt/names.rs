//! Class names, exactly as written: none is dropped, none moves to another class.

use std::collections::BTreeMap;
use std::path::Path;

use super::pickle::{Id, Node, Pickle};
use crate::{Error, Result};

/// Names by class, and what is odd about them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Names {
    pub names: Vec<String>,
    pub notes: Vec<String>,
}

/// Reads a list of names, or a dict from class number to name, for a model of `classes` classes.
pub(super) fn read(path: &Path, pickle: &Pickle, id: Id, classes: Option<i64>) -> Result<Names> {
    let fail = |reason: String| Error::file(path, format!("its class names can't be used: {reason}"));
    let name = |place: String, id: Id| {
        python_text(pickle, id).ok_or_else(|| fail(format!("{place} is neither text nor a number")))
    };
    let mut found = Names::default();
    if let Some(pairs) = pickle.pairs(id) {
        let mut by_class = BTreeMap::new();
        for (key, value) in pairs {
            let shown = python_text(pickle, *key).unwrap_or_else(|| "an object".into());
            let class = class_number(pickle, *key).ok_or_else(|| {
                fail(format!(
                    "the key `{shown}` is no class number (a dict from number to name is meant)"
                ))
            })?;
            // A key that is set twice is one key in Python, the later value counts; `0` and `"0"` are two.
            let text = name(format!("the name of class {class}"), *value)?;
            let is_text = pickle.str(*key).is_some();
            if let Some((other, before)) = by_class.insert(class, (is_text, text))
                && other != is_text
            {
                return Err(fail(format!("class {class} has two names, one is `{before}`")));
            }
        }
        found.take_dict(by_class, classes);
    } else {
        let items = pickle
            .items(id)
            .or_else(|| matches!(pickle.node(id), Node::None).then_some(&[]))
            .ok_or_else(|| fail("they are neither a list nor a dict".into()))?;
        for (index, item) in items.iter().enumerate() {
            found.names.push(name(format!("names[{index}]"), *item)?);
        }
    }
    found.compare(classes);
    Ok(found)
}

impl Names {
    fn take_dict(&mut self, by_class: BTreeMap<i64, (bool, String)>, classes: Option<i64>) {
        let (Some(first), Some(last)) = (
            by_class.first_key_value().map(|(class, _)| *class),
            by_class.last_key_value().map(|(class, _)| *class),
        ) else {
            return;
        };
        let count = by_class.len() as i64;
        let in_place = first >= 0 && classes.is_some_and(|classes| last < classes);
        if count != last + 1 && in_place {
            // Gaps: every name stays at its class.
            let mut names = by_class;
            let absent: Vec<String> = (0..=last)
                .filter(|c| !names.contains_key(c))
                .map(|c| c.to_string())
                .collect();
            self.notes.push(format!("there is no class name for {}", some(&absent)));
            for class in 0..=last {
                let text = names
                    .remove(&class)
                    .map_or_else(|| format!("class {class}"), |(_, text)| text);
                self.names.push(text);
            }
            return;
        }
        if first != 0 || count != last + 1 {
            self.notes.push(format!(
                "class names are numbered {first} to {last}: they are taken in this order, `{}` is class 0",
                by_class[&first].1
            ));
        }
        self.names.extend(by_class.into_values().map(|(_, text)| text));
    }

    fn compare(&mut self, classes: Option<i64>) {
        let Some(classes) = classes.and_then(|c| usize::try_from(c).ok()) else {
            return;
        };
        let count = self.names.len();
        if count < classes {
            let rest = if classes - count == 1 {
                format!("class {count} has none")
            } else {
                format!("classes {count} to {} have none", classes - 1)
            };
            self.notes
                .push(format!("it has {count} class names for {classes} classes: {rest}"));
        } else if count > classes {
            self.notes.push(format!(
                "it has {count} class names for {classes} classes: `{}` and what follows is no class",
                self.names[classes]
            ));
            self.names.truncate(classes);
        }
    }
}

fn some(list: &[String]) -> String {
    let more = if list.len() > 5 {
        format!(" and {} more", list.len() - 5)
    } else {
        String::new()
    };
    format!("{}{more}", list[..list.len().min(5)].join(", "))
}

/// A class number: an integer, or one as text (a dict that went through JSON).
fn class_number(pickle: &Pickle, id: Id) -> Option<i64> {
    match pickle.node(id) {
        Node::Bool(_) => None,
        Node::Str(text) => text.trim().parse().ok(),
        _ => pickle.number(id)?.as_i64(),
    }
}

/// What Python's `str` gives for text, a number, a truth value or None (`names: [no]` in a YAML file is a truth value).
fn python_text(pickle: &Pickle, id: Id) -> Option<String> {
    use serde_json::Value;
    match pickle.node(id) {
        Node::None => Some("None".into()),
        Node::Str(text) => Some(text.clone()),
        _ => match pickle.number(id)? {
            Value::Bool(true) => Some("True".into()),
            Value::Bool(false) => Some("False".into()),
            Value::Number(number) => Some(match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => python_float(float),
                None => number.to_string(),
            }),
            _ => None,
        },
    }
}

/// The shortest form that reads back, as Python writes it: `3.0`, `0.25`, `1e-05`, `1e+16`.
fn python_float(value: f64) -> String {
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    match exponent.parse::<i32>() {
        Ok(-4..=15) => {
            let text = format!("{value}");
            if text.contains('.') { text } else { format!("{text}.0") }
        }
        Ok(power) => format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs()),
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pickle: &[u8], classes: i64) -> Result<Names> {
        let pickle = Pickle::parse(pickle).unwrap();
        read(Path::new("x.pt"), &pickle, pickle.root(), Some(classes))
    }

    #[test]
    fn every_name_stays_at_its_class() {
        // ["a", 2146, 0.5, True, None]
        let list = names(b"\x80\x02](X\x01\0\0\0aMb\x08G\x3f\xe0\0\0\0\0\0\0\x88Ne.", 5).unwrap();
        assert_eq!(list.names, ["a", "2146", "0.5", "True", "None"]);
        assert!(list.notes.is_empty());
        // {1: "b", 0: 7}
        let dict = names(b"\x80\x02}(K\x01X\x01\0\0\0bK\0K\x07u.", 2).unwrap();
        assert_eq!(dict.names, ["7", "b"]);
        // {2: "c", 0: "a"} of three classes: a gap.
        let gap = names(b"\x80\x02}(K\x02X\x01\0\0\0cK\0X\x01\0\0\0au.", 3).unwrap();
        assert_eq!(gap.names, ["a", "class 1", "c"]);
        assert_eq!(gap.notes, ["there is no class name for 1"]);
        // {1: "a", 2: "c"} of two classes.
        let one = names(b"\x80\x02}(K\x01X\x01\0\0\0aK\x02X\x01\0\0\0cu.", 2).unwrap();
        assert_eq!(one.names, ["a", "c"]);
        assert!(one.notes[0].contains("numbered 1 to 2") && one.notes[0].contains("`a` is class 0"));
        // {"1": "b", "0": "a"}, a dict that went through JSON.
        let json = names(b"\x80\x02}(X\x01\0\0\x001X\x01\0\0\0bX\x01\0\0\x000X\x01\0\0\0au.", 2).unwrap();
        assert_eq!(json.names, ["a", "b"]);
        // A numpy integer as key: numpy.int64(0), as protocol 2 writes it.
        let scalar = b"\x80\x02}cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0i8K\0K\x01\x87Rc_codecs\nencode\nX\x08\0\0\0\0\0\0\0\0\0\0\0X\x06\0\0\0latin1\x86R\x86RX\x01\0\0\0as.";
        assert_eq!(names(scalar, 1).unwrap().names, ["a"]);
    }

    #[test]
    fn too_few_and_too_many_are_said() {
        let few = names(b"\x80\x02](X\x01\0\0\0ae.", 3).unwrap();
        assert_eq!(
            few.notes,
            ["it has 1 class names for 3 classes: classes 1 to 2 have none"]
        );
        let many = names(b"\x80\x02](X\x01\0\0\0aX\x01\0\0\0be.", 1).unwrap();
        assert_eq!(many.names, ["a"]);
        assert!(many.notes[0].contains("`b`"), "{:?}", many.notes);
        assert_eq!(names(b"\x80\x02N.", 2).unwrap().names, [""; 0]);
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_place() {
        for (pickle, text) in [
            // [["a"]], {"person": 0}, 5, {0: "a", "0": "b"}
            (&b"\x80\x02](](X\x01\0\0\0aee."[..], "names[0] is neither"),
            (
                b"\x80\x02}X\x06\0\0\0personK\0s.",
                "the key `person` is no class number",
            ),
            (b"\x80\x02K\x05.", "neither a list nor a dict"),
            (
                b"\x80\x02}(K\0X\x01\0\0\0aX\x01\0\0\x000X\x01\0\0\0bu.",
                "class 0 has two names",
            ),
        ] {
            let error = names(pickle, 1).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("x.pt"), "{error}");
        }
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, text) in [
            (3.0, "3.0"),
            (0.25, "0.25"),
            (1e-5, "1e-05"),
            (1e16, "1e+16"),
            (123_456.5, "123456.5"),
        ] {
            assert_eq!(python_float(value), text);
        }
    }
}
