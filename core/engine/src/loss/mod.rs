//! The loss of YOLOv5 v6: CIoU for boxes, binary cross-entropy for objectness and classes.
//!
//! What lives here: targets and loss values. What must not: optimizers, data loading.
//!
//! Targets are built on plain slices (a few hundred boxes, microseconds); everything that autograd must see is one tensor
//! operation for all boxes, never one per box; on a GPU nothing here waits for it.

mod iou;
mod placed;
mod targets;

pub use iou::ciou_xywh;
pub use targets::{LevelTargets, assign_level};

use tch::{Kind, Reduction, Tensor};
use yolo_core::graph::DetectHead;

use placed::Placed;

use crate::{Error, Result};

/// Weights of the loss. Gains are per level, class and size already: see [`LossOptions::scaled`].
#[derive(Debug, Clone, PartialEq)]
pub struct LossOptions {
    /// Gain of the box loss.
    pub box_gain: f64,
    /// Gain of the objectness loss.
    pub obj_gain: f64,
    /// Gain of the class loss.
    pub cls_gain: f64,
    /// Weight of positive objectness.
    pub obj_pw: f64,
    /// Weight of positive classes.
    pub cls_pw: f64,
    /// A label and an anchor match if no side is more than this many times longer.
    pub anchor_t: f64,
    /// Exponent of the focal loss (arXiv 1708.02002), 0 for none.
    pub fl_gamma: f64,
    /// Label smoothing (arXiv 1902.04103, equation 3).
    pub label_smoothing: f64,
}

impl Default for LossOptions {
    /// The gains of YOLOv5's `hyp.scratch` before scaling.
    fn default() -> Self {
        Self {
            box_gain: 0.05,
            obj_gain: 1.0,
            cls_gain: 0.5,
            obj_pw: 1.0,
            cls_pw: 1.0,
            anchor_t: 4.0,
            fl_gamma: 0.0,
            label_smoothing: 0.0,
        }
    }
}

impl LossOptions {
    /// Gains for this many levels and classes and this image size: box by 3 / levels, classes by classes / 80 * 3 / levels,
    /// objectness by (size / 640)^2 * 3 / levels.
    pub fn scaled(mut self, levels: usize, classes: i64, image_size: i64) -> Self {
        let per_level = 3.0 / levels.max(1) as f64;
        self.box_gain *= per_level;
        self.cls_gain *= classes as f64 / 80.0 * per_level;
        self.obj_gain *= (image_size as f64 / 640.0).powi(2) * per_level;
        self
    }
}

/// The loss of a head.
#[derive(Debug, Clone)]
pub struct Loss {
    options: LossOptions,
    /// Anchors in cells.
    anchors: Vec<Vec<[f32; 2]>>,
    classes: i64,
    balance: Vec<f64>,
}

/// What the means of the loss are taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// Images of the batch.
    pub images: f64,
    /// Assigned anchors of each level.
    pub positives: Vec<f64>,
}

impl Counts {
    /// Those of a batch with maps `[N, A * (5 + classes), h, w]`.
    pub fn of(maps: &[Tensor], assigned: &[LevelTargets]) -> Self {
        Self {
            images: maps.first().map_or(0, |m| m.size()[0]) as f64,
            positives: assigned.iter().map(|level| level.cells.len() as f64).collect(),
        }
    }
}

/// A loss value.
#[derive(Debug)]
pub struct LossValue {
    /// (box + objectness + class) * batch size, to be differentiated.
    pub total: Tensor,
    /// Box, objectness and class loss with their gains, detached, `[3]`.
    pub parts: Tensor,
}

impl Loss {
    /// The loss for a head.
    pub fn new(head: &DetectHead, options: LossOptions) -> Self {
        let cells = |(level, stride): (&Vec<[f64; 2]>, &i64)| {
            level.iter().map(|wh| wh.map(|v| (v / *stride as f64) as f32)).collect()
        };
        let levels = head.anchors.len();
        let balance = match levels {
            3 => vec![4.0, 1.0, 0.4],
            n => [4.0, 1.0, 0.25, 0.06, 0.02].iter().copied().cycle().take(n).collect(),
        };
        let anchors = head.anchors.iter().zip(&head.strides).map(cells).collect();
        Self {
            options,
            anchors,
            classes: head.classes,
            balance,
        }
    }

    /// The weights in use.
    pub fn options(&self) -> &LossOptions {
        &self.options
    }

    /// Targets of one level: see [`assign_level`].
    pub fn level_targets(&self, level: usize, targets: &[[f32; 6]], h: i64, w: i64) -> LevelTargets {
        assign_level(targets, &self.anchors[level], h, w, self.options.anchor_t as f32)
    }

