//! `yolo detect`: finds objects in pictures and draws them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use serde_json::{Value, json};
use yolo_data::Image;
use yolo_data::letterbox::Letterbox;
use yolo_engine::detect::{detect, detect_with};
use yolo_engine::eval::{Detection, NmsOptions};
use yolo_engine::val::Detector;
use yolo_export::deployed::Deployed;
use yolo_export::package::Thresholds;
use yolo_jobs::compute::DeviceArgs;
use yolo_jobs::deployed::{self, EngineArgs};
use yolo_jobs::files::RunFolder;
use yolo_jobs::outputs::{self, Input, Writes};
use yolo_jobs::{limits, open, plots};
use yolo_report::{Canvas, Letters, Mark, MarkStyle, draw_marks};

use crate::error::{CliError, CliResult};
use crate::val::label_text;
use crate::{source, ui};

/// Find objects in pictures, draw and list them
///
/// Examples: yolo detect --weights yolov5n.pt --source street.jpg
///           yolo detect --weights best.safetensors --source 'photos/*.jpg' --save-txt --json
///           yolo detect --weights best.onnx --engine openvino --source street.jpg
#[derive(clap::Args)]
#[command(verbatim_doc_comment, infer_long_args = true, args_override_self = true)]
pub struct DetectArgs {
    /// Checkpoint (.safetensors or .pt), or a file for deployment (.onnx, .xml, .param)
    #[arg(long)]
    weights: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Pictures: files, folders, patterns (`'photos/**/*.jpg'`) or lists of them (`list.txt`)
    #[arg(long, required = true, num_args = 1..)]
    source: Vec<String>,
    /// Long side that pictures are scaled to, or height and width to fit into (default: what the model was trained for)
    #[arg(long, visible_aliases = ["imgsz", "img-size"], num_args = 1..=2, value_names = ["SIDE", "WIDTH"], action = clap::ArgAction::Set)]
    img: Vec<usize>,
    /// Least confidence [default: 0.25, or what is said in FILE.json]
    #[arg(long)]
    conf_thres: Option<f32>,
    /// IoU of non-maximum suppression [default: 0.45, or what is said in FILE.json]
    #[arg(long)]
    iou_thres: Option<f32>,
    /// Most detections per picture [default: 1000, or what is said in FILE.json]
    #[arg(long)]
    max_det: Option<usize>,
    /// Only these classes (names or numbers)
    #[arg(long, num_args = 1.., action = clap::ArgAction::Set)]
    classes: Vec<String>,
    /// Boxes suppress boxes of other classes, too
    #[arg(long)]
    agnostic_nms: bool,
    /// Write `labels/NAME.txt`: class, centre x, centre y, width, height (shares of the picture)
    #[arg(long)]
    save_txt: bool,
    /// Add the confidence to `--save-txt`
    #[arg(long, requires = "save_txt")]
    save_conf: bool,
    /// Write what is in each box to `crops/CLASS/NAME.jpg`
    #[arg(long)]
    save_crop: bool,
    /// Write no pictures
    #[arg(long)]
    nosave: bool,
    /// Thickness of the lines in pixels (default: by the size of the picture)
    #[arg(long)]
    line_thickness: Option<usize>,
    /// Draw boxes without labels
    #[arg(long)]
    hide_labels: bool,
    /// Draw labels without confidence
    #[arg(long)]
    hide_conf: bool,
    /// Folder to write to (default: a new one in --project)
    #[arg(long, conflicts_with_all = ["project", "name"])]
    save_dir: Option<PathBuf>,
    /// Folder of runs
    #[arg(long, default_value = "runs/detect")]
    project: PathBuf,
    /// Name of this run
    #[arg(long, default_value = "exp")]
    name: String,
    /// Write into an existing folder of that name
    #[arg(long)]
    exist_ok: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found in a picture, with its pixels.
struct Found {
    path: PathBuf,
    image: Image,
    detections: Vec<Detection>,
    milliseconds: f64,
}

/// What finds objects.
struct Finder {
    model: Model,
    names: Vec<String>,
    /// Height and width that pictures are fitted into.
    size: [usize; 2],
}

enum Model {
    /// A network, on libtorch.
    Network(Box<Detector>),
    /// A file for deployment, in its engine.
    File(Box<Deployed>),
}

impl Finder {
    fn open(args: &DetectArgs) -> CliResult<Self> {
        if let Some(file) = deployed::open(&args.weights, &args.engine, &args.device)? {
            file.note().into_iter().for_each(ui::say);
            return Ok(Self {
                names: file.names().to_vec(),
                size: deployed::sides(ui::session()?, &file, &args.img, &args.weights)?,
                model: Model::File(Box::new(file)),
            });
        }
        let device = args.device.one()?;
        let checkpoint = open::checkpoint(ui::session()?, &args.weights)?.to_device(device);
        let detector = Detector::new(&checkpoint.graph, &checkpoint.params)?;
        Ok(Self {
            size: open::image_sides(ui::session()?, &args.img, &checkpoint)?,
            names: checkpoint.meta.names,
            model: Model::Network(Box::new(detector)),
        })
    }

