//! Pruning: what a pruner is given, and what comes out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yolo_core::prune::{Budget, ChannelGroups, PrunePlan, Rounding};
use yolo_data::{Dataset, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::prune::{PruneData, PruneOptions, Pruned};
use yolo_engine::train::{Precision, TrainOptions};

use crate::bench::{Engine, all_cores};
use crate::error::{Error, Result};
use crate::latency::{self, Clock};
use crate::{Session, files, measure, open};

/// Settings of a pruning: flags of `yolo prune` and keys of a recipe's `prune` stage.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneSettings {
    /// Pruner: its name, or `{type: NAME, option: value}` (`yolo list-plugins --kind pruner`)
    #[arg(long, default_value = "slimming", value_parser = open::component)]
    pub pruner: Value,
    /// Metric of a pruner that takes one: a name, `{type: NAME, ...}` or a .wasm file
    #[arg(long, value_parser = open::metric)]
    pub metric: Option<Value>,
    /// Largest share of the FLOPs that may stay
    #[arg(long)]
    pub flops: Option<f64>,
    /// Largest share of the parameters that may stay
    #[arg(long)]
    pub params: Option<f64>,
    /// Largest share of an image's time on `--engine` that may stay: measured on this machine, or taken from `--op-times`
    #[arg(long)]
    pub latency: Option<f64>,
    /// Engine of `--latency`: `ort`, `openvino`, `ncnn`, `torch`, or `auto`: onnxruntime where it is installed, else libtorch
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub engine: String,
    /// Its threads (default: one per core)
    #[arg(long)]
    pub threads: Option<usize>,
    /// Times of the network's convolutions: read if the file is there, which may come from another machine, else measured and written
    #[arg(long, value_name = "FILE", requires = "latency")]
    pub op_times: Option<PathBuf>,
    /// Widths become multiples of this
    #[arg(long, default_value_t = Rounding::default().multiple)]
    pub multiple: usize,
    /// No group of channels loses more than this share
    #[arg(long, default_value_t = Rounding::default().max_ratio)]
    pub max_ratio: f64,
    /// Replay a plan instead of searching
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pruner", "metric", "flops", "params", "latency"])]
    pub plan: Option<PathBuf>,
    /// Training batches for the statistics of batch norms
    #[arg(long, default_value_t = 50)]
    pub calib_batches: usize,
    /// Training images that candidates of a search are compared on
    #[arg(long, default_value_t = 256)]
    pub select_images: usize,
    /// Side of the images (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    pub img: Option<usize>,
    /// Images per step
    #[arg(long, visible_alias = "batch", default_value_t = 16)]
    pub batch_size: usize,
    /// Hyper-parameters (for pruners that train)
    #[arg(long, value_name = "FILE", value_parser = open::text)]
    pub hyp: Option<Value>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
}

impl Default for PruneSettings {
    fn default() -> Self {
        Self {
            pruner: json!({ "type": "slimming" }),
            metric: None,
            flops: None,
            params: None,
            latency: None,
            engine: "auto".to_owned(),
            threads: None,
            op_times: None,
            multiple: Rounding::default().multiple,
            max_ratio: Rounding::default().max_ratio,
            plan: None,
            calib_batches: 50,
            select_images: 256,
            img: None,
            batch_size: 16,
            hyp: None,
            seed: 0,
            workers: 2,
        }
    }
}

impl PruneSettings {
    /// What the result may cost.
    pub fn budget(&self) -> Budget {
        Budget {
            flops: self.flops,
            params: self.params,
            latency: self.latency,
        }
    }

    /// The pruner's configuration, with the metric in it.
    ///
    /// # Errors
    /// A metric that is no configuration.
    pub fn component(&self) -> Result<Value> {
        open::with_metric(open::written(&self.pruner)?, self.metric.as_ref())
    }

    /// Reads all that it names; `place` is where the pruner stands, for messages.
    ///
    /// # Errors
    /// A budget that makes no sense, a plugin or an option that is not there, hyper-parameters out of their ranges.
    pub fn check(&self, session: Session<'_>, place: &str) -> Result {
        for (name, value) in [("--batch-size", self.batch_size), ("--multiple", self.multiple)] {
            crate::limits::at_least_one(name, value)?;
        }
        open::hyp(self.hyp.as_ref())?;
        match &self.plan {
            Some(plan) => files::read_text(plan).map(drop),
            None => {
                self.budget().check()?;
                if self.latency.is_some() {
                    crate::limits::at_least_one("--threads", self.threads.unwrap_or(1))?;
                    Engine::named(&self.engine)?;
                    self.op_times
                        .as_deref()
                        .filter(|file| file.exists())
                        .map(latency::read)
                        .transpose()?;
                }
                open::pruner(session, place, &self.component()?).map(drop)
            }
        }
    }
}

