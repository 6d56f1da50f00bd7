//! Searches for a plan: limits hold, candidates are kept, and what was interrupted goes on.

use yolo_core::prune::{ChannelGroups, PlanFile, PrunePlan, Side};
use yolo_engine::checkpoint;

use crate::support::{files, random_weights, small_data, tiny_model, yolo};

/// Groups that are excluded stay whole and floors hold, whatever the pruner.
#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    let model = checkpoint::load(&weights).expect("the checkpoint");
    let groups = ChannelGroups::of(&model.graph).expect("groups");
    for pruner in ["slimming", "oneshot", "eagleeye"] {
        let mut line = vec![
            "prune",
            "--weights",
            weights.to_str().expect("text"),
            "--data",
            data.to_str().expect("text"),
        ];
        line.extend([
            "--pruner",
            pruner,
            "--flops",
            "0.7",
            "--img",
            "64",
            "--multiple",
            "1",
            "--calib-batches",
            "1",
        ]);
        line.extend([
            "--batch-size",
            "4",
            "--select-images",
            "2",
            "--noval",
            "--json",
            "--out",
            "a.safetensors",
        ]);
        line.extend([
            "--exclude",
            "model.*.m",
            "--exclude",
            "model.9.cv1",
            "--floor",
            "model.{3,4,5}=0.8",
        ]);
        if pruner == "eagleeye" {
            line.extend(["--set", "candidates=2", "--set", "window=0.1"]);
        }
        let found = yolo(dir.path(), &line).ok().json();
        let list = dir.path().join("candidates.csv");
        if pruner == "eagleeye" {
            assert_eq!(found["candidates"], "candidates.csv");
            let text = std::fs::read_to_string(&list).expect("the list stands beside the result");
            assert_eq!(text.lines().count(), 3, "{text}");
            let weights = std::fs::read(dir.path().join("a.safetensors")).expect("a model");
            let shorter = text.lines().take(2).collect::<Vec<_>>().join("\n") + "\n";
            std::fs::write(&list, shorter).expect("a file");
            let told = yolo(dir.path(), &line).ok();
            assert!(
                told.err.contains("the list of another search is replaced"),
                "{}",
                told.err
            );
            assert_eq!(std::fs::read_to_string(&list).expect("the list"), text);
            std::fs::write(&list, "somebody's own\n").expect("a file");
            let told = yolo(dir.path(), &line).ok();
            assert!(
                told.err.contains("candidates.csv is no list of candidates and stays"),
                "{}",
                told.err
            );
            assert_eq!(std::fs::read_to_string(&list).expect("it stays"), "somebody's own\n");
            let again = std::fs::read(dir.path().join("a.safetensors")).expect("a model");
            assert!(weights == again, "the same command makes the same bytes");
        } else {
            assert!(found["candidates"].is_null() && !list.exists());
        }
        let plan: PrunePlan = serde_json::from_value(found["plan"].clone()).expect("a plan");
        let mut floors = 0;
        for group in &groups {
            let kept = plan.kept(group);
            let makers = || {
                group
                    .cuts
                    .iter()
                    .filter(|cut| cut.side == Side::Producer)
                    .map(|cut| cut.key.as_str())
            };
            if makers().any(|key| key.contains(".m.") || key.starts_with("model.9.cv1.")) {
                assert_eq!(kept, group.len(), "{pruner}: {}", group.name);
            }
            if makers().any(|key| {
                ["model.3.", "model.4.", "model.5."]
                    .iter()
                    .any(|layer| key.starts_with(layer))
            }) {
                floors += 1;
                assert!(
                    kept as f64 >= 0.8 * group.len() as f64,
                    "{pruner}: {} keeps {kept}",
                    group.name
                );
            }
        }
        assert!(
            floors > 3 && plan.keep.len() > 5,
            "{pruner}: {floors} floors, {} cuts",
            plan.keep.len()
        );
    }
}

