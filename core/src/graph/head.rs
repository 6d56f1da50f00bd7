//! The YOLOv5 detection head: how raw maps become boxes.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{Params, Result};

/// Anchors, strides and classes of the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectHead {
    /// Scope of the head (`model.24`); its convolutions are `PREFIX.m.LEVEL`.
    pub prefix: String,
    /// Number of classes.
    pub classes: i64,
    /// Anchors in pixels, `[level][anchor] = [width, height]`.
    pub anchors: Vec<Vec<[f64; 2]>>,
    /// Pixels per cell of each level.
    pub strides: Vec<i64>,
    /// The configuration gives a number of anchors only (`anchors: 3`): those above stand in until a training fits them to its data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfitted: bool,
}

impl DetectHead {
    /// Anchors that stand in for `count` a level that are not known yet: squares of one to four cells.
    pub fn stand_ins(strides: &[i64], count: usize) -> Vec<Vec<[f64; 2]>> {
        let side = |stride: i64, index: usize| stride as f64 * (1.0 + 3.0 * index as f64 / count as f64);
        let level = |stride: &i64| (0..count).map(|index| [side(*stride, index); 2]).collect();
        strides.iter().map(level).collect()
    }

    /// Gives the anchors of `sizes` (width and height in pixels) to the levels: the smallest to the finest.
    ///
    /// # Errors
    /// Where there are not as many as the head has.
    pub fn set_anchors(&mut self, sizes: &[[f64; 2]]) -> Result<()> {
        let per_level = self.anchors.first().map_or(0, Vec::len);
        if sizes.len() != per_level * self.strides.len() {
            return Err(crate::Error::Impossible(format!(
                "{} anchors for a head of {} levels with {per_level} each",
                sizes.len(),
                self.strides.len()
            )));
        }
        let mut sizes = sizes.to_vec();
        sizes.sort_by(|a, b| (a[0] * a[1]).total_cmp(&(b[0] * b[1])));
        let mut levels: Vec<usize> = (0..self.strides.len()).collect();
        levels.sort_by_key(|level| self.strides[*level]);
        for (level, own) in levels.into_iter().zip(sizes.chunks(per_level.max(1))) {
            self.anchors[level] = own.to_vec();
        }
        self.unfitted = false;
        Ok(())
    }

    /// Values per anchor: x, y, w, h, objectness, classes.
    pub fn outputs_per_anchor(&self) -> i64 {
        self.classes + 5
    }

    /// Anchors per level.
    pub fn anchors_per_level(&self) -> i64 {
        self.anchors.first().map_or(0, Vec::len) as i64
    }

    /// State-dict key of the anchors (in cells, as Ultralytics stores them).
    pub fn anchors_key(&self) -> String {
        format!("{}.anchors", self.prefix)
    }

    /// Anchors in cells, `[levels, anchors, 2]`.
    pub fn anchors_in_cells(&self) -> Tensor {
        let flat: Vec<f32> = self
            .anchors
            .iter()
            .zip(&self.strides)
            .flat_map(|(level, stride)| level.iter().flatten().map(move |v| (*v / *stride as f64) as f32))
            .collect();
        Tensor::from_slice(&flat).reshape([self.anchors.len() as i64, self.anchors_per_level(), 2])
    }

    /// Adds the anchors buffer and starts the biases of the head as Ultralytics does (section 3.3 of arXiv 1708.02002):
    /// objectness for 8 objects per 640 x 640 image, classes for a uniform prior of 0.6.
    pub fn init_params(&self, params: &mut Params) {
        for (level, stride) in self.strides.iter().enumerate() {
            let key = format!("{}.m.{level}.bias", self.prefix);
            if let Some(bias) = params.get(&key) {
                let rows = bias
                    .copy()
                    .reshape([self.anchors_per_level(), self.outputs_per_anchor()]);
                let cells = (640.0 / *stride as f64).powi(2);
                let objectness = (8.0 / cells).ln();
                let class = (0.6 / (self.classes as f64 - 0.99)).ln();
                let _ = rows.narrow(1, 4, 1).g_add_scalar_(objectness);
                let _ = rows.narrow(1, 5, self.classes).g_add_scalar_(class);
                params.insert(key, rows.reshape([-1]));
            }
        }
        params.insert(self.anchors_key(), self.anchors_in_cells());
    }

    /// `[N, A * no, h, w]` to `[N, A, h, w, no]`: the raw predictions of a level.
    pub fn raw(&self, map: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = map.size4()?;
        Ok(map
            .f_view([n, self.anchors_per_level(), self.outputs_per_anchor(), h, w])
            .or_else(|_| map.f_reshape([n, self.anchors_per_level(), self.outputs_per_anchor(), h, w]))?
            .f_permute([0, 1, 3, 4, 2])?)
    }

    /// Raw maps to boxes in pixels: `[N, sum(A * h * w), 5 + classes]` with centre x, y, width, height, objectness and class
    /// probabilities (YOLOv5 v6: xy = (2 sigma - 0.5 + cell) * stride, wh = (2 sigma)^2 * anchor).
    pub fn decode(&self, maps: &[Tensor]) -> Result<Tensor> {
        let mut levels = Vec::with_capacity(maps.len());
        for (level, map) in maps.iter().enumerate() {
            let (n, _, h, w) = map.size4()?;
            let options = (map.kind(), map.device());
            let y = self.raw(map)?.f_sigmoid()?;
            let stride = self.strides[level] as f64;
            let xy = (y.narrow(4, 0, 2).f_mul_scalar(2.0)? + cell_grid(h, w, options).f_sub_scalar(0.5)?)
                .f_mul_scalar(stride)?;
            let flat: Vec<f64> = self.anchors[level].iter().flatten().copied().collect();
            let anchors = Tensor::from_slice(&flat)
                .to_kind(options.0)
                .to_device(options.1)
                .reshape([1, self.anchors_per_level(), 1, 1, 2]);
            let wh = y.narrow(4, 2, 2).f_mul_scalar(2.0)?.f_square()?.f_mul(&anchors)?;
            let rest = y.narrow(4, 4, self.outputs_per_anchor() - 4);
            levels.push(Tensor::f_cat(&[xy, wh, rest], 4)?.reshape([n, -1, self.outputs_per_anchor()]));
        }
        Ok(Tensor::f_cat(&levels, 1)?)
    }
}

/// `[1, 1, h, w, 2]` with the column and row of each cell.
fn cell_grid(h: i64, w: i64, options: (Kind, Device)) -> Tensor {
    let y = Tensor::arange(h, options).view([h, 1]).expand([h, w], false);
    let x = Tensor::arange(w, options).view([1, w]).expand([h, w], false);
    Tensor::stack(&[x, y], 2).view([1, 1, h, w, 2])
}
