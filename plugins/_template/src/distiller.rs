//! Template title: the mean squared distance of the feature maps that the heads read.

use yolo_sdk::prelude::distil::{DistilBatch, DistilNeeds, Layout, align_specs};
use yolo_sdk::prelude::*;
use yolo_sdk::tch::{Kind, Tensor};

/// Options of the distiller.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(crate = "yolo_sdk::serde", default, deny_unknown_fields)]
#[schemars(crate = "yolo_sdk::schemars")]
pub struct TemplateName {
    /// Weight of the loss.
    pub weight: f64,
}

impl Default for TemplateName {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

#[typetag::serde(name = "template-name")]
impl Distiller for TemplateName {
    /// Which maps `loss` gets.
    fn needs(&self) -> DistilNeeds {
        DistilNeeds { raw: false, neck: true, head: false }
    }

    /// Names of what `loss` returns: columns of the log.
    fn parts(&self) -> Vec<String> {
        vec!["features".to_owned()]
    }

    /// Tensors that are trained besides the student: where widths differ, a convolution to the teacher's.
    fn adapters(&self, student: &Layout, teacher: &Layout) -> Result<Vec<ParamSpec>> {
        Ok(align_specs(student, teacher))
    }

    /// One number per part, each a mean over the images. The `f_` functions return errors; the others panic.
    fn loss(&self, batch: &DistilBatch<'_>) -> Result<Vec<Tensor>> {
        let mut losses = Vec::new();
        for (level, teacher) in batch.teacher.neck.iter().enumerate() {
            let apart = batch.aligned(level)?.f_sub(teacher)?.f_square()?;
            losses.push(apart.f_mean(None::<Kind>)?.f_mul_scalar(self.weight)?);
        }
        Ok(vec![Tensor::f_stack(&losses, 0)?.f_sum(None::<Kind>)?])
    }
}

yolo_sdk::plugin! {
    distiller TemplateName = "template-name" {
        summary: "Mean squared distance of feature maps",
    }
}
