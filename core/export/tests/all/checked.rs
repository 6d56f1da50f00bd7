//! Files are written only if they compute what their network computes.

use yolo_export::checked::{Format, Request, write};
use yolo_export::engine::OnnxRuntime;
use yolo_export::ncnn;
use yolo_export::ncnn::model::{Layer, Net, Weight};
use yolo_export::onnx::proto::{GraphProto, ModelProto, TensorProto};
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
                d.max() > 0.0 || q,
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
    // Wanted in any case: the file with what is wrong with it beside it.
    for (format, name) in [(Format::Onnx, "a.onnx"), (Format::Ncnn, "a.param")] {
        let request = Request {
            force: true,
            ..Request::new(format, [64; 2])
        };
        let written = write(&graph, &broken, &request, &dir.path().join(name)).unwrap();
        assert!(written.summary().contains("FAILED"), "{}", written.summary());
        let report = dir.path().join(format!("{name}.report.json"));
        assert!(written.files.contains(&report) && written.files.iter().all(|file| file.is_file()));
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let fault = report["faults"][0].as_str().unwrap();
        assert!(fault.contains(name), "{fault}");
    }
    // A file without a fault has no report.
    let request = Request {
        force: true,
        ..Request::new(Format::Onnx, [64; 2])
    };
    let written = write(&graph, &params, &request, &dir.path().join("b.onnx")).unwrap();
    assert!(written.faults.is_empty() && !dir.path().join("b.onnx.report.json").exists());
}

