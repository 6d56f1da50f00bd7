//! A quantized file held against its simulation one quantizer at a time.
//!
//! End to end such a comparison proves nothing: a sum in another order puts a value on the next step of its grid, the step spreads, and
//! file and simulation become two roundings of one network, as far from each other as both are from the float network. So every
//! quantizer of the file gets the simulated values to work on, and must make the simulated integers of them. What a file may differ by
//! then is a rounding of single precision, not the error of its quantization.
//!
//! What must not be here: how files of one format are run.

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::{Error, Result};

/// What the quantizers of a file made of simulated values.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Steps {
    /// Quantizers that were looked at.
    pub quantizers: usize,
    /// Values that they made.
    pub values: u64,
    /// Values on another step than in the simulation.
    pub moved: u64,
    /// Of those, values that lie so near to the edge between two steps that single precision decides.
    pub edges: u64,
    /// Values half-way between two steps that the grid's rule rounds up and the file down.
    pub ties: u64,
    /// The largest distance in steps.
    pub worst: f64,
}

/// The grid of a quantizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// A step.
    pub step: f64,
    /// Steps from the smallest to the largest value.
    pub levels: i64,
    /// Half of a negative number is rounded up, which no file can say: its operators round half to even.
    pub half_up: bool,
}

/// Share of values of an 8-bit grid that may be moved without lying on an edge for all to see. What is seen is a tenth of it.
const EDGES: f64 = 1e-3;
/// Values of an 8-bit grid that are nearer than so many steps to an edge may be put on either side of it: where many pixels hold one
/// value, all of them are. An exact half is none of them, since there the rule of rounding decides.
const NEAR: f64 = 0.01;

impl Steps {
    /// Adds a quantizer whose file made `found` of what the simulation made `wanted`, tensors of one shape; `raw` is what was to be put
    /// on the grid, where it is known.
    ///
    /// # Errors
    /// Where they are apart by more than rounding edges; `name` is the quantizer's.
    pub fn add(&mut self, name: &str, found: &Tensor, wanted: &Tensor, raw: Option<&Tensor>, grid: Grid) -> Result<()> {
        if found.size() != wanted.size() {
            return Err(differs(
                name,
                &format!("{:?} values instead of {:?}", found.size(), wanted.size()),
            ));
        }
        let Grid { step, levels, half_up } = grid;
        let mut distance = found.f_sub(wanted)?.f_div_scalar(step)?;
        if half_up {
            let tie = distance.f_eq(-1.0)?.f_logical_and(&wanted.f_le(0.0)?)?;
            self.ties += tie.f_sum(Kind::Int64)?.f_int64_value(&[])? as u64;
            distance = distance.f_masked_fill(&tie, 0.0)?;
        }
        let distance = distance.f_abs()?;
        let worst = distance.f_max()?.f_double_value(&[])?;
        // A float is off by a share of the whole range, so the finer the grid, the more edges it meets.
        let fine = levels as f64 / 255.0;
        let count = |which: &Tensor| -> Result<u64> { Ok(which.f_sum(Kind::Int64)?.f_int64_value(&[])? as u64) };
        let moved = distance.f_gt(0.5)?;
        let edges = match raw {
            Some(raw) => {
                let steps = raw.f_to_kind(Kind::Double)?.f_div_scalar(step)?;
                let edge = steps.f_frac()?.f_abs()?.f_sub_scalar(0.5)?.f_abs()?;
                let near = edge.f_lt(NEAR * fine)?.f_logical_and(&edge.f_gt(0.0)?)?;
                count(&near.f_logical_and(&moved)?)?
            }
            None => 0,
        };
        let moved = count(&moved)?;
        let values = wanted.numel() as u64;
        let allowed_worst = 1.005f64.max(1.0 + 0.005 * fine);
        let allowed_moved = ((10.0 * EDGES * fine * values as f64) as u64).max(3);
        if worst.is_nan() || worst > allowed_worst || moved - edges > allowed_moved {
            return Err(differs(
                name,
                &format!(
                    "{} of {values} values lie on other steps of its grid, up to {worst:.1} steps away",
                    moved - edges
                ),
            ));
        }
        self.quantizers += 1;
        self.values += values;
        let shown = |count: u64| (count as f64 / fine.max(1.0)) as u64;
        self.moved += shown(moved);
        self.edges += shown(edges);
        self.worst = self.worst.max(worst);
        Ok(())
    }

    /// Judges all quantizers together: single ones may have few values, of which one on an edge says nothing.
    ///
    /// # Errors
    /// Where more values are moved than rounding edges explain.
    pub fn finish(self) -> Result<Self> {
        let unexplained = self.moved.saturating_sub(self.edges);
        if unexplained as f64 > EDGES * self.values as f64 + 3.0 {
            return Err(differs(
                "the network",
                &format!(
                    "{unexplained} of {} values lie on other steps of their grids",
                    self.values
                ),
            ));
        }
        Ok(self)
    }

