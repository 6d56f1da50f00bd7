//! Shifted windows (Swin, arXiv 2103.14030) on maps of any size: both axes are padded to the window and cropped back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tch::{Kind, Tensor};

use super::shapes::{map, one, two};
use super::{Checked, FREE, Flow, Left, OwnTensor, Place, Primitive, Value, Weightless, Work};
use crate::graph::limits::within;
use crate::graph::{Op, Shape};
use crate::params::Init;
use crate::{ParamRole, ParamSpec, Result};

/// A cut of a map into windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub size: i64,
    pub shift: i64,
    pub guard: bool,
}

impl Grid {
    fn limits(&self) -> Checked {
        within("size", &[self.size], 1)?;
        within("shift", &[self.shift], 0)
    }
}

/// `[N, C, H, W]` to `[N * windows, size * size, C]`.
pub(super) struct Partition(pub Grid);

impl Weightless for Partition {
    fn limits(&self) -> Checked {
        self.0.limits()
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let ([n, c, h, w], size) = (map(one(inputs)?)?, self.0.size);
        Ok(vec![n * counts(h, w, size).2, size * size, c])
    }

    fn flow(&self) -> Flow {
        Flow::OnAxis(2)
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(partition(x[0], self.0)?)
    }
}

/// The inverse; the second input gives batch, height and width.
pub(super) struct Merge(pub Grid);

impl Weightless for Merge {
    fn limits(&self) -> Checked {
        self.0.limits()
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let ((x, like), size) = (two(inputs)?, self.0.size);
        let [n, _, h, w] = map(like)?;
        if x.len() != 3 || x[0] != n * counts(h, w, size).2 || x[1] != size * size {
            return Err(format!("windows {x:?} do not cover {like:?}"));
        }
        Ok(vec![n, x[2], h, w])
    }

    fn flow(&self) -> Flow {
        Flow::OnAxis(1)
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(merge(x[0], x[1], self.0)?)
    }
}

/// Attention mask of a shifted partition of the input.
pub(super) struct Mask {
    pub grid: Grid,
    pub mask_padding: bool,
}

impl Weightless for Mask {
    fn limits(&self) -> Checked {
        self.grid.limits()
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let ([_, _, h, w], size) = (map(one(inputs)?)?, self.grid.size);
        Ok(vec![counts(h, w, size).2, 1, size * size, size * size])
    }

    fn flow(&self) -> Flow {
        Flow::Nothing
    }

    fn value(&self) -> Value {
        Value::Fixed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], place: &Place<'_>) -> Result<Tensor> {
        Ok(place.masks.get(x[0], self.grid, self.mask_padding)?)
    }
}

/// Rows of a table for each pair of tokens of a window.
pub(super) struct RelativePositionBias {
    pub size: i64,
}

impl Primitive for RelativePositionBias {
    fn limits(&self) -> Checked {
        if (1..=64).contains(&self.size) {
            Ok(())
        } else {
            Err(format!("the window {} is not between 1 and 64", self.size))
        }
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (x, size) = (one(inputs)?, self.size);
        let rows = (2 * size - 1) * (2 * size - 1);
        if x.len() != 2 || x[0] != rows {
            return Err(format!("it takes a table [{rows}, heads], not {x:?}"));
        }
        Ok(vec![1, x[1], size * size, size * size])
    }

    fn tensors(&self, name: &str) -> Vec<OwnTensor> {
        let spec = ParamSpec {
            key: format!("{name}.relative_position_index"),
            shape: vec![self.size * self.size; 2],
            role: ParamRole::Counter,
            init: Init::RelativePositionIndex(self.size),
        };
        vec![OwnTensor { spec, axes: FREE }]
    }

    fn flow(&self) -> Flow {
        Flow::Frozen
    }

    fn work(&self, _inputs: &[&[i64]], _output: &[i64]) -> Work {
        Work::Fixed(0)
    }

