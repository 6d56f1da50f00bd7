//! Images that layers are reconstructed on.
//!
//! Means and squared errors count every place alike. The border that makes a square of a picture is one colour, so all its places have one
//! and the same error of rounding, which a bias correction would take off everywhere: on pictures of 4 : 3, with a quarter of border, that
//! costs more than it brings. So the sample has no border: the picture goes on as in a mirror.

use tch::Tensor;
use yolo_data::Batch;
use yolo_data::loader::Origin;

use crate::Result;

/// The first `count` images of a batch `[N, C, H, W]`, without their borders.
///
/// # Errors
/// `Error::Torch` where there is no memory left.
pub(super) fn without_borders(images: &Tensor, batch: &Batch, count: usize) -> Result<Tensor> {
    let of = |(index, origin): (usize, &Origin)| -> Result<Tensor> {
        let mut image = images.f_narrow(0, index as i64, 1)?;
        for axis in [0, 1] {
            let length = batch.size[axis];
            let side = origin.original[axis] as f64 * origin.fit.ratio[1 - axis];
            let places = mirrored(length, origin.fit.pad[1 - axis], side);
            let places = Tensor::f_from_slice(&places)?.f_to_device(image.device())?;
            image = image.f_index_select(2 + axis as i64, &places)?;
        }
        Ok(image)
    };
    let made = batch.images.iter().enumerate().take(count).map(of);
    Ok(Tensor::f_cat(&made.collect::<Result<Vec<_>>>()?, 0)?)
}

/// For each of `length` places the one of the picture, which begins at `border` and is `side` long: before and behind it goes on backwards.
fn mirrored(length: usize, border: f64, side: f64) -> Vec<i64> {
    let begin = (border.floor().max(0.0) as i64).min(length as i64 - 1);
    let side = (side.round() as i64).clamp(1, length as i64 - begin);
    (0..length as i64)
        .map(|place| {
            let turned = (place - begin).rem_euclid(2 * side);
            begin + if turned < side { turned } else { 2 * side - 1 - turned }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_goes_on_as_in_a_mirror() {
        assert_eq!(mirrored(8, 2.0, 4.0), [3, 2, 2, 3, 4, 5, 5, 4]);
        assert_eq!(mirrored(8, 3.0, 2.0), [4, 4, 3, 3, 4, 4, 3, 3]);
        assert_eq!(mirrored(4, 0.0, 4.0), [0, 1, 2, 3], "there is no border");
        assert_eq!(mirrored(5, 0.5, 4.0), [0, 1, 2, 3, 3]);
        assert_eq!(mirrored(3, 9.0, 0.2), [2, 2, 2]);
    }
}
