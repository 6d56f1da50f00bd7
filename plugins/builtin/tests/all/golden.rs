//! The published figures of the reference (tests/fixtures/models.json) and the comparison of a graph with them.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use tch::{Device, Kind as DType, Tensor};
use yolo_core::graph::Graph;
use yolo_core::{Mode, Program, testing};

/// The figures of all models.
pub fn figures() -> &'static Value {
    static FIGURES: OnceLock<Value> = OnceLock::new();
    FIGURES.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models.json");
        let text = std::fs::read_to_string(path).expect("tests/fixtures/models.json");
        serde_json::from_str(&text).expect("valid JSON")
    })
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| v.as_f64().expect("a number"))
        .collect()
}

/// 64-bit FNV-1a of the sorted `key:shape` lines of the state dict.
fn keys(graph: &Graph) -> (usize, String, Vec<String>) {
    let line = |key: &str, shape: &[i64]| {
        let shape: Vec<String> = shape.iter().map(i64::to_string).collect();
        format!("{key}:{}", shape.join("x"))
    };
    let mut lines: Vec<String> = graph
        .param_specs()
        .iter()
        .map(|spec| line(&spec.key, &spec.shape))
        .collect();
    if let Some(head) = &graph.head {
        lines.push(line(&head.anchors_key(), &head.anchors_in_cells().size()));
    }
    lines.sort();
    let hash = lines.join("\n").bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    (lines.len(), format!("{hash:016x}"), lines)
}

/// Parameters, GFLOPs, strides, anchors, names and shapes of the state dict, the layer table.
pub fn check_structure(name: &str, graph: &Graph) {
    let figures = &figures()[name];
    assert!(figures.is_object(), "no figures for {name}");
    let cost = graph.cost(640).expect("a cost");
    for (layer, expected) in cost.layers.iter().zip(figures["layers"].as_array().expect("layers")) {
        let at = format!("{name}, layer {}", layer.index);
        // Several equal blocks in a row have no name of their own in PyTorch.
        let kind = expected[0].as_str().expect("a type");
        assert!(
            layer.kind == kind || kind == "Sequential",
            "{at} is `{}`, not `{kind}`",
            layer.kind
        );
        let froms = &figures["froms"][layer.index];
        let froms = if froms.is_array() {
            numbers(froms)
        } else {
            vec![froms.as_f64().expect("an index")]
        };
        let wanted: Vec<i64> = froms
            .iter()
            .map(|from| {
                let from = *from as i64;
                if from < 0 { layer.index as i64 + from } else { from }
            })
            .collect();
        assert_eq!(layer.from, wanted, "inputs of {at}");
        assert_eq!(
            layer.params,
            expected[1].as_i64().expect("parameters"),
            "parameters of {at}"
        );
    }
    assert_eq!(
        cost.layers.len(),
        figures["layers"].as_array().expect("layers").len(),
        "layers of {name}"
    );
    assert_eq!(
        cost.params,
        figures["params"].as_i64().expect("params"),
        "parameters of {name}"
    );
    let gflops = figures["gflops"].as_f64().expect("GFLOPs");
    assert!(
        (cost.gflops() - gflops).abs() < 1e-9 * gflops.max(1.0) + 1e-9,
        "{name}: {} GFLOPs, published {gflops}",
        cost.gflops()
    );
    let strides: Vec<f64> = graph.strides().expect("strides").iter().map(|s| *s as f64).collect();
    assert_eq!(strides, numbers(&figures["strides"]), "strides of {name}");
    let head = graph.head.as_ref().expect("a head");
    let anchors: Vec<f64> = figures["anchors"]
        .as_array()
        .expect("anchors")
        .iter()
        .flat_map(|level| level.as_array().expect("a level").iter().flat_map(numbers))
        .collect();
    let own = Vec::<f64>::try_from(head.anchors_in_cells().to_kind(DType::Double).reshape([-1])).expect("anchors");
    for (a, b) in own.iter().zip(&anchors) {
        // The published ones are printed from single precision.
        assert!((a - b).abs() < 1e-5, "{name}: anchor {a} instead of {b}");
    }
    let (count, hash, lines) = keys(graph);
    if (count as i64, hash.as_str())
        != (
            figures["keys"].as_i64().expect("a count"),
            figures["keys_hash"].as_str().expect("a hash"),
        )
    {
        let dump = std::env::temp_dir().join(format!("{name}.keys"));
        std::fs::write(&dump, lines.join("\n")).expect("a listing");
        panic!("{name}: {count} keys, hash {hash}; listing in {}", dump.display());
    }
}

