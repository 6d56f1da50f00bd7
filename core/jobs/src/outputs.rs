//! Where results may be written: never over what they are made of.
//!
//! What must not live here: writing.

use std::path::{Path, PathBuf};

use crate::Session;
use crate::error::{Error, Result};
use crate::plots::VALIDATION;

/// A picture that is looked at, and the file of its labels, whether or not that exists.
pub struct Input {
    /// The picture.
    pub image: PathBuf,
    /// Its labels.
    pub label: PathBuf,
}

/// What a command will write into its folder.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writes {
    /// Pictures named after the sources.
    pub pictures: bool,
    /// `labels/NAME.txt` of each.
    pub labels: bool,
    /// What an earlier run has written there may go.
    pub over: bool,
}

/// Says which files in `weights` were exported from models of an earlier run in this folder.
pub fn say_exported(session: Session<'_>, folder: &Path) {
    let weights = folder.join("weights");
    let entries = std::fs::read_dir(&weights).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of_models = |name: &String| {
        let own = name.ends_with(".safetensors") || name.starts_with('.');
        !own && (name.starts_with("best") || name.starts_with("last"))
    };
    let mut old: Vec<String> = names.filter(of_models).collect();
    old.sort();
    if !old.is_empty() {
        session.say(format!(
            "note: {} holds files of an earlier training's models ({}): they stay, and are not of the models that this one writes beside them",
            weights.display(),
            old.join(", ")
        ));
    }
}

/// Refuses a result that would take the place of what it is made of.
///
/// # Errors
/// Names the file.
pub fn not_the_input(option: &str, output: &Path, input: &Path) -> Result {
    let same = input
        .canonicalize()
        .is_ok_and(|input| output.canonicalize().is_ok_and(|output| input == output));
    if same {
        return Err(Error::Usage(format!(
            "{option}{}: this is the input and would be overwritten; give another file",
            output.display()
        )));
    }
    Ok(())
}

/// Says which results of an earlier run are in a folder that this one writes into; `plots` are drawn anew by this one.
pub fn say_remains(session: Session<'_>, folder: &Path, plots: bool) {
    let filled = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .any(|path| !path.is_dir() || std::fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_some()))
    };
    let mut there: Vec<&str> = ["labels", "crops"]
        .into_iter()
        .filter(|name| filled(&folder.join(name)))
        .collect();
    if folder.join("predictions.json").is_file() {
        there.push("predictions.json");
    }
    if !plots {
        there.extend(VALIDATION.iter().filter(|name| folder.join(name).is_file()));
    }
    if !there.is_empty() {
        session.say(format!(
            "note: {} holds results of an earlier run ({}): what this one does not write anew stays beside its own",
            folder.display(),
            there.join(", ")
        ));
    }
}

/// Refuses a folder in which results would take the place of a source, of hand-made labels, or of somebody's earlier results.
///
/// # Errors
/// Names the file that would be lost.
pub fn check(folder: &Path, writes: Writes, sources: &[Input]) -> Result {
    let Ok(own) = folder.canonicalize() else {
        // Nothing is there yet.
        return Ok(());
    };
    let lost = |file: &Path, what: &str, help: &str| {
        Err(Error::Usage(format!(
            "{}: {what} would be overwritten\n  help: {help}",
            file.display()
        )))
    };
    let stands_in = |file: &Path, folder: &Path| {
        let place = file.parent().filter(|place| !place.as_os_str().is_empty());
        place
            .unwrap_or(Path::new("."))
            .canonicalize()
            .is_ok_and(|place| place == folder)
    };
    if writes.pictures
        && let Some(source) = sources.iter().find(|source| stands_in(&source.image, &own))
    {
        return lost(
            &source.image,
            "this source",
            "give another folder (--save-dir, --project, --name), or --nosave",
        );
    }
    if !writes.labels {
        return Ok(());
    }
    let Ok(labels) = own.join("labels").canonicalize() else {
        return Ok(());
    };
    for Input { image, label } in sources {
        if label.is_file() && stands_in(label, &labels) {
            return lost(
                label,
                "labels of the data",
                "give another folder (--save-dir, --project, --name)",
            );
        }
        let target = labels.join(image.file_stem().unwrap_or_default()).with_extension("txt");
        if !writes.over && target.is_file() {
            return lost(
                &target,
                "this file",
                "give another folder, or --exist-ok to write over it",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_their_labels_are_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for place in ["data/images", "data/labels", "old/labels"] {
            std::fs::create_dir_all(at(place)).expect("a folder");
        }
        for file in [
            "data/images/a.jpg",
            "data/labels/a.txt",
            "old/labels/a.txt",
            "old/a.jpg",
        ] {
            std::fs::write(at(file), "x").expect("a file");
        }
        let sources = [Input {
            image: at("data/images/a.jpg"),
            label: at("data/labels/a.txt"),
        }];
        let both = Writes {
            pictures: true,
            labels: true,
            over: false,
        };
        let over = Writes { over: true, ..both };
        let refused = |place: &str, writes| check(&at(place), writes, &sources).err().map(|error| error.to_string());
        assert_eq!(refused("new", both), None);
        assert!(refused("data/images", over).is_some_and(|text| text.contains("a.jpg: this source")));
        assert!(refused("data", over).is_some_and(|text| text.contains("a.txt: labels of the data")));
        assert!(refused("old", both).is_some_and(|text| text.contains("--exist-ok")));
        assert_eq!(refused("old", over), None);
        let pictures = Writes {
            pictures: true,
            ..Writes::default()
        };
        assert_eq!(refused("old", pictures), None, "drawn pictures may be drawn again");
    }
}
