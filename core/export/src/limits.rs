//! What a file may differ by from its network: the rounding of single precision, measured on the network itself, and nothing more.
//!
//! What must not be here: formats and engines.

use std::path::Path;

use tch::{Device, Kind, Tensor};
use yolo_core::{Graph, Mode, Params, Program, passes};

use crate::onnx::{self, Difference, larger};
use crate::{Error, Result};

/// What a float file may differ by without a closer look; ten times what is usual, a tenth of what one layer with weights of 1 % more makes.
pub(crate) const FLOAT: Difference = Difference {
    boxes: 2e-3,
    scores: 2e-5,
    raw: 2e-4,
};

/// How many times the network's own rounding a file may be away: engines add in another order than libtorch does.
const FACTOR: f64 = 10.0;

/// Raw values that are known no better than this say nothing about scores: a sigmoid goes from 0.12 to 0.88 within twice as much.
const MEANINGLESS: f64 = 2.0;

/// What the rounding of single precision makes of a network's raw maps.
#[derive(Debug)]
pub(crate) struct Rounding {
    /// The maps of the network in single precision.
    pub maps: Vec<Tensor>,
    /// By how much a value of each map may be another.
    pub slack: Vec<f64>,
}

impl Rounding {
    /// Measures it on `images` `[N, C, H, W]`: in single precision, as it is and with its batch norms folded, against double precision.
    ///
    /// # Errors
    /// [`Error::Core`]: a tensor of `params` is absent or of another shape, `images` do not fit the network, or libtorch fails.
    pub fn of(graph: &Graph, params: &Params, images: &Tensor) -> Result<Self> {
        let exact = run(
            graph,
            &params.to(Device::Cpu, Kind::Double),
            &images.f_to_kind(Kind::Double)?,
        )?;
        let maps = run(graph, params, images)?;
        // What is written has folded weights, which are rounded once more.
        let (folded, folded_params) = passes::for_export(graph, params)?;
        let folded = run(&folded, &folded_params, images)?;
        let mut slack = Vec::with_capacity(maps.len());
        for (level, exact) in exact.iter().enumerate() {
            let off = |maps: &[Tensor]| match maps.get(level) {
                Some(map) => onnx::max_abs_diff(&map.f_to_kind(Kind::Double)?, exact),
                None => Ok(f64::NAN),
            };
            let off = larger(off(&maps)?, off(&folded)?);
            slack.push(larger(FLOAT.raw, FACTOR * off));
        }
        Ok(Self { maps, slack })
    }

    /// Why nothing can be compared, where that is so.
    pub fn hides_all(&self) -> Option<String> {
        let worst = self.slack.iter().copied().fold(0.0, larger);
        let largest = (self.maps.iter())
            .filter_map(|map| map.abs().max().f_double_value(&[]).ok())
            .fold(0.0, larger);
        (worst.is_finite() && worst > MEANINGLESS).then(|| {
            format!(
                "the network's values are so large (up to {largest:.1e}) that single precision loses {:.1e} of its raw values, so a file \
                 can't be told from another; it was trained without success, or its weights are broken",
                worst / FACTOR
            )
        })
    }

    /// What this makes of boxes and scores at most, for a message.
    ///
    /// # Errors
    /// [`Error::Core`] where the head can't decode the maps.
    pub fn limit(&self, graph: &Graph) -> Result<Difference> {
        let mut limit = Difference {
            raw: self.slack.iter().copied().fold(FLOAT.raw, larger),
            ..FLOAT
        };
        if let Some(head) = &graph.head {
            let [low, high] = self.ends()?;
            let spread = onnx::difference(&head.decode(&low)?, &head.decode(&high)?)?;
            limit.boxes = larger(limit.boxes, spread.boxes);
            limit.scores = larger(limit.scores, spread.scores);
        }
        Ok(limit)
    }

