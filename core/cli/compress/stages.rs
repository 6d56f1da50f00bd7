//! What each kind of stage does. A stage starts from the model that the one before left.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_core::prune::{Budget, ChannelGroups, Rounding};
use yolo_data::{Dataset, Hyp, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::train::{Decay, TrainOptions};

use super::cache::Record;
use super::deploy;
use super::recipe::{PruneStage, QuantizeStage, Recipe, SparsifyStage, Stage, TrainStage};
use crate::device::Compute;
use crate::error::{CliError, CliResult, io_error};
use crate::export::unknown;
use crate::{components, data_args, load, prune, quantize, train, ui};

/// What stages share.
pub struct Context<'a> {
    pub recipe: &'a Recipe,
    compute: Compute,
    pub dataset: &'a Dataset,
    hyp: Hyp,
    /// The model of the last stage that made one.
    pub current: Option<PathBuf>,
    /// The last float and the last quantized model.
    pub float: Option<PathBuf>,
    pub quantized: Option<PathBuf>,
}

impl<'a> Context<'a> {
    pub fn new(recipe: &'a Recipe, dataset: &'a Dataset, hyp: Hyp, compute: Compute) -> Self {
        Self {
            recipe,
            compute,
            dataset,
            hyp,
            current: None,
            float: None,
            quantized: None,
        }
    }

    /// Goes on from a finished stage.
    pub fn follow(&mut self, record: &Record) {
        if matches!(record.kind.as_str(), "export" | "bench") {
            return;
        }
        self.current = Some(record.weights.clone());
        let slot = if record.quantized {
            &mut self.quantized
        } else {
            &mut self.float
        };
        *slot = Some(record.weights.clone());
    }

    /// Side of the images.
    pub fn size(&self) -> usize {
        usize::try_from(self.recipe.img).unwrap_or(640)
    }

    /// Reads everything that the stages name: plugins, options, formats, engines. What can't be is said before any of them works.
    pub fn check(&self) -> CliResult {
        let (mut float, mut quantized) = (self.recipe.weights.is_some(), false);
        let mut integers = None;
        for (index, stage) in self.recipe.stages.iter().enumerate() {
            let name = format!("{}-{}", index + 1, stage.kind());
            if let (Some(before), Stage::Sparsify(_) | Stage::Prune(_) | Stage::Quantize(_)) = (&integers, stage) {
                return Err(CliError::Usage(format!(
                    "{name}: the model is quantized by {before}; put {} before it",
                    stage.kind()
                )));
            }
            if matches!(stage, Stage::Quantize(_)) {
                integers = Some(name.clone());
            }
            match stage {
                Stage::Train(options) | Stage::FineTune(options) => {
                    self.hyp(options.hyp.as_ref())?;
                    float = true;
                }
                Stage::Sparsify(options) => {
                    self.hyp(options.hyp.as_ref())?;
                    train::penalty(&options.pruner)?;
                    float = true;
                }
                Stage::Prune(options) => {
                    let budget = Budget {
                        flops: options.flops,
                        params: options.params,
                    };
                    budget.check()?;
                    components::pruner(&format!("{name}.pruner"), &options.pruner)?;
                    float = true;
                }
                Stage::Quantize(options) => {
                    components::quantizer(&format!("{name}.backend"), &options.backend)?;
                    self.hyp(options.hyp.as_ref())?;
                    quantized = true;
                }
                Stage::Export(options) => {
                    for format in &options.formats {
                        let target = deploy::Target::parse(format)
                            .ok_or_else(|| unknown("format", format, &deploy::Target::NAMES))?;
                        let (there, needed) = match target.quantized() {
                            true => (quantized, "quantize"),
                            false => (float, "train"),
                        };
                        if !there {
                            return Err(CliError::Usage(format!(
                                "{name}: `{format}` needs a {needed} stage before it"
                            )));
                        }
                    }
                }
                Stage::Bench(options) => deploy::engine(&options.engine).map(drop)?,
            }
        }
        Ok(())
    }

