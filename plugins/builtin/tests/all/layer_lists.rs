//! Ultralytics' layer lists are read into the same networks. The lists are written for the tests, in `lists.rs`.

use std::path::Path;

use yolo_core::config::Located;
use yolo_core::model::{self, ultralytics};
use yolo_core::{Graph, Kind, PluginInfo, testing};

use crate::golden;
use crate::lists::{self, List};

fn read(file: &str, text: &str, classes: Option<i64>) -> yolo_core::Result<Graph> {
    ultralytics::import(&Located::parse(file, text)?, classes)
}

/// With the anchors that the reference has until it fits some: its figures were taken with them.
fn as_measured(mut graph: Graph) -> Graph {
    if let Some(head) = graph.head.as_mut().filter(|head| head.unfitted) {
        for level in &mut head.anchors {
            for (index, anchor) in level.iter_mut().enumerate() {
                *anchor = [2.0 * index as f64, 2.0 * index as f64 + 1.0];
            }
        }
    }
    graph
}

/// The reference's own files, where somebody has them: they are not ours to ship.
#[test]
fn the_reference_files() {
    let Some(folder) = std::env::var_os("YOLO_REFERENCE_MODELS") else {
        crate::skip::skipped(
            "the model files of the reference (YOLO_REFERENCE_MODELS)",
            "set YOLO_REFERENCE_MODELS to their folder",
        );
        return;
    };
    let mut count = 0;
    for (name, _) in golden::figures().as_object().expect("models") {
        let path = Path::new(&folder).join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(&path).expect("a model file");
        let graph = read(&path.display().to_string(), &text, Some(10)).unwrap_or_else(|error| panic!("{error}"));
        let graph = as_measured(graph);
        golden::check_structure(name, &graph);
        golden::check_forward(name, &graph);
        count += 1;
    }
    assert_eq!(count, 34);
}

/// The lists of all 34 networks, rebuilt for this test, give the published parameters, names, shapes, layer tables and costs.
#[test]
fn every_list_has_its_figures() {
    let mut named: Vec<&str> = golden::figures()
        .as_object()
        .expect("models")
        .keys()
        .map(String::as_str)
        .collect();
    let mut lists = lists::NAMES.to_vec();
    named.sort_unstable();
    lists.sort_unstable();
    assert_eq!(lists, named);
    for name in lists {
        golden::check_structure(name, &import(name, &lists::list(name)));
    }
}

/// A list builds the very nodes of our model file, whose forward is tested with the published models.
#[test]
fn lists_are_the_embedded_models() {
    for (model, list) in crate::published::FIGURES {
        let (own, listed) = (crate::published::graph(model), import(list, &lists::list(list)));
        let json = |graph: &Graph| {
            let mut nodes = serde_json::to_value(&graph.nodes).expect("JSON");
            // Rates of stochastic depth act in training only, and the lists round them.
            for node in nodes.as_array_mut().expect("nodes") {
                if node["op"]["op"] == "drop-path" {
                    node["op"]["p"] = serde_json::json!(0);
                }
            }
            nodes
        };
        assert_eq!(json(&listed), json(&own), "{list} and {model}");
        assert_eq!(listed.outputs, own.outputs, "{list} and {model}");
    }
}

/// Lists without a model file of ours run as published.
macro_rules! forward {
    ($($test:ident: $list:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            golden::check_forward($list, &import($list, &lists::list($list)));
        }
    )*};
}

forward! {
    yolov3: "yolov3",
    yolov3_spp: "yolov3-spp",
    yolov3_tiny: "yolov3-tiny",
    fpn: "yolov5-fpn",
    panet: "yolov5-panet",
    p2: "yolov5-p2",
    p6: "yolov5-p6",
    p7: "yolov5-p7",
    transformer: "yolov5s-transformer",
    pruned_s: "yolov5s-0.6-pruned",
    pruned_eagle: "yolov5n-DVSPerson-prunedEagle",
    pruned_slim: "yolov5n-DVSPerson-prunedSlim",
}

fn import(name: &str, list: &List) -> Graph {
    as_measured(read(name, &list.text(), Some(10)).unwrap_or_else(|error| panic!("{error}")))
}

/// Lists of pruned networks carry the part of the channels that was kept.
#[test]
fn kept_parts_of_channels() {
    let text = small()
        .replacen("Conv, [128, 3, 2]", "Conv, [128, 3, 2, 0.65625]", 1)
        .replacen("C3, [128]", "C3, [128, True, 1, [0.5, 0.25], [0.5], 0.5]", 1);
    let graph = read("list.yaml", &text, Some(10)).unwrap_or_else(|error| panic!("{error}"));
    let shape = |key: &str| {
        let specs = graph.param_specs();
        let spec = specs.iter().find(|spec| spec.key == key);
        spec.unwrap_or_else(|| panic!("no {key}")).shape.clone()
    };
    // 128 * 0.65625 * 0.25 = 21 channels, in multiples of 8.
    assert_eq!(shape("model.1.conv.weight"), [24, 16, 3, 3]);
    // The branches are parts of the unpruned width 32, the bottleneck's inside of the branch.
    assert_eq!(shape("model.2.cv1.conv.weight"), [16, 24, 1, 1]);
    assert_eq!(shape("model.2.cv2.conv.weight"), [8, 24, 1, 1]);
    assert_eq!(shape("model.2.m.0.cv1.conv.weight"), [8, 16, 1, 1]);
    assert_eq!(shape("model.2.cv3.conv.weight"), [16, 24, 1, 1]);
}

