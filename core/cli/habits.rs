//! Flags of YOLOv5's train.py, val.py, detect.py and export.py (v5.0 to v7.0) that have no option of the same name here: what each means,
//! or what to do instead. With the options themselves, they are all flags that those scripts have.
//!
//! What lives here: one table per command, and the pass over the command line before it is parsed. What must not: work.

use std::ffi::{OsStr, OsString};

use crate::error::{CliError, CliResult};

/// A flag of a script.
struct Flag {
    /// Without the dashes, words joined by `-`.
    name: &'static str,
    /// How many words after it belong to it.
    takes: Takes,
    /// What becomes of it.
    answer: Answer,
}

/// How many words after a flag belong to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    /// One, unless the next word is a flag.
    Maybe,
    /// All up to the next flag.
    Many,
}

/// What becomes of a flag.
enum Answer {
    /// Another spelling of these words.
    Is(&'static [&'static str]),
    /// That is done anyway.
    Always,
    /// The job is the same without it; the sentence is said.
    Note(&'static str),
    /// The result would be another: the sentence says what to do instead.
    Refuse(&'static str),
}

const fn flag(name: &'static str, takes: Takes, answer: Answer) -> Flag {
    Flag { name, takes, answer }
}

const WANDB: Answer = Answer::Note(
    "nothing is sent to Weights & Biases; results.csv and the TensorBoard events of the run have all numbers",
);
const HALF: Answer = Answer::Note("networks compute in single precision here; results are those without it");
const DNN: Answer = Answer::Refuse("OpenCV runs no files here; leave it out: checkpoints run on libtorch");
const AUGMENT: Answer =
    Answer::Refuse("test-time augmentation is not there; leave it out, and use a larger --img for more small objects");

const TRAIN: &[Flag] = &[
    flag("adam", Takes::Nothing, Answer::Is(&["--optimizer", "adam"])),
    flag("cache-images", Takes::Nothing, Answer::Is(&["--cache"])),
    flag("notest", Takes::Nothing, Answer::Is(&["--noval"])),
    flag(
        "nosave",
        Takes::Nothing,
        Answer::Note("the best and the last weights are kept all the same, as a run goes on from them"),
    ),
    flag(
        "quad",
        Takes::Nothing,
        Answer::Refuse(
            "batches of four pictures joined into one are not made here; leave it out, or train at twice the size with a quarter of the \
             images: --img 1280 --batch-size 4",
        ),
    ),
    flag("local-rank", Takes::One, Answer::Always),
    flag("entity", Takes::One, WANDB),
    flag("upload-dataset", Takes::Maybe, WANDB),
    flag("bbox-interval", Takes::One, WANDB),
    flag("artifact-alias", Takes::One, WANDB),
    flag("log-imgs", Takes::One, WANDB),
    flag("log-artifacts", Takes::Nothing, WANDB),
    flag(
        "bucket",
        Takes::One,
        Answer::Note("nothing is uploaded; the run's folder has all files"),
    ),
    flag(
        "ndjson-console",
        Takes::Nothing,
        Answer::Note("results.csv is written as training goes on; --json makes the last line the only one"),
    ),
    flag(
        "ndjson-file",
        Takes::Nothing,
        Answer::Note("results.csv is written as training goes on"),
    ),
    flag(
        "evolve-population",
        Takes::One,
        Answer::Refuse("an evolution starts from --hyp and keeps its generations in evolve.csv; leave it out"),
    ),
    flag(
        "resume-evolve",
        Takes::One,
        Answer::Refuse("an evolution goes on with --evolve N --resume; leave it out"),
    ),
];

const VAL: &[Flag] = &[
    flag("augment", Takes::Nothing, AUGMENT),
    flag("half", Takes::Nothing, HALF),
    flag("dnn", Takes::Nothing, DNN),
    flag("verbose", Takes::Nothing, Answer::Always),
    flag("rect", Takes::Nothing, Answer::Always),
    flag(
        "classes",
        Takes::Many,
        Answer::Refuse("mAP is that of all classes; leave it out: the table and --json have a row for each class"),
    ),
    flag(
        "agnostic-nms",
        Takes::Nothing,
        Answer::Refuse(
            "boxes of different classes don't suppress each other in mAP; --single-cls measures boxes without their classes",
        ),
    ),
    flag(
        "save-hybrid",
        Takes::Nothing,
        Answer::Refuse("labels are not mixed into the detections, as mAP would measure the labels; use --save-txt"),
    ),
];

const DETECT: &[Flag] = &[
    flag("augment", Takes::Nothing, AUGMENT),
    flag("half", Takes::Nothing, HALF),
    flag("dnn", Takes::Nothing, DNN),
    flag(
        "data",
        Takes::One,
        Answer::Note("the names of the classes are those in the weights"),
    ),
    flag(
        "view-img",
        Takes::Nothing,
        Answer::Note("no window is opened; the pictures are in the folder that is printed"),
    ),
    flag(
        "visualize",
        Takes::Nothing,
        Answer::Refuse("feature maps are not drawn; `yolo model WEIGHTS --graph net.svg` draws the network"),
    ),
    flag(
        "update",
        Takes::Nothing,
        Answer::Note("weights are not changed; `yolo convert` makes a file without the state of training"),
    ),
    flag(
        "save-csv",
        Takes::Nothing,
        Answer::Refuse("there is no CSV; --save-txt writes one text file per picture, --json prints one document"),
    ),
    flag(
        "save-format",
        Takes::One,
        Answer::Refuse("--save-txt writes YOLO's format; --json prints corners in pixels"),
    ),
    flag(
        "vid-stride",
        Takes::One,
        Answer::Note("videos are not read: ffmpeg's `-vf fps=2` takes fewer frames"),
    ),
    flag(
        "output",
        Takes::One,
        Answer::Refuse("the folder is named by --save-dir, or by --project and --name"),
    ),
];

const EXPORT: &[Flag] = &[
    flag(
        "data",
        Takes::One,
        Answer::Note("the names of the classes are those in the weights"),
    ),
    flag(
        "device",
        Takes::One,
        Answer::Note("files are written and checked on the CPU"),
    ),
    flag("simplify", Takes::Nothing, Answer::Always),
    flag("inplace", Takes::Nothing, Answer::Always),
    flag("grid", Takes::Nothing, Answer::Always),
    flag("verbose", Takes::Nothing, Answer::Always),
    flag(
        "train",
        Takes::Nothing,
        Answer::Refuse("files are for inference; --raw gives the maps of the head before decoding"),
    ),
    flag(
        "int8",
        Takes::Nothing,
        Answer::Refuse(
            "integers need calibration: `yolo quantize`, then `yolo export --format onnx-qdq` of the checkpoint that it writes",
        ),
    ),
    flag(
        "per-tensor",
        Takes::Nothing,
        Answer::Refuse("it belongs to int8: see `yolo inspect BACKEND` for the options of `yolo quantize --set`"),
    ),
    flag(
        "keras",
        Takes::Nothing,
        Answer::Refuse("TensorFlow files are not written; convert the ONNX file (onnx2tf)"),
    ),
    flag(
        "optimize",
        Takes::Nothing,
        Answer::Refuse("TorchScript for phones is not written; `--format ncnn` is for phones"),
    ),
    flag(
        "workspace",
        Takes::One,
        Answer::Note("the memory of TensorRT is set where its engine is built: trtexec --memPoolSize=workspace:4096"),
    ),
    flag(
        "topk-per-class",
        Takes::One,
        Answer::Refuse("the number of boxes is --max-det"),
    ),
    flag(
        "topk-all",
        Takes::One,
        Answer::Refuse("the number of boxes is --max-det"),
    ),
];

/// The table of a command.
fn table(command: &str) -> Option<&'static [Flag]> {
    match command {
        "train" => Some(TRAIN),
        "val" => Some(VAL),
        "detect" => Some(DETECT),
        "export" => Some(EXPORT),
        _ => None,
    }
}

