//! ncnn: its wheel is a Python module and exports no C interface, so a small script of ours ([`RUNNER`]) runs it in python3. The script
//! needs nothing but the module.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::process::{self, Opened, Process};
use super::{Engine, Found, Network, missing};
use crate::Result;

/// The interpreter to take.
const VARIABLE: &str = "YOLO_PYTHON";
/// Folder of the module that the set-up fetches.
const FOLDER: &str = ".ncnn";
const TITLE: &str = "ncnn";
const RUNNER: &str = include_str!("ncnn.py");

/// The interpreter that has the module. Only success is remembered, so that a module installed later is found.
static FOUND: Mutex<Option<Found>> = Mutex::new(None);

/// ncnn: `.param` and `.bin`.
#[derive(Debug)]
pub struct Ncnn;

impl Engine for Ncnn {
    fn name(&self) -> &'static str {
        "ncnn"
    }

    fn title(&self) -> &'static str {
        TITLE
    }

    fn endings(&self) -> &'static [&'static str] {
        &["param"]
    }

    fn help(&self) -> &'static str {
        "run `cargo xtask setup --engines` (or `pip install ncnn` in the virtual environment that is active), or set YOLO_PYTHON to a \
         python3 that has the module"
    }

    fn find(&self) -> Result<Found> {
        let mut known = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = known.as_ref() {
            return Ok(found.clone());
        }
        let explicit = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let found = search(&interpreters(explicit, std::env::var_os("VIRTUAL_ENV")))?;
        Ok(known.insert(found).clone())
    }

    fn open(&self, path: &Path, threads: usize) -> Result<Box<dyn Network>> {
        let python = self.find()?.path;
        Ok(Box::new(Opened::new(start(&python)?, path, threads)?))
    }
}

/// The interpreters that may have it, best first.
fn interpreters(explicit: Option<OsString>, environment: Option<OsString>) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        return vec![path.into()];
    }
    let active = environment.map(|folder| PathBuf::from(folder).join("bin/python3"));
    active.into_iter().chain(["python3".into()]).collect()
}

/// The first interpreter that imports the module.
fn search(interpreters: &[PathBuf]) -> Result<Found> {
    let mut reason = String::new();
    for python in interpreters {
        match start(python).and_then(|process| process::version(process, python)) {
            Ok(version) => {
                return Ok(Found {
                    version,
                    path: python.clone(),
                });
            }
            Err(error) => reason = format!("{}: {error}", python.display()),
        }
    }
    Err(missing(&Ncnn, reason))
}

fn start(python: &Path) -> Result<Process> {
    let mut command = Command::new(python);
    // Where it is installed, that one counts; what the set-up fetched comes behind.
    command
        .arg("-c")
        .arg(RUNNER)
        .args(super::folders(FOLDER).find(|folder| folder.is_dir()));
    Process::start(TITLE, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_that_is_named_is_the_only_one() {
        let both = interpreters(None, Some("env".into()));
        assert_eq!(both, [PathBuf::from("env/bin/python3"), PathBuf::from("python3")]);
        assert_eq!(
            interpreters(Some("mine".into()), Some("env".into())),
            [PathBuf::from("mine")]
        );
    }

    #[test]
    fn a_missing_interpreter_says_what_to_do() {
        let error = search(&["no-such-python".into()]).unwrap_err().to_string();
        for part in [
            "ncnn is not available",
            "no-such-python",
            "can't start",
            "cargo xtask setup --engines",
            "YOLO_PYTHON",
        ] {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
    }

    /// Any python3 speaks the protocol; one without the module says so.
    #[test]
    fn a_missing_module_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        // A module of that name that can't be imported, whatever is installed here.
        std::fs::create_dir(folder.path().join("ncnn")).unwrap();
        std::fs::write(
            folder.path().join("ncnn/__init__.py"),
            "raise ImportError('broken on purpose')",
        )
        .unwrap();
        let mut command = Command::new("python3");
        command.arg("-c").arg(RUNNER).env("PYTHONPATH", folder.path());
        let Ok(process) = Process::start(TITLE, command) else {
            return; // no python3: the test above says what happens then
        };
        let error = process::version(process, Path::new("python3")).unwrap_err().to_string();
        assert!(error.contains("broken on purpose"), "{error}");
    }
}
