//! The recipe file: stages in order, each with its kind and the settings of that job. What the recipe says for all of them (size of the
//! images, batch, seed, hyper-parameters, ...) is filled into every stage that says nothing else, so that a stage is all that it
//! depends on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use yolo_core::config::{Located, merge};
use yolo_engine::train::NOMINAL_BATCH;

use super::cache::Record;
use crate::bench::BenchSettings;
use crate::error::{Error, Result};
use crate::export::ExportSettings;
use crate::prune::PruneSettings;
use crate::quantize::QuantizeSettings;
use crate::train::TrainSettings;
use crate::{files, open};

/// One recipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Name, for the table and the default output folder.
    pub name: String,
    /// Data set YAML; relative to the recipe, else to the working folder.
    pub data: PathBuf,
    /// Take all classes as one.
    #[serde(default)]
    pub single_cls: bool,
    /// Images that are left out of the training split in all stages, for a search in `prune` to compare candidates on.
    #[serde(default)]
    pub hold_out: usize,
    /// Model configuration (name or file).
    #[serde(default)]
    pub cfg: Option<String>,
    /// Values of the model configuration that are changed, `scale.width=0.5`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Checkpoint to start from (`.pt` or `.safetensors`); with `cfg` too, weights that fit are taken.
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// Start from `weights` although less than half of the model is in them.
    #[serde(default)]
    pub partial_weights: bool,
    /// Side of the image.
    #[serde(default = "default_img")]
    pub img: i64,
    /// Images per step.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Gradients of smaller batches are accumulated to this many images before a step (Ultralytics' 64). Small data sets need a
    /// smaller one, or an epoch has too few steps.
    #[serde(default = "default_nominal")]
    pub nominal_batch: usize,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Loader threads.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Hyper-parameters (file or inline), as Ultralytics' hyp YAML.
    #[serde(default)]
    pub hyp: Option<Value>,
    /// Folder for everything that is made (default `runs/compress/NAME`).
    #[serde(default)]
    pub out: Option<PathBuf>,
    /// What to do.
    pub stages: Vec<Stage>,
    /// Where each stage stands in the file, `bccd.yaml:12:5`; empty where there is no file.
    #[serde(skip)]
    places: Vec<String>,
    /// Stages that are a reference for as many epochs as all before it, since nobody has given a number.
    #[serde(skip)]
    pub(super) as_long: Vec<usize>,
    /// What stands in it and changes nothing.
    #[serde(skip)]
    pub(super) remarks: Vec<String>,
}

fn default_img() -> i64 {
    640
}

fn default_batch() -> usize {
    16
}

fn default_nominal() -> usize {
    NOMINAL_BATCH
}

fn default_workers() -> usize {
    2
}

/// One stage: `- train: {epochs: 10}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Trains.
    Train(TrainSettings),
    /// Trains with a pruner's penalty (Network Slimming).
    Sparsify(TrainSettings),
    /// Removes channels.
    Prune(PruneSettings),
    /// Trains the pruned model.
    FineTune(TrainSettings),
    /// PTQ, then QAT if epochs are given.
    Quantize(QuantizeSettings),
    /// Trains the first model anew for as many epochs as all stages before have had: what a fair comparison needs. Later stages go on
    /// from the stage before it.
    Reference(TrainSettings),
    /// Writes deployment files and checks them.
    Export(ExportSettings),
    /// Measures speed on this CPU.
    Bench(BenchSettings),
}

/// The kinds of stages, as written in recipes.
const KINDS: [&str; 8] = [
    "train",
    "sparsify",
    "prune",
    "fine-tune",
    "quantize",
    "reference",
    "export",
    "bench",
];

impl Stage {
    /// Name of the kind, as written in recipes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Sparsify(_) => "sparsify",
            Self::Prune(_) => "prune",
            Self::FineTune(_) => "fine-tune",
            Self::Quantize(_) => "quantize",
            Self::Reference(_) => "reference",
            Self::Export(_) => "export",
            Self::Bench(_) => "bench",
        }
    }

    /// All that the result of the stage depends on.
    ///
    /// # Errors
    /// A plan that can't be read.
    pub fn key(&self) -> Result<Value> {
        let mut settings = match self {
            Self::Train(s) | Self::Sparsify(s) | Self::FineTune(s) | Self::Reference(s) => s.key()?,
            Self::Prune(s) => {
                let mut value = serde_json::to_value(s)?;
                value["plan"] = json!(s.plan.as_deref().map(files::hash).transpose()?);
                value["op-times"] = json!(s.op_times.as_deref().map(files::hash).transpose()?);
                value
            }
            Self::Quantize(s) => s.key()?,
            Self::Export(s) => serde_json::to_value(s)?,
            Self::Bench(s) => serde_json::to_value(s)?,
        };
        if let Some(map) = settings.as_object_mut() {
            map.remove("workers");
        }
        Ok(json!({ self.kind(): settings }))
    }
}