    fn resize(&self, _op: &mut Op, _left: &Left<'_>) -> Checked {
        Ok(())
    }

    fn value(&self) -> Value {
        Value::Table
    }

    fn run(&self, x: &[&Tensor], params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(relative_position_bias(x[0], &params[0])?)
    }
}

/// Adds a mask to the scores of each window.
pub(super) struct AddMask;

impl Weightless for AddMask {
    fn limits(&self) -> Checked {
        Ok(())
    }

    fn shape(&self, inputs: &[&[i64]], _image: &[i64; 4]) -> Result<Shape, String> {
        let (x, mask) = two(inputs)?;
        if x.len() != 4 || mask.len() != 4 || x[0] % mask[0] != 0 || x[2..] != mask[2..] {
            return Err(format!("the mask {mask:?} does not fit the scores {x:?}"));
        }
        Ok(x.to_vec())
    }

    fn flow(&self) -> Flow {
        Flow::Frozen
    }

    fn value(&self) -> Value {
        Value::Computed
    }

    fn run(&self, x: &[&Tensor], _params: &[Tensor], _place: &Place<'_>) -> Result<Tensor> {
        Ok(add_mask(x[0], x[1])?)
    }
}

/// Side lengths after padding to a multiple of the window, and the number of windows.
fn counts(h: i64, w: i64, size: i64) -> (i64, i64, i64) {
    let (ph, pw) = ((h + size - 1) / size * size, (w + size - 1) / size * size);
    (ph, pw, (ph / size) * (pw / size))
}

type Torch<T> = Result<T, tch::TchError>;

impl Grid {
    /// Shift that acts: with `guard`, none where one window covers the padded map.
    fn effective(&self, h: i64, w: i64) -> i64 {
        let covers = h <= self.size && w <= self.size;
        if self.guard && covers { 0 } else { self.shift }
    }
}

fn partition(x: &Tensor, grid: Grid) -> Torch<Tensor> {
    let (n, c, h, w) = x.size4()?;
    let (size, shift) = (grid.size, grid.effective(h, w));
    let (ph, pw, _) = counts(h, w, size);
    let mut x = if (ph, pw) == (h, w) {
        x.shallow_clone()
    } else {
        x.f_constant_pad_nd([0, pw - w, 0, ph - h])?
    };
    if shift > 0 {
        x = x.f_roll([-shift, -shift], [2, 3])?;
    }
    x.f_reshape([n, c, ph / size, size, pw / size, size])?
        .f_permute([0, 2, 4, 3, 5, 1])?
        .f_reshape([-1, size * size, c])
}

fn merge(x: &Tensor, like: &Tensor, grid: Grid) -> Torch<Tensor> {
    let (n, _, h, w) = like.size4()?;
    let c = *x.size().last().unwrap_or(&1);
    let (size, shift) = (grid.size, grid.effective(h, w));
    let (ph, pw, _) = counts(h, w, size);
    let mut x = x
        .f_reshape([n, ph / size, pw / size, size, size, c])?
        .f_permute([0, 5, 1, 3, 2, 4])?
        .f_reshape([n, c, ph, pw])?;
    if shift > 0 {
        x = x.f_roll([shift, shift], [2, 3])?;
    }
    if (ph, pw) == (h, w) {
        Ok(x)
    } else {
        x.f_narrow(2, 0, h)?.f_narrow(3, 0, w)
    }
}

