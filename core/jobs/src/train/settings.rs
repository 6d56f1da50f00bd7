//! The settings of a training: one list that the command line (flags), recipes (keys of a stage), `--resume` (what must stay the same)
//! and the key of a finished stage share. A new training option is a field here, and what it does in the engine.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yolo_data::Hyp;
use yolo_engine::train::{Decay, NOMINAL_BATCH, OptimizerKind, Sampling, TrainOptions};

use super::batch_size::BatchSize;
use crate::compute::{Amp, Compile};
use crate::error::{Error, Result};
use crate::files;
use crate::open::{self, Cache};

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainSettings {
    /// Hyper-parameters (Ultralytics' hyp YAML)
    #[arg(long, value_name = "FILE", value_parser = open::text)]
    pub hyp: Option<Value>,
    /// Epochs
    #[arg(long, default_value_t = 100, allow_hyphen_values = true, value_parser = epochs)]
    pub epochs: usize,
    /// Images per step, or `auto`: as many as fit into the memory of a GPU
    #[arg(long, visible_alias = "batch", default_value = "16", allow_hyphen_values = true)]
    pub batch_size: BatchSize,
    /// Images per update: gradients of smaller batches are added up
    #[arg(long, visible_alias = "nbs", default_value_t = NOMINAL_BATCH)]
    pub nominal_batch: usize,
    /// Side of the images
    #[arg(long, visible_aliases = ["imgsz", "img-size"], default_value_t = 640)]
    pub img: usize,
    /// `sgd`, `adam` or `adamw`
    #[arg(long, default_value = "sgd", value_parser = optimizer)]
    pub optimizer: OptimizerKind,
    /// One-cycle learning rate: it falls to lr0 * lrf along half a cosine instead of a line (the default of YOLOv5 v6.0)
    #[arg(long, visible_alias = "one-cycle", conflicts_with = "linear_lr")]
    pub cos_lr: bool,
    /// Epochs without progress before stopping (0: never)
    #[arg(long, default_value_t = 100)]
    pub patience: usize,
    /// Freeze layers: `10` (the first ten) or `0 1 2`
    #[arg(long, num_args = 1.., value_parser = layer_number, action = clap::ArgAction::Set)]
    #[serde(deserialize_with = "crate::lists::one_or_many")]
    pub freeze: Vec<usize>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// Mixed precision: `bf16`, `f16` or `off` (default: bf16 on GPUs that have it, f16 on older ones, off on the CPU)
    #[arg(long, value_enum)]
    pub amp: Option<Amp>,
    /// On GPUs: launch the step as recorded CUDA graphs where the size of batches stays the same, or kernel by kernel
    #[arg(long, value_enum, default_value_t)]
    pub compile: Compile,
    /// Validate after the last epoch only
    #[arg(long)]
    pub noval: bool,
    /// Keep the weights of every Nth epoch as weights/epochM.safetensors, after M epochs: row M - 1 of results.csv (0: only the best and the
    /// last)
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true, value_parser = period)]
    pub save_period: usize,
    /// Keep the model's anchors, even where they reach less than 98 % of the boxes
    #[arg(long)]
    pub noautoanchor: bool,
    /// Each batch at a size of its own, from half to one and a half of --img
    #[arg(long)]
    pub multi_scale: bool,
    /// Draw images by weight: more of rare classes, and of those that the last validation found the model bad at
    #[arg(long)]
    pub image_weights: bool,
    /// Rectangular batches: images by aspect ratio, each batch as flat or tall as they are, without mosaics and shuffling
    #[arg(long)]
    pub rect: bool,
    /// Keep decoded training images: all in memory (`ram`), or the rest in a folder of the run (`disk`; default: up to 2 GB in memory)
    #[arg(long, value_name = "WHERE", value_enum, num_args = 0..=1, default_missing_value = "ram")]
    pub cache: Option<Cache>,
    /// Share of a class's target that is spread over all classes (default: that of --hyp)
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f64>,
    /// A pruner whose penalty acts while training, `slimming` or `{type: slimming, sparse_rate: 0.001}`
    #[arg(long, value_parser = open::component)]
    #[serde(alias = "pruner")]
    pub sparsify: Option<Value>,
    /// Learn from a teacher besides the labels: a checkpoint of the same classes, of any width, depth and backbone (in recipes also `base`,
    /// the model before pruning)
    #[arg(long, value_name = "WEIGHTS")]
    pub teacher: Option<String>,
    /// How: `logits`, `cwd`, `pkd`, `crosskd`, or `{type: cwd, tau: 4}` (`yolo list-plugins --kind distiller`; default: logits)
    #[arg(long, value_parser = open::component, requires = "teacher")]
    pub distiller: Option<Value>,
}

