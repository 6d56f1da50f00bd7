//! What `yolo train` looks at before the first epoch: anchors against boxes, batch norms that would see one value.

use std::path::Path;

use serde_json::Value;
use yolo_data::{Dataset, Policy, Split, anchors};

use crate::support::{Said, TINY, files, small_data, yolo};
use crate::train::Place;

/// The last line of a training, as JSON.
fn last(said: &Said) -> Value {
    serde_json::from_str(said.out.lines().last().unwrap_or_default()).expect("JSON")
}

fn train(place: &Place, name: &str, more: &[&str]) -> Said {
    let mut arguments = place.arguments(name, 1, &[&["--noplots", "--noval"], more].concat());
    if more.contains(&"--cfg") {
        let at = arguments
            .iter()
            .position(|argument| argument == "--cfg")
            .expect("a model");
        arguments.drain(at..at + 2);
    }
    yolo(place.path(), &arguments)
}

fn write(place: &Place, name: &str, text: &str) -> String {
    std::fs::write(place.path().join(name), text).expect("a file");
    name.to_owned()
}

fn anchors_of(place: &Place, name: &str) -> Vec<Vec<[f64; 2]>> {
    let path = place.path().join(format!("runs/{name}/weights/last.safetensors"));
    let model = yolo_engine::checkpoint::load(&path).expect("a checkpoint");
    let head = model.graph.head.expect("a head");
    assert!(!head.unfitted);
    let cells = Vec::<f32>::try_from(head.anchors_in_cells().reshape([-1])).expect("numbers");
    let tensor = model.params.get(&head.anchors_key()).expect("a buffer").reshape([-1]);
    assert_eq!(
        Vec::<f32>::try_from(tensor).expect("numbers"),
        cells,
        "buffer and graph agree"
    );
    head.anchors
}

/// Every row of every label file of a split becomes `change` of it.
fn relabel(data: &Path, change: impl Fn([f64; 4]) -> [f64; 4]) {
    for file in files(data)
        .iter()
        .filter(|file| file.starts_with("labels") && file.ends_with(".txt"))
    {
        let path = data.join(file);
        let text = std::fs::read_to_string(&path).expect("labels");
        let rows = text.lines().map(|line| {
            let numbers: Vec<f64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
            let [x, y, w, h] = change([numbers[1], numbers[2], numbers[3], numbers[4]]);
            format!("{} {x} {y} {w} {h}\n", numbers[0])
        });
        std::fs::write(&path, rows.collect::<String>()).expect("labels");
    }
}

