//! `yolo model`: builds a model and describes it.

use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table};
use serde_json::json;
use yolo_core::Graph;
use yolo_core::graph::DetectHead;
use yolo_core::model::diagram;
use yolo_engine::checkpoint;
use yolo_jobs::{files, open};

use crate::error::{CliError, CliResult};
use crate::ui;

/// Build and describe a model: parameters, GFLOPs, layers, a drawing
///
/// Examples: yolo model yolov5n --nc 10 --layers --graph yolov5n.svg
///           yolo model yolov5s --init-weights fresh.safetensors
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ModelArgs {
    /// Name in configs/models, YAML file (ours or Ultralytics'), or checkpoint
    model: String,
    /// Number of classes
    #[arg(long)]
    nc: Option<i64>,
    /// Change a value of the configuration, `scale.width=0.5`, `backbone.type=ghostnet`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Side of the image for GFLOPs and shapes
    #[arg(long, visible_aliases = ["imgsz", "img-size"], default_value_t = 640)]
    img: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the layer table
    #[arg(long)]
    layers: bool,
    /// Draw the network: FILE.svg or FILE.dot; FILE.json writes the graph itself
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
    /// Write an untrained checkpoint (.safetensors)
    #[arg(long, value_name = "FILE")]
    init_weights: Option<PathBuf>,
    /// Seed of --init-weights
    #[arg(long, default_value_t = 0, requires = "init_weights")]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &ModelArgs) -> CliResult {
    let graph = open::graph_with(ui::session()?, &args.model, args.nc, &args.set)?;
    // A graph that fits no size is refused with its reason right below.
    let step = graph.size_step().unwrap_or(1);
    let img = open::multiple_of_stride(ui::session()?, usize::try_from(args.img).unwrap_or(0), step)? as i64;
    let cost = graph.cost(img)?;
    let strides = graph.strides()?;
    let shapes = graph.shapes([1, graph.input_channels(), img, img])?;
    let outputs: Vec<_> = graph
        .outputs
        .iter()
        .map(|value| shapes[value.index()].clone())
        .collect();
    if let Some(path) = &args.graph {
        let text = match path.extension().and_then(|e| e.to_str()) {
            Some("svg") => diagram::svg(&graph),
            Some("dot") => diagram::dot(&graph),
            Some("json") => serde_json::to_string_pretty(&graph)?,
            _ => {
                return Err(CliError::Usage(format!(
                    "{}: a drawing is .svg or .dot, the graph itself .json",
                    path.display()
                )));
            }
        };
        files::write(path, text.as_bytes())?;
        ui::say(format!("wrote {}", path.display()));
    }
    if let Some(path) = &args.init_weights {
        init_weights(args, &graph, img, path)?;
    }
    if args.json {
        return ui::print_json(&json!({
            "model": args.model,
            "nc": graph.head.as_ref().map(|head| head.classes),
            "img": img,
            "params": cost.params,
            "gflops": cost.gflops(),
            "layers": cost.layers,
            "strides": strides,
            "anchors": graph.head.as_ref().map(|head| &head.anchors),
            "size_step": step,
            "outputs": outputs,
        }));
    }
    if args.layers {
        println!("{}", layer_table(&cost));
    }
    println!(
        "{}: {} layers, {} parameters, {:.2} GFLOPs at {}x{}, strides {:?}",
        args.model,
        cost.layers.len(),
        ui::thousands(cost.params),
        cost.gflops(),
        img,
        img,
        strides
    );
    if let Some(head) = &graph.head {
        println!("anchors {}", anchors_line(head));
    }
    Ok(())
}

/// `10x13 16x30 33x23 | 30x61 ...`, from fine to coarse; of those that are still to be fitted, how many.
fn anchors_line(head: &DetectHead) -> String {
    if head.unfitted {
        return format!("{} a level, to be fitted to the data", head.anchors_per_level());
    }
    let level = |level: &Vec<[f64; 2]>| -> Vec<String> { level.iter().map(|[w, h]| format!("{w}x{h}")).collect() };
    let levels: Vec<String> = head.anchors.iter().map(|anchors| level(anchors).join(" ")).collect();
    levels.join(" | ")
}

/// Writes the model with fresh weights, as a training without `--weights` starts.
fn init_weights(args: &ModelArgs, graph: &Graph, img: i64, path: &Path) -> CliResult {
    if !open::is_safetensors(path) {
        return Err(CliError::Usage(format!(
            "--init-weights {}: the result is a .safetensors file",
            path.display()
        )));
    }
    let head = graph
        .head
        .as_ref()
        .ok_or_else(|| CliError::Usage("the model has no detection head".into()))?;
    let start = open::Start {
        cfg: Some(&args.model),
        set: &args.set,
        weights: None,
        partial: false,
        seed: args.seed,
    };
    let (mut fresh, _) = open::for_training(ui::session()?, start, head.classes)?;
    fresh.meta.names = (0..head.classes).map(|class| class.to_string()).collect();
    fresh.meta.image_size = img;
    checkpoint::save(path, &fresh)?;
    ui::say(format!("wrote {}", path.display()));
    Ok(())
}

fn layer_table(cost: &yolo_core::graph::ModelCost) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(["#", "from", "type", "params", "GFLOPs", "output"]);
    for column in [0, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for layer in &cost.layers {
        let from: Vec<String> = layer.from.iter().map(i64::to_string).collect();
        table.add_row([
            layer.index.to_string(),
            from.join(", "),
            layer.kind.clone(),
            ui::thousands(layer.params),
            format!("{:.3}", 2.0 * layer.macs as f64 / 1e9),
            layer
                .out_shape
                .iter()
                .map(i64::to_string)
                .collect::<Vec<_>>()
                .join(" x "),
        ]);
    }
    table
}
