//! Cross-head distillation (CrossKD, arXiv 2306.11369): the student's feature maps go through the teacher's frozen head, and what comes
//! out is brought to the teacher's own predictions. The student's head so keeps to the labels alone, and its features learn to be read by
//! the teacher. YOLOv5's head is one convolution, so all of it is the teacher's; where widths differ, a trained convolution of one cell
//! brings the student's map to the teacher's width.

use yolo_sdk::prelude::distil::{DistilBatch, DistilNeeds, Layout, above_zero, align_specs};
use yolo_sdk::prelude::*;
use yolo_sdk::tch::{Kind, Reduction, Tensor};

const EPS: f64 = 1e-7;

/// Options of cross-head distillation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct CrossKd {
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
    /// Exponent of the distance of probabilities that scales their cross-entropy.
    #[schemars(extend("minimum" = 1.0))]
    pub beta: f64,
}

impl Default for CrossKd {
    fn default() -> Self {
        Self {
            weight: 1.0,
            box_gain: 0.05,
            obj: 1.0,
            cls: 0.5,
            beta: 1.0,
        }
    }
}

#[typetag::serde(name = "crosskd")]
impl Distiller for CrossKd {
    fn needs(&self) -> DistilNeeds {
        DistilNeeds {
            raw: false,
            neck: true,
            head: true,
        }
    }

    fn parts(&self) -> Vec<String> {
        ["box", "objectness", "class"].map(str::to_owned).to_vec()
    }

    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        above_zero("crosskd", "weight", self.weight)?;
        if !(self.beta >= 1.0 && self.beta.is_finite()) {
            return Err(Error::Config(format!(
                "crosskd: `beta: {}` must be 1 or more",
                self.beta
            )));
        }
        Ok(align_specs(student, teacher))
    }

    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let layout = batch.teacher_layout;
        let gains = [self.box_gain, self.obj, self.cls];
        let mut sums: [Option<Tensor>; 3] = [None, None, None];
        for (level, (head, teacher)) in batch.teacher_head.iter().zip(&batch.teacher.raw).enumerate() {
            let crossed = batch
                .aligned(level)?
                .f_conv2d(&head.weight, Some(&head.bias), [1, 1], [0, 0], [1, 1], 1)?;
            let (crossed, teacher) = (
                layout.predictions(level, &crossed)?,
                layout.predictions(level, teacher)?,
            );
            let losses = self.level(layout, level, &crossed, &teacher)?;
            for (sum, loss) in sums.iter_mut().zip(losses) {
                *sum = Some(match sum.take() {
                    Some(sum) => sum.f_add(&loss)?,
                    None => loss,
                });
            }
        }
        let sums = sums.into_iter().flatten().zip(gains);
        sums.map(|(sum, gain)| Ok(sum.f_mul_scalar(self.weight * gain)?))
            .collect()
    }
}

impl CrossKd {
    /// Box, objectness and class loss of a level. Boxes and classes are means weighted by the teacher's objectness, objectness is a mean
    /// over all anchors.
    fn level(&self, layout: &Layout, level: usize, crossed: &Tensor, teacher: &Tensor) -> Result<[Tensor; 3]> {
        let part = |x: &Tensor, start: i64, length: i64| x.f_narrow(4, start, length);
        let objectness = self.entropy(&part(crossed, 4, 1)?, &part(teacher, 4, 1)?)?;
        let weight = part(teacher, 4, 1)?.f_sigmoid()?.f_squeeze_dim(4)?;
        let total = weight.f_sum(None::<Kind>)?.f_add_scalar(EPS)?;
        let weighted = |x: &Tensor| -> Result<Tensor> { Ok(x.f_mul(&weight)?.f_sum(None::<Kind>)?.f_div(&total)?) };
        let (own, wanted) = (boxes(layout, level, crossed)?, boxes(layout, level, teacher)?);
        let classes = self.entropy(&part(crossed, 5, layout.classes)?, &part(teacher, 5, layout.classes)?)?;
        Ok([
            weighted(&giou(&own, &wanted)?.f_neg()?.f_add_scalar(1.0)?)?,
            objectness.f_mean(None::<Kind>)?,
            weighted(&classes.f_mean_dim(4, false, None::<Kind>)?)?,
        ])
    }

