//! The tensor of the anchors, in cells, against the head that decodes with anchors in pixels: both must say the same.

use tch::{Kind, Tensor};
use yolo_core::graph::DetectHead;

/// Relative difference that rounding to f16 makes, with room.
const ROUNDING: f64 = 1e-3;
/// The same for bf16.
const ROUNDING_BF16: f64 = 8e-3;

/// Anchors in pixels of a tensor in cells, `[levels, anchors, 2]`, if they are others than those of `head`; `None` where they are the
/// same up to rounding.
///
/// # Errors
/// The reason why the tensor holds no anchors of this head: another shape, or a size that is not positive.
pub fn other_anchors(head: &DetectHead, cells: &Tensor) -> Result<Option<Vec<Vec<[f64; 2]>>>, String> {
    let own = head.anchors_in_cells();
    if cells.size() != own.size() {
        return Err(format!("has the shape {:?} instead of {:?}", cells.size(), own.size()));
    }
    let tolerance = if cells.kind() == Kind::BFloat16 {
        ROUNDING_BF16
    } else {
        ROUNDING
    };
    let flat = cells
        .f_to_device(tch::Device::Cpu)
        .and_then(|t| t.f_to_kind(Kind::Double))
        .and_then(|t| t.f_reshape([-1]))
        .and_then(|t| Vec::<f64>::try_from(&t))
        .map_err(|error| format!("can't be read ({error})"))?;
    if let Some(size) = flat.iter().find(|size| **size <= 0.0 || !size.is_finite()) {
        return Err(format!("holds {size}, which is no size of an anchor"));
    }
    let per_level = head.anchors.first().map_or(1, Vec::len).max(1);
    let level = |(rows, stride): (&[f64], &i64)| -> Vec<[f64; 2]> {
        let pixels = |wh: &[f64]| [wh[0] * *stride as f64, wh[1] * *stride as f64];
        rows.chunks_exact(2).map(pixels).collect()
    };
    let found: Vec<Vec<[f64; 2]>> = flat.chunks(per_level * 2).zip(&head.strides).map(level).collect();
    let sides = |anchors: &[Vec<[f64; 2]>]| anchors.iter().flatten().flatten().copied().collect::<Vec<f64>>();
    let same = sides(&found)
        .iter()
        .zip(sides(&head.anchors))
        .all(|(found, own)| (found - own).abs() <= tolerance * own.abs());
    Ok((!same).then_some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_of_a_tensor_are_in_cells_and_may_be_rounded() {
        let mut head = DetectHead {
            prefix: "model.24".into(),
            classes: 3,
            anchors: vec![vec![[10.0, 13.0], [16.0, 30.0]], vec![[30.0, 61.0], [373.0, 326.0]]],
            strides: vec![8, 16],
            unfitted: false,
        };
        let cells = head.anchors_in_cells();
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16, Kind::Double] {
            assert_eq!(other_anchors(&head, &cells.to_kind(kind)), Ok(None), "{kind:?}");
        }
        let anchors = head.anchors.clone();
        head.anchors[1][0] = [30.0, 62.0];
        assert_eq!(other_anchors(&head, &cells), Ok(Some(anchors)));

        let wrong = other_anchors(&head, &cells.reshape([4, 1, 2])).unwrap_err();
        assert!(wrong.contains("[4, 1, 2] instead of [2, 2, 2]"), "{wrong}");
        let wrong = other_anchors(&head, &(cells * 0.0)).unwrap_err();
        assert!(wrong.contains("no size"), "{wrong}");
    }
}
