//! Training: a run of its own ([`Training`], what `yolo train` starts), and the trainings inside of other jobs ([`Job`]).

mod batch_size;
mod evolve;
mod job;
mod settings;
mod teacher;

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::Value;
use tch::Device;
use yolo_data::{Dataset, Loader};
use yolo_engine::Checkpoint;
use yolo_engine::checkpoint;
use yolo_engine::dist::World;
use yolo_engine::eval::NmsOptions;
use yolo_engine::train::anchors::{self, AnchorReport};
use yolo_engine::train::{Outcome, Precision, STATE, TrainOptions, check_teacher, norms};
use yolo_report::Letters;

use crate::compute;
use crate::error::{Error, Result};
use crate::open::Start;
use crate::{Session, files, measure, memory, open, outputs, plots};

pub use batch_size::BatchSize;
pub use evolve::Evolved;
pub use job::{Job, penalty, with_advice};
pub use settings::{FREE, TrainSettings};
pub use teacher::teacher;

/// File of a run's folder with the options that it was started with.
pub const OPTIONS: &str = "options.json";
/// File of a run's folder with the average model after its last epoch.
const LAST: &str = "weights/last.safetensors";

/// A training in a folder of its own.
#[derive(Debug)]
pub struct Training<'a> {
    /// Data set YAML.
    pub data: &'a Path,
    /// Take all classes as one.
    pub single_cls: bool,
    /// Training images that are held out.
    pub hold_out: usize,
    /// Model configuration (name or file).
    pub cfg: Option<&'a str>,
    /// Values of it that are changed, `scale.width=0.5`.
    pub set: &'a [String],
    /// Checkpoint to start from.
    pub weights: Option<&'a Path>,
    /// Start although less than half of the model is in the weights.
    pub partial_weights: bool,
    /// Settings.
    pub settings: TrainSettings,
    /// Where it writes.
    pub folder: &'a Path,
    /// Continue what is there.
    pub resume: bool,
    /// Where this process computes.
    pub device: Device,
    /// The processes that train together.
    pub world: Arc<World>,
    /// Batch norm over the images of all of them.
    pub sync_bn: bool,
    /// Train so many generations of hyper-parameters instead of once.
    pub evolve: Option<usize>,
    /// Draw curves and pictures.
    pub plots: bool,
    /// What is written beside the results as `options.json`; the number of images per step is filled in.
    pub remember: Value,
}

/// What a training left.
#[derive(Debug)]
pub enum Trained {
    /// One run.
    Run(Box<Report>),
    /// An evolution of hyper-parameters.
    Evolution(Evolved),
    /// This process was one of several; the first of them has the report.
    Elsewhere,
}

/// One run and its numbers.
#[derive(Debug)]
pub struct Report {
    /// The models and their metrics.
    pub outcome: Outcome,
    /// How the anchors fit the boxes.
    pub anchors: AnchorReport,
    /// Mixed precision that it was trained in.
    pub precision: Precision,
    /// Wall-clock seconds of the training.
    pub seconds: f64,
    /// Most memory that the process held at once, in bytes.
    pub peak_memory: Option<u64>,
    /// Most bytes that tensors held at once on a GPU.
    pub peak_device_memory: Option<i64>,
}

