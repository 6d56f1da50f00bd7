//! Batch sizes that fit into memory: the decision, not the measuring.

use crate::{Error, Result};

/// Share of the free memory that a step may take: another size of images, a workspace or another process may come.
const SHARE: f64 = 0.8;

/// Largest batch that is chosen by itself.
const LARGEST: usize = 1024;

/// Memory of a training step: so many bytes, and so many for each image of the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Weights, their gradients, the optimizer's state.
    pub fixed: f64,
    /// What an image adds.
    pub per_image: f64,
}

impl Memory {
    /// From the most bytes that steps of two sizes took.
    pub fn from_two([small, large]: [(usize, i64); 2]) -> Self {
        let images = large.0.saturating_sub(small.0).max(1);
        // A larger batch never takes less; where the allocator says so, an image costs what the step cost.
        let per_image = (large.1 - small.1) as f64 / images as f64;
        let per_image = if per_image > 0.0 {
            per_image
        } else {
            large.1 as f64 / large.0.max(1) as f64
        };
        Self {
            fixed: (small.1 as f64 - per_image * small.0 as f64).max(0.0),
            per_image: per_image.max(1.0),
        }
    }

    /// The largest batch within a share of `free` bytes, a multiple of 8 from 8 on; 0 where not even one image fits.
    pub fn fits(&self, free: i64) -> usize {
        let images = (free as f64 * SHARE - self.fixed) / self.per_image;
        let images = (images.max(0.0) as usize).min(LARGEST);
        if images < 8 { images } else { images / 8 * 8 }
    }
}

/// The largest batch that fits into `free` bytes. `peak` runs a step of a size and tells the most bytes that were in use.
///
/// # Errors
/// Those of `peak`; a setting to change where no batch fits.
pub fn choose(free: i64, mut peak: impl FnMut(usize) -> Result<i64>) -> Result<usize> {
    let small = (2, peak(2)?);
    let large = match peak(8) {
        Ok(bytes) => (8, bytes),
        // A large network: what lies between is still to be known.
        Err(error) if error.is_out_of_memory() => (3, peak(3)?),
        Err(error) => return Err(error),
    };
    match Memory::from_two([small, large]).fits(free) {
        0 => Err(Error::Settings(format!(
            "not even one image fits into {:.1} GiB of memory; use smaller images (--img) or a smaller network",
            free as f64 / f64::from(1 << 30)
        ))),
        images => Ok(images),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: i64 = 1 << 20;

    fn out_of_memory() -> Error {
        Error::Torch(tch::TchError::Torch(
            "CUDA out of memory. Tried to allocate 2.00 GiB".into(),
        ))
    }

    #[test]
    fn a_line_through_two_steps_says_what_fits() {
        // 100 MiB, and 50 for each image: 80 % of 2 GiB hold 30 images.
        let step = |images: usize| Ok((100 + 50 * images as i64) * MB);
        assert_eq!(choose(2048 * MB, step).unwrap(), 24);
        assert_eq!(choose(600 * MB, step).unwrap(), 7);
        assert_eq!(choose(1 << 50, step).unwrap(), LARGEST);
        let error = choose(150 * MB, step).unwrap_err().to_string();
        assert!(
            error.contains("not even one image") && error.contains("--img"),
            "{error}"
        );
    }

    #[test]
    fn a_large_network_is_measured_with_fewer_images() {
        let mut sizes = Vec::new();
        let chosen = choose(1000 * MB, |images| {
            sizes.push(images);
            let bytes = (100 + 150 * images as i64) * MB;
            if bytes > 1000 * MB {
                Err(out_of_memory())
            } else {
                Ok(bytes)
            }
        });
        assert_eq!((chosen.unwrap(), sizes), (4, vec![2, 8, 3]));
        let refused = choose(1000 * MB, |_| Err(out_of_memory())).unwrap_err();
        assert!(refused.is_out_of_memory());
    }

    #[test]
    fn an_allocator_that_hides_the_difference_is_not_believed() {
        let memory = Memory::from_two([(2, 800 * MB), (8, 800 * MB)]);
        assert_eq!(memory.per_image, (100 * MB) as f64);
        assert_eq!(memory.fits(2000 * MB), 8);
    }
}
