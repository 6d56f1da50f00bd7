//! Settings of a pruning: what each says, and what is refused before anything is done.
//!
//! What must not be here: pruning itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yolo_core::Graph;
use yolo_core::prune::{
    Aggregate, Budget, ChannelGroups, CostModel, Floor, Limits, Members, Round, Rounding, uniform_widths,
};

use yolo_engine::train::NOMINAL_BATCH;

use crate::bench::Engine;
use crate::error::{Error, Result};
use crate::{Session, files, latency, open};

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
    /// Images per update of pruners that train: gradients of smaller batches are added up
    #[arg(long, visible_alias = "nbs", default_value_t = NOMINAL_BATCH)]
    pub nominal_batch: usize,
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
            nominal_batch: NOMINAL_BATCH,
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

    pub(super) fn rounding(&self) -> Rounding {
        Rounding {
            multiple: self.multiple.max(1),
            max_ratio: self.max_ratio,
            round: self.round,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            exclude: self.exclude.clone(),
            floors: self.floor.clone(),
        }
    }

    /// The engine that times are of: it must be here, unless they come from another machine.
    pub(super) fn clocked_by(&self) -> Result<Engine> {
        let table = self.op_times.as_deref().filter(|file| file.exists());
        match table.map(latency::read).transpose()? {
            Some(table) if table.machine != latency::machine() => Engine::called(&self.engine),
            _ => Engine::named(&self.engine),
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

    /// The settings that are not as they are by default, by their names in recipes.
    pub fn changed(&self) -> Vec<String> {
        let fields = |settings: &Self| match serde_json::to_value(settings) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let usual = fields(&Self::default());
        (fields(self).into_iter())
            .filter(|(name, value)| usual.get(name) != Some(value))
            .map(|(name, _)| name)
            .collect()
    }

    /// A plan that is replayed has decided all that a pruner would.
    fn nothing_beside_plan(&self) -> Result {
        const DECIDE: [&str; 9] = [
            "pruner",
            "metric",
            "flops",
            "params",
            "latency",
            "exclude",
            "floor",
            "aggregate",
            "candidates",
        ];
        match self.changed().iter().find(|name| DECIDE.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Error::Usage(format!(
                "`{name}` has no say where a plan is replayed: what is removed stands in the plan; leave one of them out"
            ))),
        }
    }

    /// Whose time is measured, and how, is of use for a budget of time alone.
    fn nothing_without_latency(&self) -> Result {
        const NEED: [&str; 3] = ["engine", "threads", "op-times"];
        let changed = self.changed();
        match changed.iter().find(|name| NEED.contains(&name.as_str())) {
            Some(name) if self.latency.is_none() => Err(Error::Usage(format!(
                "`{name}` has no say without `latency`, the share of an image's time that may stay"
            ))),
            _ => Ok(()),
        }
    }

    /// Reads all that it names; `place` is where the pruner stands, for messages.
    ///
    /// # Errors
    /// A budget that makes no sense, a plugin or an option that is not there, hyper-parameters out of their ranges.
    pub fn check(&self, session: Session<'_>, place: &str) -> Result {
        for (name, value) in [
            ("--batch-size", self.batch_size),
            ("--multiple", self.multiple),
            ("--nominal-batch", self.nominal_batch),
            ("--calib-batches", self.calib_batches),
            ("--select-images", self.select_images),
        ] {
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
            Some(plan) => {
                self.nothing_beside_plan()?;
                files::read_text(plan).map(drop)
            }
            None => {
                self.nothing_without_latency()?;
                self.budget().check()?;
                self.one_aim()?;
                if self.latency.is_some() {
                    crate::limits::at_least_one("--threads", self.threads.unwrap_or(1))?;
                    self.clocked_by()?;
                }
                open::pruner(session, place, &self.component()?).map(drop)
            }
        }
    }
}
