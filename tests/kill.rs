//! A training that is killed again and again, at random moments, ends in the same bits as one that nobody disturbed; one that is
//! asked to stop ends with a command that continues it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Said, command, files, yolo};
use crate::train::Place;

const EPOCHS: usize = 8;

/// Kills in all: five or more wherever tests run, more for `cargo xtask bench kill`.
fn wanted() -> usize {
    number("YOLO_KILLS").map_or(5, |kills| kills as usize)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Numbers from 0 to 1 (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn start(folder: &Path, arguments: &[String]) -> Child {
    command(folder)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// Whether it ended by itself within `time`.
fn ends_within(child: &mut Child, time: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < time {
        if child.try_wait().expect("a status").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What must be equal, bit by bit.
const RESULTS: [&str; 4] = [
    "results.csv",
    "weights/best.safetensors",
    "weights/last.safetensors",
    "state.safetensors",
];

/// The steps of all event files of a run, in the order of the files' names.
fn steps(run: &Path) -> Vec<u64> {
    let mut out = Vec::new();
    for file in files(run)
        .iter()
        .filter(|file| file.starts_with("events.out.tfevents."))
    {
        let bytes = bytes(&run.join(file));
        let mut rest = &bytes[..];
        while let Some((length, _)) = rest.split_first_chunk::<8>() {
            let data = &rest[12..12 + u64::from_le_bytes(*length) as usize];
            // Wall time in 9 bytes, then the step as field 2; the first record has a version instead.
            if data[9] == 0x10 {
                out.push(u64::from(data[10]));
            }
            rest = &rest[16 + data.len()..];
        }
    }
    out
}

#[test]
fn random_kills_change_nothing() {
    let place = Place::new();
    let runs = place.path().join("runs");
    let clock = Instant::now();
    yolo(place.path(), &place.arguments("whole", EPOCHS, &["--noplots"])).ok();
    let whole = clock.elapsed();
    let seed = number("YOLO_SEED").unwrap_or(12);
    eprintln!("random moments of seed {seed} (YOLO_SEED)");
    let mut random = Random(seed);
    let (mut kills, mut while_training) = (0, 0);
    for run in 0.. {
        let name = format!("killed{run}");
        let folder = runs.join(&name);
        loop {
            // Before anything was written there is nothing to resume: the command is given again.
            let resume = folder.join("options.json").exists();
            let arguments = if resume {
                ["train", "--resume", &format!("runs/{name}")]
                    .map(str::to_owned)
                    .to_vec()
            } else {
                place.arguments(&name, EPOCHS, &["--noplots", "--exist-ok"])
            };
            let mut child = start(place.path(), &arguments);
            let patience = if kills < wanted() {
                whole.mul_f64(random.next())
            } else {
                Duration::from_secs(600)
            };
            if ends_within(&mut child, patience) {
                Said::from(child.wait_with_output().expect("an end")).ok();
                break;
            }
            child.kill().expect("a kill");
            child.wait().expect("an end");
            kills += 1;
            while_training += usize::from(folder.join("state.safetensors").exists());
            let rows = std::fs::read_to_string(folder.join("results.csv")).unwrap_or_default();
            eprintln!(
                "kill {kills} after {patience:.2?}: {} rows",
                rows.lines().count().saturating_sub(1)
            );
        }
        for file in RESULTS {
            let (got, expected) = (bytes(&folder.join(file)), bytes(&runs.join("whole").join(file)));
            assert!(
                got == expected,
                "{name}/{file} differs from that of the whole run (seed {seed})"
            );
        }
        assert_eq!(
            steps(&folder),
            (0..EPOCHS as u64).collect::<Vec<_>>(),
            "events of {name}"
        );
        assert!(
            files(&folder).iter().all(|file| !file.contains(".writing-")),
            "what a kill left half-written is gone: {:?}",
            files(&folder)
        );
        if kills >= wanted() {
            break;
        }
    }
    assert!(
        while_training >= 2,
        "{while_training} of {kills} kills met a training; choose another seed"
    );
}

/// The command that a message advises, without `yolo`.
fn advice(said: &Said) -> Vec<String> {
    let text = said.err.split("`yolo ").nth(1).and_then(|rest| rest.split('`').next());
    let text = text.unwrap_or_else(|| panic!("no command in:\n{}", said.err));
    text.split(' ').map(str::to_owned).collect()
}

/// Waits for a file that a training writes.
fn wait_for(child: &mut Child, file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "{} is not written",
            file.display()
        );
        assert!(
            child.try_wait().expect("a status").is_none(),
            "it ended before {}",
            file.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, number: i32) {
    // SAFETY: sends a signal to a child that has not been waited for.
    let sent = unsafe { libc::kill(child.id().cast_signed(), number) };
    assert_eq!(sent, 0);
}

#[test]
fn a_signal_ends_a_training_and_its_advice_continues_it() {
    let place = Place::new();
    // Large pictures in small batches: the signal meets the epoch that is meant.
    let arguments = |name: &str| {
        let mut all = place.arguments(name, 3, &["--noplots"]);
        all.iter_mut()
            .filter(|word| *word == "64")
            .for_each(|size| *size = "256".to_owned());
        let batch = all.iter().position(|word| word == "--batch-size").expect("the option");
        all[batch + 1] = "2".to_owned();
        all
    };
    let runs = place.path().join("runs");
    yolo(place.path(), &arguments("whole")).ok();
    let rows = |name: &str| {
        let table = std::fs::read_to_string(runs.join(name).join("results.csv")).unwrap_or_default();
        table.lines().count().saturating_sub(1)
    };
    let cases = [
        ("interrupted", libc::SIGINT, "state.safetensors"),
        ("terminated", libc::SIGTERM, "state.safetensors"),
        ("later", libc::SIGTERM, "results.csv"),
    ];
    for (name, number, file) in cases {
        let mut child = start(place.path(), &arguments(name));
        wait_for(&mut child, &PathBuf::from(&runs).join(name).join(file));
        signal(&child, number);
        let said = Said::from(child.wait_with_output().expect("an end"));
        let said = said.fails(1, &["stopped", &format!("yolo train --resume runs/{name}")]);
        assert!(rows(name) < 3, "{name}: it stopped before the end");
        if file == "state.safetensors" {
            assert_eq!(rows(name), 0, "{name}: in the first epoch");
        }
        yolo(place.path(), &advice(&said)).ok();
        for file in RESULTS {
            assert!(
                bytes(&runs.join(name).join(file)) == bytes(&runs.join("whole").join(file)),
                "{name}: {file}"
            );
        }
    }
}