/// A search that was interrupted goes on: what was measured is not measured again, and the plan is the same. Another search is refused.
#[test]
fn a_search_is_kept_and_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    let run = |more: &[&str]| {
        let mut line = vec![
            "prune",
            "--weights",
            weights.to_str().expect("text"),
            "--data",
            data.to_str().expect("text"),
        ];
        line.extend([
            "--pruner",
            "eagleeye",
            "--img",
            "64",
            "--multiple",
            "1",
            "--calib-batches",
            "1",
            "--batch-size",
            "4",
        ]);
        line.extend([
            "--select-images",
            "4",
            "--noval",
            "--json",
            "--set",
            "candidates=6",
            "--set",
            "window=0.05",
        ]);
        line.extend([
            "--set",
            "sampler=evolution",
            "--candidates",
            "search",
            "--out",
            "a.safetensors",
        ]);
        line.extend(more);
        yolo(dir.path(), &line)
    };
    let first = run(&["--params", "0.6"]).ok().json();
    let share = first["params"].as_f64().expect("a number") / first["params_before"].as_f64().expect("a number");
    // Parameters that no plan can cut are outside of the window's share.
    assert!(share <= 0.6 && share > 0.5, "{share}");
    let csv = dir.path().join("search/candidates.csv");
    let text = std::fs::read_to_string(&csv).expect("the list");
    let rows: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(rows.len(), 6, "{text}");
    for row in &rows {
        let params: f64 = row.split(',').nth(3).expect("a column").parse().expect("a number");
        assert!((0.55..=0.6).contains(&params), "{row}");
    }
    let svg = std::fs::read_to_string(dir.path().join("search/candidates.svg")).expect("a picture");
    assert_eq!(svg.matches("<circle").count(), 6);
    let best = std::fs::read_to_string(dir.path().join("search/best-1.json")).expect("the best plan");
    let plan: PrunePlan = serde_json::from_value(first["plan"].clone()).expect("a plan");
    assert_eq!(PlanFile::read(&best).expect("a plan").keep, plan.keep);
    assert!(dir.path().join("search/best-5.json").exists() && !dir.path().join("search/best-6.json").exists());
    // Two of the results are gone, one is another: the first are measured again, the other is believed.
    let mut kept: Vec<String> = rows[..4].iter().map(ToString::to_string).collect();
    let mut cells: Vec<&str> = rows[0].split(',').collect();
    cells[5] = "0.99";
    kept[0] = cells.join(",");
    std::fs::write(
        &csv,
        format!("{}\n{}\n", text.lines().next().expect("a header"), kept.join("\n")),
    )
    .expect("the list");
    let second = run(&["--params", "0.6"]).ok().json();
    let again = std::fs::read_to_string(&csv).expect("the list");
    assert_eq!(again.lines().count(), 7);
    assert_eq!(again.lines().nth(1), Some(kept[0].as_str()));
    let best = std::fs::read_to_string(dir.path().join("search/best-1.json")).expect("the best plan");
    let plan: PrunePlan = serde_json::from_value(second["plan"].clone()).expect("a plan");
    assert_eq!(
        PlanFile::read(&best).expect("a plan").keep,
        plan.keep,
        "the first candidate is the best now"
    );
    let before = files(dir.path());
    run(&["--params", "0.7"]).fails(2, &["search", "another search (settings)"]);
    assert_eq!(before, files(dir.path()));
}

/// A search chooses by images that nothing was fitted to: weights that were trained on other images than the rest of `train` are said to be.
#[test]
fn what_was_held_out_of_training_is_compared_with_what_is_held_out_here() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let (config, data) = (tiny_model(dir.path()), data.to_str().expect("text"));
    let config = config.to_str().expect("text");
    let train = [
        "train",
        "--cfg",
        config,
        "--data",
        data,
        "--img",
        "64",
        "--batch-size",
        "4",
        "--epochs",
        "1",
    ];
    yolo(
        dir.path(),
        &[
            &train[..],
            &["--hold-out", "4", "--noval", "--noplots", "--name", "held"],
        ]
        .concat(),
    )
    .ok();
    let prune = |count: &str| {
        let line = [
            "prune",
            "--weights",
            "runs/train/held/weights/last.safetensors",
            "--data",
            data,
            "--pruner",
            "eagleeye",
        ];
        let more = [
            "--set",
            "candidates=1",
            "--set",
            "window=0.3",
            "--flops",
            "0.8",
            "--img",
            "64",
            "--multiple",
            "1",
        ];
        let rest = [
            "--calib-batches",
            "1",
            "--noval",
            "--out",
            "a.safetensors",
            "--hold-out",
            count,
        ];
        yolo(dir.path(), &[&line[..], &more, &rest].concat()).ok().err
    };
    let said = "may have been learned";
    assert!(!prune("4").contains(said), "the same images");
    let other = prune("3");
    assert!(
        other.contains(said) && other.contains("trained on 5 images") && other.contains("--hold-out 3"),
        "{other}"
    );
}
