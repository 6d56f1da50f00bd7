//! Pruning: what a pruner is given, and what comes out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use yolo_core::Graph;
use yolo_core::prune::{
    Aggregate, Budget, ChannelGroups, CostModel, Floor, Limits, Members, PlanFile, Round, Rounding, uniform_widths,
};
use yolo_data::{Dataset, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::prune::{Journal, PruneData, PruneOptions, Pruned};
use yolo_engine::train::{Precision, TrainOptions};

use crate::bench::{Engine, all_cores};
use crate::candidates::Candidates;
use crate::error::{Error, Result, io_error};
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
    #[arg(long, default_value = "auto", value_name = "NAME", requires = "latency")]
    pub engine: String,
    /// Its threads (default: one per core)
    #[arg(long, requires = "latency")]
    pub threads: Option<usize>,
    /// Times of the network's convolutions: read if the file is there, which may come from another machine, else measured and written
    #[arg(long, value_name = "FILE", requires = "latency")]
    pub op_times: Option<PathBuf>,
    /// Widths become multiples of this
    #[arg(long, default_value_t = Rounding::default().multiple)]
    pub multiple: usize,
    /// Which multiple: nearest, up or down
    #[arg(long, default_value_t = Round::default())]
    pub round: Round,
    /// No group of channels loses more than this share
    #[arg(long, default_value_t = Rounding::default().max_ratio)]
    pub max_ratio: f64,
    /// Groups of channels that stay whole: `model.9`, `model.*.m.*.cv2`, `model.{2,4}.cv1` (repeatable; `--explain` lists them)
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Least share of their channels that groups keep: `model.9=0.5` (repeatable)
    #[arg(long, value_name = "PATTERN=SHARE")]
    pub floor: Vec<Floor>,
    /// Layers that have a say in a channel's score: makers, or all (also those that read it)
    #[arg(long, default_value_t = Members::default())]
    pub members: Members,
    /// Score layer by layer, and make one score of theirs: mean, sum, max, min, product or first (default: as the metric does)
    #[arg(long)]
    pub aggregate: Option<Aggregate>,
    /// Folder that keeps the candidates of a search: CSV, picture, best plans; an interrupted search goes on (default: their list alone,
    /// `candidates.csv` beside `--out`)
    #[arg(long, value_name = "DIR")]
    pub candidates: Option<PathBuf>,
    /// Replay a plan instead of searching
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "pruner", "metric", "flops", "params", "latency", "exclude", "floor", "aggregate", "candidates",
    ])]
    pub plan: Option<PathBuf>,
    /// Training batches for the statistics of batch norms
    #[arg(long, default_value_t = 50)]
    pub calib_batches: usize,
    /// Images that candidates of a search are compared on: of those that were held out of training, else of the training images
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
            round: Round::default(),
            max_ratio: Rounding::default().max_ratio,
            exclude: Vec::new(),
            floor: Vec::new(),
            members: Members::default(),
            aggregate: None,
            candidates: None,
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

    /// Refuses groups of channels that the network does not have, and a budget that no pruning of it meets at `size` pixels.
    ///
    /// # Errors
    /// Names the pattern; says how far pruning may go.
    pub fn check_against(&self, network: &Graph, size: i64) -> Result {
        if self.plan.is_some() {
            return Ok(());
        }
        let groups = ChannelGroups::of(network)?.within(&self.limits())?;
        let most = uniform_widths(&groups, 1.0, self.rounding());
        let budget = Budget {
            latency: None,
            ..self.budget()
        };
        Ok(budget.check_reach(&CostModel::of(network, &groups, size)?, &most)?)
    }

    fn rounding(&self) -> Rounding {
        Rounding {
            multiple: self.multiple.max(1),
            max_ratio: self.max_ratio,
            round: self.round,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            exclude: self.exclude.clone(),
            floors: self.floor.clone(),
        }
    }

    /// A share of the channels (`ratio`) and a budget are two answers to one question.
    fn one_aim(&self) -> Result {
        let component = self.component()?;
        let Some(ratio) = component.get("ratio").filter(|ratio| !ratio.is_null()) else {
            return Ok(());
        };
        let budgets = [
            ("flops", self.flops),
            ("params", self.params),
            ("latency", self.latency),
        ];
        match budgets.into_iter().find_map(|(name, budget)| Some((name, budget?))) {
            None => Ok(()),
            Some((name, budget)) => Err(Error::Usage(format!(
                "`ratio: {ratio}` says how many channels go, `{name}: {budget}` what the result may cost; give one of them"
            ))),
        }
    }

    /// Reads all that it names; `place` is where the pruner stands, for messages.
    ///
    /// # Errors
    /// A budget that makes no sense, a plugin or an option that is not there, hyper-parameters out of their ranges.
    pub fn check(&self, session: Session<'_>, place: &str) -> Result {
        for (name, value) in [("--batch-size", self.batch_size), ("--multiple", self.multiple)] {
            crate::limits::at_least_one(name, value)?;
        }
        if !(self.max_ratio > 0.0 && self.max_ratio <= 1.0) {
            return Err(Error::Usage(format!(
                "--max-ratio {}: it is a share above 0 and at most 1",
                self.max_ratio
            )));
        }
        open::hyp(self.hyp.as_ref())?;
        match &self.plan {
            Some(plan) => files::read_text(plan).map(drop),
            None => {
                self.budget().check()?;
                self.one_aim()?;
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
    /// Whether the folder of candidates is the job's own: those of another search are replaced there, and refused elsewhere.
    pub own_folder: bool,
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

    fn calib(&self, model: &Checkpoint) -> Result<Loader> {
        let images = self.settings.calib_batches.max(1) * self.settings.batch_size;
        open::calib_loader(self.session, self.dataset, model, self.batching(), images)
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
        let rounding = s.rounding();
        let time = match &clock {
            Some(clock) => Some(clock.model(session, model, s.op_times.as_deref(), rounding)?),
            None => None,
        };
        let pruner = open::pruner(session, place, &s.component()?)?;
        let hyp = open::hyp(s.hyp.as_ref())?;
        let train = open::train_loader(session, self.dataset, model, self.batching(), &hyp, s.seed)?;
        let calib = self.calib(model)?;
        let select = open::select_loader(session, self.dataset, model, self.batching(), s.select_images)?;
        let options = PruneOptions {
            budget: s.budget(),
            time,
            rounding,
            limits: s.limits(),
            members: s.members,
            aggregate: s.aggregate,
            seed: s.seed,
            calib_batches: s.calib_batches,
            train: TrainOptions {
                seed: s.seed,
                precision: self.precision,
                ..TrainOptions::new(1, s.batch_size, self.img, hyp)
            },
        };
        let candidates = s
            .candidates
            .as_deref()
            .map(|folder| self.candidates(folder, model))
            .transpose()?;
        let task = session.progress.task("prune", 0);
        let data = PruneData {
            train: &train,
            calib: &calib,
            select: &select,
            journal: candidates.as_ref().map(|candidates| candidates as &dyn Journal),
        };
        let mut pruned = yolo_engine::prune::prune(model, pruner.as_ref(), data, &options, &*task)?;
        drop(task);
        if let Some(candidates) = candidates.filter(|candidates| !candidates.is_empty()) {
            candidates.finish(&ChannelGroups::of(&model.graph)?)?;
        }
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

    /// The folder of a search by these settings.
    fn candidates(&self, folder: &Path, model: &Checkpoint) -> Result<Candidates> {
        let mut search = json!({
            "settings": self.settings, "img": self.img, "weights": fingerprint(model)?,
            "data": self.dataset.file, "held out": self.dataset.held_out(),
        });
        if let Some(settings) = search["settings"].as_object_mut() {
            // What a candidate is worth does not hang on these.
            for free in ["candidates", "workers"] {
                settings.remove(free);
            }
        }
        let candidates = match Candidates::open(folder, &search) {
            Err(Error::Usage(_)) if self.own_folder => {
                std::fs::remove_dir_all(folder).map_err(|error| io_error("can't clear the folder", folder, &error))?;
                Candidates::open(folder, &search)?
            }
            opened => opened?,
        };
        if !candidates.is_empty() {
            let count = candidates.len();
            self.session
                .say(format!("{}: {count} candidates are known", folder.display()));
        }
        Ok(candidates)
    }

    /// Cuts by a plan that was saved.
    fn replay(&self, model: &Checkpoint, path: &Path) -> Result<Pruned> {
        let text = files::read_text(path)?;
        let groups = ChannelGroups::of(&model.graph)?;
        let wrong = |error: yolo_core::Error| Error::Usage(format!("{}: {error}", path.display()));
        let file = PlanFile::read(&text).map_err(wrong)?;
        let plan = file.for_groups(&groups).map_err(wrong)?;
        match &file.weights {
            Some(weights) if *weights != fingerprint(model)? => self.session.say(format!(
                "note: {} was chosen for other weights of this network: what matters little there may matter here",
                path.display()
            )),
            _ => {}
        }
        let settings = json!({ "plan": path });
        let calib = self.calib(model)?;
        let model = yolo_engine::prune::apply_plan(model, &plan, &calib, self.settings.calib_batches, settings)?;
        Ok(Pruned {
            model,
            plan,
            scores: None,
        })
    }
}

/// Hash of a model's tensors.
fn fingerprint(model: &Checkpoint) -> Result<String> {
    let mut hash = Sha256::new();
    for (key, tensor) in model.params.iter() {
        hash.update(key);
        let numbers = tensor
            .detach()
            .to_device(tch::Device::Cpu)
            .to_kind(tch::Kind::Double)
            .flatten(0, -1);
        for number in Vec::<f64>::try_from(numbers).map_err(yolo_core::Error::from)? {
            hash.update(number.to_le_bytes());
        }
    }
    Ok(files::hex(&hash.finalize()[..8]))
}

/// A plan as a file, with the network that it is for, and the scores that it was chosen by. `model` is the one that was pruned.
///
/// # Errors
/// Those of the file system.
pub fn write_plan(path: &Path, pruned: &Pruned, model: &Checkpoint) -> Result {
    let mut file = PlanFile::new(&pruned.plan, &ChannelGroups::of(&model.graph)?);
    file.weights = Some(fingerprint(model)?);
    if let Some(scores) = &pruned.scores {
        file = file.with_scores(scores.metric.clone(), scores.scores.clone());
    }
    files::write(path, file.write()?.as_bytes())
}
