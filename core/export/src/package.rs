//! What a program must know about a file to find boxes with it: the size and the values of its input, what its outputs mean, anchors,
//! strides, names of classes, thresholds. It is written beside each file as `FILE.json`, and read back from there, from the metadata that
//! ONNX files of ours and of Ultralytics hold, or from what their converters leave beside a file of another format.
//!
//! What must not be here: how a file is run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use yolo_core::graph::DetectHead;

use crate::onnx::proto::ModelProto;
use crate::{Error, Result};

/// Version of this format; it grows when what is there changes its meaning.
pub const VERSION: u32 = 1;

/// More classes than any detector has: a number above is no class.
const MOST_CLASSES: usize = 100_000;

/// Everything about a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// [`VERSION`].
    pub version: u32,
    /// What it is for.
    pub task: String,
    /// What goes in.
    pub input: Input,
    /// How a picture gets the size of the input.
    pub letterbox: Fit,
    /// What comes out.
    pub output: Output,
    /// Names of the classes, in the order of their numbers; empty where nobody said them.
    pub classes: Vec<String>,
    /// What `yolo detect` uses where no flag says something else; in a file that suppresses by itself, what it does.
    pub thresholds: Thresholds,
    /// Of `input`, `letterbox` and `output` as they were written: they belong to the file beside them, and nothing else tells a wrong
    /// anchor or stride. Who changed them on purpose takes this line out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Of the bytes of the file that this describes; of ncnn's two files together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The input of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name in the file.
    pub name: String,
    /// Images (`null`: any number), channels, height, width (`null`: any multiple of the largest stride).
    pub shape: [Option<i64>; 4],
    /// Order of the channels.
    pub channels: String,
    /// A byte `b` of a picture goes in as `(b - mean) / divisor`.
    pub mean: f64,
    /// See `mean`.
    pub divisor: f64,
}

/// Letterboxing: scaled so that it fits, centred, the rest filled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// Value of all channels of the border, as a byte.
    pub border: u8,
    /// Method of scaling.
    pub scaling: String,
}

/// What the outputs of a file mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Output {
    /// `[images, boxes, 5 + classes]`: centre x, y, width, height in pixels of the input, objectness, probabilities of the classes; a score
    /// is objectness times probability.
    Boxes {
        /// Name of the output.
        name: String,
    },
    /// Raw values of the head before sigmoid, one output per level, finest first.
    Raw {
        /// Names of the outputs.
        names: Vec<String>,
        /// Order of their axes: `image, anchor, row, column, value` (ONNX) or `anchor, cell, value` (ncnn).
        axes: Vec<String>,
        /// Sizes of the anchors in pixels, `[level][anchor] = [width, height]`.
        anchors: Vec<Vec<[f64; 2]>>,
        /// Pixels per cell of each level.
        strides: Vec<i64>,
    },
    /// Detections after suppression in the file.
    Suppressed {
        /// Names of the outputs.
        names: Vec<String>,
    },
    /// Maps of a network without a head.
    Maps {
        /// Names of the outputs.
        names: Vec<String>,
    },
}

/// Thresholds of detection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Least score.
    pub score: f64,
    /// Boxes that overlap a better one of their class by more are dropped.
    pub iou: f64,
    /// Most boxes of a picture; of each class in files that suppress with ONNX' own op.
    pub boxes: u32,
    /// Boxes of all classes compete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agnostic: bool,
}

impl Default for Thresholds {
    /// Those of YOLOv5's detection.
    fn default() -> Self {
        Self {
            score: 0.25,
            iou: 0.45,
            boxes: 1000,
            agnostic: false,
        }
    }
}

impl Package {
    /// A file whose pictures are prepared as YOLOv5 does it.
    pub fn new(input: &str, shape: [Option<i64>; 4], output: Output, classes: &[String]) -> Self {
        let mut package = Self {
            version: VERSION,
            task: "detect".to_owned(),
            input: Input {
                name: input.to_owned(),
                shape,
                channels: "rgb".to_owned(),
                mean: 0.0,
                divisor: 255.0,
            },
            letterbox: Fit {
                border: 114,
                scaling: "bilinear".to_owned(),
            },
            output,
            classes: classes.to_vec(),
            thresholds: Thresholds::default(),
            checksum: None,
            file: None,
        };
        package.checksum = Some(package.sum());
        package
    }

    /// SHA-256 of what belongs to the file, 16 hexadecimal digits.
    fn sum(&self) -> String {
        let text = serde_json::json!([self.input, self.letterbox, self.output]).to_string();
        sum_of(&[text.as_bytes()])
    }

