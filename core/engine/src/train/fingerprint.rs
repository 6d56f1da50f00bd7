//! What a run was started on, in a few numbers and hashes: enough to refuse a resume on something else, and to say what differs.
//!
//! What must not live here: reading files. A fingerprint is made of what was read anyway.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use yolo_core::Params;
use yolo_data::{Loader, Sample};

use crate::Result;
use crate::raw::RawTensor;

/// Images of one split and their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// Images.
    pub images: usize,
    /// Boxes.
    pub boxes: usize,
    /// Hash of the files' names, below the folder that they share, and of their sizes in pixels.
    pub files: String,
    /// Hash of the boxes.
    pub labels: String,
}

/// Data and start of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// What it learns from.
    pub train: Images,
    /// What it is measured on.
    pub val: Option<Images>,
    /// Names of the classes.
    pub names: Vec<String>,
    /// Hash of the weights that it started from.
    pub weights: String,
}

impl Fingerprint {
    /// Of a run that starts from `weights`.
    ///
    /// # Errors
    /// `Error::Settings` where weights are of a kind that no file holds; `Error::Torch` where they can't be copied to the host.
    pub fn of(train: &Loader, val: Option<&Loader>, names: &[String], weights: &Params) -> Result<Self> {
        Ok(Self {
            train: Images::of(train.samples()),
            val: val.map(|loader| Images::of(loader.samples())),
            names: names.to_vec(),
            weights: hash_of(weights)?,
        })
    }

    /// Takes over what a run was started from, where that is gone and the run goes on from its own state.
    pub(super) fn start_as(&mut self, there: Option<&Self>) {
        if let Some(there) = there {
            self.weights.clone_from(&there.weights);
        }
    }

    /// What is another here than in `there`, the fingerprint of an unfinished run; nothing if the run can go on.
    pub fn differences(&self, there: &Self) -> Vec<String> {
        let mut out = Vec::new();
        if self.names != there.names {
            out.push(format!(
                "the classes are {:?} here, {:?} there",
                self.names, there.names
            ));
        }
        self.train.differences(&there.train, "training", &mut out);
        match (&self.val, &there.val) {
            (Some(here), Some(there)) => here.differences(there, "validation", &mut out),
            (None, None) => {}
            (here, _) => {
                let word = if here.is_some() {
                    "here, but not there"
                } else {
                    "there, but not here"
                };
                out.push(format!("there is a validation {word}"));
            }
        }
        if self.weights != there.weights {
            out.push("the weights to start from are others".to_owned());
        }
        out
    }
}

impl Images {
    /// What these images and their boxes are known by.
    pub fn of(samples: &[Sample]) -> Self {
        let shared = shared_folder(samples.iter().map(|sample| sample.image.as_path()));
        let (mut files, mut labels) = (Sha256::new(), Sha256::new());
        let mut boxes = 0;
        for Sample {
            image,
            boxes: own,
            size,
            ..
        } in samples
        {
            let name = image.strip_prefix(&shared).unwrap_or(image);
            files.update(name.as_os_str().as_encoded_bytes());
            files.update([0]);
            size.iter().for_each(|side| files.update(side.to_le_bytes()));
            labels.update(own.len().to_le_bytes());
            own.iter()
                .flatten()
                .for_each(|number| labels.update(number.to_le_bytes()));
            boxes += own.len();
        }
        Self {
            images: samples.len(),
            boxes,
            files: hex(files),
            labels: hex(labels),
        }
    }

    fn differences(&self, there: &Self, split: &str, out: &mut Vec<String>) {
        if self.images != there.images {
            out.push(format!("{} {split} images here, {} there", self.images, there.images));
        } else if self.files != there.files {
            out.push(format!("the {split} images have other names or sizes"));
        } else if self.boxes != there.boxes {
            out.push(format!(
                "{} boxes in the {split} labels here, {} there",
                self.boxes, there.boxes
            ));
        } else if self.labels != there.labels {
            out.push(format!("boxes in the {split} labels have changed"));
        }
    }
}

/// The longest folder that all files are in: a data set that was moved is the same.
fn shared_folder<'a>(mut files: impl Iterator<Item = &'a Path>) -> PathBuf {
    let mut shared = files
        .next()
        .and_then(Path::parent)
        .map(Path::to_owned)
        .unwrap_or_default();
    for file in files {
        while !file.starts_with(&shared) && shared.pop() {}
    }
    shared
}

