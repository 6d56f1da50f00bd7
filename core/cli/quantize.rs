//! `yolo quantize`.

mod sensitivity;

use std::path::{Path, PathBuf};

use serde_json::json;
use yolo_data::Split;
use yolo_engine::checkpoint;
use yolo_jobs::compute::{self, AmpArgs, DeviceArgs};
use yolo_jobs::quantize::{Quantization, QuantizeSettings};
use yolo_jobs::{files, measure, open, train};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Quantize a model: calibrate (PTQ), train quantized (QAT) if asked to, write what the backend's toolchain reads
///
/// Example: yolo quantize --weights best.safetensors --data bccd.yaml --backend tensorrt --qat-epochs 3 --out int8
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct QuantizeArgs {
    /// Float checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// Data set YAML
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    settings: QuantizeSettings,
    /// Option of the backend, `observer=min-max`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Folder of everything that is written
    #[arg(long)]
    out: PathBuf,
    /// Continue an interrupted QAT in --out
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    amp: AmpArgs,
    /// Calibrate and show which layers lose accuracy: a table, and sensitivity.json and sensitivity.svg in --out; nothing else is written
    #[arg(long, conflicts_with_all = ["qat_epochs", "float_layers", "resume"])]
    analyse: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs) -> CliResult {
    let session = ui::session()?;
    let mut settings = args.settings.clone();
    for option in &args.options {
        yolo_core::config::set(&mut settings.backend, option)?;
    }
    let quantizer = settings.open(session, "--backend")?;
    for flag in for_qat_only(args) {
        ui::say(format!("note: {flag} changes nothing without --qat-epochs"));
    }
    let device = args.device.one()?;
    let precision = compute::precision(args.amp.amp, device)?;
    let model = open::checkpoint(session, &args.weights)?.to_device(device);
    let dataset = open::dataset(&args.data)?;
    open::same_classes(session, &args.weights, &model, &args.data, &dataset)?;
    let img = open::image_size(session, settings.img, &model)?;
    if model.meta.image_size > 0 && img as i64 != model.meta.image_size {
        ui::say(format!(
            "note: ranges are found at {img} px; the model's own size stays {}, and `yolo val` and `yolo export` take that one without --img {img}",
            model.meta.image_size
        ));
    }
    let (batch, workers) = (settings.batch_size, settings.workers);
    let quantization = Quantization {
        session,
        dataset: &dataset,
        img,
        settings: &settings,
        precision,
        folder: &args.out,
        resume: args.resume,
    };
    if args.analyse {
        return sensitivity::run(&quantization, &model, quantizer.as_ref(), args.json);
    }
    let loader = open::val_loader(
        session,
        &dataset,
        Split::Val,
        &model,
        open::Batching {
            size: img,
            batch,
            workers,
        },
        true,
    )?;
    let [map50_float, map_float] = measure::validate(session, &model, &loader, "val float")?;
    let _lock = files::lock(&args.out)?;
    earlier(args)?;
    let result = quantization.run(&model, quantizer.as_ref())?;
    let stem = args.weights.file_stem().and_then(|s| s.to_str()).unwrap_or("model");
    // Everything that can fail is done before the first file is written.
    let files = quantization.artifacts(stem, &result.model, quantizer.as_ref())?;
    let path = args.out.join("quantized.safetensors");
    checkpoint::save(&path, &result.model)?;
    let (own, checks) = files.commit()?;
    let artifacts: Vec<PathBuf> = std::iter::once(path).chain(own).collect();
    let others = left_there(&args.out, &artifacts);
    if !others.is_empty() {
        ui::say(format!(
            "note: {} also holds what this run did not write: {}",
            args.out.display(),
            others.join(", ")
        ));
    }
    let [map50_quant, map_quant] = result.metrics;
    if args.json {
        return ui::print_json(&json!({
            "map50_float": map50_float, "map_float": map_float, "map50_ptq": result.ptq[0],
            "map50_quant": map50_quant, "map_quant": map_quant, "float_layers": result.float_layers, "artifacts": artifacts, "checks": checks,
        }));
    }
    println!("{:>10} {:>8} {:>8}", "", "mAP50", "mAP");
    println!("{:>10} {map50_float:>8.4} {map_float:>8.4}", "float");
    println!("{:>10} {:>8.4} {:>8.4}", "PTQ", result.ptq[0], result.ptq[1]);
    if settings.qat_epochs > 0 {
        println!("{:>10} {map50_quant:>8.4} {map_quant:>8.4}", "QAT");
    }
    if !result.float_layers.is_empty() {
        println!("in float: {}", result.float_layers.join(", "));
    }
    for artifact in &artifacts {
        println!("{}", artifact.display());
    }
    for check in &checks {
        println!("{}: {}", check.path.display(), check.said);
    }
    Ok(())
}

/// What an earlier run has left in --out: epochs are not lost, and a result that is replaced is said to be.
fn earlier(args: &QuantizeArgs) -> CliResult {
    let qat = args.out.join("qat");
    if args.resume {
        return Ok(());
    }
    if let Some(done) = train::unfinished(&qat) {
        return Err(CliError::Usage(format!(
            "{}: {done} epochs of an unfinished QAT are there\n  help: the same command with --resume goes on; to start anew give another --out, or \
             remove that folder",
            qat.display()
        )));
    }
    let path = args.out.join("quantized.safetensors");
    if path.exists() {
        ui::say(format!("note: {} is there and will be replaced", path.display()));
    }
    Ok(())
}

/// A flag that only training looks at, where there is none.
fn for_qat_only(args: &QuantizeArgs) -> Vec<&'static str> {
    let (own, usual) = (&args.settings, QuantizeSettings::default());
    let given = [
        ("--hyp", own.hyp.is_some()),
        ("--nominal-batch", own.nominal_batch != usual.nominal_batch),
        ("--seed", own.seed != usual.seed),
        ("--resume", args.resume),
        ("--amp", args.amp.amp.is_some()),
    ];
    let idle = given.into_iter().filter(|(_, given)| *given && own.qat_epochs == 0);
    idle.map(|(flag, _)| flag).collect()
}

/// Files of the folder that were there before, as those of another backend.
fn left_there(folder: &Path, written: &[PathBuf]) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_file() && !written.contains(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}