/// A command line in this program's words, and what to say about it.
pub struct Translated {
    /// The words, the name of the program first.
    pub words: Vec<OsString>,
    /// Sentences about flags that change nothing here.
    pub notes: Vec<String>,
}

/// Puts flags of YOLOv5's scripts into this program's words: `_` for `-`, the tables, and empty values that mean nothing.
///
/// # Errors
/// A flag that is known and can't be had here, with what to do instead.
pub fn translate(words: impl IntoIterator<Item = OsString>) -> CliResult<Translated> {
    let mut words = words.into_iter().peekable();
    let mut out: Vec<OsString> = words.next().into_iter().collect();
    let (mut command, mut notes) = (None::<String>, Vec::new());
    while let Some(word) = words.next() {
        let word = dashed(word);
        let Some(text) = word.to_str() else {
            out.push(word);
            continue;
        };
        if text == "--" {
            out.push(word);
            out.extend(words.by_ref());
            break;
        }
        let Some(name) = text.strip_prefix("--") else {
            if command.is_none() {
                command = Some(text.to_owned());
            }
            out.push(word);
            continue;
        };
        let (name, value) = name
            .split_once('=')
            .map_or((name, None), |(name, value)| (name, Some(value)));
        let command = command.as_deref().unwrap_or_default();
        if is_flag_of_nothing(command, name, value, words.peek().map(OsString::as_os_str)) {
            if value.is_none() {
                words.next();
            }
            continue;
        }
        let known = table(command).and_then(|table| table.iter().find(|flag| flag.name == name));
        let Some(flag) = known else {
            let more_weights =
                name == "weights" && value.is_none() && matches!(command, "train" | "val" | "detect" | "export");
            let one_size = value.is_none()
                && matches!(command, "train" | "prune" | "quantize")
                && ["img", "imgsz", "img-size"].contains(&name);
            out.push(word);
            if more_weights {
                out.extend(words.next());
                one_model(command, words.peek().map(OsString::as_os_str))?;
            }
            if one_size {
                out.extend(words.next());
                one_side(command, words.peek().map(OsString::as_os_str))?;
            }
            continue;
        };
        let is_value = |next: &OsString| !next.to_string_lossy().starts_with("--");
        match flag.takes {
            Takes::One if value.is_none() => drop(words.next()),
            Takes::Maybe if value.is_none() => drop(words.next_if(is_value)),
            Takes::Many => while words.next_if(is_value).is_some() {},
            _ => {}
        }
        match flag.answer {
            Answer::Is(words) => out.extend(words.iter().map(OsString::from)),
            Answer::Always => {}
            Answer::Note(text) => notes.push(format!("--{name}: {text}")),
            Answer::Refuse(text) => return Err(CliError::Usage(format!("--{name}: {text}"))),
        }
    }
    Ok(Translated { words: out, notes })
}

