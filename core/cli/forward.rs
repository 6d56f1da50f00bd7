//! `yolo forward`: one tensor through a model, for parity with other frameworks.

use std::path::PathBuf;

use yolo_core::{Mode, Program};
use yolo_engine::checkpoint;
use yolo_jobs::compute::DeviceArgs;
use yolo_jobs::open;

use crate::error::{CliError, CliResult};
use crate::ui;

/// Run one tensor through a model in eval mode
///
/// Example: yolo forward --cfg yolov5n --nc 10 --weights w.safetensors --input x.safetensors --output y.safetensors
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ForwardArgs {
    /// Model configuration (name or file); not needed for a self-describing checkpoint
    #[arg(long)]
    cfg: Option<String>,
    /// Number of classes of `--cfg`
    #[arg(long, requires = "cfg")]
    nc: Option<i64>,
    /// State dict or checkpoint (.safetensors or .pt)
    #[arg(long)]
    weights: PathBuf,
    /// File with the tensor `images` [N, 3, H, W], f32
    #[arg(long)]
    input: PathBuf,
    /// File to write: `raw.0`, `raw.1`, ... [N, A, h, w, 5+nc] before sigmoid and `decoded` [N, M, 5+nc] in pixels
    #[arg(long)]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub fn run(args: &ForwardArgs) -> CliResult {
    let device = args.device.one()?;
    // For parity: f32 is f32.
    yolo_torch::native::device::allow_tf32(false)?;
    let (graph, params) = open::model_with_weights(ui::session()?, args.cfg.as_deref(), args.nc, &args.weights)?;
    let tensors = checkpoint::read_tensors(&args.input)?;
    let images = tensors
        .tensors
        .get("images")
        .ok_or_else(|| CliError::Usage(format!("{}: there is no tensor `images` in it", args.input.display())))?;
    let (size, step) = (images.size(), graph.size_step()?);
    if !matches!(size[..], [_, _, h, w] if h > 0 && w > 0 && h % step == 0 && w % step == 0) {
        return Err(CliError::Usage(format!(
            "{}: `images` is {size:?}; [N, C, H, W] with H and W in multiples of {step}, the network's largest stride, is needed",
            args.input.display()
        )));
    }
    let head = graph
        .head
        .clone()
        .ok_or_else(|| CliError::Usage("the model has no detection head".into()))?;
    let program = Program::new(&graph, &params.to_device(device))?;
    let outputs = tch::no_grad(|| -> yolo_core::Result<_> {
        let maps = program.run(&images.to_kind(tch::Kind::Float).to_device(device), Mode::Eval)?;
        let mut named = yolo_core::Params::new();
        for (level, map) in maps.iter().enumerate() {
            named.insert(format!("raw.{level}"), head.raw(map)?.contiguous());
        }
        named.insert("decoded", head.decode(&maps)?);
        Ok(named)
    })?;
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    checkpoint::write_tensors(&args.output, outputs.iter(), metadata)?;
    Ok(())
}
