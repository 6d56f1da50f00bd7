//! Keys of a data set's YAML file that mean something to other tools. What would make other labels or another model of it is refused
//! with the way out, what changes nothing here is a note: never passed over.

use serde_json::Value;
use yolo_core::config::{ConfigError, Located};

use crate::labels::Problem;

/// Keys that are read.
const READ: [&str; 8] = ["path", "train", "val", "test", "nc", "names", "download", "kpt_shape"];
/// Keys that are understood, as far as to say what they mean here.
const UNDERSTOOD: [&str; 9] = [
    "channels",
    "task",
    "obb",
    "flip_idx",
    "kpt_names",
    "keypoint_names",
    "skeleton",
    "num_classes",
    "minival",
];
/// Keys that say nothing about images or labels.
const TALK: [&str; 14] = [
    "roboflow",
    "author",
    "description",
    "date",
    "version",
    "license",
    "licence",
    "links",
    "url",
    "docs",
    "stride",
    "is_coco",
    "anno_path",
    "contributor",
];

/// Looks at all keys; gives notes.
pub(super) fn look(config: &Located) -> Result<Vec<Problem>, ConfigError> {
    let Value::Object(map) = &config.value else {
        let darknet = config
            .value
            .as_str()
            .is_some_and(|text| text.contains('=') && text.contains("names"));
        let help = darknet.then_some(
            "this is a darknet file (`KEY = VALUE`); write a YAML beside it: `train:` and `val:` with the lists of images that it names, \
             and `names:` with the lines of its file of names, as `[a, b]`",
        );
        return Err(config.error("", "a data set file has keys `train`, `val`, `names`", help));
    };
    let known = || READ.into_iter().chain(UNDERSTOOD);
    let mut unread = Vec::new();
    for key in map.keys().filter(|key| !known().any(|name| name == key.as_str())) {
        // Ultralytics files carry keys of other tools; only look-alikes are mistakes.
        if let Some(hint) = yolo_core::suggest::did_you_mean(key, known()) {
            return Err(config.error(key, &format!("there is no key `{key}`"), Some(&hint)));
        }
        if !TALK.contains(&key.as_str()) {
            unread.push(key.as_str());
        }
    }
    channels(config)?;
    class_count(config)?;
    let key_points = config.get("kpt_shape").is_some_and(|shape| !shape.is_null());
    let of_key_points = ["flip_idx", "kpt_names", "keypoint_names", "skeleton"];
    let given = |key: &&&str| config.get(key).is_some_and(|value| !value.is_null());
    if let Some(key) = of_key_points.iter().find(given).filter(|_| !key_points) {
        return Err(config.error(
            key,
            &format!("`{key}` speaks of key points, but there is no `kpt_shape`: their rows would be read as polygons"),
            Some(KPT_SHAPE),
        ));
    }
    let mut notes = Vec::new();
    let mut note = |key: &str, message: String| {
        let line = config.place(key).map_or(0, |place| place.line as usize);
        notes.push(Problem::note(config.file.clone(), line, "key-unused", message));
    };
    if let Some((key, message)) = task(config, key_points)? {
        note(key, message);
    }
    if let Some(first) = unread.first() {
        let all = unread.join("`, `");
        note(first, format!("`{all}` of this file is used for nothing here"));
    }
    Ok(notes)
}

const KPT_SHAPE: &str =
    "add the number of key points and of their numbers, for example `kpt_shape: [17, 3]`, or leave this key out";

/// Pictures are three channels here.
fn channels(config: &Located) -> Result<(), ConfigError> {
    let Some(value) = config.get("channels").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let help = match value.as_f64() {
        Some(3.0) => return Ok(()),
        Some(1.0) => "leave it out: gray pictures are read as RGB, for a network of three channels",
        Some(4.0..) => "write three channels of each picture to a file of its own, and leave `channels` out",
        _ => "it is the number of channels, a whole number; leave it out",
    };
    let written = config
        .written("channels")
        .map_or_else(|| value.to_string(), str::to_owned);
    Err(config.value_error(
        "channels",
        &format!("`channels` is {written}, but pictures are read as RGB, which is 3"),
        Some(help),
    ))
}

/// `num_classes` says what `nc` says.
fn class_count(config: &Located) -> Result<(), ConfigError> {
    let names = match config.get("names") {
        Some(Value::Array(names)) => names.len(),
        Some(Value::Object(names)) => names.len(),
        _ => return Ok(()),
    };
    match config.get("num_classes").filter(|value| !value.is_null()) {
        Some(value) if value.as_f64() != Some(names as f64) => Err(config.value_error(
            "num_classes",
            &format!("`num_classes` is {value}, but there are {names} names"),
            Some("make them agree, or leave `num_classes` out"),
        )),
        _ => Ok(()),
    }
}

/// What other tools call the job that the labels are for.
fn task(config: &Located, key_points: bool) -> Result<Option<(&'static str, String)>, ConfigError> {
    let upright = "the upright boxes around them are used";
    if config.get("obb") == Some(&Value::Bool(true)) {
        return Ok(Some(("obb", format!("objects are turned boxes: {upright}"))));
    }
    let Some(value) = config.get("task").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let name = value.as_str().unwrap_or_default().to_ascii_lowercase();
    match name.as_str() {
        "detect" | "detection" | "object-detection" => Ok(None),
        "pose" | "keypoints" | "keypoint" if key_points => Ok(None),
        "pose" | "keypoints" | "keypoint" => Err(config.value_error(
            "task",
            "these are labels with key points, but there is no `kpt_shape`: their rows would be read as polygons",
            Some(KPT_SHAPE),
        )),
        "classify" | "classification" => Err(config.value_error(
            "task",
            "a data set of whole pictures by class has no boxes to learn",
            Some("give one with labels of boxes, or leave `task` out"),
        )),
        "obb" => Ok(Some(("task", format!("objects are turned boxes: {upright}")))),
        "segment" | "segmentation" | "instance-segmentation" => Ok(Some((
            "task",
            "objects are polygons: the boxes around them are used".to_owned(),
        ))),
        _ => Ok(Some((
            "task",
            "`task` is used for nothing here: boxes are learned".to_owned(),
        ))),
    }
}
