//! `yolo export`: deployment files, each held against the network before it is written.

use std::path::{Path, PathBuf};

use serde_json::json;
use yolo_export::checked::{self, Format, Request};
use yolo_export::onnx::{self, Nms, NmsKind, Outputs, Profile};

use crate::error::{CliError, CliResult};
use crate::quantize::export_failed;
use crate::{load, settings, ui};

/// Write a model for deployment (ONNX, ONNX with integers, ncnn) and check the file against the network
///
/// Examples: yolo export --weights best.safetensors --format onnx --out best.onnx --img 640
///           yolo export --weights quantized.safetensors --format onnx-qdq --out int8.onnx
///           yolo export --weights best.safetensors --format ncnn --out best.param --half
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExportArgs {
    /// Checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// `onnx`, `onnx-qdq` (of a model from `yolo quantize`) or `ncnn`
    #[arg(long, default_value = "onnx")]
    format: String,
    /// File to write (ncnn: FILE.param, with FILE.bin beside it)
    #[arg(long)]
    out: PathBuf,
    /// Side of the image (default: what the model was trained for)
    #[arg(long, visible_alias = "imgsz")]
    img: Option<usize>,
    /// Images per run
    #[arg(long, visible_alias = "batch", default_value_t = 1)]
    batch_size: i64,
    /// Leave the number of images open
    #[arg(long, conflicts_with = "batch_size")]
    dynamic: bool,
    /// Raw maps of the head instead of boxes (ONNX; ncnn files always give them)
    #[arg(long, conflicts_with = "nms")]
    raw: bool,
    /// Weights as 16-bit floats (ncnn)
    #[arg(long)]
    half: bool,
    /// What `onnx-qdq` is tuned for: `ort` (onnxruntime) or `tensorrt` (also OpenVINO)
    #[arg(long, default_value = "ort")]
    profile: String,
    /// Put non-maximum suppression into the ONNX file: `standard` (onnxruntime, OpenVINO) or `tensorrt` (EfficientNMS)
    #[arg(long)]
    nms: Option<String>,
    /// Least confidence of that suppression
    #[arg(long, default_value_t = 0.25, requires = "nms")]
    conf_thres: f32,
    /// IoU of that suppression
    #[arg(long, default_value_t = 0.45, requires = "nms")]
    iou_thres: f32,
    /// Write without running the file
    #[arg(long)]
    no_check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ExportArgs) -> CliResult {
    let request = request(args)?;
    let model = load::checkpoint(&args.weights)?;
    let side = settings::image_size(args.img, &model)? as i64;
    let quantized = onnx::is_quantized(&model.graph);
    if request.format == Format::OnnxQdq && !quantized {
        let weights = args.weights.display();
        return Err(CliError::Usage(format!(
            "{weights} is a float model; `onnx-qdq` holds integers\n  help: run `yolo quantize --weights {weights} --data DATA.yaml \
             --backend tensorrt --out DIR` first, and export the checkpoint that it writes; or use --format onnx"
        )));
    }
    if request.format == Format::Onnx && quantized {
        ui::say(format!(
            "{} is quantized; `onnx` is its float form, `onnx-qdq` keeps the integers",
            args.weights.display()
        ));
    }
    let request = Request {
        image: [side; 2],
        names: model.meta.names.clone(),
        ..request
    };
    ui::say(format!(
        "exporting at {side} x {side}{}",
        if request.check {
            ", running the file against the network"
        } else {
            ""
        }
    ));
    let written = checked::write(&model.graph, &model.params, &request, &args.out).map_err(export_failed)?;
    if let Some(reason) = written.unchecked.as_ref().filter(|_| request.check) {
        ui::say(format!("not checked: {reason}"));
    }
    if args.json {
        let d = written.difference;
        return ui::print_json(&json!({
            "path": written.files[0],
            "files": written.files,
            "format": args.format,
            "img": side,
            "size_bytes": written.size_bytes,
            "max_abs_diff": d.map(|d| d.max()),
            "diff": d,
            "steps": written.steps,
            "engine": d.map(|_| written.engine),
            "unchecked": written.unchecked,
        }));
    }
    let names: Vec<String> = written.files.iter().map(|file| file.display().to_string()).collect();
    println!("{}: {:.2} MB", names.join(", "), written.size_bytes as f64 / 1e6);
    if written.unchecked.is_none() {
        println!("{}", written.summary());
    }
    Ok(())
}

/// The request of the options that need no model.
fn request(args: &ExportArgs) -> CliResult<Request> {
    let format = Format::parse(&args.format).ok_or_else(|| unknown("format", &args.format, &Format::NAMES))?;
    check_out(&args.out, format)?;
    settings::shares(&[("--conf-thres", args.conf_thres), ("--iou-thres", args.iou_thres)])?;
    if args.batch_size < 1 {
        return Err(CliError::Usage(format!(
            "--batch-size {}: 1 or more is needed",
            args.batch_size
        )));
    }
    if format == Format::Ncnn && (args.dynamic || args.batch_size != 1 || args.nms.is_some()) {
        return Err(CliError::Usage(
            "ncnn runs one image at a time: --dynamic, --batch-size and --nms are for ONNX".into(),
        ));
    }
    if format != Format::Ncnn && args.half {
        let help = "engines that read ONNX choose half precision themselves";
        return Err(CliError::Usage(format!("--half is for ncnn\n  help: {help}")));
    }
    let profile = match args.profile.as_str() {
        "ort" => Profile::Ort,
        "tensorrt" => Profile::TensorRt,
        other => return Err(unknown("profile", other, &["ort", "tensorrt"])),
    };
    let nms = match args.nms.as_deref() {
        None => None,
        Some("standard") => Some(NmsKind::Standard),
        Some("tensorrt") => Some(NmsKind::TensorRt),
        Some(other) => return Err(unknown("nms", other, &["standard", "tensorrt"])),
    };
    let thresholds = |kind| Nms {
        iou: args.iou_thres.into(),
        score: args.conf_thres.into(),
        ..Nms::new(kind)
    };
    Ok(Request {
        batch: (!args.dynamic).then_some(args.batch_size),
        half: args.half,
        outputs: if args.raw { Outputs::Raw } else { Outputs::Decoded },
        profile,
        nms: nms.map(thresholds),
        check: !args.no_check,
        ..Request::new(format, [0; 2])
    })
}

/// The ending says what the file is; nobody wants a checkpoint overwritten by an ONNX file.
fn check_out(out: &Path, format: Format) -> CliResult {
    let ending = out.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let (fits, wanted) = match format {
        Format::Onnx | Format::OnnxQdq => (ending == "onnx", ".onnx"),
        Format::Ncnn => (matches!(ending, "param" | "bin" | ""), ".param"),
    };
    if out.is_dir() {
        return Err(CliError::Usage(format!(
            "--out {}: this is a folder; name the file in it",
            out.display()
        )));
    }
    if !fits {
        return Err(CliError::Usage(format!(
            "--out {}: the file must end with {wanted}",
            out.display()
        )));
    }
    Ok(())
}

/// There is no such choice; which there are.
pub fn unknown(what: &str, name: &str, choices: &[&str]) -> CliError {
    let help = yolo_core::suggest::did_you_mean(name, choices.iter().copied())
        .unwrap_or_else(|| format!("choices: {}", choices.join(", ")));
    CliError::Usage(format!("there is no {what} `{name}`\n  help: {help}"))
}
