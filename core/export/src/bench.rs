//! Latency of an exported file on onnxruntime. Times one call after another on one image; nothing but the network is
//! inside the clock.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{Error, Result, ort::Session};

/// Latency of a network.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Latency {
    /// Median of the runs in milliseconds.
    pub ms_median: f64,
    /// 95th percentile in milliseconds.
    pub ms_p95: f64,
    /// Images per second at the median.
    pub fps: f64,
    /// Timed runs.
    pub runs: usize,
}

impl Latency {
    /// Statistics of single runs with `batch` images each.
    pub fn of(mut times: Vec<Duration>, batch: i64) -> Option<Self> {
        times.sort_unstable();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let n = times.len();
        let median = if n % 2 == 1 {
            ms(*times.get(n / 2)?)
        } else {
            (ms(*times.get(n / 2)?) + ms(times[n / 2 - 1])) / 2.0
        };
        // Nearest rank: the smallest time that at least 95 % of the runs do not exceed.
        let p95 = ms(times[(n * 95).div_ceil(100) - 1]);
        Some(Self {
            ms_median: median,
            ms_p95: p95,
            fps: batch as f64 * 1e3 / median,
            runs: n,
        })
    }
}

/// How long to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Runs before the clock starts.
    pub warm_up: usize,
    /// Fewest timed runs.
    pub min_runs: usize,
    /// Most timed runs.
    pub max_runs: usize,
    /// Timed runs stop after this long, once there are `min_runs`.
    pub budget: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            warm_up: 5,
            min_runs: 20,
            max_runs: 200,
            budget: Duration::from_secs(5),
        }
    }
}

/// Times `run` by the plan.
///
/// # Errors
/// The first error of `run`, in the warm-up too; nothing runs after it.
pub fn time<E>(plan: Plan, mut run: impl FnMut() -> Result<(), E>) -> Result<Vec<Duration>, E> {
    for _ in 0..plan.warm_up {
        run()?;
    }
    let start = Instant::now();
    let mut times = Vec::with_capacity(plan.max_runs);
    while times.len() < plan.max_runs && (times.len() < plan.min_runs || start.elapsed() < plan.budget) {
        let began = Instant::now();
        run()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Latency of an ONNX file on this CPU for one image of `size` (height, width; used where the file leaves them open).
///
/// # Errors
/// Those of [`onnx_batch`].
pub fn onnx(path: &Path, size: [i64; 2], threads: usize, plan: Plan) -> Result<Latency> {
    onnx_batch(path, 1, size, threads, plan)
}

/// As [`onnx`], for `batch` images at once where the file leaves their number open.
///
/// # Errors
/// Those of [`Session::open`] and [`Session::run_slices`]; [`Error::Format`] for a file without an input; [`Error::Unsupported`] for a
/// plan without a timed run.
pub fn onnx_batch(path: &Path, batch: i64, size: [i64; 2], threads: usize, plan: Plan) -> Result<Latency> {
    let mut session = Session::open(path, threads)?;
    let (name, sizes) = session.inputs().into_iter().next().ok_or_else(|| Error::Format {
        path: path.to_owned(),
        reason: "the network has no input".to_owned(),
    })?;
    let open = [batch, 3, size[0], size[1]];
    let shape: Vec<i64> = sizes
        .iter()
        .zip(open)
        .map(|(&fixed, open)| if fixed > 0 { fixed } else { open })
        .collect();
    // Not all zeros: some kernels are faster on them. The pattern repeats every 251 elements and needs no generator.
    let values: Vec<f32> = (0..shape.iter().product::<i64>())
        .map(|i| (i % 251) as f32 / 250.0)
        .collect();
    if batch > 1 && shape.first().is_some_and(|own| *own != batch) {
        return Err(Error::Format {
            path: path.to_owned(),
            reason: format!("it is written for batches of {}; leave --batch-size out", shape[0]),
        });
    }
    let batch = shape.first().copied().unwrap_or(1);
    let times = time(plan, || session.run_slices(&[(&name, &shape, &values)]).map(drop))?;
    Latency::of(times, batch).ok_or_else(|| Error::Unsupported("a measurement needs at least one run".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_percentile_are_exact() {
        let times = |range: std::ops::RangeInclusive<u64>| range.rev().map(Duration::from_millis).collect();
        let odd = Latency::of(times(1..=5), 1).unwrap();
        assert_eq!((odd.ms_median, odd.ms_p95, odd.runs), (3.0, 5.0, 5));
        let even = Latency::of(times(1..=100), 2).unwrap();
        assert_eq!((even.ms_median, even.ms_p95), (50.5, 95.0));
        assert!((even.fps - 2000.0 / 50.5).abs() < 1e-9);
        assert!(Latency::of(Vec::new(), 1).is_none());
    }

    #[test]
    fn a_plan_bounds_the_runs() {
        let plan = Plan {
            warm_up: 2,
            min_runs: 3,
            max_runs: 9,
            budget: Duration::ZERO,
        };
        let mut calls = 0;
        let times = time(plan, || {
            calls += 1;
            Ok::<_, Error>(())
        });
        assert_eq!((times.unwrap().len(), calls), (3, 5));
    }
}
