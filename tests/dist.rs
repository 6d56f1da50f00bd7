//! Several processes: they train what one trains, end together, and refuse what makes no sense.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Said, command, files, small_data, tiny_model, yolo};

/// A folder with a data set of 23 pictures (17 to train on: the last batch of 8 has one, so a rank gets none of it) and a tiny model.
struct Place {
    folder: tempfile::TempDir,
    data: String,
    model: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = small_data(folder.path(), 23, 96).display().to_string();
        let model = tiny_model(folder.path()).display().to_string();
        Self { folder, data, model }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn arguments<'a>(&'a self, name: &'a str, epochs: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let fixed = [
            "train",
            "--data",
            &self.data,
            "--cfg",
            &self.model,
            "--img",
            "64",
            "--batch-size",
            "8",
            "--device",
            "cpu",
            "--project",
            "runs",
            "--noplots",
            "--name",
            name,
            "--epochs",
            epochs,
        ];
        fixed.into_iter().chain(more.iter().copied()).collect()
    }

    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let path = self.path().join("runs").join(name).join("results.csv");
        let text = std::fs::read_to_string(path).expect("a table");
        let number = |cell: &str| cell.trim().parse().expect("a number");
        text.lines()
            .skip(1)
            .map(|line| line.split(',').map(number).collect())
            .collect()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// One rank, as `torchrun` would start it.
fn rank(place: &Place, rank: usize, ranks: usize, port: u16, arguments: &[&str]) -> Command {
    let mut command = command(place.path());
    command
        .args(arguments)
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", ranks.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("YOLO_DIST_TIMEOUT", "2");
    command
}

fn run(mut command: Command) -> Said {
    Said::from(command.output().expect("the binary starts"))
}

