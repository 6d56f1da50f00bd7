//! COCO's result format and its twelve numbers.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};
use yolo_engine::eval::{CocoMetrics, CocoTruth, Detection, coco_evaluate};
use yolo_engine::val::ImageResult;

use crate::error::CliResult;

/// COCO numbers its 80 classes up to 90 and leaves these out.
const GAPS: [u32; 10] = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83];

/// Its classes.
#[rustfmt::skip]
const CLASSES: [&str; 80] = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
    "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
    "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl",
    "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave",
    "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
];

/// Whether classes are COCO's own, in their order.
fn are_cocos(names: &[String]) -> bool {
    names.len() == CLASSES.len()
        && names
            .iter()
            .zip(CLASSES)
            .all(|(name, own)| name.trim().eq_ignore_ascii_case(own))
}

/// COCO's category of a class: its own numbers where the classes are COCO's 80, the class itself elsewhere.
fn category(class: u32, coco: bool) -> u32 {
    if !coco {
        return class;
    }
    GAPS.iter()
        .fold(class + 1, |number, gap| number + u32::from(number >= *gap))
}

/// What was found, image by image.
pub struct Predictions {
    classes: usize,
    coco: bool,
    rows: Vec<Value>,
    images: Vec<(Vec<Detection>, Vec<CocoTruth>)>,
    /// Ids that images have, and the first that two of them share.
    ids: HashSet<String>,
    shared: Option<String>,
}

impl Predictions {
    /// For a data set with these classes.
    pub fn new(names: &[String]) -> Self {
        Self {
            classes: names.len(),
            coco: are_cocos(names),
            rows: Vec::new(),
            images: Vec::new(),
            ids: HashSet::new(),
            shared: None,
        }
    }

    /// Adds an image with its labels, `[class, cx, cy, w, h]` as shares. Its id is the number that its file is named with, or the name.
    pub fn add(&mut self, result: &ImageResult<'_>, labels: &[[f32; 5]]) {
        let stem = result.origin.path.file_stem().unwrap_or_default().to_string_lossy();
        let image = stem.parse::<u64>().map_or_else(|_| json!(stem), |number| json!(number));
        if !self.ids.insert(image.to_string()) {
            self.shared.get_or_insert_with(|| image.to_string());
        }
        let round = |value: f32, digits: f64| (f64::from(value) * digits).round() / digits;
        for d in result.detections {
            let [x1, y1, x2, y2] = d.xyxy;
            let bbox = [x1, y1, x2 - x1, y2 - y1].map(|v| round(v, 1e3));
            self.rows.push(json!({
                "image_id": image,
                "category_id": category(d.class, self.coco),
                "bbox": bbox,
                "score": round(d.conf, 1e5),
            }));
        }
        // As they are written: where the network's sides are rounded, those that mAP compares with were moved by a part of a pixel.
        let [height, width] = result.origin.original.map(|side| side as f64);
        let truth = |&[class, x, y, w, h]: &[f32; 5]| {
            let [x, y, w, h] = [x, y, w, h].map(f64::from);
            let (w, h) = (w * width, h * height);
            CocoTruth {
                class: class as u32,
                xywh: [x * width - w / 2.0, y * height - h / 2.0, w, h],
                area: w * h,
                crowd: false,
            }
        };
        let truths = labels.iter().map(truth).collect();
        self.images.push((result.detections.to_vec(), truths));
    }

    /// Writes `predictions.json` and measures.
    pub fn finish(self, folder: &Path) -> CliResult<CocoMetrics> {
        if let Some(id) = &self.shared {
            crate::ui::say(format!(
                "warning: several images have the `image_id` {id} in predictions.json, as their files are named alike: no other program can \
                 tell them apart there (the numbers below do)"
            ));
        }
        if self.coco {
            crate::ui::say(
                "note: the classes are COCO's, so predictions.json has COCO's own numbers for them (1 to 90), whatever pictures these are",
            );
        }
        let text = serde_json::to_string(&self.rows)?;
        yolo_report::save_text(&folder.join("predictions.json"), &text)?;
        Ok(coco_evaluate(&self.images, self.classes))
    }
}

const NAMES: [&str; 12] = [
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
];

fn named(metrics: &CocoMetrics) -> impl Iterator<Item = (&'static str, f64)> {
    NAMES.into_iter().zip(metrics.ap.iter().chain(&metrics.ar).copied())
}

/// The numbers by name; where there is nothing to measure (no large objects), null.
pub fn as_json(metrics: &CocoMetrics) -> Value {
    let value = |v: f64| {
        if v.is_finite() && v >= 0.0 {
            json!(v)
        } else {
            Value::Null
        }
    };
    named(metrics)
        .map(|(name, v)| (name.to_owned(), value(v)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The average precisions in a line.
pub fn line(metrics: &CocoMetrics) -> String {
    let parts: Vec<String> = named(metrics)
        .take(6)
        .filter(|(_, v)| v.is_finite() && *v >= 0.0)
        .map(|(name, v)| format!("{name} {v:.3}"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eighty_classes_have_coco_s_numbers() {
        // person, stop sign (13), bench (15), backpack (27), handbag (31), toaster (80), toothbrush (90).
        for (class, number) in [(0, 1), (11, 13), (13, 15), (24, 27), (26, 31), (70, 80), (79, 90)] {
            assert_eq!(category(class, true), number, "class {class}");
        }
        assert_eq!(category(79, false), 79);
        let mut names: Vec<String> = CLASSES.iter().map(|name| (*name).to_owned()).collect();
        assert!(are_cocos(&names));
        // 80 classes of somebody else.
        names.swap(3, 4);
        assert!(!are_cocos(&names));
        assert!(!are_cocos(&names[..79]));
    }
}