/// A lone fraction behind shortcut and groups is the inner width, as Ultralytics has it, not what pruning left.
#[test]
fn inner_widths_are_no_ratios() {
    let text = small().replacen("C3, [128]", "C3, [128, True, 1, 0.25]", 1);
    let graph = read("list.yaml", &text, Some(10)).unwrap_or_else(|error| panic!("{error}"));
    let specs = graph.param_specs();
    let shape = |key: &str| &specs.iter().find(|spec| spec.key == key).expect(key).shape;
    // Of yolov5n, 32 channels: 8 in the branches, 32 come out.
    assert_eq!(*shape("model.2.cv1.conv.weight"), [8, 32, 1, 1]);
    assert_eq!(*shape("model.2.cv3.conv.weight"), [32, 16, 1, 1]);
}

/// Modules of which other versions have others of the same name are said.
#[test]
fn names_that_mean_several_modules_are_said() {
    let remarks = |text: &str| ultralytics::remarks(&Located::parse("list.yaml", text).expect("YAML"));
    assert!(remarks(&small()).is_empty());
    let said = remarks(&small().replacen("C3, [128]", "C3TR, [128]", 1));
    assert!(
        said.len() == 1 && said[0].starts_with("list.yaml: `C3TR` is built with layer norm"),
        "{said:?}"
    );
}

/// The list of yolov5n.
fn small() -> String {
    lists::list("yolov5n").text()
}

/// Modules that no published list has: they build, run at odd sizes, and heed their arguments (the reference's `GhostConv` drops its
/// stride, its `C3Ghost` can't be built).
#[test]
fn modules_without_a_list() {
    let text = "\
anchors: 3
depth_multiple: 1.0
width_multiple: 1.0
backbone:
  - [-1, 1, Contract, [2]]
  - [-1, 1, GhostConv, [16, 3, 2]]
  - [-1, 2, C3Ghost, [32]]
  - [-1, 1, DWConv, [64, 3, 2]]
  - [-1, 1, CrossConv, [64, 3, 1, 1, 1.0, True]]
  - [-1, 1, nn.BatchNorm2d, []]
  - [-1, 1, MixConv2d, [64, [1, 3, 5], 1]]
head:
  - [[-1, 4], 1, Sum, [2]]
  - [[2, 7], 1, Detect, [nc, anchors]]
";
    let graph = read("modules.yaml", text, Some(3)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(graph.strides().expect("strides"), [4, 8]);
    let kinds: Vec<&str> = graph.layers.iter().map(|layer| layer.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "Contract",
            "GhostConv",
            "C3Ghost",
            "DWConv",
            "CrossConv",
            "BatchNorm2d",
            "MixConv2d",
            "Sum",
            "Detect"
        ]
    );
    let params = yolo_core::Params::init(&graph, 0);
    let program = yolo_core::Program::new(&graph, &params).expect("tensors fit");
    for (h, w) in [(64, 96), (160, 128)] {
        let outputs = program
            .run(&testing::input(1, 3, h, w), yolo_core::Mode::Eval)
            .expect("a forward");
        for (output, stride) in outputs.iter().zip([4, 8]) {
            assert_eq!(output.size(), [1, 24, h / stride, w / stride]);
            assert_eq!(output.isfinite().all().int64_value(&[]), 1);
        }
    }
    let error = read("modules.yaml", &text.replace("Sum, [2]", "Sum, [2, True]"), None)
        .expect_err("weights")
        .to_string();
    assert!(
        error.starts_with("modules.yaml:13:") && error.contains("bifpn"),
        "{error}"
    );
}

/// What a list gets that can't be read: an error with the place.
#[test]
fn errors_point_at_their_row() {
    let broken = |from: &str, to: &str| {
        let text = small();
        assert!(text.contains(from), "{from}");
        read("net.yaml", &text.replacen(from, to, 1), None)
            .expect_err(to)
            .to_string()
    };
    let error = broken("SPPF, [1024, 5]", "SPPFast, [1024, 5]");
    assert!(
        error.starts_with("net.yaml:15:13: there is no module `SPPFast`"),
        "{error}"
    );
    assert!(error.contains("`SPPF`") && error.contains("`sppf`"), "{error}");
    let error = broken("[[-1, 6], 1, Concat, [1]]", "[[-1, 60], 1, Concat, [1]]");
    assert!(error.contains("layer 60 does not exist"), "{error}");
    // Maps of different strides can't be joined.
    let error = broken("[[-1, 6], 1, Concat, [1]]", "[[-1, 5, 2], 1, Concat, [1]]");
    assert!(error.starts_with("net.yaml:19:") && error.contains("joined"), "{error}");
    let error = broken("depth_multiple", "depth_multipel");
    assert!(
        error.contains("net.yaml:2:1: there is no option `depth_multipel`"),
        "{error}"
    );
    // The published file of this kind has a row without its comma.
    let error = broken(
        "- [-1, 1, Conv, [64, 6, 2, 2]]\n",
        "- [[-1, 1, Conv, [64, 6, 2, 2]] [1]\n",
    );
    assert!(error.starts_with("net.yaml:") && error.contains("not YAML"), "{error}");
}

#[test]
fn text_is_never_executed() {
    let text = small();
    let evil = text.replacen("[64, 6, 2, 2]", "[64, \"__import__('os').getpid()\", 2, 2]", 1);
    let error = read("net.yaml", &evil, None).expect_err("no number").to_string();
    assert!(
        error.contains("must be a whole number") && error.contains("net.yaml:6:"),
        "{error}"
    );
}

#[test]
fn a_file_of_either_kind_is_recognised() {
    let text = small();
    let config = Located::parse("net.yaml", &text).expect("YAML");
    let graph = model::build(&config, Some(3)).expect("a list");
    assert_eq!(graph.head.expect("a head").classes, 3);
    assert!(PluginInfo::linked().iter().any(|info| info.kind == Kind::Backbone));
}