    /// The loss, in f32 at least, of raw maps `[N, A * (5 + classes), h, w]` of any kind for targets (image, class, centre x, centre y,
    /// width, height), normalised to 0..1.
    ///
    /// # Errors
    /// Those of [`Loss::assign`] and [`Loss::compute_part`].
    pub fn compute(&self, maps: &[Tensor], targets: &[[f32; 6]]) -> Result<LossValue> {
        let assigned = self.assign(maps, targets)?;
        let counts = Counts::of(maps, &assigned);
        self.compute_part(maps, &assigned, &counts)
    }

    /// Targets of all levels, for [`Loss::compute_part`], from maps `[N, A * (5 + classes), h, w]`.
    ///
    /// # Errors
    /// [`Error::Settings`] names a label that has a number which is not finite, an image outside of the batch, or a class that the head
    /// does not have. [`Error::Torch`] where a map has not four dimensions.
    pub fn assign(&self, maps: &[Tensor], targets: &[[f32; 6]]) -> Result<Vec<LevelTargets>> {
        let batch = maps.first().map_or(0, |m| m.size()[0]);
        self.check_targets(targets, batch)?;
        maps.iter()
            .enumerate()
            .map(|(level, map)| {
                let (_, _, h, w) = map.size4()?;
                Ok(self.level_targets(level, targets, h, w))
            })
            .collect()
    }

    /// The share of some images in the loss of a batch with `counts`: the shares of all its images add up to [`Loss::compute`] of the
    /// batch, and so do their gradients.
    ///
    /// # Errors
    /// Where a map has other channels than the head.
    pub fn compute_part(&self, maps: &[Tensor], assigned: &[LevelTargets], counts: &Counts) -> Result<LossValue> {
        let (kind, device) = maps
            .first()
            .map_or((Kind::Float, tch::Device::Cpu), |m| (single(m.kind()), m.device()));
        let rows = self.rows(maps)?;
        let lengths: Vec<i64> = rows.iter().map(|rows| rows.size()[0]).collect();
        let goal = Tensor::f_zeros([lengths.iter().sum::<i64>()].as_slice(), (kind, device))?;
        let zero = || Tensor::f_zeros([0i64; 0].as_slice(), (kind, device));
        let [boxes, classes] = match Placed::new(assigned, &lengths, &counts.positives, (kind, device))? {
            Some(placed) => self.positives(&rows, &placed, &goal)?,
            None => [zero()?, zero()?],
        };
        let objectness = self.objectness(&rows, &goal, counts.images, lengths.as_slice(), maps)?;
        let parts = Tensor::f_stack(
            &[
                boxes.f_mul_scalar(self.options.box_gain)?,
                objectness.f_mul_scalar(self.options.obj_gain)?,
                classes.f_mul_scalar(self.options.cls_gain)?,
            ],
            0,
        )?;
        let total = parts.f_sum(None::<Kind>)?.f_mul_scalar(counts.images)?;
        Ok(LossValue {
            total,
            parts: parts.detach(),
        })
    }

    /// Maps as rows `[cells * anchors, 5 + classes]`, one per (image, row, column, anchor): views of channels-last maps.
    fn rows(&self, maps: &[Tensor]) -> Result<Vec<Tensor>> {
        let per_anchor = self.classes + 5;
        let rows = maps
            .iter()
            .zip(&self.anchors)
            .enumerate()
            .map(|(level, (map, anchors))| {
                let (_, channels, _, _) = map.size4()?;
                let wanted = anchors.len() as i64 * per_anchor;
                if channels != wanted {
                    return Err(Error::Settings(format!(
                        "level {level} has {channels} channels, but {} anchors and {} classes need {wanted}",
                        anchors.len(),
                        self.classes
                    )));
                }
                Ok(map.f_permute([0, 2, 3, 1])?.f_reshape([-1, per_anchor])?)
            });
        rows.collect()
    }

    fn check_targets(&self, targets: &[[f32; 6]], batch: i64) -> Result<()> {
        let bad = targets.iter().find(|t| {
            let (image, class) = (t[0] as i64, t[1] as i64);
            !(0..batch).contains(&image) || !(0..self.classes).contains(&class) || t.iter().any(|v| !v.is_finite())
        });
        match bad {
            Some(t) => Err(Error::Settings(format!(
                "a label has class {}, box {:?} (image {} of {batch}); the model has classes 0 to {}",
                t[1],
                &t[2..],
                t[0],
                self.classes - 1
            ))),
            None => Ok(()),
        }
    }

