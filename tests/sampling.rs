//! Which images a training sees: `--image-weights`, `--rect`.

use crate::support::{read_json, yolo};
use crate::train::Place;

/// A run that is killed after two of four epochs and goes on ends in the same bits as one that nothing stopped.
fn goes_on_as_if_nothing_had_happened(option: &str) -> Place {
    let place = Place::new();
    let each = ["--nominal-batch", "8"];
    let usual = [&["--noplots"][..], &each[..]].concat();
    yolo(
        place.path(),
        &place.arguments("whole", 4, &[&usual[..], &[option]].concat()),
    )
    .ok();
    yolo(place.path(), &place.arguments("usual", 4, &usual)).ok();
    let file = |run: &str, name: &str| std::fs::read(place.path().join("runs").join(run).join(name)).expect("a file");
    assert!(
        file("whole", "results.csv") != file("usual", "results.csv"),
        "{option} changes nothing"
    );
    crate::train::kill_after(&place, "killed", 4, 2, &[&each[..], &[option]].concat());
    let rows = file("killed", "results.csv").split(|byte| *byte == b'\n').count() - 2;
    assert!(rows < 4, "killed in the middle");
    yolo(place.path(), &["train", "--resume", "runs/killed"]).ok();
    for name in ["results.csv", "weights/last.safetensors", "weights/best.safetensors"] {
        assert!(file("killed", name) == file("whole", name), "{option}: {name} differs");
    }
    let key = option.trim_start_matches("--").replace('-', "_");
    assert_eq!(read_json(&place.path().join("runs/killed/options.json"))[&key], true);
    let again = [&usual[..], &["--resume", "runs/usual", option]].concat();
    yolo(place.path(), &place.arguments("usual", 4, &again)).fails(2, &[&format!("{option} is true here")]);
    place
}

#[test]
fn image_weights_go_on_exactly() {
    let place = goes_on_as_if_nothing_had_happened("--image-weights");
    let state = |run: &str| {
        let path = place.path().join("runs").join(run).join("state.safetensors");
        yolo_engine::checkpoint::state_numbers(&path).expect("a state")
    };
    assert_eq!(state("killed").class_maps.len(), 4, "the next draw needs them");
    assert!(state("usual").class_maps.is_empty());

    // Two processes draw what one draws.
    std::fs::write(place.path().join("hyp.yaml"), "lr0: 0.002\nwarmup_bias_lr: 0.002\n").expect("a file");
    let more = ["--noplots", "--image-weights", "--hyp", "hyp.yaml", "--device", "cpu"];
    yolo(place.path(), &place.arguments("one", 2, &more)).ok();
    let several = [&more[..], &["--processes", "2", "--sync-bn"]].concat();
    yolo(place.path(), &place.arguments("two", 2, &several)).ok();
    let losses = |run: &str| -> Vec<f64> {
        let rows = crate::train::rows(&place.path().join("runs").join(run).join("results.csv"));
        let cells = rows.iter().flat_map(|row| &row[1..4]);
        cells.map(|cell| cell.parse().expect("a number")).collect()
    };
    let (one, two) = (losses("one"), losses("two"));
    assert_eq!(one.len(), 6);
    assert!(
        one.iter()
            .zip(&two)
            .all(|(a, b)| (a - b).abs() <= 1e-3 * a.abs().max(0.01)),
        "{one:?} {two:?}"
    );
}

#[test]
fn batches_fit_models_of_stride_64() {
    let place = Place::new();
    std::fs::write(
        place.path().join("p6.yaml"),
        "extends: yolov5n6\nscale: {depth: 0.33, width: 0.0625}\n",
    )
    .expect("a file");
    let mut arguments = place.arguments("a", 1, &["--noplots", "--rect"]);
    for (option, value) in [("--cfg", "p6.yaml"), ("--img", "128")] {
        let at = arguments.iter().position(|a| a == option).expect("the option");
        arguments[at + 1] = value.to_owned();
    }
    yolo(place.path(), &arguments).ok();
}

#[test]
fn rectangles_go_on_exactly_and_exclude_a_draw() {
    goes_on_as_if_nothing_had_happened("--rect");
    let place = Place::new();
    let said = yolo(place.path(), &place.arguments("a", 1, &["--rect", "--image-weights"]));
    said.fails(2, &["--rect and --image-weights", "leave one of them"]);
    assert!(!place.path().join("runs").exists(), "nothing was written");
    // Sizes of their own for flat batches, too.
    let said = yolo(
        place.path(),
        &place.arguments("b", 1, &["--rect", "--multi-scale", "--noplots"]),
    )
    .ok();
    assert!(said.err.contains("without mosaics"), "{}", said.err);
}
