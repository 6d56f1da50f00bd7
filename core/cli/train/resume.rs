//! Options of a run: written beside its results, read again by `--resume`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use yolo_engine::train::STATE;
use yolo_jobs::files::{self, RunFolder};
use yolo_jobs::open;
use yolo_jobs::train::{FREE, OPTIONS, finished};

use super::TrainArgs;
use crate::error::{CliError, CliResult};
use crate::ui;

/// Options of the command that may change when a run goes on, besides those settings that change no weight: where it computes, what it
/// shows, and (paths, where the files now are) what is compared by content.
const MOVABLE: [&str; 12] = [
    "cfg",
    "data",
    "device",
    "evolve",
    "exist-ok",
    "hyp",
    "name",
    "noplots",
    "processes",
    "project",
    "set",
    "weights",
];

/// Options, folder, and whether there is something to continue; that of a new run is not taken yet ([`taken`]). `given` are the names of options on the command line.
pub fn resumed(args: &TrainArgs, given: &[String]) -> CliResult<(TrainArgs, PathBuf, bool)> {
    let Some(wanted) = &args.resume else {
        return Ok((args.clone(), args.project.join(&args.name), false));
    };
    let folder = match wanted {
        Some(place) => Some(folder_of(place)),
        None => latest(&args.project, &args.name),
    };
    let started = folder.filter(|folder| [OPTIONS, STATE].iter().any(|file| folder.join(file).is_file()));
    match (started, &args.data, wanted) {
        // The whole command was given again: a run that was ended before it wrote anything starts anew.
        (None, Some(_), None) => {
            let folder = args.project.join(&args.name);
            ui::say(format!(
                "{}: there is no unfinished run; a new one starts there",
                folder.display()
            ));
            Ok((args.clone(), folder, false))
        }
        (None, _, _) => {
            let place = wanted.clone().unwrap_or_else(|| args.project.join(&args.name));
            Err(CliError::Usage(format!(
                "{}: there is no unfinished run to resume",
                place.display()
            )))
        }
        (Some(folder), _, _) => {
            let path = folder.join(OPTIONS);
            let text = files::read_text(&path)?;
            let saved: Value = serde_json::from_str(&text)
                .map_err(|error| CliError::Failed(format!("{}: {error}; start a new run", path.display())))?;
            let saved = in_present_words(saved);
            let moved = |name: &&String| matches!(name.as_str(), "project" | "name" | "exist_ok");
            if wanted.is_some() && given.iter().any(|name| moved(&name)) {
                ui::say(format!(
                    "--project, --name and --exist-ok don't move a run: it goes on in {}",
                    folder.display()
                ));
            }
            let args = merged(&saved, args, given, &folder)?;
            // A run that was ended before its first state starts anew, in its folder.
            let resume = args.evolve.is_some() || folder.join(STATE).is_file();
            Ok((args, folder, resume))
        }
    }
}

/// Takes the folder of a new run, which gets a number where its name is taken.
pub fn taken((args, folder, _): &mut (TrainArgs, PathBuf, bool)) -> CliResult<RunFolder> {
    let own = RunFolder::take(&args.project, &args.name, args.exist_ok)?;
    own.path().clone_into(folder);
    Ok(own)
}

/// The options of a run, with those that may change as they are given now.
fn merged(saved: &Value, args: &TrainArgs, given: &[String], folder: &Path) -> CliResult<TrainArgs> {
    let now = serde_json::to_value(args)?;
    let mut all = saved.clone();
    let mut changed = Vec::new();
    let keys = given.iter().map(|name| key_of(name));
    for name in keys.filter(|name| now.get(name).is_some()) {
        let (here, there) = (&now[&name], &saved[&name]);
        // More generations are fine, but a training is no evolution.
        let other_kind = name == "evolve" && there.is_null();
        if !other_kind && (FREE.contains(&name.as_str()) || MOVABLE.contains(&name.as_str())) {
            all[&name] = here.clone();
        } else if here != there && !(name == "batch-size" && here == "auto") {
            changed.push(format!("--{name} is {here} here, {there} there"));
        }
    }
    // No setting of its own, but the other spelling of no --cos-lr.
    if args.linear_lr && saved["cos-lr"] == true {
        changed.push("--linear-lr is given here, --cos-lr there".to_owned());
    }
    if !changed.is_empty()
        && let Some(epochs) = finished(folder)
    {
        return Err(CliError::Usage(format!(
            "{}: the run there is finished ({epochs} epochs) and has other settings: {}\n  help: start a new one from its \
             weights: `yolo train --weights {} ...`",
            folder.display(),
            changed.join("; "),
            folder.join("weights/last.safetensors").display()
        )));
    }
    if !changed.is_empty() {
        return Err(CliError::Usage(format!(
            "{}: the unfinished run there has other settings: {}\n  help: a run goes on as it was started (--workers, --device, --processes, \
             --save-period and --noplots may change); for other settings start a new one from its weights: `yolo train --weights {} ...`",
            folder.display(),
            changed.join("; "),
            folder.join("weights/last.safetensors").display()
        )));
    }
    serde_json::from_value(all)
        .map_err(|error| CliError::Failed(format!("{}: {error}; start a new run", folder.join(OPTIONS).display())))
}

/// The key of an option: flags, recipes and `options.json` write it alike.
fn key_of(option: &str) -> String {
    option.replace('_', "-")
}

/// Options as `options.json` has them: JSON keys of this program have underscores.
pub fn written(args: &TrainArgs) -> CliResult<Value> {
    Ok(match serde_json::to_value(args)? {
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| (name.replace('-', "_"), value))
            .collect(),
        other => other,
    })
}

/// Options of a run in the words of settings. Runs of earlier versions had no option for anchors, whose fit came later.
fn in_present_words(saved: Value) -> Value {
    match saved {
        Value::Object(map) => {
            let mut map: serde_json::Map<String, Value> =
                map.into_iter().map(|(name, value)| (key_of(&name), value)).collect();
            if let Some(Value::String(name)) = map.get("sparsify")
                && let Ok(component) = open::component(name)
            {
                map.insert("sparsify".into(), component);
            }
            map.entry("noautoanchor").or_insert(Value::Bool(true));
            Value::Object(map)
        }
        other => other,
    }
}

/// The run's folder: itself, or that of something in it (`weights/last.safetensors`, `weights`, `state.safetensors`).
fn folder_of(place: &Path) -> PathBuf {
    let run_of = |weights: &Path| {
        let run = weights.parent().filter(|_| weights.ends_with("weights"))?;
        [OPTIONS, STATE]
            .iter()
            .any(|file| run.join(file).is_file())
            .then(|| run.to_owned())
    };
    if !place.is_file() {
        return run_of(place).unwrap_or_else(|| place.to_owned());
    }
    let folder = place.parent().unwrap_or(Path::new(""));
    let run = if folder.ends_with("weights") {
        folder.parent().unwrap_or(Path::new(""))
    } else {
        folder
    };
    if run.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        run.to_owned()
    }
}

/// The run among `project/name`, `project/name2`, ... whose state was written last.
fn latest(project: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(project).ok()?;
    let runs = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().strip_prefix(name)?.to_owned();
        let time = |file: &str| entry.path().join(file).metadata().ok()?.modified().ok();
        let written = time(STATE).or_else(|| time(OPTIONS))?;
        number
            .chars()
            .all(|c| c.is_ascii_digit())
            .then(|| (written, entry.path()))
    });
    runs.max().map(|(_, path)| path)
}