    /// The text of `FILE.json`.
    ///
    /// # Errors
    /// Where a number has no form in JSON.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Unsupported(format!("JSON: {error}")))?;
        Ok(text + "\n")
    }

    /// Reads a `FILE.json`.
    ///
    /// # Errors
    /// Where it can't be read, or is of another format.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::read(path, source))?;
        let wrong = |reason: String| wrong(path, reason);
        let package: Self = serde_json::from_slice(&bytes).map_err(|error| {
            wrong(format!(
                "it does not describe a file of `yolo export`: {}; write the file again",
                yolo_core::config::in_words(&error)
            ))
        })?;
        if package.version != VERSION {
            let reason = format!(
                "its version is {}, this program reads {VERSION}; write the file again",
                package.version
            );
            return Err(wrong(reason));
        }
        if package.task != "detect" {
            return Err(wrong(format!(
                "its task is `{}`; this program has `detect`",
                package.task
            )));
        }
        let usual = Self::new("", [None; 4], package.output.clone(), &[]);
        let (input, known) = (&package.input, &usual.input);
        if (&input.channels, input.mean, input.divisor) != (&known.channels, known.mean, known.divisor)
            || package.letterbox != usual.letterbox
        {
            let reason = "pictures for it are prepared in another way than RGB / 255 on gray 114: this program has only that one";
            return Err(wrong(reason.to_owned()));
        }
        let Thresholds { score, iou, boxes, .. } = package.thresholds;
        if !(0.0..=1.0).contains(&score) || !(0.0..=1.0).contains(&iou) || boxes == 0 {
            let reason = "its `thresholds` have a `score` and an `iou` from 0 to 1 and at least one of `boxes`";
            return Err(wrong(reason.to_owned()));
        }
        if package.checksum.as_ref().is_some_and(|sum| *sum != package.sum()) {
            let reason = "its `input`, `letterbox` or `output` was changed after `yolo export` wrote it: write the file again, or take the \
                          line `checksum` out if the change is meant";
            return Err(wrong(reason.to_owned()));
        }
        Ok(package)
    }

    /// Height and width, where both are fixed.
    pub fn image(&self) -> Option<[i64; 2]> {
        let [_, _, height, width] = self.input.shape;
        Some([height?, width?])
    }

    /// The head that decodes raw outputs.
    pub fn head(&self) -> Option<DetectHead> {
        match &self.output {
            Output::Raw { anchors, strides, .. } => Some(DetectHead {
                prefix: "head".to_owned(),
                classes: self.classes.len() as i64,
                anchors: anchors.clone(),
                strides: strides.clone(),
                unfitted: false,
            }),
            Output::Boxes { .. } | Output::Suppressed { .. } | Output::Maps { .. } => None,
        }
    }
}

/// SHA-256 of some bytes, 16 hexadecimal digits.
pub(crate) fn sum_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What must be said where a description was written for other bytes than those of `file`.
fn of_another(file: &Path, package: &Package) -> Result<Option<String>> {
    let Some(wanted) = &package.file else { return Ok(None) };
    let read = |path: &Path| std::fs::read(path).map_err(|source| Error::read(path, source));
    let own = read(file)?;
    let found = if file
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("param"))
    {
        let Ok(bin) = read(&file.with_extension("bin")) else {
            // Where the other half is missing, the engine says so.
            return Ok(None);
        };
        sum_of(&[&own, &bin])
    } else {
        sum_of(&[&own])
    };
    Ok((found != *wanted).then(|| {
        format!(
            "note: {} was written for another file than {}: anchors, sizes and class names are taken from there, and wrong where the networks \
             differ; files that belong together are written by one `yolo export`",
            path_of(file).display(),
            file.display()
        )
    }))
}

/// Where the description of a file stands: `model.onnx.json` for `model.onnx`.
pub fn path_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// What is known about a file besides what its engine says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Its description.
    pub package: Option<Package>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Largest stride.
    pub stride: Option<i64>,
    /// What a person must be told.
    pub note: Option<String>,
}

fn wrong(path: &Path, reason: String) -> Error {
    Error::Format {
        path: path.to_owned(),
        reason,
    }
}

/// Looks for what is known about a file: `FILE.json`; the same of the ONNX file that an `.xml` was converted from; the metadata in an
/// ONNX file; Ultralytics' `metadata.yaml`. Nothing of it has to be there.
///
/// # Errors
/// Where it is there and can't be read.
pub fn known(file: &Path) -> Result<Known> {
    let is = |ending: &str| file.extension().is_some_and(|own| own.eq_ignore_ascii_case(ending));
    let source = is("xml").then(|| path_of(&file.with_extension("onnx")));
    for path in [path_of(file)].into_iter().chain(source) {
        if path.is_file() {
            let package = Package::read(&path)?;
            return Ok(Known {
                note: if is("xml") { None } else { of_another(file, &package)? },
                classes: package.classes.clone(),
                stride: None,
                package: Some(package),
            });
        }
    }
    if is("onnx") {
        let model = ModelProto::read(file)?;
        let entry = |key: &str| {
            let found = model.metadata_props.iter().find(|entry| entry.key == key);
            found.map(|entry| entry.value.as_str())
        };
        return Ok(Known {
            package: None,
            classes: entry("names")
                .map(names)
                .transpose()
                .map_err(|reason| wrong(file, reason))?
                .unwrap_or_default(),
            stride: entry("stride").and_then(|text| text.trim().parse().ok()),
            note: None,
        });
    }
    let beside = file.with_file_name("metadata.yaml");
    let Ok(text) = std::fs::read_to_string(&beside) else {
        return Ok(Known::default());
    };
    let located =
        yolo_core::config::Located::parse(&beside.display().to_string(), &text).map_err(|error| Error::Format {
            path: beside.clone(),
            reason: error.to_string(),
        })?;
    Ok(Known {
        package: None,
        classes: located
            .value
            .get("names")
            .map(listed)
            .transpose()
            .map_err(|reason| wrong(&beside, reason))?
            .unwrap_or_default(),
        stride: located.value.get("stride").and_then(Value::as_i64),
        note: None,
    })
}

