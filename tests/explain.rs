//! Which channels can go: every layer of every published model is accounted for, with the node that keeps what must stay.

use std::collections::BTreeMap;

use yolo_core::config::{Located, merge};
use yolo_core::prune::{Explanation, explain};
use yolo_core::{Graph, GraphBuilder, Op, model};

use crate::support::yolo;

/// Blocks and fusions that are hard to prune and in no published model as they are by default.
pub const BLOCKS: [(&str, &str); 4] = [
    ("deform", "extends: yolov5n\nneck: {type: pan, block: {type: deform}}\n"),
    ("c3tr", "extends: yolov5n\nneck: {type: pan, block: {type: c3tr}}\n"),
    ("c3str", "extends: yolov5n\nneck: {type: pan, block: {type: c3str}}\n"),
    ("bifpn", "extends: yolov5n\nneck: {type: pan, fuse: {type: bifpn}}\n"),
];

/// A published model or what is written on top of one, narrow and shallow where it scales.
fn narrow(name: &str, text: &str) -> Graph {
    let config = Located::parse(name, text).expect("YAML");
    let mut config = model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
    merge(
        &mut config.value,
        serde_json::json!({"scale": {"depth": 0.33, "width": 0.25}}),
    );
    model::build(&config, Some(3)).expect("a graph")
}

/// Width of what a layer with a weight makes.
fn width(op: &Op) -> Option<usize> {
    let width = match op {
        Op::Conv2d { cout, .. } | Op::DeformConv2d { cout, .. } | Op::Linear { cout, .. } => *cout,
        _ => return None,
    };
    usize::try_from(width).ok()
}

/// Every channel that a layer makes is in one explanation, and what holds it is a node of the graph.
fn accounts(graph: &Graph, all: &[Explanation]) -> Result<(), String> {
    let mut channels: BTreeMap<&str, usize> = BTreeMap::new();
    for one in all {
        if one.layers.is_empty() || one.channels == 0 {
            return Err(format!("`{}` has no channels or no layers", one.name));
        }
        for layer in &one.layers {
            *channels.entry(layer).or_default() += one.channels;
        }
        let Some(held) = &one.held else { continue };
        let node = graph.nodes.iter().find(|node| node.name == held.node);
        let Some(node) = node else {
            return Err(format!("`{}` is held by `{}`, which is no node", one.name, held.node));
        };
        if node.op.name() != held.op || held.reason.len() < 10 {
            return Err(format!("`{}` is held by {held:?}", one.name));
        }
    }
    for node in &graph.nodes {
        let Some(width) = width(&node.op) else { continue };
        let found = channels.get(node.name.as_str()).copied().unwrap_or(0);
        // A layer may make a channel twice: depthwise with a multiplier, or tied to itself by a shuffle.
        let twice = found > 0 && width.is_multiple_of(found);
        if found != width && !twice {
            return Err(format!("`{}` makes {width} channels, {found} are explained", node.name));
        }
    }
    Ok(())
}

#[test]
fn every_layer_of_every_model_is_accounted_for() {
    let all = model::published().iter().copied().chain(BLOCKS);
    for (name, text) in all {
        let graph = narrow(name, text);
        let explained = explain(&graph).unwrap_or_else(|error| panic!("{name}: {error}"));
        accounts(&graph, &explained).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let free = explained.iter().filter(|one| one.held.is_none()).count();
        assert!(free > 10, "{name}: {free} groups can be pruned");
        // An explanation that is missing, or of other channels, is seen.
        for at in [0, explained.len() / 2, explained.len() - 1] {
            let mut less = explained.clone();
            less.remove(at);
            assert!(accounts(&graph, &less).is_err(), "{name}: without {at}");
        }
        let held = explained.iter().position(|one| one.held.is_some()).expect("the head");
        let mut wrong = explained.clone();
        wrong[held].held.as_mut().expect("held").node = "model.99".into();
        assert!(accounts(&graph, &wrong).expect_err("no node").contains("model.99"));
    }
}

/// What holds the layers whose names end so.
fn holds<'a>(all: &'a [Explanation], ending: &str) -> Vec<Option<(&'a str, &'a str)>> {
    all.iter()
        .filter(|one| one.layers.iter().any(|layer| layer.ends_with(ending)))
        .map(|one| one.held.as_ref().map(|held| (held.op.as_str(), held.reason.as_str())))
        .collect()
}

