//! Files that find boxes in an engine: the boxes are those of the network, whatever form the outputs have.

use std::path::{Path, PathBuf};

use tch::Tensor;
use yolo_core::{Graph, Mode, Params, Program};
use yolo_export::checked::{Format, Request, write};
use yolo_export::deployed::Deployed;
use yolo_export::engine::{Engine, Ncnn, OnnxRuntime};
use yolo_export::onnx::proto::ModelProto;
use yolo_export::onnx::{Nms, NmsKind, Outputs};
use yolo_export::package;

use crate::support::{engine, fill, image, tiny};

const SIZE: [i64; 2] = [96, 64];

fn network() -> (Graph, Params) {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    (graph, params)
}

fn boxes(graph: &Graph, params: &Params, images: &Tensor) -> Tensor {
    let maps = tch::no_grad(|| Program::new(graph, params)?.run(images, Mode::Eval)).unwrap();
    graph.head.as_ref().unwrap().decode(&maps).unwrap()
}

/// Largest difference of two tensors of one shape.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

fn written(folder: &Path, name: &str, request: Request) -> PathBuf {
    let (graph, params) = network();
    let path = folder.join(name);
    let names = ["cat", "dog", "red panda"].map(str::to_owned).to_vec();
    let request = Request {
        names,
        check: false,
        ..request
    };
    write(&graph, &params, &request, &path).unwrap();
    path
}