impl Training<'_> {
    /// Refuses options that make no sense for so many processes.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(settings: &TrainSettings, evolve: Option<usize>, processes: usize) -> Result {
        if evolve == Some(0) {
            return Err(Error::Usage("--evolve needs at least 1 generation".into()));
        }
        if evolve.is_some() && processes > 1 {
            return Err(Error::Usage(
                "--evolve trains on one device: leave out all but one of --device, and --processes".into(),
            ));
        }
        settings.check(processes)
    }

    /// Trains. Nothing is written before everything that can be checked is checked.
    ///
    /// # Errors
    /// What does not fit together; what ended the training, with the way to continue it.
    pub fn run(mut self, session: Session<'_>) -> Result<Trained> {
        Self::check(&self.settings, self.evolve, self.world.size())?;
        let precision = compute::precision(self.settings.amp, self.device)?;
        if self.world.is_main() && !self.resume {
            self.settings.notes().iter().for_each(|note| session.say(note));
        }
        let mut dataset = open::dataset(self.data).map_err(|error| match self.resume {
            true => error
                .map(|text| format!("{text}\n  help: if the data set has moved, `--data FILE` says where it is now")),
            false => error,
        })?;
        if self.single_cls {
            dataset.merge_classes();
        }
        dataset.hold_out(self.hold_out);
        let start = self.start(session, &dataset)?.to_device(self.device);
        let size = open::multiple_of_stride(session, self.settings.img, start.max_stride())?;
        let mut job = self.job(session, start, &dataset, precision, size)?;
        let (train, measured) = job.loaders()?;
        let main = self.world.is_main();
        if main && !self.resume {
            job.say_lopsided(&train, &measured);
        }
        let anchors = job.fit_anchors(&train, !self.settings.noautoanchor, main && !self.resume)?;
        let sparsify = self.settings.sparsify.clone();
        if let Some(generations) = self.evolve {
            let _lock = files::lock(self.folder)?;
            let evolution = evolve::Evolution {
                job: &job,
                generations,
                sparsify: sparsify.as_ref(),
                plots: self.plots,
                remember: &self.remember,
            };
            return evolution.run().map(Trained::Evolution);
        }
        if self.resume && main {
            job.check_resume(&train, &measured)?;
            if let Some(epochs) = finished(self.folder) {
                session.say(format!(
                    "{}: all {epochs} epochs are done; to train on: `yolo train --weights {} ...`",
                    self.folder.display(),
                    self.folder.join("weights/last.safetensors").display()
                ));
            }
        }
        norms::check(&job.start, &job.options, &train)?;
        check_teacher(&job.options, &job.start, &train)?;
        if main
            && !self.resume
            && let Some(done) = unfinished(self.folder)
        {
            session.say(format!(
                "note: {}: a training that ended after {done} epochs, and could go on with --resume, is replaced",
                self.folder.display()
            ));
        }
        if main && !self.resume {
            outputs::say_exported(session, self.folder);
        }
        // Held until the end; the others of several processes write nothing.
        let _lock = main.then(|| files::lock(self.folder)).transpose()?;
        if main {
            remember(self.folder, &self.remember)?;
        }
        if self.settings.rect && main && !self.resume {
            session.say(
                "--rect: batches of one shape each, without mosaics and always in the same order, as YOLOv5 does it",
            );
        }
        let letters = Letters::default();
        if main && self.plots && !self.resume {
            plots::training_data(session, self.folder, &dataset, &letters, &train, job.options.sampling)?;
        }
        let started = Instant::now();
        let outcome = job.run_on(&train, &measured, "train", sparsify.as_ref())?;
        let (seconds, peak_memory) = (started.elapsed().as_secs_f64(), memory::peak());
        if !main {
            return Ok(Trained::Elsewhere);
        }
        if self.plots {
            self.draw(session, (&dataset, &letters), &outcome, &measured)?;
        }
        Ok(Trained::Run(Box::new(Report {
            outcome,
            anchors,
            precision,
            seconds,
            peak_memory,
            peak_device_memory: device_memory(self.device),
        })))
    }

    /// The model, on the CPU; what is odd about it is said.
    fn start(&self, session: Session<'_>, dataset: &Dataset) -> Result<Checkpoint> {
        if self.start_is_gone() {
            let last = self.folder.join(LAST);
            session.say(format!(
                "{}: the weights that the run was started from are gone; it goes on from its own state",
                self.weights.unwrap_or(Path::new("")).display()
            ));
            return open::checkpoint(session, &last);
        }
        let (start, report) = open::for_training(
            session,
            Start {
                cfg: self.cfg,
                set: self.set,
                weights: self.weights,
                partial: self.partial_weights,
                seed: self.settings.seed,
            },
            dataset.names.len() as i64,
        )?;
        fits_pictures(&start)?;
        layers_exist(&self.settings.freeze, start.graph.layers.len())?;
        if self.resume {
            return Ok(start);
        }
        if let Some(report) = report {
            session.say(format!("weights: {}", report.summary()));
        } else if let Some(weights) = self.weights {
            open::other_names(session, weights, &start.meta.names, self.data, &dataset.names);
        }
        if yolo_engine::quant::is_quantized(&start.graph) && self.world.is_main() {
            session.say(
                "the weights are quantized: they are trained with their quantizers (QAT), and the result is quantized",
            );
        }
        self.other_class_count(session, dataset.names.len())?;
        Ok(start)
    }

    /// Whether the run goes on, and the weights that it was started from were deleted or moved since.
    fn start_is_gone(&self) -> bool {
        self.resume && self.weights.is_some_and(|weights| !weights.exists()) && self.folder.join(LAST).is_file()
    }

    /// Says that the classes of the data replace the number in the model's configuration.
    fn other_class_count(&self, session: Session<'_>, classes: usize) -> Result {
        let Some(cfg) = self.cfg.filter(|cfg| Path::new(cfg).is_file()) else {
            return Ok(());
        };
        let config = open::config_with(cfg, self.set)?;
        if let Some(own) = config.value["nc"].as_u64().filter(|own| *own != classes as u64) {
            session.say(format!("{cfg}: `nc: {own}` becomes {classes}, the classes of the data"));
        }
        Ok(())
    }

    /// The training with the engine's settings; the number of images per step is found where it was left open.
    fn job<'a>(
        &mut self,
        session: Session<'a>,
        mut start: Checkpoint,
        dataset: &'a Dataset,
        precision: Precision,
        size: usize,
    ) -> Result<Job<'a>>
    where
        Self: 'a,
    {
        let sparsify = self.settings.sparsify.as_ref();
        let mut options = TrainOptions {
            precision,
            sync_bn: self.sync_bn,
            start_is_gone: self.start_is_gone(),
            world: self.world.clone(),
            // An unknown name is an error before anything is written.
            hooks: sparsify
                .iter()
                .map(|value| job::description(value))
                .collect::<Result<_>>()?,
            ..self.settings.options(size)?
        };
        if options.hyp.anchors != 0.0 {
            start = anchors::with_count(start, options.hyp.anchors, self.settings.seed)?;
        }
        if let Some(weights) = &self.settings.teacher {
            let distiller = ("--distiller", self.settings.distiller.as_ref());
            let student = (&start, dataset.names.as_slice());
            options.distil = Some(teacher(session, Path::new(weights), distiller, student, size)?);
        }
        options.batch = self.settings.batch_size.resolve(session, &start, &options)?;
        self.settings.batch_size = BatchSize(Some(options.batch));
        if let Some(map) = self.remember.as_object_mut() {
            map.insert("batch_size".into(), options.batch.into());
        }
        Ok(Job {
            session,
            start,
            options,
            dataset,
            workers: self.settings.workers,
            cache: self.settings.cache,
            folder: self.folder.to_owned(),
            resume: self.resume,
            began: SystemTime::now(),
        })
    }

    /// Curves of the training, and the best model looked at closely.
    fn draw(
        &self,
        session: Session<'_>,
        (dataset, letters): (&Dataset, &Letters),
        outcome: &Outcome,
        loader: &Loader,
    ) -> Result {
        plots::training(self.folder)?;
        let nms = NmsOptions::validation();
        let best = outcome.best.on(self.device);
        let (report, pictures) = measure::closely(session, &best, loader, &nms, "best", &mut |_| Ok(()))?;
        plots::validation(session, self.folder, &dataset.names, letters, &report, &pictures)
    }
}

