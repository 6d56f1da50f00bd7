//! The project's own data set: small objects of four classes on textured ground, seen from above. Everything is computed from a
//! seed, so tests and demonstrations need no download. Objects vary in size, turn, colour, light and visibility; look-alikes
//! without a label stand between them.

mod ground;
mod scene;
mod shape;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::labels::{self, Label};
use crate::{Error, Image, Result, files};

pub use shape::CLASSES;

/// What to make.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Images in all three splits together (70 % training, 20 % validation, 10 % test).
    pub images: usize,
    /// Width and height.
    pub size: usize,
    /// Number of classes: the first so many of [`CLASSES`].
    pub classes: usize,
    /// How many times as large objects are, 1 to 4: at 1 they take 3 to 9 % of the picture's side, as in pictures from far above.
    pub zoom: f32,
    /// The same seed makes the same files.
    pub seed: u64,
    /// PNG (exact, large) instead of JPEG.
    pub png: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            images: 320,
            size: 192,
            classes: CLASSES.len(),
            zoom: 1.0,
            seed: 0,
            png: false,
        }
    }
}

/// What was made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Made {
    /// The data set's YAML file.
    pub yaml: PathBuf,
    /// Images in all splits.
    pub images: usize,
    /// Boxes in all splits.
    pub boxes: usize,
    /// Boxes of each class.
    pub per_class: Vec<usize>,
}

/// One picture and its labels, as a function of seed and index.
pub fn picture(size: usize, seed: u64, index: u64) -> (Image, Vec<Label>) {
    let settings = Settings {
        size,
        seed,
        ..Settings::default()
    };
    picture_of(&settings, index)
}

/// A picture of a data set by its index.
fn picture_of(settings: &Settings, index: u64) -> (Image, Vec<Label>) {
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    rng.set_stream(index);
    scene::draw(settings.size, settings.classes, settings.zoom, &mut rng)
}