#[test]
fn what_is_hard_to_prune_is_prunable_or_explained() {
    let of = |text: &str| explain(&narrow("test", text)).expect("explanations");
    // Attention: heads stay, with everything that their tokens are added to.
    let c3tr = of("extends: yolov5n\nneck: {type: pan, block: {type: c3tr}}\n");
    let qkv = holds(&c3tr, "ma.qkv");
    assert!(!qkv.is_empty());
    assert!(
        qkv.iter()
            .all(|held| held.is_some_and(|(op, reason)| op == "reshape" && reason.contains("heads"))),
        "{qkv:?}"
    );
    let c3str = of("extends: yolov5n\nneck: {type: pan, block: {type: c3str}}\n");
    let qkv = holds(&c3str, "qkv");
    assert!(!qkv.is_empty() && qkv.iter().all(Option::is_some), "{qkv:?}");
    // Deformable: offsets stay, what the convolution makes can go.
    let deform = of("extends: yolov5n\nneck: {type: pan, block: {type: deform}}\n");
    let steering: Vec<_> = deform
        .iter()
        .filter_map(|one| one.held.as_ref())
        .filter(|held| held.op == "deform-conv2d")
        .collect();
    assert!(!steering.is_empty());
    assert!(
        steering
            .iter()
            .all(|held| held.reason.contains("where a deformable convolution looks"))
    );
    let made: Vec<String> = narrow("test", "extends: yolov5n\nneck: {type: pan, block: {type: deform}}\n")
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::DeformConv2d { .. }))
        .map(|node| node.name.clone())
        .collect();
    assert!(!made.is_empty());
    for layer in made {
        assert_eq!(holds(&deform, &layer), [None], "{layer}");
    }
    // Weighted sums tie what other layers make; all of it can go.
    let bifpn = of("extends: yolov5n\nneck: {type: pan, fuse: {type: bifpn}}\n");
    let joined = bifpn
        .iter()
        .find(|one| one.name == "model.6.cv3.conv")
        .expect("a map of the backbone");
    assert_eq!(joined.held, None);
    let others = [
        "model.6.cv3.conv",
        "model.10.conv",
        "model.19.cv0.conv",
        "model.19.cv1.conv",
    ];
    assert_eq!(joined.layers, others);
    // A convolution in groups, and the output of the network.
    let mut g = GraphBuilder::new(3);
    let image = g.image();
    let a = g
        .add("a", Op::conv(3, 8, 3, 2, 1, 1, true), &[image.value])
        .expect("a node");
    let b = g.add("b", Op::conv(8, 8, 3, 1, 1, 4, true), &[a]).expect("a node");
    let c = g.add("c", Op::conv(8, 12, 1, 1, 0, 1, true), &[b]).expect("a node");
    let d = g.add("d", Op::conv(12, 6, 1, 1, 0, 1, true), &[c]).expect("a node");
    let all = explain(&g.finish(vec![d], None).expect("a graph")).expect("explanations");
    let found: Vec<(&str, Option<(&str, &str)>)> = all
        .iter()
        .map(|one| {
            (
                one.name.as_str(),
                one.held.as_ref().map(|held| (held.node.as_str(), held.reason.as_str())),
            )
        })
        .collect();
    let grouped = Some(("b", "a convolution in 4 groups: all groups are equally wide"));
    assert_eq!(found[..2], [("a", grouped), ("b", grouped)]);
    assert_eq!(found[2], ("c", None));
    assert!(
        found[3].0 == "d"
            && found[3]
                .1
                .is_some_and(|(node, reason)| node == "d" && reason.contains("output"))
    );
}

#[test]
fn the_command_says_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = yolo(dir.path(), &["prune", "--explain", "--weights", "yolov5n", "--json"])
        .ok()
        .json();
    let groups = said["groups"].as_array().expect("a list");
    let first = &groups[0];
    assert_eq!(
        (first["name"].as_str(), first["channels"].as_u64()),
        (Some("model.0.conv"), Some(16))
    );
    assert!(first["held"].is_null());
    let tied = groups
        .iter()
        .find(|one| one["name"] == "model.2.cv1.conv")
        .expect("a residual block");
    assert_eq!(
        tied["layers"],
        serde_json::json!(["model.2.cv1.conv", "model.2.m.0.cv2.conv"])
    );
    let text = yolo(dir.path(), &["prune", "--explain", "--weights", "yolov5n"])
        .ok()
        .out;
    for part in [
        "prunable, together",
        "they are an output of the network",
        "groups",
        "must stay",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    yolo(dir.path(), &["prune", "--weights", "yolov5n"]).fails(2, &["--data"]);
    yolo(
        dir.path(),
        &["prune", "--explain", "--weights", "yolov5n", "--out", "a.safetensors"],
    )
    .fails(2, &["--explain"]);
}
