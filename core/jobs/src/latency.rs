//! Pruning by time: what the convolutions of a network take on an engine of this machine, measured one by one at several widths, and what
//! whole networks take.
//!
//! What must not live here: how a budget is met (pruners).

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use yolo_core::prune::select::{top, uniform_widths};
use yolo_core::prune::{
    ChannelGroups, ConvShape, OP_TIMES_VERSION, OpTime, OpTimes, PrunePlan, Rounding, TimeModel, apply, convolutions,
};
use yolo_core::{Graph, Params};
use yolo_engine::Checkpoint;
use yolo_export::bench::Plan;

use crate::bench::Engine;
use crate::error::{Error, Result};
use crate::{Session, bench, files};

/// A whole network: longer than a convolution, as it decides.
const OF_NETWORKS: Plan = Plan {
    warm_up: 5,
    min_runs: 20,
    max_runs: 200,
    budget: Duration::from_millis(600),
};

const OF_CONVOLUTIONS: Plan = Plan {
    warm_up: 2,
    min_runs: 8,
    max_runs: 60,
    budget: Duration::from_millis(12),
};

/// Widths at which a convolution is measured, in eighths of its own.
const EIGHTHS: [i64; 5] = [1, 2, 4, 6, 8];

/// Multiply-adds that a measured network should have at least, so that the clock sees them.
const ENOUGH_MACS: i64 = 20_000_000;

/// What measures.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The engine.
    pub engine: Engine,
    /// Its threads.
    pub threads: usize,
    /// Side of the images.
    pub img: usize,
}

/// The time of a model as a function of its widths.
pub struct Timed {
    /// The function.
    pub time: TimeModel,
    /// What its table was measured on, where that is not what [`Clock`] measures with: then nothing is measured here.
    pub elsewhere: Option<String>,
}

/// The share of a model's time that a plan leaves, as a table has it.
///
/// # Errors
/// A network without groups of channels.
pub fn predicted(time: &TimeModel, model: &Checkpoint, plan: &PrunePlan) -> Result<f64> {
    let groups = ChannelGroups::of(&model.graph)?;
    let full: Vec<usize> = groups.groups.iter().map(|group| group.len()).collect();
    let kept: Vec<usize> = groups.groups.iter().map(|group| plan.kept(group)).collect();
    Ok(time.milliseconds(&kept) / time.milliseconds(&full))
}

/// What came out of a pruning by time; milliseconds of the fastest of some runs, as other work only ever slows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The engine.
    pub engine: String,
    /// Its threads.
    pub threads: usize,
    /// Before.
    pub ms_before: f64,
    /// After.
    pub ms: f64,
    /// Time that stays, as the table has it.
    pub predicted: f64,
    /// Time that stays, as it was measured.
    pub measured: f64,
}

impl Clock {
    /// Milliseconds of the fastest run of a network, its maps not decoded.
    ///
    /// # Errors
    /// A network that the engine has no form for; what the engine says.
    pub fn network(&self, graph: &Graph, params: &Params) -> Result<f64> {
        bench::fastest(
            self.engine,
            graph,
            params,
            ([self.img as i64; 2], self.threads, OF_NETWORKS),
        )
    }

    /// Milliseconds of a convolution on a grid of widths up to the widest of the network.
    fn convolution(&self, conv: &ConvShape, [cin, cout]: [i64; 2]) -> Result<OpTime> {
        let widths = |full: i64| {
            let mut widths: Vec<i64> = EIGHTHS.iter().map(|eighths| (full * eighths / 8).max(1)).collect();
            widths.dedup();
            widths
        };
        // The image has few channels, and keeps them.
        let inputs = if cin <= 4 { vec![cin] } else { widths(cin) };
        let outputs = if conv.depthwise { Vec::new() } else { widths(cout) };
        let run = |cin: i64, cout: i64, copies: usize| {
            let graph = conv.network(cin, cout, copies)?;
            let params = Params::init(&graph, 0);
            bench::fastest(
                self.engine,
                &graph,
                &params,
                (conv.input, self.threads, OF_CONVOLUTIONS),
            )
        };
        let copies = |cin: i64, cout: i64| (ENOUGH_MACS / conv.macs(cin, cout).max(1)).clamp(3, 16) as usize;
        // What a run takes without any convolution, from the narrowest.
        let (least_in, least_out) = (inputs[0], outputs.first().copied().unwrap_or(inputs[0]));
        let (one, several, count) = (
            run(least_in, least_out, 1)?,
            copies(least_in, least_out),
            copies(least_in, least_out) as f64,
        );
        let each = ((run(least_in, least_out, several)? - one) / (count - 1.0)).max(0.0);
        let around = (one - each).max(0.0);
        let mut ms = Vec::new();
        for cin in &inputs {
            for cout in if conv.depthwise { &inputs[..1] } else { &outputs[..] } {
                let copies = copies(*cin, *cout);
                ms.push(((run(*cin, *cout, copies)? - around) / copies as f64).max(0.0));
            }
        }
        Ok(OpTime {
            conv: conv.clone(),
            cin: inputs,
            cout: outputs,
            ms,
        })
    }

