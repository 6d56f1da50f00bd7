//! `yolo val`.

mod coco;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yolo_data::{Dataset, Loader, LoaderOptions, Split, classes};
use yolo_engine::Checkpoint;
use yolo_engine::eval::{Detection, NmsOptions};
use yolo_engine::val::{ImageResult, Report};
use yolo_export::deployed::Deployed;
use yolo_jobs::compute::DeviceArgs;
use yolo_jobs::deployed::{self, EngineArgs};
use yolo_jobs::files::RunFolder;
use yolo_jobs::outputs::{self, Input, Writes};
use yolo_jobs::plots::Pictures;
use yolo_jobs::{limits, measure, open, plots};
use yolo_report::Letters;

use crate::detect::free_stem;
use crate::error::{CliError, CliResult};
use crate::ui;

/// Folder of runs, unless another is named.
const PROJECT: &str = "runs/val";
/// Name of a run, unless another is given.
const NAME: &str = "exp";

/// Measure a model on a data set
///
/// Examples: yolo val --weights best.safetensors --data bccd.yaml --img 320 --plots
///           yolo val --weights best.onnx --engine openvino --data bccd.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment, infer_long_args = true, args_override_self = true)]
pub struct ValArgs {
    /// Checkpoint (.safetensors or .pt), or a file for deployment (.onnx, .xml, .param)
    #[arg(long)]
    weights: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Data set YAML
    #[arg(long)]
    data: PathBuf,
    /// Which images: `val`, `test` or `train`
    #[arg(long, default_value = "val")]
    task: String,
    /// Side of the images (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"])]
    img: Option<usize>,
    /// Squares for a checkpoint, too, as files for deployment get them (default: rectangles of little border, as YOLOv5's validation)
    #[arg(long)]
    square: bool,
    /// Images per step
    #[arg(long, visible_alias = "batch", default_value_t = 16)]
    batch_size: usize,
    /// Least confidence
    #[arg(long, default_value_t = 0.001)]
    conf_thres: f32,
    /// IoU of non-maximum suppression
    #[arg(long, default_value_t = 0.6)]
    iou_thres: f32,
    /// Most detections per image
    #[arg(long, default_value_t = 300)]
    max_det: usize,
    /// Take all classes as one
    #[arg(long)]
    single_cls: bool,
    /// Write curves, the confusion matrix and pictures
    #[arg(long)]
    plots: bool,
    /// Write `labels/NAME.txt` for every image: class, centre x, centre y, width, height (shares of the image)
    #[arg(long)]
    save_txt: bool,
    /// Add the confidence to `--save-txt`
    #[arg(long, requires = "save_txt")]
    save_conf: bool,
    /// Write `predictions.json` in COCO's result format, and measure COCO's twelve numbers
    #[arg(long)]
    save_json: bool,
    /// Folder to write to (default: a new one in --project)
    #[arg(long, conflicts_with_all = ["project", "name"])]
    save_dir: Option<PathBuf>,
    /// Folder of runs
    #[arg(long, default_value = PROJECT)]
    project: PathBuf,
    /// Name of this run
    #[arg(long, default_value = NAME)]
    name: String,
    /// Write into an existing folder of that name
    #[arg(long)]
    exist_ok: bool,
    /// Loader threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// mAP is measured with boxes from this confidence on.
const MOST_CONFIDENCE: f32 = 0.001;

/// Runs the command.
pub fn run(args: &ValArgs) -> CliResult {
    limits::shares(&[("--conf-thres", args.conf_thres), ("--iou-thres", args.iou_thres)])?;
    let split = Split::parse(&args.task).ok_or_else(|| {
        let help = match args.task.as_str() {
            "speed" | "study" => "\n  help: `yolo bench` measures speed",
            _ => "",
        };
        CliError::Usage(format!("--task {}: train, val or test{help}", args.task))
    })?;
    if args.conf_thres > MOST_CONFIDENCE {
        ui::say(format!(
            "note: --conf-thres {}: mAP as it is published counts all boxes from 0.001; without those below this the curve is continued \
             where it was cut, so the numbers may be lower or higher, and are not comparable",
            args.conf_thres
        ));
    }
    let usual = NmsOptions::validation().max_det;
    if args.max_det != usual {
        ui::say(format!(
            "note: --max-det {}: mAP as it is published counts up to {usual} boxes of an image; with another number it may be lower or \
             higher, and is not comparable",
            args.max_det
        ));
    }
    let mut model = Model::open(args)?;
    let mut dataset = open::dataset(&args.data)?;
    if args.single_cls {
        dataset.merge_classes();
    }
    check_classes(args, &model, &dataset)?;
    let loader = model.loader(args, &dataset, split)?;
    let labels = loader.samples().iter().flat_map(|sample| &sample.boxes);
    if let Some(said) = classes::without_boxes(&dataset.names, &classes::counts(labels, dataset.names.len())) {
        ui::say(format!("note: `{}` has {said}", split.name()));
    }
    let options = NmsOptions {
        conf: args.conf_thres,
        iou: args.iou_thres,
        max_det: limits::at_least_one("--max-det", args.max_det)?,
        agnostic: args.single_cls,
        one_class: args.single_cls,
        ..NmsOptions::validation()
    };
    let wants_files = args.plots || args.save_txt || args.save_json;
    let named = (args.project.as_path(), args.name.as_str(), args.exist_ok);
    let own = RunFolder::of_results(args.save_dir.as_deref(), wants_files, named)?;
    let folder = own.path().to_owned();
    if wants_files {
        outputs::say_remains(ui::session()?, &folder, args.plots);
    }
    let sources: Vec<Input> = (loader.samples().iter())
        .map(|sample| Input {
            image: sample.image.clone(),
            label: sample.label.clone(),
        })
        .collect();
    let writes = Writes {
        labels: args.save_txt,
        over: args.exist_ok,
        ..Writes::default()
    };
    outputs::check(&folder, writes, &sources)?;
    if let Some(flag) = folder_of_nothing(args).filter(|_| !wants_files) {
        ui::say(format!(
            "note: {flag} changes nothing: files are written with --plots, --save-txt or --save-json"
        ));
    }
    let mut labels = args.save_txt.then(|| LabelFiles {
        folder: folder.join("labels"),
        confidence: args.save_conf,
        taken: HashSet::new(),
    });
    let mut predictions = args.save_json.then(|| coco::Predictions::new(&dataset.names));
    let mut extra = |result: &ImageResult<'_>| -> yolo_jobs::Result {
        if let Some(labels) = &mut labels {
            labels.write(result)?;
        }
        if let Some(predictions) = &mut predictions {
            predictions.add(result, &loader.samples()[result.origin.index].boxes);
        }
        Ok(())
    };
    let (report, pictures) = model.measure(&loader, &options, &mut extra)?;
    if args.plots {
        plots::validation(
            ui::session()?,
            &folder,
            &dataset.names,
            &Letters::default(),
            &report,
            &pictures,
        )?;
    }
    let coco = predictions.map(|predictions| predictions.finish(&folder)).transpose()?;
    let coco = coco.as_ref();
    if args.json {
        let mut found = as_json(&report, &dataset.names, coco, wants_files.then_some(&*folder));
        if let Some(engine) = model.engine() {
            found["engine"] = json!(engine);
        }
        return ui::print_json(&found);
    }
    print(&report, &dataset.names);
    if let Some(engine) = model.engine() {
        println!("computed by {engine}, on squares");
    }
    if let Some(coco) = coco {
        println!("COCO: {}", coco::line(coco));
    }
    if wants_files {
        println!("{}", folder.display());
    }
    Ok(())
}