    /// Share of values that are the simulated ones.
    pub fn equal(&self) -> f64 {
        1.0 - self.moved as f64 / self.values.max(1) as f64
    }

    /// One line for a person.
    pub fn summary(&self) -> String {
        let ties = match self.ties {
            0 => String::new(),
            ties => format!(", {ties} half-way ones rounded to even instead of up"),
        };
        format!(
            "each of {} quantizers makes the simulated values ({:.4} % equal, {} on a rounding edge{ties})",
            self.quantizers,
            100.0 * self.equal(),
            self.moved
        )
    }
}

/// Share of values that lie within one step of the simulated ones, at least.
pub const WITHIN: f64 = 0.999;

/// What an engine's own kernels made of simulated values, op by op: fused, on integers, with the rounding and the saturation of this
/// processor.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Fused {
    /// Quantizers that were looked at.
    pub quantizers: usize,
    /// Values that they made, and raw maps.
    pub values: u64,
    /// Those on the simulated step.
    pub equal: u64,
    /// Those on the simulated step or a neighbour of it.
    pub within: u64,
    /// The largest distance in steps.
    pub worst: f64,
    /// Where that is.
    pub at: String,
    /// The share of the quantizer, or map, that has the least of its values within one step.
    pub least: f64,
    /// Its name.
    pub least_at: String,
}

impl Fused {
    /// Adds a quantizer whose kernel made `found` of what the simulation made `wanted`.
    ///
    /// # Errors
    /// Where they have other shapes.
    pub fn add(&mut self, name: &str, found: &Tensor, wanted: &Tensor, step: f64) -> Result<()> {
        self.quantizers += 1;
        self.add_map(name, found, wanted, step)
    }

    /// Adds a raw map.
    ///
    /// # Errors
    /// Where they have other shapes.
    pub fn add_map(&mut self, name: &str, found: &Tensor, wanted: &Tensor, step: f64) -> Result<()> {
        if found.size() != wanted.size() {
            let how = format!("{:?} values instead of {:?}", found.size(), wanted.size());
            return Err(differs(name, &how));
        }
        let distance = found.f_sub(wanted)?.f_div_scalar(step)?.f_abs()?;
        let count =
            |below: f64| -> Result<u64> { Ok(distance.f_le(below)?.f_sum(Kind::Int64)?.f_int64_value(&[])? as u64) };
        let (values, within) = (wanted.numel() as u64, count(1.005)?);
        let share = within as f64 / values.max(1) as f64;
        if self.values == 0 || share < self.least {
            (self.least, self.least_at) = (share, name.to_owned());
        }
        self.values += values;
        self.equal += count(0.5)?;
        self.within += within;
        let worst = distance.f_max()?.f_double_value(&[])?;
        if worst.is_nan() || worst > self.worst {
            (self.worst, self.at) = (worst, name.to_owned());
        }
        Ok(())
    }

    /// Share of values within one step.
    pub fn share(&self) -> f64 {
        self.within as f64 / self.values.max(1) as f64
    }

    /// Why the engine computes something else than was simulated, if it does: fewer than [`WITHIN`] of all values, or of those of one
    /// quantizer, lie within one step.
    pub fn fault(&self) -> Option<String> {
        if self.values > 0 && self.least >= WITHIN && self.worst.is_finite() {
            return None;
        }
        Some(format!(
            "{:.3} % of the values lie within one step of the simulated ones, {:.3} % of those of `{}` (at least {} % are wanted), the \
             farthest {:.1} steps away at `{}`",
            100.0 * self.share(),
            100.0 * self.least,
            self.least_at,
            100.0 * WITHIN,
            self.worst,
            self.at
        ))
    }

    /// One line for a person.
    pub fn summary(&self) -> String {
        format!(
            "op by op {:.4} % of the values are the simulated ones, {:.4} % within one step, the farthest {:.1} steps away",
            100.0 * self.equal as f64 / self.values.max(1) as f64,
            100.0 * self.share(),
            self.worst
        )
    }
}

