//! The published models: the embedded configurations give the published networks.

use yolo_core::config::Located;
use yolo_core::graph::Graph;
use yolo_core::model;

use crate::golden;

/// The graph of an embedded model with 10 classes, as the figures were taken.
pub fn graph(name: &str) -> Graph {
    let (name, text) = model::find(name).expect("an embedded model");
    let config = Located::parse(&format!("{name}.yaml"), text).expect("valid YAML");
    model::build(&config, Some(10)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

macro_rules! published {
    ($($test:ident: $config:literal = $figures:literal),* $(,)?) => {
        /// Our model files and the names of their figures, the P6 models (below) included.
        pub const FIGURES: [(&str, &str); 19] = [
            $(($config, $figures),)*
            ("yolov5n6", "yolov5n6"),
            ("yolov5s6", "yolov5s6"),
            ("yolov5m6", "yolov5m6"),
            ("yolov5l6", "yolov5l6"),
            ("yolov5x6", "yolov5x6"),
        ];

        $(
        #[test]
        fn $test() {
            let graph = graph($config);
            golden::check_structure($figures, &graph);
            golden::check_forward($figures, &graph);
        }
        )*
    };
}

published! {
    yolov5n: "yolov5n" = "yolov5n",
    yolov5s: "yolov5s" = "yolov5s",
    yolov5m: "yolov5m" = "yolov5m",
    yolov5l: "yolov5l" = "yolov5l",
    yolov5x: "yolov5x" = "yolov5x",
    p2: "yolov5x-p2" = "yolov5xP2",
    p2_cbam: "yolov5x-p2-cbam" = "yolov5xP2CBAM",
    tph: "yolov5x-tph" = "yolov5xP2CBAM-TPH-BiFPN-SPP",
    swin: "yolov5x-swin" = "yolov5xP2CBAM-Swin-BiFPN-SPP",
    ghostnet: "yolov5l-ghostnet" = "yolov5lGhost",
    shufflenet_v2: "yolov5l-shufflenetv2" = "yolov5lShffule",
    mobilenet_v3_small: "yolov5l-mobilenetv3-small" = "yolov5lMobilenetv3Small",
    efficientnet_lite0: "yolov5l-efficientlite0" = "yolov5lEfficientLite",
    pp_lcnet: "yolov5l-pplcnet" = "yolov5lPP-LC",
}

/// The forward of the small one only: the others differ from it in width and depth.
#[test]
fn four_heads_to_stride_64() {
    for name in ["yolov5n6", "yolov5s6", "yolov5m6", "yolov5l6", "yolov5x6"] {
        golden::check_structure(name, &graph(name));
    }
    golden::check_forward("yolov5n6", &graph("yolov5n6"));
}

#[test]
fn every_file_is_embedded() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/models");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("configs/models")
        .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
        .filter_map(|file| file.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    let mut embedded: Vec<String> = model::published().iter().map(|(name, _)| (*name).to_owned()).collect();
    files.sort();
    embedded.sort();
    assert_eq!(files, embedded);
}

/// The fastest of several: other tests run beside this one.
#[test]
fn graphs_are_built_at_once() {
    for (name, _) in model::published() {
        let taken = (0..7).map(|_| {
            let start = std::time::Instant::now();
            let graph = graph(name);
            assert!(!graph.nodes.is_empty());
            start.elapsed()
        });
        let best = taken.min().expect("seven");
        println!("{name}: {best:?}");
        assert!(best.as_millis() < 50, "{name} took {best:?}");
    }
}

#[test]
fn another_number_of_classes_changes_the_head_only() {
    let ten = graph("yolov5n");
    let three = model::with_classes(&ten, 3).expect("a graph");
    let (name, text) = model::find("yolov5n").expect("embedded");
    let built = model::build(&Located::parse(name, text).expect("YAML"), Some(3)).expect("a graph");
    let json = |graph: &Graph| serde_json::to_value(graph).expect("JSON");
    assert_eq!(json(&three), json(&built));
    assert!(model::with_classes(&ten, 0).is_err());
}

/// The passes for inference leave the predictions: folding the batch norms, wherever they stand, and upsampling late, which has to
/// save work in every neck.
#[test]
fn passes_for_inference_leave_the_outputs() {
    let _guard = tch::no_grad_guard();
    for name in [
        "yolov5n",
        "yolov5l-ghostnet",
        "yolov5l-mobilenetv3-small",
        "yolov5l-shufflenetv2",
        "yolov5l-pplcnet",
        "yolov5x-p2-cbam",
        "yolov5x-tph",
    ] {
        let graph = graph(name);
        let params = yolo_core::testing::fill_params(&graph, 2.5);
        let (folded, fewer) = yolo_core::passes::fuse(&graph, &params).expect("a folded graph");
        let norms = folded
            .nodes
            .iter()
            .filter(|node| matches!(node.op, yolo_core::Op::BatchNorm { .. }))
            .count();
        assert_eq!(norms, 0, "{name}");
        let (late, split) = yolo_core::passes::upsample_late(&folded, &fewer).expect("a graph that upsamples late");
        let work = |graph: &Graph| graph.cost(64).expect("a cost").gflops();
        assert!(
            work(&late) < work(&folded),
            "{name}: {} >= {}",
            work(&late),
            work(&folded)
        );
        // What no node reads: the anchors, before and after.
        let unread = |graph: &Graph, params: &yolo_core::Params| -> Vec<String> {
            let read: Vec<String> = graph.param_specs().into_iter().map(|spec| spec.key).collect();
            let unread = params.iter().filter(|(key, _)| !read.iter().any(|read| read == key));
            unread.map(|(key, _)| key.to_owned()).collect()
        };
        assert_eq!(unread(&late, &split), unread(&folded, &fewer), "{name}");
        let image = yolo_core::testing::input(1, 3, 64, 96);
        let run = |graph, params| {
            let program = yolo_core::Program::new(graph, params).expect("tensors fit");
            program.run(&image, yolo_core::Mode::Eval).expect("a forward")
        };
        let wanted = run(&graph, &params);
        for (pass, found) in [("fuse", run(&folded, &fewer)), ("upsample_late", run(&late, &split))] {
            for (a, b) in wanted.iter().zip(found) {
                let scale = a.abs().max().double_value(&[]).max(1.0);
                let difference = (a - b).abs().max().double_value(&[]);
                // Sixty layers of single precision, rounded in another order.
                assert!(difference < 1e-3 * scale, "{name}, {pass}: {difference} at {scale}");
            }
        }
    }
}

/// Checkpoints and shared libraries hold graphs in this form, byte for byte; the file was written by version 0.1.0.
#[test]
fn the_form_of_a_graph_in_files_stays() {
    let text = include_str!("../../../../tests/fixtures/yolov5n.graph.json").trim_end();
    let graph = graph("yolov5n");
    assert_eq!(serde_json::to_string(&graph).expect("JSON"), text);
    let again: Graph = serde_json::from_str(text).expect("a graph");
    again.validate().expect("a valid graph");
    assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
    // Another form is not the same graph, or none at all.
    for (from, to) in [
        ("\"op\":\"conv2d\"", "\"op\":\"convolution\""),
        ("\"op\":\"conv2d\",\"cin\"", "\"op\":\"conv2d\",\"inputs\""),
        ("\"act\":\"silu\"", "\"act\":\"swish\""),
    ] {
        let other = text.replace(from, to);
        assert!(
            other != text && serde_json::from_str::<Graph>(&other).is_err(),
            "{from}"
        );
    }
}