    /// Quality focal loss (arXiv 2006.04388, equation 5): cross-entropy times the distance of the probabilities to the power of beta.
    fn entropy(&self, logits: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let wanted = teacher.f_sigmoid()?;
        let entropy =
            logits.f_binary_cross_entropy_with_logits(&wanted, None::<&Tensor>, None::<&Tensor>, Reduction::None)?;
        let apart = logits.f_sigmoid()?.f_sub(&wanted)?.f_abs()?;
        let apart = if self.beta == 1.0 {
            apart
        } else {
            apart.f_pow_tensor_scalar(self.beta)?
        };
        Ok(entropy.f_mul(&apart)?)
    }
}

/// Left, top, right, bottom `[4, N, A, h, w]` in cells around the own cell (YOLOv5 v6: xy = 2 sigma - 0.5, wh = (2 sigma)^2 * anchor).
fn boxes(layout: &Layout, level: usize, predictions: &Tensor) -> Result<[Tensor; 4]> {
    let about = &layout.levels[level];
    let anchors: Vec<f64> = about
        .anchors
        .iter()
        .flatten()
        .map(|side| side / about.stride as f64)
        .collect();
    let anchors = Tensor::f_from_slice(&anchors)?
        .f_to_kind(predictions.kind())?
        .f_to_device(predictions.device())?
        .f_reshape([1, about.anchors.len() as i64, 1, 1, 2])?;
    let double = predictions.f_narrow(4, 0, 4)?.f_sigmoid()?.f_mul_scalar(2.0)?;
    let centre = double.f_narrow(4, 0, 2)?;
    let half = double
        .f_narrow(4, 2, 2)?
        .f_square()?
        .f_mul(&anchors)?
        .f_mul_scalar(0.5)?;
    let (low, high) = (centre.f_sub(&half)?, centre.f_add(&half)?);
    Ok([
        low.f_select(4, 0)?,
        low.f_select(4, 1)?,
        high.f_select(4, 0)?,
        high.f_select(4, 1)?,
    ])
}

/// Generalised intersection over union (arXiv 1902.09630) of boxes one by one.
fn giou(a: &[Tensor; 4], b: &[Tensor; 4]) -> Result<Tensor> {
    let side = |low: &Tensor, high: &Tensor| -> Result<Tensor> { Ok(high.f_sub(low)?.f_clamp_min(0.0)?) };
    let area = |x: &[Tensor; 4]| -> Result<Tensor> { Ok(side(&x[0], &x[2])?.f_mul(&side(&x[1], &x[3])?)?) };
    let inner = side(&a[0].f_maximum(&b[0])?, &a[2].f_minimum(&b[2])?)?
        .f_mul(&side(&a[1].f_maximum(&b[1])?, &a[3].f_minimum(&b[3])?)?)?;
    let outer = side(&a[0].f_minimum(&b[0])?, &a[2].f_maximum(&b[2])?)?
        .f_mul(&side(&a[1].f_minimum(&b[1])?, &a[3].f_maximum(&b[3])?)?)?
        .f_add_scalar(EPS)?;
    let union = area(a)?.f_add(&area(b)?)?.f_sub(&inner)?.f_add_scalar(EPS)?;
    Ok(inner.f_div(&union)?.f_sub(&outer.f_sub(&union)?.f_div(&outer)?)?)
}

yolo_sdk::plugin! {
    distiller CrossKd = "crosskd" {
        summary: "Feature maps as the teacher's own head reads them",
        paper: ("CrossKD: Cross-Head Knowledge Distillation for Object Detection", "https://arxiv.org/abs/2306.11369", 2024, "CrossKD (CVPR 2024)"),
        example: { "type": "crosskd", "weight": 1.0 },
    }
}
