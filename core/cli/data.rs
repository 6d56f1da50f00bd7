//! `yolo data`: check, convert and make data sets, and find anchors for them.

use std::path::PathBuf;

use serde_json::json;
use yolo_data::convert::{self, BoxSource, Converted, Format, Frame};
use yolo_data::labels::Problem;
use yolo_data::{Split, anchors, check, synth};
use yolo_jobs::error::unknown;
use yolo_jobs::open;

use crate::error::{CliError, CliResult};
use crate::ui;

/// Check, convert or make a data set; find anchors for it
#[derive(clap::Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Check(CheckArgs),
    Convert(ConvertArgs),
    Synth(SynthArgs),
    Anchors(AnchorsArgs),
}

/// Look at every image and every label of a data set; exit code 1 if something can't be used
///
/// Example: yolo data check bccd.yaml --json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct CheckArgs {
    /// Data set YAML
    data: PathBuf,
    /// Read the headers of images only
    #[arg(long, visible_alias = "fast")]
    quick: bool,
    /// Show every problem, not the first twenty of each kind
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Convert VisDrone, Pascal VOC or COCO annotations to YOLO labels
///
/// Examples: yolo data convert --format visdrone VisDrone --out visdrone
///           yolo data convert --format voc VOC2007 --out voc --names person,car
///           yolo data convert --format coco annotations/instances_val2017.json --images val2017 --out coco
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct ConvertArgs {
    /// Folder of the source (COCO: or one JSON file)
    source: PathBuf,
    /// `visdrone`, `voc` or `coco`. Corners of VOC are taken as they stand (YOLOv5's VOC.yaml moves boxes up and left by a pixel)
    #[arg(long)]
    format: String,
    /// Folder to make
    #[arg(long)]
    out: PathBuf,
    /// Folder of the images, where it is not one of the usual places
    #[arg(long)]
    images: Option<PathBuf>,
    /// Classes in their order, separated by commas (default: all that occur)
    #[arg(long, value_delimiter = ',')]
    names: Option<Vec<String>>,
    /// Share of the images for validation, where the source has no splits
    #[arg(long, default_value_t = convert::Settings::VAL_SHARE)]
    val_share: f64,
    /// Copy the images instead of linking to them
    #[arg(long)]
    copy: bool,
    /// Keep images with an object that can't be read, without that object (left out by default: it would become background)
    #[arg(long)]
    keep_incomplete: bool,
    /// COCO: keep crowds as boxes
    #[arg(long)]
    keep_crowd: bool,
    /// VOC: keep objects marked `difficult`
    #[arg(long)]
    keep_difficult: bool,
    /// VisDrone: keep ignored regions and others, as two classes more, and rows with a score of 0; COCO: keep annotations that say `ignore`
    #[arg(long)]
    keep_ignored: bool,
    /// What boxes refer to in photos that EXIF turns, where their size does not tell: `stored` or `upright`
    #[arg(long)]
    exif: Option<String>,
    /// COCO: which counts where an object's `bbox` and its polygons are different places: `bbox` or `polygon`
    #[arg(long)]
    boxes: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Make the project's own data set: small objects seen from above, computed from a seed
///
/// Example: yolo data synth --out synth --images 320 --img 192
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct SynthArgs {
    /// Folder to make
    #[arg(long)]
    out: PathBuf,
    /// Images of all splits together
    #[arg(long, default_value_t = 320)]
    images: usize,
    /// Side of the images
    #[arg(long, visible_aliases = ["imgsz", "img-size"], default_value_t = 192)]
    img: usize,
    /// Classes, 1 to 4: vehicle, tank, tent, plane
    #[arg(long, default_value_t = synth::CLASSES.len())]
    classes: usize,
    /// How many times as large objects are, 1 to 4
    #[arg(long, default_value_t = 1.0)]
    zoom: f32,
    /// The same seed makes the same files
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// PNG (exact, large) instead of JPEG
    #[arg(long)]
    png: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Find anchors that fit the boxes of a data set (k-means, then evolution), and see how well the usual ones fit
///
/// Example: yolo data anchors visdrone.yaml --img 640 --count 12
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct AnchorsArgs {
    /// Data set YAML
    data: PathBuf,
    /// Side of the images in training
    #[arg(long, visible_aliases = ["imgsz", "img-size"], default_value_t = 640)]
    img: usize,
    /// Levels of the head (default: as many as have three anchors each)
    #[arg(long)]
    levels: Option<usize>,
    /// Anchors of all levels together
    #[arg(long, default_value_t = 9)]
    count: usize,
    /// Largest ratio between the sides of a box and of its anchor (the hyper-parameter `anchor_t`)
    #[arg(long, default_value_t = 4.0)]
    threshold: f64,
    /// Rounds of evolution
    #[arg(long, default_value_t = 1000)]
    generations: usize,
    /// The same seed gives the same anchors
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &DataArgs) -> CliResult {
    match &args.command {
        Command::Check(args) => check(args),
        Command::Convert(args) => convert(args),
        Command::Synth(args) => synth(args),
        Command::Anchors(args) => find_anchors(args),
    }
}

/// A bar that several threads may move.
struct SharedBar(std::sync::Mutex<ui::Bar>);

impl SharedBar {
    fn new(label: &str) -> Self {
        Self(std::sync::Mutex::new(ui::Bar::new(label, 0)))
    }

    fn set(&self, done: usize, total: usize) {
        // A thread that died while it moved the bar has said so elsewhere.
        if let Ok(mut bar) = self.0.lock() {
            bar.set(done as u64, total as u64, "");
        }
    }

    fn finish(&self) {
        if let Ok(bar) = self.0.lock() {
            bar.finish();
        }
    }
}

fn check(args: &CheckArgs) -> CliResult {
    let data = open::dataset(&args.data)?;
    let bar = SharedBar::new("check");
    ui::stop_flag();
    let progress = |done, total| {
        bar.set(done, total);
        !ui::stopped()
    };
    let report = check::check(&data, !args.quick, &progress);
    bar.finish();
    let report = report?;
    if args.json {
        let mut document = serde_json::to_value(&report)?;
        document["data"] = json!(args.data);
        document["names"] = json!(data.names);
        ui::print_json(&document)?;
    } else {
        for part in &report.splits {
            println!(
                "{:>6}: {} images ({} without a box), {} boxes",
                part.split, part.images, part.backgrounds, part.boxes
            );
        }
        for (name, count) in data.names.iter().zip(&report.per_class) {
            println!("{name:>20}: {count} boxes");
        }
        print_problems(&report.problems, if args.all { usize::MAX } else { SHOWN });
    }
    if report.fatal() > 0 {
        Err(CliError::Said(1))
    } else {
        Ok(())
    }
}

/// Problems of a kind that are shown unless all are wanted.
const SHOWN: usize = 20;

/// Every problem on a line, by kind; many of one kind are cut short.
fn print_problems(problems: &[Problem], shown: usize) {
    let mut kinds: Vec<&str> = problems.iter().map(|problem| problem.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let all: Vec<&Problem> = problems.iter().filter(|problem| problem.kind == kind).collect();
        for problem in all.iter().take(shown) {
            println!("{} {problem} [{kind}]", if problem.fatal { "error:" } else { "note:" });
        }
        if all.len() > shown {
            println!("... and {} more of `{kind}` (--json has all)", all.len() - shown);
        }
    }
    let fatal = problems.iter().filter(|problem| problem.fatal).count();
    println!("{fatal} errors, {} notes", problems.len() - fatal);
}

fn convert(args: &ConvertArgs) -> CliResult {
    let format = Format::parse(&args.format).ok_or_else(|| unknown("format", &args.format, &Format::NAMES))?;
    for (flag, given, wanted) in [
        ("--keep-crowd", args.keep_crowd, &[Format::Coco][..]),
        ("--keep-difficult", args.keep_difficult, &[Format::Voc]),
        ("--keep-ignored", args.keep_ignored, &[Format::VisDrone, Format::Coco]),
        ("--boxes", args.boxes.is_some(), &[Format::Coco]),
    ] {
        if given && !wanted.contains(&format) {
            let message = format!("{flag} says nothing about --format {}: leave it out", args.format);
            return Err(CliError::Usage(message));
        }
    }
    let frame = |name: &String| Frame::parse(name).ok_or_else(|| unknown("frame", name, &Frame::NAMES));
    let exif = args.exif.as_ref().map(frame).transpose()?;
    let source =
        |name: &String| BoxSource::parse(name).ok_or_else(|| unknown("source of boxes", name, &BoxSource::NAMES));
    let boxes = args.boxes.as_ref().map(source).transpose()?;
    let settings = convert::Settings {
        images: args.images.clone(),
        names: args.names.clone(),
        val_share: args.val_share,
        copy: args.copy,
        keep: convert::Keep {
            incomplete: args.keep_incomplete,
            crowd: args.keep_crowd,
            difficult: args.keep_difficult,
            ignored: args.keep_ignored,
        },
        exif,
        boxes,
        ..convert::Settings::new(format, &args.source)
    };
    let bar = SharedBar::new("convert");
    let made = convert::convert(&settings, &args.out, &|done, total| bar.set(done, total));
    bar.finish();
    let made = made?;
    if args.json {
        ui::print_json(&made)?;
    } else {
        let Converted {
            yaml,
            names,
            images,
            boxes,
            splits,
            dropped,
            problems,
        } = &made;
        let splits: Vec<String> = splits.iter().map(|(split, count)| format!("{count} {split}")).collect();
        println!(
            "{}: {images} images ({}), {boxes} boxes of {} classes",
            yaml.display(),
            splits.join(", "),
            names.len()
        );
        for (reason, count) in dropped {
            println!("left out: {count} boxes ({reason})");
        }
        print_problems(problems, SHOWN);
    }
    if made.problems.iter().any(|problem| problem.fatal) {
        Err(CliError::Said(1))
    } else {
        Ok(())
    }
}

fn synth(args: &SynthArgs) -> CliResult {
    let settings = synth::Settings {
        images: args.images,
        size: args.img,
        classes: args.classes,
        zoom: args.zoom,
        seed: args.seed,
        png: args.png,
    };
    let bar = SharedBar::new("synth");
    let made = synth::write(&args.out, &settings, &|done| bar.set(done, args.images));
    bar.finish();
    let made = made?;
    let names = &synth::CLASSES[..args.classes];
    if args.json {
        let problems: [Problem; 0] = [];
        return ui::print_json(&json!({
            "yaml": made.yaml, "images": made.images, "boxes": made.boxes, "per_class": made.per_class, "names": names,
            "problems": problems,
        }));
    }
    let counts: Vec<String> = names
        .iter()
        .zip(&made.per_class)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    println!(
        "{}: {} images, {} boxes ({})",
        made.yaml.display(),
        made.images,
        made.boxes,
        counts.join(", ")
    );
    Ok(())
}

/// As many anchors have YOLOv5's heads at each level.
const USUAL_PER_LEVEL: usize = 3;

/// YOLOv5's anchors, made for COCO at 640.
const USUAL: [anchors::Size; 9] = [
    [10.0, 13.0],
    [16.0, 30.0],
    [33.0, 23.0],
    [30.0, 61.0],
    [62.0, 45.0],
    [59.0, 119.0],
    [116.0, 90.0],
    [156.0, 198.0],
    [373.0, 326.0],
];

impl AnchorsArgs {
    /// Anchors of each level.
    fn per_level(&self) -> CliResult<usize> {
        let levels = self.levels.unwrap_or(self.count / USUAL_PER_LEVEL).max(1);
        if self.count > 0
            && self.count.is_multiple_of(levels)
            && (self.levels.is_some() || self.count.is_multiple_of(USUAL_PER_LEVEL))
        {
            return Ok(self.count / levels);
        }
        Err(CliError::Usage(format!(
            "--count {}: every level of a head has as many anchors as the others, so a multiple of {} is needed{}",
            self.count,
            self.levels.unwrap_or(USUAL_PER_LEVEL),
            if self.levels.is_some() { "" } else { ", or --levels" }
        )))
    }
}

fn find_anchors(args: &AnchorsArgs) -> CliResult {
    let per_level = args.per_level()?;
    let data = open::dataset(&args.data)?;
    let samples = open::samples(ui::session()?, &data, Split::Train, false)?;
    let boxes = anchors::box_sizes(&samples.items, args.img);
    let usual = anchors::fit(&USUAL, &boxes, args.threshold);
    let found = anchors::find(&boxes, args.count, args.threshold, args.generations, args.seed)
        .map_err(|error| CliError::Usage(format!("{error} (at --img {})", args.img)))?;
    let found: Vec<anchors::Size> = found.into_iter().map(|size| size.map(f64::round)).collect();
    let own = anchors::fit(&found, &boxes, args.threshold);
    if args.json {
        let problems = &samples.problems;
        return ui::print_json(&json!({
            "anchors": found, "fit": own, "usual": usual, "images": samples.items.len(), "boxes": boxes.len(), "problems": problems,
        }));
    }
    let say = |name: &str, fit: anchors::Fit| {
        let (recall, per_box) = (100.0 * fit.best_possible_recall, fit.anchors_per_box);
        println!(
            "{name}: best possible recall {recall:.2} %, {per_box:.2} anchors per box, fitness {:.3}",
            fit.fitness
        );
    };
    println!("{} boxes at {} pixels", boxes.len(), args.img);
    let small = (boxes.iter())
        .filter(|size| size.iter().any(|side| *side < anchors::LEAST_SIDE))
        .count();
    if small > 0 {
        println!(
            "{small} of them are smaller than {} px: no anchors are made for them",
            anchors::LEAST_SIDE
        );
    }
    say("YOLOv5's usual anchors", usual);
    say("these anchors", own);
    let sizes: Vec<String> = found.iter().map(|[w, h]| format!("{w:.0},{h:.0}")).collect();
    let levels: Vec<String> = sizes
        .chunks(per_level)
        .map(|level| format!("    - [{}]", level.join(", ")))
        .collect();
    println!("head:\n  anchors:\n{}", levels.join("\n"));
    Ok(())
}