    /// Those of the file, else those of YOLOv5's detection.
    fn thresholds(&self) -> Thresholds {
        let own = match &self.model {
            Model::File(file) => file.thresholds(),
            Model::Network(_) => None,
        };
        own.unwrap_or_default()
    }

    fn detect(&mut self, image: &Image, options: &NmsOptions) -> yolo_engine::Result<Vec<Detection>> {
        let size = self.size;
        match &mut self.model {
            Model::Network(detector) => detect(detector, image, size, options),
            Model::File(file) => {
                let stride = usize::try_from(file.stride()).unwrap_or(32);
                // A file of a fixed size gets the whole of it.
                let into = Letterbox {
                    size,
                    ..Letterbox::square(size[0], file.image().is_none(), stride)
                };
                let classes = file.classes();
                let mut run = |images: &tch::Tensor| file.predict(images).map_err(deployed::stops);
                detect_with(&mut run, tch::Device::Cpu, classes, image, &into, options)
            }
        }
    }
}

/// Runs the command.
pub fn run(args: &DetectArgs) -> CliResult {
    let given = [("--conf-thres", args.conf_thres), ("--iou-thres", args.iou_thres)];
    given
        .iter()
        .filter_map(|(name, value)| Some((*name, (*value)?)))
        .try_for_each(|share| limits::shares(&[share]))?;
    args.max_det
        .map(|most| limits::at_least_one("--max-det", most))
        .transpose()?;
    let files = source::pictures(&args.source)?;
    // The first picture is decoded while the network is read.
    let pictures = decode_ahead(files.clone());
    let mut finder = Finder::open(args)?;
    let names = finder.names.clone();
    let own = finder.thresholds();
    let options = NmsOptions {
        conf: args.conf_thres.unwrap_or(own.score as f32),
        iou: args.iou_thres.unwrap_or(own.iou as f32),
        classes: classes(&args.classes, &names)?,
        agnostic: args.agnostic_nms || own.agnostic,
        max_det: args.max_det.unwrap_or(own.boxes as usize),
        ..NmsOptions::default()
    };
    let wants_files = !args.nosave || args.save_txt || args.save_crop;
    let named = (args.project.as_path(), args.name.as_str(), args.exist_ok);
    let own = RunFolder::of_results(args.save_dir.as_deref(), wants_files, named)?;
    let folder = own.path().to_owned();
    let sources: Vec<Input> = files
        .iter()
        .map(|image| Input {
            image: image.clone(),
            label: yolo_data::dataset::label_path(image),
        })
        .collect();
    let writes = Writes {
        pictures: !args.nosave,
        labels: args.save_txt,
        over: args.exist_ok,
    };
    outputs::check(&folder, writes, &sources)?;
    if wants_files {
        outputs::say_remains(ui::session()?, &folder, true);
    }
    for flag in without_pictures(args) {
        ui::say(format!(
            "note: {flag} changes nothing, as no pictures are written (--nosave)"
        ));
    }
    let output = Output {
        args,
        folder: &folder,
        names: &names,
        letters: Letters::default(),
        several: files.len() > 1,
    };

    ui::stop_flag();
    let mut bar = ui::Bar::new("detect", files.len() as u64);
    let (found, results) = std::thread::scope(|scope| {
        // Drawing and encoding take as long as the network: they go on beside it.
        let (drawn, to_draw) = sync_channel::<Found>(2);
        let writer = scope.spawn(|| output.write_all(to_draw));
        let found = find(&mut finder, pictures, &options, &drawn, output.several, &mut |done| {
            bar.set(done as u64, files.len() as u64, "");
        });
        drop(drawn);
        (found, writer.join())
    });
    bar.finish();
    let unreadable = found?;
    let results = results.map_err(|_| CliError::Failed("the thread that writes pictures stopped".into()))??;
    plots::say_missing(ui::session()?, &output.letters);
    if ui::stopped() {
        return Err(CliError::Interrupted(format!(
            "stopped after {} of {} pictures",
            results.len(),
            files.len()
        )));
    }
    if args.json {
        ui::print_json(&json!({ "images": results }))?;
    } else if output.writes() {
        println!("{}", folder.display());
    }
    match unreadable {
        0 => Ok(()),
        n => Err(CliError::Failed(format!(
            "{n} of {} pictures can't be read",
            files.len()
        ))),
    }
}

/// Runs the network over the pictures as they come; returns how many can't be read.
fn find(
    finder: &mut Finder,
    pictures: Receiver<Read>,
    options: &NmsOptions,
    drawn: &SyncSender<Found>,
    several: bool,
    progress: &mut dyn FnMut(usize),
) -> CliResult<usize> {
    let mut unreadable = 0;
    for (index, (path, image)) in pictures.into_iter().enumerate() {
        if ui::stopped() {
            break;
        }
        let image = match image {
            Ok((image, remark)) => {
                if let Some(remark) = remark {
                    ui::say(format!("note: {}: {remark}", path.display()));
                }
                image
            }
            Err(error) if several => {
                ui::say(format!("error: {error}"));
                unreadable += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let start = Instant::now();
        let detections = finder.detect(&image, options)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        // The writer is gone only after an error of its own, which is reported when it is joined.
        if drawn
            .send(Found {
                path,
                image,
                detections,
                milliseconds,
            })
            .is_err()
        {
            break;
        }
        progress(index + 1);
    }
    Ok(unreadable)
}

/// A picture that was read, with what a user should know of it.
type Read = (PathBuf, yolo_data::Result<(Image, Option<String>)>);

/// Reads pictures on a thread of its own, a few ahead.
fn decode_ahead(files: Vec<PathBuf>) -> Receiver<Read> {
    let (sender, receiver) = sync_channel(2);
    std::thread::spawn(move || {
        for path in files {
            let image = Image::open_with_remark(&path);
            if sender.send((path, image)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Names that results have already.
#[derive(Default)]
struct Taken {
    stems: HashSet<String>,
    crops: HashSet<PathBuf>,
}

/// `street.jpg`, `street2.jpg`, ...
fn numbered(stem: &str, count: usize) -> String {
    if count == 1 {
        format!("{stem}.jpg")
    } else {
        format!("{stem}{count}.jpg")
    }
}

/// The folder of a class: its name as one folder, whatever is in it, and with its number where an earlier class has that folder.
fn crop_folder(names: &[String], class: u32) -> String {
    let folder = |name: &str| name.replace(['/', '\\', '\0'], "_");
    let own = names.get(class as usize).map(|name| folder(name)).unwrap_or_default();
    if own.trim_matches('.').is_empty() {
        return format!("class {class}");
    }
    match names.iter().take(class as usize).any(|other| folder(other) == own) {
        true => format!("{own} (class {class})"),
        false => own,
    }
}

/// Where results go.
struct Output<'a> {
    args: &'a DetectArgs,
    folder: &'a Path,
    names: &'a [String],
    letters: Letters,
    several: bool,
}

impl Output<'_> {
    fn writes(&self) -> bool {
        !self.args.nosave || self.args.save_txt || self.args.save_crop
    }

    /// Draws and writes what comes; the rows of `images` in the order of the pictures.
    fn write_all(&self, found: Receiver<Found>) -> CliResult<Vec<Value>> {
        let mut taken = Taken::default();
        found.into_iter().map(|found| self.write(found, &mut taken)).collect()
    }

    fn write(&self, found: Found, taken: &mut Taken) -> CliResult<Value> {
        let Found {
            path,
            mut image,
            detections,
            milliseconds,
        } = found;
        let stem = free_stem(&path, &mut taken.stems);
        if self.writes() && path.file_stem().is_none_or(|own| own.to_string_lossy() != stem) {
            ui::say(format!(
                "note: {}: an earlier picture has this name; its results are called `{stem}`",
                path.display()
            ));
        }
        if self.args.save_txt {
            let file = self.folder.join("labels").join(format!("{stem}.txt"));
            let text = label_text(&detections, image.width, image.height, self.args.save_conf);
            yolo_report::save_text(&file, &text)?;
        }
        if self.args.save_crop {
            self.crops(&image, &detections, &stem, &mut taken.crops)?;
        }
        let mut row = json!({
            // Names of other encodings are no JSON.
            "path": path.to_string_lossy(),
            "width": image.width,
            "height": image.height,
            "detections": detections.iter().map(|d| self.detection(d)).collect::<Vec<_>>(),
            "milliseconds": milliseconds,
        });
        let mut written = None;
        if !self.args.nosave {
            let ending = path
                .extension()
                .and_then(|e| e.to_str())
                .filter(|e| e.eq_ignore_ascii_case("png"));
            let file = self.folder.join(format!("{stem}.{}", ending.map_or("jpg", |_| "png")));
            self.draw(&mut image, &detections)?;
            yolo_report::save_picture(&file, &image.data, image.width, image.height)?;
            row["saved"] = json!(file.to_string_lossy());
            written = Some(file);
        }
        if !self.args.json {
            self.say(&path, &detections, milliseconds, written.filter(|_| !self.several));
        }
        Ok(row)
    }

    fn draw(&self, image: &mut Image, detections: &[Detection]) -> CliResult {
        let marks: Vec<Mark> = detections
            .iter()
            .map(|d| Mark {
                class: d.class as usize,
                conf: Some(d.conf),
                xyxy: d.xyxy,
            })
            .collect();
        let style = MarkStyle {
            line: self.args.line_thickness,
            labels: !self.args.hide_labels,
            confidence: !self.args.hide_conf,
        };
        let mut canvas = Canvas::new(&mut image.data, image.width, image.height)?;
        draw_marks(&mut canvas, &marks, self.names, &self.letters, style);
        Ok(())
    }

    /// What is in each box, a little more of it than the box as YOLOv5 does it, one file each.
    fn crops(&self, image: &Image, detections: &[Detection], stem: &str, taken: &mut HashSet<PathBuf>) -> CliResult {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for d in detections {
            let count = counts.entry(d.class).or_default();
            *count += 1;
            let folder = self.folder.join("crops").join(crop_folder(self.names, d.class));
            let mut file = folder.join(numbered(stem, *count));
            // The second of `f1` and the first of `f12` want one name.
            while !taken.insert(file.clone()) {
                *count += 1;
                file = folder.join(numbered(stem, *count));
            }
            let [x0, x1] = widened(d.xyxy[0], d.xyxy[2], image.width);
            let [y0, y1] = widened(d.xyxy[1], d.xyxy[3], image.height);
            let rows = (y0..y1).flat_map(|y| &image.data[(y * image.width + x0) * 3..(y * image.width + x1) * 3]);
            let pixels: Vec<u8> = rows.copied().collect();
            yolo_report::save_picture(&file, &pixels, x1 - x0, y1 - y0)?;
        }
        Ok(())
    }

    fn name(&self, class: u32) -> String {
        self.names
            .get(class as usize)
            .cloned()
            .unwrap_or_else(|| format!("class {class}"))
    }

    fn detection(&self, d: &Detection) -> Value {
        json!({"class": d.class, "name": self.name(d.class), "conf": d.conf, "xyxy": d.xyxy})
    }

    /// `street.jpg: 4 person, 1 bus (31 ms)`.
    fn say(&self, path: &Path, detections: &[Detection], milliseconds: f64, written: Option<PathBuf>) {
        let mut counts: Vec<(u32, usize)> = Vec::new();
        for detection in detections {
            match counts.iter_mut().find(|(class, _)| *class == detection.class) {
                Some((_, n)) => *n += 1,
                None => counts.push((detection.class, 1)),
            }
        }
        counts.sort_unstable();
        let text: Vec<String> = counts
            .iter()
            .map(|(class, n)| format!("{n} {}", self.name(*class)))
            .collect();
        let text = if text.is_empty() {
            "nothing".to_owned()
        } else {
            text.join(", ")
        };
        println!("{}: {text} ({milliseconds:.0} ms)", path.display());
        if let Some(file) = written {
            println!("{}", file.display());
        }
    }
}

/// Flags of drawing that were given where nothing is drawn.
fn without_pictures(args: &DetectArgs) -> impl Iterator<Item = &'static str> {
    let given = [
        ("--line-thickness", args.line_thickness.is_some()),
        ("--hide-labels", args.hide_labels),
        ("--hide-conf", args.hide_conf),
    ];
    let nosave = args.nosave;
    given
        .into_iter()
        .filter(move |(_, given)| nosave && *given)
        .map(|(flag, _)| flag)
}

/// A side of a box by 2 % and 10 pixels longer, within the picture and never empty.
fn widened(low: f32, high: f32, end: usize) -> [usize; 2] {
    let (centre, reach) = ((low + high) / 2.0, (high - low) / 2.0 * 1.02 + 5.0);
    let start = ((centre - reach).max(0.0) as usize).min(end - 1);
    let stop = ((centre + reach).max(0.0) as usize).clamp(start + 1, end);
    [start, stop]
}

/// The file's name without its ending; pictures of the same name from different folders get numbers.
pub fn free_stem(path: &Path, taken: &mut HashSet<String>) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut free = stem.clone();
    let mut number = 2;
    while !taken.insert(free.clone()) {
        free = format!("{stem}-{number}");
        number += 1;
    }
    free
}

/// Classes by name or number.
fn classes(wanted: &[String], names: &[String]) -> CliResult<Option<Vec<u32>>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let class = |text: &String| {
        let named = names.iter().position(|name| name == text);
        match text.parse::<u32>() {
            // As in YOLOv5 a number is a class's number, also where classes are called by numbers.
            Ok(number) if (number as usize) < names.len() => {
                if let Some(other) = named.filter(|other| *other != number as usize) {
                    ui::say(format!(
                        "note: --classes {text} is class {number}, `{}`; the class that is called `{text}` is class {other}",
                        names[number as usize]
                    ));
                }
                Ok(number)
            }
            _ if let Some(index) = named => Ok(index as u32),
            Ok(number) => Err(CliError::Usage(format!(
                "--classes {number}: the model has classes 0 to {}",
                names.len().saturating_sub(1)
            ))),
            Err(_) => {
                let help = yolo_core::suggest::did_you_mean(text, names.iter().map(String::as_str))
                    .map(|hint| format!("\n  help: {hint}"))
                    .unwrap_or_default();
                Err(CliError::Usage(format!(
                    "--classes: the model has no class `{text}`{help}"
                )))
            }
        }
    };
    wanted.iter().map(class).collect::<CliResult<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::crop_folder;

    #[test]
    fn classes_have_folders_of_their_own() {
        let names = ["a/b", "a_b", "", "..", "a\\b"].map(str::to_owned);
        let folders: Vec<String> = (0..6).map(|class| crop_folder(&names, class)).collect();
        let wanted = ["a_b", "a_b (class 1)", "class 2", "class 3", "a_b (class 4)", "class 5"];
        assert_eq!(folders, wanted);
    }
}
