//! Targets of all levels on the device of the maps.

use tch::{Device, Kind, Tensor};

use super::LevelTargets;
use crate::Result;

/// Targets of all levels, one after the other: two copies to the device, however many lists there are.
pub(super) struct Placed {
    /// Rows of each level, `[n of the level]`.
    pub cells: Vec<Tensor>,
    /// `[n, 1]`.
    pub classes: Tensor,
    /// Rows of all levels together, each once, and which target counts for it: `[unique]`.
    pub unique: Tensor,
    /// See `unique`.
    pub last: Tensor,
    /// `[n, 4]`, in cells.
    pub boxes: Tensor,
    /// `[n, 2]`, in cells.
    pub anchors: Tensor,
    /// One over the number of targets of the level in the whole batch, `[n, 1]`.
    pub weights: Tensor,
}

impl Placed {
    /// Places the targets of maps that have `lengths` rows; `positives` counts the targets of each level in the whole batch. `None` where
    /// there are no targets.
    ///
    /// # Errors
    /// `Error::Torch` where the device has no memory left.
    pub fn new(
        assigned: &[LevelTargets],
        lengths: &[i64],
        positives: &[f64],
        (kind, device): (Kind, Device),
    ) -> Result<Option<Self>> {
        let n: usize = assigned.iter().map(|level| level.cells.len()).sum();
        if n == 0 {
            return Ok(None);
        }
        let (mut whole, mut unique, mut last) =
            (Vec::with_capacity(4 * n), Vec::with_capacity(n), Vec::with_capacity(n));
        let mut single: Vec<f32> = Vec::with_capacity(7 * n);
        let (mut row, mut target) = (0, 0);
        for (level, length) in assigned.iter().zip(lengths) {
            let (cells, positions) = level.last_per_cell();
            unique.extend(cells.iter().map(|cell| cell + row));
            last.extend(positions.iter().map(|position| position + target));
            whole.extend_from_slice(&level.cells);
            row += length;
            target += level.cells.len() as i64;
        }
        for level in assigned {
            whole.extend_from_slice(&level.classes);
        }
        whole.extend_from_slice(&unique);
        whole.extend_from_slice(&last);
        for level in assigned {
            single.extend_from_slice(level.boxes.as_flattened());
        }
        for level in assigned {
            single.extend_from_slice(level.anchors.as_flattened());
        }
        for (level, positives) in assigned.iter().zip(positives) {
            single.extend(level.cells.iter().map(|_| (1.0 / positives) as f32));
        }
        let whole = on_device(&Tensor::f_from_slice(&whole)?, device)?;
        let single = on_device(&Tensor::f_from_slice(&single)?, device)?.f_to_kind(kind)?;
        let (n, u) = (n as i64, unique.len() as i64);
        let mut start = 0;
        let cells = assigned
            .iter()
            .map(|level| {
                let length = level.cells.len() as i64;
                start += length;
                whole.f_narrow(0, start - length, length)
            })
            .collect::<Result<_, _>>()?;
        Ok(Some(Self {
            cells,
            classes: whole.f_narrow(0, n, n)?.f_view([n, 1])?,
            unique: whole.f_narrow(0, 2 * n, u)?,
            last: whole.f_narrow(0, 2 * n + u, u)?,
            boxes: single.f_narrow(0, 0, 4 * n)?.f_view([n, 4])?,
            anchors: single.f_narrow(0, 4 * n, 2 * n)?.f_view([n, 2])?,
            weights: single.f_narrow(0, 6 * n, n)?.f_view([n, 1])?,
        }))
    }
}

/// A copy on the device. To a GPU by way of pinned memory, or the copy would wait for all that the GPU still has to do.
fn on_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    if !device.is_cuda() {
        return Ok(tensor.f_to_device(device)?);
    }
    let pinned = yolo_torch::native::device::pinned(tensor)?;
    Ok(pinned.f_to_device_(device, pinned.kind(), true, false)?)
}
