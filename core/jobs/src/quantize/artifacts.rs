//! The files of a backend: made and checked first, written when all agree.

use std::path::{Path, PathBuf};

use yolo_core::{Quantizer, quant};
use yolo_engine::Checkpoint;
use yolo_export::Error as Export;
use yolo_export::checked::{self, Format, Prepared, Request, Written};
use yolo_export::onnx::{Difference, Profile};
use yolo_export::steps::Steps;

use crate::error::Result;
use crate::{Session, files};

/// The files of a backend, held against the quantized network and not written yet: its text files with the float network that they belong
/// to, and the QDQ network where the scheme has one.
pub struct Artifacts {
    networks: Vec<Prepared>,
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
    /// Why it was not run.
    pub unchecked: Option<String>,
    /// All of it for a person.
    pub said: String,
}

impl From<&Written> for Checked {
    fn from(written: &Written) -> Self {
        Self {
            path: written.files[0].clone(),
            diff: written.difference,
            steps: written.steps,
            unchecked: written.unchecked.clone(),
            said: written.summary(),
        }
    }
}

impl Artifacts {
    /// Makes and checks them for images of `img` pixels; they will stand in `folder`, named after `stem`.
    ///
    /// # Errors
    /// Where a file does not compute what the network computes, or the backend has neither files nor a QDQ network.
    pub fn prepare(
        session: Session<'_>,
        folder: &Path,
        stem: &str,
        model: &Checkpoint,
        quantizer: &dyn Quantizer,
        img: i64,
    ) -> Result<Self> {
        let ranges = quant::Ranges::of(&model.graph, &model.params)?;
        let texts = quantizer.artifacts(stem, &ranges)?;
        let prepare = |format, name: String| {
            let request = Request {
                profile: profile_of(quantizer),
                names: model.meta.names.clone(),
                ..Request::new(format, [img; 2])
            };
            checked::prepare(&model.graph, &model.params, &request, &folder.join(name))
        };
        let mut networks = Vec::new();
        if !texts.is_empty() {
            networks.push(prepare(Format::Onnx, format!("{stem}_deploy_model.onnx"))?);
        }
        match prepare(Format::OnnxQdq, format!("{stem}_qdq.onnx")) {
            Ok(file) => networks.push(file),
            // A logarithmic or power-of-two grid with odd rounding has no QDQ form; the backend's own files are all there is.
            Err(error @ (Export::Node { .. } | Export::Unsupported(_))) if !networks.is_empty() => {
                session.say(format!("no QDQ file: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            networks,
            texts: texts
                .into_iter()
                .map(|file| (folder.join(&file.name), file.text))
                .collect(),
        })
    }

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
        for network in self.networks {
            let written = network.commit()?;
            checks.push(Checked::from(&written));
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
        _ if backend.integer_ops => Profile::Ort,
        _ => Profile::TensorRt,
    }
}
