//! Files that are run in the engine that they are for before they are written.

use std::path::PathBuf;

use tch::Tensor;
use yolo_core::{Graph, Params};

use super::{noise, run};
use crate::deployed::Deployed;
use crate::engine::Engine;
use crate::onnx::{self, Difference};
use crate::{Error, Result};

/// What the engine made of a file that it is for.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Ran {
    /// Name of the engine.
    pub engine: &'static str,
    /// Largest differences to the network, where it ran the file.
    pub difference: Option<Difference>,
    /// How far an integer file is from its simulation, in units of how far that is from the float network.
    pub grid_errors: Option<f64>,
    /// Why it did not run it.
    pub not_run: Option<String>,
}

impl Ran {
    /// One line for a person.
    pub fn summary(&self) -> String {
        let engine = self.engine;
        if let Some(reason) = &self.not_run {
            return format!("not run by {engine}: {reason}");
        }
        let grid = self.grid_errors.map(|errors| format!(" ({errors:.2} grid errors)"));
        let d = self.difference.unwrap_or_default();
        format!(
            "run by {engine}: boxes differ by {:.2e} px, scores by {:.2e} at most{}",
            d.boxes,
            d.scores,
            grid.unwrap_or_default()
        )
    }
}

/// Runs the files, which are not written yet, in an engine and compares boxes and scores with those of the network. An engine that is not
/// there is no error; one that refuses the file or crashes is.
pub(super) fn run_in(
    engine: &'static dyn Engine,
    contents: &[(PathBuf, Vec<u8>)],
    graph: &Graph,
    params: &Params,
    images: &Tensor,
    threads: usize,
) -> Result<Ran> {
    let mut ran = Ran {
        engine: engine.title(),
        difference: None,
        grid_errors: None,
        not_run: None,
    };
    let Some(head) = &graph.head else {
        ran.not_run = Some("it has no detection head".to_owned());
        return Ok(ran);
    };
    if let Err(reason) = engine.find() {
        ran.not_run = Some(reason.to_string().replace("\n  ", "; "));
        return Ok(ran);
    }
    let folder = tempfile::tempdir().map_err(|source| Error::write(&std::env::temp_dir(), source))?;
    let mut first = None;
    for (path, bytes) in contents {
        let copy = folder.path().join(path.file_name().unwrap_or_default());
        std::fs::write(&copy, bytes).map_err(|source| Error::write(&copy, source))?;
        first.get_or_insert(copy);
    }
    let file = first.unwrap_or_default();
    let found = Deployed::open(&file, engine, threads)?.predict(images)?;
    let wanted = head.decode(&run(graph, params, images)?)?;
    let difference = onnx::difference(&found, &wanted)?;
    if onnx::is_quantized(graph) {
        ran.grid_errors = Some(difference.max_share(noise(graph, params, images)?));
    }
    ran.difference = Some(difference);
    Ok(ran)
}
