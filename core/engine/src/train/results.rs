//! `results.csv` with Ultralytics' columns.

use std::io::Write as _;
use std::path::Path;

use crate::{Error, Result};

/// One epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EpochRow {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Mean box, objectness and class loss.
    pub loss: [f64; 3],
    /// Precision, recall, mAP50, mAP of the average model, where it was validated.
    pub metrics: Option<[f64; 4]>,
    /// Box, objectness and class loss of the average model on the validation images.
    pub val_loss: Option<[f64; 3]>,
    /// Learning rates of norms, weights and biases in the last step.
    pub lr: [f64; 3],
    /// Mean loss of the distiller, where there is a teacher.
    pub distil_loss: Option<f64>,
}

/// Columns of the file; the same names are the tags of TensorBoard.
pub(super) const COLUMNS: [&str; 14] = [
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
];

/// The column behind them in a training with a teacher.
const DISTIL: &str = "train/distil_loss";

impl EpochRow {
    /// The values after the epoch, in the order of the columns; what was not measured is absent.
    pub(super) fn values(&self) -> [Option<f64>; 13] {
        let mut out = [None; 13];
        let measured = |out: &mut [Option<f64>], values: &[f64]| {
            out.iter_mut()
                .zip(values)
                .for_each(|(slot, value)| *slot = Some(*value));
        };
        measured(&mut out[..3], &self.loss);
        self.metrics
            .iter()
            .for_each(|metrics| measured(&mut out[3..7], metrics));
        self.val_loss.iter().for_each(|loss| measured(&mut out[7..10], loss));
        measured(&mut out[10..], &self.lr);
        out
    }

    fn from_values(epoch: usize, values: &[Option<f64>]) -> Option<Self> {
        fn all<const N: usize>(values: &[Option<f64>]) -> Option<[f64; N]> {
            values.iter().copied().collect::<Option<Vec<f64>>>()?.try_into().ok()
        }
        Some(Self {
            epoch,
            loss: all(values.get(..3)?)?,
            metrics: all(values.get(3..7)?),
            val_loss: all(values.get(7..10)?),
            lr: all(values.get(10..13)?)?,
            distil_loss: values.get(13).copied().flatten(),
        })
    }
}

/// Adds a row; an epoch that is there already (a resumed run) is replaced, with all that follow.
pub(super) fn append(path: &Path, row: &EpochRow) -> Result<()> {
    let mut rows = read(path)?;
    rows.retain(|old| old.epoch < row.epoch);
    rows.push(*row);
    write(path, &rows)
}

/// Takes away the rows of epochs that are not done.
pub(super) fn cut(path: &Path, epochs_done: usize) -> Result<()> {
    let mut rows = read(path)?;
    let before = rows.len();
    rows.retain(|row| row.epoch < epochs_done);
    if rows.is_empty() && path.exists() {
        return std::fs::remove_file(path).map_err(Error::io(path, "remove it"));
    }
    if rows.len() < before {
        write(path, &rows)
    } else {
        Ok(())
    }
}

fn write(path: &Path, rows: &[EpochRow]) -> Result<()> {
    crate::checkpoint::write_atomically(path, |file| {
        let taught = rows.iter().any(|row| row.distil_loss.is_some());
        let extra = if taught { format!(",{DISTIL}") } else { String::new() };
        writeln!(file, "{}{extra}", COLUMNS.join(","))?;
        for row in rows {
            let mut values = row.values().to_vec();
            if taught {
                values.push(row.distil_loss);
            }
            let text = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.6}"));
            let values: Vec<String> = values.into_iter().map(text).collect();
            writeln!(file, "{},{}", row.epoch, values.join(","))?;
        }
        Ok(())
    })
}

/// Rows of a file; none if there is no file. An error if the file is something else.
pub(super) fn read(path: &Path) -> Result<Vec<EpochRow>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(path, "read it")(error)),
    };
    let row = |(index, line): (usize, &str)| {
        let mut fields = line.split(',').map(str::trim);
        let epoch = fields.next().and_then(|field| field.parse().ok());
        let values: Vec<Option<f64>> = fields.map(|field| field.parse().ok()).collect();
        epoch
            .and_then(|epoch| EpochRow::from_values(epoch, &values))
            .ok_or_else(|| {
                Error::file(
                    path,
                    format!("line {} is no row of a training; move the file away", index + 1),
                )
            })
    };
    text.lines()
        .enumerate()
        .skip(1)
        .filter(|(_, line)| !line.trim().is_empty())
        .map(row)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_a_repeated_epoch_replaces_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let plain = EpochRow {
            loss: [0.5, 0.25, 0.125],
            lr: [0.01, 0.01, 0.1],
            ..EpochRow::default()
        };
        let measured = EpochRow {
            epoch: 1,
            metrics: Some([0.1, 0.2, 0.3, 0.4]),
            val_loss: Some([1.0, 2.0, 3.0]),
            ..plain
        };
        append(&path, &plain).unwrap();
        append(&path, &measured).unwrap();
        append(&path, &EpochRow { epoch: 2, ..plain }).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3);
        append(&path, &measured).unwrap();
        assert_eq!(read(&path).unwrap(), [plain, measured]);
        cut(&path, 2).unwrap();
        assert_eq!(read(&path).unwrap(), [plain, measured], "nothing to cut");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("epoch,train/box_loss,"));
        assert_eq!(
            text.lines().nth(1),
            Some("0,0.500000,0.250000,0.125000,,,,,,,,0.010000,0.010000,0.100000")
        );
        cut(&path, 1).unwrap();
        assert_eq!(read(&path).unwrap(), [plain], "a row without a state is repeated");
        cut(&path, 0).unwrap();
        assert!(!path.exists(), "no header without rows");
        cut(&path, 0).unwrap();
    }

    #[test]
    fn a_training_with_a_teacher_has_one_column_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let row = EpochRow {
            distil_loss: Some(0.75),
            ..EpochRow::default()
        };
        append(&path, &row).unwrap();
        assert_eq!(read(&path).unwrap(), [row]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.lines()
                .next()
                .is_some_and(|header| header.ends_with("x/lr2,train/distil_loss")),
            "{text}"
        );
        assert!(text.trim_end().ends_with(",0.750000"), "{text}");
    }

    #[test]
    fn a_file_that_is_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        std::fs::write(&path, "name,score\nx,1\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("results.csv") && error.contains("line 2"), "{error}");
        assert!(read(&folder.path().join("none.csv")).unwrap().is_empty());
    }
}
