//! Pruning: exact surgery on every published model, cost as predicted, `yolo prune` from end to end.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::json;
use tch::{Kind, Tensor};
use yolo_core::config::{Located, merge};
use yolo_core::prune::{ChannelGroups, CostModel, CutRole, PlanFile, PrunePlan, Side, apply};
use yolo_core::{Graph, Mode, Params, Program, model, testing};
use yolo_engine::checkpoint;

use crate::explain::BLOCKS;
use crate::support::{files, random_weights, small_data, tiny_model, yolo};

/// A published model or what is written on top of one, narrow and shallow where its backbone scales, with 3 classes.
fn narrow(name: &str, text: &str) -> Graph {
    let config = Located::parse(name, text).expect("YAML");
    let mut config = model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
    merge(&mut config.value, json!({"scale": {"depth": 0.33, "width": 0.25}}));
    model::build(&config, Some(3)).expect("a graph")
}

/// Silences channels of every group, a share between a fifth and four fifths of each: everything that makes them becomes zero.
fn silence(groups: &ChannelGroups, params: &Params, seed: &str) -> PrunePlan {
    let mut plan = PrunePlan::full();
    for group in &groups.groups {
        let stream = testing::Stream::new(&format!("{seed}.{}", group.name));
        let share = 0.2 + 0.6 * stream.unit(0);
        let stays = (stream.unit(1) * group.len() as f64) as usize;
        let gone: HashSet<usize> = (0..group.len())
            .filter(|i| *i != stays && stream.unit(*i as u32 + 2) < share)
            .collect();
        let keep = (0..group.len()).filter(|i| !gone.contains(i)).collect();
        plan.keep.insert(group.name.clone(), keep);
        let normed = group
            .cuts
            .iter()
            .any(|cut| cut.side == Side::Producer && cut.role == CutRole::NormWeight);
        for (at, cut) in group.cuts.iter().enumerate() {
            let silent = match cut.role {
                CutRole::NormWeight | CutRole::NormBias => true,
                // Without a norm behind it, the layer itself must be silent.
                CutRole::Weight | CutRole::Bias => !normed || has_no_norm(group, &cut.key),
                CutRole::Other => false,
            };
            if cut.side != Side::Producer || !silent {
                continue;
            }
            let rows: Vec<i64> = gone
                .iter()
                .flat_map(|i| &group.channels[*i][at])
                .map(|row| i64::from(*row))
                .collect();
            let tensor = params.get(&cut.key).expect("a tensor");
            let _ = tensor
                .shallow_clone()
                .index_fill_(cut.axis as i64, &Tensor::from_slice(&rows), 0.0);
        }
    }
    plan
}

/// Whether the convolution of this key has no norm in the group (`a.conv.weight` is followed by `a.bn.weight`).
fn has_no_norm(group: &yolo_core::prune::ChannelGroup, key: &str) -> bool {
    let scope = key.rsplit_once('.').map_or(key, |(scope, _)| scope);
    let parent = scope.rsplit_once('.').map_or("", |(parent, _)| parent);
    !group.cuts.iter().any(|cut| {
        cut.role == CutRole::NormWeight
            && cut
                .key
                .rsplit_once('.')
                .is_some_and(|(norm, _)| norm.rsplit_once('.').is_some_and(|(p, _)| p == parent))
    })
}