/// The forward in eval mode on the published fill and image: in double precision statistics and samples of every layer, raw and
/// decoded predictions; in single precision the predictions.
pub fn check_forward(name: &str, graph: &Graph) {
    let _guard = tch::no_grad_guard();
    let figures = &figures()[name];
    let size = numbers(&figures["input"]);
    let image = testing::input(1, 3, size[2] as i64, size[3] as i64);
    let sum = image.to_kind(DType::Double).sum(DType::Double).double_value(&[]);
    let expected = figures["input_sum"].as_f64().expect("a sum");
    assert!(
        (sum - expected).abs() < 1e-6 * expected,
        "the image sums to {sum}, not {expected}"
    );
    let params = testing::fill_params(graph, figures["gain"].as_f64().expect("a gain"));
    let program = Program::new(graph, &params).expect("tensors fit");
    let outputs = program.run(&image, Mode::Eval).expect("a forward");
    // The error that the reference's own single precision makes, times ten.
    check_predictions(name, graph, &outputs, |error| 10.0 * error + 1e-6, 0.0);

    let params = params.to(Device::Cpu, DType::Double);
    let program = Program::new(graph, &params).expect("tensors fit");
    let layers = figures["layer_stats"].as_array().expect("layers");
    let mut seen = 0;
    let outputs = program
        .run_observed(&image.to_kind(DType::Double), Mode::Eval, |value, tensor| {
            for layer in graph.layers.iter().filter(|l| l.output == value) {
                if let Some(expected) = layers.get(layer.index) {
                    check_stats(&format!("{name}, layer {}", layer.index), tensor, &numbers(expected));
                    seen += 1;
                }
            }
            Ok(())
        })
        .expect("a forward");
    assert_eq!(seen, layers.len(), "layers of {name}");
    check_predictions(name, graph, &outputs, |_| 0.0, ROUNDED);
}

/// The figures have eight (statistics: seven) digits; two programs in double precision agree far beyond.
const ROUNDED: f64 = 1e-7;

/// Samples of the raw maps and of the boxes against double precision. `absolute` turns the reference's own error in single
/// precision into a tolerance, `relative` is a part of the value.
fn check_predictions(name: &str, graph: &Graph, outputs: &[Tensor], absolute: impl Fn(f64) -> f64, relative: f64) {
    let figures = &figures()[name];
    let head = graph.head.as_ref().expect("a head");
    let check = |what: &str, own: &Tensor, expected: &Value| {
        let tolerance = absolute(expected["err"].as_f64().expect("an error"));
        let values = numbers(&expected["val"]);
        let stats = testing::stats(own, values.len()).expect("statistics");
        for (own, theirs) in stats.samples.iter().zip(values) {
            // Nothing is closer to zero than the scale of the map allows.
            let tolerance = tolerance + relative * theirs.abs().max(1e-3 * stats.std);
            assert!(
                (own - theirs).abs() < tolerance,
                "{name}, {what}: {own} instead of {theirs} (tolerance {tolerance:e})"
            );
        }
    };
    for (level, output) in outputs.iter().enumerate() {
        let raw = head.raw(output).expect("raw maps");
        check(&format!("level {level}"), &raw, &figures["raw"][level]);
    }
    check("decoded", &head.decode(outputs).expect("boxes"), &figures["decoded"]);
}

/// Mean, standard deviation, smallest and largest element, which the reference took in single precision, and four samples in
/// double.
fn check_stats(at: &str, tensor: &Tensor, expected: &[f64]) {
    let stats = testing::stats(tensor, 4).expect("statistics");
    let own = [stats.mean, stats.std, stats.min, stats.max];
    for ((own, theirs), what) in own.iter().zip(expected).zip(["mean", "std", "min", "max"]) {
        // Single precision through up to a hundred layers: 2e-4 of the spread, and of the element where it is far outside.
        let tolerance = 2e-4 * (expected[1] + theirs.abs()) + 1e-12;
        assert!(
            (own - theirs).abs() < tolerance,
            "{at}: {what} {own} instead of {theirs} (tolerance {tolerance:e})"
        );
    }
    for (own, theirs) in stats.samples.iter().zip(&expected[4..]) {
        let tolerance = ROUNDED * theirs.abs().max(1e-3 * stats.std);
        assert!(
            (own - theirs).abs() < tolerance,
            "{at}: element {own} instead of {theirs} (tolerance {tolerance:e})"
        );
    }
}