/// `--batch_size` as `--batch-size`.
fn dashed(word: OsString) -> OsString {
    let Some(text) = word.to_str().filter(|text| text.starts_with("--")) else {
        return word;
    };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    format!("{}{value}", name.replace('_', "-")).into()
}

/// `--weights ''` and the like, with which the scripts say "none".
fn is_flag_of_nothing(command: &str, name: &str, value: Option<&str>, next: Option<&OsStr>) -> bool {
    let may_be_empty = command == "train" && ["weights", "cfg", "hyp", "bucket", "entity"].contains(&name);
    may_be_empty && value.map_or_else(|| next.is_some_and(OsStr::is_empty), str::is_empty)
}

/// The scripts take several checkpoints and average them.
fn one_model(command: &str, next: Option<&OsStr>) -> CliResult {
    match next.and_then(OsStr::to_str).filter(|next| !next.starts_with('-')) {
        Some(next) => Err(CliError::Usage(format!(
            "--weights: one checkpoint at a time, and `{next}` is a second one\n  help: ensembles are not there; run `yolo {command}` once for each"
        ))),
        None => Ok(()),
    }
}

/// The scripts of v5.0 took a size for training and one for validation.
fn one_side(command: &str, next: Option<&OsStr>) -> CliResult {
    match next.and_then(OsStr::to_str).filter(|next| next.parse::<u32>().is_ok()) {
        Some(next) => Err(CliError::Usage(format!(
            "--img: `{next}` is a second number, and `yolo {command}` takes one: the longer side, for training and validation alike"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn of(line: &str) -> CliResult<Translated> {
        translate(
            line.split(' ')
                .map(|word| OsString::from(if word == "''" { "" } else { word })),
        )
    }

    fn words(line: &str) -> String {
        let words = of(line).unwrap_or_else(|error| panic!("{line}: {error}")).words;
        words.join(OsStr::new(" ")).into_string().expect("text")
    }

    #[test]
    fn spellings_of_the_scripts_become_ours() {
        assert_eq!(
            words("yolo train --batch_size 4 --conf_thres=0.1"),
            "yolo train --batch-size 4 --conf-thres=0.1"
        );
        assert_eq!(
            words("yolo train --adam --weights '' --cfg yolov5n"),
            "yolo train --optimizer adam --cfg yolov5n"
        );
        assert_eq!(
            words("yolo train --weights= --local_rank 0 --data d.yaml"),
            "yolo train --data d.yaml"
        );
        assert_eq!(
            words("yolo train --upload_dataset --data d.yaml"),
            "yolo train --data d.yaml"
        );
        assert_eq!(
            words("yolo train --upload_dataset val --data d.yaml"),
            "yolo train --data d.yaml"
        );
        assert_eq!(
            words("yolo val --set a_b=c_d -- --x_y"),
            "yolo val --set a_b=c_d -- --x_y"
        );
        assert_eq!(
            words("yolo model --adam"),
            "yolo model --adam",
            "a flag of another command is none of this one"
        );
        assert_eq!(
            words("yolo val --rect --img 640 --data d.yaml"),
            "yolo val --img 640 --data d.yaml"
        );
        assert_eq!(words("yolo train --img 640 --rect"), "yolo train --img 640 --rect");
        assert_eq!(of("yolo train --nosave").expect("a line").notes.len(), 1);
    }

    #[test]
    fn what_is_not_there_says_what_to_do() {
        for (line, text) in [
            ("yolo train --quad", "--img 1280 --batch-size 4"),
            ("yolo detect --source a.jpg --augment", "test-time augmentation"),
            ("yolo export --int8", "yolo quantize"),
            ("yolo val --weights a.pt b.pt --data d.yaml", "`b.pt` is a second one"),
            ("yolo val --classes 0 2 --data d.yaml", "a row for each class"),
            ("yolo train --img 640 480 --data d.yaml", "`480` is a second number"),
        ] {
            let error = of(line).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(text), "{line}: {error}");
        }
    }

    /// Every flag of the four scripts of v7.0, and those of v5.0 and v6.0 that went.
    #[test]
    fn every_flag_of_the_scripts_is_known() {
        let scripts = [
            (
                "train",
                "weights cfg data hyp epochs batch-size imgsz img img-size rect resume nosave noval noautoanchor noplots evolve bucket cache \
                 image-weights device multi-scale single-cls optimizer sync-bn workers project name exist-ok quad cos-lr label-smoothing \
                 patience freeze save-period seed local_rank entity upload_dataset bbox_interval artifact_alias adam linear-lr notest \
                 cache-images log-imgs log-artifacts",
            ),
            (
                "val",
                "data weights batch-size imgsz img img-size conf-thres iou-thres max-det task device workers single-cls augment verbose \
                 save-txt save-hybrid save-conf save-json project name exist-ok half dnn",
            ),
            (
                "detect",
                "weights source data imgsz img img-size conf-thres iou-thres max-det device view-img save-txt save-csv save-conf save-crop \
                 nosave classes agnostic-nms augment visualize update project name exist-ok line-thickness hide-labels hide-conf half dnn \
                 vid-stride output",
            ),
            (
                "export",
                "data weights imgsz img img-size batch-size device half inplace keras optimize int8 per-tensor dynamic simplify opset verbose \
                 workspace nms agnostic-nms topk-per-class topk-all iou-thres conf-thres include train grid",
            ),
        ];
        let cli = crate::Cli::command();
        let mut unknown = Vec::new();
        for (command, flags) in scripts {
            let subcommand = cli.find_subcommand(command).expect("a command");
            let options: Vec<String> = subcommand
                .get_arguments()
                .flat_map(|option| option.get_long_and_visible_aliases().unwrap_or_default())
                .map(str::to_owned)
                .collect();
            for flag in flags.split_whitespace().map(|flag| flag.replace('_', "-")) {
                let listed = table(command).is_some_and(|table| table.iter().any(|known| known.name == flag));
                assert!(
                    !(listed && options.contains(&flag)),
                    "{command} --{flag} is an option and in the table"
                );
                if !listed && !options.contains(&flag) {
                    unknown.push(format!("{command} --{flag}"));
                }
            }
        }
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