/// Removing channels whose scale and shift are zero changes nothing, in any model, whichever they are.
#[test]
fn silent_channels_can_go_from_every_model() {
    let models = model::published().iter().copied().chain(BLOCKS);
    for ((name, text), seed) in models.flat_map(|model| ["a", "b"].map(|seed| (model, seed))) {
        let graph = narrow(name, text);
        let params = testing::fill_params(&graph, 2.0).to(tch::Device::Cpu, Kind::Double);
        let groups = ChannelGroups::of(&graph).expect("groups");
        assert!(groups.groups.len() > 10, "{name}: only {} groups", groups.groups.len());
        let plan = silence(&groups, &params, seed);
        let (smaller, cut) = apply(&graph, &params, &groups, &plan).unwrap_or_else(|e| panic!("{name}: {e}"));
        let cost = CostModel::of(&graph, &groups, 128).expect("a cost");
        let kept = cost.widths(&plan, &groups);
        let real = smaller.cost(128).expect("a cost");
        assert_eq!(
            (cost.macs(&kept), cost.params(&kept)),
            (real.macs, real.params),
            "{name}: predicted cost"
        );
        assert!(
            real.params < graph.param_count() * 4 / 5,
            "{name}: {} parameters stay",
            real.params
        );
        let stride = graph.strides().expect("strides").into_iter().max().expect("a stride");
        let image = testing::input(1, 3, stride, 2 * stride).to_kind(Kind::Double);
        let run = |graph: &Graph, params: &Params| {
            let program = Program::new(graph, params).expect("tensors fit");
            tch::no_grad(|| program.run(&image, Mode::Eval)).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        for (full, small) in run(&graph, &params).iter().zip(run(&smaller, &cut)) {
            let difference = (full - small).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{name}: the outputs differ by {difference}");
            assert!(
                full.std(false).double_value(&[]) > 1e-3,
                "{name}: a dead network proves nothing"
            );
        }
    }
}

/// Every third channel of every group does next to nothing: its weights, scale and shift are a thousandth of what they were. Group to
/// those channels.
fn plant(groups: &ChannelGroups, params: &Params) -> Channels {
    let mut planted = Channels::new();
    for group in &groups.groups {
        let idle: BTreeSet<usize> = (0..group.len()).filter(|i| i % 3 == 1).collect();
        for (at, cut) in group.cuts.iter().enumerate() {
            if cut.side != Side::Producer || cut.role == CutRole::Other {
                continue;
            }
            let rows = idle.iter().flat_map(|i| &group.channels[*i][at]);
            let rows = Tensor::from_slice(&rows.map(|row| i64::from(*row)).collect::<Vec<_>>());
            let mut tensor = params.get(&cut.key).expect("a tensor").shallow_clone();
            let small = tensor.index_select(cut.axis as i64, &rows) * 1e-3;
            let _ = tch::no_grad(|| tensor.index_copy_(cut.axis as i64, &rows, &small));
        }
        planted.insert(group.name.clone(), idle);
    }
    planted
}

/// Channels by group.
type Channels = BTreeMap<String, BTreeSet<usize>>;

/// Whether what a plan removes is what does nothing, as far as there is enough of that: nine in ten at least.
fn removes_the_idle(plan: &PrunePlan, groups: &ChannelGroups, planted: &Channels) -> Result<(), String> {
    plan.check(groups).map_err(|error| error.to_string())?;
    let (mut hits, mut possible) = (0, 0);
    for group in &groups.groups {
        let Some(keep) = plan.keep.get(&group.name) else {
            continue;
        };
        let idle = &planted[&group.name];
        hits += idle.iter().filter(|channel| !keep.contains(channel)).count();
        possible += idle.len().min(group.len() - keep.len());
    }
    if possible < 10 {
        return Err(format!("only {possible} channels could go"));
    }
    match 10 * hits >= 9 * possible {
        true => Ok(()),
        false => Err(format!("{hits} of {possible} idle channels go")),
    }
}

/// A plan of the same widths that keeps other channels: those that follow, in a circle.
fn shuffled(plan: &PrunePlan, groups: &ChannelGroups) -> PrunePlan {
    let mut plan = plan.clone();
    for group in &groups.groups {
        if let Some(keep) = plan.keep.get_mut(&group.name) {
            for channel in keep.iter_mut() {
                *channel = (*channel + 1) % group.len();
            }
            keep.sort_unstable();
        }
    }
    plan
}

/// Every pruner, from the command line, on a model and data made on the spot: it meets its budget, and of what it removes nine tenths
/// are channels that do nothing, unless its metric is `random`.
#[test]
fn every_pruner_meets_its_budget() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    let model = checkpoint::load(&weights).expect("the checkpoint");
    let groups = ChannelGroups::of(&model.graph).expect("groups");
    let planted = plant(&groups, &model.params);
    checkpoint::save(&weights, &model).expect("a file");
    let common = [
        "--img",
        "64",
        "--batch-size",
        "4",
        "--workers",
        "1",
        "--calib-batches",
        "2",
        "--select-images",
        "4",
        "--multiple",
        "2",
    ];
    let pruners: [(&str, &[&str]); 11] = [
        ("slimming", &[]),
        ("oneshot", &["--metric", "fpgm"]),
        ("oneshot", &["--metric", "taylor", "--set", "scope=global"]),
        ("eagleeye", &["--set", "candidates=2", "--set", "window=0.1"]),
        ("gradual", &["--set", "epochs=1"]),
        ("admm", &["--set", "iterations=1", "--set", "epochs=1"]),
        (
            "netadapt",
            &[
                "--set",
                "proposals=1",
                "--set",
                "reduction=0.15",
                "--set",
                "short_term_steps=1",
            ],
        ),
        (
            "oneshot",
            &["--metric", "hessian", "--set", "scope=global", "--aggregate", "max"],
        ),
        ("oneshot", &["--metric", "activation", "--round", "up"]),
        (
            "slimming",
            &["--members", "all", "--aggregate", "mean", "--set", "normalise=lamp"],
        ),
        ("oneshot", &["--metric", "random"]),
    ];
    for (index, (pruner, options)) in pruners.iter().enumerate() {
        let out = dir.path().join(format!("{index}.safetensors"));
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
            "--json",
            "--out",
            out.to_str().expect("text"),
        ]);
        line.extend(common);
        line.extend(*options);
        let found = yolo(dir.path(), &line).ok().json();
        let share = found["gflops"].as_f64().expect("a number") / found["gflops_before"].as_f64().expect("a number");
        assert!(share <= 0.7 && share > 0.3, "{pruner}: {share}");
        assert!(found["params"].as_i64() < found["params_before"].as_i64(), "{pruner}");
        let plan: PrunePlan = serde_json::from_value(found["plan"].clone()).expect("a plan");
        let verdict = removes_the_idle(&plan, &groups, &planted);
        let is_random = options.contains(&"random");
        assert_eq!(verdict.is_err(), is_random, "{pruner} {options:?}: {verdict:?}");
        if !is_random {
            let other = shuffled(&plan, &groups);
            let reason = removes_the_idle(&other, &groups, &planted).expect_err("other channels");
            assert!(reason.contains("idle channels go"), "{pruner}: {reason}");
        }
        // The result is an ordinary checkpoint.
        let again = yolo(
            dir.path(),
            &["model", out.to_str().expect("text"), "--json", "--img", "64"],
        )
        .ok()
        .json();
        assert_eq!(again["params"], found["params"], "{pruner}");
    }
}

