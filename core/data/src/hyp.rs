//! Hyper-parameters with Ultralytics' names, so that their hyp files can be used as they are.

use serde::{Deserialize, Serialize};

/// Defaults are those of YOLOv5 v6's `hyp.scratch-low`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hyp {
    /// Initial learning rate (SGD 1e-2, Adam 1e-3).
    pub lr0: f64,
    /// Final learning rate as a share of `lr0`.
    pub lrf: f64,
    /// SGD momentum, Adam beta1.
    pub momentum: f64,
    /// Weight decay at the nominal batch of 64.
    pub weight_decay: f64,
    /// Epochs of warm-up (fractions are fine).
    pub warmup_epochs: f64,
    /// Momentum at the start of the warm-up.
    pub warmup_momentum: f64,
    /// Learning rate of biases at the start of the warm-up.
    pub warmup_bias_lr: f64,
    /// Gain of the box loss.
    #[serde(rename = "box")]
    pub box_gain: f64,
    /// Gain of the class loss.
    pub cls: f64,
    /// Weight of positives in the class loss.
    pub cls_pw: f64,
    /// Gain of the objectness loss.
    pub obj: f64,
    /// Weight of positives in the objectness loss.
    pub obj_pw: f64,
    /// IoU threshold of training (kept for compatibility; the v6 loss does not use it).
    pub iou_t: f64,
    /// Largest ratio between the sides of an object and of its anchor.
    pub anchor_t: f64,
    /// Anchors per level for autoanchor (0: keep the model's).
    pub anchors: f64,
    /// Gamma of the focal loss (0: none).
    pub fl_gamma: f64,
    /// Hue jitter, as a share.
    pub hsv_h: f64,
    /// Saturation jitter, as a share.
    pub hsv_s: f64,
    /// Value jitter, as a share.
    pub hsv_v: f64,
    /// Rotation in degrees, +-.
    pub degrees: f64,
    /// Translation as a share of the image, +-.
    pub translate: f64,
    /// Scale gain, +-.
    pub scale: f64,
    /// Shear in degrees, +-.
    pub shear: f64,
    /// Perspective, 0 to 0.001.
    pub perspective: f64,
    /// Probability of a vertical flip.
    pub flipud: f64,
    /// Probability of a horizontal flip.
    pub fliplr: f64,
    /// Probability of a mosaic.
    pub mosaic: f64,
    /// Probability of mixing two mosaics.
    pub mixup: f64,
    /// Probability of copy-paste (needs segments; kept for compatibility).
    pub copy_paste: f64,
    /// Label smoothing epsilon.
    pub label_smoothing: f64,
}

impl Default for Hyp {
    fn default() -> Self {
        Self {
            lr0: 0.01,
            lrf: 0.01,
            momentum: 0.937,
            weight_decay: 0.0005,
            warmup_epochs: 3.0,
            warmup_momentum: 0.8,
            warmup_bias_lr: 0.1,
            box_gain: 0.05,
            cls: 0.5,
            cls_pw: 1.0,
            obj: 1.0,
            obj_pw: 1.0,
            iou_t: 0.2,
            anchor_t: 4.0,
            anchors: 0.0,
            fl_gamma: 0.0,
            hsv_h: 0.015,
            hsv_s: 0.7,
            hsv_v: 0.4,
            degrees: 0.0,
            translate: 0.1,
            scale: 0.5,
            shear: 0.0,
            perspective: 0.0,
            flipud: 0.0,
            fliplr: 0.5,
            mosaic: 1.0,
            mixup: 0.0,
            copy_paste: 0.0,
            label_smoothing: 0.0,
        }
    }
}
