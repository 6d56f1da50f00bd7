//! `yolo train --evolve`: its table, its best values, going on, refusals.

use std::path::Path;

use crate::support::{Said, files, yolo};
use crate::train::Place;

fn table(run: &Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(run.join("evolve.csv")).expect("a table");
    let row = |line: &str| line.split(',').map(|cell| cell.parse().expect("a number")).collect();
    text.lines().skip(1).map(row).collect()
}

fn evolve(place: &Place, name: &str, more: &[&str]) -> Said {
    yolo(place.path(), &place.arguments(name, 1, more))
}

#[test]
fn an_evolution_goes_on_as_if_nothing_had_stopped_it() {
    let place = Place::new();
    std::fs::write(
        place.path().join("hyp.yaml"),
        "cls: 0.18\nlabel_smoothing: 0.1\nwarmup_epochs: 0.0\n",
    )
    .expect("a file");
    let own = ["--hyp", "hyp.yaml", "--nominal-batch", "8"];
    let said = evolve(&place, "whole", &[&own[..], &["--evolve", "4", "--json"]].concat())
        .ok()
        .json();
    assert_eq!(
        (&said["run_dir"], &said["generations"]),
        (&"runs/whole".into(), &4.into())
    );
    let run = |name: &str| place.path().join("runs").join(name);
    assert_eq!(
        files(&run("whole")),
        [
            "evolve.csv",
            "evolve.json",
            "evolve.png",
            "hyp_evolve.yaml",
            "options.json"
        ]
    );
    let rows = table(&run("whole"));
    let text = std::fs::read_to_string(run("whole").join("evolve.csv")).expect("a table");
    let columns: Vec<&str> = text.lines().next().unwrap_or_default().split(',').collect();
    assert_eq!(
        columns[..8].join(" "),
        "metrics/precision metrics/recall metrics/mAP_0.5 metrics/mAP_0.5:0.95 val/box_loss val/obj_loss val/cls_loss lr0"
    );
    let column = |name: &str| columns.iter().position(|column| *column == name).expect("a column");
    assert_eq!(rows[0][column("cls")], 0.2, "within its bounds from the start");
    assert_eq!(rows[0][column("lr0")], 0.01);
    assert!(
        rows.iter()
            .all(|row| row[column("label_smoothing")] == 0.1 && row[4] > 0.0)
    );
    for generation in 1..4 {
        assert_ne!(rows[generation][7..], rows[0][7..], "mutated");
        assert_ne!(rows[generation][4..7], rows[0][4..7], "trained with it");
    }
    assert!(yolo_data::Image::open(&run("whole").join("evolve.png")).is_ok_and(|image| image.width > 600));

    // The best by 0.1 mAP50 + 0.9 mAP, as a file that a training takes.
    let fitness = |row: &Vec<f64>| 0.1 * row[2] + 0.9 * row[3];
    let best = (0..4).fold(0, |best, row| {
        if fitness(&rows[row]) > fitness(&rows[best]) {
            row
        } else {
            best
        }
    });
    assert_eq!(said["best_generation"], best);
    let yaml = std::fs::read_to_string(run("whole").join("hyp_evolve.yaml")).expect("values");
    assert!(
        yaml.starts_with("# ") && yaml.contains(&format!("Generation {} of 4", best + 1)),
        "{yaml}"
    );
    assert!(yaml.contains(&format!("\nlr0: {}\n", rows[best][7])), "{yaml}");
    let taken = place.arguments("taken", 1, &["--noplots", "--hyp", "runs/whole/hyp_evolve.yaml"]);
    yolo(place.path(), &taken).ok();

    // Two generations, then two more.
    evolve(&place, "parts", &[&own[..], &["--evolve", "2", "--noplots"]].concat()).ok();
    assert_eq!(table(&run("parts")).len(), 2);
    assert!(!run("parts").join("evolve.png").exists());
    yolo(place.path(), &["train", "--resume", "runs/parts", "--evolve", "4"]).ok();
    let read = |name: &str, file: &str| std::fs::read(run(name).join(file)).expect("a file");
    for file in ["evolve.csv", "hyp_evolve.yaml"] {
        assert!(read("parts", file) == read("whole", file), "{file} differs");
    }
    // Nothing is left to do, and nothing changes.
    let said = yolo(place.path(), &["train", "--resume", "runs/parts", "--json"])
        .ok()
        .json();
    assert_eq!(said["generations"], 4);
    assert!(read("parts", "evolve.csv") == read("whole", "evolve.csv"));

    std::fs::write(place.path().join("hyp.yaml"), "cls: 0.3\n").expect("a file");
    yolo(place.path(), &["train", "--resume", "runs/parts", "--evolve", "5"]).fails(
        2,
        &[
            "runs/parts",
            "hyp.cls is 0.3 here, 0.18 there",
            "--hyp runs/parts/hyp_evolve.yaml",
        ],
    );
    let refused = ["--evolve", "5", "--exist-ok", "--noplots"];
    evolve(&place, "parts", &refused).fails(2, &["evolve.csv has 4 generations", "--resume runs/parts"]);
    yolo(place.path(), &["train", "--resume", "runs/taken", "--evolve", "3"])
        .fails(2, &["--evolve is 3 here, null there"]);
    assert_eq!(table(&run("parts")).len(), 4);
}

#[test]
fn an_evolution_that_can_not_be_is_refused_before_anything_is_written() {
    let place = Place::new();
    evolve(&place, "a", &["--evolve", "2", "--processes", "2"]).fails(2, &["--evolve trains on one device"]);
    evolve(&place, "a", &["--evolve", "0"]).fails(2, &["--evolve needs at least 1 generation"]);
    assert!(!place.path().join("runs").exists());
}