impl Recipe {
    /// Reads a recipe, with values changed (`data=my.yaml`); paths in it become relative to the working folder.
    ///
    /// # Errors
    /// File, line and column of what can't be.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = files::read_text(path)?;
        let mut located = Located::parse(&path.display().to_string(), &text)?;
        for assignment in overrides {
            yolo_core::config::set(&mut located.value, assignment)?;
        }
        check_stages(&mut located)?;
        // First as it is written, so that every complaint has its place.
        let written: Self = located.read()?;
        let hyp = written.named_hyp(path);
        match &hyp {
            Some(Value::Object(_)) => open::sensible_at(&located, "hyp").map(drop)?,
            other => open::hyp(other.as_ref()).map(drop)?,
        }
        for (index, stage) in written.stages.iter().enumerate() {
            let at = format!("stages.{index}.{}.hyp", stage.kind());
            if located.get(&at).is_some_and(Value::is_object) {
                open::sensible_at(&located, &at)?;
            }
        }
        let remarks = for_qat_only(&located, &written.stages);
        let as_long = (0..written.stages.len())
            .filter(|index| matches!(written.stages[*index], Stage::Reference(_)))
            .filter(|index| located.get(&format!("stages.{index}.reference.epochs")).is_none())
            .collect();
        let value = filled(path, &located.value, &written, hyp.as_ref())?;
        let mut recipe: Self = Located::from_value(&located.file, value).read()?;
        recipe.hyp = hyp;
        recipe.remarks = remarks;
        recipe.as_long = as_long;
        recipe.places = recipe
            .stages
            .iter()
            .enumerate()
            .map(|(index, stage)| placed(&located, index, stage))
            .collect();
        recipe.check(path, &located)?;
        Ok(recipe)
    }

    fn check(&mut self, path: &Path, located: &Located) -> Result {
        // It is the name of a folder and of files.
        if self.name.trim().is_empty() || self.name.starts_with('.') || self.name.contains(['/', '\\', '\0']) {
            let message = format!(
                "`{}` can't be the name of a folder: no slashes, and no dot in front",
                self.name
            );
            return Err(located
                .value_error("name", &message, Some("`out` says where everything goes"))
                .into());
        }
        self.data = beside(path, &self.data);
        if !self.data.exists() {
            let message = format!("the data set {} does not exist", self.data.display());
            return Err(located.value_error("data", &message, None).into());
        }
        self.weights = self.weights.as_ref().map(|file| beside(path, file));
        self.cfg = (self.cfg.as_deref()).map(|cfg| beside(path, Path::new(cfg)).to_string_lossy().into_owned());
        if let Some(weights) = self.weights.as_ref().filter(|weights| !weights.exists()) {
            let message = format!("the weights {} do not exist", weights.display());
            return Err(located.value_error("weights", &message, None).into());
        }
        for (key, value) in [("batch-size", self.batch_size), ("nominal-batch", self.nominal_batch)] {
            if value == 0 {
                return Err(located
                    .value_error(key, &format!("{key} must be at least 1"), None)
                    .into());
            }
        }
        if self.cfg.is_none() && self.weights.is_none() {
            return Err(Error::Usage(format!(
                "{}: give `cfg`, `weights` or both",
                path.display()
            )));
        }
        if !self.set.is_empty() && self.cfg.is_none() {
            return Err(located
                .error("set", "`set` changes a model configuration: give `cfg`", None)
                .into());
        }
        Ok(())
    }

    /// The hyper-parameters, with a file of them beside the recipe found there.
    fn named_hyp(&self, recipe: &Path) -> Option<Value> {
        match &self.hyp {
            Some(Value::String(file)) => Some(json!(beside(recipe, Path::new(file)))),
            other => other.clone(),
        }
    }

    /// What a complaint about a stage begins with: `bccd.yaml:12:5: 3-prune`, or `3-prune` without a file.
    pub(super) fn stage_name(&self, index: usize) -> String {
        let name = format!("{}-{}", index + 1, self.stages[index].kind());
        match self.places.get(index) {
            Some(place) => format!("{place}: {name}"),
            None => name,
        }
    }

    /// Epochs that a reference behind the stages `before` trains beyond those that the recipe can tell: those of pruners, which are known
    /// only once they have trained. None where a number of epochs is given.
    pub(super) fn further_epochs(&self, before: &[(Record, bool)]) -> usize {
        if !self.as_long.contains(&before.len()) {
            return 0;
        }
        let trained = before
            .iter()
            .filter_map(|(record, _)| record.details["trained"].as_u64());
        trained.sum::<u64>() as usize
    }

    /// Folder of everything that the recipe makes.
    pub fn folder(&self) -> PathBuf {
        self.out
            .clone()
            .unwrap_or_else(|| Path::new("runs/compress").join(&self.name))
    }
}