/// Settings that a pruner never asks for are named, those of it that are used are not.
#[test]
fn settings_without_a_say_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 10, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    std::fs::write(dir.path().join("hyp.yaml"), "box: 0.1\n").expect("a file");
    let base = format!(
        "prune --weights {} --data {} --img 64 --batch-size 2 --workers 1 --calib-batches 1 --multiple 2 --noval --flops 0.8 --out a.safetensors",
        weights.display(),
        data.display()
    );
    let run = |more: &str| {
        yolo(
            dir.path(),
            &base.split(' ').chain(more.split_whitespace()).collect::<Vec<_>>(),
        )
    };
    for (flags, idle, used) in [
        (
            "--pruner oneshot --hyp hyp.yaml --select-images 2",
            vec!["hyp", "select-images"],
            vec!["members"],
        ),
        (
            "--pruner oneshot --metric taylor --hyp hyp.yaml --members all",
            vec![],
            vec!["hyp", "members"],
        ),
        (
            "--pruner eagleeye --set candidates=2 --hyp hyp.yaml --select-images 2 --members all --candidates kept",
            vec!["hyp"],
            vec!["select-images", "candidates"],
        ),
    ] {
        let said = run(flags).ok().err;
        let note = |name: &str| format!("note: `{name}` had no say");
        assert!(idle.iter().all(|name| said.contains(&note(name))), "{flags}: {said}");
        assert!(!used.iter().any(|name| said.contains(&note(name))), "{flags}: {said}");
    }
    run("--pruner oneshot --engine torch").fails(2, &["--latency"]);
    for option in ["epochs=0", "every=0"] {
        run(&format!("--pruner gradual --set {option}"))
            .fails(2, &[option.split('=').next().expect("a name"), "at least 1"]);
    }
    let line = format!("prune --explain --weights {} --pruner oneshot", weights.display());
    yolo(dir.path(), &line.split(' ').collect::<Vec<_>>()).fails(2, &["--pruner", "--explain"]);
}

