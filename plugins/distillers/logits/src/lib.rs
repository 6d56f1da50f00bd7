//! Objectness-scaled distillation of the raw predictions: squared distances of box, objectness and class logits, each weighted by the
//! objectness that the teacher sees there, so that background does not drown what it knows (Object Detection at 200 Frames Per Second,
//! arXiv 1805.06361, section 4; squared distances of logits instead of the paper's mixture).

use yolo_sdk::prelude::distil::{DistilBatch, DistilNeeds, Layout, above_zero};
use yolo_sdk::prelude::*;
use yolo_sdk::tch::{Kind, Tensor};

/// Options of objectness-scaled distillation of predictions.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Logits {
    /// Weight of the whole.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
    /// Weight of the boxes.
    #[serde(rename = "box")]
    pub box_gain: f64,
    /// Weight of the objectness.
    pub obj: f64,
    /// Weight of the classes.
    pub cls: f64,
}

impl Default for Logits {
    fn default() -> Self {
        Self {
            weight: 1.0,
            box_gain: 0.05,
            obj: 1.0,
            cls: 0.5,
        }
    }
}

#[typetag::serde(name = "logits")]
impl Distiller for Logits {
    fn needs(&self) -> DistilNeeds {
        DistilNeeds {
            raw: true,
            ..DistilNeeds::default()
        }
    }

    fn parts(&self) -> Vec<String> {
        ["box", "objectness", "class"].map(str::to_owned).to_vec()
    }

    fn adapters(&self, _student: &Layout, _teacher: &Layout) -> Result<Vec<ParamSpec>> {
        above_zero("logits", "weight", self.weight)?;
        for (option, gain) in [("box", self.box_gain), ("obj", self.obj), ("cls", self.cls)] {
            if !(gain >= 0.0 && gain.is_finite()) {
                return Err(Error::Config(format!("logits: `{option}: {gain}` must be 0 or more")));
            }
        }
        Ok(Vec::new())
    }

    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let classes = batch.student_layout.classes;
        let gains = [self.box_gain, self.obj, self.cls];
        let mut sums: [Option<Tensor>; 3] = [None, None, None];
        for (level, (student, teacher)) in batch.student.raw.iter().zip(&batch.teacher.raw).enumerate() {
            let student = batch.student_layout.predictions(level, student)?;
            let teacher = batch.teacher_layout.predictions(level, teacher)?;
            let scaled = student
                .f_sub(&teacher)?
                .f_square()?
                .f_mul(&teacher.f_narrow(4, 4, 1)?.f_sigmoid()?)?;
            for (sum, (start, length)) in sums.iter_mut().zip([(0, 4), (4, 1), (5, classes)]) {
                let mean = scaled.f_narrow(4, start, length)?.f_mean(None::<Kind>)?;
                *sum = Some(match sum.take() {
                    Some(sum) => sum.f_add(&mean)?,
                    None => mean,
                });
            }
        }
        sums.into_iter()
            .flatten()
            .zip(gains)
            .enumerate()
            .map(|(part, (sum, gain))| {
                // A single class is no question.
                let asked = part < 2 || classes > 1;
                Ok(sum.f_mul_scalar(if asked { self.weight * gain } else { 0.0 })?)
            })
            .collect()
    }
}

yolo_sdk::plugin! {
    distiller Logits = "logits" {
        summary: "Predictions, weighted by the teacher's objectness",
        paper: ("Object detection at 200 Frames Per Second", "https://arxiv.org/abs/1805.06361", 2018, "Objectness scaling (2018)"),
        example: { "type": "logits", "weight": 1.0 },
    }
}
