//! `--batch-size N` or `auto`.

use serde::{Deserialize, Serialize};
use yolo_engine::Checkpoint;
use yolo_engine::train::{TrainOptions, largest_batch};

use crate::error::CliResult;
use crate::{load, ui};

/// What `auto` means where memory can't be measured, as for YOLOv5.
const USUAL: usize = 16;

/// A number of images, or none: what fits into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
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
    pub fn resolve(self, start: &Checkpoint, options: &TrainOptions) -> CliResult<usize> {
        if let Some(images) = self.0 {
            return Ok(images);
        }
        if !start.params.device().is_cuda() {
            ui::say(format!(
                "--batch-size auto measures the memory of a GPU; on the CPU it is {USUAL}"
            ));
            return Ok(USUAL);
        }
        let images = largest_batch(start, options).map_err(load::failed)?;
        ui::say(format!(
            "--batch-size auto: {images} images of {} pixels fit",
            options.size
        ));
        Ok(images)
    }
}
