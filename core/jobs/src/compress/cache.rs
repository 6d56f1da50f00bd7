//! What makes a recipe resumable: each stage has a key, the hash of everything that it depends on, and a record that is written
//! when it is done. A stage whose record has its key is not run again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Result, io_error};
use crate::{Session, files, train};

/// Raised when the same recipe must give other results.
const PIPELINE_VERSION: u32 = 1;

/// What a finished stage left behind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// Hash of everything that the stage depends on.
    pub key: String,
    /// Position and kind, `3-prune`.
    pub name: String,
    /// Kind of the stage.
    pub kind: String,
    /// The model that the next stage starts from.
    pub weights: PathBuf,
    /// Whether `weights` is a quantized network.
    #[serde(default)]
    pub quantized: bool,
    /// Trainable parameters.
    pub params: i64,
    /// GFLOPs at the recipe's image size.
    pub gflops: f64,
    /// mAP at IoU 0.5 on the validation set.
    pub map50: f64,
    /// mAP at IoU 0.5:0.95.
    pub map: f64,
    /// Both on the test images, where the data set has some: nothing is chosen by them.
    #[serde(default)]
    pub test: Option<[f64; 2]>,
    /// Epochs of training that went into the model, those of the stages before included.
    #[serde(default)]
    pub epochs: u64,
    /// Bytes of the model (of the exported file once there is one).
    pub size_bytes: u64,
    /// Images per second on this CPU, from the bench stage.
    #[serde(default)]
    pub fps: Option<f64>,
    /// Seconds that the stage took.
    pub seconds: f64,
    /// Anything else that the stage found out.
    #[serde(default)]
    pub details: Value,
    /// SHA-256 of `weights` when the stage was done; absent in records of earlier versions.
    #[serde(default)]
    pub sha256: Option<String>,
    /// SHA-256 of each file that the stage made to be handed on, by its name in the stage's folder.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// [`models_of`] the stages before; absent in records of earlier versions.
    #[serde(default)]
    pub from: Option<String>,
}

impl Record {
    /// Notes what the stage has left in `folder`.
    ///
    /// # Errors
    /// `Error::Failed` names the file or folder that can't be read.
    pub fn seal(&mut self, folder: &Path) -> Result {
        self.sha256 = Some(files::hash(&self.weights)?);
        // A record may have begun as that of the stage before.
        self.files.clear();
        // What trainings leave besides are pictures and tables for people: without them, the model is the same.
        if !["quantize", "export"].contains(&self.kind.as_str()) {
            return Ok(());
        }
        let entries = std::fs::read_dir(folder).map_err(|error| io_error("can't read the folder", folder, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| io_error("can't read the folder", folder, &error))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_file() && ![RECORD, KEY].contains(&name.as_str()) {
                self.files.insert(name, files::hash(&path)?);
            }
        }
        Ok(())
    }

    /// The first of the files in `folder` that is gone or is no more what the stage left.
    pub fn changed(&self, folder: &Path) -> Option<PathBuf> {
        let is = |path: &Path, wanted: &String| files::hash(path).is_ok_and(|found| found == *wanted);
        let whole = match &self.sha256 {
            Some(wanted) => is(&self.weights, wanted),
            None => self.weights.exists(),
        };
        if !whole {
            return Some(self.weights.clone());
        }
        let mut files = self.files.iter().map(|(name, wanted)| (folder.join(name), wanted));
        files.find(|(path, wanted)| !is(path, wanted)).map(|(path, _)| path)
    }

    /// Whether later stages start from what this one leaves, or compare with it.
    pub fn is_built_on(&self) -> bool {
        !matches!(self.kind.as_str(), "reference" | "export" | "bench")
    }

    /// Whether the stage was made from other models than `models`, [`models_of`] the stages before as they are now. A reference starts from
    /// what the recipe starts from, and a record of an earlier version does not say.
    pub fn is_stale(&self, models: &str) -> bool {
        self.kind != "reference" && self.from.as_deref().is_some_and(|from| from != models)
    }
}

