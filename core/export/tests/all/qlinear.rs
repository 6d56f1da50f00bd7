//! Integer operators in the place of Q/DQ pairs: onnxruntime runs each against the simulation.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use yolo_core::quant::{BackendSpec, Calibration, Observer, Placement, Quantizer, Scheme};
use yolo_core::{Graph, GraphBuilder, Op, Params, ValueId, graph::Activation};
use yolo_export::checked::{self, Format, Request};
use yolo_export::engine::OnnxRuntime;
use yolo_export::onnx::{self, Profile, proto::ModelProto};

use crate::support::{engine, fill, image, tiny};

#[derive(Debug, Serialize, Deserialize)]
struct Operators(BackendSpec);

#[typetag::serde(name = "operators-of-tests")]
impl Quantizer for Operators {
    fn backend(&self) -> BackendSpec {
        self.0.clone()
    }
}

/// Asymmetric 8 bits before and behind convolutions, sums and average pools.
fn behind_too() -> BackendSpec {
    let scheme = Scheme {
        symmetric: false,
        observer: Observer::MinMax,
        ..Scheme::INT8
    };
    let ops = ["conv2d", "add", "avg-pool"];
    BackendSpec {
        weight: scheme,
        activation: scheme,
        placement: Placement {
            before_activations: true,
            ..Placement::inputs_of(&ops).and_outputs_of(&ops)
        },
        ..BackendSpec::default()
    }
}

fn quantized(graph: &Graph, backend: BackendSpec, images: &Tensor) -> (Graph, Params) {
    let quantizer = Operators(backend);
    let params = fill(graph, 2.5);
    let mut calibration = Calibration::new(&quantizer, graph, &params).unwrap();
    calibration.see(images).unwrap();
    calibration.finish().unwrap()
}

fn exported(graph: &Graph, params: &Params) -> onnx::Exported {
    let options = onnx::Options {
        image: [96, 64],
        profile: Profile::QLinear,
        ..onnx::Options::default()
    };
    onnx::export(graph, params, &options).unwrap()
}

fn count(model: &ModelProto, op: &str) -> usize {
    let nodes = &model.graph.as_ref().unwrap().node;
    nodes.iter().filter(|node| node.op_type == op).count()
}

/// Every quantized convolution but those of the head is one operator, with a ReLU or without.
#[test]
fn convolutions_sums_and_pools_become_operators() {
    let graph = tiny(3);
    let images = image(1, 3, 96, 64);
    let (graph, params) = quantized(&graph, behind_too(), &images);
    let pairs = exported(&graph, &params).model;
    let (file, made) = onnx::qlinear::operators(&pairs).unwrap();
    let sums = count(&pairs, "Add") - count(&file, "Add");
    assert_eq!(count(&file, "QLinearConv") + count(&file, "QLinearAdd"), made);
    assert_eq!(count(&file, "QLinearAdd"), sums);
    assert!(sums > 0 && count(&file, "QLinearConv") > 5);
    assert_eq!(
        count(&file, "Conv"),
        graph.outputs.len(),
        "only the head's own convolutions stay"
    );
    let constants = &file.graph.as_ref().unwrap().initializer;
    let floats = constants.iter().filter(|tensor| tensor.name.ends_with(".bias"));
    assert_eq!(floats.count(), graph.outputs.len(), "all other biases are integers");
    assert!(file.opset_import.iter().any(|set| set.domain == "com.microsoft"));
}

/// A convolution, a ReLU and an average pool: the ReLU is the lower end of the range behind it.
#[test]
fn a_relu_is_the_end_of_a_range() {
    let mut g = GraphBuilder::new(3);
    let conv = g
        .add("conv", Op::conv(3, 8, 3, 1, 1, 1, true), &[ValueId::IMAGE])
        .unwrap();
    let relu = Op::Act { act: Activation::Relu };
    let relu = g.add("relu", relu, &[conv]).unwrap();
    let last = g.add("last", Op::conv(8, 4, 1, 1, 0, 1, true), &[relu]).unwrap();
    let graph = g.finish(vec![last], None).unwrap();
    let (graph, params) = quantized(&graph, behind_too(), &image(1, 3, 96, 64));
    let (file, made) = onnx::qlinear::operators(&exported(&graph, &params).model).unwrap();
    assert_eq!((made, count(&file, "Relu"), count(&file, "QLinearConv")), (1, 0, 1));
}

/// The file is run before it is written; one wrong bias in it is seen.
#[test]
fn operators_are_held_against_the_simulation() {
    if !engine() {
        return;
    }
    let images = image(1, 3, 96, 64);
    let (graph, params) = quantized(&tiny(3), behind_too(), &images);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operators.onnx");
    let request = Request {
        profile: Profile::QLinear,
        ..Request::new(Format::OnnxQdq, [96, 64])
    };
    let written = checked::write(&graph, &params, &request, &path).unwrap();
    let fused = written.fused.expect("it was run");
    assert!(fused.quantizers > 20 && fused.share() > 0.999, "{}", fused.summary());
    assert!(
        written.difference.expect("it was run").scores < 0.2,
        "{:?}",
        written.difference
    );

    let exported = exported(&graph, &params);
    let mut file = exported.model.clone();
    let constants = &mut file.graph.as_mut().unwrap().initializer;
    let bias = constants
        .iter_mut()
        .find(|tensor| tensor.name.ends_with(".bias"))
        .unwrap();
    let (_, first) = bias.raw_data.split_last_chunk::<4>().unwrap();
    let raised = f32::from_le_bytes(*first) + 5.0;
    let end = bias.raw_data.len() - 4;
    bias.raw_data[end..].copy_from_slice(&raised.to_le_bytes());
    let fused = onnx::steps::run_fused(&file, &exported, true, &images, (&OnnxRuntime, 1)).unwrap();
    assert!(fused.fault().is_some(), "{}", fused.summary());
}

/// Quantizers before ops only make no operator.
#[test]
fn networks_without_quantizers_behind_ops_are_refused() {
    let backend = BackendSpec {
        placement: Placement::inputs_of(&["conv2d"]),
        ..behind_too()
    };
    let mut g = GraphBuilder::new(3);
    let conv = g
        .add("conv", Op::conv(3, 8, 3, 1, 1, 1, true), &[ValueId::IMAGE])
        .unwrap();
    let graph = g.finish(vec![conv], None).unwrap();
    let (graph, params) = quantized(&graph, backend, &image(1, 3, 96, 64));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.onnx");
    let request = Request {
        profile: Profile::QLinear,
        ..Request::new(Format::OnnxQdq, [96, 64])
    };
    let error = checked::write(&graph, &params, &request, &path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("onnx-qnn") && !path.exists(), "{error}");
}
