//! Lists of class names that labelling tools leave beside the labels (`classes.txt` of labelImg and Label Studio, `obj.names` of Darknet
//! and CVAT, `_darknet.labels` of Roboflow). The rows count by such a list, so one that has the names of the YAML file in another order
//! means that a model would learn wrong names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::label_path;
use crate::labels::Problem;
use crate::text;

/// Names of such files.
const FILES: [&str; 3] = ["classes.txt", "obj.names", "_darknet.labels"];

/// The kind of a list that has the same names under other numbers.
pub(super) const ORDER: &str = "names-order";

/// What the lists beside the labels of these images say against `names`, which stand in `yaml`.
pub(super) fn against(names: &[String], yaml: &Path, images: &[PathBuf]) -> Vec<Problem> {
    let labels: BTreeSet<PathBuf> = images
        .iter()
        .filter_map(|image| label_path(image).parent().map(Path::to_owned))
        .collect();
    let folders: BTreeSet<PathBuf> = labels.iter().flat_map(|folder| upwards(folder, yaml)).collect();
    let mut found = Vec::new();
    for file in folders.iter().flat_map(|folder| FILES.map(|name| folder.join(name))) {
        if !file.is_file() {
            continue;
        }
        let name = file.display().to_string();
        match text::read(&file, "read the names of the classes") {
            Ok(content) => found.extend(compare(&content, &name, names, yaml)),
            Err(error) => found.push(Problem::note(name, 0, "names-unread", error.to_string())),
        }
    }
    found
}

/// The folder of labels and those above it that belong to the data set: up to the one that holds `labels`, or else one that the YAML
/// file lies in.
fn upwards(folder: &Path, yaml: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let is_labels = |path: &Path| path.file_name().is_some_and(|name| name.eq_ignore_ascii_case("labels"));
    let inside = folder.ancestors().any(is_labels);
    let home = yaml.parent().unwrap_or(Path::new(""));
    let mut at = folder;
    while let Some(above) = at.parent() {
        if !inside && !above.starts_with(home) {
            break;
        }
        folders.push(above.to_owned());
        if is_labels(at) || !inside {
            break;
        }
        at = above;
    }
    folders
}

/// A list against the names of the data set.
fn compare(content: &str, file: &str, names: &[String], yaml: &Path) -> Option<Problem> {
    let list: Vec<&str> = content.trim_end().lines().map(str::trim).collect();
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b.trim());
    let yaml = yaml.display();
    let mut pairs = list
        .iter()
        .zip(names)
        .enumerate()
        .filter(|(_, (own, _))| !own.is_empty());
    let moved = |(class, (own, other)): &(usize, (&&str, &String))| {
        let elsewhere = names.iter().position(|name| same(own, name));
        elsewhere.is_some_and(|number| number != *class) && !same(own, other)
    };
    if let Some((class, (own, other))) = pairs.clone().find(moved) {
        let number = names.iter().position(|name| same(own, name)).unwrap_or_default();
        let message = format!(
            "class {class} is `{own}` here and `{other}` in {yaml}, where `{own}` is {number}: a model would learn wrong names; \
             make the two agree, or remove this list if it is not that of the labels"
        );
        return Some(Problem {
            file: file.to_owned(),
            line: class + 1,
            kind: ORDER,
            message,
            fatal: true,
        });
    }
    let note = |line: usize, message: String| Some(Problem::note(file.to_owned(), line, "names-differ", message));
    if let Some((class, (own, other))) = pairs.find(|(_, (own, other))| !same(own, other)) {
        let message = format!("class {class} is `{own}` here and `{other}` in {yaml}: labels count by number");
        return note(class + 1, message);
    }
    if list.len() == names.len() || content.trim().is_empty() {
        return None;
    }
    let message = format!("it names {} classes, {yaml} has {}", list.len(), names.len());
    note(list.len().min(names.len()).max(1), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(list: &str, names: &[&str]) -> Option<(usize, &'static str)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        compare(list, "classes.txt", &names, Path::new("d.yaml")).map(|problem| (problem.line, problem.kind))
    }

    #[test]
    fn the_same_names_under_other_numbers_are_an_error_and_other_names_a_note() {
        for list in ["cat\ndog\n", "Cat\r\nDOG", "\u{20}cat\ndog\n\n\n", "cat\n\n", ""] {
            let (told, wanted) = (said(list, &["cat", "dog"]), list.trim() == "cat");
            assert_eq!(told.is_some(), wanted, "{list:?}: {told:?}");
        }
        for (list, names, line, kind) in [
            ("dog\ncat\n", &["cat", "dog"][..], 1, ORDER),
            ("a\nc\nb", &["a", "b", "c"], 2, ORDER),
            ("b\nc\na", &["a", "b", "c"], 1, ORDER),
            // One that went missing moves all that follow.
            ("a\nc", &["a", "b", "c"], 2, ORDER),
            ("x\na\nb\nc", &["a", "b", "c"], 2, ORDER),
            // Renamed or translated: nothing says that numbers moved.
            ("Katze\ndog", &["cat", "dog"], 1, "names-differ"),
            // labelImg's own list, with the user's class at its end.
            ("dog\nperson\ncell", &["cell"], 1, "names-differ"),
            ("cat\ndog\nbird", &["cat", "dog"], 2, "names-differ"),
            ("cat", &["cat", "dog"], 1, "names-differ"),
        ] {
            assert_eq!(said(list, names), Some((line, kind)), "{list:?} {names:?}");
        }
    }

    #[test]
    fn folders_are_looked_at_up_to_the_one_of_the_data_set() {
        let of = |folder: &str, yaml: &str| -> Vec<String> {
            let folders = upwards(Path::new(folder), Path::new(yaml));
            folders.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            of("/d/labels/train", "/y/d.yaml"),
            ["/d/labels/train", "/d/labels", "/d"]
        );
        assert_eq!(of("/d/labels", "/d/d.yaml"), ["/d/labels", "/d"]);
        // CVAT: labels beside the images, the list above.
        assert_eq!(of("/d/obj_train_data", "/d/d.yaml"), ["/d/obj_train_data", "/d"]);
        assert_eq!(of("/d/a", "/y/d.yaml"), ["/d/a"]);
        assert_eq!(of("d/a", "d.yaml"), ["d/a", "d"]);
    }
}