/// Settings that change no weight: a run may go on with others, and a finished stage counts with others.
pub const FREE: [&str; 3] = ["cache", "save-period", "workers"];

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            hyp: None,
            epochs: 100,
            batch_size: BatchSize(Some(16)),
            nominal_batch: NOMINAL_BATCH,
            img: 640,
            optimizer: OptimizerKind::Sgd,
            cos_lr: false,
            patience: 100,
            freeze: Vec::new(),
            seed: 0,
            workers: 2,
            amp: None,
            compile: Compile::default(),
            noval: false,
            save_period: 0,
            noautoanchor: false,
            multi_scale: false,
            image_weights: false,
            rect: false,
            cache: None,
            label_smoothing: None,
            sparsify: None,
            teacher: None,
            distiller: None,
        }
    }
}

impl TrainSettings {
    /// What a training that is done with these settings depends on: all of them but the [`FREE`] ones.
    ///
    /// # Errors
    /// A teacher that can't be read.
    pub fn key(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self)?;
        // A file is its content; another name (`base`) stands for a stage before.
        if let Some(teacher) = self.teacher.as_deref().map(Path::new).filter(|file| file.is_file()) {
            value["teacher"] = json!(files::hash(teacher)?);
        }
        if let Some(map) = value.as_object_mut() {
            FREE.iter().for_each(|name| drop(map.remove(*name)));
        }
        Ok(value)
    }

    /// Refuses what makes no sense, or not for so many processes.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self, processes: usize) -> Result {
        if self.epochs == 0 || self.nominal_batch == 0 {
            return Err(Error::Usage("--epochs and --nominal-batch must be at least 1".into()));
        }
        if self.distiller.is_some() && self.teacher.is_none() {
            return Err(Error::Usage("--distiller needs a --teacher".into()));
        }
        if self.rect && self.image_weights {
            return Err(Error::Usage(
                "--rect and --image-weights don't go together: --rect shows every image once, in the order of their shapes; leave one of \
                 them out"
                    .into(),
            ));
        }
        let Some(batch) = self.batch_size.0 else {
            if processes > 1 {
                return Err(Error::Usage(
                    "--batch-size auto: with several processes give a number of images, all processes together".into(),
                ));
            }
            return Ok(());
        };
        if !batch.is_multiple_of(processes) {
            let less = batch / processes * processes;
            let near = if less == 0 {
                format!("{processes}")
            } else {
                format!("{less} or {}", less + processes)
            };
            return Err(Error::Usage(format!(
                "--batch-size {batch}: {processes} processes can't share it equally; use {near}"
            )));
        }
        Ok(())
    }

    /// What is asked for and changes nothing.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.noval && self.patience != Self::default().patience && self.patience > 0 {
            notes.push("--patience changes nothing with --noval: nothing is measured before the last epoch".to_owned());
        }
        if self.save_period > self.epochs {
            notes.push(format!(
                "--save-period {} changes nothing in {} epochs",
                self.save_period, self.epochs
            ));
        }
        notes
    }

    /// The hyper-parameters, with those that have an option of their own.
    ///
    /// # Errors
    /// A file that can't be read, or a value out of its range.
    pub fn hyp(&self) -> Result<Hyp> {
        let mut hyp = open::hyp(self.hyp.as_ref())?;
        if let Some(share) = self.label_smoothing {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::Usage(format!(
                    "--label-smoothing {share}: a number from 0 to 1 is needed"
                )));
            }
            hyp.label_smoothing = share;
        }
        Ok(hyp)
    }

    /// The settings of the engine, for images of `size` pixels; what depends on the device and on other processes is left as it is.
    ///
    /// # Errors
    /// Those of [`TrainSettings::hyp`].
    pub fn options(&self, size: usize) -> Result<TrainOptions> {
        Ok(TrainOptions {
            optimizer: self.optimizer,
            decay: if self.cos_lr { Decay::Cosine } else { Decay::Linear },
            patience: self.patience,
            seed: self.seed,
            freeze: frozen(&self.freeze),
            val_every: if self.noval { self.epochs } else { 1 },
            multi_scale: self.multi_scale,
            sampling: self.sampling(),
            nominal_batch: self.nominal_batch,
            record: self.compile == Compile::Graph,
            save_period: self.save_period,
            ..TrainOptions::new(self.epochs, self.batch_size.0.unwrap_or(1), size, self.hyp()?)
        })
    }

    fn sampling(&self) -> Sampling {
        if self.rect {
            Sampling::Rect
        } else if self.image_weights {
            Sampling::Weighted
        } else {
            Sampling::Shuffled
        }
    }
}

