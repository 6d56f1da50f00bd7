//! `yolo export`: deployment files, each held against the network before it is written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_export::checked::{self, Format, Request, Written};
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
#[command(verbatim_doc_comment, infer_long_args = true, args_override_self = true)]
pub struct ExportArgs {
    /// Checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// `onnx`, `onnx-qdq` (of a model from `yolo quantize`) or `ncnn`; several are fine
    #[arg(long, visible_alias = "include", default_value = "onnx", num_args = 1.., value_delimiter = ',')]
    format: Vec<String>,
    /// File to write (ncnn: FILE.param, with FILE.bin beside it), or a folder (default: beside the weights, with their name)
    #[arg(long)]
    out: Option<PathBuf>,
    /// Side of the image, or height and width (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"], num_args = 1..=2, value_names = ["SIDE", "WIDTH"])]
    img: Vec<usize>,
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
    #[arg(long, num_args = 0..=1, default_missing_value = "standard", value_name = "KIND")]
    nms: Option<String>,
    /// Boxes of all classes compete in that suppression
    #[arg(long, requires = "nms")]
    agnostic_nms: bool,
    /// Most boxes of that suppression, per image (`tensorrt`) or per class of an image (`standard`)
    #[arg(long, requires = "nms", default_value_t = 100)]
    max_det: u32,
    /// Version of ONNX's operators (default: the lowest that has all that the network needs)
    #[arg(long)]
    opset: Option<i64>,
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
    let jobs = jobs(args)?;
    let model = load::checkpoint(&args.weights)?;
    let image = settings::image_sides(&args.img, &model)?.map(|side| side as i64);
    let quantized = onnx::is_quantized(&model.graph);
    let mut rows = Vec::new();
    for (request, _) in &jobs {
        fits(args, request.format, quantized)?;
    }
    for (request, out) in jobs {
        let request = Request {
            image,
            names: model.meta.names.clone(),
            ..request
        };
        ui::say(format!(
            "exporting at {} x {}{}",
            image[0],
            image[1],
            if request.check {
                ", running the file against the network"
            } else {
                ""
            }
        ));
        let written = checked::write(&model.graph, &model.params, &request, &out).map_err(export_failed)?;
        if let Some(reason) = written.unchecked.as_ref().filter(|_| request.check) {
            ui::say(format!("not checked: {reason}"));
        }
        if args.json {
            rows.push(as_json(&written, &request));
        } else {
            print(&written);
        }
    }
    match rows.len() {
        0 => Ok(()),
        1 => ui::print_json(&rows[0]),
        _ => ui::print_json(&json!({ "exports": rows })),
    }
}

/// Whether a format fits the model, before anything is written.
fn fits(args: &ExportArgs, format: Format, quantized: bool) -> CliResult {
    let weights = args.weights.display();
    if format == Format::OnnxQdq && !quantized {
        return Err(CliError::Usage(format!(
            "{weights} is a float model; `onnx-qdq` holds integers\n  help: run `yolo quantize --weights {weights} --data DATA.yaml \
             --backend tensorrt --out DIR` first, and export the checkpoint that it writes; or use --format onnx"
        )));
    }
    if format == Format::Onnx && quantized {
        ui::say(format!(
            "{weights} is quantized; `onnx` is its float form, `onnx-qdq` keeps the integers"
        ));
    }
    Ok(())
}

fn as_json(written: &Written, request: &Request) -> Value {
    let d = written.difference;
    // One number for squares, as ever.
    let img = match request.image {
        [h, w] if h == w => json!(h),
        sides => json!(sides),
    };
    json!({
        "path": written.files[0],
        "files": written.files,
        "format": request.format.name(),
        "img": img,
        "size_bytes": written.size_bytes,
        "max_abs_diff": d.map(|d| d.max()),
        "diff": d,
        "steps": written.steps,
        "engine": d.map(|_| written.engine),
        "unchecked": written.unchecked,
    })
}

