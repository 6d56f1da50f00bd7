//! Validation by several processes: each measures some of the batches, rank 0 adds up what all found, in the order of the batches. The
//! numbers have the same bits as those of one process.

use yolo_core::Progress;
use yolo_data::Loader;

use super::{Detector, Part, Report, Tally, measure_batch};
use crate::dist::World;
use crate::eval::{Detection, NmsOptions, Truth};
use crate::loss::Loss;
use crate::{Error, Result};

/// As [`super::measure`], shared by the ranks of `world`. `None` but on rank 0. `progress` hears of this rank's batches; where one of
/// the ranks stops, all end with its error.
///
/// # Errors
/// Those of the network and of the data; [`Error::Lost`].
pub fn measure_shared(
    detector: &Detector,
    loader: &Loader,
    options: &NmsOptions,
    loss: Option<&Loss>,
    world: &World,
    progress: &dyn Progress,
) -> Result<Option<Report>> {
    let mut bytes = Vec::new();
    let batches = loader.some(0, world.shard());
    let total = batches.size_hint().0;
    let mut stopped = Ok(());
    for (done, batch) in batches.enumerate() {
        write(&measure_batch(detector, &batch?, options, loss)?, &mut bytes);
        stopped = progress.step(done + 1, total, "");
        if stopped.is_err() {
            break;
        }
    }
    if !world.all(stopped.is_ok())? {
        stopped?;
        return Err(yolo_core::Error::Cancelled.into());
    }
    let Some(ranks) = world.gather(bytes)? else {
        return Ok(None);
    };
    let mut tally = Tally::new(detector.classes(), options);
    let mut readers: Vec<&[u8]> = ranks.iter().map(Vec::as_slice).collect();
    for batch in 0..loader.batches() {
        let reader = &mut readers[batch % world.size()];
        let part =
            read(reader).ok_or_else(|| Error::Lost(format!("batch {batch} of the validation came incomplete")))?;
        tally.add(&part);
    }
    Ok(Some(tally.report(loss.is_some())))
}

/// Little-endian: losses and seconds (f64), number of images, of each its boxes (corners, confidence, class) and labels (corners,
/// class), each after their number (u32).
fn write(part: &Part, out: &mut Vec<u8>) {
    let floats = |out: &mut Vec<u8>, values: &[f32]| values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    let count = |out: &mut Vec<u8>, length: usize| out.extend((length as u32).to_le_bytes());
    part.loss
        .iter()
        .chain(&part.seconds)
        .for_each(|value| out.extend(value.to_le_bytes()));
    count(out, part.images.len());
    for (detections, truths) in &part.images {
        count(out, detections.len());
        for found in detections {
            floats(out, &found.xyxy);
            floats(out, &[found.conf]);
            out.extend(found.class.to_le_bytes());
        }
        count(out, truths.len());
        for truth in truths {
            floats(out, &truth.xyxy);
            out.extend(truth.class.to_le_bytes());
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn three(bytes: &mut &[u8]) -> Option<[f64; 3]> {
    let mut number = || take(bytes).map(f64::from_le_bytes);
    Some([number()?, number()?, number()?])
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

fn corners(bytes: &mut &[u8]) -> Option<[f32; 4]> {
    let mut side = || take(bytes).map(f32::from_le_bytes);
    Some([side()?, side()?, side()?, side()?])
}

fn read(bytes: &mut &[u8]) -> Option<Part> {
    let (loss, seconds) = (three(bytes)?, three(bytes)?);
    let mut images = Vec::new();
    for _ in 0..number(bytes)? {
        let (mut detections, mut truths) = (Vec::new(), Vec::new());
        for _ in 0..number(bytes)? {
            detections.push(Detection {
                xyxy: corners(bytes)?,
                conf: take(bytes).map(f32::from_le_bytes)?,
                class: number(bytes)?,
            });
        }
        for _ in 0..number(bytes)? {
            truths.push(Truth {
                xyxy: corners(bytes)?,
                class: number(bytes)?,
            });
        }
        images.push((detections, truths));
    }
    Some(Part { loss, images, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let found = Detection {
            xyxy: [1.0, 2.0, 3.5, 4.0],
            conf: 0.25,
            class: 7,
        };
        let truth = Truth {
            class: 3,
            xyxy: [0.5, 0.0, 9.0, 8.0],
        };
        let part = Part {
            loss: [0.1, 0.2, 0.3],
            seconds: [1.0, 2.0, 3.0],
            images: vec![
                (vec![found; 2], vec![truth]),
                (vec![], vec![]),
                (vec![], vec![truth; 3]),
            ],
        };
        let mut bytes = Vec::new();
        write(&part, &mut bytes);
        write(&Part::default(), &mut bytes);
        let mut reader = bytes.as_slice();
        assert_eq!(read(&mut reader), Some(part));
        assert_eq!(read(&mut reader), Some(Part::default()));
        assert!(reader.is_empty());
        for short in 0..bytes.len() - 52 {
            assert_eq!(read(&mut &bytes[..short]), None, "{short}");
        }
    }
}
