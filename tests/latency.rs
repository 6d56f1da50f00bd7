//! `yolo prune --latency`: a budget of time, measured on an engine of this machine or taken from a table.

use serde_json::{Value, json};
use yolo_core::prune::{ChannelGroups, OP_TIMES_VERSION, OpTime, OpTimes, TimeModel, convolutions};
use yolo_engine::checkpoint;

use crate::support::{random_weights, small_data, tiny_model, yolo};

const IMG: i64 = 64;

/// A table of another chip, on which every convolution takes as long as it has input channels: output channels are free.
fn of_another_chip(graph: &yolo_core::Graph) -> OpTimes {
    let mut ops: Vec<OpTime> = Vec::new();
    for (_, conv, _) in convolutions(graph, IMG).expect("convolutions") {
        if ops.iter().all(|op| op.conv != conv) {
            let cout = if conv.depthwise { vec![] } else { vec![1, 1024] };
            let ms = if conv.depthwise {
                vec![1.0, 1024.0]
            } else {
                vec![1.0, 1.0, 1024.0, 1024.0]
            };
            ops.push(OpTime {
                conv,
                cin: vec![1, 1024],
                cout,
                ms,
            });
        }
    }
    OpTimes {
        version: OP_TIMES_VERSION,
        engine: "npu".into(),
        threads: 1,
        machine: "another chip".into(),
        ops,
    }
}

#[test]
fn a_network_is_pruned_by_the_times_of_a_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64).display().to_string();
    let weights = random_weights(&tiny_model(dir.path()), dir.path(), 4);
    let model = checkpoint::load(&weights).expect("a model");
    let table = of_another_chip(&model.graph);
    let file = dir.path().join("npu.json");
    std::fs::write(&file, serde_json::to_string(&table).expect("JSON")).expect("a file");
    let prune = |share: &str, times: &str, more: &[&str]| {
        let arguments = [
            "prune",
            "--weights",
            "random.safetensors",
            "--data",
            &data,
            "--img",
            "64",
            "--pruner",
            "oneshot",
            "--multiple",
            "2",
            "--noval",
            "--calib-batches",
            "1",
            "--out",
            "pruned.safetensors",
            "--threads",
            "1",
            "--latency",
            share,
            "--op-times",
            times,
        ];
        let engine: &[&str] = if more.contains(&"--engine") {
            &[]
        } else {
            &["--engine", "torch"]
        };
        yolo(dir.path(), &[&arguments[..], engine, more].concat())
    };
    let told = prune("0.6", "npu.json", &["--json"]).ok();
    assert!(
        told.err.contains("times of npu on 1 threads of another chip"),
        "{}",
        told.err
    );
    let report = told.json();
    let groups = ChannelGroups::of(&model.graph).expect("groups");
    let time = TimeModel::of(&model.graph, &groups, IMG, &table).expect("times");
    let plan: yolo_core::prune::PrunePlan = serde_json::from_value(report["plan"].clone()).expect("a plan");
    let kept: Vec<usize> = groups.groups.iter().map(|group| plan.kept(group)).collect();
    let full: Vec<usize> = groups.groups.iter().map(yolo_core::prune::ChannelGroup::len).collect();
    let share = time.milliseconds(&kept) / time.milliseconds(&full);
    assert!(share <= 0.6 && share > 0.45, "{share}");
    let predicted = report["timing"]["predicted"].as_f64().expect("a number");
    assert!((predicted - share).abs() < 1e-9, "{predicted} {share}");
    // Nothing of this machine stands beside it, so an engine that is not here may be named.
    assert_eq!(report["timing"]["table"], "npu on 1 threads of another chip");
    assert!(
        report["latency"].is_null() && report["timing"]["ms"].is_null(),
        "{report}"
    );
    let said = prune("0.6", "npu.json", &["--engine", "ncnn"]).ok().err;
    assert!(
        said.contains("of the time stays by this table (asked for 60.0 %)"),
        "{said}"
    );
    let mut zeros = table.clone();
    zeros.ops.iter_mut().for_each(|op| op.ms.fill(0.0));
    std::fs::write(
        dir.path().join("zeros.json"),
        serde_json::to_string(&zeros).expect("JSON"),
    )
    .expect("a file");
    prune("0.6", "zeros.json", &[]).fails(2, &["zeros.json", "all of its times are 0"]);

    // A table that is not of this network, none at all, and budgets that can't be.
    let mut other = table.clone();
    other.ops.remove(0);
    std::fs::write(
        dir.path().join("other.json"),
        serde_json::to_string(&other).expect("JSON"),
    )
    .expect("a file");
    prune("0.6", "other.json", &[]).fails(2, &["other.json", "`model.0.conv`", "another image size"]);
    std::fs::write(dir.path().join("none.json"), "{\"version\": 1}").expect("a file");
    prune("0.6", "none.json", &[]).fails(2, &["none.json", "no table of times"]);
    for share in ["0", "1.5"] {
        prune(share, "npu.json", &[]).fails(2, &["latency"]);
    }
    prune("0.01", "npu.json", &[]).fails(2, &["can't be met", "of the time"]);
}

