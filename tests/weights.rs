//! Weights of strangers on the command line: what is taken over, what is said, what is refused, and that every advice works.

use std::path::Path;

use serde_json::Value;

use crate::python::{self, LIST, Py, act, checkpoint, dict, fuse, network, text};
use crate::support::{Said, shared, small_data, yolo};

/// A folder with `model.pt` (or another name) and the layer list of its network.
fn place(name: &str, value: &Py) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    python::save(&folder.path().join(name), value);
    std::fs::write(folder.path().join("list.yaml"), LIST).expect("a file");
    folder
}

fn picture(folder: &Path) {
    let path = folder.join("picture.png");
    image::RgbImage::from_fn(96, 64, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 90]))
        .save(path)
        .expect("a picture");
}

fn detect(folder: &Path, weights: &str) -> Said {
    picture(folder);
    let arguments = [
        "detect",
        "--weights",
        weights,
        "--source",
        "picture.png",
        "--json",
        "--nosave",
        "--conf-thres",
        "0.001",
        "--img",
        "64",
    ];
    yolo(folder, &arguments)
}

fn boxes(said: Said) -> Value {
    said.ok().json()["images"][0]["detections"].clone()
}

#[test]
fn every_ending_and_container_detects_alike() {
    let folder = place("model.pt", &checkpoint(network()));
    let wanted = boxes(detect(folder.path(), "model.pt"));
    assert!(wanted.as_array().is_some_and(|boxes| !boxes.is_empty()), "{wanted}");
    for name in ["weights.pth", "WEIGHTS.PT", "last.ckpt"] {
        python::save(&folder.path().join(name), &checkpoint(network()));
        assert_eq!(boxes(detect(folder.path(), name)), wanted, "{name}");
    }
    std::fs::write(folder.path().join("old.pt"), python::legacy(&checkpoint(network()))).expect("a file");
    assert_eq!(boxes(detect(folder.path(), "old.pt")), wanted);
    for input in ["weights.pth", "old.pt", "WEIGHTS.PT"] {
        yolo(folder.path(), &["convert", input, "Own.SafeTensors"]).ok();
        assert_eq!(boxes(detect(folder.path(), "Own.SafeTensors")), wanted, "{input}");
    }
}

#[test]
fn another_activation_is_computed_and_said_and_stays_through_convert() {
    let mut net = network();
    net.each(&mut |class, m| {
        if class == "models.common.Conv" {
            m.at("_modules").set("act", act("ReLU", vec![]));
        }
    });
    let list = yolo_core::config::Located::parse("list.yaml", LIST).expect("YAML");
    let plain = |value: &Value| -> Py {
        fn py(value: &Value) -> Py {
            match value {
                Value::Null => Py::None,
                Value::Bool(flag) => Py::Bool(*flag),
                Value::Number(number) => number
                    .as_i64()
                    .map_or_else(|| Py::Float(number.as_f64().unwrap_or(0.0)), Py::Int),
                Value::String(words) => text(words),
                Value::Array(items) => Py::List(items.iter().map(py).collect()),
                Value::Object(map) => dict(map.iter().map(|(key, value)| (key.as_str(), py(value))).collect()),
            }
        }
        py(value)
    };
    net.set("yaml", plain(&list.value));
    let folder = place("relu.pt", &checkpoint(net.clone()));
    let said = detect(folder.path(), "relu.pt").ok();
    for words in [
        "relu.pt",
        "`model.0.act` is Relu instead of Silu",
        "more",
        "the modules count",
    ] {
        assert!(said.err.contains(words), "{}", said.err);
    }
    let relu = boxes(said);
    python::save(&folder.path().join("silu.pt"), &checkpoint(network()));
    assert_ne!(relu, boxes(detect(folder.path(), "silu.pt")));
    yolo(folder.path(), &["convert", "relu.pt", "own.safetensors"]).ok();
    assert_eq!(boxes(detect(folder.path(), "own.safetensors")), relu);
    // The same said by the model file, as v7.0 does: nothing differs, nothing is said.
    net.at("yaml").set("activation", text("nn.ReLU()"));
    python::save(&folder.path().join("said.pt"), &checkpoint(net));
    let said = detect(folder.path(), "said.pt").ok();
    assert!(!said.err.contains("instead of"), "{}", said.err);
    assert_eq!(boxes(said), relu);
    // And the model file alone.
    std::fs::write(folder.path().join("act.yaml"), format!("activation: nn.ReLU()\n{LIST}")).expect("a file");
    let state = Py::Ordered(network().state_dict(""));
    python::save(&folder.path().join("state.pt"), &state);
    yolo(
        folder.path(),
        &["convert", "state.pt", "act.safetensors", "--cfg", "act.yaml"],
    )
    .ok();
    assert_eq!(
        without_names(&boxes(detect(folder.path(), "act.safetensors"))),
        without_names(&relu)
    );
}