    /// Runs one stage in `place`.
    pub fn run(
        &self,
        stage: &Stage,
        name: &str,
        place: &Path,
        resume: bool,
        before: &[(Record, bool)],
    ) -> CliResult<Record> {
        match stage {
            Stage::Train(options) | Stage::FineTune(options) => self.train(options, stage.kind(), place, resume),
            Stage::Sparsify(options) => self.sparsify(options, place, resume),
            Stage::Prune(options) => self.prune(options, name, place),
            Stage::Quantize(options) => self.quantize(options, place, resume),
            Stage::Export(options) => deploy::export(self, options, place),
            Stage::Bench(options) => deploy::bench(self, options, before),
        }
    }

    /// The model of the stage before, or what the recipe starts from.
    fn start(&self) -> CliResult<Checkpoint> {
        if let Some(path) = &self.current {
            return Ok(load::checkpoint(path)?.to_device(self.compute.device));
        }
        let (mut model, report) = load::for_training(
            load::Start {
                cfg: self.recipe.cfg.as_deref(),
                set: &[],
                weights: self.recipe.weights.as_deref(),
                partial: self.recipe.partial_weights,
                seed: self.recipe.seed,
            },
            self.dataset.names.len() as i64,
        )?;
        if let Some(report) = report {
            ui::say(format!("weights: {}", report.summary()));
        }
        model.meta.names.clone_from(&self.dataset.names);
        let stride = model.max_stride();
        if self.recipe.img < 1 || self.recipe.img % stride != 0 {
            return Err(CliError::Usage(format!(
                "the recipe's `img: {}` is no multiple of the model's stride {stride}; use {}",
                self.recipe.img,
                (self.recipe.img.max(1) + stride - 1) / stride * stride
            )));
        }
        model.meta.image_size = self.recipe.img;
        Ok(model.to_device(self.compute.device))
    }

    fn hyp(&self, overrides: Option<&Value>) -> CliResult<Hyp> {
        let mut value = serde_json::to_value(&self.hyp)?;
        if let Some(over) = overrides {
            yolo_core::config::merge(&mut value, over.clone());
        }
        data_args::sensible(&yolo_core::config::Located::from_value("hyp of the stage", value))
    }

    fn options(&self, epochs: usize, cosine: bool, hyp: Hyp) -> TrainOptions {
        TrainOptions {
            decay: if cosine { Decay::Cosine } else { Decay::Linear },
            seed: self.recipe.seed,
            nominal_batch: self.recipe.nominal_batch,
            patience: 0,
            precision: self.compute.precision,
            ..TrainOptions::new(epochs, self.recipe.batch_size, self.size(), hyp)
        }
    }

    pub fn val_loader(&self, model: &Checkpoint) -> CliResult<Loader> {
        let r = self.recipe;
        data_args::val_loader(
            self.dataset,
            Split::Val,
            model,
            self.size(),
            r.batch_size,
            r.workers,
            true,
        )
    }

    fn train(&self, stage: &TrainStage, label: &str, place: &Path, resume: bool) -> CliResult<Record> {
        let options = TrainOptions {
            patience: stage.patience,
            ..self.options(stage.epochs, stage.cos_lr, self.hyp(stage.hyp.as_ref())?)
        };
        let outcome = self.job(self.start()?, options, place, resume)?.run(label, None)?;
        let path = place.join("weights/best.safetensors");
        let metrics = [outcome.metrics.map50, outcome.metrics.map];
        // A tenth of the training without anything better: it has converged, as far as its schedule goes.
        let converged = (outcome.best_epoch + 1) as f64 <= 0.9 * stage.epochs as f64;
        let details = json!({"best_epoch": outcome.best_epoch, "epochs": stage.epochs, "converged": converged});
        self.record(&outcome.best, path, metrics, details)
    }

    fn sparsify(&self, stage: &SparsifyStage, place: &Path, resume: bool) -> CliResult<Record> {
        let options = self.options(stage.epochs, stage.cos_lr, self.hyp(stage.hyp.as_ref())?);
        let outcome = self
            .job(self.start()?, options, place, resume)?
            .run("sparsify", Some(&stage.pruner))?;
        // The penalty has worked to the end: the last model is the sparse one, whichever was the most accurate.
        let last = outcome.last.on(self.compute.device);
        let metrics = prune::validate(&last, &self.val_loader(&last)?, "val")?;
        let path = place.join("weights/last.safetensors");
        self.record(&outcome.last, path, metrics, json!({"epochs": stage.epochs}))
    }

