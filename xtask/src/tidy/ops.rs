//! Which files know every op: the row `op` of the table in CONTRIBUTING.md against the sources.
//!
//! A file knows every op if it mentions each variant of the enum (an exhaustive match does), or each name. A file that mentions more than
//! half of them has a wildcard for the rest, which the compiler would not name.

use std::collections::BTreeSet;

use super::words::{is_test, shipped};
use super::{read, root};
use crate::{Outcome, fail};

const ENUM: &str = "core/src/graph/op.rs";
const TABLE: &str = "CONTRIBUTING.md";

/// Where the row and the sources disagree.
pub(super) fn complaints(files: &[String]) -> Outcome<Vec<String>> {
    let Some(row) = row(&read(TABLE)?) else {
        return fail(format!("tidy: {TABLE} has no row `op` below `## What to touch`"));
    };
    let ops = Ops::of(&read(ENUM)?);
    if ops.variants.is_empty() || ops.variants.len() != ops.names.len() {
        return fail(format!("tidy: {ENUM} has no enum `Op` with a name for each variant"));
    }
    let sources: Vec<(String, String)> = files
        .iter()
        .filter(|file| file.ends_with(".rs") && !is_test(file))
        .filter_map(|file| Some((file.clone(), std::fs::read_to_string(root().join(file)).ok()?)))
        .collect();
    Ok(disagreements(&row, &ops, &sources))
}