fn without_names(boxes: &Value) -> Vec<Value> {
    let mut boxes = boxes.as_array().cloned().unwrap_or_default();
    for found in &mut boxes {
        found["name"] = Value::Null;
    }
    boxes
}

#[test]
fn the_advice_about_a_state_dict_works() {
    for prefix in ["", "module.", "_orig_mod.module."] {
        let state = Py::Ordered(network().state_dict(prefix));
        let folder = place("state.pt", &dict(vec![("state_dict", state), ("epoch", Py::Int(3))]));
        picture(folder.path());
        for command in [
            vec!["detect", "--weights", "state.pt", "--source", "picture.png"],
            vec![
                "export",
                "--weights",
                "state.pt",
                "--format",
                "onnx",
                "--out",
                "out.onnx",
            ],
            vec!["model", "state.pt"],
            vec!["convert", "state.pt", "out.safetensors"],
        ] {
            yolo(folder.path(), &command)
                .fails(1, &["state.pt", "yolo convert state.pt model.safetensors --cfg MODEL"]);
        }
        assert!(!folder.path().join("out.safetensors").exists());
        // The advice, followed: how many classes there are is read from the head.
        yolo(
            folder.path(),
            &["convert", "state.pt", "model.safetensors", "--cfg", "list.yaml"],
        )
        .ok();
        python::save(&folder.path().join("model.pt"), &checkpoint(network()));
        let (whole, state) = (
            boxes(detect(folder.path(), "model.pt")),
            boxes(detect(folder.path(), "model.safetensors")),
        );
        assert_eq!(without_names(&whole), without_names(&state));
    }
}

fn train(folder: &Path, options: &[&str]) -> Said {
    let data = if folder.join("data").exists() {
        folder.join("data/data.yaml")
    } else {
        small_data(folder, 12, 64)
    };
    let data = data.display().to_string();
    let fixed = [
        "train",
        "--data",
        &data,
        "--img",
        "64",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--noplots",
        "--noval",
        "--workers",
        "1",
    ];
    yolo(folder, &[&fixed[..], options].concat())
}

#[test]
fn training_starts_from_weights_that_arrive() {
    let state = Py::Ordered(network().state_dict("module."));
    let folder = place("ddp.pth", &state);
    let said = train(folder.path(), &["--cfg", "list.yaml", "--weights", "ddp.pth"]).ok();
    let (words, _) = said
        .err
        .split_once(" tensors taken over")
        .unwrap_or_else(|| panic!("{}", said.err));
    let (taken, total) = words
        .rsplit_once("weights: ")
        .and_then(|(_, n)| n.split_once(" of "))
        .unwrap_or_default();
    let (taken, total): (usize, usize) = (taken.parse().expect("a number"), total.parse().expect("a number"));
    assert!(taken * 10 > total * 6 && taken < total, "{taken} of {total}");
    // The heads have other classes: two levels, weight and bias.
    assert!(said.err.contains("other shape: model.10.m.0.weight"), "{}", said.err);
}

#[test]
fn training_does_not_start_from_noise() {
    let folder = place("model.pt", &checkpoint(network()));
    for (name, prefix) in [("foreign.pt", "backbone.stage."), ("other.pt", "features.")] {
        python::save(
            &folder.path().join(name),
            &Py::Ordered(network().module("model.2").state_dict(prefix)),
        );
        let options = ["--cfg", "list.yaml", "--weights", name];
        train(folder.path(), &options).fails(2, &[name, "0 of", "less than half of `list.yaml`", "--partial-weights"]);
    }
    // Another architecture.
    let options = ["--cfg", "yolov5n", "--weights", "model.pt"];
    train(folder.path(), &options).fails(2, &["model.pt", "less than half of `yolov5n`", "other shape", "--cfg"]);
    assert!(!folder.path().join("runs").exists());
    // The advice works.
    let said = train(folder.path(), &[&options[..], &["--partial-weights"]].concat()).ok();
    assert!(said.err.contains("tensors taken over"), "{}", said.err);
}