fn layer_number(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .map_err(|_| "a number of layers (`10`: the first ten), or the numbers of layers (`0 1 2`)".to_owned())
}

/// One number freezes so many layers, several freeze those.
fn frozen(layers: &[usize]) -> Vec<String> {
    let all: Vec<usize> = if let [count] = layers {
        (0..*count).collect()
    } else {
        layers.to_vec()
    };
    all.into_iter().map(|layer| format!("model.{layer}.")).collect()
}

/// `--epochs`: YOLOv5 takes negative numbers and trains nothing.
fn epochs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a number of epochs of at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

/// `--save-period`: -1 is YOLOv5's word for never.
fn period(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(0),
        number => number
            .parse()
            .map_err(|_| "a number of epochs, or 0 (or -1) for never".to_owned()),
    }
}

fn optimizer(text: &str) -> Result<OptimizerKind, String> {
    match text.to_lowercase().as_str() {
        "sgd" => Ok(OptimizerKind::Sgd),
        "adam" => Ok(OptimizerKind::Adam),
        "adamw" => Ok(OptimizerKind::AdamW),
        other => Err(format!("there is no optimizer `{other}`: sgd, adam, adamw")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags and keys are one list: what a flag sets is what the key of the same name sets, and both are in the key of a stage.
    #[test]
    fn every_flag_is_a_key_of_recipes_and_of_finished_stages() {
        #[derive(clap::Parser)]
        struct Cli {
            /// The other spelling of no `--cos-lr`, which the command has beside these settings.
            #[arg(long)]
            linear_lr: bool,
            #[command(flatten)]
            settings: TrainSettings,
        }
        let command = <Cli as clap::CommandFactory>::command();
        let flags: Vec<String> = (command.get_arguments())
            .filter_map(|argument| argument.get_long().map(str::to_owned))
            .filter(|name| !["linear-lr", "help"].contains(&name.as_str()))
            .collect();
        let plain = serde_json::to_value(TrainSettings::default()).expect("settings");
        let keys: Vec<String> = plain.as_object().expect("a map").keys().cloned().collect();
        assert_eq!(flags, keys);
        let parsed = <Cli as clap::Parser>::parse_from(["yolo"]);
        assert_eq!(
            parsed.settings,
            TrainSettings::default(),
            "flags and recipes have the same defaults"
        );
        assert!(!parsed.linear_lr);
        let key = TrainSettings::default().key().expect("a key");
        let missing: Vec<&String> = keys.iter().filter(|name| key.get(name.as_str()).is_none()).collect();
        let mut free: Vec<&str> = missing.into_iter().map(String::as_str).collect();
        free.sort_unstable();
        assert_eq!(free, FREE, "all but these change weights");
    }

    #[test]
    fn what_changes_nothing_is_said() {
        let settings = TrainSettings {
            epochs: 3,
            noval: true,
            patience: 5,
            save_period: 4,
            ..TrainSettings::default()
        };
        let notes = settings.notes();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(
            notes[0].contains("--patience") && notes[1].contains("--save-period 4"),
            "{notes:?}"
        );
        assert_eq!(TrainSettings::default().notes(), Vec::<String>::new());
    }

    #[test]
    fn freeze_takes_one_number_or_several() {
        let read = |text: &str| serde_json::from_str::<TrainSettings>(text).map(|settings| settings.freeze);
        assert_eq!(read(r#"{"freeze": 10}"#).expect("a number"), [10]);
        assert_eq!(read(r#"{"freeze": [0, 2]}"#).expect("a list"), [0, 2]);
        assert!(read(r#"{"freeze": "all"}"#).is_err());
        assert_eq!(frozen(&[2]), ["model.0.", "model.1."]);
        assert_eq!(frozen(&[0, 2]), ["model.0.", "model.2."]);
    }
}