/// Weights that 16 bits can't hold make another network, however well the file agrees with its own rounding.
#[test]
fn weights_beyond_half_precision_are_refused() {
    let graph = tiny(3);
    let dir = tempfile::tempdir().unwrap();
    let request = Request {
        half: true,
        ..Request::new(Format::Ncnn, [64; 2])
    };
    let scaled = |factor: f64| {
        let params = fill(&graph, 2.5);
        let key = "model.0.bn.weight";
        let scaled = params.require(key).unwrap() * factor;
        let mut params = params.deep_clone();
        params.insert(key, scaled);
        params
    };
    write(&graph, &scaled(1.0), &request, &dir.path().join("fine.param")).unwrap();
    for (factor, words) in [(1e-7, "loses"), (1e7, "end at 65504")] {
        let path = dir.path().join("beyond.param");
        let error = write(&graph, &scaled(factor), &request, &path).unwrap_err().to_string();
        assert!(
            error.contains("model.0.conv") && error.contains(words) && error.contains("--half"),
            "{error}"
        );
        assert!(!path.exists());
        let forced = Request {
            force: true,
            ..request.clone()
        };
        let written = write(&graph, &scaled(factor), &forced, &path).unwrap();
        assert!(
            written.faults.iter().any(|fault| fault.contains("model.0.conv")),
            "{:?}",
            written.faults
        );
        std::fs::remove_file(&path).unwrap();
    }
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

/// What a check of integer files is there to catch: each fault by itself, in the file that was right.
#[test]
fn a_qdq_file_with_one_fault_is_rejected() {
    if !engine() {
        return;
    }
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let images = image(1, 3, 96, 64);
    for (act, profile) in [
        (range(-127, 127), Profile::TensorRt),
        (range(0, 255), Profile::Ort),
        (range(-64, 63), Profile::Ort),
        (range(0, 65535), Profile::TensorRt),
    ] {
        let (quantized, weights) = quantize(&graph, &params, &images, &act, 1.0);
        let options = onnx::Options {
            image: [96, 64],
            profile,
            ..onnx::Options::default()
        };
        let exported = onnx::export(&quantized, &weights, &options).unwrap();
        let check = |file: &ModelProto| onnx::steps::check(file, &exported, &images, 1);
        let (steps, ends) = check(&exported.model).unwrap();
        assert!(steps.quantizers > 20 && steps.values > 10_000, "{steps:?}");
        assert!(steps.equal() > 0.9999 && ends.boxes < 0.01, "{steps:?} {ends:?}");

        let float = onnx::export(
            &graph,
            &params,
            &onnx::Options {
                image: [96, 64],
                ..onnx::Options::default()
            },
        );
        let mut mutations: Vec<(String, ModelProto)> = vec![("a float file".into(), float.unwrap().model)];
        for (what, change) in faults() {
            let mut file = exported.model.clone();
            change(file.graph.as_mut().unwrap());
            assert_ne!(file, exported.model, "{what} changes nothing");
            mutations.push((what.into(), file));
        }
        for (what, file) in mutations {
            match check(&file) {
                Err(error) => println!("{act:?} {what}: {error}"),
                // Of the float parts behind the last quantizer: the outputs tell.
                Ok((_, ends)) => assert!(
                    ends.boxes > 0.01 || ends.scores > 2e-5,
                    "{act:?}: {what} passes: {ends:?}"
                ),
            }
        }
    }
}

/// The same faults, seen in what the engine's own kernels make of simulated values.
#[test]
fn kernels_of_a_file_with_one_fault_leave_the_simulated_steps() {
    if !engine() {
        return;
    }
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let images = image(1, 3, 96, 64);
    let (quantized, weights) = quantize(&graph, &params, &images, &range(0, 255), 1.0);
    let options = onnx::Options {
        image: [96, 64],
        profile: Profile::Ort,
        ..onnx::Options::default()
    };
    let exported = onnx::export(&quantized, &weights, &options).unwrap();
    let run = |file: &ModelProto| onnx::steps::run_fused(file, &exported, false, &images, (&OnnxRuntime, 1));
    let right = run(&exported.model).unwrap();
    assert_eq!(right.fault(), None, "{}", right.summary());
    assert!(
        right.quantizers > 20 && right.share() > 0.9999 && right.values > 10_000,
        "{right:?}"
    );
    for (what, change) in faults() {
        let mut file = exported.model.clone();
        change(file.graph.as_mut().unwrap());
        let said = match run(&file) {
            Err(error) => error.to_string(),
            Ok(fused) => fused
                .fault()
                .unwrap_or_else(|| panic!("{what} passes: {}", fused.summary())),
        };
        println!("{what}: {said}");
    }
}

pub type Fault = (&'static str, fn(&mut GraphProto));

/// Changes of a file that nobody would see in its boxes.
pub fn faults() -> Vec<Fault> {
    fn initializer<'a>(graph: &'a mut GraphProto, ending: &str, nth: usize) -> &'a mut TensorProto {
        (graph
            .initializer
            .iter_mut()
            .filter(|t| t.name.ends_with(ending))
            .nth(nth))
        .expect("an initializer")
    }
    fn floats(tensor: &mut TensorProto, change: impl Fn(f32) -> f32) {
        let values = tensor.f32_values().expect("floats");
        tensor.raw_data = values.into_iter().flat_map(|v| change(v).to_le_bytes()).collect();
    }
    /// The nodes that make an activation's integers.
    fn pair(graph: &GraphProto, nth: usize) -> (usize, usize) {
        let quantize = (0..graph.node.len())
            .filter(|at| graph.node[*at].op_type == "QuantizeLinear")
            .nth(nth);
        let quantize = quantize.expect("a pair");
        let name = &graph.node[quantize].output[0];
        let reads = |at: &usize| graph.node[*at].input.first() == Some(name);
        (quantize, (0..graph.node.len()).find(reads).expect("its other half"))
    }
    vec![
        ("a pair left out", |graph| {
            let (quantize, dequantize) = pair(graph, 5);
            let (from, to) = (
                graph.node[quantize].input[0].clone(),
                graph.node[dequantize].output[0].clone(),
            );
            graph.node[dequantize].op_type = "Identity".into();
            graph.node[dequantize].input = vec![from];
            graph.node[dequantize].output = vec![to];
        }),
        ("another scale of an activation", |graph| {
            let (quantize, dequantize) = pair(graph, 3);
            let name = graph.node[quantize].input[1].clone();
            let mut scale = (graph.initializer.iter().find(|t| t.name == name))
                .expect("a scale")
                .clone();
            scale.name = "other_scale".into();
            floats(&mut scale, |v| v * 1.03);
            graph.initializer.push(scale);
            for at in [quantize, dequantize] {
                graph.node[at].input[1] = "other_scale".into();
            }
        }),
        ("one scale of a weight", |graph| {
            let tensor = initializer(graph, ".weight.scale", 4);
            let mut values = tensor.f32_values().expect("floats");
            values[1] *= 1.1;
            tensor.raw_data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        }),
        ("weights of one channel", |graph| {
            let tensor = initializer(graph, ".weight.q", 6);
            let row = tensor.raw_data.len() / tensor.dims[0] as usize;
            tensor.raw_data[..row]
                .iter_mut()
                .for_each(|q| *q = (*q as i8 / 2) as u8);
        }),
        ("a bias", |graph| floats(initializer(graph, ".bias", 2), |v| v + 0.2)),
        ("a stride", |graph| {
            let conv = graph
                .node
                .iter_mut()
                .filter(|node| node.op_type == "Conv")
                .nth(1)
                .expect("a convolution");
            for attribute in conv.attribute.iter_mut().filter(|a| a.name == "pads") {
                attribute.ints = vec![0, 0, 2, 2];
            }
        }),
        ("another activation", |graph| {
            let sigmoid = graph
                .node
                .iter_mut()
                .filter(|node| node.op_type == "Sigmoid")
                .nth(3)
                .expect("a sigmoid");
            sigmoid.op_type = "Tanh".into();
        }),
        ("the order of a concatenation", |graph| {
            let concat = graph.node.iter_mut().filter(|node| node.op_type == "Concat");
            let concat = concat.max_by_key(|node| node.input.len()).expect("a concatenation");
            concat.input.reverse();
        }),
    ]
}