/// A flag that names the place of files.
fn folder_of_nothing(args: &ValArgs) -> Option<&'static str> {
    let given = [
        ("--save-dir", args.save_dir.is_some()),
        ("--project", args.project != Path::new(PROJECT)),
        ("--name", args.name != NAME),
        ("--exist-ok", args.exist_ok),
    ];
    given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}

/// What is measured.
enum Model {
    /// A network, on libtorch.
    Network(Box<Checkpoint>),
    /// A file for deployment, in its engine.
    File(Box<Deployed>),
}

impl Model {
    fn open(args: &ValArgs) -> CliResult<Self> {
        if let Some(file) = deployed::open(&args.weights, &args.engine, &args.device)? {
            file.note().into_iter().for_each(ui::say);
            return Ok(Self::File(Box::new(file)));
        }
        let device = args.device.one()?;
        Ok(Self::Network(Box::new(
            open::checkpoint(ui::session()?, &args.weights)?.to_device(device),
        )))
    }

    fn classes(&self) -> usize {
        match self {
            Self::Network(model) => model.graph.head.as_ref().map_or(0, |head| head.classes as usize),
            Self::File(file) => file.classes(),
        }
    }

    fn names(&self) -> &[String] {
        match self {
            Self::Network(model) => &model.meta.names,
            Self::File(file) => file.names(),
        }
    }

    fn engine(&self) -> Option<&'static str> {
        match self {
            Self::Network(_) => None,
            Self::File(file) => Some(file.engine().name()),
        }
    }

    /// A network gets rectangles, as in YOLOv5's validation. A file gets the squares that it was written for.
    fn loader(&self, args: &ValArgs, dataset: &Dataset, split: Split) -> CliResult<Loader> {
        let (batch, workers) = (args.batch_size, args.workers);
        let (size, stride) = match self {
            Self::Network(model) => {
                let size = open::image_size(ui::session()?, args.img, model)?;
                if !args.square {
                    return Ok(open::val_loader(
                        ui::session()?,
                        dataset,
                        split,
                        model,
                        open::Batching { size, batch, workers },
                        false,
                    )?);
                }
                (size, model.max_stride())
            }
            Self::File(file) => (
                deployed::square(ui::session()?, file, args.img, &args.weights)?,
                file.stride(),
            ),
        };
        let options = LoaderOptions {
            workers,
            cache_bytes: 0,
            rect: false,
            pad: 0.0,
            stride: usize::try_from(stride).unwrap_or(32),
            ..LoaderOptions::val(size, batch)
        };
        let samples = open::samples(ui::session()?, dataset, split, false)?;
        Ok(Loader::new(samples.items, options)?)
    }

    fn measure(
        &mut self,
        loader: &Loader,
        options: &NmsOptions,
        each: &mut dyn FnMut(&ImageResult<'_>) -> yolo_jobs::Result,
    ) -> CliResult<(Report, Pictures)> {
        match self {
            Self::Network(model) => Ok(measure::closely(ui::session()?, model, loader, options, "val", each)?),
            Self::File(file) => Ok(measure::deployed(ui::session()?, file, loader, options, "val", each)?),
        }
    }
}

