//! `yolo prune`.

use std::path::{Path, PathBuf};

use serde_json::json;
use yolo_core::prune::PlanFile;
use yolo_engine::checkpoint;
use yolo_jobs::candidates::{self, LIST};
use yolo_jobs::compute::{self, AmpArgs, DeviceArgs};
use yolo_jobs::prune::{PruneSettings, Pruning, write_plan};
use yolo_jobs::{files, open, outputs};

use crate::error::{CliError, CliResult};
use crate::{channels, ui};

/// Remove channels from a model
///
/// Examples: yolo prune --weights best.safetensors --data bccd.yaml --pruner slimming --flops 0.6 --out pruned.safetensors
///           yolo prune --weights best.safetensors --data bccd.yaml --pruner oneshot --metric fpgm --flops 0.5 --out pruned.safetensors
///           yolo prune --explain --weights yolov5s
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PruneArgs {
    /// Checkpoint (.safetensors or .pt); for --explain also a model's name or file
    #[arg(long)]
    weights: PathBuf,
    /// Data set YAML
    #[arg(long, required_unless_present = "explain")]
    data: Option<PathBuf>,
    /// Compare candidates on the images that `yolo train --hold-out N` left out
    #[arg(long, value_name = "N", default_value_t = 0)]
    hold_out: usize,
    /// Say which channels can be pruned, and what keeps the others; nothing is pruned
    #[arg(long, conflicts_with_all = ["data", "out", "save_plan", "options"])]
    explain: bool,
    #[command(flatten)]
    settings: PruneSettings,
    /// Option of the pruner, `candidates=20`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Write the plan as JSON
    #[arg(long)]
    save_plan: Option<PathBuf>,
    /// Don't measure mAP before and after
    #[arg(long)]
    noval: bool,
    /// The pruned checkpoint
    #[arg(long, required_unless_present = "explain")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A plan is a JSON file, and takes the place of nothing but a plan.
fn place_of_plan(path: &Path) -> CliResult {
    let json = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if !json {
        return Err(CliError::Usage(format!(
            "--save-plan {}: a plan is a .json file",
            path.display()
        )));
    }
    if path.exists() && !std::fs::read_to_string(path).is_ok_and(|text| PlanFile::read(&text).is_ok()) {
        return Err(CliError::Usage(format!(
            "--save-plan {}: this file is no plan and would be overwritten; give another name",
            path.display()
        )));
    }
    Ok(())
}

/// The candidates of a search whose folder nobody named: its list stands beside the result.
struct Listing {
    kept: tempfile::TempDir,
    beside: PathBuf,
}

impl Listing {
    /// Where `settings` name no folder; then they name one of this command's own.
    fn of(settings: &mut PruneSettings, out: &Path) -> CliResult<Option<Self>> {
        if settings.candidates.is_some() || settings.plan.is_some() {
            return Ok(None);
        }
        let kept =
            tempfile::tempdir().map_err(|error| CliError::Failed(format!("a folder for candidates: {error}")))?;
        settings.candidates = Some(kept.path().to_owned());
        let beside = out.parent().unwrap_or(Path::new("")).join(LIST);
        Ok(Some(Self { kept, beside }))
    }

    /// Puts the list there, if there was a search; says where.
    fn publish(self) -> CliResult<Option<PathBuf>> {
        let Some(text) = candidates::list(self.kept.path())? else {
            return Ok(None);
        };
        if self.beside.exists() && candidates::list(self.beside.parent().unwrap_or(Path::new(""))).is_err() {
            ui::say(format!(
                "note: {} is no list of candidates and stays; the list of this search is not written (--candidates FOLDER keeps it)",
                self.beside.display()
            ));
            return Ok(None);
        }
        if std::fs::read_to_string(&self.beside).is_ok_and(|there| there != text) {
            ui::say(format!(
                "note: {}: the list of another search is replaced (--candidates FOLDER keeps each by itself)",
                self.beside.display()
            ));
        }
        files::write(&self.beside, text.as_bytes())?;
        Ok(Some(self.beside))
    }
}

/// Runs the command.
pub fn run(args: &PruneArgs) -> CliResult {
    let session = ui::session()?;
    if args.explain {
        if let Some(setting) = args.settings.changed().first() {
            return Err(CliError::Usage(format!(
                "--{setting} has no say in --explain: it tells which channels can be pruned, whatever the settings; leave one of them out"
            )));
        }
        let name = args.weights.to_string_lossy();
        return channels::print(&open::graph(session, &name, None)?, args.json);
    }
    // clap has seen to it that both are there.
    let (Some(out), Some(data)) = (&args.out, &args.data) else {
        return Err(CliError::Usage("--data and --out are needed".into()));
    };
    if !open::is_safetensors(out) {
        return Err(CliError::Usage(format!(
            "--out {}: the result is a .safetensors file",
            out.display()
        )));
    }
    outputs::not_the_input("--out ", out, &args.weights)?;
    args.save_plan.as_deref().map(place_of_plan).transpose()?;
    let mut settings = args.settings.clone();
    for option in &args.options {
        yolo_core::config::set(&mut settings.pruner, option)?;
    }
    let place = if settings.metric.is_some() {
        "--pruner with --metric"
    } else {
        "--pruner"
    };
    settings.check(session, place)?;
    let journal = Listing::of(&mut settings, out)?;
    let device = args.device.one()?;
    let precision = compute::precision(args.amp.amp, device)?;
    let model = open::checkpoint(session, &args.weights)?.to_device(device);
    let mut dataset = open::dataset(data)?;
    dataset.hold_out(args.hold_out);
    open::same_classes(session, &args.weights, &model, data, &dataset)?;
    let img = open::image_size(session, settings.img, &model)?;
    let pruning = Pruning {
        session,
        dataset: &dataset,
        img,
        settings: &settings,
        precision,
        given: args.settings.changed(),
        own_folder: journal.is_some(),
    };
    let measure = |model, label| (!args.noval).then(|| pruning.measure(model, label)).transpose();
    let before = measure(&model, "val before")?;
    let mut pruned = pruning.run(&model, place)?;
    let after = measure(&pruned.model, "val after")?;
    if let Some([map50, map]) = after {
        pruned.model.meta.metrics.insert("map50".into(), map50);
        pruned.model.meta.metrics.insert("map".into(), map);
    }
    checkpoint::save(out, &pruned.model)?;
    let listed = journal.map(|journal| journal.publish()).transpose()?.flatten();
    if let Some(path) = &args.save_plan {
        write_plan(path, &pruned, &model)?;
    }
    let (old, new) = (model.graph.cost(img as i64)?, pruned.model.graph.cost(img as i64)?);
    let timing = Pruning::measured_time(&pruned.model);
    let time = |key: &str| timing.and_then(|timing| timing[key].as_f64());
    let predicted = time("ms_before")
        .zip(time("predicted"))
        .map(|(before, share)| before * share);
    if args.json {
        return ui::print_json(&json!({
            "params_before": old.params, "params": new.params,
            "gflops_before": old.gflops(), "gflops": new.gflops(),
            "map50_before": before.map(|m| m[0]), "map50": after.map(|m| m[0]), "map": after.map(|m| m[1]),
            "latency_before": time("ms_before"), "latency": time("ms"), "latency_predicted": predicted,
            "timing": timing, "candidates": listed, "plan": pruned.plan, "out": out,
        }));
    }
    let share = |now: f64, then: f64| 100.0 * now / then;
    println!(
        "{:>8} {:>12} {:>10} {:>8} {:>8}",
        "", "params", "GFLOPs", "mAP50", "mAP"
    );
    for (name, cost, metrics) in [("before", &old, before), ("after", &new, after)] {
        let [map50, map] = metrics.map_or(["-".to_owned(), "-".to_owned()], |m| m.map(|v| format!("{v:.4}")));
        println!(
            "{name:>8} {:>12} {:>10.3} {map50:>8} {map:>8}",
            ui::thousands(cost.params),
            cost.gflops()
        );
    }
    println!(
        "{:.1} % of the parameters and {:.1} % of the FLOPs stay; fine-tune with `yolo train --weights {}`",
        share(new.params as f64, old.params as f64),
        share(new.gflops(), old.gflops()),
        out.display()
    );
    if let Some(flops) = settings
        .flops
        .filter(|flops| new.gflops() / old.gflops() < flops - 0.02)
    {
        println!(
            "at most {:.1} % of the FLOPs were asked for; widths stay multiples of {} (--multiple, --round), so the steps are coarse",
            100.0 * flops,
            settings.multiple
        );
    }
    Ok(())
}