#[test]
fn times_are_measured_and_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64).display().to_string();
    random_weights(&tiny_model(dir.path()), dir.path(), 4);
    let arguments = [
        "prune",
        "--weights",
        "random.safetensors",
        "--data",
        &data,
        "--img",
        "64",
        "--pruner",
        "oneshot",
        "--multiple",
        "1",
        "--noval",
        "--calib-batches",
        "1",
        "--out",
        "pruned.safetensors",
        "--engine",
        "torch",
        "--threads",
        "1",
        "--latency",
        "1",
        "--op-times",
        "times.json",
        "--json",
    ];
    let report = yolo(dir.path(), &arguments).ok().json();
    let text = std::fs::read_to_string(dir.path().join("times.json")).expect("the table");
    let table = OpTimes::parse(&text).expect("a table");
    assert_eq!((table.engine.as_str(), table.threads), ("torch", 1));
    assert!(table.ops.len() > 10 && table.ops.iter().flat_map(|op| &op.ms).any(|ms| *ms > 0.0));
    // Of this machine, so that whole networks were measured, too.
    let number = |key: &str| report["timing"][key].as_f64().expect("a number");
    // No budget that a noisy clock could make impossible.
    assert!(number("predicted") <= 1.0 + 1e-9, "{report}");
    assert!(number("ms_before") > 0.0 && number("ms") > 0.0);
    assert!((number("measured") - number("ms") / number("ms_before")).abs() < 1e-9);
    assert_eq!(report["latency"], report["timing"]["ms"]);
    assert_eq!(report["latency_before"], report["timing"]["ms_before"]);
    let predicted = report["latency_predicted"].as_f64().expect("a number");
    assert!((predicted - number("predicted") * number("ms_before")).abs() < 1e-9);
    let pruned = checkpoint::load(&dir.path().join("pruned.safetensors")).expect("a model");
    let kept: &Value = &pruned.meta.history.last().expect("an entry").settings["latency"];
    assert_eq!(*kept, json!(report["timing"]), "the checkpoint remembers");
}

#[test]
fn a_plan_takes_the_place_of_nothing_else_and_knows_its_weights() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64).display().to_string();
    let weights = random_weights(&tiny_model(dir.path()), dir.path(), 4);
    let prune = |more: &[&str]| {
        let arguments = [
            "prune",
            "--weights",
            "random.safetensors",
            "--data",
            &data,
            "--img",
            "64",
            "--noval",
            "--calib-batches",
            "1",
            "--out",
            "pruned.safetensors",
        ];
        yolo(dir.path(), &[&arguments[..], more].concat())
    };
    let new = [
        "--pruner",
        "oneshot",
        "--multiple",
        "2",
        "--flops",
        "0.7",
        "--save-plan",
    ];
    std::fs::write(dir.path().join("notes.json"), "{\"mine\": 1}").expect("a file");
    for (file, word) in [
        ("random.safetensors", "is a .json file"),
        ("pruned.safetensors", "is a .json file"),
        (data.as_str(), "is a .json file"),
        ("notes.json", "is no plan and would be overwritten"),
    ] {
        let before = std::fs::read(dir.path().join(file)).ok();
        prune(&[&new[..], &[file]].concat()).fails(2, &["--save-plan", word]);
        assert_eq!(std::fs::read(dir.path().join(file)).ok(), before, "{file}");
    }
    prune(&[&new[..], &["plan.json"]].concat()).ok();
    let replay = || prune(&["--plan", "plan.json"]).ok().err;
    assert!(!replay().contains("other weights"));
    let mut other = checkpoint::load(&weights).expect("a model");
    let key = other
        .params
        .iter()
        .map(|(key, _)| key.to_owned())
        .find(|key| key.ends_with("conv.weight"))
        .expect("a weight");
    let changed = other.params.require(&key).expect("a tensor") * 1.5;
    other.params.insert(key, changed);
    checkpoint::save(&weights, &other).expect("a file");
    assert!(replay().contains("chosen for other weights"));
    // As before, into the same file.
    prune(&[&new[..], &["plan.json"]].concat()).ok();
}
