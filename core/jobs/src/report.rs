//! One page of what runs have found: the files that they left are read, nothing is computed anew.
//!
//! What must not live here: how a page is written, which is in `yolo-report`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use yolo_report::chart::{Chart, Series, charts};
use yolo_report::page::{Kind, Page};
use yolo_report::training_curves;

use crate::compress::StageRow;
use crate::error::{Error, Result, io_error};
use crate::train::OPTIONS;
use crate::{compress, files};

/// A picture of more bytes would make a page that no browser likes.
const LARGEST: u64 = 8 << 20;

/// What every page says.
const MADE: &str = "Made by yolo report";

/// What a run has come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// Its folder.
    pub run: PathBuf,
    /// `train`, `compress` or `val`.
    pub kind: &'static str,
    /// The data set, where the run's settings name it.
    pub data: Option<String>,
    /// Epochs that were trained, where it is one training.
    pub epochs: Option<usize>,
    /// Whether more epochs were asked for: it was stopped, or patience has ended it.
    pub unfinished: bool,
    /// The best of them, counted from 0 as in `results.csv`.
    pub best_epoch: Option<usize>,
    /// mAP at IoU 0.5 there; of a recipe that of its last model.
    pub map50: Option<f64>,
    /// mAP over IoU 0.5:0.95.
    pub map: Option<f64>,
}

/// Writes the page of `runs` to `out`.
///
/// # Errors
/// [`Error::Usage`] where `out` is no `.html` file or is another file that would be lost, or a folder is no run; [`Error::Failed`] where a
/// file of a run can't be read, with its line. Nothing is written then.
pub fn write(runs: &[PathBuf], out: &Path) -> Result<Vec<RunRow>> {
    let page = |ending: &std::ffi::OsStr| ending.eq_ignore_ascii_case("html") || ending.eq_ignore_ascii_case("htm");
    if !out.extension().is_some_and(page) {
        return Err(Error::Usage(format!(
            "--out {}: the page is a .html file",
            out.display()
        )));
    }
    if out.exists() && !files::read_text(out).is_ok_and(|text| text.contains(MADE)) {
        return Err(Error::Usage(format!(
            "--out {}: this page is not of `yolo report` and would be overwritten; give another name",
            out.display()
        )));
    }
    let places: Vec<PathBuf> = runs
        .iter()
        .map(|run| run.canonicalize().unwrap_or_else(|_| run.clone()))
        .collect();
    if let Some(again) = (1..places.len()).find(|at| places[..*at].contains(&places[*at])) {
        return Err(Error::Usage(format!(
            "{}: this run is named twice",
            runs[again].display()
        )));
    }
    let found = runs.iter().map(|run| Run::read(run)).collect::<Result<Vec<_>>>()?;
    let title = match runs {
        [one] => format!("yolo: {}", one.display()),
        many => format!("yolo: {} runs", many.len()),
    };
    let mut page = Page::new(&title);
    page.text(&format!("{MADE} {}.", env!("CARGO_PKG_VERSION")));
    if found.len() > 1 {
        beside(&mut page, &found);
    }
    for run in &found {
        run.show(&mut page)?;
    }
    files::write(out, page.finish().as_bytes())?;
    Ok(found.into_iter().map(|run| run.row).collect())
}

/// A recipe's `results.json`.
#[derive(Deserialize)]
struct Table {
    stages: Vec<StageRow>,
    #[serde(default)]
    notes: Vec<String>,
}

/// The files of a run.
struct Run {
    row: RunRow,
    name: String,
    training: Option<Training>,
    stages: Vec<StageRow>,
    notes: Vec<String>,
    /// Trainings of a recipe's stages, in their order.
    inner: Vec<(String, Training)>,
}

/// A `results.csv`.
struct Training {
    path: PathBuf,
    text: String,
    epochs: Vec<f64>,
    map50: Vec<f64>,
    map: Vec<f64>,
}

