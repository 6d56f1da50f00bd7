//! Images that layers are reconstructed on.
//!
//! Means and squared errors count every place alike. The border that makes a square of a picture is one colour, so all its places have one
//! and the same error of rounding, which a bias correction would take off everywhere: on pictures of 4 : 3, with a quarter of border, that
//! costs more than it brings. So the sample has no border: windows into many pictures, in the size that they have in the network.

use tch::Tensor;
use yolo_data::Batch;
use yolo_data::loader::Origin;

use crate::Result;

/// Side of a window, where the network takes that size.
const SIDE: usize = 320;

/// How many windows there are: both networks hold the values of all of them at once.
const WINDOWS: usize = 64;

/// Height and width of the windows into images of `size`, which a network takes in multiples of `step`.
pub(super) fn window(size: [usize; 2], step: usize) -> [usize; 2] {
    size.map(|length| SIDE.next_multiple_of(step.max(1)).min(length))
}

/// How many images of each of `batches` batches give a window.
pub(super) fn per_batch(batches: usize) -> usize {
    WINDOWS.div_ceil(batches.max(1))
}

/// Windows into the first `count` images of a batch `[N, C, H, W]`: `[count, C, h, w]`.
///
/// # Errors
/// `Error::Torch` where there is no memory left.
pub(super) fn windows(images: &Tensor, batch: &Batch, count: usize, step: usize) -> Result<Tensor> {
    let wide = window(batch.size, step);
    let of = |(index, origin): (usize, &Origin)| -> Result<Tensor> {
        let mut image = images.f_narrow(0, index as i64, 1)?;
        // Places that are spread evenly, whatever their number.
        let shares = [0.754_877_666, 0.569_840_290].map(|step: f64| (step * (origin.index + 1) as f64).fract());
        for axis in [0, 1] {
            let picture = (
                origin.fit.pad[1 - axis],
                origin.original[axis] as f64 * origin.fit.ratio[1 - axis],
            );
            let places = places(batch.size[axis], picture, wide[axis], shares[axis]);
            let places = Tensor::f_from_slice(&places)?.f_to_device(image.device())?;
            image = image.f_index_select(2 + axis as i64, &places)?;
        }
        Ok(image)
    };
    let made = batch.images.iter().enumerate().take(count).map(of);
    Ok(Tensor::f_cat(&made.collect::<Result<Vec<_>>>()?, 0)?)
}

/// `wide` places in a row of a picture that begins at `border` and is `side` long, of `length`; `share` of the places that may be first lie
/// before them. Where the picture is shorter, it goes on as in a mirror.
fn places(length: usize, (border, side): (f64, f64), wide: usize, share: f64) -> Vec<i64> {
    let begin = (border.floor().max(0.0) as i64).min(length as i64 - 1);
    let side = (side.round() as i64).clamp(1, length as i64 - begin);
    let free = (side - wide as i64).max(0);
    let first = (share * (free + 1) as f64).floor().min(free as f64) as i64;
    (first..first + wide as i64)
        .map(|place| {
            let turned = place % (2 * side);
            begin + if turned < side { turned } else { 2 * side - 1 - turned }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_in_the_picture() {
        assert_eq!(places(8, (2.0, 4.0), 3, 0.0), [2, 3, 4]);
        assert_eq!(places(8, (2.0, 4.0), 3, 0.99), [3, 4, 5]);
        assert_eq!(
            places(8, (2.5, 4.0), 8, 0.7),
            [2, 3, 4, 5, 5, 4, 3, 2],
            "it goes on as in a mirror"
        );
        assert_eq!(places(4, (0.0, 4.0), 4, 0.5), [0, 1, 2, 3], "there is no border");
        assert_eq!(places(3, (9.0, 0.2), 3, 0.5), [2, 2, 2]);
        assert_eq!(
            (window([640, 192], 32), window([640, 640], 128)),
            ([320, 192], [384, 384])
        );
    }
}
