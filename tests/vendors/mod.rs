//! The files that vendors' toolchains read: each is parsed as its plugin's README describes it and held, number by number, against the
//! quantized network. The check takes its numbers from the tensors themselves, not from what the writers are given; and it is shown to
//! refuse a file with one thing changed.

mod formats;
mod mutate;
mod network;
pub mod qdq;
mod unique;

use serde_json::json;
use yolo_core::Op;
use yolo_core::Quantizer;
use yolo_core::graph::Activation;
use yolo_core::quant::Ranges;

pub use formats::Format;
pub use network::Network;

use crate::quantizing::{calibrated, small};
use crate::support::{fixture, root};

/// The backends that write a text beside ONNX files, and the file.
const FILES: [(&str, &str); 8] = [
    ("tensorrt", "_clip_ranges.json"),
    ("snpe", "_clip_ranges.json"),
    ("ppl-w8a16", "_clip_ranges.json"),
    ("ppl-cuda", "_clip_ranges.json"),
    ("nnie", "_gfpq_param_dict.json"),
    ("vitis", "_clip_ranges.json"),
    ("tengine-u8", "_for_tengine.scale"),
    ("stpu", "_stpu_minmax.json"),
];

/// Name of the text that a backend writes for a model, if it writes one.
pub fn file_of(backend: &str, model: &str) -> Option<String> {
    let found = FILES.iter().find(|(name, _)| *name == backend);
    found.map(|(_, ending)| format!("{model}{ending}"))
}

fn backend(name: &str) -> Box<dyn Quantizer> {
    serde_json::from_value(json!({"type": name})).expect("a backend")
}

fn text_of(name: &str, ranges: &Ranges) -> String {
    let files = backend(name).artifacts("net", ranges).expect("files");
    assert_eq!(files.len(), 1, "{name}");
    assert_eq!(Some(&files[0].name), file_of(name, "net").as_ref(), "{name}");
    files.into_iter().next().expect("one").text
}

/// The bytes of these files are a contract with toolchains: they were written down before their writers moved into the plugins.
#[test]
fn files_are_what_they_were() {
    let ranges: Ranges = serde_json::from_value(fixture("vendors/ranges.json")).expect("ranges");
    for (name, ending) in FILES {
        let path = root().join(format!("tests/fixtures/vendors/{name}{ending}"));
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text_of(name, &ranges), golden, "{name}");
    }
}

#[test]
fn every_backend_that_writes_a_text_is_looked_at() {
    let ranges: Ranges = serde_json::from_value(fixture("vendors/ranges.json")).expect("ranges");
    for info in yolo_core::PluginInfo::linked() {
        if info.kind == yolo_core::Kind::Quantizer {
            let files = backend(info.name).artifacts("net", &ranges).expect("files");
            assert_eq!(
                files.len(),
                usize::from(file_of(info.name, "net").is_some()),
                "{}",
                info.name
            );
        }
    }
}

/// Everything in a file is looked at: whatever is changed, the check that accepts the file refuses the changed one.
#[test]
fn a_file_with_one_thing_changed_is_refused() {
    let silu = small("yolov5n");
    let mut relu = silu.clone();
    for node in &mut relu.nodes {
        if let Op::Act { act } = &mut node.op {
            *act = Activation::Relu;
        }
    }
    for (graph, (name, _)) in [&silu, &relu]
        .into_iter()
        .flat_map(|graph| FILES.map(|file| (graph, file)))
    {
        let (graph, params) = calibrated(graph, name);
        let network = Network::of(&graph, &params);
        let text = text_of(name, &Ranges::of(&graph, &params).expect("ranges"));
        let format = Format::of(name).expect("a format");
        format
            .check(&text, &network)
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let mutations = mutate::all(format, &text);
        assert!(mutations.len() >= 6, "{name}: {} mutations", mutations.len());
        for (what, changed) in mutations {
            assert_ne!(changed, text, "{name}: {what}");
            let reason = format.check(&changed, &network).expect_err(&format!("{name}: {what}"));
            assert!(reason.len() > 5, "{name}: {what}: {reason}");
        }
        // Another network's file is not this one's.
        let other = params.deep_clone();
        let key = format!("{}.scale", network.activations[1].quantizer);
        let scale = other.get(&key).expect("a scale").shallow_clone();
        let _ = tch::no_grad(|| {
            scale
                .copy()
                .f_mul_scalar(4.0)
                .map(|four| scale.shallow_clone().copy_(&four))
        });
        let reason = format.check(&text, &Network::of(&graph, &other)).expect_err(name);
        assert!(reason.contains(' '), "{name}: {reason}");
    }
}
