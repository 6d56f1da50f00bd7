//! `--batch-size N` or `auto`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use yolo_engine::Checkpoint;
use yolo_engine::train::{TrainOptions, largest_batch};

use crate::Session;
use crate::error::Result;

/// What `auto` means where memory can't be measured, as for YOLOv5.
const USUAL: usize = 16;

/// A number of images, or none: what fits into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize(pub Option<usize>);

impl std::str::FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" | "-1" => Ok(Self(None)),
            number => match number.parse() {
                Ok(0) | Err(_) => Err("a number of images of at least 1, or `auto`".to_owned()),
                Ok(images) => Ok(Self(Some(images))),
            },
        }
    }
}

impl BatchSize {
    /// The number of images: the one that was given, or the largest that fits into the memory of the model's device.
    ///
    /// # Errors
    /// None for a number or on the CPU; else those of [`largest_batch`]: not even one image fits, or the device can't be measured.
    pub fn resolve(self, session: Session<'_>, start: &Checkpoint, options: &TrainOptions) -> Result<usize> {
        if let Some(images) = self.0 {
            return Ok(images);
        }
        if !start.params.device().is_cuda() {
            session.say(format!(
                "--batch-size auto measures the memory of a GPU; on the CPU it is {USUAL}"
            ));
            return Ok(USUAL);
        }
        let images = largest_batch(start, options)?;
        session.say(format!(
            "--batch-size auto: {images} images of {} pixels fit",
            options.size
        ));
        Ok(images)
    }
}

/// A number, or `auto`.
impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(images) => to.serialize_u64(images as u64),
            None => to.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number of images of at least 1, or `auto`")]
        enum Written {
            Number(i64),
            Word(String),
        }
        let text = match Written::deserialize(from)? {
            Written::Number(number) => number.to_string(),
            Written::Word(word) => word,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}