/// A hash of names, shapes and values.
pub(super) fn hash_of(params: &Params) -> Result<String> {
    let mut hash = Sha256::new();
    for (key, tensor) in params.iter() {
        let raw = RawTensor::from_tensor(tensor)?;
        hash.update(key.as_bytes());
        raw.shape.iter().for_each(|length| hash.update(length.to_le_bytes()));
        hash.update(&raw.bytes);
    }
    Ok(hex(hash))
}

/// The first 16 of 32 bytes: what is asked is whether something changed, not whether somebody forged it.
fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Settings that differ, one text each, `hyp.lr0 is 0.01 here, 0.02 there`.
pub fn changed_settings(here: &Value, there: &Value) -> Vec<String> {
    fn walk(place: &str, here: &Value, there: &Value, out: &mut Vec<String>) {
        if let (Value::Object(a), Value::Object(b)) = (here, there) {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                let name = if place.is_empty() {
                    key.clone()
                } else {
                    format!("{place}.{key}")
                };
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                walk(&name, &value(a), &value(b), out);
            }
        } else if here != there {
            out.push(format!("{place} is {here} here, {there} there"));
        }
    }
    let mut out = Vec::new();
    walk("", here, there, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn sample(image: &str, boxes: &[[f32; 5]]) -> Sample {
        Sample {
            image: image.into(),
            label: PathBuf::new(),
            boxes: boxes.to_vec(),
            size: [64, 48],
        }
    }

    #[test]
    fn a_moved_data_set_is_the_same_and_a_changed_one_is_described() {
        let a_box = [1.0, 0.5, 0.5, 0.25, 0.25];
        let here = Images::of(&[sample("a/images/1.jpg", &[a_box]), sample("a/images/2.jpg", &[])]);
        assert_eq!(
            here,
            Images::of(&[sample("b/c/1.jpg", &[a_box]), sample("b/c/2.jpg", &[])])
        );
        let differs = |samples: &[Sample]| {
            let mut out = Vec::new();
            here.differences(&Images::of(samples), "training", &mut out);
            out.join("; ")
        };
        assert_eq!(differs(&[sample("1.jpg", &[a_box])]), "2 training images here, 1 there");
        let renamed = [sample("a/1.jpg", &[a_box]), sample("a/3.jpg", &[])];
        assert_eq!(differs(&renamed), "the training images have other names or sizes");
        let more = [sample("a/1.jpg", &[a_box]), sample("a/2.jpg", &[a_box])];
        assert_eq!(differs(&more), "1 boxes in the training labels here, 2 there");
        let moved = [
            sample("a/1.jpg", &[[1.0, 0.5, 0.5, 0.25, 0.26]]),
            sample("a/2.jpg", &[]),
        ];
        assert_eq!(differs(&moved), "boxes in the training labels have changed");
    }

    #[test]
    fn other_weights_and_classes_are_named() {
        let weights = |value: f64| -> Params {
            let tensor = Tensor::full([2, 2], value, (Kind::Float, Device::Cpu));
            std::iter::once(("model.0.weight".to_owned(), tensor)).collect()
        };
        let print = |value: f64, names: &[&str], val: bool| Fingerprint {
            val: val.then(Images::default),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            weights: hash_of(&weights(value)).unwrap(),
            ..Fingerprint::default()
        };
        let here = print(1.0, &["cat"], true);
        assert_eq!(here.differences(&print(1.0, &["cat"], true)), Vec::<String>::new());
        assert_eq!(
            here.differences(&print(2.0, &["dog"], false)),
            [
                "the classes are [\"cat\"] here, [\"dog\"] there",
                "there is a validation here, but not there",
                "the weights to start from are others"
            ]
        );
    }

    #[test]
    fn changed_settings_are_named_with_both_values() {
        let here = json!({"epochs": 4, "hyp": {"lr0": 0.01, "lrf": 0.1}, "seed": 0});
        let there = json!({"epochs": 2, "hyp": {"lr0": 0.02, "lrf": 0.1}, "seed": 0, "old": true});
        assert_eq!(
            changed_settings(&here, &there),
            [
                "epochs is 4 here, 2 there",
                "hyp.lr0 is 0.01 here, 0.02 there",
                "old is null here, true there"
            ]
        );
        assert!(changed_settings(&here, &here).is_empty());
    }
}