/// A saved plan cuts the same channels again; plans of other models, impossible budgets and unknown names are explained.
#[test]
fn plans_are_replayed_and_mistakes_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = small_data(dir.path(), 12, 64);
    let config = tiny_model(dir.path());
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&config, dir.path(), classes);
    let base = [
        "prune",
        "--weights",
        weights.to_str().expect("text"),
        "--data",
        data.to_str().expect("text"),
        "--img",
        "64",
    ];
    let rest = [
        "--batch-size",
        "2",
        "--workers",
        "1",
        "--calib-batches",
        "1",
        "--multiple",
        "2",
        "--noval",
        "--json",
    ];
    let run = |more: &[&str]| yolo(dir.path(), &[&base[..], &rest[..], more].concat());
    let first = run(&[
        "--pruner",
        "oneshot",
        "--set",
        "ratio=0.4",
        "--save-plan",
        "plan.json",
        "--out",
        "a.safetensors",
    ])
    .ok()
    .json();
    let second = run(&["--plan", "plan.json", "--out", "b.safetensors"]).ok();
    assert!(second.err.contains("note: `multiple` has no say"), "{}", second.err);
    let second = second.json();
    assert_eq!(first["plan"], second["plan"]);
    assert_eq!(first["params"], second["params"]);
    // The file says which network it is for: another width, depth or block is refused, though every group's name is there.
    let text = std::fs::read_to_string(dir.path().join("plan.json")).expect("the plan");
    let file = PlanFile::read(&text).expect("a plan");
    let fits = |graph: &Graph| file.for_groups(&ChannelGroups::of(graph).expect("groups"));
    let built = |text: &str| {
        let config = Located::parse("other.yaml", text).expect("YAML");
        let config = model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
        model::build(&config, Some(classes as i64 + 3)).expect("a graph")
    };
    assert!(
        fits(&built(crate::support::TINY)).is_ok(),
        "another number of classes is the same network"
    );
    for (other, why) in [
        (
            "extends: yolov5n\nscale: {depth: 0.33, width: 0.125}\n",
            "channels there and",
        ),
        (
            "extends: yolov5n\nscale: {depth: 0.67, width: 0.0625}\n",
            "this model has a group",
        ),
        (
            "extends: yolov5x-p2\nscale: {depth: 0.33, width: 0.0625}\n",
            "another network",
        ),
    ] {
        let error = fits(&built(other)).expect_err(other).to_string();
        assert!(error.contains("another network") && error.contains(why), "{error}");
    }
    // Other weights of the same network lose the same channels; how wide they were before and are now can be seen.
    let mut other = checkpoint::load(&weights).expect("the checkpoint");
    other.params = testing::fill_params(&other.graph, 1.5);
    checkpoint::save(&dir.path().join("other.safetensors"), &other).expect("a file");
    let mut line = [&base[..], &rest[..], &["--plan", "plan.json", "--out", "d.safetensors"]].concat();
    line[2] = "other.safetensors";
    let third = yolo(dir.path(), &line).ok().json();
    assert_eq!(third["plan"], first["plan"]);
    shown(dir.path(), &first["plan"]);
    let before = files(dir.path());
    run(&["--plan", "nothing.json", "--out", "c.safetensors"]).fails(1, &["nothing.json"]);
    std::fs::write(dir.path().join("other.json"), r#"{"keep": {"model.99.conv": [0]}}"#).expect("a file");
    run(&["--plan", "other.json", "--out", "c.safetensors"]).fails(2, &["model.99.conv"]);
    yolo(dir.path(), &["inspect", "other.json", "--graph", "a.svg"]).fails(2, &["other.json", "--save-plan"]);
    yolo(dir.path(), &["inspect", "plan.json", "--graph", "a.png"]).fails(2, &["a.png", ".svg"]);
    run(&[
        "--pruner",
        "slimming",
        "--flops",
        "0.5",
        "--exclude",
        "model.99",
        "--out",
        "c.safetensors",
    ])
    .fails(2, &["`model.99` names no group", "--explain"]);
    run(&[
        "--pruner",
        "slimming",
        "--flops",
        "0.5",
        "--exclude",
        "model",
        "--out",
        "c.safetensors",
    ])
    .fails(2, &["nothing is left to prune"]);
    run(&[
        "--pruner",
        "slimming",
        "--flops",
        "0.5",
        "--floor",
        "model.2=2",
        "--out",
        "c.safetensors",
    ])
    .fails(2, &["floor", "model.2=2"]);
    run(&[
        "--pruner",
        "slimming",
        "--flops",
        "0.5",
        "--floor",
        "model.2",
        "--out",
        "c.safetensors",
    ])
    .fails(2, &["PATTERN=SHARE"]);
    run(&[
        "--pruner",
        "slimming",
        "--flops",
        "0.5",
        "--max-ratio",
        "0",
        "--out",
        "c.safetensors",
    ])
    .fails(2, &["--max-ratio 0"]);
    for ratio in ["ratio=0", "ratio=1", "ratio=nan"] {
        run(&["--pruner", "oneshot", "--set", ratio, "--out", "c.safetensors"]).fails(2, &["ratio"]);
    }
    run(&["--pruner", "slimming", "--flops", "0.001", "--out", "c.safetensors"]).fails(2, &["budget", "max_ratio"]);
    run(&["--pruner", "slimming", "--flops", "1.5", "--out", "c.safetensors"]).fails(2, &["flops"]);
    run(&["--pruner", "slimming", "--out", "c.safetensors"]).fails(2, &["budget"]);
    run(&["--pruner", "slimmin", "--flops", "0.5", "--out", "c.safetensors"])
        .fails(2, &["slimmin", "did you mean `slimming`"]);
    run(&["--pruner", "slimming", "--set", "ratoi=0.5", "--out", "c.safetensors"])
        .fails(2, &["ratoi", "did you mean `ratio`"]);
    run(&["--pruner", "slimming", "--flops", "0.5", "--out", "c.onnx"]).fails(2, &["c.onnx", ".safetensors"]);
    std::fs::remove_file(dir.path().join("other.json")).expect("the file");
    assert_eq!(before, files(dir.path()), "nothing is left of what failed");
}