fn last_line(said: &Said) -> Value {
    serde_json::from_str(said.out.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn two_processes_train_what_one_trains() {
    let place = Place::new();
    // 9 steps: later, rounding alone parts the curves of an untrained network (20 steps in f64 are a test of the engine). Gradients of
    // two batches are added up to an update.
    std::fs::write(place.path().join("hyp.yaml"), "lr0: 0.002\nwarmup_bias_lr: 0.002\n").expect("a file");
    // Anchors that fit these tiny boxes part them sooner.
    let more = ["--hyp", "hyp.yaml", "--nominal-batch", "16", "--noautoanchor"];
    yolo(place.path(), &place.arguments("one", "3", &more)).ok();
    let several = [&more[..], &["--processes", "2", "--sync-bn"]].concat();
    let said = yolo(place.path(), &place.arguments("two", "3", &several)).ok();
    let last = last_line(&said);
    assert_eq!(
        (&last["world_size"], &last["backend"]),
        (&Value::from(2), &Value::from("gloo"))
    );
    assert_eq!(
        said.out.matches("run_dir").count(),
        1,
        "rank 0 alone speaks:\n{}",
        said.out
    );
    assert_eq!(
        said.err.matches("  box ").count(),
        3,
        "one line for each epoch:\n{}",
        said.err
    );

    let (one, two) = (place.rows("one"), place.rows("two"));
    assert_eq!((one.len(), two.len()), (3, 3));
    for (a, b) in one.iter().zip(&two) {
        for (column, (a, b)) in a.iter().zip(b).enumerate() {
            // Six digits after the point are written.
            let near = (a - b).abs() <= 1e-4 * a.abs() + 1.1e-6;
            assert!(near, "column {column}: {a} and {b}");
        }
    }
}

#[test]
fn without_sync_bn_ranks_end_alike_and_another_number_goes_on() {
    let place = Place::new();
    yolo(place.path(), &place.arguments("a", "2", &["--processes", "2"])).ok();
    assert_eq!(place.rows("a").len(), 2);
    let path = place.path().join("runs/a/options.json");
    let text = std::fs::read_to_string(&path).expect("options");
    assert!(text.contains("\"processes\": 2"), "{text}");
    // The run is at its end; with another number of processes it is found to be so.
    let said = yolo(
        place.path(),
        &["train", "--resume", "runs/a", "--processes", "1", "--json"],
    )
    .ok();
    assert_eq!(last_line(&said)["world_size"], 1);
}

/// Waits until the file is there.
fn wait_for(path: &Path, children: &mut [Child]) {
    let start = Instant::now();
    while !path.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{} does not come",
            path.display()
        );
        for child in children.iter_mut() {
            assert!(
                child.try_wait().expect("a status").is_none(),
                "a rank ended before it was killed"
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_rank_ends_all_and_the_run_goes_on() {
    let place = Place::new();
    let arguments = place.arguments("x", "400", &[]);
    let port = free_port();
    let start = |number: usize| {
        let mut command = rank(&place, number, 2, port, &arguments);
        command
            .env("YOLO_DIST_TIMEOUT", "60")
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        command.spawn().expect("the binary starts")
    };
    let mut children = [start(0), start(1)];
    wait_for(&place.path().join("runs/x/weights/last.safetensors"), &mut children);
    let [mut first, mut second] = children;
    second.kill().expect("a kill");
    let killed = Instant::now();
    second.wait().expect("an end");
    let status = loop {
        if let Some(status) = first.try_wait().expect("a status") {
            break status;
        }
        assert!(killed.elapsed() < Duration::from_secs(30), "rank 0 does not notice");
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    first
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut said)
        .expect("text");
    assert_eq!(status.code(), Some(1), "{said}");
    for text in ["rank 1", "process", "yolo train --resume runs/x"] {
        assert!(said.contains(text), "`{text}` is missing in:\n{said}");
    }
    let before = place.rows("x").len();
    assert!(before > 0 && before < 400);

    // Alone it goes on, until it is asked to stop.
    let mut command = command(place.path());
    command
        .args(["train", "--resume", "runs/x"])
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    let mut alone = command.spawn().expect("the binary starts");
    let start = Instant::now();
    while place.rows("x").len() <= before {
        assert!(alone.try_wait().expect("a status").is_none(), "it ended");
        assert!(start.elapsed() < Duration::from_secs(60), "it does not go on");
        std::thread::sleep(Duration::from_millis(20));
    }
    alone.kill().expect("a kill");
    alone.wait().expect("an end");
}

#[test]
fn ranks_end_with_the_process_that_started_them() {
    let place = Place::new();
    let mut command = command(place.path());
    command
        .args(place.arguments("x", "400", &["--processes", "2"]))
        .stderr(Stdio::piped());
    let mut parent = command.stdout(Stdio::null()).spawn().expect("the binary starts");
    let mut pipe = parent.stderr.take().expect("a pipe");
    wait_for(
        &place.path().join("runs/x/weights/last.safetensors"),
        std::slice::from_mut(&mut parent),
    );
    parent.kill().expect("a kill");
    parent.wait().expect("an end");
    // The pipe closes when the last rank is gone.
    let start = Instant::now();
    let mut said = String::new();
    pipe.read_to_string(&mut said).expect("text");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let rows = place.rows("x").len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(place.rows("x").len(), rows, "nobody writes any more");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let place = Place::new();
    let arguments = place.arguments("x", "1", &[]);
    // Half of the variables.
    let mut half = command(place.path());
    half.args(&arguments).env("RANK", "0").env("WORLD_SIZE", "2");
    run(half).fails(
        2,
        &[
            "RANK, WORLD_SIZE is set",
            "LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not",
            "torchrun",
        ],
    );
    run(rank(&place, 2, 2, 1, &arguments)).fails(2, &["RANK=2", "WORLD_SIZE=2"]);
    // A batch that can't be shared.
    let odd = place.arguments("x", "1", &["--processes", "3"]);
    yolo(place.path(), &odd).fails(2, &["--batch-size 8", "3 processes", "6 or 9"]);
    yolo(place.path(), &place.arguments("x", "1", &["--processes", "0"])).fails(2, &["--processes"]);
    yolo(place.path(), &place.arguments("x", "1", &["--sync-bn"])).fails(2, &["--sync-bn", "more than one device"]);
    // Others that are not there.
    let port = free_port().to_string();
    run(rank(&place, 1, 2, port.parse().expect("a port"), &arguments))
        .fails(1, &["nobody answers", "127.0.0.1", &port]);
    run(rank(&place, 0, 2, port.parse().expect("a port"), &arguments)).fails(1, &["rank 1 of 2 did not come", &port]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    run(rank(&place, 0, 2, port, &arguments)).fails(1, &["the port is taken", &port.to_string(), "MASTER_PORT"]);
    let written = files(place.path());
    assert!(written.iter().all(|file| !file.starts_with("runs")), "{written:?}");
}
