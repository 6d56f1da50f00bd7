//! What each kind of stage does. A stage starts from the model that the one before left.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use yolo_core::quant::BackendSpec;
use yolo_core::{Graph, Params};
use yolo_data::{Dataset, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint::Meta;
use yolo_engine::train::TrainOptions;
use yolo_export::checked::Format;
use yolo_export::{ncnn, onnx};

use super::cache::Record;
use super::deploy;
use super::recipe::{Recipe, Stage};
use crate::error::{Error, Result};
use crate::export::Target;
use crate::prune::{PruneSettings, Pruning, write_plan};
use crate::quantize::{Quantization, QuantizeSettings};
use crate::train::{Job, TrainSettings, fits_pictures, layers_exist, penalty, teacher};
use crate::{Compute, Session, compute, measure, open};

/// ONNX has quantizers per channel since then.
const QDQ_OPSET: i64 = 13;

/// What stages share.
pub(super) struct Context<'a> {
    pub session: Session<'a>,
    pub recipe: &'a Recipe,
    compute: Compute,
    pub dataset: &'a Dataset,
    /// Whether the data set has test images.
    has_test: bool,
    /// Epochs that went into the model of the last stage.
    pub epochs: u64,
    /// The model before the first channels were removed: the teacher `base`.
    base: Option<PathBuf>,
    /// The model of the last stage that made one.
    pub current: Option<PathBuf>,
    /// The last float and the last quantized model.
    pub float: Option<PathBuf>,
    pub quantized: Option<PathBuf>,
}

impl<'a> Context<'a> {
    pub fn new(
        session: Session<'a>,
        recipe: &'a Recipe,
        dataset: &'a Dataset,
        compute: Compute,
        has_test: bool,
    ) -> Self {
        Self {
            session,
            recipe,
            compute,
            dataset,
            has_test,
            epochs: 0,
            base: None,
            current: None,
            float: None,
            quantized: None,
        }
    }

