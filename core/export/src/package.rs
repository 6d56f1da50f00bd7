//! What a program must know about a file to find boxes with it: the size and the values of its input, what its outputs mean, anchors,
//! strides, names of classes, thresholds. It is written beside each file as `FILE.json`, and read back from there, from the metadata that
//! ONNX files of ours and of Ultralytics hold, or from what their converters leave beside a file of another format.
//!
//! What must not be here: how a file is run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use yolo_core::graph::DetectHead;

use crate::onnx::proto::ModelProto;
use crate::{Error, Result};

/// Version of this format; it grows when what is there changes its meaning.
pub const VERSION: u32 = 1;

/// Everything about a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// What detection uses where nobody says something else.
    pub thresholds: Thresholds,
}

/// The input of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
pub struct Thresholds {
    /// Least score.
    pub score: f64,
    /// Boxes that overlap a better one of their class by more are dropped.
    pub iou: f64,
    /// Most boxes of a picture.
    pub boxes: u32,
}

impl Default for Thresholds {
    /// Those of YOLOv5's detection.
    fn default() -> Self {
        Self {
            score: 0.25,
            iou: 0.45,
            boxes: 1000,
        }
    }
}

impl Package {
    /// A file whose pictures are prepared as YOLOv5 does it.
    pub fn new(input: &str, shape: [Option<i64>; 4], output: Output, classes: &[String]) -> Self {
        Self {
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
        }
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
        let wrong = |reason: String| Error::Format {
            path: path.to_owned(),
            reason,
        };
        let package: Self = serde_json::from_slice(&bytes).map_err(|error| {
            wrong(format!(
                "it does not describe a file of `yolo export`: {error}; write the file again"
            ))
        })?;
        if package.version != VERSION {
            let reason = format!(
                "its version is {}, this program reads {VERSION}; write the file again",
                package.version
            );
            return Err(wrong(reason));
        }
        let usual = Self::new("", [None; 4], package.output.clone(), &[]);
        let (input, known) = (&package.input, &usual.input);
        if (&input.channels, input.mean, input.divisor) != (&known.channels, known.mean, known.divisor)
            || package.letterbox != usual.letterbox
        {
            let reason = "pictures for it are prepared in another way than RGB / 255 on gray 114: this program has only that one";
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
            classes: entry("names").and_then(names).unwrap_or_default(),
            stride: entry("stride").and_then(|text| text.trim().parse().ok()),
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
        classes: located.value.get("names").map(listed).unwrap_or_default(),
        stride: located.value.get("stride").and_then(serde_json::Value::as_i64),
    })
}

/// Names in metadata: a list in JSON (ours), or a mapping from numbers as Python prints it (Ultralytics'), which is YAML, too.
fn names(text: &str) -> Option<Vec<String>> {
    let value = serde_json::from_str(text).ok().or_else(|| {
        let located = yolo_core::config::Located::parse("names", text).ok()?;
        Some(located.value)
    })?;
    Some(listed(&value)).filter(|names| !names.is_empty())
}

/// Names from a list, or from a mapping in the order of its numbers.
fn listed(value: &serde_json::Value) -> Vec<String> {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        serde_json::Value::Array(names) => names.iter().map(text).collect(),
        serde_json::Value::Object(names) => {
            let mut rows: Vec<(usize, String)> = names
                .iter()
                .filter_map(|(number, name)| Some((number.parse().ok()?, text(name))))
                .collect();
            rows.sort_unstable();
            rows.into_iter().map(|(_, name)| name).collect()
        }
        _ => Vec::new(),
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
            names("{0: 'person', 10: 'bus', 2: \"b c\"}").unwrap(),
            ["person", "b c", "bus"]
        );
        assert_eq!(names("person"), None);
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