fn print(written: &Written) {
    let names: Vec<String> = written.files.iter().map(|file| file.display().to_string()).collect();
    println!("{}: {:.2} MB", names.join(", "), written.size_bytes as f64 / 1e6);
    if written.unchecked.is_none() {
        println!("{}", written.summary());
    }
}

/// What to write, and where: one for each format.
fn jobs(args: &ExportArgs) -> CliResult<Vec<(Request, PathBuf)>> {
    let mut jobs: Vec<(Request, PathBuf)> = Vec::new();
    for name in args.format.iter().flat_map(|names| names.split_whitespace()) {
        let format = format_of(name)?;
        if jobs.iter().any(|(request, _)| request.format == format) {
            continue;
        }
        jobs.push((request(args, format)?, place(args, format)?));
    }
    Ok(jobs)
}

/// A format by name; what other programs write is told from a typing error.
fn format_of(name: &str) -> CliResult<Format> {
    if let Some(format) = Format::parse(&name.to_ascii_lowercase()) {
        return Ok(format);
    }
    let instead = match name.to_ascii_lowercase().as_str() {
        "openvino" => "OpenVINO reads the ONNX file as it is: use --format onnx",
        "engine" | "tensorrt" | "trt" => {
            "an engine belongs to one graphics card: use --format onnx, and there `trtexec --onnx=FILE.onnx --saveEngine=FILE.engine`"
        }
        "torchscript" | "coreml" | "saved_model" | "pb" | "tflite" | "edgetpu" | "tfjs" | "paddle" => {
            "use --format onnx, and a converter that reads ONNX (onnx2tf, coremltools, x2paddle)"
        }
        _ => return Err(unknown("format", name, &Format::NAMES)),
    };
    Err(CliError::Usage(format!(
        "--format {name}: this format is not written\n  help: {instead}"
    )))
}

/// The file of a format: `--out`, a file in that folder, or one beside the weights.
fn place(args: &ExportArgs, format: Format) -> CliResult<PathBuf> {
    let ending = match format {
        Format::Onnx => ".onnx",
        Format::OnnxQdq => "-qdq.onnx",
        Format::Ncnn => ".param",
    };
    let file = |folder: &Path| {
        let stem = args.weights.file_stem().unwrap_or_default().to_string_lossy();
        folder.join(format!("{stem}{ending}"))
    };
    match &args.out {
        None => Ok(file(args.weights.parent().unwrap_or(Path::new("")))),
        Some(out) if out.is_dir() || out.to_string_lossy().ends_with('/') => Ok(file(out)),
        Some(out) if args.format.len() > 1 => Err(CliError::Usage(format!(
            "--out {}: several formats go into a folder: make it, or end it with /",
            out.display()
        ))),
        Some(out) => {
            check_out(out, format)?;
            Ok(out.clone())
        }
    }
}

/// The request of the options that need no model.
fn request(args: &ExportArgs, format: Format) -> CliResult<Request> {
    settings::shares(&[("--conf-thres", args.conf_thres), ("--iou-thres", args.iou_thres)])?;
    if args.batch_size < 1 {
        return Err(CliError::Usage(format!(
            "--batch-size {}: 1 or more is needed",
            args.batch_size
        )));
    }
    if format == Format::Ncnn && (args.dynamic || args.batch_size != 1 || args.nms.is_some() || args.opset.is_some()) {
        return Err(CliError::Usage(
            "ncnn runs one image at a time and has no opsets: --dynamic, --batch-size, --nms and --opset are for ONNX"
                .into(),
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
        kind,
        iou: args.iou_thres.into(),
        score: args.conf_thres.into(),
        max_boxes: args.max_det.into(),
        agnostic: args.agnostic_nms,
    };
    Ok(Request {
        batch: (!args.dynamic).then_some(args.batch_size),
        half: args.half,
        outputs: if args.raw { Outputs::Raw } else { Outputs::Decoded },
        profile,
        nms: nms.map(thresholds),
        opset: args.opset,
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
