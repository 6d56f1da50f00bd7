//! Reading Ultralytics checkpoints: bit-exact tensors, what the file says about itself, hostile and broken files.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::path::Path;

use common::shared;
use yolo_engine::pt::{self, Source};
use yolo_engine::raw::RawTensor;

#[test]
fn the_official_checkpoint_is_read_bit_for_bit() {
    let Some(folder) = shared("data/weights") else { return };
    let model = pt::read(&folder.join("yolov5n.pt")).unwrap();
    assert_eq!(model.class, "models.yolo.Model");
    assert_eq!(
        model.source,
        Source::Model,
        "a finished checkpoint has no separate average"
    );
    assert_eq!(model.names.len(), 80);
    assert_eq!(
        (model.names[0].as_str(), model.names[79].as_str()),
        ("person", "toothbrush")
    );
    assert_eq!(model.strides, [8.0, 16.0, 32.0]);
    assert_eq!(model.anchors[0], [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]);
    assert_eq!(model.anchors[2][2], [373.0, 326.0]);
    assert_eq!(model.classes, Some(80));
    assert_eq!(model.epoch, Some(-1));
    assert!(model.date.as_deref().is_some_and(|d| d.starts_with("2022-02-08")));
    assert_eq!(model.detect.as_deref(), Some("model.24"));
    let tree = model.tree.as_ref().unwrap();
    let norms: Vec<_> = tree.walk().into_iter().filter(|m| m.kind() == "BatchNorm2d").collect();
    assert_eq!(norms.len(), 57);
    let is = |module: &pt::PtModule, name: &str, value: f64| module.attrs[name] == pt::Attr::Value(value.into());
    assert!(norms.iter().all(|n| is(n, "eps", 1e-3) && is(n, "momentum", 0.03)));
    assert_eq!(model.yaml.as_ref().unwrap()["width_multiple"], 0.25);
    assert!(model.graph(Path::new("yolov5n.pt")).unwrap().is_some());

    // Order, shapes and types as `state_dict()` gives them.
    let keys: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("yolov5n.keys.json")).unwrap()).unwrap();
    let keys = keys.as_array().unwrap();
    assert_eq!(model.state.len(), keys.len());
    for ((name, tensor), key) in model.state.iter().zip(keys) {
        assert_eq!(name, key["name"].as_str().unwrap());
        let shape: Vec<u64> = tensor.shape.iter().map(|d| *d as u64).collect();
        assert_eq!(
            shape,
            key["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d.as_u64().unwrap())
                .collect::<Vec<_>>()
        );
    }
    // Values.
    let bytes = std::fs::read(folder.join("yolov5n.fp16.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), model.state.len());
    for (name, tensor) in &model.state {
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), tensor.dtype, "{name}");
        assert_eq!(view.data(), tensor.bytes, "{name}");
    }
}

#[test]
fn another_version_of_yolov5_is_read() {
    let Some(path) = shared("data/weights/danh_yolov5n.pt") else {
        return;
    };
    let model = pt::read(&path).unwrap();
    assert_eq!(model.class, "models.yolo.DetectionModel");
    assert_eq!(model.names, ["duckie", "cone", "truck", "bus"]);
    assert_eq!(model.state.len(), 349);
    assert!(model.graph(&path).unwrap().is_some());
}

#[test]
fn an_unknown_module_is_named_with_its_place() {
    let Some(path) = shared("data/weights/showarp_yolov5s.pt") else {
        return;
    };
    let error = pt::read(&path).unwrap().graph(&path).unwrap_err().to_string();
    assert!(
        error.contains("models.common.CBAM") && error.contains("`model."),
        "{error}"
    );
    assert!(error.contains("showarp_yolov5s.pt"), "{error}");
}