/// Opens a file, or fails with what is said against it.
fn open(path: &Path, engine: &'static dyn Engine) -> Deployed {
    Deployed::open(path, engine, 1).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(path: &Path) -> String {
    match Deployed::open(path, &OnnxRuntime, 1) {
        Ok(_) => panic!("{} is opened", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn boxes_of_every_form_are_those_of_the_network() {
    if !engine() {
        return;
    }
    let (graph, params) = network();
    let folder = tempfile::tempdir().unwrap();
    let new = Request::new(Format::Onnx, SIZE);
    let raw = Request {
        outputs: Outputs::Raw,
        ..new.clone()
    };
    let of = |batch, request: &Request| Request {
        batch,
        ..request.clone()
    };
    // Three images on files for one, for two (the last run is filled up) and for any number.
    let images = Tensor::cat(
        &[image(2, 3, 96, 64), image(1, 3, 96, 64).f_mul_scalar(0.5).unwrap()],
        0,
    );
    let wanted = boxes(&graph, &params, &images);
    for (name, request) in [
        ("one.onnx", of(Some(1), &new)),
        ("two.onnx", of(Some(2), &new)),
        ("any.onnx", of(None, &new)),
        ("raw.onnx", of(Some(1), &raw)),
        ("any-raw.onnx", of(None, &raw)),
    ] {
        let mut file = open(&written(folder.path(), name, request.clone()), &OnnxRuntime);
        assert_eq!(file.image(), Some(SIZE), "{name}");
        assert_eq!(file.batch(), request.batch.map(|n| n as usize), "{name}");
        assert_eq!((file.classes(), file.names()[2].as_str()), (3, "red panda"), "{name}");
        let found = file.predict(&images).unwrap();
        assert!(apart(&found, &wanted) < 1e-2, "{name}: {}", apart(&found, &wanted));
        assert!(file.milliseconds() > 0.0);
    }
}

#[test]
fn files_without_a_description_are_understood_by_their_metadata_and_sizes() {
    if !engine() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "net.onnx", Request::new(Format::Onnx, SIZE));
    let images = image(1, 3, 96, 64);
    let wanted = open(&path, &OnnxRuntime).predict(&images).unwrap();
    std::fs::remove_file(package::path_of(&path)).unwrap();
    let mut file = open(&path, &OnnxRuntime);
    assert_eq!(file.names(), ["cat", "dog", "red panda"]);
    assert_eq!(file.predict(&images).unwrap(), wanted);
    // As Ultralytics writes them: another name of the output, names as Python prints them.
    let mut model = ModelProto::read(&path).unwrap();
    for entry in &mut model.metadata_props {
        match entry.key.as_str() {
            "names" => entry.value = "{0: 'cat', 1: 'dog', 2: 'red panda'}".to_owned(),
            "stride" => entry.value = "32".to_owned(),
            _ => entry.key.push('x'),
        }
    }
    let graph = model.graph.as_mut().unwrap();
    for node in &mut graph.node {
        node.output
            .iter_mut()
            .filter(|name| *name == "output")
            .for_each(|name| *name = "output0".to_owned());
    }
    graph.output[0].name = "output0".to_owned();
    model.write(&path).unwrap();
    let mut file = open(&path, &OnnxRuntime);
    assert_eq!(
        (file.names(), file.stride()),
        (["cat", "dog", "red panda"].map(str::to_owned).as_slice(), 32)
    );
    assert_eq!(file.predict(&images).unwrap(), wanted);
    // Without any metadata classes are numbers.
    model.metadata_props.clear();
    model.write(&path).unwrap();
    assert_eq!(open(&path, &OnnxRuntime).names(), ["0", "1", "2"]);
}

#[test]
fn files_that_are_no_detectors_or_not_as_described_say_so() {
    if !engine() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let new = Request::new(Format::Onnx, SIZE);
    let nms = Request {
        nms: Some(Nms::new(NmsKind::Standard)),
        ..new.clone()
    };
    let path = written(folder.path(), "nms.onnx", nms);
    assert!(refusal(&path).contains("without --nms"));
    std::fs::remove_file(package::path_of(&path)).unwrap();
    assert!(refusal(&path).contains("without --nms"));
    // The description of another file.
    let path = written(folder.path(), "net.onnx", new);
    let larger = written(folder.path(), "larger.onnx", Request::new(Format::Onnx, [96, 96]));
    std::fs::copy(package::path_of(&larger), package::path_of(&path)).unwrap();
    let error = refusal(&path);
    assert!(
        error.contains("net.onnx") && error.contains("don't belong together"),
        "{error}"
    );
    // No ONNX at all.
    std::fs::write(&path, "hello").unwrap();
    assert!(refusal(&path).contains("net.onnx"));
    assert!(refusal(&folder.path().join("none.onnx")).contains("none.onnx"));
}

#[test]
fn infinite_boxes_are_no_result() {
    if !engine() {
        return;
    }
    let (graph, params) = network();
    let mut broken = params.shallow_clone();
    let key = "model.1.conv.weight";
    broken.insert(key.to_owned(), params.get(key).unwrap() / 0.0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    let request = Request {
        check: false,
        ..Request::new(Format::Onnx, SIZE)
    };
    write(&graph, &broken, &request, &path).unwrap();
    let error = open(&path, &OnnxRuntime)
        .predict(&image(1, 3, 96, 64))
        .unwrap_err()
        .to_string();
    assert!(error.contains("net.onnx") && error.contains("not finite"), "{error}");
}

/// ncnn itself, not our reading of its layers.
#[test]
fn ncnn_computes_what_the_network_computes() {
    if let Err(reason) = Ncnn.find() {
        crate::skip::skipped("ncnn (cargo xtask setup --engines)", reason);
        return;
    }
    let (graph, params) = network();
    let folder = tempfile::tempdir().unwrap();
    let images = image(2, 3, 96, 64);
    let wanted = boxes(&graph, &params, &images);
    let path = written(folder.path(), "net.param", Request::new(Format::Ncnn, SIZE));
    let mut file = open(&path, &Ncnn);
    assert_eq!((file.image(), file.batch()), (Some(SIZE), Some(1)));
    assert_eq!(file.names(), ["cat", "dog", "red panda"]);
    let found = file.predict(&images).unwrap();
    assert!(apart(&found, &wanted) < 2e-2, "{}", apart(&found, &wanted));
    // A weight that is another one is seen.
    let bin = path.with_extension("bin");
    let mut bytes = std::fs::read(&bin).unwrap();
    let middle = bytes.len() / 8 * 4;
    bytes[middle..middle + 4].copy_from_slice(&50f32.to_le_bytes());
    std::fs::write(&bin, bytes).unwrap();
    assert!(apart(&open(&path, &Ncnn).predict(&images).unwrap(), &wanted) > 0.1);
    // Files that it refuses.
    std::fs::remove_file(&bin).unwrap();
    let error = Deployed::open(&path, &Ncnn, 1).map(drop).unwrap_err().to_string();
    assert!(error.contains("net.bin is not there"), "{error}");
    std::fs::remove_file(package::path_of(&path)).unwrap();
    std::fs::write(&bin, "x").unwrap();
    let error = Deployed::open(&path, &Ncnn, 1).map(drop).unwrap_err().to_string();
    assert!(error.contains("net.param"), "{error}");
}
