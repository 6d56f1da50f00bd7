//! Pruning: what a pruner is given, and what comes out.

mod settings;

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use yolo_core::prune::{Budget, ChannelGroups, CostModel, PlanFile, PrunePlan};
use yolo_data::{Dataset, Loader, Split};
use yolo_engine::Checkpoint;
use yolo_engine::prune::{Asked, Journal, PruneData, PruneOptions, Pruned};
use yolo_engine::train::{Precision, TrainOptions};

use crate::bench::all_cores;
use crate::candidates::Candidates;
use crate::error::{Error, Result, io_error};
use crate::latency::{self, Clock, Timed};
use crate::{Session, files, measure, open};

pub use settings::PruneSettings;

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
    /// The settings that a person gave, of those that may have no say ([`PruneSettings::changed`]; recipes fill in some).
    pub given: Vec<String>,
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
            Some(path) => {
                self.say_passed_over();
                self.replay(model, path)
            }
            None => {
                let pruned = self.search(model, place)?;
                self.say_unused(pruned.asked);
                Ok(pruned)
            }
        }
    }

    /// Says which settings have no say where a plan is replayed; those that would contradict it are refused by [`PruneSettings::check`].
    fn say_passed_over(&self) {
        const USED: [&str; 6] = ["plan", "calib-batches", "img", "batch-size", "workers", "seed"];
        for name in self.given.iter().filter(|name| !USED.contains(&name.as_str())) {
            (self.session).say(format!("note: `{name}` has no say: what is removed stands in the plan"));
        }
    }

    /// Says which settings the pruner never asked for: that is known only afterwards, since pruners may be anyone's.
    fn say_unused(&self, asked: Asked) {
        let idle = |name: &str| match name {
            "hyp" | "nominal-batch" if !asked.loss => Some("neither trained nor took gradients"),
            "select-images" | "candidates" if !asked.candidates => Some("compared no candidates"),
            "members" | "aggregate" if !asked.scores => Some("asked for no scores of channels"),
            _ => None,
        };
        for name in &self.given {
            if let Some(why) = idle(name) {
                self.session.say(format!("note: `{name}` had no say: the pruner {why}"));
            }
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
                engine: s.clocked_by()?,
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
        let timed = match &clock {
            Some(clock) => Some(clock.model(session, model, s.op_times.as_deref(), rounding)?),
            None => None,
        };
        let (time, elsewhere) = timed.map_or((None, None), |Timed { time, elsewhere }| (Some(time), elsewhere));
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
                nominal_batch: s.nominal_batch,
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
        self.meets_budget(model, &pruned.plan, &options)?;
        if let Some(candidates) = candidates.filter(|candidates| !candidates.is_empty()) {
            candidates.finish(&ChannelGroups::of(&model.graph)?)?;
        }
        if let (Some(clock), Some(time), Some(asked)) = (clock, &options.time, s.latency) {
            let note = match &elsewhere {
                Some(table) => {
                    let share = latency::predicted(time, model, &pruned.plan)?;
                    session.say(format!(
                        "{table}: {:.1} % of the time stays by this table (asked for {:.1} %)",
                        100.0 * share,
                        100.0 * asked
                    ));
                    json!({ "table": table, "predicted": share })
                }
                None => {
                    let measured = clock.check(time, model, &pruned.model, &pruned.plan)?;
                    session.say(measured.sentence(asked));
                    measured.note()
                }
            };
            if let Some(entry) = pruned.model.meta.history.last_mut() {
                entry.settings["latency"] = note;
            }
        }
        Ok(pruned)
    }

    /// Pruners may be anyone's: what one decides is held against what was asked for.
    fn meets_budget(&self, model: &Checkpoint, plan: &PrunePlan, options: &PruneOptions) -> Result<()> {
        let groups = ChannelGroups::of(&model.graph)?;
        let cost = CostModel::of(&model.graph, &groups, self.img as i64)?;
        let kept = cost.widths(plan, &groups);
        let budget = Budget {
            latency: None,
            ..options.budget
        };
        if budget.allows(&cost, &kept) {
            return Ok(());
        }
        let share = 100.0 * cost.macs(&kept) as f64 / cost.macs(cost.full()) as f64;
        Err(Error::Failed(format!(
            "the pruner's plan does not meet the budget: {share:.1} % of the FLOPs and {} of {} parameters are left\n  help: this is a fault of the \
             pruner; `yolo plugin test` shows it to its author",
            cost.params(&kept),
            cost.params(cost.full())
        )))
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
            asked: Asked::default(),
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
