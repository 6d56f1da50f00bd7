//! Files that are run in the engine that they are for before they are written.

use std::path::{Path, PathBuf};

use prost::Message as _;
use tch::{Kind, Tensor};

use super::Against;
use crate::deployed::Deployed;
use crate::engine::Engine;
use crate::limits::{self, FLOAT, Rounding, agree, run};
use crate::onnx::proto::ModelProto;
use crate::onnx::{self, Difference, Exported};
use crate::steps::Fused;
use crate::{Error, Result};

/// What the engine made of a file that it is for.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Ran {
    /// Name of the engine.
    pub engine: &'static str,
    /// Largest differences to the network, where it ran the file.
    pub difference: Option<Difference>,
    /// What its kernels make of simulated values, of an integer ONNX file.
    pub fused: Option<Fused>,
    /// How far an integer file is from its simulation in the mean, in units of how far that is from the float network.
    pub grid_errors: Option<f64>,
    /// Why it did not run it.
    pub not_run: Option<String>,
    /// It was compared with the network whose weights are rounded to 16 bits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rounded: bool,
}

impl Ran {
    /// One line for a person.
    pub fn summary(&self) -> String {
        let engine = self.engine;
        if let Some(reason) = &self.not_run {
            return format!("not run by {engine}: {reason}");
        }
        let grid = self
            .grid_errors
            .map(|errors| format!(" ({errors:.2} grid errors in the mean)"));
        let fused = self
            .fused
            .as_ref()
            .map(|fused| format!("{}; end to end ", fused.summary()));
        let d = self.difference.unwrap_or_default();
        format!(
            "run by {engine}: {}boxes differ by {:.2e} px, scores by {:.2e} at most{}{}",
            fused.unwrap_or_default(),
            d.boxes,
            d.scores,
            grid.unwrap_or_default(),
            if self.rounded {
                ", from the network with weights of 16 bits"
            } else {
                ""
            }
        )
    }
}

/// What an integer file may be from its simulation in the mean, in units of how far that is from the float network. Two roundings of one
/// network are 1.4 apart; an engine that computes something else is several.
const MEAN: f64 = 2.0;

/// Refuses a file whose kernels leave the simulated steps.
///
/// # Errors
/// [`Error::Disagrees`] with the shares.
pub(super) fn judge(path: &Path, engine: &str, fused: &Fused) -> Result<()> {
    match fused.fault() {
        None => Ok(()),
        Some(fault) => Err(Error::Disagrees(format!(
            "{}: {engine} would compute something else than was simulated: {fault}",
            path.display()
        ))),
    }
}

/// Runs the files, which are not written yet, in an engine and compares boxes and scores with those of the network; an integer ONNX file
/// also op by op, where `exported` says what it was made from. An engine that is not there is no error.
///
/// # Errors
/// Where the engine refuses the file or crashes on it, and [`Error::Disagrees`] where it computes something else.
pub(super) fn run_in(
    engine: &'static dyn Engine,
    contents: &[(PathBuf, Vec<u8>)],
    exported: Option<&Exported>,
    (graph, params, images): Against<'_>,
    threads: usize,
) -> Result<Ran> {
    let mut ran = Ran {
        engine: engine.title(),
        difference: None,
        fused: None,
        grid_errors: None,
        not_run: None,
        rounded: false,
    };
    let Some(head) = &graph.head else {
        ran.not_run = Some("it has no detection head".to_owned());
        return Ok(ran);
    };
    if let Err(reason) = engine.find() {
        ran.not_run = Some(reason.to_string().replace("\n  ", "; "));
        return Ok(ran);
    }
    let (mut file, _folder) = open(engine, contents, threads)?;
    let found = file.predict(images)?;
    let wanted = head.decode(&run(graph, params, images)?)?;
    let difference = onnx::difference(&found, &wanted)?;
    let (path, bytes) = contents.first().cloned().unwrap_or_default();
    if let Some(exported) = exported {
        let model = ModelProto::decode(bytes.as_slice()).map_err(|error| Error::Disagrees(error.to_string()))?;
        let fused = onnx::steps::run_fused(&model, exported, false, images, (engine, threads))?;
        judge(&path, ran.engine, &fused)?;
        ran.fused = Some(fused);
    }
    if onnx::is_quantized(graph) {
        let (plain, plain_params) = onnx::strip(graph, params)?;
        let float = head.decode(&run(&plain, &plain_params, images)?)?;
        let errors = mean(&found, &wanted)?.max_share(mean(&float, &wanted)?);
        if errors.is_nan() || errors > MEAN {
            return Err(Error::Disagrees(format!(
                "{}: {} would compute something else than was simulated: {errors:.1} times as far from the simulation, in the mean, as \
                 that is from the float network (at most {MEAN} is allowed)",
                path.display(),
                ran.engine
            )));
        }
        ran.grid_errors = Some(errors);
    } else {
        let limit = if limits::within(difference, FLOAT) {
            FLOAT
        } else {
            let rounding = Rounding::of(graph, params, images)?;
            if let Some(reason) = rounding.hides_all() {
                ran.not_run = Some(reason);
                return Ok(ran);
            }
            rounding.limit(graph)?
        };
        agree(&path, difference, times(limit, OTHER_ORDER)).map_err(|error| match error {
            Error::Disagrees(reason) => Error::Disagrees(format!("in {}: {reason}", ran.engine)),
            other => other,
        })?;
    }
    ran.difference = Some(difference);
    Ok(ran)
}

/// Opens copies of the files in a folder of their own, which lives as long as they are used.
pub(super) fn open(
    engine: &'static dyn Engine,
    contents: &[(PathBuf, Vec<u8>)],
    threads: usize,
) -> Result<(Deployed, tempfile::TempDir)> {
    let folder = tempfile::tempdir().map_err(|source| Error::write(&std::env::temp_dir(), source))?;
    let mut first = None;
    for (path, bytes) in contents {
        let copy = folder.path().join(path.file_name().unwrap_or_default());
        std::fs::write(&copy, bytes).map_err(|source| Error::write(&copy, source))?;
        first.get_or_insert(copy);
    }
    Ok((Deployed::open(&first.unwrap_or_default(), engine, threads)?, folder))
}

/// Engines add up in other orders, and some multiply through transforms (Winograd) that round more.
const OTHER_ORDER: f64 = 5.0;

fn times(limit: Difference, factor: f64) -> Difference {
    Difference {
        boxes: factor * limit.boxes,
        scores: factor * limit.scores,
        raw: factor * limit.raw,
    }
}

/// Mean differences of boxes and of scores.
fn mean(a: &Tensor, b: &Tensor) -> Result<Difference> {
    let apart = a.f_sub(b)?.f_abs()?;
    let scores = a.size().last().copied().unwrap_or_default() - 4;
    let of = |start, length| -> Result<f64> {
        Ok(apart
            .f_narrow(2, start, length)?
            .f_mean(Kind::Double)?
            .f_double_value(&[])?)
    };
    Ok(Difference {
        boxes: of(0, 4)?,
        scores: of(4, scores)?,
        raw: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_boxes_and_scores() {
        let zeros = Tensor::zeros([1, 2, 6], (Kind::Float, tch::Device::Cpu));
        let values: Vec<f32> = vec![1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 3.0, 3.0, 3.0, 3.0, 0.0, 0.0];
        let found = mean(&Tensor::from_slice(&values).reshape([1, 2, 6]), &zeros).unwrap();
        assert_eq!((found.boxes, found.scores), (2.0, 0.125));
    }
}
