//! Files are written only if they compute what their network computes.

use yolo_export::checked::{Format, Request, write};
use yolo_export::onnx::{self, Nms, NmsKind, Outputs, Profile};

use crate::qdq::{quantize, range};
use crate::support::{engine, fill, image, tiny};

#[test]
fn every_format_is_checked_and_written_whole() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let (quantized, weights) = quantize(&graph, &params, &image(1, 3, 96, 64), &range(-127, 127), 1.0);
    let dir = tempfile::tempdir().unwrap();
    let ort = engine();
    let new = |format| Request {
        threads: 1,
        ..Request::new(format, [96, 64])
    };
    let onnx = new(Format::Onnx);
    let qdq = new(Format::OnnxQdq);
    let ncnn = new(Format::Ncnn);
    for (name, q, request) in [
        ("float.onnx", false, onnx.clone()),
        (
            "open.onnx",
            false,
            Request {
                batch: None,
                ..onnx.clone()
            },
        ),
        (
            "three.onnx",
            false,
            Request {
                batch: Some(3),
                ..onnx.clone()
            },
        ),
        (
            "raw.onnx",
            false,
            Request {
                outputs: Outputs::Raw,
                ..onnx.clone()
            },
        ),
        (
            "nms.onnx",
            false,
            Request {
                nms: Some(Nms::new(NmsKind::Standard)),
                ..onnx.clone()
            },
        ),
        ("stripped.onnx", true, onnx.clone()),
        ("ort.onnx", true, qdq.clone()),
        (
            "tensorrt.onnx",
            true,
            Request {
                profile: Profile::TensorRt,
                ..qdq
            },
        ),
        ("float.param", false, ncnn.clone()),
        (
            "half.param",
            false,
            Request {
                half: true,
                ..ncnn.clone()
            },
        ),
        ("int8.param", true, ncnn),
    ] {
        let path = dir.path().join(name);
        let (g, p) = if q { (&quantized, &weights) } else { (&graph, &params) };
        let written = write(g, p, &request, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            written.files.iter().all(|file| file.is_file()) && written.files[0] == path,
            "{name}"
        );
        let bytes: u64 = written.files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(written.size_bytes, bytes, "{name}");
        if ort || name.ends_with(".param") {
            let d = written
                .difference
                .unwrap_or_else(|| panic!("{name}: {:?}", written.unchecked));
            assert!(
                d.max() > 0.0 || q || name == "half.param",
                "{name}: a folded network agrees with its origin to the last bit: {d:?}"
            );
        }
        if name.ends_with(".onnx") {
            let file = onnx::proto::ModelProto::read(&path).unwrap();
            assert_eq!(
                file.is_quantized(),
                matches!(name, "ort.onnx" | "tensorrt.onnx"),
                "{name}"
            );
        }
    }
    let unchecked = write(
        &graph,
        &params,
        &Request { check: false, ..onnx },
        &dir.path().join("quick.onnx"),
    )
    .unwrap();
    assert!(unchecked.difference.is_none() && unchecked.unchecked.is_some());
}

#[test]
fn a_file_that_computes_something_else_is_not_written() {
    if !engine() {
        return;
    }
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    // Infinite weights: nothing that comes out is a number.
    let key = "model.1.conv.weight";
    let mut broken = params.shallow_clone();
    broken.insert(key.to_owned(), params.get(key).unwrap() / 0.0);
    let dir = tempfile::tempdir().unwrap();
    for (format, name) in [(Format::Onnx, "a.onnx"), (Format::Ncnn, "a.param")] {
        let path = dir.path().join(name);
        let error = write(&graph, &broken, &Request::new(format, [64; 2]), &path)
            .unwrap_err()
            .to_string();
        assert!(error.contains(name) && error.contains("nothing was written"), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_a_format_can_t_hold_is_refused() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let new = |format| Request::new(format, [64; 2]);
    for (request, words) in [
        (new(Format::OnnxQdq), "yolo quantize"),
        (
            Request {
                half: true,
                ..new(Format::Onnx)
            },
            "for ncnn",
        ),
        (
            Request {
                batch: Some(0),
                ..new(Format::Onnx)
            },
            "batch of 0",
        ),
        (
            Request {
                batch: None,
                ..new(Format::Ncnn)
            },
            "one image at a time",
        ),
        (
            Request {
                image: [100, 64],
                ..new(Format::Onnx)
            },
            "100",
        ),
    ] {
        let error = write(&graph, &params, &request, &path).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