    /// The maps at both ends of what rounding allows. Boxes and scores grow with each raw value, so theirs lie between those of the two.
    ///
    /// # Errors
    /// [`Error::Core`] where libtorch fails.
    pub fn ends(&self) -> Result<[Vec<Tensor>; 2]> {
        let moved = |sign: f64| -> Result<Vec<Tensor>> {
            let pairs = self.maps.iter().zip(&self.slack);
            pairs.map(|(map, slack)| Ok(map.f_add_scalar(sign * slack)?)).collect()
        };
        Ok([moved(-1.0)?, moved(1.0)?])
    }
}

/// What a file may differ by from the last quantizers on: the rounding of single precision in what is left of the network, a hundred
/// thousandth of its largest value.
pub(crate) fn last_limit(graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    let share = |tensor: &Tensor| -> Result<f64> { Ok(1e-5 * tensor.f_abs()?.f_max()?.f_double_value(&[])?) };
    let maps = run(graph, params, images)?;
    let slack = maps.iter().map(share).collect::<Result<Vec<f64>>>()?;
    let mut limit = FLOAT;
    if let Some(head) = &graph.head {
        limit.boxes = limit.boxes.max(share(&head.decode(&maps)?)?);
    }
    if slack.iter().all(|slack| *slack <= FLOAT.raw) {
        return Ok(limit);
    }
    // Of larger raw values, scores and boxes follow.
    let spread = Rounding { maps, slack }.limit(graph)?;
    Ok(Difference {
        boxes: limit.boxes.max(spread.boxes),
        ..spread
    })
}

/// How far the simulation is from the float network.
pub(crate) fn noise(graph: &Graph, params: &Params, images: &Tensor) -> Result<Difference> {
    let (plain, plain_params) = onnx::strip(graph, params)?;
    let (float, simulated) = (run(&plain, &plain_params, images)?, run(graph, params, images)?);
    let mut noise = Difference::default();
    for (a, b) in float.iter().zip(&simulated) {
        noise.raw = noise.raw.max(onnx::max_abs_diff(a, b)?);
    }
    if let Some(head) = &graph.head {
        let ends = onnx::difference(&head.decode(&float)?, &head.decode(&simulated)?)?;
        (noise.boxes, noise.scores) = (ends.boxes, ends.scores);
    }
    Ok(noise)
}

/// Whether every score of a network is 0 or 1 on these images: a file with other weights would have the same.
pub(crate) fn saturated(graph: &Graph, params: &Params, images: &Tensor) -> Result<bool> {
    let Some(head) = &graph.head else { return Ok(false) };
    let decoded = head.decode(&run(graph, params, images)?)?;
    let count = decoded.size().last().copied().unwrap_or_default() - 4;
    let scores = decoded.f_narrow(2, 4, count)?;
    let inside = scores.f_minimum(&scores.f_mul_scalar(-1.0)?.f_add_scalar(1.0)?)?;
    Ok(inside.f_max()?.f_double_value(&[])? < 1e-4)
}

pub(crate) fn run(graph: &Graph, params: &Params, images: &Tensor) -> Result<Vec<Tensor>> {
    Ok(tch::no_grad(|| Program::new(graph, params)?.run(images, Mode::Eval))?)
}

/// NaN is within nothing.
pub(crate) fn within(found: Difference, limit: Difference) -> bool {
    found.boxes <= limit.boxes && found.scores <= limit.scores && found.raw <= limit.raw
}

/// Refuses a file that differs by more than its limit.
pub(crate) fn agree(path: &Path, found: Difference, limit: Difference) -> Result<()> {
    if within(found, limit) {
        Ok(())
    } else {
        Err(disagrees(path, found, limit))
    }
}

/// A file that does not compute what its network computes.
pub(crate) fn disagrees(path: &Path, found: Difference, limit: Difference) -> Error {
    Error::Disagrees(format!(
        "{}: the file would not compute what the network computes: boxes differ by up to {:.3} px, scores by {:.5}, raw values by \
             {:.5} (at most {:.3}, {:.5} and {:.5} are allowed)",
        path.display(),
        found.boxes,
        found.scores,
        found.raw,
        limit.boxes,
        limit.scores,
        limit.raw
    ))
}