    /// Box and class loss of the assigned anchors of all levels at once, without gains: each level's sum is divided by its own count,
    /// which the rows' weights say. Fills the objectness that is wanted into `goal` `[rows of all levels]`.
    fn positives(&self, rows: &[Tensor], placed: &Placed, goal: &Tensor) -> Result<[Tensor; 2]> {
        let kind = goal.kind();
        let chosen = rows
            .iter()
            .zip(&placed.cells)
            .map(|(rows, cells)| rows.f_index_select(0, cells))
            .collect::<Result<Vec<_>, _>>()?;
        let chosen = Tensor::f_cat(&chosen, 0)?.f_to_kind(kind)?;
        let box_part = chosen.f_narrow(1, 0, 4)?.f_sigmoid()?.f_mul_scalar(2.0)?;
        let xy = box_part.f_narrow(1, 0, 2)?.f_sub_scalar(0.5)?;
        let wh = box_part.f_narrow(1, 2, 2)?.f_square()?.f_mul(&placed.anchors)?;
        let iou = ciou_xywh(&Tensor::f_cat(&[xy, wh], 1)?, &placed.boxes)?;
        let boxes = iou
            .f_neg()?
            .f_add_scalar(1.0)?
            .f_mul(&placed.weights.f_view([-1])?)?
            .f_sum(None::<Kind>)?;

        // Where several targets share a cell the last one counts; said explicitly, so that the order in which libtorch writes does
        // not matter.
        let quality = iou.detach().f_clamp_min(0.0)?.f_index_select(0, &placed.last)?;
        let _ = goal
            .shallow_clone()
            .f_index_put_(&[Some(&placed.unique)], &quality, false)?;

        if self.classes == 1 {
            return Ok([boxes, Tensor::f_zeros([0i64; 0].as_slice(), (kind, goal.device()))?]);
        }
        let (positive, negative) = (
            1.0 - 0.5 * self.options.label_smoothing,
            0.5 * self.options.label_smoothing,
        );
        let shape = [placed.classes.size()[0], self.classes];
        let mut wanted = Tensor::f_full(shape.as_slice(), negative, (kind, goal.device()))?;
        let _ = wanted.f_scatter_value_(1, &placed.classes, positive)?;
        let scores = chosen.f_narrow(1, 5, self.classes)?;
        let classes = self
            .bce(&scores, &wanted, self.options.cls_pw, Some(&placed.weights))?
            .f_div_scalar(self.classes)?;
        Ok([boxes, classes])
    }

    /// Objectness loss of all levels, without gain: means over the cells of a batch of `images`, balanced.
    fn objectness(
        &self,
        rows: &[Tensor],
        goal: &Tensor,
        images: f64,
        lengths: &[i64],
        maps: &[Tensor],
    ) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        let mut start = 0;
        for (level, (rows, length)) in rows.iter().zip(lengths).enumerate() {
            let logits = rows.f_select(1, 4)?.f_to_kind(goal.kind())?;
            let (_, _, h, w) = maps[level].size4()?;
            let cells = (h * w) as f64 * self.anchors[level].len() as f64;
            let loss = self
                .bce(&logits, &goal.f_narrow(0, start, *length)?, self.options.obj_pw, None)?
                .f_mul_scalar(self.balance[level] / (images * cells))?;
            sum = Some(match sum {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
            start += length;
        }
        match sum {
            Some(sum) => Ok(sum),
            None => Ok(Tensor::f_zeros([0i64; 0].as_slice(), (goal.kind(), goal.device()))?),
        }
    }

    /// Sum of the binary cross-entropy of logits, focal if asked for; `weight` is one of each row.
    fn bce(&self, logits: &Tensor, wanted: &Tensor, positive_weight: f64, weight: Option<&Tensor>) -> Result<Tensor> {
        let positive = (positive_weight != 1.0)
            .then(|| Tensor::f_full([1].as_slice(), positive_weight, (logits.kind(), logits.device())))
            .transpose()?;
        let gamma = self.options.fl_gamma;
        if gamma <= 0.0 {
            return Ok(logits.f_binary_cross_entropy_with_logits(wanted, weight, positive.as_ref(), Reduction::Sum)?);
        }
        const ALPHA: f64 = 0.25;
        let loss = logits.f_binary_cross_entropy_with_logits(wanted, weight, positive.as_ref(), Reduction::None)?;
        let p = logits.f_sigmoid()?;
        let rest = wanted.f_neg()?.f_add_scalar(1.0)?;
        let p_t = wanted.f_mul(&p)?.f_add(&rest.f_mul(&p.f_neg()?.f_add_scalar(1.0)?)?)?;
        let alpha = wanted.f_mul_scalar(ALPHA)?.f_add(&rest.f_mul_scalar(1.0 - ALPHA)?)?;
        let modulation = p_t.f_neg()?.f_add_scalar(1.0)?.f_pow_tensor_scalar(gamma)?;
        Ok(loss.f_mul(&alpha.f_mul(&modulation)?)?.f_sum(None::<Kind>)?)
    }
}

/// The kind that a loss is computed in: half precision is too coarse for it.
fn single(kind: Kind) -> Kind {
    match kind {
        Kind::Half | Kind::BFloat16 => Kind::Float,
        other => other,
    }
}
