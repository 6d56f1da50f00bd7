//! Distillation by the Pearson correlation of feature maps (PKD, arXiv 2207.02039, section 3.2): each channel is brought to mean 0 and
//! variance 1 over images and cells, so that only patterns are compared, not magnitudes; half the mean squared distance is 1 - r. Where
//! widths differ, a trained convolution of one cell brings the student's map to the teacher's width.

use yolo_sdk::prelude::distil::{DistilBatch, DistilNeeds, Layout, above_zero, align_specs};
use yolo_sdk::prelude::*;
use yolo_sdk::tch::{Kind, Tensor};

/// Added to variances: a channel that is the same everywhere says nothing.
const EPS: f64 = 1e-6;

/// Options of distillation by correlation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Pkd {
    /// Weight of the loss.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
}

impl Default for Pkd {
    fn default() -> Self {
        Self { weight: 0.2 }
    }
}

#[typetag::serde(name = "pkd")]
impl Distiller for Pkd {
    fn needs(&self) -> DistilNeeds {
        DistilNeeds {
            neck: true,
            ..DistilNeeds::default()
        }
    }

    fn parts(&self) -> Vec<String> {
        vec!["correlation".to_owned()]
    }

    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        above_zero("pkd", "weight", self.weight)?;
        Ok(align_specs(student, teacher))
    }

    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let mut sum: Option<Tensor> = None;
        for (level, teacher) in batch.teacher.neck.iter().enumerate() {
            let apart = standard(&batch.aligned(level)?)?.f_sub(&standard(teacher)?)?;
            let loss = apart.f_square()?.f_mean(None::<Kind>)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
        }
        let sum = sum.ok_or_else(|| Error::Config("pkd: there are no feature maps to compare".into()))?;
        Ok(vec![sum.f_mul_scalar(0.5 * self.weight)?])
    }
}

/// Each channel with mean 0 and variance 1 over images and cells.
fn standard(map: &Tensor) -> Result<Tensor> {
    const AXES: [i64; 3] = [0, 2, 3];
    let centred = map.f_sub(&map.f_mean_dim(AXES.as_slice(), true, None::<Kind>)?)?;
    let variance = centred.f_square()?.f_mean_dim(AXES.as_slice(), true, None::<Kind>)?;
    Ok(centred.f_mul(&variance.f_add_scalar(EPS)?.f_rsqrt()?)?)
}

yolo_sdk::plugin! {
    distiller Pkd = "pkd" {
        summary: "Feature maps by their correlation, whatever their scale",
        paper: ("PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient", "https://arxiv.org/abs/2207.02039", 2022, "PKD (NeurIPS 2022)"),
        example: { "type": "pkd", "weight": 0.2 },
    }
}