/// One pruning.
pub struct Pruning<'a> {
    /// Plugins and listener.
    pub session: Session<'a>,
    /// Data.
    pub dataset: &'a Dataset,
    /// Side of the images.
    pub img: usize,
    /// Settings.
    pub settings: &'a PruneSettings,
    /// Mixed precision of pruners that train.
    pub precision: Precision,
}

impl Pruning<'_> {
    /// Lets the pruner decide and cuts, or replays a plan; `place` is where the pruner stands, for messages.
    ///
    /// # Errors
    /// Those of [`PruneSettings::check`]; a budget that can't be met; a plan of another model; the listener's wish to stop.
    pub fn run(&self, model: &Checkpoint, place: &str) -> Result<Pruned> {
        match &self.settings.plan {
            Some(path) => self.replay(model, path),
            None => self.search(model, place),
        }
    }

    /// How images come in batches.
    fn batching(&self) -> open::Batching {
        open::Batching {
            size: self.img,
            batch: self.settings.batch_size,
            workers: self.settings.workers,
        }
    }

    /// mAP50 and mAP of a model on the validation images.
    ///
    /// # Errors
    /// Those of [`measure::validate`].
    pub fn measure(&self, model: &Checkpoint, label: &str) -> Result<[f64; 2]> {
        let loader = open::val_loader(self.session, self.dataset, Split::Val, model, self.batching(), false)?;
        measure::validate(self.session, model, &loader, label)
    }

    fn still(&self, model: &Checkpoint, images: usize) -> Result<Loader> {
        open::calib_loader(self.session, self.dataset, model, self.batching(), images)
    }

    fn calib(&self, model: &Checkpoint) -> Result<Loader> {
        self.still(model, self.settings.calib_batches.max(1) * self.settings.batch_size)
    }

    /// What measures times, where they are a budget.
    fn clock(&self) -> Result<Option<Clock>> {
        let s = self.settings;
        let clock = |_| {
            Ok(Clock {
                engine: Engine::named(&s.engine)?,
                threads: s.threads.unwrap_or_else(all_cores),
                img: self.img,
            })
        };
        s.latency.map(clock).transpose()
    }

    fn search(&self, model: &Checkpoint, place: &str) -> Result<Pruned> {
        let (session, s) = (self.session, self.settings);
        let clock = self.clock()?;
        let rounding = Rounding {
            multiple: s.multiple.max(1),
            max_ratio: s.max_ratio,
        };
        let time = match &clock {
            Some(clock) => Some(clock.model(session, model, s.op_times.as_deref(), rounding)?),
            None => None,
        };
        let pruner = open::pruner(session, place, &s.component()?)?;
        let hyp = open::hyp(s.hyp.as_ref())?;
        let train = open::train_loader(session, self.dataset, model, self.batching(), &hyp, s.seed)?;
        let (calib, select) = (self.calib(model)?, self.still(model, s.select_images)?);
        let options = PruneOptions {
            budget: s.budget(),
            time,
            rounding,
            seed: s.seed,
            calib_batches: s.calib_batches,
            train: TrainOptions {
                seed: s.seed,
                precision: self.precision,
                ..TrainOptions::new(1, s.batch_size, self.img, hyp)
            },
        };
        let task = session.progress.task("prune", 0);
        let data = PruneData {
            train: &train,
            calib: &calib,
            select: &select,
        };
        let mut pruned = yolo_engine::prune::prune(model, pruner.as_ref(), data, &options, &*task)?;
        drop(task);
        if let (Some(clock), Some(time), Some(asked)) = (clock, &options.time, s.latency) {
            let measured = clock.check(time, model, &pruned.model, &pruned.plan)?;
            session.say(measured.sentence(asked));
            if let Some(entry) = pruned.model.meta.history.last_mut() {
                entry.settings["latency"] = measured.note();
            }
        }
        Ok(pruned)
    }

    /// What a pruning by time has measured.
    pub fn measured_time(pruned: &Checkpoint) -> Option<&Value> {
        pruned.meta.history.last()?.settings.get("latency")
    }

    /// Cuts by a plan that was saved.
    fn replay(&self, model: &Checkpoint, path: &PathBuf) -> Result<Pruned> {
        let text = files::read_text(path)?;
        let plan = PrunePlan::of_file(&text, &ChannelGroups::of(&model.graph)?)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
        let settings = json!({ "plan": path });
        let calib = self.calib(model)?;
        let model = yolo_engine::prune::apply_plan(model, &plan, &calib, self.settings.calib_batches, settings)?;
        Ok(Pruned { model, plan })
    }
}

/// A plan as a file, with the widths of the network that it is for.
///
/// # Errors
/// Those of the file system.
pub fn write_plan(path: &std::path::Path, plan: &PrunePlan, model: &Checkpoint) -> Result {
    let text = plan.to_file(&ChannelGroups::of(&model.graph)?)?;
    files::write(path, text.as_bytes())
}
