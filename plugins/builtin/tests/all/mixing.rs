//! Every backbone under every neck: builds, runs, learns, keeps its names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tch::{Kind as DType, Tensor};
use yolo_core::config::Located;
use yolo_core::graph::Graph;
use yolo_core::{Kind, Mode, Params, PluginInfo, Program, model, testing};

/// Small enough for two hundred networks in a minute.
const SCALE: (f64, f64) = (0.33, 0.125);

fn backbones() -> Vec<&'static PluginInfo> {
    let backbones: Vec<_> = PluginInfo::linked()
        .into_iter()
        .filter(|info| info.kind == Kind::Backbone)
        .collect();
    assert!(backbones.len() >= 6, "the backbones are linked");
    backbones
}

/// A model of these parts, at small scale.
fn config(backbone: Value, fuse: Value, block: &str, attention: Value, levels: usize) -> Value {
    let widths = [128, 256, 512, 1024];
    let levels: Vec<Value> = widths[4 - levels..]
        .iter()
        .map(|channels| json!({ "channels": channels }))
        .collect();
    json!({
        "scale": {"depth": SCALE.0, "width": SCALE.1},
        "backbone": backbone,
        "neck": {
            "type": "pan", "top": ["sppf"], "levels": levels, "block": block, "fuse": fuse, "attention": attention,
        },
        "head": {"type": "detect"},
    })
}

