//! TensorBoard event files: records of protocol buffers.
//!
//! A record is its length (u64), a masked CRC-32C of the length, the bytes, a masked CRC-32C of the bytes, all little-endian
//! (TensorFlow's `record_writer.h`).

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;

use crate::{Error, Result};

/// The fields of TensorFlow's `event.proto` that we use.
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    // Written for epoch 0, too.
    #[prost(int64, optional, tag = "2")]
    step: Option<i64>,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

/// `summary.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    // In a `oneof` there: zeros are written.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Names of event files begin so, wherever they come from, and end so if they are ours.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".yolo";

/// A growing event file of one run, flushed after every step.
#[derive(Debug)]
pub(super) struct Events {
    file: std::fs::File,
    path: std::path::PathBuf,
}

impl Events {
    /// Starts a file in `folder`. A resumed run starts another one; TensorBoard reads them in the order of their names.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let now = seconds();
        let path = folder.join(format!("{PREFIX}{now:.0}.{}{SUFFIX}", std::process::id()));
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "make the folder"))?;
        let file = std::fs::File::create(&path).map_err(Error::io(&path, "write it"))?;
        let mut events = Self { file, path };
        events.write(&Event {
            wall_time: now,
            step: None,
            what: Some(What::FileVersion("brain.Event:2".into())),
        })?;
        Ok(events)
    }

    /// Scalars of one step.
    pub(super) fn scalars<'a>(&mut self, step: usize, values: impl Iterator<Item = (&'a str, f64)>) -> Result<()> {
        let value = values.map(|(tag, value)| Scalar {
            tag: tag.to_owned(),
            simple_value: Some(value as f32),
        });
        self.write(&Event {
            wall_time: seconds(),
            step: Some(step as i64),
            what: Some(What::Summary(Summary { value: value.collect() })),
        })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        self.file
            .write_all(&record(&event.encode_to_vec()))
            .map_err(Error::io(&self.path, "write it"))
    }
}

/// Takes the events of epochs that are not done out of the files of earlier parts of a run, and a record that a kill left unfinished.
pub(super) fn cut(folder: &Path, epochs_done: usize) -> Result<()> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        let path = entry.path();
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "read it"))?;
        let kept = &bytes[..length_before(&bytes, epochs_done as i64)];
        if kept.len() < bytes.len() {
            crate::checkpoint::write_atomically(&path, |file| file.write_all(kept))?;
        }
    }
    Ok(())
}

/// Bytes of the whole records before the first one of `step` or later. Steps only grow.
fn length_before(bytes: &[u8], step: i64) -> usize {
    let mut length = 0;
    while let Some((size, rest)) = bytes[length..].split_first_chunk::<8>() {
        let Ok(size) = usize::try_from(u64::from_le_bytes(*size)) else {
            break;
        };
        let Some(data) = rest.get(4..).and_then(|rest| rest.get(..size.checked_add(4)?)) else {
            break;
        };
        if step_of(&data[..size]).is_some_and(|own| own >= step) {
            break;
        }
        length += 12 + data.len();
    }
    length
}

/// The step of an event with scalars.
fn step_of(event: &[u8]) -> Option<i64> {
    let event = Event::decode(event).ok()?;
    event.step.filter(|_| matches!(event.what, Some(What::Summary(_))))
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// One record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked_crc(data).to_le_bytes());
    out
}

/// CRC-32C, turned and shifted so that a checksum of data with checksums in it is not special.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of a file, their checksums tested.
    fn records(bytes: &[u8]) -> Vec<&[u8]> {
        let mut out = Vec::new();
        let mut rest = bytes;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        while !rest.is_empty() {
            let length = number(&rest[..8]) as usize;
            assert_eq!(number(&rest[8..12]) as u32, masked_crc(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(number(&rest[12 + length..16 + length]) as u32, masked_crc(data));
            out.push(data);
            rest = &rest[16 + length..];
        }
        out
    }

    #[test]
    fn checksums_are_those_of_tensorflow() {
        // CRC-32C of 32 zero bytes is 0x8a9136aa (RFC 3720, B.4).
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(
            masked_crc(&[0; 32]),
            0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
    }

    #[test]
    fn steps_that_will_be_repeated_are_cut_off_and_so_is_half_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::new(folder.path()).unwrap();
        for step in [0, 1, 300] {
            events.scalars(step, [("a", 1.0)].into_iter()).unwrap();
        }
        let whole = std::fs::read(&events.path).unwrap();
        let steps = |bytes: &[u8]| {
            records(bytes)
                .iter()
                .filter_map(|data| step_of(data))
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(&whole), [0, 1, 300]);
        cut(folder.path(), 301).unwrap();
        assert_eq!(std::fs::read(&events.path).unwrap(), whole);
        std::fs::write(&events.path, &whole[..whole.len() - 3]).unwrap();
        cut(folder.path(), 301).unwrap();
        assert_eq!(steps(&std::fs::read(&events.path).unwrap()), [0, 1]);
        cut(folder.path(), 1).unwrap();
        assert_eq!(steps(&std::fs::read(&events.path).unwrap()), [0]);
        cut(folder.path(), 0).unwrap();
        assert_eq!(
            records(&std::fs::read(&events.path).unwrap()).len(),
            1,
            "the version stays"
        );
    }

    #[test]
    fn a_file_holds_its_version_and_the_scalars_of_each_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::new(&folder.path().join("run")).unwrap();
        events.scalars(300, [("a/b", 1.5), ("c", -2.0)].into_iter()).unwrap();
        let file = std::fs::read(&events.path).unwrap();
        let records = records(&file);
        assert_eq!(records.len(), 2);
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // Step 300 = 0xac 0x02; a summary of two values of 10 and 8 bytes.
        let expected: &[u8] =
            b"\x10\xac\x02\x2a\x16\x0a\x0a\x0a\x03a/b\x15\x00\x00\xc0\x3f\x0a\x08\x0a\x01c\x15\x00\x00\x00\xc0";
        assert_eq!(&records[1][9..], expected);
        assert!(
            events
                .path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("events.out.tfevents."))
        );
    }
}