/// Hash of the models that finished stages have left: a stage that is done again may leave another one, on another processor or with other
/// threads, and what was made from the former is then no result of it.
pub fn models_of<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let mut hash = Sha256::new();
    for record in records.filter(|record| record.is_built_on()) {
        hash.update(record.sha256.as_deref().unwrap_or_default().as_bytes());
    }
    files::hex(&hash.finalize())
}

/// Names of the record of a stage, and of its key, in its folder.
const RECORD: &str = "stage.json";
const KEY: &str = "stage.key";

/// The record of a stage, if it is done and made from the same things; whether its files are still there is [`Record::changed`].
pub fn load_record(folder: &Path, key: &str) -> Option<Record> {
    let text = std::fs::read_to_string(folder.join(RECORD)).ok()?;
    let record: Record = serde_json::from_str(&text).ok()?;
    (record.key == key).then_some(record)
}

/// Whether a stage of something else has been there.
pub fn is_of_others(folder: &Path, key: &str) -> bool {
    std::fs::read_to_string(folder.join(KEY)).is_ok_and(|old| old.lines().next() != Some(key))
}

/// Folders of stages (`6-export`, with their key) that come after the last of `stages` stages: of another recipe, or of an earlier form of
/// this one. Those of the same number are seen where their stage is prepared.
pub fn left_behind(folder: &Path, stages: usize) -> Vec<PathBuf> {
    let later = |place: &PathBuf| {
        let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name
            .split_once('-')
            .and_then(|(number, _)| number.parse::<usize>().ok());
        number.is_some_and(|number| number > stages) && place.join(KEY).is_file()
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(later).collect();
    places.sort();
    places
}

/// The folder of a stage that runs. What another run has left there stands aside until the stage is done, and comes back where it could not
/// even begin.
pub struct Opened {
    /// Whether the stage goes on with what an interrupted run of it has left.
    pub resume: bool,
    folder: PathBuf,
    aside: PathBuf,
}

/// Prepares the folder of a stage that will run, from `models` ([`models_of`] the stages before). It continues what an interrupted run of the
/// same stage left there only if that is wanted and nothing that it depends on has changed.
///
/// # Errors
/// `Error::Failed` names the folder that can't be moved or removed, or the file `stage.key` that can't be written.
pub fn open_stage(folder: &Path, key: &str, models: &str, resume: bool) -> Result<Opened> {
    let marker = folder.join(KEY);
    let own = format!("{key}\n{models}\n");
    // Those of earlier versions have the key alone.
    let same = std::fs::read_to_string(&marker).is_ok_and(|old| old == own || old == key);
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let opened = Opened {
        resume: same && resume,
        folder: folder.to_owned(),
        aside: folder.with_file_name(format!("{name}.before")),
    };
    if opened.resume {
        return Ok(opened);
    }
    if folder.exists() {
        // A run that was killed before it began is worth less than what it has put aside.
        if opened.aside.exists() && !folder.join(RECORD).exists() && !has_work(folder) {
            remove(folder)?;
        } else {
            remove(&opened.aside)?;
            rename(folder, &opened.aside)?;
        }
    }
    files::write(&marker, own.as_bytes())?;
    Ok(opened)
}

impl Opened {
    /// The stage is done: what it replaces goes.
    ///
    /// # Errors
    /// `Error::Failed` names the folder that can't be removed.
    pub fn done(&self) -> Result {
        remove(&self.aside)
    }

    /// The stage has ended without a result. Where it has begun to work, that stays, to be resumed, and so does what it would have replaced: the
    /// folder of that is returned. Where it has not, all is as it was before.
    ///
    /// # Errors
    /// `Error::Failed` names the folder that can't be moved or removed.
    pub fn failed(&self) -> Result<Option<&Path>> {
        if !self.aside.exists() {
            return Ok(None);
        }
        if has_work(&self.folder) {
            return Ok(Some(&self.aside));
        }
        remove(&self.folder)?;
        rename(&self.aside, &self.folder)?;
        Ok(None)
    }
}

/// Whether a stage that has no result has left what can be gone on with: epochs of a training, candidates of a search.
fn has_work(folder: &Path) -> bool {
    let trained = |folder: &Path| train::unfinished(folder).or_else(|| train::finished(folder)).is_some();
    let candidates = std::fs::read_dir(folder.join("candidates"));
    trained(folder) || trained(&folder.join("qat")) || candidates.is_ok_and(|mut entries| entries.next().is_some())
}

fn remove(folder: &Path) -> Result {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("can't clear the folder", folder, &error))
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result {
    std::fs::rename(from, to).map_err(|error| io_error("can't move the folder", from, &error))
}

/// Writes the record; a stage counts as done from here on.
///
/// # Errors
/// `Error::Failed` names the file `stage.json` that can't be written.
pub fn store_record(folder: &Path, record: &Record) -> Result {
    let path = folder.join(RECORD);
    let text = serde_json::to_string_pretty(record)?;
    files::write(&path, text.as_bytes())
}

/// Key of a stage: the stage itself, what came before, and the common part of the recipe.
pub fn stage_key(previous: &str, stage: &Value, common: &Value) -> String {
    let text = format!("{PIPELINE_VERSION}\n{previous}\n{stage}\n{common}");
    files::hex(&Sha256::digest(text.as_bytes()))
}

/// SHA-256 of the libraries and modules of plugins that a stage names: what they are called says nothing of what they do.
///
/// # Errors
/// `Error::Failed` names a file that can't be read.
pub fn code_of(session: Session<'_>, stage: &Value) -> Result<BTreeMap<PathBuf, String>> {
    fn names<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(name) => found.push(name),
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            Value::Object(map) => map.values().for_each(|item| names(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut found = Vec::new();
    names(stage, &mut found);
    let mut code = BTreeMap::new();
    let files = found.into_iter().flat_map(|name| session.plugins.code(name, ""));
    for path in files.filter(|path| path.is_file()) {
        let hash = files::hash(&path)?;
        code.insert(path, hash);
    }
    Ok(code)
}

/// Hash of names, sizes and times of the files of a data set: cheap, and changes when the data does.
pub fn listing_hash<'a>(files: impl Iterator<Item = &'a Path>) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.as_os_str().as_encoded_bytes());
        if let Ok(meta) = file.metadata() {
            hash.update(meta.len().to_le_bytes());
            let modified = meta
                .modified()
                .ok()
                .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            hash.update(modified.map_or(0, |t| t.as_nanos()).to_le_bytes());
        }
    }
    files::hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_replaces_goes_when_it_is_done() {
        let dir = tempfile::tempdir().expect("a folder");
        let [folder, aside] = ["2-prune", "2-prune.before"].map(|name| dir.path().join(name));
        std::fs::create_dir(&folder).expect("a folder");
        for (name, text) in [(RECORD, "{}"), (KEY, "old")] {
            std::fs::write(folder.join(name), text).expect("a file");
        }
        let key = || {
            let text = std::fs::read_to_string(folder.join(KEY)).expect("a key");
            text.lines().next().map(str::to_owned).expect("a line")
        };
        // It can't begin.
        let opened = open_stage(&folder, "new", "m", false).expect("a folder");
        assert!(!opened.resume && aside.join(RECORD).exists() && key() == "new");
        assert_eq!(opened.failed().expect("moved back"), None);
        assert!(folder.join(RECORD).exists() && !aside.exists() && key() == "old");
        // It is killed before it begins, twice.
        for name in ["new", "newer"] {
            open_stage(&folder, name, "m", false).expect("a folder");
            assert!(aside.join(RECORD).exists() && key() == name);
        }
        // It has begun.
        let opened = open_stage(&folder, "new", "m", false).expect("a folder");
        std::fs::create_dir(folder.join("candidates")).expect("a folder");
        std::fs::write(folder.join("candidates/list.csv"), "").expect("a file");
        assert_eq!(opened.failed().expect("left"), Some(aside.as_path()));
        let opened = open_stage(&folder, "new", "m", true).expect("a folder");
        assert!(opened.resume && aside.join(RECORD).exists());
        opened.done().expect("removed");
        // The stages before have left another model: nothing goes on.
        assert!(!open_stage(&folder, "new", "of others", true).expect("a folder").resume);
        let opened = open_stage(&folder, "new", "of others", true).expect("a folder");
        assert!(opened.resume);
        opened.failed().expect("moved back");
        assert!(!aside.exists() && folder.join("candidates/list.csv").exists());
    }
}
