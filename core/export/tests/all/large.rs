//! Networks whose values are much larger than those of a trained one: what is held against them, and what can't be.

use tch::Tensor;
use yolo_core::{Graph, Params};
use yolo_export::checked::{Format, Request, float_ncnn, float_onnx, write};
use yolo_export::ncnn::model::Weight;
use yolo_export::{ncnn, onnx};

use crate::checked::faults;
use crate::support::{engine, fill, image, tiny};

/// The tiny network with this many times its weights in the tensors whose names have `part`.
fn larger(part: &str, times: f64) -> (Graph, Params) {
    let graph = tiny(3);
    let mut params = fill(&graph, 2.5);
    let keys: Vec<String> = params.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys
        .into_iter()
        .filter(|key| key.contains(part) && !key.contains("anchor"))
    {
        let scaled = params.get(&key).unwrap() * times;
        params.insert(key, scaled);
    }
    (graph, params)
}

/// Values of hundreds and thousands lose more to rounding than those of a trained network: the limits grow with that, and no more.
#[test]
fn networks_of_large_values_are_held_against_their_own_rounding() {
    let images = image(1, 3, 96, 64);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.onnx");
    for (part, times) in [
        ("model.24.m", 30.0),
        ("model.24.m", 300.0),
        ("model.0.bn.weight", 100.0),
        ("bn.weight", 1.3),
    ] {
        let (graph, params) = larger(part, times);
        let of = (&graph, &params, &images);
        let options = ncnn::Options {
            image: [96, 64],
            ..ncnn::Options::default()
        };
        let right = ncnn::export(&graph, &params, &options).unwrap();
        let (found, reason) = float_ncnn(&path, &right, of).unwrap();
        assert!(found.is_some() && reason.is_none(), "{part} {times}: {reason:?}");
        let at = (0..right.layers.len())
            .filter(|at| right.layers[*at].kind == "Convolution")
            .nth(4)
            .unwrap();
        let mut net = right.clone();
        match &mut net.layers[at].weights[0] {
            Weight::Tagged(values) => values.iter_mut().for_each(|v| *v *= 1.01),
            other => panic!("{other:?}"),
        }
        assert!(
            float_ncnn(&path, &net, of).is_err(),
            "{part} {times}: weights of 1 % more pass"
        );
        if !engine() {
            continue;
        }
        let written = write(
            &graph,
            &params,
            &Request {
                threads: 1,
                ..Request::new(Format::Onnx, [96, 64])
            },
            &path,
        )
        .unwrap();
        assert!(written.difference.is_some(), "{part} {times}: {:?}", written.unchecked);
        let options = onnx::Options {
            image: [96, 64],
            ..onnx::Options::default()
        };
        let right = onnx::export(&graph, &params, &options).unwrap().model;
        let float = [
            "a bias",
            "a stride",
            "another activation",
            "the order of a concatenation",
        ];
        for (what, change) in faults().into_iter().filter(|(what, _)| float.contains(what)) {
            let mut file = right.clone();
            change(file.graph.as_mut().unwrap());
            let mut session = yolo_export::ort::Session::from_bytes(&file.to_bytes().unwrap(), 1).unwrap();
            let held = float_onnx(&path, &mut session, of);
            assert!(held.is_err(), "{part} {times}: {what} passes: {held:?}");
        }
    }
}

/// Where all scores are 0 or 1, the raw values are compared; where single precision knows none of them, that is said.
#[test]
fn networks_that_say_nothing_are_not_called_checked() {
    if !engine() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.onnx");
    let request = Request {
        threads: 1,
        ..Request::new(Format::Onnx, [96, 64])
    };
    let (graph, mut params) = larger("model.24.m", 1.0);
    for level in 0..3 {
        let key = format!("model.24.m.{level}.bias");
        let shape = params.get(&key).unwrap().size();
        params.insert(key, Tensor::full(shape, 40.0, (tch::Kind::Float, tch::Device::Cpu)));
    }
    let written = write(&graph, &params, &request, &path).unwrap();
    let found = written.difference.unwrap_or_else(|| panic!("{:?}", written.unchecked));
    assert!(
        found.raw > 0.0 && found.boxes == 0.0,
        "raw values were compared: {found:?}"
    );

    let (graph, params) = larger("bn.weight", 2.5);
    let written = write(&graph, &params, &request, &path).unwrap();
    let reason = written.unchecked.expect("nothing can be compared");
    assert!(
        reason.contains("single precision") && written.difference.is_none(),
        "{reason}"
    );
}