#[test]
fn a_fused_checkpoint_detects_and_says_why_it_is_not_trained() {
    let mut net = network();
    fuse(&mut net);
    let folder = place("fused.pt", &checkpoint(net.clone()));
    python::save(&folder.path().join("model.pt"), &checkpoint(network()));
    let said = detect(folder.path(), "fused.pt").ok();
    assert!(said.err.contains("fuse()"), "{}", said.err);
    let score = |boxes: Value| boxes[0]["conf"].as_f64().unwrap_or_default();
    let (fused, open) = (score(boxes(said)), score(boxes(detect(folder.path(), "model.pt"))));
    assert!((fused - open).abs() < 1e-4, "{fused} {open}");
    for options in [
        &["--weights", "fused.pt"][..],
        &["--cfg", "list.yaml", "--weights", "fused.pt"],
    ] {
        train(folder.path(), options).fails(2, &["fused.pt", "batch norms are folded", "fuse()"]);
    }
    // Its state dict, and what becomes of it.
    python::save(&folder.path().join("state.pt"), &Py::Ordered(net.state_dict("module.")));
    yolo(
        folder.path(),
        &["convert", "state.pt", "own.safetensors", "--cfg", "list.yaml"],
    )
    .ok();
    assert!((score(boxes(detect(folder.path(), "own.safetensors"))) - open).abs() < 1e-4);
    train(folder.path(), &["--weights", "own.safetensors"]).fails(2, &["own.safetensors", "folded"]);
    train(folder.path(), &["--cfg", "list.yaml", "--weights", "state.pt"]).fails(2, &["state.pt", "folded"]);
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn weights_of_a_network_that_computes_something_else_are_said_to_be() {
    let mut net = network();
    net.module("model.3")
        .at("_modules")
        .set("act", act("Hardswish", vec![]));
    let folder = place("hard.pt", &checkpoint(net));
    let said = train(folder.path(), &["--cfg", "list.yaml", "--weights", "hard.pt"]).ok();
    for words in [
        "hard.pt",
        "another network than `list.yaml`",
        "`model.3.act` is Hardswish there and Silu",
    ] {
        assert!(said.err.contains(words), "{}", said.err);
    }
    let said = train(folder.path(), &["--weights", "hard.pt"]).ok();
    assert!(!said.err.contains("another network"), "{}", said.err);
    // One that can't be computed here.
    let mut net = network();
    net.module("model.3").at("_modules").set("act", act("Mish", vec![]));
    python::save(&folder.path().join("mish.pt"), &checkpoint(net));
    let said = train(folder.path(), &["--cfg", "list.yaml", "--weights", "mish.pt"]).ok();
    for words in ["mish.pt", "only tensors are taken", "`model.3.act` is a Mish"] {
        assert!(said.err.contains(words), "{}", said.err);
    }
    train(folder.path(), &["--weights", "mish.pt"]).fails(1, &["mish.pt", "`model.3.act` is a Mish"]);
}

#[test]
fn tensors_that_are_not_finite_are_named_by_every_command() {
    let mut net = network();
    let Py::Tensor { values, .. } = net.module("model.2.cv3.bn").at("_buffers").at("running_var") else {
        panic!("a tensor");
    };
    values[1] = f32::NAN;
    let folder = place("nan.pt", &checkpoint(net.clone()));
    let own = folder.path().join("nan.safetensors");
    python::save(&folder.path().join("good.pt"), &checkpoint(network()));
    yolo(folder.path(), &["convert", "good.pt", "nan.safetensors"]).ok();
    // One value of one tensor, in place: no program of ours writes it.
    let mut bytes = std::fs::read(&own).expect("a file");
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let at = 8
        + length
        + header["model.2.cv3.bn.running_var"]["data_offsets"][0]
            .as_u64()
            .expect("an offset") as usize;
    bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&own, bytes).expect("a file");
    for weights in ["nan.pt", "nan.safetensors"] {
        let words = [weights, "`model.2.cv3.bn.running_var`", "not finite"];
        detect(folder.path(), weights).fails(1, &words);
        yolo(folder.path(), &["convert", weights, "out.safetensors"]).fails(1, &words);
        yolo(
            folder.path(),
            &["export", "--weights", weights, "--format", "onnx", "--out", "out.onnx"],
        )
        .fails(1, &words);
        train(folder.path(), &["--weights", weights]).fails(1, &words);
        train(folder.path(), &["--cfg", "list.yaml", "--weights", weights]).fails(1, &words);
    }
    assert!(!folder.path().join("out.safetensors").exists() && !folder.path().join("runs").exists());
}

#[test]
fn names_of_classes_and_their_oddities_are_said() {
    let mut net = network();
    net.set(
        "names",
        Py::Dict(vec![(Py::Int(1), Py::Int(2146)), (Py::Int(2), text("气泡"))]),
    );
    let folder = place("odd.pt", &checkpoint(net.clone()));
    let said = detect(folder.path(), "odd.pt").ok();
    assert!(
        said.err.contains("numbered 1 to 2") && said.err.contains("`2146` is class 0"),
        "{}",
        said.err
    );
    let named: Vec<Value> = boxes(said)
        .as_array()
        .into_iter()
        .flatten()
        .map(|found| found["name"].clone())
        .collect();
    assert!(
        !named.is_empty() && named.iter().all(|name| name == "2146" || name == "气泡"),
        "{named:?}"
    );
    net.set("names", dict(vec![("cell", Py::Int(0))]));
    python::save(&folder.path().join("turned.pt"), &checkpoint(net));
    detect(folder.path(), "turned.pt").fails(1, &["turned.pt", "`cell`", "class number"]);
    // Names of a state dict that we wrote come back with it.
    python::save(&folder.path().join("model.pt"), &checkpoint(network()));
    yolo(
        folder.path(),
        &["convert", "model.pt", "state.safetensors", "--state-dict"],
    )
    .ok();
    yolo(
        folder.path(),
        &["convert", "state.safetensors", "back.safetensors", "--cfg", "list.yaml"],
    )
    .ok();
    let back = yolo_engine::checkpoint::load(&folder.path().join("back.safetensors")).expect("a checkpoint");
    assert_eq!(back.meta.names, ["cell", "gap"]);
}