fn build(name: &str, config: Value) -> Graph {
    let located = Located::from_value(name, config);
    model::build(&located, Some(3)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs in eval and train mode on two odd sizes, checks shapes and the gradient of every trainable parameter.
fn check(name: &str, graph: &Graph) {
    let params = Params::init(graph, 0);
    let specs = graph.param_specs();
    for spec in specs.iter().filter(|spec| spec.role.trainable()) {
        let tensor = params.get(&spec.key).expect("initialised");
        let _ = tensor.set_requires_grad(true);
    }
    let program = Program::new(graph, &params).expect("tensors fit");
    let strides = graph.strides().expect("strides");
    assert_eq!(*strides.last().expect("levels"), 32, "{name}");
    for (h, w) in [(64, 96), (160, 128)] {
        let image = testing::input(2, 3, h, w);
        let outputs = tch::no_grad(|| program.run(&image, Mode::Eval)).expect("a forward");
        for (output, stride) in outputs.iter().zip(&strides) {
            assert_eq!(output.size(), [2, 24, h / stride, w / stride], "{name} at {h} x {w}");
            assert!(finite(output), "{name} at {h} x {w}");
        }
    }
    let image = testing::input(2, 3, 64, 96);
    let outputs = program.run(&image, Mode::Train).expect("a forward");
    let loss = outputs
        .iter()
        .map(|map| map.square().mean(DType::Float))
        .fold(Tensor::from(0.0f32), |sum, part| sum + part);
    loss.backward();
    for spec in specs.iter().filter(|spec| spec.role.trainable()) {
        let grad = params.get(&spec.key).expect("initialised").grad();
        assert!(grad.defined(), "{name}: `{}` has no gradient", spec.key);
        assert!(finite(&grad), "{name}: the gradient of `{}` is not finite", spec.key);
    }
}

fn finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

/// Names and shapes in order, as 64-bit FNV-1a.
fn fingerprint(graph: &Graph) -> String {
    let hash = graph
        .param_specs()
        .iter()
        .flat_map(|spec| format!("{}:{:?}\n", spec.key, spec.shape).into_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

fn snapshot_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/param_names.json")
}

/// Compares with the stored fingerprints; YOLO_UPDATE_SNAPSHOTS=1 stores new ones. A changed name breaks the checkpoints of
/// everybody who has one.
#[test]
fn names_of_parameters_stay() {
    let mut own = BTreeMap::new();
    for_each_combination(|name, config| {
        own.insert(name.to_owned(), fingerprint(&build(name, config)));
    });
    for (name, _) in model::published() {
        own.insert((*name).to_owned(), fingerprint(&crate::published::graph(name)));
    }
    if std::env::var_os("YOLO_UPDATE_SNAPSHOTS").is_some() {
        let text = serde_json::to_string_pretty(&own).expect("JSON");
        std::fs::write(snapshot_file(), text + "\n").expect("the snapshot");
        return;
    }
    let text = std::fs::read_to_string(snapshot_file()).expect("the snapshot");
    let stored: BTreeMap<String, String> = serde_json::from_str(&text).expect("JSON");
    for (name, hash) in &stored {
        let now = own.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert_eq!(now, hash, "parameters of {name} have other names or shapes than before");
    }
}

fn for_each_combination(mut visit: impl FnMut(&str, Value)) {
    for info in backbones() {
        for (fusion, fuse) in [("pan", Value::Null), ("bifpn", json!("bifpn"))] {
            for block in ["c3", "c3tr", "c3str"] {
                for (attention_name, attention) in [("plain", Value::Null), ("cbam", json!("cbam"))] {
                    for levels in [3, 4] {
                        let name = format!("{} {fusion} {block} {attention_name} {levels}", info.name);
                        let config = config((info.example)(), fuse.clone(), block, attention.clone(), levels);
                        visit(&name, config);
                    }
                }
            }
        }
    }
}

/// One test per half of the combinations, so that both cores work.
fn check_part(part: usize) {
    let mut index = 0;
    for_each_combination(|name, config| {
        if index % 2 == part {
            check(name, &build(name, config));
        }
        index += 1;
    });
    assert!(index >= 144, "{index} combinations");
}

#[test]
fn even_combinations_learn() {
    check_part(0);
}

#[test]
fn odd_combinations_learn() {
    check_part(1);
}

#[test]
fn the_same_seed_gives_the_same_parameters() {
    for block in ["c3", "c3tr", "c3str", "deform"] {
        let backbone = json!({"type": "csp-darknet"});
        let graph = build(block, config(backbone, json!("bifpn"), block, json!("cbam"), 4));
        let (a, b, c) = (
            Params::init(&graph, 7),
            Params::init(&graph, 7),
            Params::init(&graph, 8),
        );
        let mut differ = false;
        for (key, tensor) in a.iter() {
            assert!(tensor.equal(b.get(key).expect("the same keys")), "{block}: {key}");
            differ |= !tensor.equal(c.get(key).expect("the same keys"));
        }
        assert!(differ, "another seed gives other parameters");
    }
}

/// Other blocks and options than the combinations above, in the neck and in the last stage of the backbone.
#[test]
fn further_combinations_learn() {
    let dark = |last: Value| json!({"type": "csp-darknet", "last_block": last});
    let cases = [
        (
            "deform",
            config(
                json!({"type": "csp-darknet", "last_block": "deform", "last_stages": 2}),
                Value::Null,
                "deform",
                Value::Null,
                3,
            ),
        ),
        (
            "deform conv",
            config(
                dark(json!({"type": "deform", "form": "conv"})),
                json!({"type": "bifpn", "mode": "concat"}),
                "c3",
                json!("cbam"),
                4,
            ),
        ),
        (
            "published c3tr",
            config(
                dark(json!({"type": "c3tr", "variant": "published"})),
                Value::Null,
                "c3",
                Value::Null,
                3,
            ),
        ),
        (
            "published c3str",
            config(
                dark(json!({"type": "c3str", "variant": "published"})),
                Value::Null,
                "c3",
                Value::Null,
                3,
            ),
        ),
        (
            "dropped paths",
            config(
                dark(json!({"type": "c3str", "drop_path": 0.2})),
                Value::Null,
                "c3",
                Value::Null,
                3,
            ),
        ),
        (
            "ghostnet",
            config(
                json!({"type": "ghostnet", "variant": "published"}),
                Value::Null,
                "spp",
                Value::Null,
                3,
            ),
        ),
        (
            "shufflenet",
            config(
                json!({"type": "shufflenet-v2", "width": "2x"}),
                Value::Null,
                "c3",
                Value::Null,
                4,
            ),
        ),
        (
            "mobilenet",
            config(
                json!({"type": "mobilenet-v3-large", "variant": "published"}),
                Value::Null,
                "c3",
                Value::Null,
                4,
            ),
        ),
        (
            "lite4",
            config(
                json!({"type": "efficientnet-lite0", "lite": 4}),
                Value::Null,
                "c3",
                Value::Null,
                3,
            ),
        ),
        (
            "pp-lcnet",
            config(
                json!({"type": "pp-lcnet", "width": 2.5}),
                Value::Null,
                "c3",
                Value::Null,
                4,
            ),
        ),
        (
            "five stages",
            config(
                json!({"type": "csp-darknet", "stem": "focus", "block": "c3tr"}),
                Value::Null,
                "c3",
                Value::Null,
                4,
            ),
        ),
    ];
    for (name, config) in cases {
        check(name, &build(name, config));
    }
}

/// A level coarser than the backbone's last map, for any backbone.
#[test]
fn extra_levels_make_coarser_maps() {
    for info in backbones() {
        let mut value = config((info.example)(), Value::Null, "c3", Value::Null, 4);
        value["neck"]["extra_levels"] = json!(1);
        let graph = build(info.name, value);
        assert_eq!(graph.strides().expect("strides"), [8, 16, 32, 64], "{}", info.name);
    }
}