/// Writes a data set into a folder: `images/{train,val,test}`, `labels/...` and, last, `data.yaml`. A folder that has a
/// `data.yaml` is refused. `progress` gets the number of finished images.
///
/// # Errors
/// [`Error::Settings`] names a number of images, a size or a number of classes that can't be, with those that can. [`Error::Dataset`] where
/// there is a `data.yaml` already. [`Error::Io`] names what can't be written.
pub fn write(folder: &Path, settings: &Settings, progress: &(dyn Fn(usize) + Sync)) -> Result<Made> {
    let Settings {
        images,
        size,
        classes,
        zoom,
        seed,
        png,
    } = *settings;
    if images < 10 {
        return Err(Error::Settings(format!(
            "{images} images can't be split into train, val and test; make 10 or more"
        )));
    }
    if !(64..=4096).contains(&size) {
        return Err(Error::Settings(format!(
            "synthetic images of {size} pixels make no sense; use 64 to 4096"
        )));
    }
    if !(1..=CLASSES.len()).contains(&classes) {
        return Err(Error::Settings(format!(
            "there are 1 to {} classes to draw ({}), not {classes}",
            CLASSES.len(),
            CLASSES.join(", ")
        )));
    }
    if !(1.0..=4.0).contains(&zoom) {
        return Err(Error::Settings(format!(
            "objects can be drawn 1 to 4 times as large, not {zoom} times"
        )));
    }
    let yaml = folder.join("data.yaml");
    if yaml.exists() {
        return Err(Error::dataset(
            &yaml,
            "there is a data set already; choose another folder or remove it",
        ));
    }
    let (val, test) = ((images / 5).max(1), (images / 10).max(1));
    let split = |index: usize| match images - index {
        left if left <= test => "test",
        left if left <= test + val => "val",
        _ => "train",
    };
    for name in ["train", "val", "test"] {
        files::create_folder(&folder.join("images").join(name))?;
        files::create_folder(&folder.join("labels").join(name))?;
    }
    let done = AtomicUsize::new(0);
    let counts: Vec<Vec<usize>> = (0..images)
        .into_par_iter()
        .map(|index| {
            let (image, boxes) = picture_of(settings, index as u64);
            let name = format!("{}/{index:06}", split(index));
            let ending = if png { "png" } else { "jpg" };
            image.save(&folder.join("images").join(format!("{name}.{ending}")))?;
            files::write(
                &folder.join("labels").join(format!("{name}.txt")),
                labels::to_text(&boxes).as_bytes(),
            )?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            let of_class = |class: usize| boxes.iter().filter(|label| label[0] as usize == class).count();
            Ok((0..classes).map(of_class).collect())
        })
        .collect::<Result<_>>()?;
    let text = format!(
        "# Synthetic objects seen from above: {images} images of {size} pixels, seed {seed}.\n\
         path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnc: {classes}\nnames: [{}]\n",
        CLASSES[..classes].join(", ")
    );
    files::write(&yaml, text.as_bytes())?;
    let per_class: Vec<usize> = (0..classes)
        .map(|class| counts.iter().map(|count| count[class]).sum())
        .collect();
    Ok(Made {
        yaml,
        images,
        boxes: per_class.iter().sum(),
        per_class,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_depend_on_seed_and_index_only() {
        let (image, labels) = picture(96, 7, 3);
        assert_eq!((image.width, image.height), (96, 96));
        assert_eq!((&image, &labels), (&picture(96, 7, 3).0, &picture(96, 7, 3).1));
        assert_ne!(image, picture(96, 7, 4).0);
        assert_ne!(image, picture(96, 8, 3).0);
    }

    #[test]
    fn labels_are_valid_and_classes_balanced() {
        let mut counts = [0usize; CLASSES.len()];
        let mut small = 0;
        for index in 0..60 {
            let (_, labels) = picture(160, 1, index);
            let mut text = labels::to_text(&labels);
            text.push('\n');
            let names: Vec<String> = CLASSES.map(str::to_owned).to_vec();
            let (read, problems) = labels::parse(
                Path::new("x.txt"),
                text.as_bytes(),
                labels::Rows {
                    names: &names,
                    keypoints: None,
                },
            );
            assert_eq!((read.len(), problems.len()), (labels.len(), 0), "{problems:?}");
            for [class, cx, cy, w, h] in labels {
                counts[class as usize] += 1;
                assert!(
                    cx - w / 2.0 >= -1e-6
                        && cx + w / 2.0 <= 1.0 + 1e-6
                        && cy - h / 2.0 >= -1e-6
                        && cy + h / 2.0 <= 1.0 + 1e-6
                );
                small += usize::from(w * h < 0.02);
            }
        }
        let total: usize = counts.iter().sum();
        assert!(total > 240, "{total} boxes in 60 pictures");
        assert!(counts.iter().all(|count| count * 4 > total / 2), "{counts:?}");
        assert!(small * 2 > total, "most objects are small: {small} of {total}");
    }

    #[test]
    fn a_data_set_is_written_once_and_reads_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = Settings {
            images: 20,
            size: 64,
            ..Settings::default()
        };
        let seen = AtomicUsize::new(0);
        let made = write(folder.path(), &settings, &|_| {
            seen.fetch_add(1, Ordering::Relaxed);
        })
        .expect("a data set");
        assert_eq!((made.images, seen.into_inner()), (20, 20));
        let data = crate::Dataset::open(&made.yaml).expect("our own file");
        let mut boxes = 0;
        for (split, count) in [
            (crate::Split::Train, 14),
            (crate::Split::Val, 4),
            (crate::Split::Test, 2),
        ] {
            let samples = data.samples(split, crate::Policy::Strict).expect("our own labels");
            assert_eq!(samples.items.len(), count);
            boxes += samples.items.iter().map(|sample| sample.boxes.len()).sum::<usize>();
        }
        assert_eq!(boxes, made.boxes);
        let again = write(folder.path(), &settings, &|_| {}).expect_err("the folder is taken");
        assert!(again.to_string().contains("already"), "{again}");
        let other = folder.path().join("two");
        for bad in [
            Settings {
                images: 3,
                ..settings.clone()
            },
            Settings {
                size: 8,
                ..settings.clone()
            },
            Settings {
                classes: 9,
                ..settings.clone()
            },
        ] {
            assert!(
                matches!(write(&other, &bad, &|_| {}), Err(Error::Settings(_))),
                "{bad:?}"
            );
            assert!(!other.exists(), "nothing is written for {bad:?}");
        }
        let made = write(&other, &Settings { classes: 2, ..settings }, &|_| {}).expect("a data set of two classes");
        assert!(
            made.per_class.len() == 2 && made.per_class.iter().all(|count| *count > 0),
            "{made:?}"
        );
        assert_eq!(
            crate::Dataset::open(&made.yaml).expect("our own file").names,
            CLASSES[..2]
        );
    }
}