/// Writes the options beside the results, for `--resume` and for people.
fn remember(folder: &Path, options: &Value) -> Result {
    files::write(&folder.join(OPTIONS), serde_json::to_string_pretty(options)?.as_bytes())
}

/// The epochs of a run that has done all of them.
pub fn finished(folder: &Path) -> Option<usize> {
    let state = checkpoint::state_numbers(&folder.join(STATE)).ok()?;
    let epochs = usize::try_from(state.settings["epochs"].as_u64()?).ok()?;
    (state.epochs_done >= epochs).then_some(epochs)
}

/// The epochs that are done of a training in `folder` that has not come to its end; none where there is none, or no epoch.
pub fn unfinished(folder: &Path) -> Option<usize> {
    let state = checkpoint::state_numbers(&folder.join(STATE)).ok()?;
    let epochs = usize::try_from(state.settings["epochs"].as_u64()?).ok()?;
    Some(state.epochs_done).filter(|done| (1..epochs).contains(done))
}

/// Most bytes that tensors have held at once on a GPU.
fn device_memory(device: Device) -> Option<i64> {
    device.is_cuda().then(|| {
        yolo_torch::native::device::peak_memory(device)
            .ok()
            .map(|(held, _)| held)
    })?
}

/// Pictures have three channels.
///
/// # Errors
/// [`Error::Usage`] where the model reads others.
pub fn fits_pictures(start: &Checkpoint) -> Result {
    match start.graph.input_channels() {
        3 => Ok(()),
        n => Err(Error::Usage(format!(
            "the model reads {n} channels, and pictures have 3\n  help: take `ch` (or `channels`) out of its configuration"
        ))),
    }
}

/// Layers to freeze must be there.
pub(crate) fn layers_exist(freeze: &[usize], layers: usize) -> Result {
    let absent = match freeze {
        // One number counts layers.
        [count] => (*count > layers).then_some(*count),
        several => several.iter().copied().find(|layer| *layer >= layers),
    };
    absent.map_or(Ok(()), |layer| {
        Err(Error::Usage(format!(
            "--freeze {layer}: the model has {layers} layers, 0 to {}",
            layers.saturating_sub(1)
        )))
    })
}