/// File, line and column of a stage.
fn placed(located: &Located, index: usize, stage: &Stage) -> String {
    match located.place(&format!("stages.{index}.{}", stage.kind())) {
        Some(place) => format!("{}:{}:{}", located.file, place.line, place.column),
        None => located.file.clone(),
    }
}

/// What serde's words would help nobody with: one key per stage, of a known kind, with what it needs.
fn check_stages(located: &mut Located) -> Result {
    let stages = located.value.get_mut("stages").and_then(Value::as_array_mut);
    for stage in stages.into_iter().flatten() {
        for (_, options) in stage
            .as_object_mut()
            .into_iter()
            .flatten()
            .filter(|(_, options)| options.is_null())
        {
            *options = json!({});
        }
    }
    let located = &*located;
    let stages = located.value.get("stages").and_then(Value::as_array);
    let stages = stages.filter(|stages| !stages.is_empty());
    let stages = stages.ok_or_else(|| located.error("stages", "a recipe needs `stages`, a list", None))?;
    for (index, stage) in stages.iter().enumerate() {
        let at = format!("stages.{index}");
        let only = stage.as_object().filter(|map| map.len() == 1);
        let Some((kind, options)) = only.and_then(|map| map.iter().next()) else {
            return Err(located
                .error(&at, "a stage is one key, `- train: {epochs: 10}`", None)
                .into());
        };
        let at = format!("{at}.{kind}");
        if !KINDS.contains(&kind.as_str()) {
            let hint = yolo_core::suggest::did_you_mean(kind, KINDS);
            let help = hint.unwrap_or_else(|| format!("stages: {}", KINDS.join(", ")));
            let message = format!("there is no stage `{kind}`");
            return Err(located.error(&at, &message, Some(&help)).into());
        }
        if !options.is_object() {
            let help = format!("`- {kind}: {{}}` takes the defaults");
            return Err(located
                .value_error(&at, "the options of a stage are `{key: value}`", Some(&help))
                .into());
        }
        let trains = ["train", "sparsify", "fine-tune"].contains(&kind.as_str());
        if trains && options.get("epochs").is_none() {
            let message = format!("`{kind}` needs its number of epochs, `- {kind}: {{epochs: 10}}`");
            return Err(located.error(&at, &message, None).into());
        }
    }
    Ok(())
}

/// Keys of a `quantize` stage itself that only training looks at, where there is none.
fn for_qat_only(located: &Located, stages: &[Stage]) -> Vec<String> {
    let calibrated = |(index, stage): (usize, &Stage)| match stage {
        Stage::Quantize(settings) if settings.qat_epochs == 0 => Some(index),
        _ => None,
    };
    let mut remarks = Vec::new();
    for index in stages.iter().enumerate().filter_map(calibrated) {
        for key in ["hyp", "nominal-batch", "seed"] {
            let at = format!("stages.{index}.quantize.{key}");
            if let (Some(_), Some(place)) = (located.get(&at), located.place(&at)) {
                remarks.push(format!(
                    "note: {}:{}:{}: `{key}` changes nothing without `qat-epochs`",
                    located.file, place.line, place.column
                ));
            }
        }
    }
    remarks
}

