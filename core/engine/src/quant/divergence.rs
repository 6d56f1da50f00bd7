//! How far the predictions of two networks of one head diverge: what counts when a network is quantized.
//!
//! The raw maps are nearly all background, so the size of an error says little of what it does to boxes. The divergence of what both networks
//! say does: of objectness (Kullback and Leibler's, in nats), and, as far as the first one sees an object there, of classes and of the box.
//!
//! What must not be here: who is compared, and what is made of it.

use tch::{Kind, Reduction, Tensor};
use yolo_core::Graph;
use yolo_core::distil::{HeadMaps, Layout};

use crate::Result;

/// Weight of the squared relative errors of a box beside the divergences: a tenth in each of its four numbers weighs 0.08.
const BOX: f64 = 2.0;

/// The measure for the head of a network.
#[derive(Debug)]
pub(super) struct Divergence {
    layout: Layout,
}

impl Divergence {
    /// That of a graph with a detection head.
    ///
    /// # Errors
    /// Where it has none.
    pub fn of(graph: &Graph) -> Result<Self> {
        let layout = HeadMaps::of(graph)?.layout;
        Ok(Self { layout })
    }

    /// How far raw maps `found` are from `wanted`, both `[N, A * (5 + classes), h, w]` a level, summed over images: a number with a gradient by
    /// `found`.
    ///
    /// # Errors
    /// Where a map has other channels than the head.
    pub fn sum(&self, wanted: &[Tensor], found: &[Tensor]) -> Result<Tensor> {
        let levels = wanted.iter().zip(found).enumerate();
        let each = levels.map(|(level, (wanted, found))| {
            let wanted = self.layout.predictions(level, wanted)?;
            let found = self.layout.predictions(level, found)?;
            self.of_level(level, &wanted, &found)
        });
        Ok(Tensor::f_stack(&each.collect::<Result<Vec<_>>>()?, 0)?.f_sum(Kind::Float)?)
    }

    /// Of predictions `[N, A, h, w, 5 + classes]` of a level.
    fn of_level(&self, level: usize, wanted: &Tensor, found: &Tensor) -> Result<Tensor> {
        let object = wanted.f_narrow(4, 4, 1)?.f_sigmoid()?;
        let objectness = logits_apart(wanted, found, 4, 1)?;
        let classes = logits_apart(wanted, found, 5, self.layout.classes)?.f_mul(&object)?;
        let boxes = self.boxes_apart(level, wanted, found)?.f_mul(&object)?;
        let sum = |x: &Tensor| x.f_sum(Kind::Float);
        Ok(sum(&objectness)?
            .f_add(&sum(&classes)?)?
            .f_add(&sum(&boxes)?.f_mul_scalar(BOX)?)?)
    }

    /// Squared errors of boxes in shares of the wanted one, `[N, A, h, w, 2]`: of the centre, which lies `2 sigmoid - 0.5` cells away, and of the
    /// logarithm of the sides, which are `(2 sigmoid)^2` anchors long.
    fn boxes_apart(&self, level: usize, wanted: &Tensor, found: &Tensor) -> Result<Tensor> {
        let own = &self.layout.levels[level];
        let anchors: Vec<f32> = own.anchors.iter().flatten().map(|side| *side as f32).collect();
        let anchors = Tensor::f_from_slice(&anchors)?
            .f_reshape([1, own.anchors.len() as i64, 1, 1, 2])?
            .f_to_device(wanted.device())?;
        let part = |x: &Tensor, start| x.f_narrow(4, start, 2)?.f_sigmoid();
        let sides = part(wanted, 2)?.f_mul_scalar(2.0)?.f_square()?.f_mul(&anchors)?;
        let cells = part(found, 0)?
            .f_sub(&part(wanted, 0)?)?
            .f_mul_scalar(2.0 * own.stride as f64)?;
        let centre = cells.f_div(&sides.f_clamp_min(1e-3)?)?;
        let logarithm = |x: &Tensor| -> Result<Tensor> { Ok(x.f_narrow(4, 2, 2)?.f_log_sigmoid()?) };
        let longer = logarithm(found)?.f_sub(&logarithm(wanted)?)?.f_mul_scalar(2.0)?;
        Ok(centre.f_square()?.f_add(&longer.f_square()?)?)
    }
}

/// Divergence of the probabilities whose logits are `length` numbers of each prediction.
fn logits_apart(wanted: &Tensor, found: &Tensor, start: i64, length: i64) -> Result<Tensor> {
    let [wanted, found] = [wanted.f_narrow(4, start, length)?, found.f_narrow(4, start, length)?];
    let goal = wanted.f_sigmoid()?;
    let entropy = |logits: &Tensor| {
        logits.f_binary_cross_entropy_with_logits(&goal, None::<&Tensor>, None::<&Tensor>, Reduction::None)
    };
    Ok(entropy(&found)?.f_sub(&entropy(&wanted)?)?)
}