/// The same for ncnn's int8 convolutions.
#[test]
fn an_int8_ncnn_file_with_one_fault_is_rejected() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let images = image(1, 3, 96, 64);
    let (quantized, weights) = quantize(&graph, &params, &images, &range(-127, 127), 1.0);
    let options = ncnn::Options {
        image: [96, 64],
        precision: ncnn::Precision::Int8,
    };
    let net = ncnn::export(&quantized, &weights, &options).unwrap();
    let check = |net: &Net| ncnn::steps::check(net, &quantized, &weights, &images);
    let (steps, ends) = check(&net).unwrap();
    assert!(steps.quantizers > 20 && steps.equal() > 0.999, "{steps:?}");
    assert!(ends.boxes < 0.05 && ends.scores < 1e-3, "{ends:?}");

    let float = ncnn::export(
        &quantized,
        &weights,
        &ncnn::Options {
            precision: ncnn::Precision::F32,
            ..options
        },
    );
    let int8 = |net: &Net, nth: usize| {
        let runs = |at: &usize| net.layers[*at].int(8, 0) != 0;
        (0..net.layers.len()).filter(runs).nth(nth).expect("an int8 layer")
    };
    let mut mutations = vec![("a float file", float.unwrap())];
    let mut change = |what, nth, change: &dyn Fn(&mut Layer)| {
        let mut net = net.clone();
        let at = int8(&net, nth);
        change(&mut net.layers[at]);
        mutations.push((what, net));
    };
    change(
        "another scale of the input",
        3,
        &|layer| match layer.weights.last_mut() {
            Some(Weight::Plain(scale)) => scale[0] *= 1.03,
            other => panic!("{other:?}"),
        },
    );
    change("one scale of the weights", 5, &|layer| {
        let at = layer.weights.len() - 2;
        match &mut layer.weights[at] {
            Weight::Plain(scale) => scale[1] *= 1.1,
            other => panic!("{other:?}"),
        }
    });
    change("one weight", 7, &|layer| match &mut layer.weights[0] {
        Weight::Int8(values) => values[0] = if values[0] > 0 { -100 } else { 100 },
        other => panic!("{other:?}"),
    });
    change("a bias", 2, &|layer| match &mut layer.weights[1] {
        Weight::Plain(values) => values[0] += 0.5,
        other => panic!("{other:?}"),
    });
    for (what, net) in mutations {
        match check(&net) {
            Err(error) => println!("{what}: {error}"),
            Ok((steps, ends)) => panic!("{what} passes: {steps:?} {ends:?}"),
        }
    }
}