    /// Goes on from a finished stage.
    pub fn follow(&mut self, record: &Record) {
        if !record.is_built_on() {
            return;
        }
        if record.kind == "prune" && self.base.is_none() {
            self.base = self.current.clone().or_else(|| self.recipe.weights.clone());
        }
        self.epochs = record.epochs;
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
    ///
    /// # Errors
    /// Begins with the stage, `3-prune`: one that stands in the wrong place, options that make no sense, a plugin, teacher, file, format
    /// or engine that is not there or does not fit.
    pub fn check(&self) -> Result {
        let network = self.network()?;
        fits_pictures(&network)?;
        self.size_fits(&network)?;
        let mut pruned = false;
        let (mut float, mut integers): (bool, Option<(String, BackendSpec)>) = (self.recipe.weights.is_some(), None);
        for (index, stage) in self.recipe.stages.iter().enumerate() {
            let name = self.recipe.stage_name(index);
            if let (Some((before, _)), Stage::Sparsify(_) | Stage::Prune(_) | Stage::Quantize(_)) = (&integers, stage) {
                return Err(Error::Usage(format!(
                    "{name}: the model is quantized by {before}; put {} before it",
                    stage.kind()
                )));
            }
            if index == 0 && matches!(stage, Stage::Bench(_)) {
                return Err(Error::Usage(format!(
                    "{name}: it measures the models of the stages before it, and there are none\n  help: put stages before it, or measure \
                     a file with `yolo bench --weights FILE`"
                )));
            }
            let backend = integers.as_ref().map(|(_, backend)| backend);
            if !float && matches!(stage, Stage::Prune(_) | Stage::Quantize(_) | Stage::Reference(_)) {
                return Err(Error::Usage(format!(
                    "{name}: there is no trained model before it\n  help: put a train stage first{}",
                    if matches!(stage, Stage::Reference(_)) {
                        ""
                    } else {
                        ", or give `weights`"
                    }
                )));
            }
            self.check_stage(stage, &name, (float, pruned), backend)
                .and_then(|()| self.check_against(stage, &network.graph))
                .map_err(|error| {
                    error.map(|text| {
                        let text = in_words_of_recipes(&text);
                        if text.starts_with(&name) {
                            text
                        } else {
                            format!("{name}: {text}")
                        }
                    })
                })?;
            match stage {
                Stage::Quantize(settings) => {
                    let backend = settings.open(self.session, &format!("{name}.backend"))?.backend();
                    integers = Some((format!("{}-{}", index + 1, stage.kind()), backend));
                }
                Stage::Export(_) | Stage::Bench(_) | Stage::Reference(_) => {}
                Stage::Prune(_) => (float, pruned) = (true, true),
                _ => float = true,
            }
        }
        Ok(())
    }

    fn check_stage(
        &self,
        stage: &Stage,
        name: &str,
        (float, pruned): (bool, bool),
        quantized: Option<&BackendSpec>,
    ) -> Result {
        match stage {
            Stage::Train(settings)
            | Stage::FineTune(settings)
            | Stage::Sparsify(settings)
            | Stage::Reference(settings) => {
                settings.check(1)?;
                settings.hyp()?;
                compute::precision(settings.amp, self.compute.device)?;
                self.check_teacher(settings.teacher.as_deref(), name, pruned)?;
                if settings.teacher.is_some() {
                    open::distiller(self.session, &format!("{name}.distiller"), settings.distiller.as_ref())?;
                }
                settings.sparsify.as_ref().map(penalty).transpose().map(drop)
            }
            Stage::Prune(settings) => {
                if let Some(file) = settings.op_times.as_deref().filter(|file| !file.exists()) {
                    return Err(Error::Usage(format!(
                        "{name}: the table `op-times: {}` does not exist\n  help: leave it out to measure, or make it with `yolo prune --latency \
                         --op-times`",
                        file.display()
                    )));
                }
                settings.check(self.session, &format!("{name}.pruner"))
            }
            Stage::Quantize(settings) => {
                let teacher = settings.teacher.as_deref().filter(|name| *name != "float");
                self.check_teacher(teacher, name, pruned)?;
                settings.open(self.session, &format!("{name}.backend")).map(drop)
            }
            Stage::Export(settings) => {
                for target in settings
                    .targets()
                    .map_err(|error| error.map(|text| format!("{name}: {text}")))?
                {
                    let (there, needed) = match target.integers {
                        true => (quantized.is_some(), "quantize"),
                        false => (float, "train"),
                    };
                    if !there {
                        return Err(Error::Usage(format!(
                            "{name}: `{}` needs a {needed} stage before it",
                            target.name()
                        )));
                    }
                    if let Some(backend) = quantized.filter(|_| target.integers) {
                        takes(target, backend, name)?;
                    }
                }
                Ok(())
            }
            Stage::Bench(settings) => {
                settings.check()?;
                settings.engines(self.session).map(drop)
            }
        }
    }

    /// The network that the recipe starts from, with or without weights: pruning changes widths, no layers and no ops.
    fn network(&self) -> Result<Checkpoint> {
        let (session, recipe) = (self.session, self.recipe);
        let classes = Some(self.dataset.names.len() as i64);
        match (&recipe.cfg, &recipe.weights) {
            (Some(cfg), _) => {
                let graph = open::graph_with(session, cfg, classes, &recipe.set)?;
                Ok(Checkpoint::new(graph, Params::new(), Meta::default()))
            }
            (None, Some(weights)) => open::checkpoint(session, weights),
            (None, None) => Err(Error::Usage("give `cfg`, `weights` or both".into())),
        }
    }

    fn size_fits(&self, network: &Checkpoint) -> Result {
        let (size, stride) = (self.recipe.img, network.max_stride());
        if size >= 1 && size % stride == 0 {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the recipe's `img: {size}` is no multiple of the model's stride {stride}; use {}",
            (size.max(1) + stride - 1) / stride * stride
        )))
    }

    /// What a stage asks of the network.
    fn check_against(&self, stage: &Stage, network: &Graph) -> Result {
        match stage {
            Stage::Train(settings)
            | Stage::FineTune(settings)
            | Stage::Sparsify(settings)
            | Stage::Reference(settings) => layers_exist(&settings.freeze, network.layers.len()),
            Stage::Export(settings) => {
                let Some(opset) = settings.opset else { return Ok(()) };
                if opset < QDQ_OPSET && settings.targets()?.iter().any(|target| target.integers) {
                    return Err(Error::Usage(format!(
                        "opset {opset} has no integers: {QDQ_OPSET} or more is needed"
                    )));
                }
                let options = onnx::Options {
                    opset: Some(opset),
                    image: [self.recipe.img; 2],
                    ..onnx::Options::default()
                };
                onnx::export(network, &Params::init(network, 0), &options)?;
                Ok(())
            }
            Stage::Prune(settings) => settings.check_against(network, self.recipe.img),
            Stage::Quantize(settings) => settings.check_against(network),
            Stage::Bench(_) => Ok(()),
        }
    }

    /// A teacher must be there before the first stage works.
    fn check_teacher(&self, teacher: Option<&str>, name: &str, pruned: bool) -> Result {
        match teacher {
            Some("base") if !pruned => Err(Error::Usage(format!(
                "{name}: the teacher `base` is the model before pruning, and no prune stage comes before"
            ))),
            Some("base") | None => Ok(()),
            Some(file) if Path::new(file).is_file() => {
                let known = open::checkpoint(self.session, Path::new(file))?;
                let classes = known.graph.head.as_ref().map_or(0, |head| head.classes as usize);
                if classes == self.dataset.names.len() {
                    return Ok(());
                }
                Err(Error::Usage(format!(
                    "{name}: the teacher {file} has {classes} classes, the data {}: it must know the same",
                    self.dataset.names.len()
                )))
            }
            Some(file) => Err(Error::Usage(format!(
                "{name}: the teacher {file} does not exist\n  help: give a checkpoint, or `base`: the model before pruning"
            ))),
        }
    }

    /// The file of a teacher.
    fn teacher<'s>(&'s self, name: &'s str) -> &'s Path {
        match (name, &self.base) {
            ("base", Some(base)) => base,
            _ => Path::new(name),
        }
    }

    /// Runs one stage in `place`.
    ///
    /// # Errors
    /// A model, a plugin or images that can't be read; options that the model does not allow; what ended a training; files that do not
    /// compute what the model computes; [`Error::Interrupted`] where the listener wants it to end.
    pub fn run(
        &self,
        stage: &Stage,
        name: &str,
        place: &Path,
        resume: bool,
        before: &[(Record, bool)],
    ) -> Result<Record> {
        match stage {
            Stage::Train(settings) | Stage::FineTune(settings) => self.train(settings, stage.kind(), place, resume),
            Stage::Reference(settings) => self.reference(settings, place, resume, before),
            Stage::Sparsify(settings) => self.sparsify(settings, place, resume),
            Stage::Prune(settings) => self.prune(settings, name, place),
            Stage::Quantize(settings) => self.quantize(settings, place, resume),
            Stage::Export(settings) => deploy::export(self, settings, place),
            Stage::Bench(settings) => deploy::speeds(self, settings, before),
        }
    }

    /// The model of the stage before, or what the recipe starts from.
    fn start(&self) -> Result<Checkpoint> {
        self.opened()
            .map_err(|error| error.map(|text| in_words_of_recipes(&text)))
    }

    fn opened(&self) -> Result<Checkpoint> {
        match &self.current {
            Some(path) => Ok(open::checkpoint(self.session, path)?.to_device(self.compute.device)),
            None => self.first(),
        }
    }

    /// The model of the stage before, or the weights that the recipe starts from as they are: what is not trained any more must fit.
    fn trained_before(&self) -> Result<Checkpoint> {
        let (session, recipe) = (self.session, self.recipe);
        let (None, Some(weights)) = (&self.current, &recipe.weights) else {
            return self.start();
        };
        let classes = self.dataset.names.len() as i64;
        let mut model = match recipe.cfg.as_deref() {
            Some(cfg) => open::checkpoint_of(session, cfg, Some(classes), weights)?.0,
            None => open::checkpoint(session, weights)?,
        };
        open::same_classes(session, weights, &model, &recipe.data, self.dataset)?;
        model.meta.names.clone_from(&self.dataset.names);
        model.meta.image_size = recipe.img;
        Ok(model.to_device(self.compute.device))
    }

    /// What the recipe starts from.
    fn first(&self) -> Result<Checkpoint> {
        let (session, recipe) = (self.session, self.recipe);
        let (mut model, report) = open::for_training(
            session,
            open::Start {
                cfg: recipe.cfg.as_deref(),
                set: &recipe.set,
                weights: recipe.weights.as_deref(),
                partial: recipe.partial_weights,
                seed: recipe.seed,
            },
            self.dataset.names.len() as i64,
        )?;
        if let Some(report) = report {
            session.say(format!("weights: {}", report.summary()));
        } else if let Some(weights) = &recipe.weights {
            open::other_names(session, weights, &model.meta.names, &recipe.data, &self.dataset.names);
        }
        model.meta.names.clone_from(&self.dataset.names);
        model.meta.image_size = recipe.img;
        Ok(model.to_device(self.compute.device))
    }

    /// The validation images at the size of the recipe.
    ///
    /// # Errors
    /// Those of [`open::val_loader`].
    pub fn val_loader(&self, model: &Checkpoint) -> Result<Loader> {
        let r = self.recipe;
        open::val_loader(
            self.session,
            self.dataset,
            Split::Val,
            model,
            open::Batching {
                size: self.size(),
                batch: r.batch_size,
                workers: r.workers,
            },
            true,
        )
    }

    fn train(&self, settings: &TrainSettings, label: &str, place: &Path, resume: bool) -> Result<Record> {
        let first = self.current.is_none();
        let job = self.job(self.start()?, settings, place, (resume, first))?;
        self.trained(job, settings, label, place, self.epochs)
    }

    /// The first model anew, on its own.
    fn reference(
        &self,
        settings: &TrainSettings,
        place: &Path,
        resume: bool,
        before: &[(Record, bool)],
    ) -> Result<Record> {
        let more = self.recipe.further_epochs(before);
        let settings = &TrainSettings {
            epochs: settings.epochs + more,
            ..settings.clone()
        };
        let first = self
            .first()
            .map_err(|error| error.map(|text| in_words_of_recipes(&text)))?;
        let job = self.job(first, settings, place, (resume, true))?;
        self.trained(job, settings, "reference", place, 0)
    }

    fn trained(
        &self,
        job: Job<'_>,
        settings: &TrainSettings,
        label: &str,
        place: &Path,
        before: u64,
    ) -> Result<Record> {
        let outcome = job.run(label, settings.sparsify.as_ref())?;
        let path = place.join("weights/best.safetensors");
        // One size for the whole table.
        let metrics = if settings.img == self.size() {
            [outcome.metrics.map50, outcome.metrics.map]
        } else {
            let best = outcome.best.on(self.compute.device);
            measure::validate(self.session, &best, &self.val_loader(&best)?, "val")?
        };
        // A tenth of the training without anything better: it has converged, as far as its schedule goes.
        let converged = (outcome.best_epoch + 1) as f64 <= 0.9 * settings.epochs as f64;
        let details = json!({"best_epoch": outcome.best_epoch, "epochs": settings.epochs, "converged": converged});
        self.record(&outcome.best, path, metrics, before + outcome.epochs as u64, details)
    }

    fn sparsify(&self, settings: &TrainSettings, place: &Path, resume: bool) -> Result<Record> {
        let outcome = self
            .job(self.start()?, settings, place, (resume, self.current.is_none()))?
            .run("sparsify", settings.sparsify.as_ref())?;
        // The penalty has worked to the end: the last model is the sparse one, whichever was the most accurate.
        let last = outcome.last.on(self.compute.device);
        let metrics = measure::validate(self.session, &last, &self.val_loader(&last)?, "val")?;
        let path = place.join("weights/last.safetensors");
        let epochs = self.epochs + outcome.epochs as u64;
        self.record(&outcome.last, path, metrics, epochs, json!({"epochs": settings.epochs}))
    }

    /// A training; the first of a recipe fits the anchors to the data, later ones keep them.
    fn job(
        &self,
        start: Checkpoint,
        settings: &TrainSettings,
        folder: &Path,
        (resume, first): (bool, bool),
    ) -> Result<Job<'a>> {
        let size = open::multiple_of_stride(self.session, settings.img, start.max_stride())?;
        let precision = match settings.amp {
            None => self.compute.precision,
            asked => compute::precision(asked, self.compute.device)?,
        };
        let mut options = TrainOptions {
            precision,
            ..settings.options(size)?
        };
        if let Some(name) = &settings.teacher {
            let distiller = ("distiller", settings.distiller.as_ref());
            let student = (&start, self.dataset.names.as_slice());
            options.distil = Some(teacher(self.session, self.teacher(name), distiller, student, size)?);
        }
        options.batch = settings.batch_size.resolve(self.session, &start, &options)?;
        let mut job = Job {
            session: self.session,
            start,
            options,
            dataset: self.dataset,
            workers: settings.workers,
            cache: settings.cache,
            folder: folder.to_owned(),
            resume,
            began: SystemTime::now(),
        };
        if first {
            let (train, val) = job.loaders()?;
            if !resume {
                job.say_lopsided(&train, &val);
            }
            job.fit_anchors(&train, !settings.noautoanchor, !resume)?;
        }
        Ok(job)
    }

    fn prune(&self, settings: &PruneSettings, name: &str, place: &Path) -> Result<Record> {
        let model = self.trained_before()?;
        let (own_folder, given) = (settings.candidates.is_none(), settings.changed());
        let settings = PruneSettings {
            candidates: settings.candidates.clone().or_else(|| Some(place.join("candidates"))),
            ..settings.clone()
        };
        let pruning = Pruning {
            session: self.session,
            dataset: self.dataset,
            img: open::image_size(self.session, settings.img, &model)?,
            settings: &settings,
            precision: self.compute.precision,
            // Recipes fill them in.
            given: (given.into_iter())
                .filter(|name| !["hyp", "nominal-batch"].contains(&name.as_str()))
                .collect(),
            own_folder,
        };
        let pruned = pruning.run(&model, &format!("{name}.pruner"))?;
        let metrics = measure::validate(self.session, &pruned.model, &self.val_loader(&pruned.model)?, "val")?;
        let plan = place.join("plan.json");
        write_plan(&plan, &pruned, &model)?;
        let trained = pruned.asked.epochs;
        let details = json!({ "plan": plan, "latency": Pruning::measured_time(&pruned.model), "trained": trained });
        let epochs = self.epochs + trained as u64;
        self.save(pruned.model, place.join("pruned.safetensors"), metrics, epochs, details)
    }

    fn quantize(&self, settings: &QuantizeSettings, place: &Path, resume: bool) -> Result<Record> {
        let quantizer = settings.open(self.session, "quantize.backend")?;
        let settings = &QuantizeSettings {
            teacher: (settings.teacher.as_deref()).map(|name| self.teacher(name).to_string_lossy().into_owned()),
            ..settings.clone()
        };
        let model = self.trained_before()?;
        let img = open::image_size(self.session, settings.img, &model)?;
        let quantization = Quantization {
            session: self.session,
            dataset: self.dataset,
            img,
            settings,
            precision: self.compute.precision,
            folder: place,
            resume,
        };
        let result = quantization.run(&model, quantizer.as_ref())?;
        let name = &self.recipe.name;
        let files = quantization.artifacts(name, &result.model, quantizer.as_ref())?;
        let (artifacts, checks) = files.commit()?;
        let details =
            json!({"ptq": result.ptq, "float_layers": result.float_layers, "artifacts": artifacts, "checks": checks});
        let path = place.join("quantized.safetensors");
        let epochs = self.epochs + settings.qat_epochs as u64;
        let metrics = if img == self.size() {
            result.metrics
        } else {
            measure::validate(self.session, &result.model, &self.val_loader(&result.model)?, "val")?
        };
        let mut record = self.save(result.model, path, metrics, epochs, details)?;
        record.quantized = true;
        Ok(record)
    }

    /// mAP50 and mAP on the test images, where the data set has some.
    fn test(&self, model: &Checkpoint) -> Result<Option<[f64; 2]>> {
        if !self.has_test {
            return Ok(None);
        }
        let r = self.recipe;
        let loader = open::val_loader(
            self.session,
            self.dataset,
            Split::Test,
            model,
            open::Batching {
                size: self.size(),
                batch: r.batch_size,
                workers: r.workers,
            },
            false,
        )?;
        let model = model.on(self.compute.device);
        measure::validate(self.session, &model, &loader, "test").map(Some)
    }

    /// Writes a model with its numbers.
    fn save(
        &self,
        mut model: Checkpoint,
        path: PathBuf,
        [map50, map]: [f64; 2],
        epochs: u64,
        details: Value,
    ) -> Result<Record> {
        model.meta.metrics.insert("map50".into(), map50);
        model.meta.metrics.insert("map".into(), map);
        yolo_engine::checkpoint::save(&path, &model)?;
        self.record(&model, path, [map50, map], epochs, details)
    }

    fn record(
        &self,
        model: &Checkpoint,
        weights: PathBuf,
        [map50, map]: [f64; 2],
        epochs: u64,
        details: Value,
    ) -> Result<Record> {
        let cost = model.graph.cost(self.recipe.img)?;
        let size_bytes = std::fs::metadata(&weights)
            .map_err(|error| Error::Failed(format!("{}: {error}", weights.display())))?
            .len();
        Ok(Record {
            weights,
            params: cost.params,
            gflops: cost.gflops(),
            map50,
            map,
            test: self.test(model)?,
            epochs,
            size_bytes,
            details,
            // A training goes on with the quantizers of what it starts from.
            quantized: yolo_engine::quant::is_quantized(&model.graph),
            ..Record::default()
        })
    }
}

