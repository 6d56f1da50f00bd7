//! The loss of YOLOv5 v6: CIoU for boxes, binary cross-entropy for objectness and classes.
//!
//! What lives here: targets and loss values. What must not: optimizers, data loading.
//!
//! Targets are built on plain slices (a few hundred boxes, microseconds); everything that autograd must see is one tensor
//! operation per level, never one per box.

mod iou;
mod targets;

pub use iou::ciou_xywh;
pub use targets::{LevelTargets, assign_level};

use tch::{Kind, Reduction, Tensor};
use yolo_core::graph::DetectHead;

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
    /// Those of a batch.
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

    /// The loss, in f32 at least, of raw maps `[N, A * (5 + classes), h, w]` of any kind for targets (image, class, centre x, centre y, width, height),
    /// normalised to 0..1.
    pub fn compute(&self, maps: &[Tensor], targets: &[[f32; 6]]) -> Result<LossValue> {
        let assigned = self.assign(maps, targets)?;
        let counts = Counts::of(maps, &assigned);
        self.compute_part(maps, &assigned, &counts)
    }

    /// Targets of all levels, for [`Loss::compute_part`].
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
    pub fn compute_part(&self, maps: &[Tensor], assigned: &[LevelTargets], counts: &Counts) -> Result<LossValue> {
        let batch = counts.images;
        let mut sums: [Option<Tensor>; 3] = [None, None, None];
        for (level, (map, targets)) in maps.iter().zip(assigned).enumerate() {
            let positives = counts.positives.get(level).copied().unwrap_or_default();
            let parts = self.level(level, map, targets, (batch, positives))?;
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = match (sum.take(), part) {
                    (Some(sum), Some(part)) => Some(sum.f_add(&part)?),
                    (sum, part) => sum.or(part),
                };
            }
        }
        let options = maps
            .first()
            .map_or((Kind::Float, tch::Device::Cpu), |m| (single(m.kind()), m.device()));
        let gains = [self.options.box_gain, self.options.obj_gain, self.options.cls_gain];
        let parts = sums
            .into_iter()
            .zip(gains)
            .map(|(sum, gain)| match sum {
                Some(sum) => Ok(sum.f_mul_scalar(gain)?),
                None => Ok(Tensor::f_zeros([0i64; 0].as_slice(), options)?),
            })
            .collect::<Result<Vec<_>>>()?;
        let parts = Tensor::f_stack(&parts, 0)?;
        let total = parts.f_sum(None::<Kind>)?.f_mul_scalar(batch)?;
        Ok(LossValue {
            total,
            parts: parts.detach(),
        })
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

    /// Box, objectness and class loss of one level, without gains: sums divided by what there is of `images` and `positives` in all.
    fn level(
        &self,
        level: usize,
        map: &Tensor,
        found: &LevelTargets,
        (images, positives): (f64, f64),
    ) -> Result<[Option<Tensor>; 3]> {
        let (_, channels, h, w) = map.size4()?;
        let kind = single(map.kind());
        let device = map.device();
        let per_anchor = self.classes + 5;
        if channels != self.anchors[level].len() as i64 * per_anchor {
            return Err(Error::Settings(format!(
                "level {level} has {channels} channels, but {} anchors and {} classes need {}",
                self.anchors[level].len(),
                self.classes,
                self.anchors[level].len() as i64 * per_anchor
            )));
        }
        // One row per (image, row, column, anchor): a view of a channels-last map.
        let rows = map.f_permute([0, 2, 3, 1])?.f_reshape([-1, per_anchor])?;
        let goal = Tensor::f_zeros([rows.size()[0]].as_slice(), (kind, device))?;
        let (mut boxes, mut classes) = (None, None);
        let n = found.cells.len() as i64;
        if n > 0 {
            let placed = Placed::new(found, device, kind)?;
            let chosen = rows.f_index_select(0, &placed.cells)?.f_to_kind(kind)?;
            let box_part = chosen.f_narrow(1, 0, 4)?.f_sigmoid()?;
            let xy = box_part.f_narrow(1, 0, 2)?.f_mul_scalar(2.0)?.f_sub_scalar(0.5)?;
            let wh = box_part
                .f_narrow(1, 2, 2)?
                .f_mul_scalar(2.0)?
                .f_square()?
                .f_mul(&placed.anchors)?;
            let iou = ciou_xywh(&Tensor::f_cat(&[xy, wh], 1)?, &placed.boxes)?;
            boxes = Some(
                iou.f_neg()?
                    .f_add_scalar(1.0)?
                    .f_sum(None::<Kind>)?
                    .f_div_scalar(positives)?,
            );

            // Where several targets share a cell the last one counts; said explicitly, so that the order in which libtorch
            // writes does not matter.
            let quality = iou.detach().f_clamp_min(0.0)?;
            let mut goal = goal.shallow_clone();
            let last = quality.f_index_select(0, &placed.last)?;
            let _ = goal.f_index_put_(&[Some(&placed.unique)], &last, false)?;

            if self.classes > 1 {
                let (positive, negative) = (
                    1.0 - 0.5 * self.options.label_smoothing,
                    0.5 * self.options.label_smoothing,
                );
                let mut wanted = Tensor::f_full([n, self.classes].as_slice(), negative, (kind, device))?;
                let _ = wanted.f_scatter_value_(1, &placed.classes, positive)?;
                let scores = chosen.f_narrow(1, 5, self.classes)?;
                let count = positives * self.classes as f64;
                classes = Some(self.bce(&scores, &wanted, self.options.cls_pw, count)?);
            }
        }
        let cells = (h * w) as f64 * self.anchors[level].len() as f64;
        let objectness = self
            .bce(
                &rows.f_select(1, 4)?.f_to_kind(kind)?,
                &goal,
                self.options.obj_pw,
                images * cells,
            )?
            .f_mul_scalar(self.balance[level])?;
        Ok([boxes, Some(objectness), classes])
    }

    /// Binary cross-entropy of logits, focal if asked for: its sum divided by `count`.
    fn bce(&self, logits: &Tensor, wanted: &Tensor, positive_weight: f64, count: f64) -> Result<Tensor> {
        let weight = (positive_weight != 1.0)
            .then(|| Tensor::f_full([1].as_slice(), positive_weight, (logits.kind(), logits.device())))
            .transpose()?;
        let gamma = self.options.fl_gamma;
        if gamma <= 0.0 {
            return Ok(logits
                .f_binary_cross_entropy_with_logits(
                    wanted,
                    None::<Tensor>,
                    weight.as_ref().map(Tensor::shallow_clone),
                    Reduction::Sum,
                )?
                .f_div_scalar(count)?);
        }
        const ALPHA: f64 = 0.25;
        let loss = logits.f_binary_cross_entropy_with_logits(
            wanted,
            None::<Tensor>,
            weight.as_ref().map(Tensor::shallow_clone),
            Reduction::None,
        )?;
        let p = logits.f_sigmoid()?;
        let rest = wanted.f_neg()?.f_add_scalar(1.0)?;
        let p_t = wanted.f_mul(&p)?.f_add(&rest.f_mul(&p.f_neg()?.f_add_scalar(1.0)?)?)?;
        let alpha = wanted.f_mul_scalar(ALPHA)?.f_add(&rest.f_mul_scalar(1.0 - ALPHA)?)?;
        let modulation = p_t.f_neg()?.f_add_scalar(1.0)?.f_pow_tensor_scalar(gamma)?;
        Ok(loss
            .f_mul(&alpha.f_mul(&modulation)?)?
            .f_sum(None::<Kind>)?
            .f_div_scalar(count)?)
    }
}