/// Float files are compared end to end; a fault must show there, by more than is allowed.
#[test]
fn a_float_file_with_one_fault_is_rejected() {
    let graph = tiny(3);
    let params = fill(&graph, 2.5);
    let images = image(1, 3, 96, 64);
    // The limits of a first look; what exceeds them is held against the network's own rounding.
    let allowed = |d: onnx::Difference| d.boxes <= 2e-3 && d.scores <= 2e-5 && d.raw <= 2e-4;
    if engine() {
        let options = onnx::Options {
            image: [96, 64],
            ..onnx::Options::default()
        };
        let right = onnx::export(&graph, &params, &options).unwrap().model;
        let check = |file: &ModelProto| {
            let mut session = yolo_export::ort::Session::from_bytes(&file.to_bytes().unwrap(), 1).unwrap();
            onnx::check(&mut session, &graph, &params, &images).unwrap()
        };
        assert!(allowed(check(&right)), "{:?}", check(&right));
        let float = [
            "a bias",
            "a stride",
            "another activation",
            "the order of a concatenation",
        ];
        for (what, change) in faults().into_iter().filter(|(what, _)| float.contains(what)) {
            let mut file = right.clone();
            change(file.graph.as_mut().unwrap());
            assert!(!allowed(check(&file)), "{what}: {:?}", check(&file));
        }
        let mut file = right.clone();
        let weight = file.graph.as_mut().unwrap().initializer.iter_mut();
        let weight = weight.filter(|t| t.name.ends_with(".weight")).nth(5).unwrap();
        let values = weight.f32_values().unwrap();
        weight.raw_data = values.iter().flat_map(|v| (v * 1.01).to_le_bytes()).collect();
        assert!(!allowed(check(&file)), "weights of 1 % more: {:?}", check(&file));
    }
    let options = ncnn::Options {
        image: [96, 64],
        ..ncnn::Options::default()
    };
    let right = ncnn::export(&graph, &params, &options).unwrap();
    let check = |net: &Net| ncnn::check(net, &graph, &params, &images).unwrap();
    assert!(allowed(check(&right)), "{:?}", check(&right));
    let convolutions = (0..right.layers.len()).filter(|at| right.layers[*at].kind == "Convolution");
    let at = convolutions.clone().nth(4).unwrap();
    let mut net = right.clone();
    match &mut net.layers[at].weights[0] {
        Weight::Tagged(values) => values.iter_mut().for_each(|v| *v *= 1.01),
        other => panic!("{other:?}"),
    }
    assert!(!allowed(check(&net)), "weights of 1 % more: {:?}", check(&net));
    let mut net = right.clone();
    match &mut net.layers[at].weights[1] {
        Weight::Plain(values) => values[0] += 0.2,
        other => panic!("{other:?}"),
    }
    assert!(!allowed(check(&net)), "a bias: {:?}", check(&net));
    let mut net = right.clone();
    let swish = net
        .layers
        .iter_mut()
        .filter(|layer| layer.kind == "Swish")
        .nth(3)
        .unwrap();
    swish.kind = "Sigmoid".into();
    assert!(!allowed(check(&net)), "another activation: {:?}", check(&net));
}