/// The recipe with every stage complete.
fn filled(path: &Path, written: &Value, recipe: &Recipe, hyp: Option<&Value>) -> Result<Value> {
    let mut all = written.clone();
    let base = open::located_hyp(hyp)?.value;
    // What a reference is trained like, and for how long.
    let (mut first, mut epochs): (Option<Map<String, Value>>, u64) = (None, 0);
    for stage in all["stages"].as_array_mut().into_iter().flatten() {
        for (kind, options) in stage.as_object_mut().into_iter().flatten() {
            if let Some(options) = options.as_object_mut() {
                for key in ["plan", "op-times", "teacher"] {
                    if let Some(Value::String(file)) = options.get_mut(key).filter(|file| **file != "base") {
                        *file = beside(path, Path::new(file)).to_string_lossy().into_owned();
                    }
                }
                // A file's content, so that the key of the stage sees it change.
                let own = match options.remove("hyp") {
                    Some(Value::String(file)) => {
                        let file = json!(beside(path, Path::new(&file)));
                        open::hyp(Some(&file))?;
                        Some(open::located_hyp(Some(&file))?.value)
                    }
                    own => own,
                };
                let own = if kind == "reference" {
                    as_the_first(options, first.as_ref(), epochs, own)
                } else {
                    own
                };
                if kind == "train" && first.is_none() {
                    first = Some(options.clone());
                    first.iter_mut().for_each(|map| {
                        map.extend(own.clone().map(|own| ("hyp".to_owned(), own)));
                    });
                }
                let more = if kind == "quantize" { "qat-epochs" } else { "epochs" };
                epochs += options
                    .get(more)
                    .and_then(Value::as_u64)
                    .filter(|_| kind != "reference")
                    .unwrap_or(0);
                Fill {
                    recipe,
                    base: &base,
                    own,
                }
                .stage(kind, options);
            }
        }
    }
    Ok(all)
}

/// The options of a reference: those of the first training, for as many epochs as all stages before, with its own on top. Gives its
/// hyper-parameters.
fn as_the_first(
    options: &mut Map<String, Value>,
    first: Option<&Map<String, Value>>,
    epochs: u64,
    own: Option<Value>,
) -> Option<Value> {
    give(options, "epochs", json!(epochs));
    let first = first.cloned().unwrap_or_default();
    let hyp = own.or_else(|| first.get("hyp").cloned());
    for (key, value) in first.into_iter().filter(|(key, _)| key != "hyp") {
        give(options, &key, value);
    }
    hyp
}

/// What a recipe says for all stages.
struct Fill<'a> {
    recipe: &'a Recipe,
    /// Its hyper-parameters.
    base: &'a Value,
    /// Those of the stage, which lie over them.
    own: Option<Value>,
}

impl Fill<'_> {
    /// Completes a stage: its own options stay.
    fn stage(self, kind: &str, options: &mut Map<String, Value>) {
        let recipe = self.recipe;
        match kind {
            "train" | "sparsify" | "fine-tune" | "reference" => {
                self.common(options);
                give(options, "nominal-batch", json!(recipe.nominal_batch));
                // A recipe says how long it trains.
                give(options, "patience", json!(0));
                if kind == "sparsify" && !options.contains_key("pruner") {
                    give(options, "sparsify", json!({ "type": "slimming" }));
                }
                options.insert("hyp".into(), self.merged());
            }
            "prune" => {
                self.common(options);
                give(options, "nominal-batch", json!(recipe.nominal_batch));
                options.insert("hyp".into(), self.merged());
            }
            "quantize" => {
                self.common(options);
                give(options, "nominal-batch", json!(recipe.nominal_batch));
                options.insert("hyp".into(), self.base.clone());
                if let Some(own) = self.own {
                    options.insert("qat-hyp".into(), own);
                }
            }
            "export" => {
                give(options, "img", json!([recipe.img]));
                give(options, "formats", json!(["onnx", "onnx-qdq"]));
            }
            _ => {
                give(options, "img", json!(recipe.img));
                give(options, "engine", json!("auto"));
                give(options, "threads", json!(2));
                give(options, "runs", json!(30));
            }
        }
    }

    fn common(&self, options: &mut Map<String, Value>) {
        give(options, "img", json!(self.recipe.img));
        give(options, "batch-size", json!(self.recipe.batch_size));
        give(options, "seed", json!(self.recipe.seed));
        give(options, "workers", json!(self.recipe.workers));
    }

    fn merged(&self) -> Value {
        let mut value = self.base.clone();
        if let Some(own) = self.own.clone() {
            merge(&mut value, own);
        }
        value
    }
}

fn give(options: &mut Map<String, Value>, key: &str, value: Value) {
    options.entry(key).or_insert(value);
}

/// A file that is named in a recipe: beside the recipe if it is there, else as it is named.
fn beside(recipe: &Path, file: &Path) -> PathBuf {
    let local = recipe.parent().unwrap_or(Path::new("")).join(file);
    if file.is_relative() && local.exists() {
        local
    } else {
        file.to_owned()
    }
}