#[test]
fn a_truncated_checkpoint_is_refused() {
    let Some(path) = shared("data/weights/yolov5n.pt") else {
        return;
    };
    let bytes = std::fs::read(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for keep in [30, 1000, bytes.len() / 2, bytes.len() - 100] {
        let path = folder.path().join("cut.pt");
        std::fs::write(&path, &bytes[..keep]).unwrap();
        let error = pt::read(&path).unwrap_err().to_string();
        assert!(error.contains("cut.pt") && error.contains("cut off"), "{keep}: {error}");
    }
}

/// A checkpoint with this pickle and one storage "0".
fn write_archive(path: &Path, pickle: &[u8], storage: &[u8]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(pickle).unwrap();
    zip.start_file("archive/data/0", stored).unwrap();
    zip.write_all(storage).unwrap();
    zip.finish().unwrap();
}

/// The pickle of `{"w": tensor}` with this storage class, element count, offset, shape and strides.
fn state_pickle(class: &str, elements: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |v: i32| [&b"J"[..], &v.to_le_bytes()].concat();
    let text = |t: &str| [&b"X"[..], &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
    let tuple = |items: &[i32]| [&b"("[..], &items.iter().flat_map(|v| int(*v)).collect::<Vec<_>>(), b"t"].concat();
    [
        b"\x80\x02}(".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{class}\n").into_bytes(),
        text("0"),
        text("cpu"),
        int(elements),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89NtRu.".to_vec(),
    ]
    .concat()
}

#[test]
fn a_plain_state_dict_is_read_with_strides_and_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.pt");
    let values: Vec<u8> = (0..6).flat_map(|v| (v as f64).to_le_bytes()).collect();
    write_archive(&path, &state_pickle("DoubleStorage", 6, 0, &[3, 2], &[1, 3]), &values);
    let model = pt::read(&path).unwrap();
    assert_eq!(model.source, Source::StateDict);
    let RawTensor { dtype, shape, .. } = &model.state["w"];
    assert_eq!((*dtype, shape.as_slice()), (safetensors::Dtype::F64, &[3, 2][..]));
    assert_eq!(model.state["w"].to_f64(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
}

#[test]
fn hostile_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (case, pickle, text) in [
        (
            "beyond",
            state_pickle("FloatStorage", 4, 2, &[4], &[1]),
            "reaches to element",
        ),
        (
            "huge",
            state_pickle("FloatStorage", 4, 0, &[i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1]),
            "larger than any memory",
        ),
        (
            "repeat",
            state_pickle("FloatStorage", 4, 0, &[i32::MAX, 2], &[0, 0]),
            "fill the memory",
        ),
        (
            "negative",
            state_pickle("FloatStorage", 4, -1, &[1], &[1]),
            "natural number",
        ),
        ("strides", state_pickle("FloatStorage", 4, 0, &[2, 2], &[1]), "strides"),
        ("type", state_pickle("SpamStorage", 4, 0, &[4], &[1]), "SpamStorage"),
        ("lies", state_pickle("FloatStorage", 400, 0, &[4], &[1]), "storage of 4"),
        ("pickle", b"\x80\x02}(X\xff\xff\xff\x7f".to_vec(), "damaged"),
        ("empty", b"\x80\x02}.".to_vec(), "no weights"),
    ] {
        let path = folder.path().join(format!("{case}.pt"));
        write_archive(&path, &pickle, &[0; 16]);
        let error = pt::read(&path).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains(case), "{case}: {error}");
    }
}

#[test]
fn files_that_are_something_else_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, text) in [
        ("empty.pt", &b""[..], "is empty"),
        (
            "lfs.pt",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS",
        ),
        ("page.pt", b"\n<!DOCTYPE html><html>", "web page"),
        (
            "old.pt",
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
            "damaged or cut off",
        ),
        ("noise.pt", b"hello", "not a PyTorch checkpoint"),
        ("onnx.pt", b"\x08\x08\x12\x07pytorch", "`yolo bench` run it"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = pt::read(&path).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains(name), "{error}");
    }
    let error = pt::read(&folder.path().join("nowhere.pt")).unwrap_err().to_string();
    assert!(error.contains("nowhere.pt") && error.contains("can't open"), "{error}");

    // TorchScript, another zip, and a compressed bomb.
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, entries, text) in [
        (
            "script.pt",
            &["m/data.pkl", "m/constants.pkl", "m/code/x.py"][..],
            "TorchScript",
        ),
        ("other.pt", &["word/document.xml"][..], "no `data.pkl`"),
    ] {
        let path = folder.path().join(name);
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        for entry in entries {
            zip.start_file(*entry, stored).unwrap();
            zip.write_all(b"x").unwrap();
        }
        zip.finish().unwrap();
        let error = pt::read(&path).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let path = folder.path().join("bomb.pt");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("archive/data.pkl", deflated).unwrap();
    zip.write_all(&vec![0; 64 << 20]).unwrap();
    zip.finish().unwrap();
    let error = pt::read(&path).unwrap_err().to_string();
    assert!(error.contains("no checkpoint needs that"), "{error}");
}

#[test]
fn a_flipped_bit_is_found_by_the_checksum_of_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.pt");
    let values: Vec<u8> = [1.0f32, 2.0, 3.25, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    write_archive(&path, &state_pickle("FloatStorage", 4, 0, &[4], &[1]), &values);
    assert_eq!(pt::read(&path).unwrap().state["w"].to_f64(), [1.0, 2.0, 3.25, 4.0]);
    let whole = std::fs::read(&path).unwrap();
    let at = whole.windows(values.len()).position(|part| part == values).unwrap();
    for byte in [0, 7, values.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at + byte] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = pt::read(&path).unwrap_err().to_string();
        for word in ["flipped.pt", "`data/0`", "damaged", "again"] {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
    }
}
