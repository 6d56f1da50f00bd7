//! serde's complaints in a user's words: what stands in the file, what belongs there, and what to write instead.

/// A complaint in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    pub message: String,
    pub help: Option<String>,
}

impl Words {
    fn new(message: String) -> Self {
        Self { message, help: None }
    }
}

/// serde_json's complaint about a JSON text in words, with its place: for files that are read without a
/// [`Located`](super::Located).
pub fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (text, place) = match text.rsplit_once(" at line ") {
        Some((text, _)) if error.line() > 0 => (
            text.to_owned(),
            format!(" (line {}, column {})", error.line(), error.column()),
        ),
        _ => (text, String::new()),
    };
    let Words { message, help } = of(&text, None);
    let help = help.map_or(String::new(), |help| format!("; {help}"));
    format!("{message}{place}{help}")
}

/// A complaint of serde in words; `written` is the value as the file has it, where that is known.
pub(super) fn of(text: &str, written: Option<&str>) -> Words {
    let after = |start: &str| text.strip_prefix(start);
    if let Some((found, wanted)) = after("invalid type: ")
        .or_else(|| after("invalid value: "))
        .and_then(|rest| rest.split_once(", expected "))
    {
        return wrong(found, wanted, written);
    }
    if let Some((count, wanted)) = after("invalid length ").and_then(|rest| rest.split_once(", expected ")) {
        let (wanted, help) = belongs(wanted);
        let count = if count == "1" {
            "1 value stands".to_owned()
        } else {
            format!("{count} values stand")
        };
        let message = format!("{count} where {wanted} belongs");
        return Words { message, help };
    }
    if let Some(field) = after("missing field ") {
        let help = (field == "`type`").then(|| "say which plugin: `type: NAME`".to_owned());
        let message = format!("{field} is missing");
        return Words { message, help };
    }
    if let Some(field) = after("duplicate field ") {
        return Words::new(format!("{field} stands here twice"));
    }
    if text.starts_with("data did not match any variant") {
        return Words::new("this value can't be used here".to_owned());
    }
    if text.starts_with("EOF while parsing") {
        return Words::new("the text ends too early".to_owned());
    }
    Words::new(text.to_owned())
}

/// One value in place of another.
fn wrong(found: &str, wanted: &str, written: Option<&str>) -> Words {
    let text = found.strip_prefix("string \"").and_then(|rest| rest.strip_suffix('"'));
    let (wanted, mut help) = belongs(wanted);
    if let Some(text) = text.filter(|_| wanted.contains("number")) {
        let point = text.trim().replacen(',', ".", 1);
        if text.trim().parse::<f64>().is_ok() {
            help = Some("write it without quotes".to_owned());
        } else if point.parse::<f64>().is_ok() {
            help = Some(format!("the decimal sign is a point: {point}"));
        }
    }
    let found = match (found, written) {
        // Not a number and infinity are no values of JSON.
        ("null" | "unit value", Some(written)) => format!("`{written}`"),
        ("null" | "unit value" | "Option value", None) => "nothing".to_owned(),
        ("sequence", _) => "a list".to_owned(),
        ("map", _) => "a group of keys".to_owned(),
        _ => match (text, found.split_once('`')) {
            (Some(text), _) => format!("`{text}`"),
            (None, Some((_, value))) => format!("`{value}"),
            (None, None) => found.to_owned(),
        },
    };
    Words {
        message: format!("{found} stands where {wanted} belongs"),
        help,
    }
}

/// What serde expected, and what to say about it.
fn belongs(wanted: &str) -> (String, Option<String>) {
    let mut help = None;
    let wanted = wanted.trim();
    let words = match wanted {
        "f32" | "f64" => "a number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "a borrowed string" | "string" | "str" => "text".to_owned(),
        "a sequence" | "sequence" => "a list".to_owned(),
        "a map" | "map" => GROUP.to_owned(),
        "string or map" | "variant identifier" => "a name".to_owned(),
        _ => {
            if let Some(fields) = wanted.strip_prefix("struct with ") {
                help = Some(format!("options: {fields}"));
                GROUP.to_owned()
            } else if wanted.starts_with("struct ") {
                GROUP.to_owned()
            } else if let Some(kind) = wanted.strip_prefix("dyn ") {
                help = Some("write `type: NAME` and its options below it".to_owned());
                format!("a {}", spaced(kind))
            } else if let Some(count) =
                (wanted.strip_prefix("an array of length ")).or_else(|| wanted.strip_prefix("a tuple of size "))
            {
                format!("a list of {count}")
            } else if wanted.starts_with("a nonzero ") {
                "a whole number from 1".to_owned()
            } else if wanted.starts_with("enum ") || wanted.contains("enum ") {
                "a name".to_owned()
            } else {
                wanted.to_owned()
            }
        }
    };
    (words, help)
}

/// What a structure is to somebody who writes a file.
const GROUP: &str = "a group of keys (`key: value`)";

/// `NeckBlock` as `neck block`.
fn spaced(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            out.push(' ');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let Words { message, help } = of(text, None);
        help.map_or(message.clone(), |help| format!("{message}; {help}"))
    }

    #[test]
    fn complaints_say_what_stands_there_and_what_belongs_there() {
        for (text, words) in [
            (
                "invalid type: string \"abc\", expected f64",
                "`abc` stands where a number belongs",
            ),
            (
                "invalid type: string \"0,01\", expected f64",
                "`0,01` stands where a number belongs; the decimal sign is a point: 0.01",
            ),
            (
                "invalid type: string \"3\", expected usize",
                "`3` stands where a whole number from 0 belongs; write it without quotes",
            ),
            (
                "invalid value: integer `-1`, expected usize",
                "`-1` stands where a whole number from 0 belongs",
            ),
            (
                "invalid type: floating point `2.5`, expected i64",
                "`2.5` stands where a whole number belongs",
            ),
            (
                "invalid type: null, expected a boolean",
                "nothing stands where `true` or `false` belongs",
            ),
            (
                "invalid type: map, expected a string",
                "a group of keys stands where text belongs",
            ),
            (
                "invalid type: sequence, expected struct with a, b",
                "a list stands where a group of keys (`key: value`) belongs; options: a, b",
            ),
            (
                "invalid type: null, expected dyn NeckBlock",
                "nothing stands where a neck block belongs; write `type: NAME` and its options below it",
            ),
            (
                "invalid length 3, expected an array of length 2",
                "3 values stand where a list of 2 belongs",
            ),
            ("missing field `neck`", "`neck` is missing"),
            (
                "missing field `type`",
                "`type` is missing; say which plugin: `type: NAME`",
            ),
            ("duplicate field `a`", "`a` stands here twice"),
            ("the sky is green", "the sky is green"),
        ] {
            assert_eq!(said(text), words, "{text}");
        }
        assert_eq!(
            of("invalid type: null, expected f64", Some(".nan")).message,
            "`.nan` stands where a number belongs"
        );
    }

    #[test]
    fn json_texts_keep_their_place() {
        let said = |text: &str| match serde_json::from_str::<Vec<u32>>(text) {
            Err(error) => in_words(&error),
            Ok(read) => format!("{read:?}"),
        };
        assert_eq!(
            said("[1,\n \"a\"]"),
            "`a` stands where a whole number from 0 belongs (line 2, column 4)"
        );
        assert_eq!(said("[1"), "the text ends too early (line 1, column 2)");
        assert_eq!(
            said("{}"),
            "a group of keys stands where a list belongs (line 1, column 0)"
        );
    }
}