impl Training {
    fn read(path: &Path) -> Result<Option<Self>> {
        if !path.is_file() {
            return Ok(None);
        }
        let text = files::read_text(path)?;
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let header: Vec<&str> = lines
            .next()
            .map_or(Vec::new(), |(_, line)| line.split(',').map(str::trim).collect());
        let column = |name: &str| {
            header.iter().position(|cell| *cell == name).ok_or_else(|| {
                Error::Failed(format!(
                    "{}:1: the column `{name}` is missing: this is no table of a training",
                    path.display()
                ))
            })
        };
        let columns = [
            column("epoch")?,
            column("metrics/mAP_0.5")?,
            column("metrics/mAP_0.5:0.95")?,
        ];
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        for (index, line) in lines {
            let cells: Vec<&str> = line.split(',').map(str::trim).collect();
            for (values, at) in found.iter_mut().zip(columns) {
                let cell = cells.get(at).copied().filter(|_| cells.len() == header.len());
                let value = match cell {
                    // An epoch without validation.
                    Some("") => Some(f64::NAN),
                    Some(cell) => cell.parse().ok(),
                    None => None,
                };
                values.push(value.ok_or_else(|| {
                    Error::Failed(format!(
                        "{}:{}: not the {} numbers that the header names",
                        path.display(),
                        index + 1,
                        header.len()
                    ))
                })?);
            }
        }
        let [epochs, map50, map] = found;
        Ok(Some(Self {
            path: path.to_owned(),
            text,
            epochs,
            map50,
            map,
        }))
    }

    /// The row with the best fitness, 0.1 mAP50 + 0.9 mAP, the first of equal ones, as in training.
    fn best(&self) -> Option<usize> {
        let fitness = |at: &usize| 0.1 * self.map50[*at] + 0.9 * self.map[*at];
        // Of equal ones `max_by` gives the last that it sees.
        (0..self.map.len())
            .rev()
            .filter(|at| fitness(at).is_finite())
            .max_by(|a, b| fitness(a).total_cmp(&fitness(b)))
    }

    fn show(&self, page: &mut Page) -> Result {
        if let Some(best) = self.best() {
            page.text(&format!(
                "{} epoch{}; the best, {}: mAP50 {:.4}, mAP {:.4}",
                self.epochs.len(),
                if self.epochs.len() == 1 { "" } else { "s" },
                self.epochs[best] + 1.0,
                self.map50[best],
                self.map[best]
            ));
        }
        let curves =
            training_curves(&self.text).map_err(|error| Error::Failed(format!("{}: {error}", self.path.display())))?;
        page.picture(
            Kind::Svg,
            curves.as_bytes(),
            "Losses, metrics and learning rates over the epochs",
        );
        Ok(())
    }
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::Usage(format!(
                "{}: there is no such folder of a run",
                folder.display()
            )));
        }
        let training = Training::read(&folder.join("results.csv"))?;
        let (stages, notes) = recipe(folder)?;
        let mut inner = Vec::new();
        for stage in &stages {
            if let Some(training) = Training::read(&folder.join(&stage.name).join("results.csv"))? {
                inner.push((stage.name.clone(), training));
            }
        }
        let best = training
            .as_ref()
            .and_then(|training| Some((training, training.best()?)));
        let last = stages
            .iter()
            .rfind(|stage| stage.kind != "bench" && stage.kind != "reference");
        let kind = match (&training, stages.is_empty()) {
            (_, false) => "compress",
            (Some(_), true) => "train",
            (None, true) if !pictures(folder)?.is_empty() => "val",
            (None, true) => {
                return Err(Error::Usage(format!(
                    "{}: this is no run: neither results.csv nor results.json nor pictures are in it\n  help: `yolo train`, `yolo compress` \
                     and `yolo val` make folders of runs",
                    folder.display()
                )));
            }
        };
        let name = folder.display().to_string();
        Ok(Self {
            row: RunRow {
                run: folder.to_owned(),
                kind,
                data: data_set(folder)?,
                epochs: training.as_ref().map(|training| training.epochs.len()),
                unfinished: crate::train::unfinished(folder).is_some(),
                best_epoch: best.map(|(training, at)| training.epochs[at] as usize),
                map50: best.map(|(t, at)| t.map50[at]).or(last.map(|stage| stage.map50)),
                map: best.map(|(t, at)| t.map[at]).or(last.map(|stage| stage.map)),
            },
            name,
            training,
            stages,
            notes,
            inner,
        })
    }

    fn show(&self, page: &mut Page) -> Result {
        page.chapter(&self.name);
        if self.row.unfinished {
            page.text("More epochs were asked for than were trained: the run was stopped, or patience has ended it.");
        }
        if !self.stages.is_empty() {
            let (header, rows) = compress::cells(&self.stages);
            page.table(&header, &rows);
            for line in &self.notes {
                page.text(line);
            }
            page.picture(
                Kind::Svg,
                against(&self.stages).as_bytes(),
                "Accuracy on the validation images against what a model costs",
            );
        }
        if let Some(training) = &self.training {
            training.show(page)?;
        }
        let options = self.row.run.join(OPTIONS);
        if options.is_file() {
            page.folded("Settings", &files::read_text(&options)?);
        }
        show_pictures(page, &self.row.run)?;
        for (stage, training) in &self.inner {
            page.section(stage);
            training.show(page)?;
        }
        let sheets = self.row.run.join("pictures");
        if sheets.is_dir() {
            page.section("What the last model finds");
            show_pictures(page, &sheets)?;
        }
        Ok(())
    }
}

