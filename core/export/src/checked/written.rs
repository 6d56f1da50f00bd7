//! Files with what was found of them: agreed with their network and not written yet, or written.

use std::path::PathBuf;

use super::{Ran, Request, ran};
use crate::deployed::Deployed;
use crate::engine::Engine;
use crate::onnx::Difference;
use crate::steps::{Fused, Steps};
use crate::{Error, Result, file};

/// Files that were written.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Written {
    /// The files; the first is the one to name.
    pub files: Vec<PathBuf>,
    /// Their bytes together.
    pub size_bytes: u64,
    /// How far the file is from the network end to end, where both were run. Of an integer file nothing follows from it: one value on
    /// another step of its grid moves all that come after.
    pub difference: Option<Difference>,
    /// How the quantizers of an integer file agree with the simulated ones, each on its own.
    pub steps: Option<Steps>,
    /// How far an integer file is from its simulation on this processor, in units of how far that is from the float network. Two
    /// roundings of one network are 1.4 apart.
    pub grid_errors: Option<f64>,
    /// What the kernels of [`Written::engine`] make of simulated values, of an integer file.
    pub fused: Option<Fused>,
    /// What ran the file.
    pub engine: &'static str,
    /// Why it was not compared.
    pub unchecked: Option<String>,
    /// What the engine said that the file is for, where that is another one than [`Written::engine`] or was not there.
    pub ran: Option<Ran>,
    /// What it computes otherwise than the network: it is there because it was wanted in any case ([`Request::force`]).
    pub faults: Vec<String>,
}

impl Written {
    pub(super) fn new(files: Vec<PathBuf>, size_bytes: usize, engine: &'static str) -> Self {
        Self {
            files,
            size_bytes: size_bytes as u64,
            difference: None,
            steps: None,
            grid_errors: None,
            fused: None,
            engine,
            unchecked: None,
            ran: None,
            faults: Vec::new(),
        }
    }

    /// One line for a person: what was compared, and what came out.
    pub fn summary(&self) -> String {
        let mut said = self.compared();
        if let Some(ran) = &self.ran {
            said = format!("{said}; {}", ran.summary());
        }
        if !self.faults.is_empty() {
            said = format!("FAILED and written all the same: {}; {said}", self.faults.join("; "));
        }
        said
    }

    /// Takes a fault down where the file is wanted in any case.
    ///
    /// # Errors
    /// Every other one.
    pub(super) fn excuse<T>(&mut self, request: &Request, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            // Also what an engine refuses, or makes no numbers of.
            Err(Error::Disagrees(fault) | Error::Format { reason: fault, .. }) if request.force => {
                self.faults.push(fault);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn compared(&self) -> String {
        let engine = self.engine;
        if let Some(reason) = &self.unchecked {
            return format!("not checked: {reason}");
        }
        let ends = self.difference.map(|d| {
            let raw = match d.raw {
                // Files of boxes give no raw maps.
                0.0 => String::new(),
                raw => format!(", raw values by {raw:.2e}"),
            };
            format!(
                "boxes differ by {:.2e} px, scores by {:.2e}{raw} at most",
                d.boxes, d.scores
            )
        });
        match (&self.steps, ends) {
            (Some(steps), ends) => {
                let ends = ends.map(|ends| format!("; end to end, where roundings spread, {ends}"));
                let grid = self
                    .grid_errors
                    .map(|errors| format!(" ({errors:.2} grid errors on this processor)"));
                let fused = self
                    .fused
                    .as_ref()
                    .map(|fused| format!("; its kernels: {}", fused.summary()));
                format!(
                    "checked with {engine}: {}{}{}{}",
                    steps.summary(),
                    fused.unwrap_or_default(),
                    ends.unwrap_or_default(),
                    grid.unwrap_or_default()
                )
            }
            (None, Some(ends)) => format!("checked with {engine}: {ends}"),
            (None, None) => "not checked".to_owned(),
        }
    }
}

/// What follows the name of a file that failed in the name of its report.
const REPORT: &str = ".report.json";

/// Files that agree with their network and are not written yet.
#[derive(Debug)]
pub struct Prepared {
    pub(super) written: Written,
    pub(super) contents: Vec<(PathBuf, Vec<u8>)>,
}

impl Prepared {
    /// What will be there.
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// Opens them in an engine before they are written, to measure them; the folder holds copies, and must live as long as the file.
    ///
    /// # Errors
    /// Those of [`Deployed::open`].
    pub fn open(&self, engine: &'static dyn Engine, threads: usize) -> Result<(Deployed, tempfile::TempDir)> {
        ran::open(engine, &self.contents, threads)
    }

    /// The bytes of the first file.
    pub fn bytes(&self) -> &[u8] {
        self.contents.first().map_or(&[], |(_, bytes)| bytes)
    }

    /// Writes the files.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(mut self) -> Result<Written> {
        if let (false, Some(first)) = (self.written.faults.is_empty(), self.written.files.first()) {
            let mut name = first.as_os_str().to_owned();
            name.push(REPORT);
            let path = PathBuf::from(name);
            let text = serde_json::to_vec_pretty(&self.written);
            let mut text = text.map_err(|error| Error::Unsupported(error.to_string()))?;
            text.push(b'\n');
            self.written.files.push(path.clone());
            self.contents.push((path, text));
        }
        file::write_together(&self.contents)?;
        Ok(self.written)
    }
}