/// The kind that a loss is computed in: half precision is too coarse for it.
fn single(kind: Kind) -> Kind {
    match kind {
        Kind::Half | Kind::BFloat16 => Kind::Float,
        other => other,
    }
}

/// Targets of a level on the device of its map: two copies, however many lists there are.
struct Placed {
    /// `[n]`.
    cells: Tensor,
    /// `[n, 1]`.
    classes: Tensor,
    /// `[unique]`, and the row of `cells` that counts for each.
    unique: Tensor,
    last: Tensor,
    /// `[n, 4]`.
    boxes: Tensor,
    /// `[n, 2]`.
    anchors: Tensor,
}

impl Placed {
    fn new(found: &LevelTargets, device: tch::Device, kind: Kind) -> Result<Self> {
        let (unique, last) = found.last_per_cell();
        let n = found.cells.len() as i64;
        let u = unique.len() as i64;
        let whole = [&found.cells, &found.classes, &unique, &last]
            .map(Vec::as_slice)
            .concat();
        let whole = Tensor::f_from_slice(&whole)?.f_to_device(device)?;
        let single = [found.boxes.as_flattened(), found.anchors.as_flattened()].concat();
        let single = Tensor::f_from_slice(&single)?.f_to_device(device)?.f_to_kind(kind)?;
        Ok(Self {
            cells: whole.f_narrow(0, 0, n)?,
            classes: whole.f_narrow(0, n, n)?.f_view([n, 1])?,
            unique: whole.f_narrow(0, 2 * n, u)?,
            last: whole.f_narrow(0, 2 * n + u, u)?,
            boxes: single.f_narrow(0, 0, 4 * n)?.f_view([n, 4])?,
            anchors: single.f_narrow(0, 4 * n, 2 * n)?.f_view([n, 2])?,
        })
    }
}