fn check_classes(args: &ValArgs, model: &Model, dataset: &Dataset) -> CliResult {
    let classes = model.classes();
    if classes == dataset.names.len() {
        if !args.single_cls {
            open::other_names(ui::session()?, &args.weights, model.names(), &args.data, &dataset.names);
        }
        return Ok(());
    }
    if args.single_cls {
        if classes > 1 {
            ui::say(format!(
                "note: --single-cls: {} tells {classes} classes apart and all count as one; what it finds of classes that {} doesn't label \
                 counts as wrong",
                args.weights.display(),
                args.data.display()
            ));
        }
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{} has {classes} classes, {} has {}: they don't belong together (--single-cls takes all classes as one, of use where both mean the same objects)",
        args.weights.display(),
        args.data.display(),
        dataset.names.len()
    )))
}

fn as_json(
    report: &Report,
    names: &[String],
    coco: Option<&yolo_engine::eval::CocoMetrics>,
    folder: Option<&Path>,
) -> Value {
    let m = &report.metrics;
    let per_class: Vec<_> = m
        .classes
        .iter()
        .map(|c| {
            json!({"class": c.class, "name": names.get(c.class), "labels": c.labels, "precision": c.precision,
                   "recall": c.recall, "map50": c.ap50(), "map": c.ap_mean()})
        })
        .collect();
    let mut out = json!({
        "precision": m.precision, "recall": m.recall, "map50": m.map50, "map": m.map, "per_class": per_class,
        "images": m.images, "instances": m.instances, "speed_ms": report.speed,
    });
    if let Some(coco) = coco {
        out["coco"] = coco::as_json(coco);
    }
    if let Some(folder) = folder {
        out["save_dir"] = json!(folder);
    }
    out
}

fn print(report: &Report, names: &[String]) {
    let m = &report.metrics;
    println!(
        "{:>20} {:>8} {:>10} {:>10} {:>8} {:>8} {:>8}",
        "class", "images", "instances", "P", "R", "mAP50", "mAP"
    );
    let row = |name: &str, labels: usize, p: f64, r: f64, map50: f64, map: f64| {
        println!(
            "{name:>20} {:>8} {labels:>10} {p:>10.3} {r:>8.3} {map50:>8.3} {map:>8.3}",
            m.images
        );
    };
    row("all", m.instances, m.precision, m.recall, m.map50, m.map);
    for c in &m.classes {
        let name = names.get(c.class).map_or("?", String::as_str);
        row(name, c.labels, c.precision, c.recall, c.ap50(), c.ap_mean());
    }
    let s = report.speed;
    println!(
        "per image: {:.1} ms preprocess, {:.1} ms inference, {:.1} ms NMS",
        s.preprocess, s.inference, s.nms
    );
}

/// One text file per image.
struct LabelFiles {
    folder: PathBuf,
    confidence: bool,
    /// Names in use: images of several folders may share one.
    taken: HashSet<String>,
}

impl LabelFiles {
    fn write(&mut self, result: &ImageResult<'_>) -> yolo_jobs::Result {
        let path = &result.origin.path;
        let stem = free_stem(path, &mut self.taken);
        if path.file_stem().is_none_or(|own| own.to_string_lossy() != stem) {
            ui::say(format!(
                "note: {}: an earlier image has this name; its boxes are in labels/{stem}.txt",
                path.display()
            ));
        }
        let [h, w] = result.origin.original;
        let text = label_text(result.detections, w, h, self.confidence);
        Ok(yolo_report::save_text(&self.folder.join(format!("{stem}.txt")), &text)?)
    }
}

/// Lines of Ultralytics' label files: class, centre, size as shares of the picture, and the confidence where it is wanted.
pub fn label_text(detections: &[Detection], width: usize, height: usize, confidence: bool) -> String {
    let (w, h) = (width as f32, height as f32);
    let line = |d: &Detection| {
        let [x1, y1, x2, y2] = d.xyxy;
        let conf = if confidence {
            format!(" {:.6}", d.conf)
        } else {
            String::new()
        };
        format!(
            "{} {:.6} {:.6} {:.6} {:.6}{conf}\n",
            d.class,
            (x1 + x2) / 2.0 / w,
            (y1 + y2) / 2.0 / h,
            (x2 - x1) / w,
            (y2 - y1) / h
        )
    };
    detections.iter().map(line).collect()
}
