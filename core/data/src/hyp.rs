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
    /// Share of the objects of a picture that are copied, mirrored, to where they cover no other.
    pub copy_paste: f64,
    /// Label smoothing epsilon.
    pub label_smoothing: f64,
}

impl Hyp {
    /// The first value outside of what makes sense: its key, and what it must be.
    pub fn misfit(&self) -> Option<(&'static str, String)> {
        let (zero, any) = (0.0, f64::INFINITY);
        let ranges = [
            ("lr0", self.lr0, f64::MIN_POSITIVE, 10.0),
            ("lrf", self.lrf, zero, 10.0),
            ("momentum", self.momentum, zero, 1.0 - f64::EPSILON),
            ("weight_decay", self.weight_decay, zero, 1.0),
            ("warmup_epochs", self.warmup_epochs, zero, 1e6),
            ("warmup_momentum", self.warmup_momentum, zero, 1.0 - f64::EPSILON),
            ("warmup_bias_lr", self.warmup_bias_lr, zero, 10.0),
            ("box", self.box_gain, zero, any),
            ("cls", self.cls, zero, any),
            ("cls_pw", self.cls_pw, f64::MIN_POSITIVE, any),
            ("obj", self.obj, zero, any),
            ("obj_pw", self.obj_pw, f64::MIN_POSITIVE, any),
            ("iou_t", self.iou_t, zero, 1.0),
            ("anchor_t", self.anchor_t, 1.0 + f64::EPSILON, any),
            ("anchors", self.anchors, zero, 100.0),
            ("fl_gamma", self.fl_gamma, zero, any),
            ("hsv_h", self.hsv_h, zero, 1.0),
            ("hsv_s", self.hsv_s, zero, 1.0),
            ("hsv_v", self.hsv_v, zero, 1.0),
            ("degrees", self.degrees, zero, 360.0),
            ("translate", self.translate, zero, 1.0),
            ("scale", self.scale, zero, 1.0),
            ("shear", self.shear, zero, 89.0),
            ("perspective", self.perspective, zero, 0.1),
            ("flipud", self.flipud, zero, 1.0),
            ("fliplr", self.fliplr, zero, 1.0),
            ("mosaic", self.mosaic, zero, 1.0),
            ("mixup", self.mixup, zero, 1.0),
            ("copy_paste", self.copy_paste, zero, 1.0),
            ("label_smoothing", self.label_smoothing, zero, 1.0 - f64::EPSILON),
        ];
        let outside = ranges
            .into_iter()
            .find(|(_, value, least, most)| !(value.is_finite() && least <= value && value <= most));
        let Some((key, value, least, most)) = outside else {
            let nothing = self.box_gain == 0.0 && self.obj == 0.0 && self.cls == 0.0;
            return nothing.then(|| {
                let text = "0 makes no sense where `obj` and `cls` are 0, too: nothing would be learned";
                ("box", text.to_owned())
            });
        };
        let tiny = |bound: f64| (bound - bound.round()).abs() < 1e-9;
        let least = if tiny(least) && least != least.round() {
            format!("above {}", least.round())
        } else {
            format!("at least {least}")
        };
        let most = match most {
            most if most == any => String::new(),
            most if tiny(most) && most != most.round() => format!(" and below {}", most.round()),
            most => format!(" and at most {most}"),
        };
        Some((key, format!("{value} makes no sense: it must be {least}{most}")))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_named_with_their_range() {
        assert_eq!(Hyp::default().misfit(), None);
        let of = |change: fn(&mut Hyp)| {
            let mut hyp = Hyp::default();
            change(&mut hyp);
            let (key, text) = hyp.misfit().expect("a misfit");
            format!("{key}: {text}")
        };
        assert_eq!(
            of(|h| h.lr0 = 0.0),
            "lr0: 0 makes no sense: it must be above 0 and at most 10"
        );
        assert_eq!(
            of(|h| h.momentum = 1.0),
            "momentum: 1 makes no sense: it must be at least 0 and below 1"
        );
        assert_eq!(
            of(|h| h.anchor_t = 1.0),
            "anchor_t: 1 makes no sense: it must be above 1"
        );
        assert_eq!(
            of(|h| h.fliplr = 5.0),
            "fliplr: 5 makes no sense: it must be at least 0 and at most 1"
        );
        let silent = |h: &mut Hyp| (h.box_gain, h.obj, h.cls) = (0.0, 0.0, 0.0);
        assert!(of(silent).contains("nothing would be learned"), "{}", of(silent));
        assert_eq!(
            of(|h| h.box_gain = -1.0),
            "box: -1 makes no sense: it must be at least 0"
        );
        assert_eq!(
            of(|h| h.cls = f64::NAN),
            "cls: NaN makes no sense: it must be at least 0"
        );
        assert_eq!(of(|h| h.obj_pw = -0.0), "obj_pw: -0 makes no sense: it must be above 0");
    }
}
