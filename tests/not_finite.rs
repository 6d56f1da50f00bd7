//! Numbers that are none never pass as a result: not in validation, detection, calibration or training.

use tch::Tensor;
use yolo_engine::checkpoint;

use crate::support::{files, random_weights, small_data, tiny_model, yolo};

/// Finite weights, but so large that what they make is not.
#[test]
fn a_network_that_overflows_is_an_error_and_no_score_of_zero() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let data = small_data(place, 12, 64);
    let classes = yolo_data::Dataset::open(&data).expect("the data set").names.len();
    let weights = random_weights(&tiny_model(place), place, classes);
    let mut model = checkpoint::load(&weights).expect("a checkpoint");
    for key in ["model.1.conv.weight", "model.2.cv1.conv.weight"] {
        let huge: Tensor = model.params.get(key).expect("a tensor") * 1e30;
        model.params.insert(key.to_owned(), huge);
    }
    let path = place.join("huge.safetensors");
    checkpoint::save(&path, &model).expect("a file");
    let (huge, data) = (path.display().to_string(), data.display().to_string());
    let image = files(&place.join("data"))
        .into_iter()
        .find(|file| file.ends_with(".png") || file.ends_with(".jpg"));
    let image = place.join("data").join(image.expect("an image")).display().to_string();
    let before = files(place);
    let on_data = [
        "--weights",
        &huge,
        "--data",
        &data,
        "--img",
        "64",
        "--batch-size",
        "4",
        "--workers",
        "1",
    ];
    yolo(place, &[&["val"], &on_data[..]].concat()).fails(1, &["not finite", "earlier checkpoint"]);
    yolo(
        place,
        &[
            "detect",
            "--weights",
            &huge,
            "--source",
            &image,
            "--img",
            "64",
            "--nosave",
        ],
    )
    .fails(1, &["not finite"]);
    for backend in ["onnxruntime", "tensorrt", "vitis"] {
        let line = [&["quantize", "--backend", backend, "--out", "int8"], &on_data[..]].concat();
        // The float model is measured before anything is calibrated.
        yolo(place, &line).fails(1, &["not finite"]);
    }
    let line = [
        &[
            "prune",
            "--pruner",
            "oneshot",
            "--flops",
            "0.7",
            "--out",
            "p.safetensors",
        ],
        &on_data[..],
    ]
    .concat();
    yolo(place, &line).fails(1, &["not finite"]);
    assert_eq!(files(place), before, "nothing is left of what failed");
}

/// Calibration names the tensor, of an activation and of a weight.
#[test]
fn calibration_names_what_is_not_finite() {
    use yolo_core::quant::{Calibration, Quantizer};
    use yolo_core::{model, testing};
    let config = yolo_core::config::Located::parse("tiny.yaml", crate::support::TINY).expect("YAML");
    let config = model::resolve_extends(config, &mut |_| Ok(None)).expect("its base");
    let graph = model::build(&config, Some(2)).expect("a graph");
    let quantizer: Box<dyn Quantizer> =
        serde_json::from_value(serde_json::json!({"type": "tensorrt"})).expect("a backend");
    let params = testing::fill_params(&graph, 2.5);
    let images = testing::input(1, 3, 64, 64);
    let mut right = Calibration::new(quantizer.as_ref(), &graph, &params).expect("a calibration");
    right.see(&images).expect("finite");
    right.finish().expect("a network");

    let mut seen = Calibration::new(quantizer.as_ref(), &graph, &params).expect("a calibration");
    let nan = &images * f64::NAN;
    let error = seen.see(&nan).expect_err("NaN images").to_string();
    assert!(error.contains("`images`") && error.contains("not finite"), "{error}");

    let mut broken = params.shallow_clone();
    let key = "model.4.cv2.conv.weight";
    broken.insert(key.to_owned(), params.get(key).expect("a tensor") * f64::INFINITY);
    let mut calibration = Calibration::new(quantizer.as_ref(), &graph, &broken).expect("a calibration");
    let error = calibration.see(&images).expect_err("infinite weights").to_string();
    assert!(error.contains("`model.4.") && error.contains("not finite"), "{error}");

    let unseen = Calibration::new(quantizer.as_ref(), &graph, &params).expect("a calibration");
    let error = unseen.finish().expect_err("no image").to_string();
    assert!(error.contains("no image"), "{error}");
}