/// The additive mask as plain numbers `[windows, size^2, size^2]`: 0 where two tokens may attend, -100 elsewhere.
pub fn mask_values(h: i64, w: i64, size: i64, shift: i64, guard: bool, mask_padding: bool) -> Vec<f32> {
    let (ph, pw, count) = counts(h, w, size);
    let shift = Grid { size, shift, guard }.effective(h, w);
    // Region of a (shifted) coordinate along one axis, as in the paper's figure 4.
    let band = |i: i64, len: i64| -> i64 {
        if shift == 0 || i < len - size {
            0
        } else if i < len - shift {
            1
        } else {
            2
        }
    };
    let region = |i: i64, j: i64| -> i64 {
        let padded = mask_padding && ((i + shift) % ph >= h || (j + shift) % pw >= w);
        if padded { -1 } else { band(i, ph) * 3 + band(j, pw) }
    };
    let tokens = (size * size) as usize;
    let mut mask = vec![0.0f32; count as usize * tokens * tokens];
    let mut regions = vec![0i64; tokens];
    for (index, block) in mask.chunks_exact_mut(tokens * tokens).enumerate() {
        let (wi, wj) = (index as i64 / (pw / size) * size, index as i64 % (pw / size) * size);
        for (token, slot) in regions.iter_mut().enumerate() {
            *slot = region(wi + token as i64 / size, wj + token as i64 % size);
        }
        for (a, row) in block.chunks_exact_mut(tokens).enumerate() {
            for (b, cell) in row.iter_mut().enumerate() {
                if regions[a] != regions[b] {
                    *cell = -100.0;
                }
            }
        }
    }
    mask
}

/// Masks that were made, by what they depend on: they are computed on the host, and moving them to a device at every step would
/// make it wait.
#[derive(Debug, Default)]
pub(crate) struct Masks(Mutex<HashMap<MaskKey, Tensor>>);

/// Height, width, size, shift; guard, mask of padding; kind.
type MaskKey = ([i64; 4], [bool; 2], Kind);

/// More sizes than a network sees in one job; multi-scale training has a few dozen.
const MOST_MASKS: usize = 256;

impl Masks {
    /// The mask `[windows, 1, size^2, size^2]` for the map `x`, in its kind and on its device.
    pub(super) fn get(&self, x: &Tensor, grid: Grid, mask_padding: bool) -> Torch<Tensor> {
        let (_, _, h, w) = x.size4()?;
        let Grid { size, shift, guard } = grid;
        let key = ([h, w, size, shift], [guard, mask_padding], x.kind());
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mask) = made.get(&key) {
            return Ok(mask.shallow_clone());
        }
        let tokens = size * size;
        let values = mask_values(h, w, size, shift, guard, mask_padding);
        let mask = Tensor::f_from_slice(&values)?
            .f_reshape([-1, 1, tokens, tokens])?
            .f_to_kind(x.kind())?
            .f_to_device(x.device())?;
        if made.len() >= MOST_MASKS {
            made.clear();
        }
        made.insert(key, mask.shallow_clone());
        Ok(mask)
    }
}

fn add_mask(scores: &Tensor, mask: &Tensor) -> Torch<Tensor> {
    let (b, heads, t, _) = scores.size4()?;
    let count = mask.size()[0];
    scores
        .f_reshape([b / count, count, heads, t, t])?
        .f_add(&mask.f_unsqueeze(0)?)?
        .f_reshape([b, heads, t, t])
}

/// Row of the bias table for each pair of tokens of a window: `(dy + size - 1) * (2 size - 1) + dx + size - 1`.
pub fn relative_position_index(size: i64) -> Vec<i64> {
    let tokens = size * size;
    (0..tokens * tokens)
        .map(|pair| {
            let (a, b) = (pair / tokens, pair % tokens);
            let (dy, dx) = (a / size - b / size, a % size - b % size);
            (dy + size - 1) * (2 * size - 1) + dx + size - 1
        })
        .collect()
}

/// `index` is `[t, t]`, `table` `[rows, heads]`; the result `[1, heads, t, t]`.
fn relative_position_bias(table: &Tensor, index: &Tensor) -> Torch<Tensor> {
    let tokens = index.size().first().copied().unwrap_or(1);
    table
        .f_index_select(0, &index.f_reshape([-1])?)?
        .f_reshape([tokens, tokens, -1])?
        .f_permute([2, 0, 1])?
        .f_unsqueeze(0)
}