    /// The table of a network, measured.
    ///
    /// # Errors
    /// Those of [`Clock::network`]; the listener's wish to stop.
    pub fn op_times(&self, session: Session<'_>, graph: &Graph) -> Result<OpTimes> {
        let mut kinds: Vec<(ConvShape, [i64; 2])> = Vec::new();
        for (_, conv, [cin, cout]) in convolutions(graph, self.img as i64)? {
            match kinds.iter_mut().find(|(known, _)| *known == conv) {
                Some((_, widest)) => *widest = [widest[0].max(cin), widest[1].max(cout)],
                None => kinds.push((conv, [cin, cout])),
            }
        }
        let task = session.progress.task("op times", kinds.len());
        let mut ops = Vec::new();
        for (conv, widest) in &kinds {
            ops.push(self.convolution(conv, *widest)?);
            task.step(ops.len(), kinds.len(), &conv.to_string())?;
        }
        Ok(OpTimes {
            version: OP_TIMES_VERSION,
            engine: self.engine.name().to_owned(),
            threads: self.threads,
            machine: machine(),
            ops,
        })
    }

    /// Time of a model as a function of its widths. The table is that of `file` where there is one, which may come from another machine;
    /// else it is measured, and written there. A table of this machine is scaled so that the whole model, and the model at half of its
    /// widths, take what they are measured to.
    ///
    /// # Errors
    /// A file that is no table, or of another network; those of [`Clock::op_times`].
    pub fn model(
        &self,
        session: Session<'_>,
        model: &Checkpoint,
        file: Option<&Path>,
        rounding: Rounding,
    ) -> Result<Timed> {
        let table = match file.filter(|file| file.exists()) {
            Some(file) => read(file)?,
            None => {
                let table = self.op_times(session, &model.graph)?;
                if let Some(file) = file {
                    files::write(file, serde_json::to_string_pretty(&table)?.as_bytes())?;
                }
                table
            }
        };
        let groups = ChannelGroups::of(&model.graph)?;
        let time = TimeModel::of(&model.graph, &groups, self.img as i64, &table).map_err(|error| {
            Error::Usage(format!(
                "{}{error}",
                file.map_or(String::new(), |file| format!("{}: ", file.display()))
            ))
        })?;
        if (table.machine.as_str(), table.engine.as_str(), table.threads)
            != (machine().as_str(), self.engine.name(), self.threads)
        {
            let elsewhere = format!("{} on {} threads of {}", table.engine, table.threads, table.machine);
            session.say(format!("times of {elsewhere}: nothing is measured here"));
            return Ok(Timed {
                time,
                elsewhere: Some(elsewhere),
            });
        }
        let full: Vec<usize> = groups.groups.iter().map(|group| group.len()).collect();
        let half = uniform_widths(&groups, 0.5, rounding);
        let flat = full.iter().map(|width| vec![0.0; *width]).collect();
        let (small, params) = apply(&model.graph, &model.params, &groups, &top(&groups, &flat, &half))?;
        let measured = [
            (full.as_slice(), self.network(&model.graph, &model.params)?),
            (half.as_slice(), self.network(&small, &params)?),
        ];
        Ok(Timed {
            time: time.fitted(measured),
            elsewhere: None,
        })
    }

    /// Holds a pruned model against what was predicted.
    ///
    /// # Errors
    /// Those of [`Clock::network`].
    pub fn check(
        &self,
        time: &TimeModel,
        before: &Checkpoint,
        after: &Checkpoint,
        plan: &PrunePlan,
    ) -> Result<Measured> {
        let predicted = predicted(time, before, plan)?;
        // In turns, so that a slow spell of the machine meets both.
        let mut fastest = [f64::INFINITY; 2];
        for _ in 0..2 {
            for (fastest, model) in fastest.iter_mut().zip([before, after]) {
                *fastest = fastest.min(self.network(&model.graph, &model.params)?);
            }
        }
        let [ms_before, ms] = fastest;
        Ok(Measured {
            engine: self.engine.name().to_owned(),
            threads: self.threads,
            ms_before,
            ms,
            predicted,
            measured: ms / ms_before,
        })
    }
}

impl Measured {
    /// In a sentence, against the share that was asked for.
    pub fn sentence(&self, asked: f64) -> String {
        let missed = if self.measured > 1.02 * asked {
            format!(
                "; more than asked for: try `latency` {:.2}",
                asked * asked / self.measured
            )
        } else {
            String::new()
        };
        format!(
            "{}, {} threads: {:.2} ms before, {:.2} ms after: {:.1} % of the time stays (predicted {:.1} %, asked for {:.1} %){missed}",
            self.engine,
            self.threads,
            self.ms_before,
            self.ms,
            100.0 * self.measured,
            100.0 * self.predicted,
            100.0 * asked
        )
    }

    /// For the history of a checkpoint.
    pub(crate) fn note(&self) -> serde_json::Value {
        json!(self)
    }
}

/// A table of a file.
///
/// # Errors
/// Names the file: it can't be read, or is none.
pub fn read(file: &Path) -> Result<OpTimes> {
    OpTimes::parse(&files::read_text(file)?).map_err(|error| Error::Usage(format!("{}: {error}", file.display())))
}

/// This machine's processor, as the system names it.
pub fn machine() -> String {
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = about
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
