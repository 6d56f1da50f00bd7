//! The recipe file: what `yolo compress` reads. Stages run in order; each names its kind and its own options.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use yolo_core::config::Located;
use yolo_data::Hyp;

use crate::error::{CliError, CliResult, io_error};

/// One recipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Name, for the table and the default output folder.
    pub name: String,
    /// Data set YAML; relative to the recipe, else to the working folder.
    pub data: PathBuf,
    /// Model configuration (name or file).
    #[serde(default)]
    pub cfg: Option<String>,
    /// Checkpoint to start from (`.pt` or `.safetensors`); with `cfg` too, weights that fit are taken.
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// Start from `weights` although less than half of the model is in them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial_weights: bool,
    /// Side of the image.
    #[serde(default = "default_img")]
    pub img: i64,
    /// Images per step.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Gradients of smaller batches are accumulated to this many images before a step (Ultralytics' 64). Small data sets need a
    /// smaller one, or an epoch has too few steps.
    #[serde(default = "crate::train::nominal_batch")]
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
}

fn default_img() -> i64 {
    640
}

fn default_batch() -> usize {
    16
}

fn default_workers() -> usize {
    2
}

/// One stage: `- train: {epochs: 10}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Trains.
    Train(TrainStage),
    /// Trains with a pruner's penalty (Network Slimming).
    Sparsify(SparsifyStage),
    /// Removes channels.
    Prune(PruneStage),
    /// Trains the pruned model, optionally taught by the model before pruning.
    FineTune(TrainStage),
    /// PTQ, then QAT if epochs are given.
    Quantize(QuantizeStage),
    /// Writes deployment files and checks them.
    Export(ExportStage),
    /// Measures speed on this CPU.
    Bench(BenchStage),
}

impl Stage {
    /// Name of the kind, as written in recipes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Sparsify(_) => "sparsify",
            Self::Prune(_) => "prune",
            Self::FineTune(_) => "fine-tune",
            Self::Quantize(_) => "quantize",
            Self::Export(_) => "export",
            Self::Bench(_) => "bench",
        }
    }
}

/// Options of `train` and `fine-tune`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainStage {
    /// Epochs.
    pub epochs: usize,
    /// Overrides of the recipe's hyper-parameters.
    #[serde(default)]
    pub hyp: Option<Value>,
    /// Cosine instead of linear schedule.
    #[serde(default)]
    pub cos_lr: bool,
    /// Epochs without progress before stopping (0: never).
    #[serde(default)]
    pub patience: usize,
}

/// Options of `sparsify`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SparsifyStage {
    /// Epochs.
    pub epochs: usize,
    /// The pruner whose penalty acts, for example `{type: slimming, sparse_rate: 0.001}`.
    #[serde(default = "slimming")]
    pub pruner: Value,
    /// Overrides of the recipe's hyper-parameters.
    #[serde(default)]
    pub hyp: Option<Value>,
    /// Cosine instead of linear schedule.
    #[serde(default)]
    pub cos_lr: bool,
}

fn slimming() -> Value {
    serde_json::json!({"type": "slimming"})
}

/// Options of `prune`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PruneStage {
    /// The pruner with its options.
    #[serde(default = "slimming")]
    pub pruner: Value,
    /// Share of the FLOPs to keep.
    #[serde(default)]
    pub flops: Option<f64>,
    /// Share of the parameters to keep.
    #[serde(default)]
    pub params: Option<f64>,
    /// Widths become multiples of this.
    #[serde(default = "default_multiple")]
    pub multiple: usize,
    /// Training batches for recalibrating batch norm.
    #[serde(default = "default_calib")]
    pub calib_batches: usize,
    /// Training images that candidates of a search are compared on.
    #[serde(default = "default_select")]
    pub select_images: usize,
}

fn default_multiple() -> usize {
    8
}

fn default_select() -> usize {
    256
}

fn default_calib() -> usize {
    50
}

/// Options of `quantize`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuantizeStage {
    /// The backend with its options.
    #[serde(default = "tensorrt")]
    pub backend: Value,
    /// Epochs of quantization-aware training (0: PTQ only).
    #[serde(default)]
    pub qat_epochs: usize,
    /// Calibration batches.
    #[serde(default = "default_quant_batches")]
    pub calib_batches: usize,
    /// Overrides of the recipe's hyper-parameters.
    #[serde(default)]
    pub hyp: Option<Value>,
}

