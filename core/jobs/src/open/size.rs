//! The size that images are brought to.

use yolo_engine::Checkpoint;

use crate::Session;
use crate::error::{Error, Result};

/// YOLOv5's size.
const USUAL: usize = 640;

/// The image size of `--img`, or the one that the model was trained for; a multiple of the model's stride.
///
/// # Errors
/// Those of [`multiple_of_stride`].
pub fn image_size(session: Session<'_>, given: Option<usize>, checkpoint: &Checkpoint) -> Result<usize> {
    let trained = usize::try_from(checkpoint.meta.image_size)
        .ok()
        .filter(|size| *size > 0);
    let size = given.or(trained).unwrap_or_else(|| {
        session.say(format!(
            "the model does not say what size it was trained for: using --img {USUAL}"
        ));
        USUAL
    });
    multiple_of_stride(session, size, checkpoint.max_stride())
}

/// Height and width of `--img SIDE` or `--img HEIGHT WIDTH`, as [`image_size`].
///
/// # Errors
/// Those of [`multiple_of_stride`].
pub fn image_sides(session: Session<'_>, given: &[usize], checkpoint: &Checkpoint) -> Result<[usize; 2]> {
    match given {
        [height, width] => Ok([
            image_size(session, Some(*height), checkpoint)?,
            image_size(session, Some(*width), checkpoint)?,
        ]),
        other => image_size(session, other.first().copied(), checkpoint).map(|side| [side; 2]),
    }
}

/// A size that the network can be run at: rounded up, with a note, as YOLOv5 does it.
///
/// # Errors
/// [`Error::Usage`] for a size of 0 or above 16384.
pub fn multiple_of_stride(session: Session<'_>, size: usize, stride: i64) -> Result<usize> {
    const LARGEST: usize = 1 << 14;
    if size == 0 || size > LARGEST {
        return Err(Error::Usage(format!(
            "--img {size}: a size from 1 to {LARGEST} is needed"
        )));
    }
    let stride = usize::try_from(stride).unwrap_or(1).max(1);
    let rounded = size.div_ceil(stride) * stride;
    if rounded != size {
        session.say(format!(
            "--img {size} is no multiple of the model's stride {stride}: using {rounded}"
        ));
    }
    Ok(rounded)
}
