//! The folder of a search: every candidate in a CSV file as soon as it is measured, so that a search that was interrupted goes on; at the
//! end a picture and the plans of the best.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use yolo_core::prune::{ChannelGroups, Evaluation, PlanFile, PrunePlan};
use yolo_engine::prune::{Candidate, Journal};
use yolo_report::{Chart, Series, charts};

use crate::error::{Error, Result, io_error};
use crate::files;

/// Name of the list of candidates.
pub const LIST: &str = "candidates.csv";

const HEADER: &str = "candidate,key,flops,params,steps,map50,map";
/// Plans that are kept.
const BEST: usize = 5;

/// One row of the CSV file.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    key: String,
    flops: f64,
    params: f64,
    steps: usize,
    worth: Evaluation,
}

impl Row {
    /// `1,0a1b,0.5,0.4,0,0.31,0.2`; nothing where the line is not whole.
    fn read(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.split(',').collect();
        let [_, key, flops, params, steps, map50, map] = cells.as_slice() else {
            return None;
        };
        Some(Self {
            key: (*key).to_owned(),
            flops: flops.parse().ok()?,
            params: params.parse().ok()?,
            steps: steps.parse().ok()?,
            worth: Evaluation {
                map50: map50.parse().ok()?,
                map: map.parse().ok()?,
            },
        })
    }

    fn line(&self, number: usize) -> String {
        let Self {
            key,
            flops,
            params,
            steps,
            worth,
        } = self;
        format!("{number},{key},{flops},{params},{steps},{},{}", worth.map50, worth.map)
    }
}

/// What is known, and the plans that were asked for in this process.
#[derive(Debug, Default)]
struct State {
    rows: Vec<Row>,
    at: HashMap<String, usize>,
    plans: HashMap<String, PrunePlan>,
}

/// The folder of one search.
#[derive(Debug)]
pub struct Candidates {
    folder: PathBuf,
    state: Mutex<State>,
    csv: Mutex<File>,
    _lock: files::Lock,
}

impl Candidates {
    /// Opens or makes the folder. `search` says what the candidates are of: weights, data and settings.
    ///
    /// # Errors
    /// [`Error::Usage`] where the folder holds another search or a file that is no list of candidates, and where another process works in
    /// it; [`Error::Failed`] names what can't be written.
    pub fn open(folder: &Path, search: &Value) -> Result<Self> {
        let lock = files::lock(folder)?;
        let (about, csv) = (folder.join("search.json"), folder.join(LIST));
        let mut state = State::default();
        if about.exists() {
            same_search(&about, search)?;
            if csv.exists() {
                state = read(&csv)?;
            }
        } else {
            let text = serde_json::to_string_pretty(search).unwrap_or_default() + "\n";
            files::write(&about, text.as_bytes())?;
        }
        // Whole lines only: what a killed process was writing is written again.
        let lines = state.rows.iter().zip(1..).map(|(row, number)| row.line(number));
        let text = std::iter::once(HEADER.to_owned())
            .chain(lines)
            .collect::<Vec<_>>()
            .join("\n")
            + "\n";
        files::write(&csv, text.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&csv)
            .map_err(|error| io_error("can't write", &csv, &error))?;
        Ok(Self {
            folder: folder.to_owned(),
            state: Mutex::new(state),
            csv: Mutex::new(file),
            _lock: lock,
        })
    }

    /// How many candidates are known.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rows.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `candidates.svg` and the plans of the best candidates, `best-1.json` first, for the network of `groups`.
    ///
    /// # Errors
    /// Names the file that can't be written.
    pub fn finish(&self, groups: &ChannelGroups) -> Result {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..state.rows.len()).collect();
        order.sort_by(|a, b| {
            state.rows[*b]
                .worth
                .map50
                .total_cmp(&state.rows[*a].worth.map50)
                .then(a.cmp(b))
        });
        let ranked = order.iter().filter_map(|at| state.plans.get(&state.rows[*at].key));
        for (plan, number) in ranked.take(BEST).zip(1..) {
            let path = self.folder.join(format!("best-{number}.json"));
            files::write(&path, PlanFile::new(plan, groups).write()?.as_bytes())?;
        }
        files::write(
            &self.folder.join("candidates.svg"),
            picture(&state.rows, &order).as_bytes(),
        )
    }
}

/// The list in `folder`, if it holds a candidate.
///
/// # Errors
/// Names the file and the line where it is no list of candidates.
pub fn list(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(LIST);
    if !path.exists() {
        return Ok(None);
    }
    let rows = read(&path)?.rows;
    (!rows.is_empty()).then(|| files::read_text(&path)).transpose()
}

impl Journal for Candidates {
    fn known(&self, candidate: &Candidate<'_>) -> Option<Evaluation> {
        let key = key(candidate);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.plans.insert(key.clone(), candidate.plan.clone());
        state.at.get(&key).map(|at| state.rows[*at].worth)
    }