#[test]
fn bilinear_upsampling_is_exported_as_it_is_computed() {
    let mut net = network();
    net.module("model.7").set("mode", text("bilinear"));
    let folder = place("bilinear.pt", &checkpoint(net));
    for (format, file) in [("onnx", "out.onnx"), ("ncnn", "out")] {
        let arguments = [
            "export",
            "--weights",
            "bilinear.pt",
            "--format",
            format,
            "--img",
            "64",
            "--out",
            file,
            "--json",
        ];
        let said = yolo(folder.path(), &arguments).ok().json();
        let worst = said["max_abs_diff"].as_f64().unwrap_or_else(|| panic!("{said}"));
        assert!(worst < 1e-3, "{format}: {worst}");
    }
    // The graph is another one.
    python::save(&folder.path().join("nearest.pt"), &checkpoint(network()));
    assert_ne!(
        boxes(detect(folder.path(), "bilinear.pt")),
        boxes(detect(folder.path(), "nearest.pt"))
    );
}

#[test]
fn the_official_network_with_changed_modules_keeps_its_boxes() {
    let Some(weights) = shared("data/weights/yolov5n.pt") else {
        return;
    };
    let Some(bus) = shared("data/images/bus.jpg") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(weights, folder.path().join("Official.PTH")).expect("a copy");
    let bus = bus.display().to_string();
    let said = yolo(
        folder.path(),
        &[
            "detect",
            "--weights",
            "Official.PTH",
            "--source",
            &bus,
            "--json",
            "--nosave",
        ],
    )
    .ok();
    assert!(
        said.err.lines().all(|line| !line.contains("instead of")),
        "{}",
        said.err
    );
    let found = boxes(said);
    let count = |name: &str| {
        found
            .as_array()
            .into_iter()
            .flatten()
            .filter(|b| b["name"] == name)
            .count()
    };
    assert_eq!((count("person"), count("bus")), (4, 1));
}

#[test]
fn boxes_are_decoded_with_the_anchors_of_the_weights() {
    let mut net = network();
    let Py::Tensor { values, .. } = net.module("model.10").at("_buffers").at("anchors") else {
        panic!("the anchors are a tensor");
    };
    for (index, side) in values.iter_mut().enumerate() {
        *side *= 1.25 + index as f32 / 16.0;
    }
    let folder = place("model.pt", &checkpoint(net.clone()));
    let state = dict(vec![
        ("state_dict", Py::Ordered(net.state_dict(""))),
        ("names", Py::List(vec![text("left"), text("right")])),
    ]);
    python::save(&folder.path().join("state.pt"), &state);
    let convert = |input: &str, output: &str| {
        let said = yolo(folder.path(), &["convert", input, output, "--cfg", "list.yaml"]).ok();
        assert!(
            said.err
                .contains("its anchors (`model.10.anchors`) are others than those of `list.yaml`"),
            "{}",
            said.err
        );
    };
    convert("state.pt", "from_pt.safetensors");
    let plain = ["convert", "model.pt", "state.safetensors", "--state-dict"];
    yolo(folder.path(), &plain).ok();
    convert("state.safetensors", "back.safetensors");
    let whole = boxes(detect(folder.path(), "model.pt"));
    assert!(whole.as_array().is_some_and(|boxes| !boxes.is_empty()), "{whole}");
    assert_eq!(whole, boxes(detect(folder.path(), "back.safetensors")));
    let renamed = boxes(detect(folder.path(), "from_pt.safetensors"));
    assert_eq!(without_names(&whole), without_names(&renamed));
    // Names beside a state dict come along.
    assert!(
        renamed[0]["name"] == "left" || renamed[0]["name"] == "right",
        "{renamed}"
    );

    // A training has those of its configuration.
    let said = train(folder.path(), &["--cfg", "list.yaml", "--weights", "state.pt"]).ok();
    assert!(
        said.err.contains("its anchors are others than those of `list.yaml`"),
        "{}",
        said.err
    );
}
