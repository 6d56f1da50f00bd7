//! From predictions to numbers: boxes, non-maximum suppression, matching, precision and recall, mAP.
//!
//! What lives here: arithmetic on plain slices. What must not: tensors, models, files.

mod ap;
pub mod bootstrap;
mod boxes;
mod coco;
mod confusion;
mod matching;
mod nms;

pub use ap::{ClassCurves, ClassMetrics, Metrics, average_precision, evaluate};
pub use boxes::{IouKind, box_iou, iou, scale_boxes, xywh_to_xyxy};
pub use coco::{CocoMetrics, CocoTruth, coco_evaluate};
pub use confusion::ConfusionMatrix;
pub use matching::{IOU_THRESHOLDS, MatchRule, Matches, Truth, match_image};
pub use nms::{Nms, NmsOptions};

/// A detected object.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Detection {
    /// Left, top, right, bottom in pixels.
    pub xyxy: [f32; 4],
    /// Confidence: objectness times class probability.
    pub conf: f32,
    /// Class.
    pub class: u32,
}