/// A number of anchors is no anchors: they are fitted to the data, in order from fine to coarse, in both forms of model files.
#[test]
fn a_number_of_anchors_is_fitted_to_the_data() {
    let place = Place::new();
    let ours = write(
        &place,
        "ours.yaml",
        &format!("{TINY}head: {{type: detect, anchors: 2}}\n"),
    );
    let said = train(&place, "ours", &["--cfg", &ours]).ok();
    assert!(said.err.contains("anchors: fitted to the data"), "{}", said.err);
    assert!(
        last(&said)["best_possible_recall"]
            .as_f64()
            .is_some_and(|recall| recall > 0.98)
    );
    let levels = anchors_of(&place, "ours");
    assert_eq!(levels.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    let areas: Vec<f64> = levels.iter().flatten().map(|[w, h]| w * h).collect();
    assert!(areas.is_sorted() && areas[0] >= 4.0, "{levels:?}");

    // As many as the hyper-parameter says, whatever the model file has.
    let hyp = write(&place, "hyp.yaml", "anchors: 4\n");
    let said = train(&place, "four", &["--hyp", &hyp]).ok();
    assert_eq!(
        anchors_of(&place, "four").iter().map(Vec::len).collect::<Vec<_>>(),
        [4, 4, 4]
    );
    assert!(said.err.contains("fitted to the data"));
    // Also where the model has that many.
    let hyp = write(&place, "hyp.yaml", "anchors: 3\n");
    let said = train(&place, "three", &["--hyp", &hyp]).ok();
    assert!(said.err.contains("fitted to the data"), "{}", said.err);
    assert_ne!(anchors_of(&place, "three")[0][0], [10.0, 13.0]);

    let before = files(place.path());
    train(&place, "x", &["--cfg", &ours, "--noautoanchor"]).fails(2, &["number of its anchors", "yolo data anchors"]);
    let odd = write(&place, "odd.yaml", "anchors: 2.5\n");
    train(&place, "x", &["--hyp", &odd]).fails(2, &["anchors: 2.5", "whole"]);
    let zero = write(
        &place,
        "zero.yaml",
        &format!("{TINY}head: {{type: detect, anchors: 0}}\n"),
    );
    train(&place, "x", &["--cfg", &zero]).fails(2, &["zero.yaml", "anchors"]);
    std::fs::remove_file(place.path().join("odd.yaml")).expect("the file");
    std::fs::remove_file(place.path().join("zero.yaml")).expect("the file");
    assert_eq!(before, files(place.path()), "nothing is left of what was refused");
}

/// Anchors that reach less than 98 % of the boxes are replaced, unless the user keeps them; a run that has fitted ones goes on.
#[test]
fn anchors_that_miss_the_boxes_are_fitted_and_said() {
    let place = Place::new();
    let large = "head: {type: detect, anchors: [[500, 500, 510, 510], [600, 600, 610, 610], [700, 700, 710, 710]]}\n";
    let cfg = write(&place, "large.yaml", &format!("{TINY}{large}"));
    let kept = train(&place, "kept", &["--cfg", &cfg, "--noautoanchor"]).ok();
    assert!(
        kept.err.contains("no box matches an anchor") && kept.err.contains("--noautoanchor"),
        "{}",
        kept.err
    );
    assert_eq!(last(&kept)["best_possible_recall"], 0.0);
    assert_eq!(anchors_of(&place, "kept")[0][0], [500.0, 500.0]);

    let said = train(&place, "fitted", &["--cfg", &cfg]).ok();
    assert!(
        said.err.contains("best possible recall 0.00 %") && said.err.contains("fitted to the data"),
        "{}",
        said.err
    );
    let recall = last(&said)["best_possible_recall"].as_f64().expect("a number");
    assert!(recall > 0.98, "{recall}");
    // What the program says is what its anchors do.
    let data = Dataset::open(&place.path().join("data/data.yaml")).expect("the data set");
    let samples = data.samples(Split::Train, Policy::Strict).expect("samples").items;
    let sizes: Vec<anchors::Size> = anchors_of(&place, "fitted").into_iter().flatten().collect();
    let own = anchors::fit(&sizes, &anchors::box_sizes(&samples, 64), 4.0);
    assert!((own.best_possible_recall - recall).abs() < 1e-9, "{own:?}");

    yolo(place.path(), &["train", "--resume", "runs/fitted", "--noplots"]).ok();
}

/// Boxes that are too small for every anchor are said before the first epoch, with an image size that would do, and it does.
#[test]
fn boxes_of_a_pixel_are_said_with_the_size_that_would_do() {
    let place = Place::new();
    let data = place.path().join("data");
    relabel(&data, |[x, y, _, _]| [x, y, 0.011, 0.013]);
    let said = train(&place, "tiny", &[]).ok();
    let [.., advice] = said.err.split("--img ").collect::<Vec<_>>()[..] else {
        panic!("{}", said.err)
    };
    assert!(said.err.contains("warning: no box matches an anchor"), "{}", said.err);
    assert!(said.err.contains("are smaller than 2 px at --img 64"), "{}", said.err);
    let size: usize = advice
        .split_whitespace()
        .next()
        .expect("a size")
        .parse()
        .expect("a number");
    let samples = |data: &Path| {
        let data = Dataset::open(&data.join("data.yaml")).expect("the data set");
        data.samples(Split::Train, Policy::Strict).expect("samples").items
    };
    let own: Vec<anchors::Size> = anchors_of(&place, "tiny").into_iter().flatten().collect();
    let fit = |image: usize| anchors::fit(&own, &anchors::box_sizes(&samples(&data), image), 4.0);
    assert!(
        size > 64 && fit(size).best_possible_recall >= anchors::ENOUGH,
        "{size}: {:?}",
        fit(size)
    );
    assert_eq!(fit(64).best_possible_recall, 0.0);

    let yaml = data.join("data.yaml").display().to_string();
    yolo(place.path(), &["data", "anchors", &yaml, "--img", "64"])
        .fails(2, &["boxes are smaller than 2 px", "--img 64"]);
}

/// The variance of one value is 0/0: such a training is refused before anything is written, and every advice works.
#[test]
fn batch_norm_over_one_value_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = small_data(folder.path(), 12, 64).display().to_string();
    std::fs::write(folder.path().join("tiny.yaml"), TINY).expect("a file");
    let train = |more: &[&str]| {
        let base = [
            "train",
            "--cfg",
            "tiny.yaml",
            "--data",
            &data,
            "--epochs",
            "1",
            "--noplots",
            "--noval",
        ];
        yolo(folder.path(), &[&base[..], more].concat())
    };
    let images = Dataset::open(Path::new(&data)).expect("the data set");
    let images = images
        .samples(Split::Train, Policy::Strict)
        .expect("samples")
        .items
        .len();
    let last_alone = (2..images)
        .find(|batch| images % batch == 1)
        .expect("a batch")
        .to_string();
    let before = files(folder.path());
    for options in [
        vec!["--img", "32", "--batch-size", "1"],
        vec!["--img", "32", "--batch-size", &last_alone],
        vec!["--img", "64", "--multi-scale", "--batch-size", "1"],
    ] {
        let said = train(&options).fails(2, &["batch norm `model.", "one value", "help: use "]);
        assert!(said.err.contains(options[options.len() - 2]), "{}", said.err);
        let advice = said.err.split("help: use ").nth(1).expect("advice").trim();
        for way in advice.split(" or ") {
            let way: Vec<&str> = way.split(' ').collect();
            let mut changed = options.clone();
            let at = changed
                .iter()
                .position(|option| *option == way[0])
                .expect("an option that was given");
            changed[at + 1] = way[1];
            assert_eq!(files(folder.path()), before, "{options:?} left something behind");
            train(&changed).ok();
            let file = folder.path().join("runs/train/exp/weights/last.safetensors");
            for (key, tensor) in yolo_engine::checkpoint::read_tensors(&file)
                .expect("a checkpoint")
                .tensors
            {
                assert!(tensor.isfinite().all().int64_value(&[]) == 1, "{key} of {changed:?}");
            }
            std::fs::remove_dir_all(folder.path().join("runs")).expect("the run");
        }
    }
}
