//! What makes a recipe resumable: each stage has a key, the hash of everything that it depends on, and a record that is written
//! when it is done. A stage whose record has its key is not run again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Result, io_error};
use crate::files;

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
    std::fs::read_to_string(folder.join(KEY)).is_ok_and(|old| old != key)
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

/// Prepares the folder of a stage that will run. Whether it continues what an interrupted run of the same stage left there: only if
/// that is wanted and nothing that it depends on has changed. Otherwise the remains are removed.
///
/// # Errors
/// `Error::Failed` names the folder that can't be cleared, or the file `stage.key` that can't be written.
pub fn open_stage(folder: &Path, key: &str, resume: bool) -> Result<bool> {
    let marker = folder.join(KEY);
    let same = std::fs::read_to_string(&marker).is_ok_and(|old| old == key);
    if same && resume {
        return Ok(true);
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|error| io_error("can't clear the folder", folder, &error))?;
    }
    files::write(&marker, key.as_bytes())?;
    Ok(false)
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
