//! Training images that are held out of training, to choose by.

use std::collections::HashSet;

use super::{Dataset, Policy, Samples, Split};
use crate::{Error, Result};

impl Dataset {
    /// Takes that many images out of the training split, evenly spread over it: nothing is fitted to them, so a search may choose by them.
    pub fn hold_out(&mut self, count: usize) {
        self.held_out = count;
    }

    /// How many training images are held out.
    pub fn held_out(&self) -> usize {
        self.held_out
    }

    /// The training images that are held out.
    ///
    /// # Errors
    /// Those of [`Dataset::samples`].
    pub fn held(&self, policy: Policy) -> Result<Samples> {
        let (mut samples, _) = self.whole(Split::Train, policy)?;
        self.part(&mut samples, true)?;
        Ok(samples)
    }

    /// Leaves the training images that are held out, or the others.
    pub(super) fn part(&self, samples: &mut Samples, held: bool) -> Result<()> {
        let (all, count) = (samples.items.len(), self.held_out);
        if count >= all && count > 0 {
            let reason = format!("{count} images are to be held out of `train`, which has {all}");
            return Err(Error::dataset_line(&self.file, self.line(Split::Train), reason));
        }
        let chosen: HashSet<usize> = (0..count).map(|at| at * all / count).collect();
        let mut at = 0..;
        samples
            .items
            .retain(|_| at.next().is_some_and(|at| chosen.contains(&at)) == held);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_images_and_the_others_are_all_of_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let yaml = dir.path().join("data.yaml");
        std::fs::create_dir_all(dir.path().join("images")).expect("a folder");
        std::fs::create_dir_all(dir.path().join("labels")).expect("a folder");
        for i in 0..10u8 {
            let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * i, y as u8 * 9, 40 * (i % 5)]));
            picture
                .save(dir.path().join(format!("images/{i}.png")))
                .expect("a picture");
            std::fs::write(dir.path().join(format!("labels/{i}.txt")), "0 0.5 0.5 0.2 0.2\n").expect("a label");
        }
        std::fs::write(&yaml, "train: images\nval: images\nnames: [thing]\n").expect("a file");
        let mut dataset = Dataset::open(&yaml).expect("a data set");
        let names =
            |samples: Samples| -> Vec<std::path::PathBuf> { samples.items.into_iter().map(|s| s.image).collect() };
        let all = names(dataset.samples(Split::Train, Policy::Strict).expect("images"));
        assert!(names(dataset.held(Policy::Strict).expect("none")).is_empty());
        dataset.hold_out(3);
        let left = names(dataset.samples(Split::Train, Policy::Strict).expect("images"));
        let held = names(dataset.held(Policy::Strict).expect("images"));
        assert_eq!((held.len(), left.len()), (3, 7));
        assert!(held.iter().all(|image| !left.contains(image)));
        let mut both = [held, left].concat();
        both.sort();
        assert_eq!(both, all);
        assert_eq!(
            names(dataset.samples(Split::Val, Policy::Strict).expect("images")),
            all,
            "other splits are whole"
        );
        dataset.hold_out(10);
        let error = dataset
            .samples(Split::Train, Policy::Strict)
            .expect_err("nothing would be left")
            .to_string();
        assert!(
            error.contains("10 images are to be held out of `train`, which has 10"),
            "{error}"
        );
    }
}