    /// A training; the first of a recipe fits the anchors to the data, later ones keep them.
    fn job(
        &self,
        start: Checkpoint,
        options: TrainOptions,
        folder: &'a Path,
        resume: bool,
    ) -> CliResult<train::Job<'a>> {
        let mut job = train::Job {
            start,
            options,
            dataset: self.dataset,
            workers: self.recipe.workers,
            cache: None,
            folder,
            resume,
        };
        if self.current.is_none() {
            let (train, _) = job.loaders()?;
            job.fit_anchors(&train, true, !resume)?;
        }
        Ok(job)
    }

    fn prune(&self, stage: &PruneStage, name: &str, place: &Path) -> CliResult<Record> {
        let model = self.start()?;
        let job = prune::Job {
            dataset: self.dataset,
            img: self.size(),
            batch: self.recipe.batch_size,
            workers: self.recipe.workers,
            hyp: self.hyp.clone(),
            seed: self.recipe.seed,
            precision: self.compute.precision,
            budget: Budget {
                flops: stage.flops,
                params: stage.params,
            },
            rounding: Rounding {
                multiple: stage.multiple,
                ..Rounding::default()
            },
            calib_batches: stage.calib_batches,
            select_images: stage.select_images,
        };
        let pruned = job.run(&model, &format!("{name}.pruner"), &stage.pruner)?;
        let metrics = prune::validate(&pruned.model, &self.val_loader(&pruned.model)?, "val")?;
        let plan = place.join("plan.json");
        let text = pruned.plan.to_file(&ChannelGroups::of(&model.graph)?)?;
        load::write_file(&plan, text.as_bytes()).map_err(|error| io_error("can't write", &plan, &error))?;
        self.save(
            pruned.model,
            place.join("pruned.safetensors"),
            metrics,
            json!({ "plan": plan }),
        )
    }

    fn quantize(&self, stage: &QuantizeStage, place: &Path, resume: bool) -> CliResult<Record> {
        let quantizer = components::quantizer("quantize.backend", &stage.backend)?;
        let model = self.start()?;
        let mut hyp = yolo_engine::quant::qat_hyp(&self.hyp);
        if let Some(over) = &stage.hyp {
            let mut value = serde_json::to_value(&hyp)?;
            yolo_core::config::merge(&mut value, over.clone());
            hyp = yolo_core::config::Located::from_value("quantize.hyp", value).read()?;
        }
        let job = quantize::Job {
            dataset: self.dataset,
            img: self.size(),
            batch: self.recipe.batch_size,
            workers: self.recipe.workers,
            hyp,
            seed: self.recipe.seed,
            nominal_batch: self.recipe.nominal_batch,
            calib_batches: stage.calib_batches,
            qat_epochs: stage.qat_epochs,
            precision: self.compute.precision,
            folder: place,
            resume,
        };
        let result = job.run(&model, quantizer.as_ref())?;
        let (folder, name) = (place, &self.recipe.name);
        let files = quantize::Artifacts::prepare(folder, name, &result.model, quantizer.as_ref(), self.recipe.img)?;
        let (artifacts, checks) = files.commit()?;
        let details = json!({"ptq": result.ptq, "artifacts": artifacts, "checks": checks});
        let mut record = self.save(
            result.model,
            place.join("quantized.safetensors"),
            result.metrics,
            details,
        )?;
        record.quantized = true;
        Ok(record)
    }

    /// Writes a model with its numbers.
    fn save(&self, mut model: Checkpoint, path: PathBuf, [map50, map]: [f64; 2], details: Value) -> CliResult<Record> {
        model.meta.metrics.insert("map50".into(), map50);
        model.meta.metrics.insert("map".into(), map);
        yolo_engine::checkpoint::save(&path, &model).map_err(load::failed)?;
        self.record(&model, path, [map50, map], details)
    }

    fn record(
        &self,
        model: &Checkpoint,
        weights: PathBuf,
        [map50, map]: [f64; 2],
        details: Value,
    ) -> CliResult<Record> {
        let cost = model.graph.cost(self.recipe.img)?;
        let size_bytes = std::fs::metadata(&weights)
            .map_err(|error| CliError::Failed(format!("{}: {error}", weights.display())))?
            .len();
        Ok(Record {
            weights,
            params: cost.params,
            gflops: cost.gflops(),
            map50,
            map,
            size_bytes,
            details,
            ..Record::default()
        })
    }
}