    fn note(&self, candidate: &Candidate<'_>, worth: Evaluation) -> yolo_engine::Result<()> {
        let row = Row {
            key: key(candidate),
            flops: candidate.flops,
            params: candidate.params,
            steps: candidate.steps,
            worth,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let line = row.line(state.rows.len() + 1) + "\n";
        let mut csv = self.csv.lock().unwrap_or_else(PoisonError::into_inner);
        csv.write_all(line.as_bytes())
            .map_err(|source| yolo_engine::Error::Io {
                path: self.folder.join(LIST),
                action: "write it",
                source,
            })?;
        let at = state.rows.len();
        state.at.insert(row.key.clone(), at);
        state.rows.push(row);
        Ok(())
    }
}

/// Names a candidate: a hash of its plan and of what happens to it.
fn key(candidate: &Candidate<'_>) -> String {
    let mut hash = Sha256::new();
    for (group, keep) in &candidate.plan.keep {
        hash.update(format!("{group} {keep:?}\n"));
    }
    hash.update(format!("{} {}", candidate.steps, candidate.trained));
    files::hex(&hash.finalize()[..8])
}

fn same_search(path: &Path, search: &Value) -> Result {
    let text = files::read_text(path)?;
    let there: Value = serde_json::from_str(&text).unwrap_or_default();
    if there == *search {
        return Ok(());
    }
    let parts = search.as_object().into_iter().flatten();
    let differs = parts
        .filter(|(name, value)| there.get(*name) != Some(*value))
        .map(|(name, _)| name.as_str());
    let differs: Vec<&str> = differs.collect();
    Err(Error::Usage(format!(
        "{}: the candidates there are of another search ({})\n  help: give another folder, or remove this one to start anew",
        path.parent().unwrap_or(path).display(),
        differs.join(", ")
    )))
}

fn read(path: &Path) -> Result<State> {
    let text = files::read_text(path)?;
    let mut state = State::default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (at, line) in whole.lines().enumerate() {
        if at == 0 && line == HEADER {
            continue;
        }
        let row = Row::read(line).filter(|_| at > 0).ok_or_else(|| {
            Error::Usage(format!(
                "{}:{}: this is no list of candidates (`{HEADER}`)\n  help: give another folder, or remove this one to start anew",
                path.display(),
                at + 1
            ))
        })?;
        state.at.insert(row.key.clone(), state.rows.len());
        state.rows.push(row);
    }
    Ok(state)
}

/// mAP50 over the share of FLOPs; the best ones in a series of their own.
fn picture(rows: &[Row], order: &[usize]) -> String {
    let points = |which: &[usize]| -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, f64)> = which
            .iter()
            .map(|at| (rows[*at].flops, rows[*at].worth.map50))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let (best, rest) = order.split_at(BEST.min(order.len()));
    let series = |name: &str, which: &[usize]| Series {
        name: format!("{name} ({})", which.len()),
        points: points(which),
        dots: true,
        ..Series::default()
    };
    charts(
        &[Chart {
            title: format!("{} candidates", rows.len()),
            x_label: "share of the FLOPs".into(),
            y_label: "mAP50 after recalibration".into(),
            series: vec![series("others", rest), series("best", best)],
            ..Chart::default()
        }],
        1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(width: usize) -> PrunePlan {
        PrunePlan {
            keep: [("a".to_owned(), (0..width).collect())].into(),
        }
    }

    fn candidate(plan: &PrunePlan) -> Candidate<'_> {
        Candidate {
            plan,
            steps: 0,
            trained: 0,
            flops: 0.1 + 0.2,
            params: 0.4,
        }
    }

    fn worth(map50: f64) -> Evaluation {
        Evaluation {
            map50,
            map: map50 / 3.0,
        }
    }

    #[test]
    fn a_search_goes_on_where_it_was_and_refuses_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("search");
        let search = json!({"weights": "1", "seed": 0});
        let plans: Vec<PrunePlan> = (1..4).map(plan).collect();
        {
            let first = Candidates::open(&folder, &search).expect("a folder");
            for (plan, map50) in plans.iter().zip([0.3, 0.1, 0.7]) {
                assert_eq!(first.known(&candidate(plan)), None);
                first.note(&candidate(plan), worth(map50)).expect("written");
            }
            assert!(Candidates::open(&folder, &search).is_err(), "two processes at once");
        }
        // A process that was killed in the third line: its two whole ones count, exactly.
        let csv = folder.join(LIST);
        let text = std::fs::read_to_string(&csv).expect("the list");
        std::fs::write(&csv, &text[..text.len() - 4]).expect("the list");
        let again = Candidates::open(&folder, &search).expect("the same search");
        assert_eq!(again.len(), 2);
        assert_eq!(again.known(&candidate(&plans[0])), Some(worth(0.3)));
        assert_eq!(again.known(&candidate(&plans[2])), None);
        let tuned = Candidate {
            steps: 3,
            ..candidate(&plans[0])
        };
        assert_eq!(again.known(&tuned), None, "a candidate that is tuned is another");
        again.note(&candidate(&plans[2]), worth(0.7)).expect("written");
        assert_eq!(std::fs::read_to_string(&csv).expect("the list"), text);
        drop(again);
        let error = Candidates::open(&folder, &json!({"weights": "2", "seed": 0})).expect_err("other weights");
        assert!(error.to_string().contains("another search (weights)"), "{error}");
        std::fs::write(&csv, text.replace(",0.4,", ",x,")).expect("the list");
        let error = Candidates::open(&folder, &search).expect_err("a broken list");
        assert!(error.to_string().contains("candidates.csv:2"), "{error}");
    }
}
