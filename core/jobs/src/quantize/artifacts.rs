//! The files of a backend: made and checked first, written when all agree.

use std::path::PathBuf;

use yolo_core::{Quantizer, quant};
use yolo_engine::Checkpoint;
use yolo_export::Error as Export;
use yolo_export::checked::{self, Format, Prepared, Request, Written};
use yolo_export::onnx::{Difference, Profile};
use yolo_export::steps::{Fused, Steps};

use super::{Agreement, Quantization};
use crate::error::Result;
use crate::files;

/// The files of a backend, held against the quantized network and not written yet: its text files with the float network that they belong
/// to, and the QDQ network where the scheme has one.
pub struct Artifacts {
    networks: Vec<(Prepared, Option<Agreement>)>,
    texts: Vec<(PathBuf, String)>,
}

/// What a network file was compared with, and how it came out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// Largest differences end to end.
    pub diff: Option<Difference>,
    /// Its quantizers, each on its own.
    pub steps: Option<Steps>,
    /// What the engine's own kernels make of simulated values.
    pub fused: Option<Fused>,
    /// Why it was not run.
    pub unchecked: Option<String>,
    /// What it computes otherwise: it was written all the same.
    pub faults: Vec<String>,
    /// What it finds on pictures, beside what the network finds.
    pub detections: Option<Agreement>,
    /// All of it for a person.
    pub said: String,
}

impl Checked {
    fn of(written: &Written, detections: Option<Agreement>) -> Self {
        let own = written.ran.as_ref().and_then(|ran| ran.fused.as_ref());
        let found = detections.as_ref().map(|found| format!("; {}", found.summary()));
        Self {
            path: written.files[0].clone(),
            diff: written.difference,
            steps: written.steps,
            fused: own.or(written.fused.as_ref()).cloned(),
            unchecked: written.unchecked.clone(),
            faults: written.faults.clone(),
            said: written.summary() + &found.unwrap_or_default(),
            detections,
        }
    }
}

impl Quantization<'_> {
    /// Makes the files of the backend, named after `stem`, and holds them against the network.
    ///
    /// # Errors
    /// Where a file does not compute what the network computes, unless it is wanted in any case; where the backend has neither files nor a
    /// QDQ network.
    pub fn artifacts(&self, stem: &str, model: &Checkpoint, quantizer: &dyn Quantizer) -> Result<Artifacts> {
        let ranges = quant::Ranges::of(&model.graph, &model.params)?;
        let texts = quantizer.artifacts(stem, &ranges)?;
        not_ours(stem, &texts)?;
        let prepare = |format, name: String| {
            let request = Request {
                profile: profile_of(quantizer),
                names: model.meta.names.clone(),
                force: self.settings.force,
                ..Request::new(format, [self.img as i64; 2])
            };
            checked::prepare(&model.graph, &model.params, &request, &self.folder.join(name))
        };
        let mut networks = Vec::new();
        if !texts.is_empty() {
            networks.push((prepare(Format::Onnx, format!("{stem}_deploy_model.onnx"))?, None));
        }
        let kind = match profile_of(quantizer) {
            Profile::QLinear => "qlinear",
            _ => "qdq",
        };
        match prepare(Format::OnnxQdq, format!("{stem}_{kind}.onnx")) {
            Ok(file) => {
                let found = self.agreement(model, &file, profile_of(quantizer))?;
                networks.push((file, found));
            }
            // A logarithmic or power-of-two grid with odd rounding has no QDQ form; the backend's own files are all there is.
            Err(error @ (Export::Node { .. } | Export::Unsupported(_))) if !networks.is_empty() => {
                self.session.say(format!("no QDQ file: {error}"));
            }
            Err(error @ Export::Disagrees(_)) => {
                let help = "--force writes it with a report of all that was compared beside it";
                return Err(crate::Error::Failed(format!("{error}\n  help: {help}")));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Artifacts {
            networks,
            texts: texts
                .into_iter()
                .map(|file| (self.folder.join(&file.name), file.text))
                .collect(),
        })
    }
}

/// Files of this program in the folder of a quantized model.
const OURS: [&str; 2] = ["quantized.safetensors", "sensitivity.json"];

/// Backends may be anyone's: their files take the place of no other.
///
/// # Errors
/// Names the file.
fn not_ours(stem: &str, texts: &[quant::Artifact]) -> Result<()> {
    for (at, quant::Artifact { name, .. }) in texts.iter().enumerate() {
        let network = name.strip_prefix(stem).is_some_and(|rest| {
            let rest = rest.strip_suffix(".json").unwrap_or(rest);
            ["_deploy_model.onnx", "_qdq.onnx", "_qlinear.onnx"].contains(&rest)
        });
        let why = if network || OURS.contains(&name.as_str()) {
            "this program writes a file of this name itself"
        } else if texts[..at].iter().any(|other| other.name == *name) {
            "it gives two files of this name"
        } else {
            continue;
        };
        return Err(crate::Error::Failed(format!(
            "the backend's file `{name}` can't be written: {why}\n  help: this is a mistake in the plugin, tell its author"
        )));
    }
    Ok(())
}

impl Artifacts {
    /// Writes them; the files, and what each network was compared with.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(self) -> Result<(Vec<PathBuf>, Vec<Checked>)> {
        let (mut paths, mut checks) = (Vec::new(), Vec::new());
        for (path, text) in self.texts {
            files::write(&path, text.as_bytes())?;
            paths.push(path);
        }
        for (network, found) in self.networks {
            let written = network.commit()?;
            checks.push(Checked::of(&written, found));
            paths.extend(written.files);
        }
        Ok((paths, checks))
    }
}

/// The form of QDQ files that a backend's engine reads best.
pub fn profile_of(quantizer: &dyn Quantizer) -> Profile {
    let backend = quantizer.backend();
    match backend.engine.as_deref() {
        Some("openvino") => Profile::OpenVino,
        Some("qlinear") => Profile::QLinear,
        _ if backend.integer_ops => Profile::Ort,
        _ => Profile::TensorRt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_files_take_the_place_of_no_other() {
        let files = |names: &[&str]| -> Vec<quant::Artifact> {
            let file = |name: &&str| quant::Artifact {
                name: (*name).to_owned(),
                text: "1".into(),
            };
            names.iter().map(file).collect()
        };
        let refused = |names: &[&str]| not_ours("best", &files(names)).err().map(|error| error.to_string());
        assert_eq!(refused(&["best_ranges.json", "best.scale"]), None);
        for name in ["quantized.safetensors", "best_qdq.onnx", "best_deploy_model.onnx.json"] {
            assert!(refused(&["a", name]).is_some_and(|text| text.contains(name)), "{name}");
        }
        assert!(refused(&["a", "b", "a"]).is_some_and(|text| text.contains("two files")));
    }
}
