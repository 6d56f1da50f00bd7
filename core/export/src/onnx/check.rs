//! Runs an exported file on onnxruntime and the network on our executor, and compares.

use tch::Tensor;
use yolo_core::{Graph, Mode, Params, Program};

use super::OUTPUT;
use crate::{Error, Result, limits::Rounding, ort::Session};

/// Largest differences between the file and the network.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Difference {
    /// Of box coordinates, in pixels.
    pub boxes: f64,
    /// Of objectness and class probabilities.
    pub scores: f64,
    /// Of raw values, where the file gives them.
    pub raw: f64,
}

impl Difference {
    /// The largest of all, each in units of `other`'s.
    pub fn max_share(&self, other: Self) -> f64 {
        [
            (self.boxes, other.boxes),
            (self.scores, other.scores),
            (self.raw, other.raw),
        ]
        .into_iter()
        .filter(|(_, unit)| *unit > 0.0)
        .fold(0.0, |worst, (own, unit)| larger(worst, own / unit))
    }

    /// The largest of all.
    pub fn max(&self) -> f64 {
        larger(larger(self.boxes, self.scores), self.raw)
    }
}

/// Runs `image` `[N, C, H, W]` through the file in `session` and through the network, and compares every output that both
/// have. The image must have the size that the file was written for.
///
/// # Errors
/// [`Error::Engine`]: the file has no input, refuses the image, or gives another shape than the network or nothing to compare;
/// [`Error::Core`] where the network can't run the image.
pub fn check(session: &mut Session, graph: &Graph, params: &Params, image: &Tensor) -> Result<Difference> {
    let (input, _) = session.inputs().into_iter().next().ok_or_else(|| Error::Engine {
        engine: "onnxruntime",
        reason: "the file has no input".to_owned(),
    })?;
    let theirs = session.run(&[(&input, image)])?;
    let program = Program::new(graph, params)?;
    let maps = tch::no_grad(|| program.run(image, Mode::Eval))?;
    compare(&theirs, graph, &maps)
}

/// Compares the outputs of a file with the maps of its network.
pub(super) fn compare(theirs: &[(String, Tensor)], graph: &Graph, maps: &[Tensor]) -> Result<Difference> {
    let mut difference = Difference::default();
    let mut compared = false;
    let decoded = match &graph.head {
        Some(head) => Some(tch::no_grad(|| head.decode(maps))?),
        None => None,
    };
    for (name, got) in theirs {
        if let (OUTPUT, Some(want)) = (name.as_str(), &decoded) {
            same_shape(name, got, want)?;
            difference = Difference {
                raw: difference.raw,
                ..self::difference(got, want)?
            };
            compared = true;
        } else if let (Some(level), Some(head)) = (
            name.strip_prefix("raw.").and_then(|level| level.parse::<usize>().ok()),
            &graph.head,
        ) {
            let map = maps
                .get(level)
                .ok_or_else(|| mismatch(name, "the network has no such level".to_owned()))?;
            let want = head.raw(map)?;
            same_shape(name, got, &want)?;
            difference.raw = larger(difference.raw, max_abs_diff(got, &want)?);
            compared = true;
        }
    }
    if graph.head.is_none() {
        for ((name, got), want) in theirs.iter().zip(maps) {
            same_shape(name, got, want)?;
            difference.raw = larger(difference.raw, max_abs_diff(got, want)?);
            compared = true;
        }
    }
    if compared {
        Ok(difference)
    } else {
        Err(mismatch("outputs", "the file gives nothing to compare".to_owned()))
    }
}

/// By how much the file's outputs leave what the rounding of single precision can make of the network's.
pub(crate) fn beyond(session: &mut Session, graph: &Graph, rounding: &Rounding, image: &Tensor) -> Result<Difference> {
    let (input, _) =
        (session.inputs().into_iter().next()).ok_or_else(|| mismatch("inputs", "it has none".to_owned()))?;
    let theirs = session.run(&[(&input, image)])?;
    let [low, high] = rounding.ends()?;
    let decoded = match &graph.head {
        Some(head) => Some((head.decode(&low)?, head.decode(&high)?)),
        None => None,
    };
    let mut beyond = Difference::default();
    for (at, (name, got)) in theirs.iter().enumerate() {
        if let (OUTPUT, Some((low, high))) = (name.as_str(), &decoded) {
            same_shape(name, got, low)?;
            let inside = nearest(got, low, high)?;
            beyond = Difference {
                raw: beyond.raw,
                ..difference(got, &inside)?
            };
            continue;
        }
        let level = name.strip_prefix("raw.").and_then(|level| level.parse::<usize>().ok());
        let level = if graph.head.is_some() { level } else { Some(at) };
        let Some((level, (low, high))) = level.and_then(|level| Some((level, low.get(level).zip(high.get(level))?)))
        else {
            continue;
        };
        let [low, high] = match &graph.head {
            Some(head) => [head.raw(low)?, head.raw(high)?],
            None => [low.shallow_clone(), high.shallow_clone()],
        };
        same_shape(&format!("{name} (level {level})"), got, &low)?;
        beyond.raw = larger(beyond.raw, max_abs_diff(got, &nearest(got, &low, &high)?)?);
    }
    Ok(beyond)
}

/// The nearest values between two others; what is not a number stays none.
pub(crate) fn nearest(values: &Tensor, low: &Tensor, high: &Tensor) -> Result<Tensor> {
    Ok(values.f_maximum(low)?.f_minimum(high)?)
}

/// The larger of two differences; one that is not a number counts as the largest.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// Largest differences between decoded predictions `[N, boxes, 5 + classes]` of the same shape.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> Result<Difference> {
    let scores = a.size().last().copied().unwrap_or_default() - 4;
    Ok(Difference {
        boxes: max_abs_diff(&a.f_narrow(2, 0, 4)?, &b.f_narrow(2, 0, 4)?)?,
        scores: max_abs_diff(&a.f_narrow(2, 4, scores)?, &b.f_narrow(2, 4, scores)?)?,
        raw: 0.0,
    })
}

fn mismatch(name: &str, reason: String) -> Error {
    Error::Engine {
        engine: "onnxruntime",
        reason: format!("`{name}`: {reason}"),
    }
}

fn same_shape(name: &str, got: &Tensor, want: &Tensor) -> Result<()> {
    if got.size() == want.size() {
        return Ok(());
    }
    Err(mismatch(
        name,
        format!("the file gives {:?}, the network {:?}", got.size(), want.size()),
    ))
}

/// Largest difference between two tensors of the same shape.
pub(crate) fn max_abs_diff(a: &Tensor, b: &Tensor) -> Result<f64> {
    let worst = a.f_sub(&b.f_to_device(tch::Device::Cpu)?)?.f_abs()?.f_max()?;
    Ok(worst.f_double_value(&[])?)
}