/// Whether a format has integers for the grids of a backend.
fn takes(target: Target, backend: &BackendSpec, name: &str) -> Result {
    let (takes, needed) = match target.format {
        Format::Ncnn => (ncnn::takes(backend), "symmetric int8 grids (backend `tensorrt`)"),
        _ => (onnx::takes(backend), "linear grids that round halves to even numbers"),
    };
    if takes {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{name}: `{}` holds only {needed}, and the backend of the quantize stage has others\n  help: leave it out (the quantize stage \
         writes the files of its backend), or quantize with another backend",
        target.name()
    )))
}

/// What is advised about flags, for recipes: flags are their keys without the dashes. Commands in backticks stay as they are.
fn in_words_of_recipes(text: &str) -> String {
    let parts: Vec<String> = text
        .split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 1 { part.to_owned() } else { keys(part) })
        .collect();
    parts.join("`")
}

/// Every `--flag` as `` `flag` ``.
fn keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("--") {
        let end = after
            .find(|c: char| !(c.is_ascii_lowercase() || c == '-'))
            .unwrap_or(after.len());
        let (flag, tail) = after.split_at(end);
        out.push_str(before);
        if flag.is_empty() {
            out.push_str("--");
        } else {
            out.push_str(&format!("`{flag}`"));
        }
        rest = tail;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_keys_in_recipes_and_commands_stay() {
        let said =
            "--rect and --image-weights don't go together; see `yolo train --help` -- or leave --batch-size: 3 out";
        let want =
            "`rect` and `image-weights` don't go together; see `yolo train --help` -- or leave `batch-size`: 3 out";
        assert_eq!(in_words_of_recipes(said), want);
    }
}