/// The variants of the enum and their names.
struct Ops {
    variants: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Ops {
    fn of(text: &str) -> Self {
        let (_, rest) = text.split_once("pub enum Op {\n").unwrap_or_default();
        let (body, rest) = rest.split_once("\n}\n").unwrap_or((rest, ""));
        // Variants stand at the first level of indentation, their fields at the second.
        let variants = body.lines().filter_map(|line| {
            let line = line.strip_prefix("    ")?;
            let name = line.trim_end_matches([',', '{', ' ']);
            let starts = name.starts_with(|c: char| c.is_ascii_uppercase());
            (starts && name.chars().all(char::is_alphanumeric)).then(|| name.to_owned())
        });
        let (_, rest) = rest.split_once("fn name(").unwrap_or_default();
        let (arms, _) = rest.split_once("\n    }\n").unwrap_or((rest, ""));
        let names = arms.split('"').skip(1).step_by(2).map(str::to_owned);
        Self {
            variants: variants.collect(),
            names: names.collect(),
        }
    }
}

/// Paths in the row `op`, with `*` for a part of a name.
fn row(text: &str) -> Option<Vec<String>> {
    let (_, section) = text.split_once("## What to touch")?;
    let section = section.split("\n## ").next()?;
    let row = section.lines().find(|line| line.starts_with("| op |"))?;
    let paths = row.split('`').skip(1).step_by(2);
    Some(paths.filter(|path| path.contains('/')).map(str::to_owned).collect())
}

fn disagreements(row: &[String], ops: &Ops, sources: &[(String, String)]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complete = BTreeSet::new();
    for (file, text) in sources {
        let code: String = shipped(text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let known = ops.variants.iter().filter(|variant| mentions(&code, variant)).count();
        let named = ops
            .names
            .iter()
            .filter(|name| code.contains(&format!("\"{name}\"")))
            .count();
        let all = ops.variants.len();
        if known == all || named == all {
            complete.insert(file.as_str());
            if !row.iter().any(|path| covers(path, file)) {
                complaints.push(format!(
                    "{file}: it knows every op, but the row `op` of {TABLE} does not name it"
                ));
            }
        } else if known.max(named) * 2 > all {
            let known = known.max(named);
            complaints.push(format!("{file}: it knows {known} of {all} ops; spell out the others"));
        }
    }
    for path in row
        .iter()
        .filter(|path| !complete.iter().any(|file| covers(path, file)))
    {
        complaints.push(format!(
            "{TABLE}: the row `op` names `{path}`, which does not know every op"
        ));
    }
    complaints
}

/// `Op::Name` or `Self::Name` as a whole word.
fn mentions(code: &str, variant: &str) -> bool {
    ["Op::", "Self::"].iter().any(|path| {
        let word = format!("{path}{variant}");
        code.match_indices(&word)
            .any(|(at, _)| !code[at + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

/// Whether a path of the row, with one `*` at most, stands for a file.
fn covers(path: &str, file: &str) -> bool {
    match path.split_once('*') {
        None => path == file,
        Some((start, end)) => file
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|part| !part.contains('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: &str = "/// Ops.\npub enum Op {\n    /// A.\n    Add,\n    /// B.\n    Act {\n        /// Which.\n        act: Kind,\n    },\n    \
                      /// C.\n    Pad {\n        top: i64,\n    },\n}\n\nimpl Op {\n    pub fn name(&self) -> &'static str {\n        match self {\n            \
                      Self::Add => \"add\",\n            Self::Act { .. } => \"act\",\n            Self::Pad { .. } => \"pad\",\n        }\n    }\n}\n";
    const FULL: &str = "match op { Op::Add | Op::Act { .. } => 1, Op::Pad { .. } => 2 }";

    fn found(row: &[&str], sources: &[(&str, &str)]) -> Vec<String> {
        let own = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
        let row: Vec<String> = row.iter().map(|path| (*path).to_owned()).collect();
        disagreements(&row, &Ops::of(OP), &sources.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn variants_and_names_are_read() {
        let ops = Ops::of(OP);
        assert_eq!(Vec::from_iter(&ops.variants), ["Act", "Add", "Pad"]);
        assert_eq!(Vec::from_iter(&ops.names), ["act", "add", "pad"]);
    }

    #[test]
    fn a_row_that_is_true_is_silent_and_a_changed_one_is_not() {
        let sources = [("core/a.rs", FULL), ("core/ops/mod.rs", FULL), ("core/b.rs", "Op::Add")];
        assert!(found(&["core/a.rs", "core/ops/*.rs"], &sources).is_empty());
        assert_eq!(found(&["core/ops/*.rs"], &sources).len(), 1, "a file is missing");
        assert_eq!(found(&["core/a.rs"], &sources).len(), 1, "a family is missing");
        let more = ["core/a.rs", "core/ops/*.rs", "core/b.rs"];
        assert_eq!(found(&more, &sources).len(), 1, "one too many");
        let moved = ["core/a.rs", "core/ops/deep/*.rs"];
        assert_eq!(found(&moved, &sources).len(), 2, "moved");
    }

    #[test]
    fn a_wildcard_for_the_rest_is_found() {
        let sources = [("core/a.rs", "match op { Op::Add | Op::Pad { .. } => 1, _ => 2 }")];
        assert_eq!(found(&[], &sources).len(), 1);
        assert!(
            found(
                &[],
                &[("core/a.rs", "// Op::Add, Op::Act, Op::Pad\nlet x = Op::Added;")]
            )
            .is_empty()
        );
        assert!(
            found(
                &[],
                &[("core/a.rs", "#[cfg(test)]\nmod tests { Op::Add, Op::Act, Op::Pad }")]
            )
            .is_empty()
        );
    }

    #[test]
    fn lists_of_names_count() {
        let sources = [("core/names.rs", "[\"add\", \"act\", \"pad\"]")];
        assert_eq!(found(&[], &sources).len(), 1);
        assert!(found(&["core/names.rs"], &sources).is_empty());
    }

    #[test]
    fn the_row_of_this_repository_is_true() {
        let files = super::super::tracked().expect("a git checkout");
        assert_eq!(complaints(&files).expect("a table"), Vec::<String>::new());
        // And would not be with a file less, or without one of its ops.
        let row = row(&read(TABLE).expect("the table")).expect("a row");
        assert!(row.len() > 3, "{row:?}");
        let ops = Ops::of(&read(ENUM).expect("the enum"));
        let lower = "core/export/src/onnx/lower.rs";
        let text = read(lower).expect("an exporter");
        let with = |row: &[String], text: &str| disagreements(row, &ops, &[(lower.to_owned(), text.to_owned())]);
        let own = [lower.to_owned()];
        assert!(with(&own, &text).is_empty());
        assert_eq!(with(&[], &text).len(), 1);
        assert_eq!(with(&own, &text.replace("Op::Permute", "Op::Other")).len(), 2);
    }
}