/// The data set that the settings in a run's folder name.
fn data_set(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(OPTIONS);
    if !path.is_file() {
        return Ok(None);
    }
    let wrong = |error| Error::Failed(format!("{}: not the settings of a run: {error}", path.display()));
    let settings: serde_json::Value = serde_json::from_str(&files::read_text(&path)?).map_err(wrong)?;
    Ok(settings["data"].as_str().map(str::to_owned))
}

/// Stages and notes of a recipe's `results.json`; none where there is no such file.
fn recipe(folder: &Path) -> Result<(Vec<StageRow>, Vec<String>)> {
    let path = folder.join("results.json");
    if !path.is_file() {
        return Ok((Vec::new(), Vec::new()));
    }
    let wrong = |error| Error::Failed(format!("{}: not the table of a recipe: {error}", path.display()));
    let table: Table = serde_json::from_str(&files::read_text(&path)?).map_err(wrong)?;
    Ok((table.stages, table.notes))
}

/// Pictures of a folder by name.
fn pictures(folder: &Path) -> Result<Vec<(PathBuf, Kind)>> {
    let entries = std::fs::read_dir(folder).map_err(|error| io_error("can't read the folder", folder, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| io_error("can't read the folder", folder, &error))?
            .path();
        if let Some(kind) = Kind::of(&path).filter(|_| path.is_file()) {
            found.push((path, kind));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn show_pictures(page: &mut Page, folder: &Path) -> Result {
    for (path, kind) in pictures(folder)? {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let size = path
            .metadata()
            .map_err(|error| io_error("can't read", &path, &error))?
            .len();
        if size > LARGEST {
            page.text(&format!("{name} is left out: it has {:.0} MB", size as f64 / 1e6));
            continue;
        }
        // The curves are drawn from the table.
        if name == "results.svg" {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|error| io_error("can't read", &path, &error))?;
        page.picture(kind, &bytes, &name);
    }
    Ok(())
}

/// Several runs in one table and one chart.
fn beside(page: &mut Page, runs: &[Run]) {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
    let count = |value: Option<usize>| value.map_or_else(String::new, |value| value.to_string());
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.name.clone(),
                run.row.kind.to_owned(),
                run.row.data.clone().unwrap_or_default(),
                count(run.row.epochs),
                count(run.row.best_epoch.map(|epoch| epoch + 1)),
                number(run.row.map50),
                number(run.row.map),
            ]
        })
        .collect();
    page.table(&["run", "kind", "data", "epochs", "best epoch", "mAP50", "mAP"], &rows);
    let of = |title: &str, values: &dyn Fn(&Training) -> Vec<f64>| Chart {
        title: title.to_owned(),
        x_label: "epoch".to_owned(),
        series: runs
            .iter()
            .filter_map(|run| {
                let training = run.training.as_ref()?;
                Some(Series {
                    name: run.name.clone(),
                    points: training.epochs.iter().copied().zip(values(training)).collect(),
                    ..Series::default()
                })
            })
            .collect(),
        ..Chart::default()
    };
    let sheet = [of("mAP50", &|t| t.map50.clone()), of("mAP", &|t| t.map.clone())];
    if sheet[0].series.len() > 1 {
        page.picture(
            Kind::Svg,
            charts(&sheet, 2).as_bytes(),
            "The trainings beside each other",
        );
    }
}

/// mAP over GFLOPs, and over milliseconds where they were measured: a dot for every model.
fn against(stages: &[StageRow]) -> String {
    let models = || {
        stages
            .iter()
            .filter(|stage| stage.kind != "bench" && stage.kind != "export")
    };
    let chart = |title: &str, label: &str, x: &dyn Fn(&StageRow) -> Option<f64>| Chart {
        title: title.to_owned(),
        x_label: label.to_owned(),
        y_label: "mAP".to_owned(),
        series: models()
            .filter_map(|stage| {
                Some(Series {
                    name: stage.name.clone(),
                    points: vec![(x(stage)?, stage.map)],
                    dots: true,
                    ..Series::default()
                })
            })
            .collect(),
        ..Chart::default()
    };
    let mut sheet = vec![chart("Accuracy and work", "GFLOPs", &|stage| Some(stage.gflops))];
    let timed = chart("Accuracy and time", "ms", &|stage| stage.fps.map(|fps| 1e3 / fps));
    if !timed.series.is_empty() {
        sheet.push(timed);
    }
    charts(&sheet, 2)
}
