//! The closing line of `cargo xtask test`: how many tests skipped, and what they need. Tests write a line each into a list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{Outcome, fail};

/// Names the list for the tests.
pub const VARIABLE: &str = "YOLO_SKIPPED";

/// Lines `test TAB what it needs`.
pub struct List(PathBuf);

impl List {
    /// An empty list in `folder`.
    pub fn new(folder: &Path) -> Outcome<Self> {
        let path = folder.join("skipped-tests.txt");
        let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, ""));
        match made {
            Ok(()) => Ok(Self(path)),
            Err(error) => fail(format!("{}: {error}", path.display())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `3 tests skipped: 2 need the shared data, 1 needs onnxruntime`.
    pub fn closing_line(&self) -> Outcome<String> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) => Ok(closing_line(&text)),
            Err(error) => fail(format!("{}: {error}", self.0.display())),
        }
    }
}

fn closing_line(text: &str) -> String {
    let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (test, what) in text.lines().filter_map(|line| line.split_once('\t')) {
        needs.entry(what).or_default().insert(test);
    }
    let tests: BTreeSet<&str> = needs.values().flatten().copied().collect();
    let parts: Vec<String> = needs
        .iter()
        .map(|(what, tests)| match tests.len() {
            1 => format!("1 needs {what}"),
            n => format!("{n} need {what}"),
        })
        .collect();
    match tests.len() {
        0 => "no test skipped".to_owned(),
        1 => format!("1 test skipped: {}", parts.join(", ")),
        n => format!("{n} tests skipped: {}", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_counts_once_for_what_it_needs() {
        assert_eq!(closing_line(""), "no test skipped");
        let text = "val::a\tdata\nval::a\tdata\nval::b\tdata\nval::b\tonnxruntime\n";
        assert_eq!(closing_line(text), "2 tests skipped: 2 need data, 1 needs onnxruntime");
        assert_eq!(closing_line("a\tdata\n"), "1 test skipped: 1 needs data");
    }
}
