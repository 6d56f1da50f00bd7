//! Channel-wise distillation (arXiv 2011.13256, equations 2 to 4) of the feature maps that the head reads: each channel as a distribution
//! over the cells, compared by the Kullback-Leibler divergence. Where widths differ, a trained convolution of one cell brings the student's
//! map to the teacher's width.

use yolo_sdk::prelude::distil::{DistilBatch, DistilNeeds, Layout, above_zero, align_specs};
use yolo_sdk::prelude::*;
use yolo_sdk::tch::{Kind, Tensor};

/// Options of channel-wise distillation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct Cwd {
    /// Temperature: the higher, the more cells of a channel count.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub tau: f64,
    /// Weight of the loss.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
}

impl Default for Cwd {
    fn default() -> Self {
        Self { tau: 1.0, weight: 0.1 }
    }
}

#[typetag::serde(name = "cwd")]
impl Distiller for Cwd {
    fn needs(&self) -> DistilNeeds {
        DistilNeeds {
            neck: true,
            ..DistilNeeds::default()
        }
    }

    fn parts(&self) -> Vec<String> {
        vec!["channels".to_owned()]
    }

    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        above_zero("cwd", "weight", self.weight)?;
        above_zero("cwd", "tau", self.tau)?;
        Ok(align_specs(student, teacher))
    }

    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let mut sum: Option<Tensor> = None;
        for (level, teacher) in batch.teacher.neck.iter().enumerate() {
            let loss = self.divergence(&batch.aligned(level)?, teacher)?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
        }
        let sum = sum.ok_or_else(|| Error::Config("cwd: there are no feature maps to compare".into()))?;
        Ok(vec![sum.f_mul_scalar(self.weight)?])
    }
}

impl Cwd {
    /// tau^2 / (N C) * sum over images and channels of KL(teacher, student).
    fn divergence(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let (n, channels, _, _) = teacher.size4()?;
        let spread = |map: &Tensor| -> Result<Tensor> {
            let cells = map.f_flatten(2, 3)?.f_div_scalar(self.tau)?;
            Ok(cells.f_log_softmax(2, None::<Kind>)?)
        };
        let (student, teacher) = (spread(student)?, spread(teacher)?);
        let terms = teacher.f_exp()?.f_mul(&teacher.f_sub(&student)?)?;
        let scale = self.tau * self.tau / (n * channels) as f64;
        Ok(terms.f_sum(None::<Kind>)?.f_mul_scalar(scale)?)
    }
}

yolo_sdk::plugin! {
    distiller Cwd = "cwd" {
        summary: "Feature maps, each channel as a distribution over cells",
        paper: ("Channel-wise Knowledge Distillation for Dense Prediction", "https://arxiv.org/abs/2011.13256", 2021, "CWD (ICCV 2021)"),
        example: { "type": "cwd", "tau": 1.0 },
    }
}