/// Names in metadata: a list in JSON (ours), or a mapping from numbers as Python prints it (Ultralytics'), which is YAML, too.
fn names(text: &str) -> Result<Vec<String>, String> {
    match serde_json::from_str(text) {
        Ok(value) => listed(&value),
        Err(_) => listed(
            &yolo_core::config::Located::parse("names", text)
                .map_err(|error| error.to_string())?
                .value,
        ),
    }
}

/// Names from a list, or from a mapping by their numbers; a number without a name is its own.
fn listed(value: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Array(names) => Ok(names.iter().map(text).collect()),
        Value::Object(names) => {
            let mut rows = BTreeMap::new();
            for (key, name) in names {
                let number = key.parse::<usize>().ok().filter(|number| *number < MOST_CLASSES);
                let number = number.ok_or_else(|| format!("`names` has `{key}`, which is no number of a class"))?;
                rows.insert(number, text(name));
            }
            let count = rows.keys().next_back().map_or(0, |last| last + 1);
            let name = |number: usize| rows.remove(&number).unwrap_or_else(|| number.to_string());
            Ok((0..count).map(name).collect())
        }
        _ => Err("`names` is neither a list nor a mapping from numbers".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        let output = Output::Raw {
            names: vec!["out0".into()],
            axes: ["anchor", "cell", "value"].map(str::to_owned).to_vec(),
            anchors: vec![vec![[10.0, 13.0]]],
            strides: vec![8],
        };
        Package::new(
            "in0",
            [Some(1), Some(3), Some(64), Some(96)],
            output,
            &["a".into(), "b".into()],
        )
    }

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("net.param");
        std::fs::write(path_of(&file), package().to_json().unwrap()).unwrap();
        let known = known(&file).unwrap();
        assert_eq!(known.package, Some(package()));
        assert_eq!(known.classes, ["a", "b"]);
        assert_eq!(package().image(), Some([64, 96]));
        assert_eq!(package().head().unwrap().outputs_per_anchor(), 7);
    }

    #[test]
    fn a_description_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.onnx.json");
        let json = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(package()).unwrap();
            change(&mut value);
            std::fs::write(&path, value.to_string()).unwrap();
            known(&folder.path().join("net.onnx")).unwrap_err().to_string()
        };
        assert!(json(&|v| v["version"] = 2.into()).contains("version is 2"));
        assert!(json(&|v| v["input"]["divisor"] = 1.0.into()).contains("another way"));
        assert!(json(&|v| v["input"]["channels"] = "bgr".into()).contains("another way"));
        assert!(json(&|v| v["letterbox"]["border"] = 0.into()).contains("another way"));
        // What would give other boxes without a word.
        assert!(json(&|v| v["output"]["strides"][0] = 16.into()).contains("`checksum`"));
        assert!(json(&|v| v["output"]["anchors"][0][0][1] = 14.0.into()).contains("was changed"));
        assert!(json(&|v| v["input"]["shape"][2] = 96.into()).contains("was changed"));
        assert!(json(&|v| v["task"] = "segment".into()).contains("`segment`"));
        let error = json(&|v| v["output"]["kind"] = "else".into());
        assert!(
            error.contains("net.onnx.json") && error.contains("write the file again"),
            "{error}"
        );
    }

    #[test]
    fn names_come_as_a_list_or_as_python_prints_them() {
        assert_eq!(
            names(r#"["person","traffic light"]"#).unwrap(),
            ["person", "traffic light"]
        );
        assert_eq!(
            names("{0: 'person', 3: 'bus', 2: \"b c\"}").unwrap(),
            ["person", "1", "b c", "bus"]
        );
        for (text, word) in [("person", "neither"), ("{0: a, b: c}", "`b`"), ("{-1: a}", "`-1`")] {
            let error = names(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn what_ultralytics_leaves_beside_an_xml_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("net.xml");
        assert_eq!(known(&file).unwrap(), Known::default());
        std::fs::write(
            folder.path().join("metadata.yaml"),
            "stride: 32\nnames:\n  0: cat\n  1: dog\n",
        )
        .unwrap();
        let found = known(&file).unwrap();
        assert_eq!(
            (found.classes, found.stride),
            (vec!["cat".to_owned(), "dog".to_owned()], Some(32))
        );
    }
}
