//! Going on with an unfinished run: whether what is asked for is that run, and what an end in the middle of an epoch left behind.

use std::path::Path;

use super::fingerprint::{Fingerprint, changed_settings};
use super::{events, results};
use crate::checkpoint::TrainState;
use crate::{Error, Result};

/// File of a run's folder from which it goes on.
pub const STATE: &str = "state.safetensors";

/// Refuses to go on with a run that was started with other settings or on other data; the error names what differs.
pub(super) fn check(folder: &Path, there: &TrainState, settings: &serde_json::Value, here: &Fingerprint) -> Result<()> {
    let mut changed = changed_settings(settings, &there.settings);
    let what = if changed.is_empty() {
        "was started on something else"
    } else {
        "has other settings"
    };
    // Runs that were started before there were fingerprints have none to compare with.
    changed.extend(there.fingerprint.iter().flat_map(|there| here.differences(there)));
    if changed.is_empty() {
        return Ok(());
    }
    Err(Error::Settings(format!(
        "{}: the unfinished run there {what}: {}\n  help: give it what it was started with, or start a new run from its weights \
         (`--weights {}`)",
        folder.display(),
        changed.join("; "),
        folder.join("weights/last.safetensors").display()
    )))
}

/// Takes away what an earlier part of the run wrote after its last state: rows and events of an epoch that will be repeated, and files
/// that were being written. What stands in the folder of a run without a finished epoch may be another run's: it stays until this one has
/// something to show ([`replace`]).
pub(super) fn cut(folder: &Path, epochs_done: usize) -> Result<()> {
    if epochs_done > 0 {
        results::cut(&folder.join("results.csv"), epochs_done)?;
        events::cut(folder, epochs_done)?;
    }
    for folder in [folder.to_owned(), folder.join("weights")] {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(crate::checkpoint::TEMPORARY)
            {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(Error::io(&path, "remove it"))?;
            }
        }
    }
    Ok(())
}

/// Takes away what an earlier run left in the folder, before the first finished epoch is written there: two runs never mix.
pub(super) fn replace(folder: &Path) -> Result<()> {
    results::cut(&folder.join("results.csv"), 0)?;
    events::cut(folder, 0)?;
    for entry in std::fs::read_dir(folder.join("weights"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let numbered = name
            .to_str()
            .and_then(|name| name.strip_prefix("epoch")?.strip_suffix(".safetensors"));
        if numbered.is_some_and(|number| number.parse::<usize>().is_ok()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(Error::io(&path, "remove it"))?;
        }
    }
    Ok(())
}