/// A quantizer of the file that is not the simulated one.
pub fn differs(name: &str, how: &str) -> Error {
    Error::Disagrees(format!("`{name}` of the file is not what was simulated: {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_to(found: &[f32], wanted: &[f32], levels: i64, half_up: bool) -> Result<Steps> {
        let mut steps = Steps::default();
        let grid = Grid {
            step: 0.5,
            levels,
            half_up,
        };
        steps.add("q", &Tensor::from_slice(found), &Tensor::from_slice(wanted), None, grid)?;
        steps.finish()
    }

    /// One value all over the picture: on an edge, as the picture's grey border may be, or not.
    #[test]
    fn pixels_that_share_an_edge_pass_and_exact_halves_and_others_do_not() {
        let grid = Grid {
            step: 0.5,
            levels: 255,
            half_up: false,
        };
        let add = |raw: f32| {
            let [wanted, found] = [3.0f32, 3.5].map(|value| Tensor::from_slice(&[value; 5000]));
            let mut steps = Steps::default();
            steps.add("q", &found, &wanted, Some(&Tensor::from_slice(&[raw; 5000])), grid)?;
            steps.finish()
        };
        let near = add(3.2499).unwrap();
        assert_eq!((near.moved, near.edges), (5000, 5000));
        assert!(add(3.25).is_err() && add(3.24).is_err() && add(3.0).is_err());
    }

    fn add(found: &[f32], wanted: &[f32], levels: i64) -> Result<Steps> {
        add_to(found, wanted, levels, false)
    }

    #[test]
    fn ties_of_a_grid_that_rounds_up_are_counted_apart() {
        let wanted: Vec<f32> = (0..5000).map(|i| -0.5 * (i % 128) as f32).collect();
        let down: Vec<f32> = wanted.iter().map(|v| v - 0.5).collect();
        let up: Vec<f32> = wanted.iter().map(|v| v + 0.5).collect();
        assert_eq!(add_to(&down, &wanted, 255, true).unwrap().ties, 5000);
        assert!(add_to(&up, &wanted, 255, true).is_err() && add(&down, &wanted, 255).is_err());
        // Positive halves are rounded to even everywhere.
        let positive: Vec<f32> = wanted.iter().map(|v| 0.5 - v).collect();
        assert!(
            add_to(
                &positive.iter().map(|v| v - 0.5).collect::<Vec<_>>(),
                &positive,
                255,
                true
            )
            .is_err()
        );
    }

    #[test]
    fn kernels_that_leave_the_simulated_steps_are_told() {
        let wanted: Vec<f32> = (0..5000).map(|i| 0.5 * (i % 256) as f32).collect();
        let fused = |every: usize, by: f32| {
            let found: Vec<f32> = (wanted.iter().enumerate())
                .map(|(i, v)| if i % every == 0 { v + by } else { *v })
                .collect();
            let mut fused = Fused::default();
            fused
                .add("same", &Tensor::from_slice(&wanted), &Tensor::from_slice(&wanted), 0.5)
                .unwrap();
            fused
                .add("q", &Tensor::from_slice(&found), &Tensor::from_slice(&wanted), 0.5)
                .unwrap();
            fused
        };
        // Neighbours are fine, and four values of 5000 anywhere.
        for (every, by) in [(1, 0.5), (2, -0.5), (1250, 20.0)] {
            assert_eq!(fused(every, by).fault(), None, "{every} {by}");
        }
        for (every, by) in [(500, 1.0), (5000, f32::NAN), (1, -2.0)] {
            let fused = fused(every, by);
            let fault = fused.fault().expect("a fault");
            assert!(fault.contains("`q`"), "{fault}");
        }
        let seen = fused(500, 1.0);
        assert_eq!(
            (seen.values, seen.within, seen.equal, seen.worst),
            (10_000, 9990, 9990, 2.0)
        );
    }

    #[test]
    fn a_rounding_edge_passes_and_everything_else_does_not() {
        let wanted: Vec<f32> = (0..5000).map(|i| 0.5 * (i % 256) as f32).collect();
        let changed = |every: usize, by: f32| -> Vec<f32> {
            (wanted.iter().enumerate())
                .map(|(i, v)| if i % every == 0 { v + by } else { *v })
                .collect()
        };
        assert_eq!(add(&wanted, &wanted, 255).unwrap().equal(), 1.0);
        assert_eq!(add(&changed(2500, 0.5), &wanted, 255).unwrap().moved, 2);
        // Two steps, too many edges, another scale, NaN, another shape.
        assert!(add(&changed(2500, 1.0), &wanted, 255).is_err());
        assert!(add(&changed(50, 0.5), &wanted, 255).is_err());
        let scaled: Vec<f32> = wanted.iter().map(|v| v * 1.02).collect();
        assert!(add(&scaled, &wanted, 255).is_err());
        assert!(add(&changed(2500, f32::NAN), &wanted, 255).is_err());
        assert!(add(&wanted[1..], &wanted, 255).is_err());
        // A grid of 16 bits meets more edges, but none is ten steps away.
        assert!(add(&changed(50, 0.5), &wanted, 65535).is_ok());
        assert!(add(&changed(50, 5.0), &wanted, 65535).is_err());
    }
}