/// The plan in `plan.json` as `yolo inspect` shows it.
fn shown(dir: &std::path::Path, plan: &serde_json::Value) {
    let json = yolo(dir, &["inspect", "plan.json", "--json", "--graph", "widths.svg"])
        .ok()
        .json();
    assert_eq!(json["metric"], json!({"type": "l1"}));
    assert_eq!(json["fingerprint"].as_str().map(str::len), Some(16));
    let rows = json["groups"].as_array().expect("a list");
    let cut = rows.iter().filter(|row| row["before"] != row["after"]).count();
    let keep = plan["keep"].as_object().expect("groups");
    assert_eq!(cut, keep.len());
    for row in rows {
        let name = row["group"].as_str().expect("a name");
        let Some(keep) = keep.get(name) else { continue };
        assert_eq!(
            row["after"].as_u64(),
            keep.as_array().map(|keep| keep.len() as u64),
            "{name}"
        );
        // What goes scores less than what stays.
        assert!(row["largest_removed"].as_f64() <= row["lowest_kept"].as_f64(), "{row}");
        assert!(row["largest_removed"].is_number(), "{row}");
    }
    let svg = std::fs::read_to_string(dir.join("widths.svg")).expect("a drawing");
    assert_eq!(svg.matches("<rect x").count(), 2 * rows.len());
    let text = yolo(dir, &["inspect", "plan.json"]).ok().out;
    assert!(
        text.contains("largest removed") && text.contains("channels stay"),
        "{text}"
    );
    std::fs::remove_file(dir.join("widths.svg")).expect("the drawing");
}
