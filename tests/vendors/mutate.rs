//! Files with one thing changed.

use serde_json::{Map, Value, json};

use super::Format;

/// What was changed, and the changed text.
pub fn all(format: Format, text: &str) -> Vec<(String, String)> {
    match format.pointer() {
        Some(pointer) => in_json(text, pointer),
        None => in_lines(text, if format == Format::PplCuda { ": " } else { " " }),
    }
}

/// Something else than this number.
fn another(number: f64) -> f64 {
    if number == 0.0 { 1.0 } else { 1.1 * number }
}

fn in_json(text: &str, pointer: &str) -> Vec<(String, String)> {
    let whole: Value = serde_json::from_str(text).expect("JSON");
    let entries = whole.pointer(pointer).and_then(Value::as_object).expect("entries");
    let names: Vec<&String> = entries.keys().collect();
    let [first, last] = [names[0], names[names.len() - 1]];
    let with = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut whole = whole.clone();
        change(
            whole
                .pointer_mut(pointer)
                .and_then(Value::as_object_mut)
                .expect("entries"),
        );
        serde_json::to_string(&whole).expect("JSON")
    };
    let mut out = Vec::new();
    for name in [first, last] {
        out.push((format!("`{name}` left out"), with(&|e| drop(e.remove(name)))));
        out.push((
            format!("`{name}` under another name"),
            with(&|e| {
                let value = e.remove(name).expect("there");
                e.insert(format!("{name}x"), value);
            }),
        ));
        out.push((
            format!("`{name}` is null"),
            with(&|e| drop(e.insert(name.clone(), Value::Null))),
        ));
        out.push((
            format!("`{name}` is a word"),
            with(&|e| drop(e.insert(name.clone(), json!("1.0")))),
        ));
    }
    out.push((
        "one more".into(),
        with(&|e| drop(e.insert("model.0.more".into(), entries[first].clone()))),
    ));
    // Two entries of one shape and other numbers change places.
    let same_shape = |a: &Value, b: &Value| places(a) == places(b);
    let pair = names.iter().flat_map(|a| names.iter().map(move |b| (*a, *b)));
    let (a, b) = pair
        .into_iter()
        .find(|(a, b)| entries[*a] != entries[*b] && same_shape(&entries[*a], &entries[*b]))
        .expect("two entries that differ");
    out.push((
        format!("`{a}` and `{b}` change places"),
        with(&|e| {
            e.insert(a.clone(), entries[b].clone());
            e.insert(b.clone(), entries[a].clone());
        }),
    ));
    // Every number of every kind of entry.
    let mut seen: Vec<Vec<String>> = Vec::new();
    for name in &names {
        let places = places(&entries[*name]);
        if seen.contains(&places) {
            continue;
        }
        for place in &places {
            let at = format!("`{name}` at `{place}`");
            let changed = |value: Value| with(&|e| *e[*name].pointer_mut(place).expect("there") = value.clone());
            match entries[*name].pointer(place).expect("there") {
                Value::Number(number) => {
                    let number = number.as_f64().expect("a number");
                    out.push((format!("{at} x 1.1"), changed(json!(another(number)))));
                }
                _ => out.push((format!("{at} is another word"), changed(json!("other")))),
            }
        }
        seen.push(places);
    }
    let mut twice = text.to_owned();
    let quoted = format!("\"{last}\"");
    twice.insert_str(
        text.find(&quoted).expect("there"),
        &format!("{quoted}: {}, ", entries[last]),
    );
    out.push((format!("`{last}` stands twice"), twice));
    out.push(("cut off".into(), text[..text.len() / 2].to_owned()));
    out.push(("something behind it".into(), format!("{text}{{}}")));
    out
}

/// Pointers to all leaves of a value.
fn places(value: &Value) -> Vec<String> {
    let below = |key: &str, value: &Value| -> Vec<String> {
        places(value).into_iter().map(|rest| format!("/{key}{rest}")).collect()
    };
    match value {
        Value::Object(map) => map.iter().flat_map(|(key, value)| below(key, value)).collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .flat_map(|(at, value)| below(&at.to_string(), value))
            .collect(),
        _ => vec![String::new()],
    }
}

fn in_lines(text: &str, separator: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let join = |lines: &[String]| lines.join("\n") + "\n";
    let owned: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = owned.clone();
        change(&mut lines);
        join(&lines)
    };
    let split = |at: usize| lines[at].split_once(separator).expect("a name and numbers");
    let mut out = Vec::new();
    for at in [0, lines.len() - 1] {
        let (name, numbers) = split(at);
        out.push((format!("`{name}` left out"), with(&|l| drop(l.remove(at)))));
        out.push((format!("`{name}` stands twice"), with(&|l| l.push(owned[at].clone()))));
        let renamed = format!("{name}x{separator}{numbers}");
        out.push((
            format!("`{name}` under another name"),
            with(&|l| l[at] = renamed.clone()),
        ));
        let numbers: Vec<&str> = numbers.split(separator).collect();
        for which in 0..numbers.len() {
            let mut changed: Vec<String> = numbers.iter().map(|number| (*number).to_owned()).collect();
            changed[which] = another(numbers[which].parse().expect("a number")).to_string();
            let line = format!("{name}{separator}{}", changed.join(separator));
            out.push((
                format!("`{name}`: number {which} x 1.1"),
                with(&|l| l[at] = line.clone()),
            ));
        }
        out.push((format!("`{name}` without numbers"), with(&|l| l[at] = name.to_owned())));
    }
    let other = (1..lines.len())
        .find(|at| split(*at).1 != split(0).1)
        .expect("two lines that differ");
    let [(a, x), (b, y)] = [split(0), split(other)];
    out.push((
        format!("`{a}` and `{b}` change places"),
        with(&|l| {
            l[0] = format!("{a}{separator}{y}");
            l[other] = format!("{b}{separator}{x}");
        }),
    ));
    out.push((
        "one more".into(),
        with(&|l| l.push(format!("model.0.more{separator}{x}"))),
    ));
    out.push(("cut off".into(), text[..text.len() - 3].to_owned()));
    out
}