fn tensorrt() -> Value {
    serde_json::json!({"type": "tensorrt"})
}

fn default_quant_batches() -> usize {
    16
}

/// Options of `export`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExportStage {
    /// Formats; `onnx` and `ncnn` are made of the last float model, `onnx-qdq` and `ncnn-int8` of the last quantized one.
    #[serde(default = "default_formats")]
    pub formats: Vec<String>,
}

fn default_formats() -> Vec<String> {
    vec!["onnx".into(), "onnx-qdq".into()]
}

/// Options of `bench`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BenchStage {
    /// `auto` (onnxruntime where it is installed, else libtorch), `torch` or `ort`.
    #[serde(default = "default_engine")]
    pub engine: String,
    /// Threads.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// Timed runs per model.
    #[serde(default = "default_runs")]
    pub runs: usize,
}

fn default_engine() -> String {
    "auto".into()
}

fn default_threads() -> usize {
    2
}

fn default_runs() -> usize {
    30
}

impl Recipe {
    /// Reads a recipe; paths in it become relative to the working folder.
    pub fn read(path: &Path, overrides: &[String]) -> CliResult<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| io_error("can't read the recipe", path, &error))?;
        let mut located = Located::parse(&path.display().to_string(), &text)?;
        for assignment in overrides {
            yolo_core::config::set(&mut located.value, assignment)?;
        }
        // One key per stage, checked here because serde's words for it help nobody.
        let stages = located
            .value
            .get("stages")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if stages.is_empty() {
            return Err(located.error("stages", "a recipe needs `stages`, a list", None).into());
        }
        for (index, stage) in stages.iter().enumerate() {
            let at = format!("stages.{index}");
            let Some((kind, _)) = stage
                .as_object()
                .filter(|map| map.len() == 1)
                .and_then(|map| map.iter().next())
            else {
                return Err(located
                    .error(&at, "a stage is one key, `- train: {epochs: 10}`", None)
                    .into());
            };
            const KINDS: [&str; 7] = ["train", "sparsify", "prune", "fine-tune", "quantize", "export", "bench"];
            if !KINDS.contains(&kind.as_str()) {
                let hint = yolo_core::suggest::did_you_mean(kind, KINDS);
                let help = hint.unwrap_or_else(|| format!("stages: {}", KINDS.join(", ")));
                let message = format!("there is no stage `{kind}`");
                return Err(located.error(&format!("{at}.{kind}"), &message, Some(&help)).into());
            }
        }
        let mut recipe: Self = located.read()?;
        recipe.data = beside(path, &recipe.data);
        if !recipe.data.exists() {
            let message = format!("the data set {} does not exist", recipe.data.display());
            return Err(located.value_error("data", &message, None).into());
        }
        recipe.weights = recipe.weights.as_ref().map(|file| beside(path, file));
        if let Some(weights) = recipe.weights.as_ref().filter(|weights| !weights.exists()) {
            let message = format!("the weights {} do not exist", weights.display());
            return Err(located.value_error("weights", &message, None).into());
        }
        for (key, value) in [
            ("batch-size", recipe.batch_size),
            ("nominal-batch", recipe.nominal_batch),
        ] {
            if value == 0 {
                return Err(located
                    .value_error(key, &format!("{key} must be at least 1"), None)
                    .into());
            }
        }
        if recipe.cfg.is_none() && recipe.weights.is_none() {
            return Err(CliError::Usage(format!(
                "{}: give `cfg`, `weights` or both",
                path.display()
            )));
        }
        Ok(recipe)
    }

    /// The hyper-parameters: a file, or options on top of the defaults.
    pub fn hyp(&self) -> CliResult<Hyp> {
        match &self.hyp {
            Some(Value::String(file)) => crate::data_args::hyp(Some(&PathBuf::from(file)), &[]),
            Some(options) => crate::data_args::hyp(None, &[options]),
            None => Ok(Hyp::default()),
        }
    }

    /// Folder of everything that the recipe makes.
    pub fn folder(&self) -> PathBuf {
        self.out
            .clone()
            .unwrap_or_else(|| Path::new("runs/compress").join(&self.name))
    }
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
