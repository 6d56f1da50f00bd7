//! Shifted windows (Swin, arXiv 2103.14030) on maps of any size: both axes are padded to the window and cropped back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tch::{Kind, Tensor};

use crate::graph::window_counts as windows;

type Torch<T> = Result<T, tch::TchError>;

/// Shift that acts: with `guard`, none where one window covers the padded map.
fn effective(h: i64, w: i64, size: i64, shift: i64, guard: bool) -> i64 {
    if guard && h <= size && w <= size { 0 } else { shift }
}

pub(super) fn partition(x: &Tensor, size: i64, shift: i64, guard: bool) -> Torch<Tensor> {
    let (n, c, h, w) = x.size4()?;
    let (ph, pw, _) = windows(h, w, size);
    let shift = effective(h, w, size, shift, guard);
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

pub(super) fn merge(x: &Tensor, like: &Tensor, size: i64, shift: i64, guard: bool) -> Torch<Tensor> {
    let (n, _, h, w) = like.size4()?;
    let c = *x.size().last().unwrap_or(&1);
    let (ph, pw, _) = windows(h, w, size);
    let shift = effective(h, w, size, shift, guard);
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
    let (ph, pw, count) = windows(h, w, size);
    let shift = effective(h, w, size, shift, guard);
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
pub(super) struct Masks(Mutex<HashMap<MaskKey, Tensor>>);

/// Height, width, size, shift; guard, mask of padding; kind.
type MaskKey = ([i64; 4], [bool; 2], Kind);

/// More sizes than a network sees in one job; multi-scale training has a few dozen.
const MOST_MASKS: usize = 256;

impl Masks {
    /// The mask `[windows, 1, size^2, size^2]` for the map `x`, in its kind and on its device.
    pub fn get(&self, x: &Tensor, size: i64, shift: i64, guard: bool, mask_padding: bool) -> Torch<Tensor> {
        let (_, _, h, w) = x.size4()?;
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

pub(super) fn add_mask(scores: &Tensor, mask: &Tensor) -> Torch<Tensor> {
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
pub(super) fn relative_position_bias(table: &Tensor, index: &Tensor) -> Torch<Tensor> {
    let tokens = index.size().first().copied().unwrap_or(1);
    table
        .f_index_select(0, &index.f_reshape([-1])?)?
        .f_reshape([tokens, tokens, -1])?
        .f_permute([2, 0, 1])?
        .f_unsqueeze(0)
}
